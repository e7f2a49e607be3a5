//! A connection table that fills: how soon it is full, and with whose connections.

use std::collections::{HashMap, VecDeque};
use std::fmt::Write;
use std::net::IpAddr;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use serde::Serialize;
use tidegate_engine::conntrack::entry::{ProtoState, Status as Bits};
use tidegate_engine::conntrack::{Conntrack, Entry};
use tidegate_host::address;
use tidegate_wire::Family;

use crate::locked;

/// From this share of the table on, in percent, it is looked into.
const HIGH: u64 = 80;
/// Connections that are looked at: a millisecond between two packets.
const SAMPLE: usize = 16_384;
/// Counts that are kept for the forecast, and over how long.
const KEPT: usize = 64;
const OVER: Duration = Duration::from_secs(300);

/// How the number of connections went of late.
#[derive(Debug, Default)]
pub(crate) struct Gauge(Mutex<VecDeque<(Instant, u32)>>);

/// A table that is nearly full.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Pressure {
    /// Always the same.
    pub(crate) code: &'static str,
    /// How full, in percent.
    pub(crate) percent: u64,
    /// Seconds until there is no place left, if it goes on like this.
    pub(crate) full_in: Option<u64>,
    /// Who has most of it.
    #[serde(flatten)]
    pub(crate) crowd: Crowd,
}

/// Who has most of a table.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Crowd {
    /// Connections looked at.
    pub(crate) of: usize,
    /// The network with most of them, and how many it has.
    pub(crate) source: String,
    pub(crate) count: usize,
    /// What most of those are, and how many are ASSURED.
    pub(crate) mostly: String,
    pub(crate) assured: usize,
    /// A command that keeps and takes them out.
    pub(crate) remedy: String,
}

impl Gauge {
    /// Takes note of a count.
    pub(crate) fn note(&self, count: u32) {
        let mut kept = locked(&self.0);
        let now = Instant::now();
        let old = |k: &(Instant, u32)| now.duration_since(k.0) > OVER;
        while kept.len() >= KEPT || kept.front().is_some_and(old) {
            kept.pop_front();
        }
        kept.push_back((now, count));
    }

    /// How long until `max` is reached as the counts went.
    fn full_in(&self, max: u32) -> Option<u64> {
        let kept = locked(&self.0);
        let (&(from, first), &(to, last)) = (kept.front()?, kept.back()?);
        let seconds = to.duration_since(from).as_secs_f64();
        let more = f64::from(last.checked_sub(first)?);
        let left = f64::from(max.saturating_sub(last));
        (more > 0.0 && seconds > 0.0).then(|| (left * seconds / more) as u64)
    }

    /// The pressure at `count` of `max`, with whoever was found in the table.
    pub(crate) fn pressure(&self, count: u32, max: u32, crowd: Option<Crowd>) -> Option<Pressure> {
        self.note(count);
        Some(Pressure {
            code: "TG030",
            percent: u64::from(count) * 100 / u64::from(max.max(1)),
            full_in: self.full_in(max),
            crowd: crowd?,
        })
    }
}

/// Who has most of the table, if it is nearly full.
pub(crate) fn crowd(ct: &Conntrack) -> Option<Crowd> {
    let (count, max) = (u64::from(ct.count()), u64::from(ct.config().max));
    if max == 0 || count * 100 < max * HIGH {
        return None;
    }
    let mut by_net: HashMap<(Family, u128), Vec<&Entry>> = HashMap::new();
    let mut of = 0;
    for (_, entry) in ct.iter().take(SAMPLE) {
        let tuple = &entry.tuples[0];
        let net = tuple.src >> bits(tuple.family);
        by_net.entry((tuple.family, net)).or_default().push(entry);
        of += 1;
    }
    let (&(family, net), of_net) = by_net.iter().max_by_key(|(key, all)| (all.len(), *key))?;
    let mut kinds: HashMap<String, usize> = HashMap::new();
    for entry in of_net {
        *kinds.entry(kind(entry)).or_default() += 1;
    }
    let mostly = kinds.into_iter().max_by_key(|(kind, n)| (*n, kind.clone()));
    let addr: IpAddr = address(family, net << bits(family));
    let (tool, option, len) = match family {
        Family::V4 => ("iptables", "", 24),
        Family::V6 => ("ip6tables", "-f ipv6 ", 64),
    };
    let source = format!("{addr}/{len}");
    Some(Crowd {
        of,
        count: of_net.len(),
        mostly: mostly.map(|m| m.0).unwrap_or_default(),
        assured: of_net
            .iter()
            .filter(|e| e.status.has(Bits::ASSURED))
            .count(),
        remedy: format!(
            "{tool} -t raw -I PREROUTING 1 -s {source} -j DROP && conntrack -D {option}-s {source}"
        ),
        source,
    })
}

/// Bits of an address that do not tell networks apart.
const fn bits(family: Family) -> u32 {
    match family {
        Family::V4 => 8,
        Family::V6 => 64,
    }
}

fn kind(entry: &Entry) -> String {
    match &entry.proto {
        ProtoState::Tcp(tcp) => tcp.state.name().to_owned(),
        _ if entry.status.has(Bits::SEEN_REPLY) => format!("protocol {}", entry.tuples[0].proto),
        _ => format!("protocol {} without an answer", entry.tuples[0].proto),
    }
}

impl Pressure {
    /// For people.
    pub(crate) fn text(&self) -> String {
        let mut text = format!("connection table {} % full", self.percent);
        if let Some(seconds) = self.full_in {
            let _ = match seconds {
                0..120 => write!(text, ", no place left in about {seconds} s"),
                _ => write!(text, ", no place left in about {} min", seconds / 60),
            };
        }
        let crowd = &self.crowd;
        let share = crowd.count * 100 / crowd.of.max(1);
        let _ = write!(
            text,
            ": {share} % of {} looked at are from {}, mostly {}, {} of them ASSURED\n            Do: {}",
            crowd.of, crowd.source, crowd.mostly, crowd.assured, crowd.remedy
        );
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_forecast_goes_on_as_it_went() {
        let gauge = Gauge::default();
        let now = Instant::now();
        let ago = |s| now.checked_sub(Duration::from_secs(s)).unwrap();
        *locked(&gauge.0) = VecDeque::from([(ago(20), 100), (ago(10), 300), (now, 500)]);
        // 20 a second, 500 left.
        assert_eq!(gauge.full_in(1000), Some(25));
        *locked(&gauge.0) = VecDeque::from([(ago(20), 500), (now, 400)]);
        assert_eq!(gauge.full_in(1000), None);
    }
}
