//! Connections by the source that opened them (the kernel's `nat_bysource`), so that
//! one source keeps one translated address and port.

use crate::slab::Slab;
use crate::table::Table;
use crate::tuple::{Dir, Tuple};
use alloc::vec;
use alloc::vec::Vec;

/// Place of an entry in its chain. Numbers are entry indices plus one, 0 is none.
#[derive(Clone, Copy, Debug, Default)]
struct Link {
    next: u32,
    prev: u32,
    linked: bool,
}

/// Chains of entries with the same hash of source and zone, youngest first.
#[derive(Debug, Default)]
pub(crate) struct BySource {
    /// Allocated with the first entry; without NAT there is none.
    heads: Vec<u32>,
    links: Vec<Link>,
}

impl BySource {
    fn bucket(&self, table: &Table, tuple: &Tuple, zone: u16) -> usize {
        let source = Tuple {
            dst: 0,
            dst_id: 0,
            ..*tuple
        };
        ((u64::from(table.hash(&source, zone)) * self.heads.len() as u64) >> 32) as usize
    }

    fn link(&self, number: u32) -> Option<&Link> {
        self.links.get(number.checked_sub(1)? as usize)
    }

    fn link_mut(&mut self, number: u32) -> Option<&mut Link> {
        self.links.get_mut(number.checked_sub(1)? as usize)
    }

    /// Puts the entry at `index`, opened by the source of `tuple`, first in its chain.
    pub(crate) fn insert(&mut self, table: &Table, index: u32, tuple: &Tuple, zone: u16) {
        if self.heads.is_empty() {
            self.heads = vec![0; table.buckets()];
        }
        if self.links.len() <= index as usize {
            self.links.resize(index as usize + 1, Link::default());
        }
        let bucket = self.bucket(table, tuple, zone);
        let number = index + 1;
        let Some(head) = self.heads.get_mut(bucket) else {
            return;
        };
        let next = core::mem::replace(head, number);
        if let Some(second) = self.link_mut(next) {
            second.prev = number;
        }
        if let Some(link) = self.link_mut(number) {
            *link = Link {
                next,
                prev: 0,
                linked: true,
            };
        }
    }

    /// Takes the entry at `index` out; nothing when it is in no chain.
    pub(crate) fn remove(&mut self, table: &Table, index: u32, tuple: &Tuple, zone: u16) {
        let number = index + 1;
        let Some(link) = self.link_mut(number).filter(|l| l.linked) else {
            return;
        };
        let Link { next, prev, .. } = core::mem::take(link);
        if let Some(after) = self.link_mut(next) {
            after.prev = prev;
        }
        if prev == 0 {
            let bucket = self.bucket(table, tuple, zone);
            if let Some(head) = self.heads.get_mut(bucket) {
                *head = next;
            }
        } else if let Some(before) = self.link_mut(prev) {
            before.next = next;
        }
    }

    /// Reply tuples of the entries opened by the source of `tuple`, youngest first.
    pub(crate) fn replies<'a>(
        &'a self,
        table: &Table,
        slab: &'a Slab,
        tuple: &'a Tuple,
        zone: u16,
    ) -> impl Iterator<Item = &'a Tuple> {
        let bucket = if self.heads.is_empty() {
            0
        } else {
            self.bucket(table, tuple, zone)
        };
        let first = self.heads.get(bucket).copied().unwrap_or(0);
        let mut number = first;
        let chain = core::iter::from_fn(move || {
            let link = self.link(number)?;
            let index = number - 1;
            number = link.next;
            Some(index)
        });
        chain
            .filter_map(|index| slab.at(index))
            .map(|(_, entry)| entry)
            .filter(move |e| {
                let original = e.tuple(Dir::Original);
                same_source(original, tuple) && e.zone.id_for(Dir::Original) == zone
            })
            .map(|entry| entry.tuple(Dir::Reply))
    }
}

fn same_source(a: &Tuple, b: &Tuple) -> bool {
    ({ a.src }, { a.src_id }, a.proto, a.family) == ({ b.src }, { b.src_id }, b.proto, b.family)
}
