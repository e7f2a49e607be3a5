//! Port blocks: every inside host gets its outside ports by the block, so that operators of
//! large translators log a block instead of every connection (RFC 6888 REQ-14, RFC 7422).
//!
//! A block is so many consecutive ports of one outside address, of all protocols. A host
//! gets one with its first connection through the address and another when those that it
//! has are in use; it gives one back with the last connection that has a port of it.

use alloc::collections::{BTreeMap, BTreeSet};
use alloc::vec::Vec;

use super::unique::Space;
use super::unique::{NatRange, Wish, has_id, id_of, with_address};
use super::{Manip, TableSpace};
use crate::entry::{EntryId, Status};
use crate::tuple::{Dir, Tuple};
use crate::{Conntrack, Time};
use tidegate_wire::{Family, proto};

/// The first port that is given away by the block (RFC 4787 REQ-3: well-known ones are not).
const FIRST: u16 = 1024;
/// Bindings of which nobody has been told that are kept; what comes then is counted only.
pub const BINDINGS_MAX: usize = 1 << 16;

/// How ports are given away by the block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BlockSettings {
    /// Ports of a block, at least 1; 0 switches blocks off.
    pub size: u16,
    /// Most blocks that a host has at one outside address.
    pub per_host: u16,
}

impl Default for BlockSettings {
    fn default() -> Self {
        BlockSettings {
            size: 0,
            per_host: 4,
        }
    }
}

/// Which bindings of source translation are told ([`Conntrack::bindings`]).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum BindingLog {
    /// None.
    #[default]
    Nothing,
    /// Blocks.
    Blocks,
    /// Connections.
    Connections,
}

/// An inside host's ports at an outside address: made, or given up. The far end is not
/// told (RFC 6888 REQ-12).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Binding {
    /// When.
    pub at: Time,
    /// Whether it begins or ends.
    pub begins: bool,
    /// Family of the addresses.
    pub family: Family,
    /// Transport protocol; `None` for a block.
    pub proto: Option<u8>,
    /// The inside address, and port or id of a connection.
    pub inside: (u128, Option<u16>),
    /// The outside address.
    pub outside: u128,
    /// First and last port or id there.
    pub ports: (u16, u16),
}

/// An inside host, in its zone.
type Host = (u128, u16);
/// A block: outside address and number.
type Place = (u128, u16);

#[derive(Debug)]
struct Block {
    host: Host,
    /// Connections with a port of it.
    used: u32,
}

/// Blocks that are given away.
#[derive(Debug, Default)]
pub(crate) struct Blocks {
    all: BTreeMap<Place, Block>,
    /// By host and outside address.
    owned: BTreeMap<(Host, u128), Vec<u16>>,
    /// Connections with a port of one.
    holders: BTreeSet<EntryId>,
}

/// Ports of a block of this size.
fn ports(size: u16, number: u16) -> (u16, u16) {
    let first = u32::from(number) * u32::from(size);
    (
        first as u16,
        (first + u32::from(size) - 1).min(65_535) as u16,
    )
}

/// The numbers of the blocks that lie within a range of ports; `None` when none does.
fn numbers(size: u16, range: &NatRange) -> Option<(u16, u16)> {
    let (low, high) = range.ports.unwrap_or((FIRST, u16::MAX));
    let first = low.div_ceil(size);
    let last = ((u32::from(high) + 1) / u32::from(size)).checked_sub(1)? as u16;
    (first <= last).then_some((first, last))
}

impl Conntrack {
    /// Takes the bindings recorded since the last call, and how many were lost because
    /// nobody took those that were there.
    pub fn bindings(&mut self) -> (Vec<Binding>, u64) {
        let lost = core::mem::take(&mut self.bindings_lost);
        (core::mem::take(&mut self.bindings), lost)
    }

    fn tell(&mut self, binding: Binding) {
        if self.bindings.len() < BINDINGS_MAX {
            self.bindings.push(binding);
        } else {
            self.bindings_lost += 1;
        }
    }

    /// Tells of a connection that begins or ends.
    pub(crate) fn tell_connection(&mut self, id: EntryId, begins: bool) {
        if self.config.binding_log != BindingLog::Connections {
            return;
        }
        let Some(entry) = self.slab.get(id).filter(|e| e.status.has(Status::SRC_NAT)) else {
            return;
        };
        let (original, reply) = (entry.tuple(Dir::Original), entry.tuple(Dir::Reply));
        self.tell(Binding {
            at: self.clock,
            begins,
            family: original.family,
            proto: Some(original.proto),
            inside: (original.src, Some(original.src_id)),
            outside: reply.dst,
            ports: (reply.dst_id, reply.dst_id),
        });
    }

    fn tell_block(&mut self, family: Family, host: Host, place: Place, begins: bool) {
        if self.config.binding_log != BindingLog::Blocks {
            return;
        }
        self.tell(Binding {
            at: self.clock,
            begins,
            family,
            proto: None,
            inside: (host.0, None),
            outside: place.0,
            ports: ports(self.config.blocks.size, place.1),
        });
    }

    /// Whether the source of this wish gets its port by the block.
    pub(crate) fn by_block(&self, wish: &Wish<'_>) -> bool {
        wish.manip == Manip::Src
            && self.config.blocks.size > 0
            && has_id(wish.tuple.proto)
            && wish.tuple.proto != proto::GRE
            && !wish.has_master
            && wish.range.addresses.is_some()
            && with_address(wish).src != wish.tuple.src
    }

    /// A free source for the connection `id` out of its host's blocks; `None` when there is
    /// none, nor another block for the host. The outside address follows from the inside
    /// one alone.
    pub(crate) fn source_by_block(&mut self, id: EntryId, wish: &Wish<'_>) -> Option<Tuple> {
        let range = NatRange {
            persistent: true,
            ..*wish.range
        };
        let wish = Wish {
            range: &range,
            ..*wish
        };
        let mut tuple = with_address(&wish);
        let settings = self.config.blocks;
        let host = (wish.tuple.src, wish.zone);
        let outside = tuple.src;
        let (first, last) = numbers(settings.size, &range)?;
        let own = self.blocks.owned.get(&(host, outside));
        let own: Vec<u16> = own.cloned().unwrap_or_default();
        for &number in own.iter().filter(|n| (first..=last).contains(*n)) {
            if self.port_of(id, &mut tuple, ports(settings.size, number)) {
                self.hold(id, (outside, number));
                return Some(tuple);
            }
        }
        if own.len() >= usize::from(settings.per_host) {
            return None;
        }
        let number = self.free_block(outside, first, last)?;
        let place = (outside, number);
        if !self.port_of(id, &mut tuple, ports(settings.size, number)) {
            return None;
        }
        self.give(tuple.family, host, place);
        self.hold(id, place);
        Some(tuple)
    }

    /// A block that nobody has, from a random one on.
    fn free_block(&mut self, outside: u128, first: u16, last: u16) -> Option<u16> {
        let count = u32::from(last - first) + 1;
        let start = self.rng.below(count);
        let mut all = (0..count).map(|n| first + ((start + n) % count) as u16);
        all.find(|&n| !self.blocks.all.contains_key(&(outside, n)))
    }

    /// Gives a tuple a free port of a block: its own if it can be, else from a random one on.
    fn port_of(&mut self, id: EntryId, tuple: &mut Tuple, (low, high): (u16, u16)) -> bool {
        let count = u32::from(high - low) + 1;
        let wanted = *id_of(tuple, Manip::Src);
        let start = match (low..=high).contains(&wanted) {
            true => u32::from(wanted - low),
            false => self.rng.below(count),
        };
        let mut space = TableSpace { ct: self, id };
        (0..count).any(|n| {
            *id_of(tuple, Manip::Src) = low + ((start + n) % count) as u16;
            !space.taken(tuple)
        }) || {
            *id_of(tuple, Manip::Src) = wanted;
            false
        }
    }

    /// Gives a block to a host.
    fn give(&mut self, family: Family, host: Host, place: Place) {
        self.blocks.all.insert(place, Block { host, used: 0 });
        let own = self.blocks.owned.entry((host, place.0)).or_default();
        own.push(place.1);
        self.tell_block(family, host, place, true);
    }

    fn hold(&mut self, id: EntryId, place: Place) {
        if let Some(block) = self.blocks.all.get_mut(&place)
            && self.blocks.holders.insert(id)
        {
            block.used += 1;
        }
    }

    /// A connection with a port of a block ends.
    pub(crate) fn let_go(&mut self, id: EntryId) {
        if self.blocks.holders.is_empty() || !self.blocks.holders.remove(&id) {
            return;
        }
        let Some(entry) = self.slab.get(id) else {
            return;
        };
        let reply = *entry.tuple(Dir::Reply);
        let Some(place) = self.place_of(&reply) else {
            return;
        };
        let Some(block) = self.blocks.all.get_mut(&place) else {
            return;
        };
        block.used = block.used.saturating_sub(1);
        if block.used > 0 {
            return;
        }
        let host = block.host;
        self.blocks.all.remove(&place);
        if let Some(numbers) = self.blocks.owned.get_mut(&(host, place.0)) {
            numbers.retain(|&n| n != place.1);
            if numbers.is_empty() {
                self.blocks.owned.remove(&(host, place.0));
            }
        }
        self.tell_block(reply.family, host, place, false);
    }

    /// The block that the outside port of a reply tuple is in.
    fn place_of(&self, reply: &Tuple) -> Option<Place> {
        let outside = reply.inverse()?;
        let number = (*id_of(&mut { outside }, Manip::Src)).checked_div(self.config.blocks.size)?;
        Some((outside.src, number))
    }

    /// A connection that is put back has its block again, unless another host has it.
    pub(crate) fn hold_again(&mut self, id: EntryId) {
        let Some(entry) = self.slab.get(id).filter(|e| e.status.has(Status::SRC_NAT)) else {
            return;
        };
        let (original, reply) = (*entry.tuple(Dir::Original), *entry.tuple(Dir::Reply));
        let host = (original.src, entry.zone.id);
        let portless = !has_id(original.proto) || original.proto == proto::GRE;
        let Some(place) = self.place_of(&reply).filter(|_| !portless) else {
            return;
        };
        let taken = self.blocks.all.get(&place);
        if taken.is_some_and(|b| b.host != host)
            || ports(self.config.blocks.size, place.1).0 < FIRST
        {
            return;
        }
        if taken.is_none() {
            self.give(original.family, host, place);
        }
        self.hold(id, place);
    }

    /// How many blocks are given away.
    #[must_use]
    pub fn blocks_in_use(&self) -> usize {
        self.blocks.all.len()
    }
}
