//! What `-m set` and `-j SET` share: packets as sets see them.

use tidegate_ir::{Facts, Field, Shared, StepInput, TableKey};
use tidegate_sets::{Ask, Probe, Sets};
use tidegate_wire::{Family, proto};

/// Kind of the table that holds all sets. Rules name their sets in it.
pub const KIND: &str = "ipset";

/// The table of all sets.
#[must_use]
pub fn table() -> TableKey {
    name("")
}

/// A set by name, as a rule that uses it says.
#[must_use]
pub fn name(set: &str) -> TableKey {
    TableKey {
        kind: KIND,
        name: set.to_owned(),
    }
}

/// All sets; they stay whatever rules name.
pub fn all(shared: &mut Shared) -> Option<&mut Sets> {
    shared.lasting(&table(), Sets::default)
}

/// Sets that rules name, and those that are members of them.
pub(crate) fn reached(named: Vec<TableKey>, shared: &Shared) -> Vec<TableKey> {
    let Some(sets) = shared.get::<Sets>(&table()) else {
        return named;
    };
    let names = named.into_iter().map(|key| key.name);
    let all = sets.with_members(names).into_iter();
    all.map(|set| name(&set)).collect()
}

/// A set that a rule names, and which sides of a packet go into it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Use {
    pub(crate) set: String,
    pub(crate) ask: Ask,
}

impl Use {
    /// Of `name src[,dst...]`.
    pub(crate) fn new(text: &str) -> Self {
        let (set, sides) = text.rsplit_once(' ').unwrap_or((text, ""));
        Use {
            set: set.to_owned(),
            ask: Ask {
                sources: sides.split(',').map(|side| side == "src").collect(),
                ..Ask::default()
            },
        }
    }
}

/// Runs `work` on all sets and the packet.
pub(crate) fn with<R>(
    input: &mut StepInput<'_>,
    (key, family): (&TableKey, Family),
    work: impl FnOnce(&mut Sets, &mut dyn Probe, u32, u64) -> R,
) -> Option<R> {
    let (len, now) = (input.len, input.now);
    let sets = input.shared.get_mut::<Sets>(key)?;
    let mut packet = Packet {
        family,
        facts: &mut *input.facts,
    };
    Some(work(sets, &mut packet, len, now))
}

struct Packet<'a> {
    family: Family,
    facts: &'a mut dyn Facts,
}

impl Packet<'_> {
    fn field(&mut self, field: Field) -> Option<u128> {
        self.facts.load(field)
    }

    /// Whether so many bytes of the transport header are there.
    fn header(&mut self, bytes: u128) -> Option<()> {
        (self.field(Field::L4Len)? >= bytes).then_some(())
    }
}

const fn side(src: bool, one: Field, other: Field) -> Field {
    if src { one } else { other }
}

/// Bytes of the transport header that a protocol's port, or ICMP type and code, needs, and the field
/// that it is; `None` for protocols that have none.
pub(crate) const fn ports(number: u8, src: bool) -> Option<(u128, Field)> {
    let port = side(src, Field::Sport, Field::Dport);
    Some(match number {
        proto::TCP => (20, port),
        proto::SCTP => (12, port),
        proto::UDP | proto::UDPLITE => (8, port),
        proto::ICMP | proto::ICMPV6 => (8, Field::IcmpTypeCode),
        _ => return None,
    })
}

impl Probe for Packet<'_> {
    fn family(&self) -> Family {
        self.family
    }

    fn addr(&mut self, src: bool) -> u128 {
        self.field(side(src, Field::Src, Field::Dst)).unwrap_or(0)
    }

    /// `ip_set_get_ip4_port`, `ip_set_get_ip6_port`.
    fn port(&mut self, src: bool) -> Option<(u8, u16)> {
        let number = self.field(Field::Proto)? as u8;
        let later = self.field(Field::FragOff).is_some_and(|at| at != 0);
        if number == 0 && self.family == Family::V4 || later && self.family == Family::V6 {
            return None;
        }
        let (bytes, field) = match ports(number, src) {
            Some(_) if number == proto::ICMPV6 && later => return Some((number, 0)),
            Some(place) => place,
            None => return Some((number, 0)),
        };
        self.header(bytes)?;
        Some((number, self.field(field)? as u16))
    }

    fn mac(&mut self, src: bool) -> Option<u64> {
        // To whom the frame was addressed is no fact of a packet here.
        src.then(|| self.field(Field::SrcMac))?
            .map(|mac| mac as u64)
    }

    fn iface(&mut self, src: bool) -> u128 {
        self.field(side(src, Field::InName, Field::OutName))
            .unwrap_or(0)
    }

    fn mark(&mut self) -> u32 {
        self.field(Field::Mark).unwrap_or(0) as u32
    }
}
