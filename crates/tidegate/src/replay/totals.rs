//! What a replay adds up to: totals, counters, connections.

use std::collections::BTreeMap;
use std::io::{self, Write};

use serde_json::json;
use tidegate_engine::Engine;
use tidegate_engine::conntrack::format::proc_line;
use tidegate_syntax::save;
use tidegate_wire::Family;

use super::advice::Advice;
use super::paint::{Paint, Tone};
use super::rules::{Loaded, Rules};

/// Packets by what became of them.
#[derive(Debug, Default)]
pub(super) struct Totals {
    /// All packets.
    pub(super) packets: u64,
    fates: Tally,
    states: Tally,
    advice: Vec<Given>,
}

/// Kinds of advice that are kept.
const MOST_ADVICE: usize = 100;

/// Advice, once for all packets with the same remedy.
#[derive(Debug)]
struct Given {
    advice: Advice,
    /// The first packet's number.
    first: u64,
    packets: u64,
}

/// How often each of a few words came up.
#[derive(Debug, Default)]
struct Tally(Vec<(&'static str, u64)>);

impl Tally {
    fn count(&mut self, word: &'static str) {
        match self.0.iter_mut().find(|(known, _)| *known == word) {
            Some((_, count)) => *count += 1,
            None => self.0.push((word, 1)),
        }
    }

    fn json(&self) -> serde_json::Value {
        let by_word: BTreeMap<_, _> = self.0.iter().copied().collect();
        json!(by_word)
    }
}

impl Totals {
    /// Counts a packet.
    pub(super) fn count(&mut self, fate: &'static str, state: &'static str) {
        self.packets += 1;
        self.fates.count(fate);
        if state != "-" {
            self.states.count(state);
        }
    }

    /// Something is to be said about packet `number`.
    pub(super) fn advise(&mut self, number: u64, advice: &Advice) {
        let same =
            |g: &&mut Given| g.advice.code == advice.code && g.advice.remedy == advice.remedy;
        if let Some(given) = self.advice.iter_mut().find(same) {
            given.packets += 1;
        } else if self.advice.len() < MOST_ADVICE {
            self.advice.push(Given {
                advice: advice.clone(),
                first: number,
                packets: 1,
            });
        }
    }

    /// Prints all advice.
    pub(super) fn print_advice(&self, out: &mut impl Write, paint: Paint) -> io::Result<()> {
        for given in &self.advice {
            let advice = paint.text(Tone::Doubtful, &given.advice);
            let count = match given.packets {
                1 => String::new(),
                n => format!(" and {} more", n - 1),
            };
            writeln!(out, "\nPacket {}{count}: {advice}", given.first)?;
        }
        Ok(())
    }

    /// The same as a JSON value, if there is any.
    pub(super) fn advice_json(&self) -> Option<serde_json::Value> {
        let one = |g: &Given| json!({"finding": g.advice, "first": g.first, "packets": g.packets});
        let all: Vec<_> = self.advice.iter().map(one).collect();
        (!all.is_empty()).then(|| json!({ "findings": all }))
    }

    /// Prints what `--summary` prints of the packets.
    pub(super) fn print(&self, out: &mut impl Write, span_ns: u64) -> io::Result<()> {
        let seconds = span_ns as f64 / 1e9;
        writeln!(out, "{} packets in {seconds:.3} s of capture", self.packets)?;
        for (tally, indent) in [(&self.fates, "  "), (&self.states, "  ctstate ")] {
            let mut rows = tally.0.clone();
            rows.sort_by_key(|&(word, count)| (std::cmp::Reverse(count), word));
            for (name, count) in rows {
                writeln!(out, "{count:>12} {indent}{name}")?;
            }
        }
        Ok(())
    }

    /// The same as a JSON value.
    pub(super) fn json(&self) -> serde_json::Value {
        json!({
            "packets": self.packets, "verdicts": self.fates.json(), "ctstates": self.states.json(),
        })
    }
}

/// Rule counters as `iptables-save -c` prints them, then the connections as
/// `/proc/net/nf_conntrack` does.
pub(super) fn print(
    out: &mut impl Write,
    rules: &Rules,
    engine: &Engine,
    now: u64,
    paint: Paint,
) -> io::Result<()> {
    for loaded in &rules.0 {
        let title = match loaded.source.family {
            Family::V4 => "IPv4 rules with [packets:bytes]",
            Family::V6 => "IPv6 rules with [packets:bytes]",
        };
        writeln!(out, "\n{}", paint.text(Tone::Strong, title))?;
        let counted = loaded.counted(engine);
        write!(out, "{}", save::plain(&counted))?;
    }
    let lines = connections(engine, now);
    let title = format!("{} connections", lines.len());
    writeln!(out, "\n{}", paint.text(Tone::Strong, title))?;
    for line in lines {
        writeln!(out, "{line}")?;
    }
    Ok(())
}

/// Living connections, in the order of their tuples.
fn connections(engine: &Engine, now: u64) -> Vec<String> {
    let mut lines: Vec<_> = engine
        .conntrack()
        .iter()
        .filter(|(_, e)| !e.expired(now))
        .map(|(_, e)| {
            let t = e.tuples[0];
            let key = (t.family, t.proto, { t.src }, { t.src_id }, { t.dst }, {
                t.dst_id
            });
            (key, proc_line(e, now))
        })
        .collect();
    lines.sort();
    lines.into_iter().map(|l| l.1).collect()
}

/// Counters and connections as JSON values, one a line.
pub(super) fn print_json(
    out: &mut impl Write,
    rules: &Rules,
    engine: &Engine,
    now: u64,
) -> io::Result<()> {
    let counted: Vec<_> = rules.0.iter().flat_map(|l| counters(l, engine)).collect();
    writeln!(out, "{}", json!({ "rules": counted }))?;
    writeln!(
        out,
        "{}",
        json!({ "connections": connections(engine, now) })
    )
}

fn counters(loaded: &Loaded, engine: &Engine) -> Vec<serde_json::Value> {
    let family = loaded.source.family;
    let version = match family {
        Family::V4 => 4,
        Family::V6 => 6,
    };
    let of = |(id, o): (usize, &tidegate_syntax::RuleOrigin)| {
        let c = engine.counter(family, tidegate_ir::RuleId(id as u32));
        json!({
            "ip": version, "table": o.table.name(), "chain": o.chain, "rule": o.number,
            "text": o.text, "packets": c.packets, "bytes": c.bytes,
        })
    };
    loaded.origin.iter().enumerate().map(of).collect()
}
