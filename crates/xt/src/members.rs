//! What looking into a set comes to, as conditions, while the set stays as it is.

use std::collections::BTreeMap;

use tidegate_ir::{Cond, Field, Ranges};
use tidegate_sets::{Entry, Key, Members, Part, Set, Sets, Storage};
use tidegate_wire::{Family, proto};

use crate::sets::{Use, ports};

/// Members that are looked at at most, but for those that are one address or network and no more:
/// of these the caller says.
const MOST: usize = 4096;

/// A network: its first address, its prefix length, and whether it is no exception.
type Net = (u128, u8, bool);

/// Packets of `family` that `-m set` finds in the set. `None` where the answer is more than what
/// fields of the packet say (MAC addresses, counters, interfaces, exceptions in pairs), where the
/// set is not there, or too large: has more than `most` members that are addresses, or more than
/// [`MOST`] others.
pub(crate) fn cond(sets: &Sets, of: &Use, family: Family, most: usize) -> Option<Cond> {
    let look = Look::new(sets, of, family, most)?;
    look.set(&of.set).map(Cond::shared)
}

/// Whether the answer may be one, as far as that is said without looking at each member.
pub(crate) fn may_be_cond(sets: &Sets, of: &Use, family: Family, most: usize) -> bool {
    Look::new(sets, of, family, most).is_some()
}

/// How many members are to be looked at.
#[derive(Clone, Copy, Default)]
struct Count {
    /// Those that are one address or network and no more.
    addresses: usize,
    others: usize,
}

/// Whether a set's members are one address or network each and no more.
fn has_addresses(set: &Set) -> bool {
    matches!(set.kind.parts, [Part::Ip | Part::Net])
}

impl Count {
    fn of(set: &Set) -> Self {
        let (addresses, others) = match has_addresses(set) {
            true => (set.len(), 0),
            false => (0, set.len()),
        };
        Count { addresses, others }
    }

    fn and(self, other: Count) -> Self {
        Count {
            addresses: self.addresses + other.addresses,
            others: self.others + other.others,
        }
    }
}

struct Look<'a> {
    sets: &'a Sets,
    /// For each part of a member whether the source side is meant.
    sources: &'a [bool],
    family: Family,
}

impl<'a> Look<'a> {
    fn new(sets: &'a Sets, of: &'a Use, family: Family, most: usize) -> Option<Self> {
        let ask = &of.ask;
        if ask.return_nomatch || ask.packets.is_some() || ask.bytes.is_some() {
            return None;
        }
        let look = Look {
            sets,
            sources: &ask.sources,
            family,
        };
        let count = look.members(&of.set)?;
        (count.addresses <= most && count.others <= MOST).then_some(look)
    }

    /// Whether no packet is in the set, whatever it holds.
    fn is_other(&self, set: &Set) -> bool {
        let other = set.family.is_some_and(|f| f != self.family);
        other || self.sources.len() < set.kind.parts.len()
    }

    /// How many members are to be looked at; `None` where they ask for more than fields.
    fn members(&self, name: &str) -> Option<Count> {
        let set = self.sets.get(name)?;
        if self.is_other(set) {
            return Some(Count::default());
        }
        match set.members() {
            Members::List(list) => {
                let mut inner = list.iter().map(|(name, _)| self.members(name));
                inner.try_fold(Count::of(set), |all, one| Some(all.and(one?)))
            }
            Members::Table(_) => {
                let opaque = |p: &Part| matches!(p, Part::Mac | Part::Iface | Part::Set);
                (!set.kind.parts.iter().any(opaque)).then(|| Count::of(set))
            }
        }
    }

    fn set(&self, name: &str) -> Option<Cond> {
        let set = self.sets.get(name)?;
        if self.is_other(set) {
            return Some(Cond::Const(false));
        }
        match set.members() {
            Members::List(list) => {
                let one = |(name, _): &(String, _)| self.set(name);
                let all: Option<Vec<Cond>> = list.iter().map(one).collect();
                all.map(Cond::any)
            }
            Members::Table(table) => {
                if table.values().any(|e| e.nomatch) && set.kind.parts != [Part::Net] {
                    return None;
                }
                let net = |key: &Key, entry: &Entry| (key.addrs[0], key.lengths[0], !entry.nomatch);
                if has_addresses(set) {
                    let nets: Vec<Net> = table.iter().map(|(key, entry)| net(key, entry)).collect();
                    return self.group(set, &Key::default(), &nets);
                }
                // Members that differ in the first address alone are one condition.
                let mut groups: BTreeMap<Key, Vec<Net>> = BTreeMap::new();
                for (key, entry) in table {
                    let mut rest = *key;
                    (rest.addrs[0], rest.lengths[0]) = (0, 0);
                    groups.entry(rest).or_default().push(net(key, entry));
                }
                let one = |(rest, nets): (&Key, &Vec<Net>)| self.group(set, rest, nets);
                let all: Option<Vec<Cond>> = groups.iter().map(one).collect();
                all.map(Cond::any)
            }
        }
    }

    /// Members that are alike but for the first address.
    fn group(&self, set: &Set, rest: &Key, nets: &[Net]) -> Option<Cond> {
        let mut all = Vec::new();
        for (at, part) in set.kind.parts.iter().enumerate() {
            let src = self.sources[at];
            let field = if src { Field::Src } else { Field::Dst };
            match part {
                Part::Ip | Part::Net if at == 0 => {
                    if set.kind.storage == Storage::Bitmap {
                        let (first, last) = set.options.range;
                        all.push(Cond::range(field, first, last));
                    }
                    all.push(addresses(set, 0, field, nets, self.family));
                }
                Part::Ip | Part::Net => {
                    let net = (rest.addrs[1], rest.lengths[1], true);
                    all.push(addresses(set, 1, field, &[net], self.family));
                }
                Part::Port => all.push(self.port(src, rest.proto, rest.port)?),
                Part::BarePort => {
                    let of = |number| self.port(src, number, rest.port);
                    all.push(Cond::any(vec![of(proto::TCP)?, of(proto::UDP)?]));
                }
                Part::Mark => {
                    let mask = set.options.markmask.into();
                    all.push(Cond::bits(Field::Mark, mask, rest.other));
                }
                Part::Mac | Part::Iface | Part::Set => return None,
            }
        }
        Some(Cond::all(all))
    }

    fn port(&self, src: bool, number: u8, port: u16) -> Option<Cond> {
        let own = match number {
            proto::ICMP => self.family == Family::V4,
            proto::ICMPV6 => self.family == Family::V6,
            _ => true,
        };
        let (bytes, field) = ports(number, src).filter(|_| own)?;
        Some(Cond::all(vec![
            Cond::eq(Field::Proto, number.into()),
            Cond::range(Field::L4Len, bytes, u16::MAX.into()),
            Cond::eq(field, port.into()),
        ]))
    }
}

/// Addresses in these networks; of several around an address the smallest counts.
fn addresses(set: &Set, slot: usize, field: Field, nets: &[Net], family: Family) -> Cond {
    let all = match family {
        Family::V4 => u32::MAX.into(),
        Family::V6 => u128::MAX,
    };
    let ends = |&(addr, length, take): &Net| {
        let free = all & !set.bits(slot, length);
        let whole = free & free.wrapping_add(1) == 0;
        whole.then_some((addr, addr | free, take))
    };
    let spans: Option<Vec<_>> = nets.iter().map(ends).collect();
    let Some(mut spans) = spans else {
        // Masks with holes; sets that have them have no exceptions.
        let bits = |n: &Net| Cond::bits(field, set.bits(slot, n.1), n.0);
        return Cond::any(nets.iter().map(bits).collect());
    };
    // Larger ones before those in them.
    spans.sort_unstable_by_key(|s| (s.0, u128::MAX - s.1));
    Cond::within(field, Ranges::new(smallest(&spans)))
}

/// Where the smallest of nested intervals around a value is to be taken.
fn smallest(spans: &[(u128, u128, bool)]) -> Vec<(u128, u128)> {
    let mut out = Vec::new();
    let mut around: Vec<(u128, bool)> = Vec::new();
    // The first value that nothing has been said about; `None` behind the last one.
    let mut at = Some(0u128);
    let mut say = |from: Option<u128>, to: u128, take: bool| {
        out.extend(
            from.filter(|from| take && *from <= to)
                .map(|from| (from, to)),
        );
    };
    for &(lo, hi, take) in spans {
        while let Some(&(end, outer)) = around.last() {
            if end >= lo {
                if lo > 0 {
                    say(at, lo - 1, outer);
                }
                break;
            }
            say(at, end, outer);
            at = end.checked_add(1);
            around.pop();
        }
        at = Some(lo);
        around.push((hi, take));
    }
    while let Some((end, take)) = around.pop() {
        say(at, end, take);
        at = end.checked_add(1);
    }
    out
}

#[cfg(test)]
mod tests {
    use tidegate_ir::{Facts, Shared, StepId, StepInput, Truth, eval};
    use tidegate_sets::{Ask, Change, KINDS, Options};

    use super::*;
    use crate::sets::{self, all, table};

    /// Some fields of a packet.
    #[derive(Debug)]
    struct Fields([(Field, u128); 9]);

    impl Facts for Fields {
        fn load(&mut self, field: Field) -> Option<u128> {
            let value = self.0.iter().find(|f| f.0 == field)?.1;
            let has_ports = matches!(self.0[2].1, 6 | 17 | 132 | 136);
            let is_port = matches!(field, Field::Sport | Field::Dport);
            let is_type = field == Field::IcmpTypeCode;
            let there = !is_port && !is_type || is_port && has_ports || is_type && !has_ports;
            there.then_some(value)
        }
        fn step(&mut self, _: StepId) -> Truth {
            Truth::False
        }
    }

    /// xorshift64*
    struct Random(u64);

    impl Random {
        fn of<T: Copy>(&mut self, list: &[T]) -> T {
            self.0 ^= self.0 >> 12;
            self.0 ^= self.0 << 25;
            self.0 ^= self.0 >> 27;
            list[(self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 40) as usize % list.len()]
        }
    }

    const PROTOCOLS: [u8; 7] = [6, 6, 17, 132, 1, 58, 47];

    fn address(r: &mut Random, family: Family) -> u128 {
        let low = r.of(&[0x0a00_0001u128, 0x0a00_0002, 0x0a00_0103, 0x0a02_0000, 0]);
        match family {
            Family::V4 => low,
            Family::V6 => r.of(&[0x20u128, u128::MAX >> 96]) << 96 | low,
        }
    }

    fn made(r: &mut Random, kind: &'static tidegate_sets::Kind) -> Set {
        let family = match kind.families {
            true => Some(r.of(&[Family::V4, Family::V6])),
            false => kind.inet.then_some(Family::V4),
        };
        let width = if family == Some(Family::V6) { 128 } else { 32 };
        let range = match kind.parts.contains(&Part::BarePort) {
            true => (20, 90),
            false => (0x0a00_0000, 0x0a00_01ff),
        };
        let masked = kind.netmask && r.of(&[true, false, false]);
        let options = Options {
            range,
            netmask: masked.then_some(width - 8),
            bitmask: (!masked && kind.bitmask && r.of(&[true, false])).then_some(0x0f00_00ff),
            markmask: r.of(&[u32::MAX, 0xf]),
            ..Options::default()
        };
        let mut set = Set::new(kind, family, options);
        let of = family.unwrap_or(Family::V4);
        for _ in 0..r.of(&[0, 1, 3, 9]) {
            let mut key = Key::default();
            let mut lengths = [width; 2];
            for (at, part) in kind.parts.iter().enumerate() {
                let slot = usize::from(at > 0);
                match part {
                    Part::Ip | Part::Net => {
                        if *part == Part::Net {
                            lengths[slot] = width - r.of(&[0, 1, 8, 9, 16]);
                        }
                        let cut = !0u128 << (width - lengths[slot]);
                        key.addrs[slot] = address(r, of) & cut;
                        key.lengths[slot] = lengths[slot];
                    }
                    Part::Port => {
                        key.proto = r.of(&PROTOCOLS[..5]);
                        key.port = r.of(&[22, 80, 0x0800]);
                    }
                    Part::BarePort => key.port = r.of(&[22, 80]),
                    Part::Mark => key.other = r.of(&[1, 2, 0x11]),
                    Part::Mac | Part::Iface => key.other = r.of(&[7, 9]),
                    Part::Set => return set,
                }
            }
            let change = Change {
                nomatch: kind.nomatch && r.of(&[true, false, false]),
                ..Change::default()
            };
            if let Ok(key) = set.normal(key) {
                let _ = set.add(key, &change, true, 0);
            }
        }
        set
    }

    fn packet(r: &mut Random, family: Family) -> Fields {
        let (src, dst) = (address(r, family), address(r, family));
        Fields([
            (Field::Src, src),
            (Field::Dst, dst),
            (Field::Proto, r.of(&PROTOCOLS).into()),
            (Field::Sport, r.of(&[22, 80, 443])),
            (Field::Dport, r.of(&[22, 80, 443])),
            (Field::IcmpTypeCode, r.of(&[0x0800, 0x0301])),
            (Field::L4Len, r.of(&[4, 8, 12, 20, 40])),
            (Field::Mark, r.of(&[0, 1, 2, 0x11, 0x21])),
            (Field::FragOff, 0),
        ])
    }

    /// Random sets of all types, and lists of two: what fields say is what looking into them says.
    #[test]
    fn conditions_find_what_looking_into_sets_finds() {
        let (mut settled, mut found) = (0, 0);
        for seed in 1..3000u64 {
            let mut r = Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15));
            let mut shared = Shared::default();
            let sets = all(&mut shared).unwrap();
            for name in ["one", "two"] {
                let kind = &KINDS[r.of(&[0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14])];
                sets.create(name, made(&mut r, kind)).unwrap();
            }
            let list = KINDS.iter().find(|k| k.storage == Storage::List).unwrap();
            sets.create("list", Set::new(list, None, Options::default()))
                .unwrap();
            for name in ["one", "two"] {
                sets.add_set("list", name, None, &Change::default(), false, 0)
                    .unwrap();
            }
            let family = r.of(&[Family::V4, Family::V4, Family::V6]);
            let of = Use {
                set: r.of(&["one", "two", "list"]).to_owned(),
                ask: Ask {
                    sources: vec![r.of(&[true, false]); r.of(&[1, 2, 3])],
                    ..Ask::default()
                },
            };
            let Some(cond) = cond(sets, &of, family, MOST) else {
                continue;
            };
            settled += 1;
            for _ in 0..60 {
                let mut facts = packet(&mut r, family);
                let said = eval(&cond, &mut facts, &mut ()) == Truth::True;
                let name = format!("{seed}: {facts:?} {of:?}");
                let mut input = StepInput {
                    now: 1,
                    random: 0,
                    len: 60,
                    facts: &mut facts,
                    shared: &mut shared,
                    writes: &mut Vec::new(),
                };
                let looked =
                    sets::with(&mut input, (&table(), family), |sets, packet, len, now| {
                        sets.test(&of.set, &of.ask, packet, len, now).is_some()
                    });
                found += u32::from(said);
                assert_eq!(looked, Some(said), "{name} {cond:?}");
            }
        }
        assert!(settled > 800 && found > 5000, "{settled} {found}");
    }

    #[test]
    fn the_smallest_network_around_an_address_counts() {
        let out = smallest(&[
            (0, 99, true),
            (10, 19, false),
            (12, 13, true),
            (200, 255, false),
        ]);
        assert_eq!(out, [(0, 9), (12, 13), (20, 99)]);
        let top = u128::MAX;
        let out = smallest(&[(5, top, true), (top - 1, top, false), (top, top, true)]);
        assert_eq!(out, [(5, top - 2), (top, top)]);
    }
}
