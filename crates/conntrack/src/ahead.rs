//! Packets that come next, so that memory is waited for once for many of them.
//!
//! What a look-up reads lies anywhere in memory, and each step of it tells where the next
//! one is. One packet after the other waits for every step; taken step by step, the
//! packets of a batch wait at the same time. Nothing but time comes of it.

use crate::Conntrack;
use crate::entry::Zone;
use crate::table::split;
use crate::tuple::{Dir, Tuple};
use alloc::vec::Vec;
use core::hint::black_box;
use tidegate_wire::{Family, parse_embedded};

/// Most packets looked at in advance: what the processor's first cache bears.
pub const AHEAD: usize = 32;

/// So few connections are near anyway.
const FEW: u32 = 2048;

/// A packet that has been announced.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Known {
    tuple: Tuple,
    /// Its hash, in no zone.
    hash: u32,
    /// That of its answer, where it is likely to open a connection.
    reply: Option<u32>,
    /// Where its entry is likely to be, as [`split`](crate::table::split) reads it.
    pub(crate) link: u32,
}

/// The packets announced, in their order.
#[derive(Debug, Default)]
pub(crate) struct Ahead {
    known: Vec<Known>,
    /// The one that came last.
    at: usize,
    /// A tuple that came unannounced, and its hash, in no zone.
    pub(crate) last: Option<(Tuple, u32)>,
}

impl Ahead {
    /// What is known of a tuple that has been announced; those before it have been left out.
    #[inline]
    pub(crate) fn known(&mut self, tuple: &Tuple) -> Option<&Known> {
        let rest = self.known.get(self.at..)?;
        self.at += rest.iter().position(|k| k.tuple == *tuple)?;
        self.known.get(self.at)
    }

    /// The hash of `answer`, in no zone, if the packet that came last asks for just that.
    #[inline]
    fn answer(&self, answer: &Tuple) -> Option<u32> {
        let last = self.known.get(self.at)?;
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
        ahead.at = 0;
        ahead.known.clear();
        if *count < FEW {
            return;
        }
        let tuples = packets.take(AHEAD).filter_map(tuple_of);
        ahead.known.extend(tuples.map(|tuple| Known {
            hash: table.hash(&tuple, 0),
            reply: None,
            link: 0,
            tuple,
        }));
        // One step for all of them, then the next one: a step that depends on what it reads is
        // not begun in time by guessing.
        let known = || ahead.known.iter().map(|k| k.hash);
        black_box(known().fold(0, |all, hash| all ^ table.head_of(hash)));
        black_box(known().fold(0, |all, hash| all ^ slab.touch_node(table.head_of(hash))));
        let mut all = 0;
        for known in &mut ahead.known {
            known.link = table.first(slab, known.hash);
            match split(known.link) {
                Some((index, _)) => all ^= slab.touch(index),
                None => known.reply = known.tuple.inverse().map(|t| table.hash(&t, 0)),
            }
        }
        // Where a new connection will be put for its answers.
        let replies = || ahead.known.iter().filter_map(|k| k.reply);
        all ^= replies().fold(0, |all, hash| all ^ table.head_of(hash));
        black_box(replies().fold(all, |all, hash| all ^ slab.touch_node(table.head_of(hash))));
    }

    /// The hash of a packet's tuple in a zone.
    #[inline]
    pub(crate) fn hash_of(&mut self, tuple: &Tuple, zone: Zone) -> u32 {
        let id = zone.id_for(Dir::Original);
        let known = match self.ahead.last {
            _ if id != 0 => None,
            Some((last, hash)) if last == *tuple => Some(hash),
            _ => self.ahead.known(tuple).map(|known| known.hash),
        };
        known.unwrap_or_else(|| self.table.hash(tuple, id))
    }

    /// The hash of a reply tuple in a zone.
    #[inline]
    pub(crate) fn hash_of_reply(&self, tuple: &Tuple, zone: Zone) -> u32 {
        let id = zone.id_for(Dir::Reply);
        let known = self.ahead.answer(tuple).filter(|_| id == 0);
        known.unwrap_or_else(|| self.table.hash(tuple, id))
    }
}

#[inline]
fn tuple_of(packet: &[u8]) -> Option<Tuple> {
    let family = match packet.first()? >> 4 {
        4 => Family::V4,
        6 => Family::V6,
        _ => return None,
    };
    Tuple::from_packet(packet, &parse_embedded(family, packet)?)
}
