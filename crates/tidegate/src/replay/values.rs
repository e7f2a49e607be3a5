//! Field values as people read them.

use tidegate_engine::env::RouteType;
use tidegate_ir::{Cond, Field, Leaf, Test, ctstate, ctstatus};
use tidegate_wire::Family;

use super::brief::{Flags, IcmpName, ProtoName};
use tidegate_host::address;

/// Most alternatives that are spelled out.
const MOST: usize = 8;

const STATES: [(u128, &str); 5] = [
    (ctstate::INVALID, "INVALID"),
    (ctstate::ESTABLISHED, "ESTABLISHED"),
    (ctstate::RELATED, "RELATED"),
    (ctstate::NEW, "NEW"),
    (ctstate::UNTRACKED, "UNTRACKED"),
];

const STATUS: [(u32, &str); 6] = [
    (ctstatus::EXPECTED, "EXPECTED"),
    (ctstatus::SEEN_REPLY, "SEEN_REPLY"),
    (ctstatus::ASSURED, "ASSURED"),
    (ctstatus::CONFIRMED, "CONFIRMED"),
    (ctstatus::SRC_NAT, "SNAT"),
    (ctstatus::DST_NAT, "DNAT"),
];

const ROUTE_TYPES: [(RouteType, &str); 10] = [
    (RouteType::Unspec, "UNSPEC"),
    (RouteType::Unicast, "UNICAST"),
    (RouteType::Local, "LOCAL"),
    (RouteType::Broadcast, "BROADCAST"),
    (RouteType::Anycast, "ANYCAST"),
    (RouteType::Multicast, "MULTICAST"),
    (RouteType::Blackhole, "BLACKHOLE"),
    (RouteType::Unreachable, "UNREACHABLE"),
    (RouteType::Prohibit, "PROHIBIT"),
    (RouteType::Throw, "THROW"),
];

/// Kinds of values.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Address,
    Protocol,
    Interface,
    Flags,
    Icmp,
    State,
    Status,
    RouteType,
    Mark,
    Number,
}

const fn kind(field: Field) -> Kind {
    match field {
        Field::Src
        | Field::Dst
        | Field::CtOrigSrc
        | Field::CtOrigDst
        | Field::CtReplSrc
        | Field::CtReplDst => Kind::Address,
        Field::Proto | Field::CtProto => Kind::Protocol,
        Field::InName | Field::OutName => Kind::Interface,
        Field::TcpFlags => Kind::Flags,
        Field::IcmpTypeCode => Kind::Icmp,
        Field::CtState => Kind::State,
        Field::CtStatus => Kind::Status,
        Field::SrcType
        | Field::DstType
        | Field::SrcTypeIn
        | Field::DstTypeIn
        | Field::SrcTypeOut
        | Field::DstTypeOut => Kind::RouteType,
        Field::Mark | Field::CtMark | Field::Tos => Kind::Mark,
        _ => Kind::Number,
    }
}

fn width(family: Family) -> u32 {
    match family {
        Family::V4 => 32,
        Family::V6 => 128,
    }
}

/// An interface name from its number.
fn interface(value: u128) -> String {
    let bytes = value.to_be_bytes();
    let name = String::from_utf8_lossy(&bytes);
    match name.trim_end_matches('\0') {
        "" => "none".to_owned(),
        name => name.to_owned(),
    }
}

fn named<K: Copy>(table: &[(K, &str)], holds: impl Fn(K) -> bool) -> Vec<String> {
    let held = table.iter().filter(|row| holds(row.0));
    held.map(|row| row.1.to_owned()).collect()
}

/// One value of a field.
pub(crate) fn value(field: Field, family: Family, v: u128) -> String {
    let joined = |names: Vec<String>| match names.is_empty() {
        true => "none".to_owned(),
        false => names.join(","),
    };
    match kind(field) {
        Kind::Address => address(family, v).to_string(),
        Kind::Protocol => ProtoName(v as u8).to_string(),
        Kind::Interface => interface(v),
        Kind::Flags => Flags(v as u8).to_string(),
        Kind::Icmp => IcmpName(family, (v >> 8) as u8, v as u8).to_string(),
        Kind::State => joined(named(&STATES, |s| s == v)),
        Kind::Status => joined(named(&STATUS, |bit| v & u128::from(bit) != 0)),
        Kind::RouteType => joined(named(&ROUTE_TYPES, |t| t as u128 == v)),
        Kind::Mark => format!("{v:#x}"),
        Kind::Number => v.to_string(),
    }
}

/// An interval of a field's values.
fn interval(field: Field, family: Family, lo: u128, hi: u128) -> String {
    let one = |v| value(field, family, v);
    if lo == hi {
        return one(lo);
    }
    match kind(field) {
        Kind::Address => {
            let size = hi.wrapping_sub(lo).wrapping_add(1);
            let bits = size.trailing_zeros();
            if size.is_power_of_two() && lo & (size - 1) == 0 {
                return format!("{}/{}", one(lo), width(family).saturating_sub(bits));
            }
            format!("{}-{}", one(lo), one(hi))
        }
        Kind::State | Kind::RouteType if hi - lo < MOST as u128 => {
            let all: Vec<String> = (lo..=hi).map(one).collect();
            all.join(" or ")
        }
        Kind::Icmp if lo >> 8 == hi >> 8 && lo & 0xff == 0 && hi & 0xff == 0xff => {
            format!("type {}", lo >> 8)
        }
        Kind::Number => format!("{lo} to {hi}"),
        _ => format!("{} to {}", one(lo), one(hi)),
    }
}

/// What a test wants.
fn wanted(test: &Test, family: Family) -> String {
    let field = test.field();
    if let Some((mask, wanted)) = test.mask() {
        return bits(field, family, mask, wanted);
    }
    let all: Vec<_> = test.intervals().into_iter().flatten().collect();
    let mut texts: Vec<String> = all
        .iter()
        .take(MOST)
        .map(|&(lo, hi)| interval(field, family, lo, hi))
        .collect();
    if all.len() > MOST {
        texts.push(format!("{} more", all.len() - MOST));
    }
    if texts.is_empty() {
        texts.push("nothing".to_owned());
    }
    texts.join(" or ")
}

fn bits(field: Field, family: Family, mask: u128, wanted: u128) -> String {
    match kind(field) {
        Kind::Interface => format!("{}+", interface(wanted).replace("none", "")),
        Kind::Flags => format!("{} set of {}", Flags(wanted as u8), Flags(mask as u8)),
        Kind::Status if wanted == 0 => format!("none of {}", value(field, family, mask)),
        Kind::Status => value(field, family, wanted),
        Kind::Address => format!(
            "{} under mask {}",
            address(family, wanted),
            address(family, mask)
        ),
        _ => format!("{wanted:#x} under mask {mask:#x}"),
    }
}

/// A test that was evaluated.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Tested {
    /// The field, if the test looks at one.
    pub(crate) field: Option<Field>,
    /// Whether it failed to hold, inversion taken in.
    pub(crate) failed: bool,
    inverted: bool,
    seen: String,
    wanted: String,
}

impl Tested {
    /// Writes down a test.
    pub(crate) fn new(leaf: &Leaf<'_>, family: Family) -> Self {
        let test = match leaf.cond {
            Cond::Test(test) => Some(test),
            _ => None,
        };
        let field = test.map(Test::field);
        Tested {
            field,
            failed: leaf.held == leaf.inverted,
            inverted: leaf.inverted,
            seen: match (field, leaf.value) {
                (Some(field), Some(v)) => value(field, family, v),
                _ => "absent".to_owned(),
            },
            wanted: test.map_or_else(String::new, |t| wanted(t, family)),
        }
    }

    /// Why the last tests did not hold: `rest` are tests of the same field that failed
    /// just before this one.
    pub(crate) fn complaint(&self, rest: &[&Tested], steps: &[String]) -> String {
        let Some(field) = self.field else {
            return match steps.is_empty() {
                true => "never matches".to_owned(),
                false => steps.join("; "),
            };
        };
        let mut all: Vec<&str> = rest.iter().map(|t| t.wanted.as_str()).collect();
        all.push(&self.wanted);
        let not = if self.inverted { "anything but " } else { "" };
        format!(
            "{} is {}, wanted {not}{}",
            field.row().name,
            self.seen,
            all.join(" or ")
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tidegate_engine::interface_number;

    fn complaint(cond: &Cond, seen: Option<u128>, inverted: bool) -> String {
        let leaf = Leaf {
            cond,
            value: seen,
            held: inverted,
            inverted,
        };
        Tested::new(&leaf, Family::V4).complaint(&[], &[])
    }

    #[test]
    fn complaints_speak_the_language_of_the_rules() {
        let c = Cond::range(Field::Src, 0x0a00_0000, 0x0a00_00ff);
        assert_eq!(
            complaint(&c, Some(0xc0a8_0001), false),
            "source is 192.168.0.1, wanted 10.0.0.0/24"
        );
        let c = Cond::range(Field::Dport, 1024, 65535);
        assert_eq!(
            complaint(&c, None, false),
            "destination port is absent, wanted 1024 to 65535"
        );
        let c = Cond::bits(Field::TcpFlags, 0x17, 0x02);
        assert_eq!(
            complaint(&c, Some(0x12), false),
            "tcp flags is SYN,ACK, wanted SYN set of SYN,FIN,RST,ACK"
        );
        let c = Cond::eq(Field::InName, interface_number("lo"));
        assert_eq!(
            complaint(&c, Some(interface_number("lo")), true),
            "input interface is lo, wanted anything but lo"
        );
        let c = Cond::bits(Field::OutName, 0x00ff_ffff << 104, 0x0065_7468 << 104);
        assert_eq!(
            complaint(&c, Some(0), false),
            "output interface is none, wanted eth+"
        );
        let c = Cond::range(Field::CtState, 1, 2);
        assert_eq!(
            complaint(&c, Some(3), false),
            "ctstate is NEW, wanted ESTABLISHED or RELATED"
        );
    }
}
