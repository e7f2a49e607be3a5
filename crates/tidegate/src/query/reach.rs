//! `tidegate query reach`: which packets get to a rule and fulfil its conditions.

use std::io::{self, Write as _};
use std::process::ExitCode;

use anyhow::{Context, Result, anyhow, bail};
use serde_json::{Value, json};
use tidegate_analysis::{Course, Fate, Journey, Origin, Set, TooBig, Way};
use tidegate_host::Host;
use tidegate_ir::{Field, Hook, RuleId, TableKind};

use super::ask::{Asked, Open};
use super::confirm::Tried;
use super::words::{Senders, addresses, numbers, values};
use super::{Common, named};
use crate::check::source::{Place, Source};
use crate::replay::brief::ProtoName;
use crate::replay::paint::{Paint, Tone};
use crate::replay::rules::{Loaded, Rules};
use crate::replay::values::value;

/// What is known about a rule.
struct Answer {
    rule: String,
    /// Packets come to it.
    comes: bool,
    /// What those that match have in common, a line each; none: nothing matches.
    matches: Option<Vec<String>>,
    /// A connection of which a packet matches.
    example: Option<Tried>,
    /// Why it is not known.
    unknown: Option<String>,
}

/// Runs the command.
///
/// # Errors
/// There is no such rule.
pub(super) fn run(
    common: &Common,
    rules: &Rules,
    host: Option<&Host>,
    words: &[String],
) -> Result<ExitCode> {
    let mut found = Vec::new();
    for loaded in common.families(rules)? {
        if let Some(id) = place(common, loaded, words)? {
            let mut asked = Asked::new(rules, loaded, host, Vec::new());
            found.push((loaded.source.family, answer(&mut asked, id)));
        }
    }
    if found.is_empty() {
        bail!(
            "there is no rule `{}`: CHAIN:NUMBER of table filter, TABLE CHAIN:NUMBER, or FILE:LINE",
            words.join(" ")
        );
    }
    let mut out = io::stdout().lock();
    if common.json {
        let all: Vec<Value> = found.iter().map(|(f, a)| a.json(named(*f))).collect();
        writeln!(out, "{}", serde_json::to_string_pretty(&all)?)?;
        return Ok(ExitCode::SUCCESS);
    }
    let paint = Paint::for_stdout();
    for (_, answer) in &found {
        write!(out, "{}", answer.text(paint))?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Whether the first rules that are meant can match, and an example.
#[cfg(test)]
pub(super) fn matched(
    common: &Common,
    rules: &Rules,
    words: &[String],
) -> Result<(bool, Option<String>)> {
    let loaded = &rules.0[0];
    let id = place(common, loaded, words)?.context("no rule")?;
    let mut asked = Asked::new(rules, loaded, None, Vec::new());
    let found = answer(&mut asked, id);
    Ok((found.matches.is_some(), found.example.map(|t| t.words)))
}

/// The rule that is meant; `None` where this family has none.
fn place(common: &Common, loaded: &Loaded, words: &[String]) -> Result<Option<RuleId>> {
    let (table, last) = match words {
        [table, rule] => {
            let kind = TableKind::from_name(table);
            let kind = kind.ok_or_else(|| anyhow!("`{table}` is no table"))?;
            (Some(kind), rule)
        }
        [rule] => (None, rule),
        _ => bail!("which rule?"),
    };
    let (name, number) = last
        .rsplit_once(':')
        .with_context(|| format!("`{last}`: a rule is CHAIN:NUMBER or FILE:LINE"))?;
    let number: u32 = match number {
        "policy" => 0,
        n => n
            .parse()
            .map_err(|_| anyhow!("`{n}` is no number of a rule or line"))?,
    };
    let of_chain = |table: TableKind| {
        let at = loaded
            .origin
            .iter()
            .position(|o| o.table == table && o.chain == name && o.number == number);
        at.map(|at| RuleId(at as u32))
    };
    let tables = match table {
        Some(table) => vec![table],
        None => {
            let mut all = vec![TableKind::Filter];
            all.extend(
                TableKind::ALL
                    .into_iter()
                    .filter(|t| *t != TableKind::Filter),
            );
            all
        }
    };
    if let Some(id) = tables.into_iter().find_map(of_chain) {
        return Ok(Some(id));
    }
    let file = match loaded.source.family {
        tidegate_wire::Family::V4 => &common.given.rules,
        tidegate_wire::Family::V6 => &common.given.rules6,
    };
    let Some(file) = file
        .as_ref()
        .filter(|f| f.as_path() == std::path::Path::new(name))
    else {
        return Ok(None);
    };
    let text = std::fs::read_to_string(file).with_context(|| name.to_owned())?;
    let Some(at) = Source::new(name, &text).at(number as usize) else {
        bail!("{name}:{number} is no rule");
    };
    Ok(of_place(loaded, &at))
}

fn of_place(loaded: &Loaded, place: &Place) -> Option<RuleId> {
    let same = |o: &tidegate_syntax::RuleOrigin| {
        (o.table, o.number) == (place.table, place.number) && o.chain == place.chain
    };
    let at = loaded.origin.iter().position(same);
    at.map(|at| RuleId(at as u32))
}

fn answer(asked: &mut Asked<'_>, id: RuleId) -> Answer {
    let mut answer = Answer {
        rule: asked.rule(id),
        comes: false,
        matches: None,
        example: None,
        unknown: None,
    };
    let lowered = asked.settled.rules().any(|(_, _, r)| r.id == id);
    let origin = asked.loaded.origin.get(id.0 as usize);
    if !lowered && origin.is_some_and(|o| o.number > 0) {
        // Behind a rule for everything, or in a chain that nobody calls.
        return answer;
    }
    let steps = asked.share(2);
    if asked
        .within(steps, |asked| all_packets(asked, id, &mut answer))
        .is_err()
    {
        answer.unknown = Some(
            TooBig
                .to_string()
                .trim_start_matches("unknown: ")
                .to_owned(),
        );
    }
    if answer.matches.is_some() || answer.unknown.is_some() {
        answer.example = example(asked, id);
        answer.comes |= answer.example.is_some();
    }
    if answer.example.is_some() && answer.matches.is_none() {
        answer.matches = Some(Vec::new());
    } else if answer.matches.is_some() && answer.example.is_none() {
        answer.unknown = Some(
            "no connection that was tried has such a packet: they may be INVALID, RELATED or none at all"
                .to_owned(),
        );
    }
    answer
}

/// What all packets, of whatever state, that match have in common.
fn all_packets(asked: &mut Asked<'_>, id: RuleId, answer: &mut Answer) -> Result<(), TooBig> {
    let (mut comes, mut matches, mut all) = (Set::EMPTY, Set::EMPTY, Set::EMPTY);
    for origin in [Origin::Received, Origin::Sent] {
        let set = asked.any_packet(origin)?;
        let journey = asked.journey(Course::Any, origin, set, &[])?;
        all = asked.space.bdd.or(all, set)?;
        for (_, reach) in hits(&journey, id) {
            comes = asked.space.bdd.or(comes, reach.comes)?;
            matches = asked.space.bdd.or(matches, reach.matches)?;
        }
    }
    answer.comes = !comes.is_empty();
    if !matches.is_empty() {
        answer.matches = Some(in_words(asked, matches, all)?);
    }
    Ok(())
}

fn hits(journey: &Journey, id: RuleId) -> Vec<(Hook, tidegate_analysis::Reach)> {
    let visits = journey.visits.iter();
    let known = visits.filter_map(|v| Some((v.hook, *v.walk.reach.get(&id)?)));
    known.collect()
}

fn in_words(asked: &mut Asked<'_>, set: Set, all: Set) -> Result<Vec<String>, TooBig> {
    let family = asked.family();
    let mut lines = Vec::new();
    let protocols = values(&mut asked.space, set, Field::Proto)?;
    if protocols != values(&mut asked.space, all, Field::Proto)? {
        let list = numbers(&protocols, |v| ProtoName(v as u8).to_string());
        lines.push(format!("protocol {list}"));
    }
    for (link, what) in [(Field::InName, "received on"), (Field::OutName, "sent by")] {
        let senders: Vec<Senders> = asked.senders(set, all, link)?;
        let links: Vec<String> = senders.iter().flat_map(|s| s.interfaces.clone()).collect();
        if !links.is_empty() && links != ["any"] {
            lines.push(format!("{what} {}", links.join(", ")));
        }
    }
    for (field, what) in [(Field::Src, "source"), (Field::Dst, "destination")] {
        let some = values(&mut asked.space, set, field)?;
        let whole = values(&mut asked.space, all, field)?;
        if some != whole && !some.is_empty() {
            lines.push(format!("{what} {}", addresses(family, &some, &whole).0));
        }
    }
    for (field, what) in [
        (Field::Sport, "source port"),
        (Field::Dport, "destination port"),
        (Field::CtState, "state"),
        (Field::IcmpTypeCode, "icmp"),
        (Field::Length, "length"),
        (Field::Ttl, "ttl"),
        (Field::Tos, "tos"),
    ] {
        let some = values(&mut asked.space, set, field)?;
        if some != values(&mut asked.space, all, field)? && !some.is_empty() {
            lines.push(format!(
                "{what} {}",
                numbers(&some, |v| value(field, family, v))
            ));
        }
    }
    Ok(lines)
}

/// A connection of which a packet matches, as the engine says.
fn example(asked: &mut Asked<'_>, id: RuleId) -> Option<Tried> {
    for origin in [Origin::Received, Origin::Sent] {
        for protocol in asked.protocols() {
            let steps = asked.share(4);
            let found = asked.within(steps, |asked| example_of(asked, id, origin, protocol));
            if let Ok(Some(tried)) = found {
                return Some(tried);
            }
        }
    }
    None
}

fn example_of(
    asked: &mut Asked<'_>,
    id: RuleId,
    origin: Origin,
    protocol: u8,
) -> Result<Option<Tried>, TooBig> {
    let set = asked.openers(protocol, origin)?;
    let fixed = [(Field::Proto, u128::from(protocol))];
    let journey = asked.journey(Course::Opens, origin, set, &fixed)?;
    let fits = |t: &Tried| t.all.contains(&id);
    let mut wanted = Set::EMPTY;
    for (_, reach) in hits(&journey, id) {
        wanted = asked.space.bdd.or(wanted, reach.matches)?;
    }
    for end in &journey.ends {
        let first = asked.space.bdd.and(end.set, wanted)?;
        let fate = match (end.fate, end.hook) {
            (Fate::Stopped(..), Hook::Forward | Hook::Postrouting) => Fate::Leaves,
            (Fate::Stopped(..), _) => Fate::Here,
            (fate, _) => fate,
        };
        let mut sets = vec![first];
        if matches!(end.fate, Fate::Here | Fate::Leaves) {
            let back = match end.fate {
                Fate::Here => Origin::Sent,
                _ => Origin::Received,
            };
            for (course, origin) in [
                (Course::Answers(end.seen), back),
                (Course::GoesOn(end.seen), origin),
            ] {
                let later = asked.journey(course, origin, end.set, &fixed)?;
                sets.extend(hits(&later, id).iter().map(|h| h.1.matches));
            }
        }
        for set in sets.into_iter().filter(|s| !s.is_empty()) {
            let open = Open {
                fate,
                seen: end.seen,
                set,
            };
            if let Some(tried) = asked.confirmed(protocol, &open, fits)? {
                return Ok(Some(tried));
            }
        }
    }
    Ok(None)
}

impl Asked<'_> {
    fn journey(
        &mut self,
        course: Course,
        origin: Origin,
        set: Set,
        fixed: &[(Field, u128)],
    ) -> Result<Journey, TooBig> {
        let way = Way {
            rules: &self.settled,
            prepared: &self.prepared,
            host: self.surroundings.as_ref(),
            window: self.window,
        };
        way.send(&mut self.space, course, origin, set, fixed)
    }
}

impl Answer {
    fn text(&self, paint: Paint) -> String {
        let mut out = format!("{}\n", paint.text(Tone::Strong, &self.rule));
        match (&self.matches, self.comes) {
            (None, _) if self.unknown.is_some() => {}
            (None, true) => {
                out +=
                    "  no packet that gets to it fulfils its conditions: proved over all packets\n"
            }
            (None, false) => out += "  no packet gets to it: proved over all packets\n",
            (Some(lines), _) if lines.is_empty() => out += "  any packet can match it\n",
            (Some(lines), _) => {
                out += "  packets that match it have\n";
                for line in lines {
                    out += &format!("    {line}\n");
                }
            }
        }
        if let Some(tried) = &self.example {
            out += &format!("  for example, in the course of\n    {}\n", tried.words);
        }
        if let Some(why) = &self.unknown {
            out += &format!("  {}: {why}\n", paint.text(Tone::Doubtful, "unknown"));
        }
        out
    }

    fn json(&self, family: &str) -> Value {
        json!({
            "family": family,
            "rule": self.rule,
            "reached": match (self.comes, &self.unknown, &self.example) {
                (true, None, _) | (_, _, Some(_)) => Some(true),
                (false, None, None) => Some(false),
                (_, Some(_), None) => None,
            },
            "matched": match (&self.matches, &self.unknown, &self.example) {
                (_, _, Some(_)) => Some(true),
                (None, None, None) => Some(false),
                _ => None,
            },
            "packets": self.matches,
            "example": self.example.as_ref().map(|t| &t.words),
            "unknown": self.unknown,
        })
    }
}
