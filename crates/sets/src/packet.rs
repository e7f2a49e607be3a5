//! Sets as packets meet them (`ip_set_test`, `ip_set_add`, `ip_set_del`).

use tidegate_wire::Family;

use crate::key::{mask, width};
use crate::{Change, Entry, Key, Members, Part, Refused, Set, Sets, SkbInfo, Storage};

/// What a packet has of what keys are made of; `src` says which side is meant.
pub trait Probe {
    /// Family.
    fn family(&self) -> Family;
    /// Address.
    fn addr(&mut self, src: bool) -> u128;
    /// Protocol and port (`ip_set_get_ip4_port`): for ICMP type and code, for protocols
    /// without ports 0; `None` where the packet does not say.
    fn port(&mut self, src: bool) -> Option<(u8, u16)>;
    /// Link-layer address.
    fn mac(&mut self, src: bool) -> Option<u64>;
    /// Name of the input (`src`) or output interface as 16 bytes; 0 where there is none.
    fn iface(&mut self, src: bool) -> u128;
    /// Mark.
    fn mark(&mut self) -> u32;
}

/// A comparison of a counter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Comparison {
    /// Equal.
    Eq(u64),
    /// Not equal.
    Ne(u64),
    /// Less.
    Lt(u64),
    /// Greater.
    Gt(u64),
}

impl Comparison {
    fn holds(self, value: u64) -> bool {
        match self {
            Comparison::Eq(n) => value == n,
            Comparison::Ne(n) => value != n,
            Comparison::Lt(n) => value < n,
            Comparison::Gt(n) => value > n,
        }
    }
}

/// What a rule asks of a set.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ask {
    /// For each part of a member whether the source side is meant.
    pub sources: Vec<bool>,
    /// An exception matches and nothing else does (`--return-nomatch`).
    pub return_nomatch: bool,
    /// Counters are left alone.
    pub keep_counters: bool,
    /// Counters of the sets in a `list:set` are left alone.
    pub keep_inner_counters: bool,
    /// What the packet counter must be.
    pub packets: Option<Comparison>,
    /// What the byte counter must be.
    pub bytes: Option<Comparison>,
}

/// What a packet found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Found {
    /// What it may take from the member.
    pub skb: SkbInfo,
}

/// What is done to a set with the key and the MAC address of a packet.
type Work<'w> = dyn FnMut(&mut Set, Key, Option<u64>) -> Result<(), Refused> + 'w;

/// One test of a packet.
struct Test<'a> {
    ask: &'a Ask,
    keep_counters: bool,
    compare: bool,
    len: u32,
    now: u64,
}

/// A member that matched.
enum Hit {
    Member(SkbInfo),
    Exception,
}

impl Test<'_> {
    /// Counts, and says whether the member matches (`ip_set_match_extensions`).
    fn takes(&self, counters: bool, entry: &mut Entry) -> bool {
        if !counters {
            return true;
        }
        if !self.keep_counters {
            entry.bytes = entry.bytes.wrapping_add(self.len.into());
            entry.packets = entry.packets.wrapping_add(1);
        }
        let holds = |wanted: Option<Comparison>, value| wanted.is_none_or(|c| c.holds(value));
        !self.compare
            || holds(self.ask.packets, entry.packets) && holds(self.ask.bytes, entry.bytes)
    }

    /// The smallest network around the packet that matches.
    fn around(&self, set: &mut Set, key: Key) -> Option<Hit> {
        for key in set.around(key) {
            match set.same(&key, self.now) {
                Some(key) => {
                    let hit = self.hit(set, &key);
                    if hit.is_some() {
                        return hit;
                    }
                }
                None if set.has_stem(&key) => return None,
                None => {}
            }
        }
        None
    }

    fn hit(&self, set: &mut Set, key: &Key) -> Option<Hit> {
        let counters = set.options.counters;
        let entry = set.entry_mut(key, self.now)?;
        if !self.takes(counters, entry) {
            return None;
        }
        Some(match entry.nomatch {
            true => Hit::Exception,
            false => Hit::Member(entry.skb),
        })
    }
}

/// The key of a packet (the `kadt` functions); networks have their whole addresses. `None`
/// where the packet lacks a part.
fn key_of(set: &Set, sources: &[bool], probe: &mut dyn Probe) -> Option<Key> {
    let mut key = Key::default();
    for (i, part) in set.kind.parts.iter().enumerate() {
        let src = *sources.get(i)?;
        let slot = usize::from(i > 0);
        match part {
            Part::Ip | Part::Net => {
                key.addrs[slot] = probe.addr(src);
                key.lengths[slot] = width(probe.family());
            }
            Part::Port => (key.proto, key.port) = probe.port(src)?,
            Part::BarePort => match probe.port(src)? {
                (6 | 17, port) => key.port = port,
                _ => return None,
            },
            // It is not what the member is found by.
            Part::Mac if set.kind.learns_mac() => {}
            Part::Mac => key.other = probe.mac(src).filter(|&mac| mac != 0)?.into(),
            Part::Iface => {
                key.other = probe.iface(src);
                if key.other == 0 {
                    return None;
                }
            }
            Part::Mark => key.other = probe.mark().into(),
            Part::Set => return None,
        }
    }
    set.normal(key).ok()
}

/// The key that a packet adds or takes out: networks are of the longest prefix in use.
fn key_to_change(set: &Set, sources: &[bool], probe: &mut dyn Probe) -> Option<Key> {
    let mut key = key_of(set, sources, probe)?;
    for (i, part) in set.kind.parts.iter().enumerate() {
        let slot = usize::from(i > 0);
        if *part == Part::Net
            && let Some(length) = set.longest(slot)
        {
            key.addrs[slot] &= mask(probe.family(), length);
            key.lengths[slot] = length;
        }
    }
    set.normal(key).ok()
}

impl Sets {
    /// Whether a packet of `len` bytes is in the set, whichever way counters and
    /// exceptions are asked for.
    pub fn test(
        &mut self,
        name: &str,
        ask: &Ask,
        probe: &mut dyn Probe,
        len: u32,
        now: u64,
    ) -> Option<Found> {
        let test = Test {
            ask,
            keep_counters: ask.keep_counters,
            compare: true,
            len,
            now,
        };
        self.try_set(name, &test, probe)
    }

    fn try_set(&mut self, name: &str, test: &Test<'_>, probe: &mut dyn Probe) -> Option<Found> {
        let set = self.get_mut(name).filter(|s| serves(s, test.ask, probe))?;
        if set.kind.storage == Storage::List {
            return self.try_list(name, test, probe);
        }
        let key = key_of(set, &test.ask.sources, probe)?;
        if set.kind.learns_mac() {
            return try_mac(set, &key, test, probe);
        }
        let hit = match set.nets() {
            0 => test.hit(set, &key),
            _ => test.around(set, key),
        };
        let (hit, wanted) = (hit?, test.ask.return_nomatch && set.kind.nomatch);
        match (hit, wanted) {
            (Hit::Member(skb), false) => Some(Found { skb }),
            (Hit::Exception, true) => Some(Found {
                skb: SkbInfo::default(),
            }),
            _ => None,
        }
    }

    /// A `list:set` matches by its first member that does (`list_set_ktest`).
    fn try_list(&mut self, name: &str, test: &Test<'_>, probe: &mut dyn Probe) -> Option<Found> {
        let inner = Test {
            keep_counters: test.keep_counters || test.ask.keep_inner_counters,
            compare: false,
            ..*test
        };
        for i in 0.. {
            let (member, over) = match self.get(name)?.members() {
                Members::List(list) => {
                    list.get(i).map(|(n, e)| (n.clone(), e.is_over(test.now)))?
                }
                Members::Table(_) => return None,
            };
            if over {
                continue;
            }
            let Some(found) = self.try_set(&member, &inner, probe) else {
                continue;
            };
            let set = self.get_mut(name)?;
            let (counters, skbinfo) = (set.options.counters, set.options.skbinfo);
            let entry = set.list_mut()?.get_mut(i)?;
            if test.takes(counters, &mut entry.1) {
                return Some(match skbinfo {
                    true => Found { skb: entry.1.skb },
                    false => found,
                });
            }
        }
        None
    }

    /// Adds what the packet has (`ip_set_add`).
    pub fn add_packet(
        &mut self,
        name: &str,
        ask: &Ask,
        how: (Option<u32>, bool),
        probe: &mut dyn Probe,
        (len, now): (u32, u64),
    ) -> Result<(), Refused> {
        let (timeout, exist) = how;
        let change = Change {
            timeout,
            packets: Some(1),
            bytes: Some(len.into()),
            ..Change::default()
        };
        self.change(name, ask, probe, &mut |set, key, mac| {
            let change = Change {
                mac,
                ..change.clone()
            };
            set.add(key, &change, exist, now)
        })
    }

    /// Takes out what the packet has (`ip_set_del`).
    pub fn del_packet(
        &mut self,
        name: &str,
        ask: &Ask,
        probe: &mut dyn Probe,
        now: u64,
    ) -> Result<(), Refused> {
        self.change(name, ask, probe, &mut |set, key, _| set.del(&key, now))
    }

    fn change(
        &mut self,
        name: &str,
        ask: &Ask,
        probe: &mut dyn Probe,
        work: &mut Work<'_>,
    ) -> Result<(), Refused> {
        let set = self.get_mut(name).ok_or(Refused::NoSet)?;
        if !serves(set, ask, probe) {
            return Err(Refused::Missing);
        }
        if let Members::List(list) = set.members() {
            // The first set that takes it.
            let names: Vec<String> = list.iter().map(|(n, _)| n.clone()).collect();
            let done = names
                .iter()
                .any(|n| self.change(n, ask, probe, work).is_ok());
            return done.then_some(()).ok_or(Refused::Missing);
        }
        let key = key_to_change(set, &ask.sources, probe).ok_or(Refused::Missing)?;
        let mac = match (set.kind.learns_mac(), ask.sources.get(1)) {
            (true, Some(&src)) => Some(probe.mac(src).filter(|&m| m != 0).ok_or(Refused::Missing)?),
            _ => None,
        };
        work(set, key, mac)
    }
}

/// Whether the rule says enough for the set, and the packet's family is the set's.
fn serves(set: &Set, ask: &Ask, probe: &dyn Probe) -> bool {
    ask.sources.len() >= set.kind.parts.len() && set.family.is_none_or(|f| f == probe.family())
}

/// `bitmap:ip,mac`: an address whose MAC address is not known learns it
/// (`bitmap_ipmac_do_test`).
fn try_mac(set: &mut Set, key: &Key, test: &Test<'_>, probe: &mut dyn Probe) -> Option<Found> {
    let mac = probe.mac(*test.ask.sources.get(1)?).filter(|&m| m != 0)?;
    let entry = set.entry_mut(key, test.now)?;
    match entry.mac {
        Some(known) if known != mac => return None,
        Some(_) => {}
        None => entry.mac = Some(mac),
    }
    match test.hit(set, key)? {
        Hit::Member(skb) => Some(Found { skb }),
        Hit::Exception => None,
    }
}
