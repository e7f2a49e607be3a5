//! Conditions as code.

use tidegate_ir::{Cond as Condition, Field, Test};
use tidegate_wire::{Family, proto};

use super::facts::Facts;
use super::members::MANY;
use super::{Headers, IN_DEVICE, INDEX, IP, L4, LENGTH, NOW, OUT_DEVICE, REST, UPPER, VALUE};
use crate::asm::{Asm, Cond, Label, Op, Reg, Size};
use crate::maps::Map;

const CONSTANT: Reg = Reg::R3;

/// Goes to `yes` or `no`. Only what [`super::reduce`] leaves is in `cond`. Returns how many
/// instructions of it are not on its longest way.
pub(crate) fn branch(
    a: &mut Asm,
    facts: &Facts<'_>,
    cond: &Condition,
    yes: Label,
    no: Label,
) -> usize {
    let mut aside = 0;
    match cond {
        Condition::All(list) => {
            for c in list {
                let next = a.label();
                aside += branch(a, facts, c, next, no);
                a.bind(next);
            }
            a.jump(yes);
        }
        Condition::Any(list) => {
            for c in list {
                let next = a.label();
                aside += branch(a, facts, c, yes, next);
                a.bind(next);
            }
            a.jump(no);
        }
        Condition::Not(c) => aside = branch(a, facts, c, no, yes),
        Condition::Shared(c) => aside = branch(a, facts, c, yes, no),
        Condition::Test(test) => aside = leaf(a, facts, test, yes, no),
        Condition::Const(true) => a.jump(yes),
        Condition::Call(step) => match facts.quiet(*step) {
            Some(place) => quiet(a, facts.headers, place, (yes, no)),
            None => a.jump(no),
        },
        Condition::Const(false) | Condition::DropWhen(_) => a.jump(no),
    }
    aside
}

/// Whether a test of one field is worth a search of its own.
pub(crate) fn is_long(cond: &Condition) -> bool {
    let mut found = false;
    cond.visit(&mut |c| {
        if let Condition::Test(test) = c {
            let intervals = test.intervals();
            found |= intervals.is_some_and(|all| all.count() > FEW);
        }
    });
    found
}

fn leaf(a: &mut Asm, facts: &Facts<'_>, test: &Test, yes: Label, no: Label) -> usize {
    match (test.field(), facts.family()) {
        (Field::InName, _) => {
            interface(a, facts, (test, IN_DEVICE), yes, no);
            0
        }
        (Field::OutName, _) => {
            interface(a, facts, (test, OUT_DEVICE), yes, no);
            0
        }
        (field @ (Field::Src | Field::Dst), Family::V6) => {
            address6(a, facts.headers, field, (UPPER, VALUE));
            wide(a, facts, test, (yes, no))
        }
        (field, family) => {
            let size = value(a, facts.headers, (field, family), no);
            match exact(test, size) {
                Some(wanted) => {
                    a.jump_if32(Cond::Ne, VALUE, wanted, no);
                    a.jump(yes);
                    0
                }
                None => {
                    in_order(a, size);
                    narrow(a, facts, test, (yes, no))
                }
            }
        }
    }
}

/// Goes to `no` while a step matches no packet.
fn quiet(a: &mut Asm, from: Headers, (map, at): (&'static Map, i32), (yes, no): (Label, Label)) {
    use Reg as R;
    a.store(Size::W, R::R10, INDEX, at);
    crate::fast::look_up(a, map, INDEX);
    a.jump_if(Cond::Eq, R::R0, 0, yes);
    a.load(Size::D, CONSTANT, R::R0, 0);
    from.load(a, Size::D, VALUE, NOW);
    a.jump_if(Cond::Lt, VALUE, CONSTANT, no);
    a.jump(yes);
}

/// Names are tested now, the interface by its number.
fn interface(a: &mut Asm, facts: &Facts<'_>, (test, device): (&Test, i16), yes: Label, no: Label) {
    facts.headers.load(a, Size::W, VALUE, device);
    for (index, name) in facts.interfaces {
        if test.holds(*name) {
            a.constant(CONSTANT, u64::from(*index));
            a.jump_if(Cond::Eq, VALUE, CONSTANT, yes);
        }
    }
    a.jump(no);
}

/// Loads a field of at most 64 bits into `VALUE`; goes to `no` when it is not there. Returns how wide it
/// is in the network's order, a single byte where it is in this machine's.
fn value(a: &mut Asm, from: Headers, (field, family): (Field, Family), no: Label) -> Size {
    let (size, at) = match (field, family) {
        (Field::Length, _) => {
            a.mov(VALUE, LENGTH);
            return Size::B;
        }
        (Field::L4Len, _) => {
            a.mov(VALUE, REST);
            return Size::B;
        }
        (Field::Tos, Family::V6) => {
            from.load(a, Size::H, VALUE, IP);
            a.swap(VALUE, 16);
            a.alu(Op::Rsh, VALUE, 4);
            a.alu(Op::And, VALUE, 0xff);
            return Size::B;
        }
        (Field::IcmpTypeCode, _) => {
            icmp_only(a, from, family, no);
            (Size::H, L4)
        }
        (Field::TcpFlags, _) => {
            a.jump_if(Cond::Lt, REST, 14, no);
            (Size::B, L4 + 13)
        }
        (Field::Proto, _) => (Size::B, protocol(family)),
        (Field::Tos, Family::V4) => (Size::B, IP + 1),
        (Field::Ttl, Family::V4) => (Size::B, IP + 8),
        (Field::Ttl, Family::V6) => (Size::B, IP + 7),
        (Field::Sport, _) => (Size::H, L4),
        (Field::Dport, _) => (Size::H, L4 + 2),
        (Field::Src, _) => (Size::W, IP + 12),
        (Field::Dst, _) => (Size::W, IP + 16),
        _ => {
            a.jump(no);
            return Size::B;
        }
    };
    from.load(a, size, VALUE, at);
    size
}

fn in_order(a: &mut Asm, size: Size) {
    match size {
        Size::H => a.swap(VALUE, 16),
        Size::W => a.swap(VALUE, 32),
        Size::B | Size::D => {}
    }
}

/// The only value for which the test holds, as it was loaded: most rules of a long list ask
/// for one, and are passed by with two instructions.
fn exact(test: &Test, size: Size) -> Option<i32> {
    let (value, last) = test.interval()?;
    if value != last {
        return None;
    }
    let value = u32::try_from(value).ok()?;
    Some(match size {
        Size::H => i32::from(u16::try_from(value).ok()?.to_be()),
        Size::W => value.to_be() as i32,
        Size::B | Size::D => value as i32,
    })
}

fn protocol(family: Family) -> i16 {
    match family {
        Family::V4 => IP + 9,
        Family::V6 => IP + 6,
    }
}

/// Other protocols have no such field.
fn icmp_only(a: &mut Asm, from: Headers, family: Family, no: Label) {
    let there = a.label();
    from.load(a, Size::B, VALUE, protocol(family));
    a.jump_if(Cond::Eq, VALUE, i32::from(proto::ICMP), there);
    a.jump_if(Cond::Ne, VALUE, i32::from(proto::ICMPV6), no);
    a.bind(there);
}

/// Loads an address of 128 bits in order: its upper half and its lower.
pub(super) fn address6(a: &mut Asm, from: Headers, field: Field, halves: (Reg, Reg)) {
    let at = if field == Field::Src { IP + 8 } else { IP + 24 };
    for (half, at) in [(halves.0, at), (halves.1, at + 8)] {
        from.load(a, Size::D, half, at);
        a.swap(half, 64);
    }
}

/// Intervals that are looked at in turn; of more, one is searched for.
const FEW: usize = 16;

/// Tests a value of at most 64 bits.
fn narrow(a: &mut Asm, facts: &Facts<'_>, test: &Test, (yes, no): (Label, Label)) -> usize {
    if let Some((mask, wanted)) = test.mask() {
        match u64::try_from(wanted) {
            Ok(wanted) => bits(a, VALUE, (mask as u64, wanted), no),
            Err(_) => a.jump(no),
        }
    }
    let most = u128::from(u64::MAX);
    intervals(
        a,
        facts,
        (test, most),
        (yes, no),
        &|a, around| match around {
            Around::Below(at, below) => compare(a, Cond::Lt, VALUE, at as u64, below),
            Around::In((lo, hi), yes, _) if lo == hi => compare(a, Cond::Eq, VALUE, lo as u64, yes),
            Around::In((lo, hi), yes, no) => {
                if lo > 0 {
                    compare(a, Cond::Lt, VALUE, lo as u64, no);
                }
                match hi < most {
                    true => compare(a, Cond::Le, VALUE, hi as u64, yes),
                    false => a.jump(yes),
                }
            }
        },
    )
}

/// Tests a value of 128 bits.
fn wide(a: &mut Asm, facts: &Facts<'_>, test: &Test, (yes, no): (Label, Label)) -> usize {
    let halves = |v: u128| ((v >> 64) as u64, v as u64);
    if let Some((mask, wanted)) = test.mask() {
        let (mask, wanted) = (halves(mask), halves(wanted));
        bits(a, UPPER, (mask.0, wanted.0), no);
        bits(a, VALUE, (mask.1, wanted.1), no);
    }
    intervals(a, facts, (test, u128::MAX), (yes, no), &|a, around| {
        let reached = a.label();
        match around {
            Around::Below(at, below) => {
                let at = halves(at);
                compare(a, Cond::Lt, UPPER, at.0, below);
                compare(a, Cond::Gt, UPPER, at.0, reached);
                compare(a, Cond::Lt, VALUE, at.1, below);
                a.bind(reached);
            }
            Around::In((lo, hi), yes, no) => {
                let (lo, hi, next) = (halves(lo), halves(hi), a.label());
                compare(a, Cond::Lt, UPPER, lo.0, no);
                compare(a, Cond::Gt, UPPER, lo.0, reached);
                compare(a, Cond::Lt, VALUE, lo.1, no);
                a.bind(reached);
                compare(a, Cond::Lt, UPPER, hi.0, yes);
                compare(a, Cond::Gt, UPPER, hi.0, next);
                compare(a, Cond::Le, VALUE, hi.1, yes);
                a.bind(next);
            }
        }
    })
}

/// A question about a value; where its answer is another, the code goes on.
enum Around {
    /// Goes there with values below this one.
    Below(u128, Label),
    /// Goes to the first label with values of an interval, to the second with those below it if
    /// that is easier than to go on.
    In((u128, u128), Label, Label),
}

/// Goes to `yes` with values of the test's intervals, none of which is above `most`, else to `no`;
/// of very many, if there is a map for them, by a search there. Returns how many instructions are not on the longest way.
fn intervals(
    a: &mut Asm,
    facts: &Facts<'_>,
    (test, most): (&Test, u128),
    (yes, no): (Label, Label),
    ask: &dyn Fn(&mut Asm, Around),
) -> usize {
    let Some(all) = test.intervals() else {
        a.jump(yes);
        return 0;
    };
    let reached = all.filter(|(lo, _)| *lo <= most);
    let all: Vec<(u128, u128)> = reached.map(|(lo, hi)| (lo, hi.min(most))).collect();
    let wide = most > u64::MAX.into();
    if let Some(members) = facts.members.filter(|_| all.len() > MANY) {
        members.search(a, &all, wide, (yes, no));
        return 0;
    }
    let begun = a.len();
    let way = search(a, &all, (yes, no), ask);
    a.len() - begun - way
}

/// Returns how many instructions its longest way has.
fn search(
    a: &mut Asm,
    all: &[(u128, u128)],
    (yes, no): (Label, Label),
    ask: &dyn Fn(&mut Asm, Around),
) -> usize {
    let begun = a.len();
    if all.len() <= FEW {
        for interval in all {
            ask(a, Around::In(*interval, yes, no));
        }
        a.jump(no);
        return a.len() - begun;
    }
    let (lower, upper) = all.split_at(all.len() / 2);
    let below = a.label();
    ask(a, Around::Below(upper[0].0, below));
    let way = a.len() - begun;
    let one = search(a, upper, (yes, no), ask);
    a.bind(below);
    way + one.max(search(a, lower, (yes, no), ask))
}

/// Goes to `no` unless `reg`, of which nothing is left, has the wanted bits.
fn bits(a: &mut Asm, reg: Reg, (mask, wanted): (u64, u64), no: Label) {
    if mask != u64::MAX {
        a.constant(CONSTANT, mask);
        a.alu(Op::And, reg, CONSTANT);
    }
    compare(a, Cond::Ne, reg, wanted, no);
}

/// Goes to `to` when 64 bits compare so.
pub(super) fn compare(a: &mut Asm, cond: Cond, reg: Reg, with: u64, to: Label) {
    match i32::try_from(with) {
        Ok(short) => a.jump_if(cond, reg, short, to),
        Err(_) => {
            a.constant(CONSTANT, with);
            a.jump_if(cond, reg, CONSTANT, to);
        }
    }
}
