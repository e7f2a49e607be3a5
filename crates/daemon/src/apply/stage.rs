//! Rules on stage: beside those in force, watched and without effect, until they are
//! promoted or discarded.

use std::fmt::Write;
use std::sync::{Arc, Mutex};

use anyhow::{Context, Result, anyhow};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use tidegate_engine::conntrack::Tuple;
use tidegate_engine::{ByRule, Differing, Judged, Otherwise};
use tidegate_syntax::{RuleOrigin, Ruleset, Sockets, lower_knowing};
use tidegate_tools::Printed;
use tidegate_wire::{Family, parse};

use super::packets::ends_of;
use super::trial::Texts;
use crate::rules::{LiveRules, OnStage};
use crate::{files, locked};

/// What to do with rules on stage.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Step {
    /// Put rules there.
    Put,
    /// Say what they would have done.
    Show,
    /// Put them in force, as other rules are.
    Promote,
    /// Take them away.
    Discard,
}

/// The place for them.
pub(crate) struct Stage {
    rules: Arc<LiveRules>,
    now: Mutex<Option<(Texts, Timestamp)>>,
}

/// What `status` says about rules on stage.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Seen {
    /// Since when they have been there.
    pub(crate) since: Timestamp,
    /// Packets that have met both rulesets.
    pub(crate) packets: u64,
    /// Packets that they would have stopped.
    pub(crate) stopped: u64,
    /// Packets that they would have let pass.
    pub(crate) let_in: u64,
}

/// One difference, for people and programs.
#[derive(Debug, Serialize)]
struct Told {
    verdict: &'static str,
    rule: String,
    now: &'static str,
    now_rule: String,
    hook: &'static str,
    packets: u64,
    bytes: u64,
    example: String,
}

#[derive(Debug, Serialize)]
struct Report {
    since: Timestamp,
    packets: u64,
    /// Differences that are not told apart any more.
    untold: u64,
    differences: Vec<Told>,
}

impl Stage {
    pub(super) fn new(rules: Arc<LiveRules>) -> Self {
        Stage {
            rules,
            now: Mutex::new(None),
        }
    }

    /// The rules on stage as they were given.
    ///
    /// # Errors
    /// There are none.
    pub(super) fn texts(&self) -> Result<Texts> {
        let now = locked(&self.now);
        let staged = now
            .as_ref()
            .context("no rules are on stage: `tidegate apply --staged FILE` first")?;
        Ok(staged.0.clone())
    }

    pub(super) fn put(&self, texts: Texts, rules: &[Ruleset; 2]) -> Result<Printed> {
        let mut now = locked(&self.now);
        self.rules.stage(rules).map_err(files::plain)?;
        *now = Some((texts, Timestamp::now()));
        Ok(Printed {
            err: "On stage: packets meet these rules too, without effect.\n\
                  See `tidegate apply --show`; then `--promote` or `--discard`.\n"
                .to_owned(),
            ..Printed::default()
        })
    }

    pub(super) fn clear(&self) -> Result<()> {
        let mut now = locked(&self.now);
        now.take().context("no rules are on stage")?;
        self.rules.unstage().map_err(files::plain)
    }

    /// In brief.
    pub(super) fn seen(&self) -> Result<Option<Seen>> {
        let Some(since) = locked(&self.now).as_ref().map(|n| n.1) else {
            return Ok(None);
        };
        let OnStage { packets, told, .. } = self.rules.staged().map_err(files::plain)?;
        let sum = |stops: bool| {
            let wanted = told
                .iter()
                .filter(|(w, _)| stops == (w.live.0 == Judged::Accept));
            wanted.map(|(_, d)| d.count.packets).sum()
        };
        Ok(Some(Seen {
            since,
            packets,
            stopped: sum(true),
            let_in: sum(false),
        }))
    }

    /// What the rules on stage would have done that those in force did not.
    pub(super) fn show(&self, [live, staged]: [&[Ruleset; 2]; 2], json: bool) -> Result<Printed> {
        let since = locked(&self.now)
            .as_ref()
            .context("no rules are on stage")?
            .1;
        let mut seen = self.rules.staged().map_err(files::plain)?;
        let told = &mut seen.told;
        told.sort_by_key(|(w, d)| {
            (
                std::cmp::Reverse(d.count.packets),
                w.table,
                w.staged,
                w.live,
            )
        });
        let origins = |of: &[Ruleset; 2]| -> Result<[Vec<RuleOrigin>; 2]> {
            let one = |r| lower_knowing(r, Sockets::All).map(|l| l.origin);
            let [v4, v6] = of;
            let both = (|| Ok([one(v4)?, one(v6)?]))();
            both.map_err(|f: tidegate_syntax::Failure| anyhow!(f.render("tidegate", None)))
        };
        let (live, staged) = (origins(live)?, origins(staged)?);
        let mut differences = Vec::new();
        for (what, how) in told {
            let at = usize::from(what.family == Family::V6);
            let now_by = what.live.1;
            let now_by = now_by.and_then(|id| self.rules.listed(what.family, id));
            differences.push(Told {
                verdict: word(what.staged.0),
                rule: rule(what.staged, what, &staged[at]),
                now: word(what.live.0),
                now_rule: rule((what.live.0, now_by), what, &live[at]),
                hook: what.hook.chain_name(),
                packets: how.count.packets,
                bytes: how.count.bytes,
                example: self.example(how)?,
            });
        }
        let report = Report {
            since,
            packets: seen.packets,
            untold: seen.untold,
            differences,
        };
        let out = match json {
            true => serde_json::to_string_pretty(&report)? + "\n",
            false => report.text(),
        };
        Ok(Printed {
            out,
            ..Printed::default()
        })
    }

    /// The first packet in a few words.
    fn example(&self, how: &Differing) -> Result<String> {
        let Ok(layout) = parse(&how.example) else {
            return Ok("unreadable".to_owned());
        };
        let mut text = format!("protocol {}", layout.proto);
        if let Some(tuple) = Tuple::from_packet(&how.example, &layout) {
            let (from, to) = ends_of(&tuple);
            text = match tuple.proto {
                6 => format!("tcp {from} > {to}"),
                17 => format!("udp {from} > {to}"),
                1 | 58 => format!("icmp {} > {}", from.ip(), to.ip()),
                n => format!("protocol {n} {} > {}", from.ip(), to.ip()),
            };
        }
        for (word, dev) in [("in", how.input), ("out", how.output)] {
            if let Some(dev) = dev
                && let Some(name) = self.rules.interface(dev).map_err(files::plain)?
            {
                let _ = write!(text, " {word} {name}");
            }
        }
        Ok(text)
    }
}

const fn word(judged: Judged) -> &'static str {
    match judged {
        Judged::Accept => "ACCEPTED",
        Judged::Drop => "DROPPED",
        Judged::Reject => "REJECTED",
    }
}

/// The rule behind a decision.
fn rule(by: ByRule, what: &Otherwise, origins: &[RuleOrigin]) -> String {
    let Some(o) = by.1.and_then(|id| origins.get(id.0 as usize)) else {
        return format!("table {}, which has no rules", what.table.name());
    };
    match o.number {
        0 => format!("{} {} policy", o.table.name(), o.chain),
        n => format!("{} {} {n}  {}", o.table.name(), o.chain, o.text),
    }
}

impl Report {
    fn text(&self) -> String {
        let mut out = format!(
            "on stage since {}: {} packets have met both rulesets\n",
            self.since.strftime("%Y-%m-%d %H:%M:%S UTC"),
            self.packets
        );
        if self.differences.is_empty() {
            out += "The same would have happened to all of them.\n";
        }
        for told in &self.differences {
            let _ = writeln!(
                out,
                "\n{} packets, {} bytes would have been {} at {} by {}\n  now    {} by {}\n  first  {}",
                told.packets,
                told.bytes,
                told.verdict,
                told.hook,
                told.rule,
                told.now,
                told.now_rule,
                told.example
            );
        }
        if self.untold > 0 {
            let _ = writeln!(out, "\n{} packets differ in further ways.", self.untold);
        }
        out
    }
}
