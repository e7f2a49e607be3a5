//! One set.

use std::collections::{BTreeMap, HashMap};
use std::iter;

use tidegate_wire::Family;

use crate::key::{mask, width, wildcards};
use crate::{Change, Entry, Key, Kind, Part, SECOND, Storage};

/// What a set was created with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// Buckets it began with; kept for listings.
    pub hash_size: u32,
    /// Most members of a `hash`.
    pub max_members: u32,
    /// Seconds that members stay, 0 for ever; `None` when they have no timeouts.
    pub timeout: Option<u32>,
    /// Members have counters.
    pub counters: bool,
    /// Members have remarks.
    pub comment: bool,
    /// Members have what `--map-set` takes.
    pub skbinfo: bool,
    /// Where the set is full, another member gives way to a new one.
    pub forceadd: bool,
    /// Prefix length that addresses are cut to.
    pub netmask: Option<u8>,
    /// Bits of addresses that count.
    pub bitmask: Option<u128>,
    /// First and last address or port of a `bitmap`.
    pub range: (u128, u128),
    /// Bits of marks that count.
    pub markmask: u32,
    /// Members of a bucket; kept for listings.
    pub bucket_size: u8,
    /// Key of the hash; kept for listings.
    pub initval: u32,
    /// Places of a `list:set`; it grows where more are needed.
    pub size: u32,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            hash_size: 1024,
            max_members: 65536,
            timeout: None,
            counters: false,
            comment: false,
            skbinfo: false,
            forceadd: false,
            netmask: None,
            bitmask: None,
            range: (0, 0),
            markmask: u32::MAX,
            bucket_size: 12,
            initval: 0,
            size: 8,
        }
    }
}

/// Why a set is not changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// The member is there.
    Exists,
    /// The member is not there.
    Missing,
    /// There is no room.
    Full,
    /// The address is 0.
    Null,
    /// The same where ipset only has the kernel's error number.
    Invalid,
    /// Outside of the range of a `bitmap`.
    Range,
    /// A network of everything.
    Prefix,
    /// The set that is to be a member does not exist.
    NoSet,
    /// The set to place it by does not exist.
    NoReference,
    /// The set to place it by is no member.
    NoPlace,
    /// A `list:set` cannot have a `list:set`.
    Loop,
}

/// Members by the way they are kept.
#[derive(Clone, Debug)]
pub enum Members {
    /// Found by key.
    Table(HashMap<Key, Entry>),
    /// In an order, by name.
    List(Vec<(String, Entry)>),
}

/// A set.
#[derive(Clone, Debug)]
pub struct Set {
    /// Its type.
    pub kind: &'static Kind,
    /// Family of its addresses; `None` when it has none.
    pub family: Option<Family>,
    /// What it was created with.
    pub options: Options,
    members: Members,
    /// Prefix lengths in use of each network part, with how many members have them.
    lengths: [BTreeMap<u8, u32>; 2],
    /// Members whose interface name is how names begin.
    wildcards: u32,
    /// Networks that members with interfaces have, with how many.
    stems: HashMap<(u128, u8), u32>,
    /// How often members have come and gone.
    pub(crate) changes: u64,
}

impl Set {
    /// An empty set.
    #[must_use]
    pub fn new(kind: &'static Kind, family: Option<Family>, options: Options) -> Self {
        let members = match kind.storage {
            Storage::Hash | Storage::Bitmap => Members::Table(HashMap::new()),
            Storage::List => Members::List(Vec::new()),
        };
        Set {
            kind,
            family,
            options,
            members,
            lengths: Default::default(),
            wildcards: 0,
            stems: HashMap::new(),
            changes: 0,
        }
    }

    /// Whether another set is of the same type and family, so that the two can be swapped.
    #[must_use]
    pub fn is_like(&self, other: &Set) -> bool {
        self.kind == other.kind && self.family == other.family
    }

    /// Its members.
    #[must_use]
    pub fn members(&self) -> &Members {
        &self.members
    }

    pub(crate) fn list_mut(&mut self) -> Option<&mut Vec<(String, Entry)>> {
        match &mut self.members {
            Members::List(list) => Some(list),
            Members::Table(_) => None,
        }
    }

    /// The entry of exactly this key that is not over.
    #[must_use]
    pub fn entry(&self, key: &Key, now: u64) -> Option<&Entry> {
        match &self.members {
            Members::Table(table) => table.get(key).filter(|e| !e.is_over(now)),
            Members::List(_) => None,
        }
    }

    pub(crate) fn entry_mut(&mut self, key: &Key, now: u64) -> Option<&mut Entry> {
        match &mut self.members {
            Members::Table(table) => table.get_mut(key).filter(|e| !e.is_over(now)),
            Members::List(_) => None,
        }
    }

    /// How many members there are.
    #[must_use]
    pub fn len(&self) -> usize {
        match &self.members {
            Members::Table(table) => table.len(),
            Members::List(list) => list.len(),
        }
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Brings a key to the form under which it is kept: masks are applied.
    ///
    /// # Errors
    /// It cannot be a member of this set.
    pub fn normal(&self, mut key: Key) -> Result<Key, Refused> {
        if self.kind.storage == Storage::Bitmap {
            let value = match self.kind.has(Part::BarePort) {
                true => u128::from(key.port),
                false => key.addrs[0],
            };
            let (first, last) = self.options.range;
            if !(first..=last).contains(&value) {
                return Err(Refused::Range);
            }
        }
        if let Some(cut) = self.cut() {
            key.addrs[0] &= cut;
            if self.nets() == 2 {
                key.addrs[1] &= cut;
            }
        }
        key.other = match self.kind.has(Part::Mark) {
            true => key.other & u128::from(self.options.markmask),
            false => key.other,
        };
        self.possible(&key).map(|()| key)
    }

    fn possible(&self, key: &Key) -> Result<(), Refused> {
        if self.kind.storage != Storage::Hash {
            return Ok(());
        }
        let first = self.kind.parts.first();
        let null = match first {
            Some(Part::Ip) if self.kind.netmask && key.addrs[0] == 0 => {
                return Err(match self.kind.parts.len() {
                    1 => Refused::Null,
                    _ => Refused::Invalid,
                });
            }
            Some(Part::Mac) => key.other == 0,
            _ => false,
        };
        if null {
            return Err(Refused::Null);
        }
        // A network of everything has a place only where an interface tells members apart.
        let all = (0..self.kind.parts.len()).filter(|&i| self.kind.parts[i] == Part::Net);
        let all = all.map(|i| key.lengths[usize::from(i > 0)]);
        let everything_goes = self.kind.has(Part::Iface) || self.nets() == 2;
        match !everything_goes && all.into_iter().any(|length| length == 0) {
            true => Err(Refused::Prefix),
            false => Ok(()),
        }
    }

    /// The bits of the first or second address that tell whether it is a member's, whose prefix
    /// has this length.
    #[must_use]
    pub fn bits(&self, which: usize, length: u8) -> u128 {
        let family = self.family.unwrap_or(Family::V4);
        let own = self.cut().filter(|_| which == 0 || self.nets() == 2);
        mask(family, length) & own.unwrap_or(u128::MAX)
    }

    /// What addresses are cut to, if they are.
    fn cut(&self) -> Option<u128> {
        let family = self.family.unwrap_or(Family::V4);
        let netmask = self.options.netmask.map(|n| mask(family, n));
        netmask.or(self.options.bitmask)
    }

    /// Whether a packet that is looked for in this set is found just when it is in the other one;
    /// counters, remarks and times aside. Of lists the names are compared.
    #[must_use]
    pub fn finds_the_same(&self, other: &Set) -> bool {
        let shape = |s: &Set| {
            let o = &s.options;
            (s.family, s.cut(), o.range, o.markmask, o.counters)
        };
        self.kind == other.kind
            && shape(self) == shape(other)
            && match (&self.members, &other.members) {
                (Members::Table(a), Members::Table(b)) => {
                    let alike = |e: &Entry, f: &Entry| (e.nomatch, e.mac) == (f.nomatch, f.mac);
                    let there = |(k, e): (&Key, &Entry)| b.get(k).is_some_and(|f| alike(e, f));
                    a.len() == b.len() && a.iter().all(there)
                }
                (Members::List(a), Members::List(b)) => {
                    a.iter().map(|m| &m.0).eq(b.iter().map(|m| &m.0))
                }
                _ => false,
            }
    }

    /// How many parts are networks.
    pub(crate) fn nets(&self) -> usize {
        let nets = self.kind.parts.iter().filter(|&&p| p == Part::Net);
        nets.count()
    }

    /// The longest prefix length in use of the first or second address, if it is a
    /// network's and there are members.
    pub(crate) fn longest(&self, which: usize) -> Option<u8> {
        self.lengths[which].keys().next_back().copied()
    }

    /// Whether members have this network with some interface. Then no larger one is looked
    /// at (`IP_SET_HASH_WITH_MULTI`).
    pub(crate) fn has_stem(&self, key: &Key) -> bool {
        self.stems.contains_key(&(key.addrs[0], key.lengths[0]))
    }

    fn has_stems(&self, key: &Key) -> bool {
        self.kind.has(Part::Iface) && !key.physdev
    }

    /// The prefix lengths to try for an address: the longest first.
    pub(crate) fn lengths(&self, which: usize) -> Vec<u8> {
        self.lengths[which].keys().rev().copied().collect()
    }

    /// Which addresses of a key are networks.
    fn net_slots(&self) -> impl Iterator<Item = usize> + use<> {
        let parts = self.kind.parts;
        (0..parts.len())
            .filter(|&i| parts[i] == Part::Net)
            .map(|i| usize::from(i > 0))
    }

    /// Adds a member; with `exist` one that is there is changed.
    ///
    /// # Errors
    /// The set is as it was.
    pub fn add(&mut self, key: Key, change: &Change, exist: bool, now: u64) -> Result<(), Refused> {
        let Members::Table(table) = &mut self.members else {
            return Err(Refused::NoSet);
        };
        let new = entry_of(&self.options, change, now);
        if let Some(old) = table.get_mut(&key) {
            let over = old.is_over(now);
            if !exist && !over {
                // What is known of an address may be completed.
                if !(self.kind.learns_mac() && old.mac.is_none() && new.mac.is_some()) {
                    return Err(Refused::Exists);
                }
            }
            let counted = match over {
                true => (0, 0),
                false => (old.packets, old.bytes),
            };
            *old = Entry {
                packets: change.packets.unwrap_or(counted.0),
                bytes: change.bytes.unwrap_or(counted.1),
                ..new
            };
            self.changes += 1;
            return Ok(());
        }
        if self.kind.storage == Storage::Hash && table.len() >= self.options.max_members as usize {
            self.expire(now);
            self.make_room()?;
        }
        self.insert(key, new);
        Ok(())
    }

    fn make_room(&mut self) -> Result<(), Refused> {
        let Members::Table(table) = &mut self.members else {
            return Ok(());
        };
        if table.len() < self.options.max_members as usize {
            return Ok(());
        }
        // Which one the kernel takes is up to its hash; here it is the least.
        match table
            .keys()
            .min()
            .copied()
            .filter(|_| self.options.forceadd)
        {
            Some(key) => {
                self.remove(&key);
                Ok(())
            }
            None => Err(Refused::Full),
        }
    }

    fn insert(&mut self, key: Key, entry: Entry) {
        self.changes += 1;
        for slot in self.net_slots() {
            *self.lengths[slot].entry(key.lengths[slot]).or_default() += 1;
        }
        self.wildcards += u32::from(key.wildcard);
        if self.has_stems(&key) {
            let stem = (key.addrs[0], key.lengths[0]);
            *self.stems.entry(stem).or_default() += 1;
        }
        if let Members::Table(table) = &mut self.members {
            table.insert(key, entry);
        }
    }

    fn remove(&mut self, key: &Key) -> Option<Entry> {
        let Members::Table(table) = &mut self.members else {
            return None;
        };
        let gone = table.remove(key)?;
        self.changes += 1;
        for slot in self.net_slots() {
            let lengths = &mut self.lengths[slot];
            if let Some(n) = lengths.get_mut(&key.lengths[slot]) {
                *n -= 1;
                if *n == 0 {
                    lengths.remove(&key.lengths[slot]);
                }
            }
        }
        self.wildcards -= u32::from(key.wildcard);
        let stem = (key.addrs[0], key.lengths[0]);
        if self.has_stems(key)
            && let Some(n) = self.stems.get_mut(&stem)
        {
            *n -= 1;
            if *n == 0 {
                self.stems.remove(&stem);
            }
        }
        Some(gone)
    }

    /// Takes a member out.
    ///
    /// # Errors
    /// It is not there.
    pub fn del(&mut self, key: &Key, now: u64) -> Result<(), Refused> {
        let gone = self.remove(key).filter(|e| !e.is_over(now));
        gone.map(|_| ()).ok_or(Refused::Missing)
    }

    /// Takes all members out.
    pub fn flush(&mut self) {
        let changes = self.changes + 1;
        *self = Set::new(self.kind, self.family, self.options.clone());
        self.changes = changes;
    }

    /// Takes out members whose time is up.
    pub fn expire(&mut self, now: u64) {
        if self.options.timeout.is_none() {
            return;
        }
        let over: Vec<Key> = match &mut self.members {
            Members::Table(table) => {
                let over = table.iter().filter(|(_, e)| e.is_over(now));
                over.map(|(key, _)| *key).collect()
            }
            Members::List(list) => {
                list.retain(|(_, e)| !e.is_over(now));
                return;
            }
        };
        for key in over {
            self.remove(&key);
        }
    }

    /// The member that another one would be the same as: one whose name is how the other's
    /// begins counts too.
    #[must_use]
    pub fn same(&self, key: &Key, now: u64) -> Option<Key> {
        let others = (self.wildcards > 0).then(|| wildcards(*key));
        let mut all = iter::once(*key).chain(others.into_iter().flatten());
        all.find(|key| self.entry(key, now).is_some())
    }

    /// The member that `ipset test` finds for a key: itself, or, for a whole address, the
    /// smallest network around it.
    #[must_use]
    pub fn find(&self, key: &Key, now: u64) -> Option<&Entry> {
        let family = self.family.unwrap_or(Family::V4);
        let whole = |slot: usize| key.lengths[slot] == width(family);
        if !self.net_slots().all(whole) || self.nets() == 0 {
            return self.entry(key, now);
        }
        for key in self.around(*key) {
            if let Some(key) = self.same(&key, now) {
                return self.entry(&key, now);
            }
            if self.has_stem(&key) {
                return None;
            }
        }
        None
    }

    /// The keys of all networks around a key of whole addresses, the smallest first, in the
    /// kernel's order (`mtype_test_cidrs`).
    pub(crate) fn around(&self, key: Key) -> Vec<Key> {
        let family = self.family.unwrap_or(Family::V4);
        let mut keys = vec![key];
        for slot in self.net_slots() {
            let lengths = self.lengths(slot);
            let of = |key: Key| {
                let cut = |&length: &u8| {
                    let mut key = key;
                    key.addrs[slot] &= mask(family, length);
                    key.lengths[slot] = length;
                    key
                };
                lengths.iter().map(cut).collect::<Vec<_>>()
            };
            keys = keys.into_iter().flat_map(of).collect();
        }
        keys
    }
}

/// A new entry as a set with these options keeps it.
pub(crate) fn entry_of(options: &Options, change: &Change, now: u64) -> Entry {
    let seconds = options.timeout.map(|own| change.timeout.unwrap_or(own));
    let seconds = seconds.filter(|&s| s != 0);
    Entry {
        expires: seconds.map(|s| now.saturating_add(u64::from(s) * SECOND)),
        packets: change.packets.unwrap_or(0),
        bytes: change.bytes.unwrap_or(0),
        comment: change.comment.clone().filter(|_| options.comment),
        skb: change.skb,
        nomatch: change.nomatch,
        mac: change.mac,
    }
}
