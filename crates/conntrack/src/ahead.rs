//! Packets that come next, so that memory is waited for once for many of them.
//!
//! What a look-up reads lies anywhere in memory, and each step of it tells where the next
//! one is. One packet after the other waits for every step; taken step by step, the
//! packets of a batch wait at the same time. Nothing but time comes of it.

use crate::Conntrack;
use crate::entry::Zone;
use crate::slab::Slab;
use crate::table::Table;
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
struct Known {
    tuple: Tuple,
    /// Its hash, in no zone.
    hash: u32,
    /// That of its answer, where it is likely to open a connection.
    reply: Option<u32>,
}

/// The packets announced, in their order.
#[derive(Debug, Default)]
pub(crate) struct Ahead {
    known: Vec<Known>,
    /// The next one that may come.
    at: usize,
}

impl Ahead {
    /// The hash of a tuple that has been announced; those before it have been left out.
    #[inline]
    fn hash(&mut self, tuple: &Tuple) -> Option<u32> {
        let rest = self.known.get(self.at..)?;
        let found = rest.iter().position(|k| k.tuple == *tuple)?;
        self.at += found + 1;
        Some(rest.get(found)?.hash)
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
            tuple,
        }));
        let known = || ahead.known.iter().map(|k| k.hash);
        black_box(known().fold(0, |all, hash| all ^ table.head_of(hash)));
        black_box(known().fold(0, |all, hash| all ^ slab.touch_node(table.head_of(hash))));
        let mut all = 0;
        for known in &mut ahead.known {
            match touch_entry(table, slab, known.hash) {
                Some(some) => all ^= some,
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
        let known = if id == 0 {
            self.ahead.hash(tuple)
        } else {
            None
        };
        known.unwrap_or_else(|| self.table.hash(tuple, id))
    }
}

/// Reads the entry that has this hash, and those before it in their chain, to have them
/// near; `None` when there is no such entry.
fn touch_entry(table: &Table, slab: &Slab, hash: u32) -> Option<u32> {
    let mut chain = table.chain(slab, table.bucket(hash));
    let found = chain.find(|(_, _, node)| node.hash == hash);
    found.map(|(index, ..)| slab.touch(index))
}

fn tuple_of(packet: &[u8]) -> Option<Tuple> {
    let family = match packet.first()? >> 4 {
        4 => Family::V4,
        6 => Family::V6,
        _ => return None,
    };
    Tuple::from_packet(packet, &parse_embedded(family, packet)?)
}
