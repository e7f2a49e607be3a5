//! The tables of `-m hashlimit` (kernel `struct xt_hashlimit_htable`): a bucket of credit
//! for each key, in 64-bit arithmetic that wraps as the kernel's does.

use std::collections::HashMap;

use tidegate_wire::Family;

use super::limit::{HZ, TICK};
use crate::text;

/// Parts of a second in which a packet's period is counted.
pub(super) const RATE_SCALE: u64 = 1_000_000;

pub(super) const DST: u32 = 1 << 0;
pub(super) const DPORT: u32 = 1 << 1;
pub(super) const SRC: u32 = 1 << 2;
pub(super) const SPORT: u32 = 1 << 3;
pub(super) const BYTE_MODE: u32 = 1 << 5;
pub(super) const MATCH_MODE: u32 = 1 << 6;

const TICKS: u64 = HZ as u64;
/// Credit for each tick: the largest power of two that lets a day fit in 64 bits.
const PER_TICK: u64 = 1 << (u64::MAX / (TICKS * 86_400)).ilog2();
/// The same where bytes are counted: a second fits in 32 bits.
const BYTES_PER_TICK: u64 = 1 << (u32::MAX / HZ).ilog2();
/// Credit of a full bucket of bytes.
const FULL: u64 = BYTES_PER_TICK * TICKS;

/// Buckets of a table on a machine with more than a gigabyte, and entries for each.
const USUAL_SIZE: u64 = 8192;
const PER_BUCKET: u64 = 8;
/// No table has more entries than this, whatever the rules say.
const LIMIT: u64 = 1 << 20;

/// The cost of one packet with that period (`user2credits`).
fn credits(period: u64) -> u64 {
    period.wrapping_mul(TICKS * PER_TICK / RATE_SCALE)
}

/// Bytes a second, for what 16 of them cost.
pub(super) fn bytes_of(cost: u64) -> u64 {
    (u64::from(u32::MAX) / cost.max(1)).saturating_sub(1) << 4
}

/// The cost of 16 bytes in credit (`user2credits_byte`).
fn byte_cost(cost: u64) -> u64 {
    (cost * FULL) >> 32
}

/// Whether a rate can be counted (`hashlimit_mt_check_common`).
pub(super) fn cost_is_sound(avg: u64, burst: u64, bytes: bool) -> bool {
    if bytes {
        return byte_cost(avg) != 0;
    }
    burst != 0 && credits(avg.wrapping_mul(burst)) >= credits(avg)
}

/// What a rule says about its table; the first rule's word counts for the keys.
#[derive(Clone, Copy, Debug)]
pub(super) struct Config {
    pub(super) family: Family,
    pub(super) mode: u32,
    pub(super) avg: u64,
    pub(super) burst: u64,
    /// Seconds.
    pub(super) interval: u64,
    pub(super) size: u64,
    pub(super) max: u64,
    /// Milliseconds.
    pub(super) gc: u64,
    /// Milliseconds.
    pub(super) expire: u64,
    pub(super) masks: (u128, u128),
}

impl Config {
    /// Most entries.
    fn most(&self) -> usize {
        let size = if self.size == 0 {
            USUAL_SIZE
        } else {
            self.size
        };
        let max = if self.max == 0 {
            size * PER_BUCKET
        } else {
            self.max
        };
        max.max(size).min(LIMIT) as usize
    }
}

/// What a bucket is for; parts that the mode leaves out are 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Key {
    pub(super) src: u128,
    pub(super) dst: u128,
    pub(super) sport: u16,
    pub(super) dport: u16,
}

#[derive(Clone, Debug)]
struct Bucket {
    /// Tick from which on it may be collected.
    expires: u64,
    /// Tick up to which credit was given.
    prev: u64,
    kind: Kind,
}

#[derive(Clone, Debug)]
enum Kind {
    /// Credit for packets, or for bytes and how often it may be filled up at once.
    Credit { credit: u64, cap: u64, cost: u64 },
    /// What came in the interval, how much may, and whether the last one had more than
    /// the rate.
    Rate {
        current: u64,
        rate: u64,
        burst: u64,
        interval: u64,
        over: bool,
    },
}

impl Bucket {
    fn new(config: &Config, now: u64) -> Self {
        let bytes = config.mode & BYTE_MODE != 0;
        let kind = if config.mode & MATCH_MODE != 0 {
            let (rate, burst) = if bytes {
                let rate = bytes_of(config.avg);
                (rate, rate.saturating_mul(config.burst.max(1)))
            } else {
                let rate = RATE_SCALE / config.avg.max(1);
                (rate, rate.saturating_add(config.burst))
            };
            Kind::Rate {
                current: 0,
                rate,
                burst,
                interval: config.interval * TICKS,
                over: false,
            }
        } else if bytes {
            Kind::Credit {
                credit: FULL,
                cap: config.burst,
                cost: byte_cost(config.avg),
            }
        } else {
            let full = credits(config.avg.wrapping_mul(config.burst));
            Kind::Credit {
                credit: full,
                cap: full,
                cost: credits(config.avg),
            }
        };
        Bucket {
            expires: 0,
            prev: now,
            kind,
        }
    }

    /// Lets time pass (`rateinfo_recalc`).
    fn advance(&mut self, bytes: bool, now: u64) {
        let delta = now.saturating_sub(self.prev);
        if delta == 0 {
            return;
        }
        match &mut self.kind {
            Kind::Rate {
                current,
                rate,
                interval,
                over,
                ..
            } => {
                if delta < *interval {
                    return;
                }
                *over = current.wrapping_mul(*interval) > delta.wrapping_mul(*rate);
                *current = 0;
            }
            Kind::Credit { credit, cap, .. } => {
                let (gain, full) = if bytes {
                    (BYTES_PER_TICK, FULL)
                } else {
                    (PER_TICK, *cap)
                };
                let before = *credit;
                *credit = before.wrapping_add(delta.wrapping_mul(gain));
                if *credit > full || (bytes && before >= *credit) {
                    *credit = full;
                }
            }
        }
        self.prev = now;
    }

    /// Whether a packet is within the rate; pays for it.
    fn take(&mut self, bytes: bool, len: u32) -> bool {
        match &mut self.kind {
            Kind::Rate {
                current,
                burst,
                over,
                ..
            } => {
                *current += if bytes { len.into() } else { 1 };
                !*over && *current <= *burst
            }
            Kind::Credit { credit, cap, cost } => {
                let mut price = *cost;
                if bytes {
                    price = ((u64::from(len) >> 4) + 1).wrapping_mul(price).min(FULL);
                    if *credit < price && *cap != 0 {
                        *cap -= 1;
                        *credit = FULL;
                    }
                }
                let enough = *credit >= price;
                if enough {
                    *credit -= price;
                }
                enough
            }
        }
    }
}

/// A named table.
#[derive(Clone, Debug)]
pub struct Table {
    pub(super) config: Config,
    buckets: HashMap<Key, Bucket>,
    /// Tick of the first packet: collections are so many intervals later.
    born: Option<u64>,
    swept: u64,
}

impl Table {
    pub(super) fn new(config: Config) -> Self {
        Table {
            config,
            buckets: HashMap::new(),
            born: None,
            swept: 0,
        }
    }

    fn ticks(milliseconds: u64) -> u64 {
        (milliseconds * TICKS).div_ceil(1000)
    }

    /// The tick of the last collection.
    fn last_collection(&mut self, now: u64) -> u64 {
        let born = *self.born.get_or_insert(now);
        let every = Self::ticks(self.config.gc).max(1);
        now - now.saturating_sub(born) % every
    }

    /// Whether a packet is within the rate of its bucket; `None` when there is no room for
    /// one. `rule` is what the asking rule says.
    pub(super) fn packet(&mut self, key: Key, rule: &Config, now: u64, len: u32) -> Option<bool> {
        let now = now / TICK;
        let collected = self.last_collection(now);
        if self
            .buckets
            .get(&key)
            .is_some_and(|b| b.expires <= collected)
        {
            self.buckets.remove(&key);
        }
        let full = self.buckets.len() >= self.config.most();
        let known = self.buckets.contains_key(&key);
        if !known && (full || collected.saturating_sub(self.swept) > 60 * TICKS) {
            self.swept = collected;
            self.buckets.retain(|_, b| b.expires > collected);
            if self.buckets.len() >= self.config.most() {
                return None;
            }
        }
        let bytes = rule.mode & BYTE_MODE != 0;
        let config = self.config;
        let bucket = self
            .buckets
            .entry(key)
            .or_insert_with(|| Bucket::new(&config, now));
        bucket.expires = now + Self::ticks(config.expire);
        bucket.advance(bytes, now);
        Some(bucket.take(bytes, len))
    }

    /// The table as `/proc/net/ipt_hashlimit` shows it, at `now` in nanoseconds.
    #[must_use]
    pub fn text(&self, now: u64) -> String {
        let now = now / TICK;
        let mut lines: Vec<String> = self
            .buckets
            .iter()
            .map(|(k, b)| self.line(k, b, now))
            .collect();
        lines.sort_unstable();
        lines.concat()
    }

    fn line(&self, key: &Key, bucket: &Bucket, now: u64) -> String {
        let addr = |a| text::addr(a, self.config.family);
        let left = bucket.expires as i64 - now as i64;
        let (credit, cap, cost) = match bucket.kind {
            Kind::Credit { credit, cap, cost } => (credit, cap, cost),
            Kind::Rate { current, rate, .. } => (current, rate, 0),
        };
        format!(
            "{} {}:{}->{}:{} {credit} {cap} {cost}\n",
            left / TICKS as i64,
            addr(key.src),
            key.sport,
            addr(key.dst),
            key.dport
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CONFIG: Config = Config {
        family: Family::V4,
        mode: SRC,
        avg: RATE_SCALE / 10,
        burst: 3,
        interval: 0,
        size: 0,
        max: 0,
        gc: 1000,
        expire: 1000,
        masks: (0xffff_ffff, 0xffff_ffff),
    };

    fn key(src: u128) -> Key {
        Key {
            src,
            dst: 0,
            sport: 0,
            dport: 0,
        }
    }

    fn at(table: &mut Table, src: u128, milliseconds: u64, len: u32) -> Option<bool> {
        let config = table.config;
        table.packet(key(src), &config, milliseconds * 1_000_000, len)
    }

    #[test]
    fn each_key_has_its_burst_and_then_the_rate() {
        let mut t = Table::new(CONFIG);
        for src in [1, 2] {
            let hits = [0, 0, 0, 0].map(|ms| at(&mut t, src, ms, 40));
            assert_eq!(hits, [Some(true), Some(true), Some(true), Some(false)]);
        }
        assert_eq!(at(&mut t, 1, 96, 40), Some(false));
        assert_eq!(at(&mut t, 1, 100, 40), Some(true));
        assert_eq!(at(&mut t, 1, 196, 40), Some(false));
    }

    #[test]
    fn idle_buckets_are_collected_and_begin_full() {
        let mut t = Table::new(Config {
            avg: RATE_SCALE * 3600,
            burst: 1,
            ..CONFIG
        });
        assert_eq!(
            [0, 4].map(|ms| at(&mut t, 1, ms, 40)),
            [Some(true), Some(false)]
        );
        // Expired at 1.004 s, collected at 2 s.
        assert_eq!(at(&mut t, 1, 1_900, 40), Some(false));
        assert_eq!(at(&mut t, 1, 4_000, 40), Some(true));
    }

    #[test]
    fn a_full_table_has_no_room() {
        let mut t = Table::new(Config {
            size: 2,
            max: 2,
            ..CONFIG
        });
        assert_eq!(
            [1, 2, 3].map(|s| at(&mut t, s, 0, 40)),
            [Some(true), Some(true), None]
        );
        assert_eq!(at(&mut t, 1, 4, 40), Some(true));
    }

    #[test]
    fn bytes_are_counted_in_sixteens() {
        // 1600 bytes a second: 100 times 16.
        let cost = u64::from(u32::MAX) / 101;
        assert_eq!(bytes_of(cost), 1600);
        let mut t = Table::new(Config {
            mode: SRC | BYTE_MODE,
            avg: cost,
            burst: 0,
            ..CONFIG
        });
        let hits = [0, 0, 0].map(|ms| at(&mut t, 1, ms, 790));
        assert_eq!(hits, [Some(true), Some(true), Some(false)]);
        assert_eq!(at(&mut t, 1, 500, 790), Some(true));
    }

    #[test]
    fn a_rate_that_is_compared_is_judged_by_the_interval_before() {
        let mut t = Table::new(Config {
            mode: SRC | MATCH_MODE,
            avg: RATE_SCALE / 2,
            burst: 1,
            interval: 1,
            expire: 10_000,
            ..CONFIG
        });
        let hits = [0, 0, 0, 0].map(|ms| at(&mut t, 1, ms, 40));
        assert_eq!(hits, [Some(true), Some(true), Some(true), Some(false)]);
        assert_eq!(at(&mut t, 1, 1000, 40), Some(false), "too much before");
        assert_eq!(at(&mut t, 1, 2000, 40), Some(true));
    }
}
