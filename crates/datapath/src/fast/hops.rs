//! Next hops whose Ethernet addresses programs write into frames themselves.

use std::collections::HashMap;

use tidegate_ebpf::layout::{HOP, HOPS, hop};
use tidegate_engine::conntrack::Time;
use tidegate_sys::SharedWords;

use crate::neighbour::{Key, Neighbours};

/// One next hop.
#[derive(Debug)]
struct Hop {
    key: Key,
    /// The address of our interface.
    from: [u8; 6],
    /// Its own, as programs have it.
    to: Option<[u8; 6]>,
}

/// All next hops. Place 0 means none, so that the first is at 1.
#[derive(Debug, Default)]
pub(super) struct Hops {
    all: Vec<Hop>,
    by_key: HashMap<Key, u32>,
}

impl Hops {
    /// The place of a next hop, which is taken if it has none; `None` when all are.
    pub(super) fn place(
        &mut self,
        words: &SharedWords,
        key: Key,
        from: [u8; 6],
        neighbours: &Neighbours,
    ) -> Option<u32> {
        if let Some(place) = self.by_key.get(&key) {
            return Some(*place);
        }
        let place = self.all.len() as u32 + 1;
        if place >= HOPS.entries {
            return None;
        }
        let to = neighbours.mac(&key);
        write(words, place, from, to);
        self.all.push(Hop { key, from, to });
        self.by_key.insert(key, place);
        Some(place)
    }

    /// Writes what has changed.
    pub(super) fn follow(&mut self, words: &SharedWords, neighbours: &Neighbours) {
        for (place, hop) in (1..).zip(&mut self.all) {
            let to = neighbours.mac(&hop.key);
            if hop.to != to {
                hop.to = to;
                write(words, place, hop.from, to);
            }
        }
    }

    /// The kernel is told which ones have been in use, so that it goes on checking them.
    pub(super) fn used(&self, words: &SharedWords, neighbours: &mut Neighbours, now: Time) {
        for (place, hop) in (1..).zip(&self.all) {
            let at = place as usize * HOP + hop::USED;
            if words.load(at) != 0 {
                words.store(at, 0);
                neighbours.ask(hop.key, now);
            }
        }
    }

    /// Forgets all: no way refers to one any more.
    pub(super) fn clear(&mut self, words: &SharedWords) {
        for place in 1..=self.all.len() as u32 {
            write(words, place, [0; 6], None);
        }
        self.all.clear();
        self.by_key.clear();
    }
}

/// Programs read the second word first, and go the kernel's way while it is zero.
fn write(words: &SharedWords, place: u32, from: [u8; 6], to: Option<[u8; 6]>) {
    let at = place as usize * HOP;
    words.store(at + 1, 0);
    if let Some(to) = to {
        let [first, second] = hop::words(to, from);
        words.store(at, first);
        words.store(at + 1, second);
    }
}
