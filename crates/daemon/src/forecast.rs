//! How full the table of connections is, how fast it fills, and with what.

use std::collections::HashMap;
use std::collections::VecDeque;
use std::fmt::Write;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::time::{Duration, Instant};

use anyhow::Result;
use serde::Serialize;
use tidegate_engine::conntrack::{Dir, Entry, ProtoState, Status};
use tidegate_wire::Family;

use crate::plane::Plane;

/// The time that a rate is taken over.
const WINDOW: Duration = Duration::from_secs(60);
/// Shortest time between two looks.
const PAUSE: Duration = Duration::from_secs(1);
/// Places of the table looked at in all, and between two packets.
const SAMPLE: u32 = 32_768;
const PIECE: u32 = 512;
/// Networks that are told about.
const TOP: usize = 3;
/// A table so full, in percent, or full so soon, is worth a warning.
const FULL_ENOUGH: f64 = 80.0;
const SOON: f64 = 600.0;

/// How many connections there were, and had been, at a moment.
#[derive(Clone, Copy, Debug)]
struct Look {
    at: Instant,
    count: u32,
    created: u64,
}

/// Looks of the last minute, oldest first.
#[derive(Debug, Default)]
pub(crate) struct History(VecDeque<Look>);

/// How fast connections come, and how fast their number grows, a second.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Rates {
    new: f64,
    growth: f64,
}

impl History {
    /// Remembers a look, unless the last one was a moment ago.
    pub(crate) fn look(&mut self, at: Instant, count: u32, created: u64) {
        let looks = &mut self.0;
        if looks
            .back()
            .is_some_and(|last| at.saturating_duration_since(last.at) < PAUSE)
        {
            return;
        }
        while looks
            .front()
            .is_some_and(|first| at.saturating_duration_since(first.at) > WINDOW)
        {
            looks.pop_front();
        }
        looks.push_back(Look { at, count, created });
    }

    /// The rates between the oldest look and this moment.
    fn rates(&self, now: Look) -> Rates {
        let Some(first) = self.0.front() else {
            return Rates::default();
        };
        let seconds = now.at.saturating_duration_since(first.at).as_secs_f64();
        if seconds < PAUSE.as_secs_f64() {
            return Rates::default();
        }
        Rates {
            new: now.created.saturating_sub(first.created) as f64 / seconds,
            growth: (f64::from(now.count) - f64::from(first.count)) / seconds,
        }
    }
}

/// Connections of a network that nothing assures.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct Source {
    /// The network: /24 of IPv4, /64 of IPv6.
    network: String,
    /// Percent of all connections.
    share: f64,
    /// The state that most of them are in.
    state: &'static str,
}

impl Source {
    fn remedy(&self) -> String {
        let net = &self.network;
        let (tool, option) = match net.contains(':') {
            true => ("ip6tables", "-f ipv6 "),
            false => ("iptables", ""),
        };
        format!("{tool} -t raw -I PREROUTING 1 -s {net} -j DROP && conntrack -D {option}-s {net}")
    }
}

/// The table at a moment, and where it is going.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct Forecast {
    /// Percent of the limit in use; absent without a limit.
    pub(crate) fill: Option<f64>,
    /// New connections a second, over the last minute.
    pub(crate) new_per_second: f64,
    /// By how much their number grows a second.
    pub(crate) growth_per_second: f64,
    /// Seconds until the table is full if that goes on; absent when it does not grow.
    pub(crate) full_in_seconds: Option<f64>,
    /// Percent that are not assured: a full table gives those up first.
    pub(crate) not_assured: f64,
    /// The networks that most unassured ones come from.
    pub(crate) top: Vec<Source>,
    /// `TG030` when somebody should do something.
    pub(crate) code: Option<&'static str>,
    /// A command that keeps and takes out the first of these networks.
    pub(crate) remedy: Option<String>,
}

/// What a sample of the table holds.
#[derive(Debug, Default)]
struct Tally {
    all: u32,
    unassured: u32,
    /// Unassured ones by network and state.
    networks: HashMap<(Family, u128), HashMap<&'static str, u32>>,
}

fn state(entry: &Entry) -> &'static str {
    match &entry.proto {
        ProtoState::Tcp(tcp) => tcp.state.name(),
        ProtoState::Sctp(sctp) => sctp.state.name(),
        _ if entry.status.has(Status::SEEN_REPLY) => "answered",
        _ => "UNREPLIED",
    }
}

fn network(family: Family, addr: u128) -> String {
    match family {
        Family::V4 => format!("{}/24", Ipv4Addr::from_bits(addr as u32)),
        Family::V6 => format!("{}/64", Ipv6Addr::from_bits(addr)),
    }
}

impl Tally {
    fn count(&mut self, entry: &Entry) {
        self.all += 1;
        if entry.status.has(Status::ASSURED) {
            return;
        }
        self.unassured += 1;
        let original = entry.tuple(Dir::Original);
        let host = match original.family {
            Family::V4 => 0xff,
            Family::V6 => u128::from(u64::MAX),
        };
        let states = self.networks.entry((original.family, original.src & !host));
        *states.or_default().entry(state(entry)).or_default() += 1;
    }

    fn top(&self) -> Vec<Source> {
        let mut all: Vec<_> = self.networks.iter().collect();
        let size = |states: &HashMap<&str, u32>| states.values().sum::<u32>();
        all.sort_by_key(|(net, states)| (std::cmp::Reverse(size(states)), net.1));
        let source = |(net, states): (&(Family, u128), &HashMap<&'static str, u32>)| Source {
            network: network(net.0, net.1),
            share: percent(size(states), self.all),
            state: states
                .iter()
                .max_by_key(|(name, n)| (**n, **name))
                .map_or("", |(name, _)| name),
        };
        all.into_iter().take(TOP).map(source).collect()
    }
}

fn percent(part: u32, whole: u32) -> f64 {
    if whole == 0 {
        return 0.0;
    }
    (f64::from(part) * 1000.0 / f64::from(whole)).round() / 10.0
}

/// Looks at a part of the table, spread over all of it, piece by piece.
fn sample(plane: &dyn Plane) -> Result<Tally> {
    let mut tally = Tally::default();
    let mut from = Some(0);
    while let Some(at) = from {
        (tally, from) = plane.with(move |engine, _| {
            let ct = engine.conntrack();
            let stride = ct.places().div_ceil(SAMPLE).max(1);
            let (entries, next) = ct.sample(at, stride, PIECE);
            entries.for_each(|entry| tally.count(entry));
            (tally, next)
        })?;
    }
    Ok(tally)
}

impl Forecast {
    /// The table as it is now.
    ///
    /// # Errors
    /// The datapath has stopped.
    pub(crate) fn make(plane: &dyn Plane, history: &History) -> Result<Forecast> {
        let (count, created, max) = plane.with(|engine, _| {
            let ct = engine.conntrack();
            (ct.count(), ct.stats().created, ct.config().max)
        })?;
        let now = Look {
            at: Instant::now(),
            count,
            created,
        };
        Ok(Forecast::of(now, max, history.rates(now), &sample(plane)?))
    }

    fn of(now: Look, max: u32, rates: Rates, tally: &Tally) -> Forecast {
        let tenths = |n: f64| (n * 10.0).round() / 10.0;
        let room = f64::from(max.saturating_sub(now.count));
        let ends = max != 0 && (rates.growth > 0.0 || room == 0.0);
        let mut forecast = Forecast {
            fill: (max != 0).then(|| percent(now.count, max)),
            new_per_second: tenths(rates.new),
            growth_per_second: tenths(rates.growth),
            full_in_seconds: ends.then(|| {
                if room == 0.0 {
                    0.0
                } else {
                    (room / rates.growth).round()
                }
            }),
            not_assured: percent(tally.unassured, tally.all),
            top: tally.top(),
            code: None,
            remedy: None,
        };
        if forecast.warns() {
            forecast.code = Some("TG030");
            let remedy = forecast.crowds().next().map(Source::remedy);
            forecast.remedy = remedy;
        }
        forecast
    }

    /// The networks with so many connections that they are worth a rule.
    fn crowds(&self) -> impl Iterator<Item = &Source> {
        self.top.iter().filter(|s| s.share >= 10.0)
    }

    /// Whether somebody should do something.
    fn warns(&self) -> bool {
        let soon = self.full_in_seconds.is_some_and(|s| s <= SOON);
        self.fill
            .is_some_and(|fill| fill >= FULL_ENOUGH || fill >= 10.0 && soon)
    }

    /// For people: a line, and a warning if there is one.
    pub(crate) fn text(&self, max: u32) -> String {
        let mut line = String::from("filling     ");
        if let Some(fill) = self.fill {
            let _ = write!(line, "{fill} %, ");
        }
        let (new, unsure) = (self.new_per_second, self.not_assured);
        let _ = writeln!(line, "{new} new a second, {unsure} % not assured");
        if self.code.is_some() {
            line += &self.warning(max);
        }
        line
    }

    fn warning(&self, max: u32) -> String {
        let fill = self.fill.unwrap_or(0.0);
        let when = match self.full_in_seconds {
            Some(0.0) => {
                "is full: what is not assured gives way, or new connections are dropped".to_owned()
            }
            Some(seconds) => format!("{fill} % full, and full in about {}", span(seconds)),
            None => format!("{fill} % full"),
        };
        let mut text = format!("TG030       the table of connections: {when}\n");
        for source in self.crowds() {
            let Source {
                network,
                share,
                state,
            } = source;
            let _ = writeln!(
                text,
                "            {share} % are {state} from {network}, none of them assured"
            );
        }
        if let Some(remedy) = &self.remedy {
            let _ = writeln!(text, "            Do: {remedy}");
        }
        let more = max.saturating_mul(2);
        let _ = write!(
            text,
            "            Or a larger table: tidegate sysctl net.netfilter.nf_conntrack_max={more}"
        );
        if self.growth_per_second > 0.0 {
            let buys = span(f64::from(max) / self.growth_per_second);
            let _ = write!(text, " (alone it buys {buys})");
        }
        text.push('\n');
        text
    }
}

/// A time in the unit that suits it.
fn span(seconds: f64) -> String {
    match seconds {
        s if s < 90.0 => format!("{s:.0} s"),
        s if s < 5400.0 => format!("{:.0} min", s / 60.0),
        s if s < 172_800.0 => format!("{:.0} h", s / 3600.0),
        s => format!("{:.0} days", s / 86_400.0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn look(at: Instant, seconds: u64, count: u32, created: u64) -> Look {
        Look {
            at: at + Duration::from_secs(seconds),
            count,
            created,
        }
    }

    fn tally(all: u32, unassured: &[(u32, &'static str, u32)]) -> Tally {
        let mut tally = Tally {
            all,
            ..Tally::default()
        };
        for (net, state, n) in unassured {
            tally.unassured += n;
            let states = tally.networks.entry((Family::V4, u128::from(*net)));
            states.or_default().insert(state, *n);
        }
        tally
    }

    /// The figures of the everyday case: 241,172 of 262,144, and 5,000 more a minute.
    #[test]
    fn a_table_that_fills_is_told_with_its_source_and_what_to_do() {
        let begin = Instant::now();
        let mut history = History::default();
        for n in 0..=20u32 {
            let at = begin + Duration::from_secs(5 * u64::from(n));
            history.look(at, 232_839 + 417 * n, u64::from(1000 * n));
        }
        let now = look(begin, 100, 241_179, 20_000);
        let rates = history.rates(now);
        assert_eq!(rates.new, 200.0);
        assert_eq!((rates.growth * 10.0).round(), 834.0);
        let net = u32::from_be_bytes([198, 51, 100, 0]);
        let tally = tally(
            1000,
            &[(net, "SYN_SENT", 710), (net + 0x100, "UNREPLIED", 20)],
        );
        let forecast = Forecast::of(now, 262_144, rates, &tally);
        assert_eq!(forecast.fill, Some(92.0));
        assert_eq!(forecast.full_in_seconds, Some(251.0));
        assert_eq!(forecast.not_assured, 73.0);
        assert_eq!(forecast.top[0].network, "198.51.100.0/24");
        assert_eq!(
            forecast.text(262_144),
            "\
filling     92 %, 200 new a second, 73 % not assured
TG030       the table of connections: 92 % full, and full in about 4 min
            71 % are SYN_SENT from 198.51.100.0/24, none of them assured
            Do: iptables -t raw -I PREROUTING 1 -s 198.51.100.0/24 -j DROP && conntrack -D -s 198.51.100.0/24
            Or a larger table: tidegate sysctl net.netfilter.nf_conntrack_max=524288 (alone it buys 52 min)
"
        );
    }

    #[test]
    fn a_quiet_table_gives_no_warning() {
        let now = look(Instant::now(), 0, 100, 100);
        let forecast = Forecast::of(now, 262_144, Rates::default(), &tally(100, &[]));
        assert_eq!(forecast.full_in_seconds, None);
        assert!(!forecast.text(262_144).contains("TG030"));
        // Without a limit nothing gets full.
        let rates = Rates {
            new: 9.0,
            growth: 9.0,
        };
        let endless = Forecast::of(now, 0, rates, &tally(100, &[]));
        assert_eq!((endless.fill, endless.full_in_seconds), (None, None));
    }

    #[test]
    fn a_full_table_is_told_even_when_it_does_not_grow() {
        let now = look(Instant::now(), 0, 10, 100);
        let forecast = Forecast::of(
            now,
            10,
            Rates::default(),
            &tally(10, &[(0, "SYN_SENT", 10)]),
        );
        assert_eq!(forecast.full_in_seconds, Some(0.0));
        assert!(forecast.text(10).contains("is full"));
    }

    #[test]
    fn looks_are_a_second_apart_and_of_the_last_minute() {
        let begin = Instant::now();
        let mut history = History::default();
        for tenth in 0..2000 {
            history.look(begin + Duration::from_millis(100 * tenth), 1, 1);
        }
        assert!(history.0.len() <= 62, "{}", history.0.len());
        let first = history.0.front().unwrap().at;
        assert!(first >= begin + Duration::from_secs(138));
    }
}
