//! The lists of `-m recent` (kernel `struct recent_table`).

use std::fmt::Write;

use tidegate_wire::Family;

use crate::text;

/// Most addresses of one list (`ip_list_tot`); the one that was not seen for longest
/// gives way.
pub const MOST: usize = 100;
/// Times kept for an address where no rule counts hits.
const STAMPS: usize = 32;

/// What a rule does with a list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ask {
    Set,
    Check,
    Update,
    Remove,
}

/// An address and when it was seen, in ticks of 4 ms.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    family: Family,
    addr: u128,
    ttl: u8,
    /// Where the next time goes.
    index: usize,
    stamps: Vec<u64>,
}

impl Entry {
    /// An address that was just seen.
    pub(super) fn new(family: Family, addr: u128, ttl: u8, now: u64) -> Self {
        Entry {
            family,
            addr,
            ttl,
            index: 1,
            stamps: vec![now],
        }
    }
}

/// A named list.
#[derive(Clone, Debug)]
pub struct List {
    /// Family and mask of the rule that made it; addresses of the other are taken whole.
    mask: (Family, u128),
    /// How many times are kept, a power of two.
    stamps: usize,
    /// The one not seen for longest first.
    entries: Vec<Entry>,
}

impl List {
    /// An empty list whose addresses are kept under `mask`.
    #[must_use]
    pub fn new(family: Family, mask: u128) -> Self {
        List {
            mask: (family, mask),
            stamps: 1,
            entries: Vec::new(),
        }
    }

    /// Makes room for as many times as a rule counts. Where that needs more, the list
    /// begins anew.
    pub(super) fn keep(&mut self, hits: u32) {
        let wanted = match hits {
            0 => STAMPS,
            hits => (hits as usize).next_power_of_two(),
        };
        if wanted > self.stamps {
            self.stamps = wanted;
            self.entries.clear();
        }
    }

    pub(super) fn mask(&self, family: Family) -> u128 {
        if self.mask.0 == family {
            self.mask.1
        } else {
            text::full_mask(family)
        }
    }

    /// The place of an address, seen with that TTL if it is not 0.
    pub(super) fn find(&self, family: Family, addr: u128, ttl: u8) -> Option<usize> {
        self.entries.iter().position(|e| {
            (e.family, e.addr) == (family, addr) && (ttl == 0 || e.ttl == 0 || e.ttl == ttl)
        })
    }

    pub(super) fn add(&mut self, entry: Entry) {
        if self.entries.len() >= MOST {
            self.entries.remove(0);
        }
        self.entries.push(entry);
    }

    pub(super) fn remove(&mut self, at: usize) {
        self.entries.remove(at);
    }

    /// How many times are not before `oldest`, of which `most` are counted.
    pub(super) fn hits(&self, at: usize, oldest: Option<u64>, most: u32) -> u32 {
        let stamps = self.entries.get(at).map_or(&[][..], |e| &e.stamps);
        let recent = stamps.iter().filter(|&&t| oldest.is_none_or(|o| t >= o));
        recent.take(most as usize).count() as u32
    }

    /// Forgets the address not seen for longest, if that was before `oldest`; gives the
    /// new place of the one at `at`. One that is about to be updated stays.
    pub(super) fn reap(&mut self, at: usize, oldest: u64, updates: bool) -> Option<usize> {
        let first = self.entries.first()?;
        let seen = first.stamps.get(first.index.wrapping_sub(1)).copied();
        let old = seen.is_some_and(|t| t < oldest) && !(at == 0 && updates);
        if !old {
            return Some(at);
        }
        self.entries.remove(0);
        at.checked_sub(1)
    }

    /// Notes that the address was seen.
    pub(super) fn touch(&mut self, at: usize, ttl: u8, now: u64) {
        if at >= self.entries.len() {
            return;
        }
        let mut entry = self.entries.remove(at);
        entry.index &= self.stamps - 1;
        match entry.stamps.get_mut(entry.index) {
            Some(stamp) => *stamp = now,
            None => entry.stamps.push(now),
        }
        entry.index += 1;
        entry.ttl = ttl;
        self.entries.push(entry);
    }

    /// The list as `/proc/net/xt_recent` shows it.
    #[must_use]
    pub fn text(&self) -> String {
        let mut out = String::new();
        for e in &self.entries {
            let addr = text::addr(e.addr, e.family);
            let seen = e.stamps.get(e.index.wrapping_sub(1)).copied().unwrap_or(0);
            let _ = write!(
                out,
                "src={addr} ttl: {} last_seen: {seen} oldest_pkt: {}",
                e.ttl, e.index
            );
            for (i, stamp) in e.stamps.iter().enumerate() {
                let _ = write!(out, "{} {stamp}", if i == 0 { "" } else { "," });
            }
            out.push('\n');
        }
        out
    }

    /// Carries out what is written to `/proc/net/xt_recent`: `/` empties the list, `+ADDR`
    /// notes that an address was seen at `now` (nanoseconds), `-ADDR` takes it out. False
    /// for anything else.
    pub fn write(&mut self, order: &str, now: u64) -> bool {
        let order = order.trim();
        if order == "/" {
            self.entries.clear();
            return true;
        }
        let (Some(sign), Some(word)) = (order.chars().next(), order.get(1..)) else {
            return false;
        };
        let families = [Family::V4, Family::V6].into_iter();
        let mut found = families.filter_map(|f| Some((f, text::parse_addr(word, f)?)));
        let Some((family, addr)) = found.next() else {
            return false;
        };
        let now = now / super::limit::TICK;
        match (sign, self.find(family, addr, 0)) {
            ('+', Some(at)) => {
                let ttl = self.entries[at].ttl;
                self.touch(at, ttl, now);
            }
            ('+', None) => self.add(Entry::new(family, addr, 0, now)),
            ('-', Some(at)) => self.remove(at),
            ('-', None) => {}
            _ => return false,
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list() -> List {
        let mut list = List::new(Family::V4, u32::MAX.into());
        list.keep(4);
        list
    }

    #[test]
    fn times_go_round() {
        let mut list = list();
        list.add(Entry::new(Family::V4, 1, 64, 10));
        (11..=15).for_each(|t| list.touch(0, 64, t));
        // Four are kept: 14, 15, 12, 13.
        assert_eq!(
            list.text(),
            "src=0.0.0.1 ttl: 64 last_seen: 15 oldest_pkt: 2 14, 15, 12, 13\n"
        );
        assert_eq!(list.hits(0, Some(13), 3), 3);
        assert_eq!(list.hits(0, Some(13), 4), 3);
        assert_eq!(list.hits(0, None, 5), 4);
    }

    #[test]
    fn the_one_not_seen_for_longest_gives_way() {
        let mut list = list();
        for addr in 0..MOST as u128 {
            list.add(Entry::new(Family::V4, addr, 0, 1));
        }
        list.touch(0, 0, 2);
        list.add(Entry::new(Family::V4, 500, 0, 3));
        assert!(list.find(Family::V4, 0, 0).is_some(), "it was seen again");
        assert_eq!(list.find(Family::V4, 1, 0), None);
        list.keep(5);
        assert_eq!(list.text(), "", "more times than before");
    }

    #[test]
    fn orders_are_those_of_the_kernels_file() {
        let mut list = list();
        assert!(list.write("+10.0.0.1", 8_000_000) && list.write("+fe80::1", 4_000_000));
        assert_eq!(
            list.text(),
            "src=10.0.0.1 ttl: 0 last_seen: 2 oldest_pkt: 1 2\nsrc=fe80::1 ttl: 0 last_seen: 1 oldest_pkt: 1 1\n"
        );
        assert!(list.write("-10.0.0.1\n", 0) && !list.write("10.0.0.1", 0) && !list.write("+x", 0));
        assert!(list.write("/", 0));
        assert_eq!(list.text(), "");
    }
}
