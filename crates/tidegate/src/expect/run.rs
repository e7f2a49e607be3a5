//! Expectations put to the engine.

use std::fmt::Write;
use std::net::{IpAddr, SocketAddr};
use std::ops::ControlFlow;

use anyhow::Result;
use tidegate_engine::{DropReason, Output};
use tidegate_host::Host;
use tidegate_ir::RuleId;
use tidegate_syntax::RuleOrigin;
use tidegate_wire::{Family, parse, proto, tcp};

use super::file::{Captured, Case, File, More, Packet, Verdict};
use crate::course::{Passed, Place, Runner, ends_of};
use crate::given::Given;
use crate::packets::Described;
use crate::replay::explain::{Explainer, Show};
use crate::replay::fate::Fate;
use crate::replay::paint::Paint;
use crate::replay::rules::Rules;
use crate::replay::walk::Walk;

/// Failures that are explained rule by rule; of more, only what was wrong is said.
const EXPLAINED: usize = 10;

/// One expectation and whether it held.
pub(super) struct Held {
    pub(super) case: String,
    pub(super) line: usize,
    /// What was expected.
    pub(super) what: String,
    /// What was otherwise, if anything was, and the explanation.
    pub(super) failure: Option<Failure>,
}

/// What was otherwise.
pub(super) struct Failure {
    pub(super) why: String,
    pub(super) trace: String,
}

/// What came of a file.
pub(super) struct Ran {
    pub(super) held: Vec<Held>,
    pub(super) rules: usize,
    /// Rules that matched no packet.
    pub(super) unreached: Vec<RuleOrigin>,
}

/// A file's rules and host.
struct Bench {
    rules: Rules,
    host: Host,
    runner: Runner,
    explained: usize,
    /// Rules that packets of captures matched.
    reached: Vec<Vec<bool>>,
}

/// Runs all expectations of a file.
///
/// # Errors
/// Rules, host or captures cannot be read.
pub(super) fn run(file: &File) -> Result<Ran> {
    let given = Given {
        rules: file.rules.clone(),
        rules6: file.rules6.clone(),
        host: None,
    };
    let rules = given.rules()?;
    let host = match &file.host {
        Some(host) => host.clone(),
        None => {
            let cases = file.cases.iter();
            let all = cases.flat_map(|c| c.given.iter().chain(c.packets.iter().map(|p| &p.1)));
            let packets: Vec<Described> = all.map(|p| p.described.clone()).collect();
            given.host(&rules, &packets)?.0
        }
    };
    let told = |case: &Case| {
        case.packets
            .iter()
            .any(|p| p.1.described.sender().is_some())
    };
    rules.meet(&host, file.cases.iter().any(told))?;
    let reached = rules
        .0
        .iter()
        .map(|l| vec![false; l.origin.len()])
        .collect();
    let mut bench = Bench {
        runner: Runner::new(&host, &rules),
        rules,
        host,
        explained: 0,
        reached,
    };
    let mut held = Vec::new();
    for case in &file.cases {
        for (verdict, packet) in &case.packets {
            held.push(bench.expect(case, *verdict, packet)?);
        }
        if let Some(capture) = &case.capture {
            held.push(bench.capture(case, capture)?);
        }
    }
    let (rules, unreached) = bench.coverage();
    Ok(Ran {
        held,
        rules,
        unreached,
    })
}

/// What was seen of a packet, or of a connection's packets.
struct Seen {
    /// The first packet.
    first: Passed,
    walk: Walk,
    /// The packet that was stopped, if one was: what it is, its fate.
    stopped: Option<(String, Passed)>,
}

/// Something that may be expected, and the forms of what it was.
struct Fact<'m> {
    key: &'static str,
    wanted: Option<&'m str>,
    was: Vec<String>,
    /// Holds if what is wanted is a part of it.
    within: bool,
}

impl Fact<'_> {
    fn differs(self) -> Option<String> {
        let wanted = self.wanted?;
        let holds =
            |was: &String| was.eq_ignore_ascii_case(wanted) || self.within && was.contains(wanted);
        if self.was.iter().any(holds) {
            return None;
        }
        let was = self.was.first().map_or("nothing", String::as_str);
        Some(format!("{} should be `{wanted}`, was {was}", self.key))
    }
}

impl Bench {
    fn expect(&mut self, case: &Case, verdict: Verdict, packet: &Packet) -> Result<Held> {
        self.runner.forget();
        let seen = play(&mut self.runner, case, packet, Walk::default, |_| ());
        let why = match &seen {
            Some(seen) => self.differs(case, verdict, packet, seen),
            None => Some("nothing was sent".to_owned()),
        };
        let failure = match why {
            None => None,
            Some(why) => Some(Failure {
                why,
                trace: self.explain(case, packet)?,
            }),
        };
        Ok(Held {
            case: case.name.clone(),
            line: packet.line,
            what: format!("{} {}", verdict.key(), packet.words),
            failure,
        })
    }

    /// What differs from what was expected.
    fn differs(
        &self,
        case: &Case,
        verdict: Verdict,
        packet: &Packet,
        seen: &Seen,
    ) -> Option<String> {
        let family = packet.described.family();
        let (what, decided) = match &seen.stopped {
            Some((what, passed)) => (what.as_str(), passed),
            None => ("", &seen.first),
        };
        // A packet without a route, say, is no credit to the rules.
        let by_rules = decided.fate.rule().is_some()
            || matches!(decided.fate, Fate::Drop(DropReason::Conntrack(_)));
        let as_wanted = match verdict {
            Verdict::Allow => seen.stopped.is_none() && decided.arrived(),
            Verdict::Deny => by_rules && !decided.arrived(),
            Verdict::Drop => by_rules && matches!(decided.fate, Fate::Drop(_)),
            Verdict::Reject => matches!(decided.fate, Fate::Reject(_)),
        };
        let rule = match decided.arrived() {
            true => seen.walk.passed.map(|p| p.1),
            false => decided.fate.rule(),
        };
        let origin = rule.and_then(|id| self.rules.origin(family, id));
        if !as_wanted {
            return Some(self.verdict(what, decided, origin, &seen.walk));
        }
        let wrong: Vec<String> = self
            .facts(&case.more, seen, decided, origin)
            .into_iter()
            .filter_map(Fact::differs)
            .collect();
        (!wrong.is_empty()).then(|| wrong.join("; "))
    }

    /// What may be expected beside the verdict, and what was.
    fn facts<'m>(
        &self,
        more: &'m More,
        seen: &Seen,
        decided: &Passed,
        origin: Option<&RuleOrigin>,
    ) -> [Fact<'m>; 7] {
        let arrival = self.runner.arrival(&seen.first);
        let ends = arrival.and_then(|(_, bytes)| ends_of(bytes));
        let end =
            |addr: IpAddr, port| vec![SocketAddr::new(addr, port).to_string(), addr.to_string()];
        let one = |text: Option<String>| text.into_iter().collect();
        let rule = origin.map(rule_name).map(|name| {
            let short = name.strip_prefix("filter ").map(str::to_owned);
            [Some(name), short].into_iter().flatten().collect()
        });
        let state = seen.walk.state.name();
        let is = |key, wanted: &'m Option<String>, was: Vec<String>| Fact {
            key,
            wanted: wanted.as_deref(),
            was,
            within: false,
        };
        [
            is("state", &more.state, vec![state.to_owned()]),
            is(
                "from",
                &more.from,
                ends.map_or_else(Vec::new, |e| end(e.src, e.sport)),
            ),
            is(
                "to",
                &more.to,
                ends.map_or_else(Vec::new, |e| end(e.dst, e.dport)),
            ),
            is(
                "out",
                &more.out,
                one(arrival.map(|(place, _)| self.place(place))),
            ),
            is(
                "with",
                &more.with,
                one(answer(&decided.outputs).map(str::to_owned)),
            ),
            is("rule", &more.rule, rule.unwrap_or_default()),
            Fact {
                within: true,
                ..is("log", &more.log, logged(&seen.first.outputs))
            },
        ]
    }

    fn verdict(
        &self,
        what: &str,
        passed: &Passed,
        origin: Option<&RuleOrigin>,
        walk: &Walk,
    ) -> String {
        let word = match passed.fate {
            Fate::Accept => "ALLOWED",
            Fate::Drop(_) => "DROPPED",
            Fate::Reject(_) => "REJECTED",
            Fate::Held => "HELD as a fragment",
            Fate::Skipped(_) => "not decided",
        };
        let mut text = format!(
            "{what}{}was {word}",
            if what.is_empty() { "" } else { ": " }
        );
        if let Some(origin) = origin {
            let _ = write!(text, " by {}: {}", rule_name(origin), origin.text);
        }
        if let Some(why) = passed.fate.why() {
            let _ = write!(text, " ({why})");
        }
        let _ = write!(text, ", state {}", walk.state.name());
        text
    }

    fn place(&self, place: Place) -> String {
        match place {
            Place::Here => "local".to_owned(),
            Place::At(dev) => {
                let found = self.runner.env.interface(dev);
                found.map_or_else(String::new, |i| i.name.clone())
            }
        }
    }

    /// What the packet met, rule by rule.
    fn explain(&mut self, case: &Case, packet: &Packet) -> Result<String> {
        self.explained += 1;
        if self.explained > EXPLAINED {
            return Ok(String::new());
        }
        // Counters of this one alone.
        let mut runner = Runner::new(&self.host, &self.rules);
        let (env, family, now) = (runner.env.clone(), packet.described.family(), runner.now);
        let make = || Explainer::new(env.clone(), family, now);
        let mut last = None;
        play(&mut runner, case, packet, make, |explainer| {
            last = Some(explainer)
        });
        let show = Show {
            rules: &self.rules,
            engine: &runner.engine,
            paint: Paint::for_stdout(),
        };
        let text = last.map(|e| e.show(&show)).transpose()?;
        Ok(text.unwrap_or_default())
    }

    fn capture(&mut self, case: &Case, capture: &Captured) -> Result<Held> {
        let rules = Rules(
            self.rules
                .0
                .iter()
                .map(crate::replay::rules::Loaded::copy)
                .collect(),
        );
        let played = crate::replay::verdicts::stopped(self.host.clone(), rules, &capture.path)?;
        for (reached, counted) in self.reached.iter_mut().zip(played.counted) {
            for (r, c) in reached.iter_mut().zip(counted) {
                *r |= c;
            }
        }
        let unexpected: Vec<&(u64, String)> = played
            .stopped
            .iter()
            .filter(|s| !capture.stopped.contains(&s.0))
            .collect();
        let passed: Vec<u64> = capture
            .stopped
            .iter()
            .copied()
            .filter(|n| !played.stopped.iter().any(|s| s.0 == *n))
            .collect();
        let mut why = String::new();
        if let Some((number, rule)) = unexpected.first() {
            let _ = write!(why, "packet {number} was stopped: {rule}");
            if unexpected.len() > 1 {
                let _ = write!(why, "; so were {} more", unexpected.len() - 1);
            }
        }
        if !passed.is_empty() {
            let _ = write!(
                why,
                "{}packets {passed:?} passed",
                if why.is_empty() { "" } else { "; " }
            );
        }
        Ok(Held {
            case: case.name.clone(),
            line: capture.line,
            what: format!(
                "capture {} stopped {:?}",
                capture.path.display(),
                capture.stopped
            ),
            failure: (!why.is_empty()).then_some(Failure {
                why,
                trace: String::new(),
            }),
        })
    }

    /// How many rules there are, and those that nothing matched.
    fn coverage(&self) -> (usize, Vec<RuleOrigin>) {
        let (mut all, mut unreached) = (0, Vec::new());
        for (loaded, reached) in self.rules.0.iter().zip(&self.reached) {
            let family = loaded.source.family;
            for (at, origin) in loaded.origin.iter().enumerate().filter(|o| o.1.number > 0) {
                all += 1;
                let counted = self
                    .runner
                    .engine
                    .counter(family, RuleId(at as u32))
                    .packets
                    > 0;
                if !counted && !reached.get(at).copied().unwrap_or(false) {
                    unreached.push(origin.clone());
                }
            }
        }
        (all, unreached)
    }
}

/// Sends what was given, then the packet or the connection it opens. `keep` gets the trace
/// of the packet that decides: the first one that is stopped, else the first one.
fn play<T: Watcher>(
    runner: &mut Runner,
    case: &Case,
    packet: &Packet,
    make: impl Fn() -> T,
    mut keep: impl FnMut(T),
) -> Option<Seen> {
    let on = ControlFlow::Continue(());
    let given = case.given.iter().map(|p| &p.described);
    runner.drive(given, false, |_, _| (), |_, _, _, ()| on);
    let mut found: Option<Seen> = None;
    let packet = [&packet.described];
    runner.drive(
        packet,
        case.more.course,
        |_, _| make(),
        |_, sent, passed, mut trace| {
            let walk = trace.walk();
            let arrived = passed.arrived();
            if found.is_none() || !arrived {
                keep(trace);
            }
            match &mut found {
                None => {
                    found = Some(Seen {
                        first: passed,
                        walk,
                        stopped: None,
                    });
                }
                Some(seen) if !arrived => {
                    let step = sent.step.map_or("", |s| s.what);
                    let server = sent.step.is_some_and(|s| s.reply);
                    let who = if server { "server" } else { "client" };
                    seen.walk = walk;
                    seen.stopped = Some((format!("{who} {step}"), passed));
                }
                Some(_) => {}
            }
            on
        },
    );
    found
}

/// A trace that knows the way in brief.
trait Watcher: tidegate_engine::Trace {
    fn walk(&mut self) -> Walk;
}

impl Watcher for Walk {
    fn walk(&mut self) -> Walk {
        std::mem::take(self)
    }
}

impl Watcher for Explainer {
    fn walk(&mut self) -> Walk {
        Walk::default()
    }
}

fn rule_name(origin: &RuleOrigin) -> String {
    let table = origin.table.name();
    match origin.number {
        0 => format!("{table} {} policy", origin.chain),
        n => format!("{table} {} {n}", origin.chain),
    }
}

/// LOG lines, prefixes included.
fn logged(outputs: &[Output]) -> Vec<String> {
    let line = |o: &Output| match o {
        Output::Log { line, .. } => Some(line.clone()),
        Output::Nflog(log) => Some(log.prefix.clone()),
        Output::Transmit { .. } | Output::Deliver { .. } => None,
    };
    outputs.iter().filter_map(line).collect()
}

/// ICMP codes of refusals by their names (RFC 792, RFC 1812; RFC 4443).
const REFUSALS: [(Family, u8, &str); 13] = [
    (Family::V4, 0, "icmp-net-unreachable"),
    (Family::V4, 1, "icmp-host-unreachable"),
    (Family::V4, 2, "icmp-proto-unreachable"),
    (Family::V4, 3, "icmp-port-unreachable"),
    (Family::V4, 9, "icmp-net-prohibited"),
    (Family::V4, 10, "icmp-host-prohibited"),
    (Family::V4, 13, "icmp-admin-prohibited"),
    (Family::V6, 0, "icmp6-no-route"),
    (Family::V6, 1, "icmp6-adm-prohibited"),
    (Family::V6, 3, "icmp6-addr-unreachable"),
    (Family::V6, 4, "icmp6-port-unreachable"),
    (Family::V6, 5, "icmp6-policy-fail"),
    (Family::V6, 6, "icmp6-reject-route"),
];

/// How a rejected packet was answered, as `--reject-with` names it.
fn answer(outputs: &[Output]) -> Option<&'static str> {
    outputs.iter().find_map(|o| {
        let (Output::Transmit { bytes, .. } | Output::Deliver { bytes, .. }) = o else {
            return None;
        };
        let layout = parse(bytes).ok()?;
        let l4 = layout.l4(bytes);
        match layout.proto {
            proto::TCP => (l4.get(13)? & tcp::flags::RST != 0).then_some("tcp-reset"),
            proto::ICMP | proto::ICMPV6 => {
                let unreachable = if layout.proto == proto::ICMP { 3 } else { 1 };
                let &[kind, code, ..] = l4 else { return None };
                let known = REFUSALS
                    .iter()
                    .find(|r| r.0 == layout.family && r.1 == code);
                known.filter(|_| kind == unreachable).map(|r| r.2)
            }
            _ => None,
        }
    })
}

/// A rule for listings.
pub(super) fn listed(origin: &RuleOrigin) -> String {
    format!("{}  {}", rule_name(origin), origin.text)
}
