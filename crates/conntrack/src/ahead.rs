//! Packets that come next, so that memory is waited for once for many of them.
//!
//! What a look-up reads lies anywhere in memory, and each step of it tells where the next
//! one is. One packet after the other waits for every step; taken step by step, the
//! packets of a batch wait at the same time. Nothing but time comes of it.

use crate::entry::{Entry, EntryId, Zone};
use crate::slab::Slab;
use crate::table::Table;
use crate::tuple::{Dir, Tuple};
use crate::{Conntrack, Time};
use alloc::vec::Vec;
use core::hint::black_box;
use tidegate_wire::{Family, Layout, checksum, parse, proto};

/// Most packets looked at in advance: what the processor's first cache bears.
pub const AHEAD: usize = 32;

/// So few connections are near anyway.
const FEW: u32 = 2048;

/// A packet of TCP or UDP from its beginning to its ports: an IPv4 header without options (and zeroes
/// at the end), or an IPv6 header without extensions. What its headers say comes of this alone, but
/// for whether the packet is as long as they say.
type Head = [u64; 6];

/// What no such packet begins with.
const OTHER: Head = [0; 6];

/// A packet that has been announced.
#[derive(Clone, Copy, Debug)]
struct Known {
    head: Head,
    tuple: Tuple,
    /// Its hash, in no zone.
    hash: u32,
    /// That of its answer, where it is likely to open a connection.
    reply: Option<u32>,
    /// Where its entry is likely to be, as [`split`](crate::table::split) reads it.
    link: u32,
}

/// The packets announced, in their order.
#[derive(Debug, Default)]
pub(crate) struct Ahead {
    known: Vec<Known>,
    /// How many of them have come, or have been left out.
    came: usize,
    /// A tuple that came unannounced, and its hash, in no zone.
    unannounced: Option<(Tuple, u32)>,
}

impl Ahead {
    /// Notes a packet, if it may belong to a connection.
    #[inline]
    fn announce(&mut self, table: &Table, packet: &[u8]) -> Option<()> {
        // Each way to the end by itself: what two of them hand over waits in memory.
        match plain_ipv4(packet) {
            Some((head, tuple)) => self.note(table, head, tuple),
            None => self.announce_any(table, packet)?,
        }
        Some(())
    }

    fn announce_any(&mut self, table: &Table, packet: &[u8]) -> Option<()> {
        let layout = parse(packet).ok()?;
        let tuple = Tuple::from_packet(packet, &layout)?;
        let head = head(packet).filter(|_| is_plain(&layout));
        self.note(table, head.unwrap_or(OTHER), tuple);
        Some(())
    }

    /// What is known of a packet is written where it stays, for which there is room. A copy would
    /// wait for all the pieces it was written in.
    #[inline]
    fn note(&mut self, table: &Table, head: Head, tuple: Tuple) {
        let hash = table.hash(&tuple, 0);
        if self.known.len() < self.known.capacity() {
            self.known.push(Known {
                head,
                tuple,
                hash,
                reply: None,
                link: 0,
            });
        }
    }

    /// Whether a packet begins as the next one; it has come then.
    #[inline]
    fn is_next(&mut self, pkt: &[u8]) -> bool {
        let next = self.known.get(self.came);
        let same = next.is_some_and(|next| begins(pkt, &next.head));
        self.came += usize::from(same);
        same
    }

    /// What is known of the packet that came last.
    #[inline]
    fn last(&self) -> Option<&Known> {
        self.known.get(self.came.checked_sub(1)?)
    }

    /// What is known of a packet that begins as the last one that came, or one that is still to
    /// come; those before it have been left out.
    #[inline]
    fn known(&mut self, pkt: &[u8]) -> Option<&Known> {
        let from = self.came.saturating_sub(1);
        let rest = self.known.get(from..)?;
        self.came = from + rest.iter().position(|k| begins(pkt, &k.head))? + 1;
        self.known.get(self.came - 1)
    }

    /// The entry of a packet, in no zone, and for which direction, if it is the first one that has the
    /// hash of its tuple; `told`: it is the packet that came last.
    #[inline]
    pub(crate) fn entry_of<'s>(
        &mut self,
        (table, slab): (&Table, &'s mut Slab),
        (pkt, layout): (&[u8], &Layout),
        told: bool,
    ) -> Option<(EntryId, Dir, &'s mut Entry, Time)> {
        let known = if told { self.last() } else { self.known(pkt) };
        if let Some(known) = known {
            return slab.having(known.link, &known.tuple);
        }
        let tuple = Tuple::from_packet(pkt, layout)?;
        let hash = table.hash(&tuple, 0);
        self.unannounced = Some((tuple, hash));
        slab.having(table.first(slab, hash), &tuple)
    }

    /// The hash of `answer`, in no zone, if the packet that came last asks for just that.
    #[inline]
    fn answer(&self, answer: &Tuple) -> Option<u32> {
        let last = self.last()?;
        last.reply
            .filter(|_| last.tuple.inverse().is_some_and(|t| t == *answer))
    }
}

impl Conntrack {
    /// Says which packets come next, in this order: what they need is brought near. At
    /// most [`AHEAD`] are looked at. Whatever comes instead is treated as ever.
    pub fn foresee<'p>(&mut self, packets: impl Iterator<Item = &'p [u8]>) {
        let Conntrack {
            ahead,
            table,
            slab,
            count,
            ..
        } = self;
        ahead.came = 0;
        ahead.known.clear();
        if *count < FEW {
            return;
        }
        ahead.known.reserve(AHEAD);
        for packet in packets.take(AHEAD) {
            ahead.announce(table, packet);
        }
        bring_near(&mut ahead.known, table, slab);
    }

    /// The layout of a packet (`tidegate_wire::parse`), if it is the next one of those announced
    /// and its IPv4 header, without options, has been read then. There is no sum of an IPv6 header to
    /// be saved.
    #[inline]
    pub fn layout_of(&mut self, pkt: &[u8]) -> Option<Layout> {
        if !self.ahead.is_next(pkt) {
            return None;
        }
        let layout = Layout::plain_ipv4(pkt.first_chunk()?)?;
        (layout.len as usize <= pkt.len()).then_some(layout)
    }

    /// The hash of a packet's tuple in a zone.
    #[inline]
    pub(crate) fn hash_of(&mut self, pkt: &[u8], tuple: &Tuple, zone: Zone) -> u32 {
        let id = zone.id_for(Dir::Original);
        if id != 0 {
            return self.table.hash(tuple, id);
        }
        if has_head(tuple.proto)
            && let Some(known) = self.ahead.known(pkt)
        {
            return known.hash;
        }
        let last = self.ahead.unannounced.filter(|(last, _)| last == tuple);
        last.map_or_else(|| self.table.hash(tuple, id), |(_, hash)| hash)
    }

    /// The hash of a reply tuple in a zone.
    #[inline]
    pub(crate) fn hash_of_reply(&self, tuple: &Tuple, zone: Zone) -> u32 {
        let id = zone.id_for(Dir::Reply);
        let known = self.ahead.answer(tuple).filter(|_| id == 0);
        known.unwrap_or_else(|| self.table.hash(tuple, id))
    }
}

/// Reads what look-ups of packets will read, and notes where their entries are.
///
/// One step for all of them, then the next one: a step that depends on what it reads is not begun
/// in time by guessing. And what is to be read first, then nothing but the reading: the shorter a
/// loop, the more of its reads are under way at once.
fn bring_near(packets: &mut [Known], table: &Table, slab: &Slab) {
    let mut slots = [None; AHEAD];
    for known in &mut *packets {
        known.link = table.head_of(known.hash);
    }
    for (slot, known) in slots.iter_mut().zip(&*packets) {
        *slot = slab.linked(known.link);
    }
    let heads = slots.iter().flatten();
    black_box(heads.fold(0, |all, slot| all ^ slot.touch_nodes()));
    for (slot, known) in slots.iter_mut().zip(&mut *packets) {
        if slot.is_some_and(|head| !head.has_hash(known.link, known.hash)) {
            known.link = table.first(slab, known.hash);
            *slot = slab.linked(known.link);
        }
        if slot.is_none() {
            known.reply = known.tuple.inverse().map(|t| table.hash(&t, 0));
        }
    }
    let entries = slots.iter().flatten();
    black_box(entries.fold(0, |all, slot| all ^ slot.touch_entry()));
    // Where a new connection will be put for its answers.
    let replies = || packets.iter().filter_map(|k| k.reply);
    black_box(replies().fold(0, |all, hash| all ^ table.head_of(hash)));
    let heads = replies().filter_map(|hash| slab.linked(table.head_of(hash)));
    black_box(heads.fold(0, |all, slot| all ^ slot.touch_nodes()));
}

/// Reads what is read to take entries out of the table, [`AHEAD`] at most.
pub(crate) fn bring_near_ends(ends: &[u32], table: &Table, slab: &Slab) {
    let mut slots = [None; AHEAD];
    for (slot, index) in slots.iter_mut().zip(ends) {
        *slot = slab.slot(*index);
    }
    let all = || slots.iter().flatten();
    black_box(all().fold(0, |all, slot| all ^ slot.touch_nodes() ^ slot.touch_entry()));
    let hashes = || all().flat_map(|slot| slot.hashes());
    black_box(hashes().fold(0, |all, hash| all ^ table.head_of(hash)));
}

/// The beginning and the tuple of a packet as most are: of TCP or UDP, whole, and over IPv4 without
/// options.
#[inline]
fn plain_ipv4(pkt: &[u8]) -> Option<(Head, Tuple)> {
    let begin: &[u8; 24] = pkt.first_chunk()?;
    let layout = Layout::plain_ipv4(begin.first_chunk()?)?;
    let whole = !layout.is_fragment() && (24..=pkt.len()).contains(&(layout.len as usize));
    if !(whole && has_head(layout.proto) && checksum::is_right_ipv4(&begin[..20])) {
        return None;
    }
    let (src, dst) = (layout.src(begin), layout.dst(begin));
    let tuple = Tuple::from_parts(Family::V4, layout.proto, src, dst, &begin[20..])?;
    Some((head(begin)?, tuple))
}

/// Whether what a packet's headers say comes of its [`Head`].
#[inline]
fn is_plain(layout: &Layout) -> bool {
    let alone = match layout.family {
        Family::V4 => layout.l4 == 20,
        Family::V6 => layout.proto_at == 6,
    };
    alone && has_head(layout.proto)
}

/// Whether packets of a protocol are remembered by their [`Head`].
#[inline]
fn has_head(protocol: u8) -> bool {
    matches!(protocol, proto::TCP | proto::UDP)
}

/// The words that a packet begins with, as far as [`Head`]s go.
#[inline]
fn head(pkt: &[u8]) -> Option<Head> {
    if let Some(0x45) = pkt.first() {
        let [a, b, c] = words4(pkt)?;
        return Some([a, b, c, 0, 0, 0]);
    }
    words6(pkt)
}

/// Whether a packet begins so.
#[inline]
fn begins(pkt: &[u8], head: &Head) -> bool {
    let same = |a: &[u64], b: &[u64]| a.iter().zip(b).fold(0, |all, (a, b)| all | (a ^ b)) == 0;
    match pkt.first() {
        Some(0x45) => words4(pkt).is_some_and(|words| same(&words, &head[..3])),
        _ => words6(pkt).is_some_and(|words| same(&words, head)),
    }
}

#[inline]
fn words4(pkt: &[u8]) -> Option<[u64; 3]> {
    let bytes: &[u8; 24] = pkt.first_chunk()?;
    let [a, b, c] = bytes.as_chunks().0 else {
        return None;
    };
    Some([a, b, c].map(|bytes| u64::from_ne_bytes(*bytes)))
}

fn words6(pkt: &[u8]) -> Option<Head> {
    let bytes: &[u8; 44] = pkt.first_chunk()?;
    let ([a, b, c, d, e], ports) = bytes.as_chunks() else {
        return None;
    };
    let [a, b, c, d, e] = [a, b, c, d, e].map(|bytes| u64::from_ne_bytes(*bytes));
    let ports = u32::from_ne_bytes(*ports.first_chunk()?);
    Some([a, b, c, d, e, ports.into()])
}
