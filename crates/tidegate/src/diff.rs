//! `tidegate diff`: which packets two rulesets treat differently.

use std::fmt::Write as _;
use std::io::{self, Write as _};
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use clap::Parser;
use tidegate_analysis::{Ending, Set, Space, TooBig, Walk};
use tidegate_ir::{Cond, Effect, Hook, Ruleset, TableKind};
use tidegate_syntax::save;
use tidegate_wire::Family;

use crate::replay::rules::Loaded;
use crate::replay::values::value;
use crate::whole::{MOST_NODES, Whole};

const HELP: &str = "\
Every table at every hook is compared over all packets that can be there; each difference comes with
an example and the rules that decide it. Marks and log lines are not compared.

Exit status: 0 the same is proved; 1 rules cannot be read; 2 the command line is wrong; 3 they differ,
or it is unknown whether they do.";

/// Say which packets two rulesets treat differently.
#[derive(Debug, Parser)]
#[command(after_help = HELP)]
pub(crate) struct Args {
    /// The rules are IPv6 rules.
    #[arg(short = '6', long)]
    ipv6: bool,
    /// Rules now.
    #[arg(value_name = "A")]
    before: PathBuf,
    /// Rules then.
    #[arg(value_name = "B")]
    after: PathBuf,
}

/// Whether a packet ends in a certain way.
type Ends = fn(Ending) -> bool;

/// Ways to leave a table that are told apart, and how a packet that newly does so is called.
const CHANGES: [(&str, Ends); 3] = [
    ("newly accepted", |e| {
        matches!(e, Ending::Accept | Ending::Nat(_))
    }),
    ("newly dropped", |e| e == Ending::Drop),
    ("newly rejected", |e| matches!(e, Ending::Reject(_))),
];

/// The outcome of a comparison.
#[derive(Debug, Default)]
pub(crate) struct Comparison {
    /// A paragraph for each difference.
    pub(crate) differences: Vec<String>,
    /// What is not known, a sentence each.
    pub(crate) unknown: Vec<String>,
}

/// Runs the command.
///
/// # Errors
/// A file cannot be read or is refused.
pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    let family = if args.ipv6 { Family::V6 } else { Family::V4 };
    let before = Loaded::read(&args.before, family)?;
    let after = Loaded::read(&args.after, family)?;
    let found = compare(&before, &after);
    let mut out = io::stdout().lock();
    for text in &found.differences {
        writeln!(out, "{text}")?;
    }
    for text in &found.unknown {
        writeln!(out, "unknown: {text}")?;
    }
    if found.differences.is_empty() && found.unknown.is_empty() {
        writeln!(out, "the same: every packet is treated alike")?;
        return Ok(ExitCode::SUCCESS);
    }
    Ok(ExitCode::from(3))
}

/// Compares two rulesets of one family.
pub(crate) fn compare(before: &Loaded, after: &Loaded) -> Comparison {
    let text = |l: &Loaded| save::ruleset(l.source.tables.iter(), l.source.family, "", "", false);
    if text(before) == text(after) {
        return Comparison::default();
    }
    let mut space = Space::new([&*before.lowered, &*after.lowered], &[], MOST_NODES);
    let sides = [before, after].map(|l| Whole::new(&mut space, &l.lowered));
    let mut found = Comparison::default();
    if [before, after].iter().any(|l| keeps_state(&l.lowered)) {
        let text = "limits and other tests that keep state are taken to come out either way: \
                    differences in them are not seen";
        found.unknown.push(text.to_owned());
    }
    if [before, after].iter().any(|l| does_more(&l.lowered)) {
        let text = "rules write marks or headers, exempt from tracking, assign helpers, copy or queue: \
                    what comes of that is not seen, and packets are compared as they leave a table";
        found.unknown.push(text.to_owned());
    }
    for kind in TableKind::ALL {
        for &hook in kind.hooks() {
            let place = format!("{} {}", kind.name(), hook.chain_name());
            if sides.iter().any(|s| s.is_unknown(kind, hook)) {
                found.unknown.push(format!(
                    "{place} tells too many combinations of packets apart"
                ));
                continue;
            }
            let walks = [0, 1].map(|i| sides[i].pass(kind, hook).map(|p| &p.walk));
            let question = Question {
                rules: [before, after],
                walks,
                place: place.clone(),
                hook,
            };
            if question.ask(&mut space, &mut found).is_err() {
                found
                    .unknown
                    .push(format!("{place} could not be compared to the end"));
            }
        }
    }
    found
}

fn keeps_state(rules: &Ruleset) -> bool {
    let mut found = false;
    for (_, _, rule) in rules.rules() {
        rule.cond
            .visit(&mut |c| found |= matches!(c, Cond::Call(_)));
    }
    found
}

/// Whether rules do more than decide, translate and write down.
fn does_more(rules: &Ruleset) -> bool {
    let mut effects = rules.rules().flat_map(|(_, _, r)| r.effects.iter());
    effects.any(|e| {
        !matches!(
            e,
            Effect::Log(_) | Effect::Nflog(_) | Effect::Audit | Effect::Trace | Effect::Nat(_)
        )
    })
}

/// One table at one hook, before and after.
struct Question<'a> {
    rules: [&'a Loaded; 2],
    walks: [Option<&'a Walk>; 2],
    place: String,
    hook: Hook,
}

impl Question<'_> {
    /// Packets that end so; where the table is missing, all are accepted.
    fn ending(
        &self,
        space: &mut Space,
        side: usize,
        of: impl Fn(Ending) -> bool,
    ) -> Result<Set, TooBig> {
        match self.walks[side] {
            Some(walk) => walk.ending(space, of),
            None if of(Ending::Accept) => {
                tidegate_analysis::possible(space, self.rules[side].source.family, Some(self.hook))
            }
            None => Ok(Set::EMPTY),
        }
    }

    fn ask(&self, space: &mut Space, found: &mut Comparison) -> Result<(), TooBig> {
        for (what, of) in CHANGES {
            let was = self.ending(space, 0, of)?;
            let is = self.ending(space, 1, of)?;
            let new = space.bdd.minus(is, was)?;
            self.tell(space, what, new, found)?;
        }
        for ending in self.told_apart() {
            let was = self.ending(space, 0, |e| e == ending)?;
            let is = self.ending(space, 1, |e| e == ending)?;
            let new = space.bdd.minus(is, was)?;
            // What is newly accepted or rejected has been told.
            let alike = CHANGES
                .iter()
                .find(|c| (c.1)(ending))
                .map_or(CHANGES[0].1, |c| c.1);
            let before = self.ending(space, 0, alike)?;
            let new = space.bdd.and(new, before)?;
            let what = match ending {
                Ending::Nat(_) => "translated differently",
                Ending::Reject(_) => "rejected differently",
                Ending::Accept | Ending::Drop => "no longer translated",
            };
            self.tell(space, what, new, found)?;
        }
        Ok(())
    }

    /// Endings of one kind that differ among themselves.
    fn told_apart(&self) -> Vec<Ending> {
        let mut all: Vec<Ending> = Vec::new();
        for (ending, _, _) in self.walks.iter().flatten().flat_map(|w| &w.endings) {
            if *ending != Ending::Drop && !all.contains(ending) {
                all.push(*ending);
            }
        }
        all
    }

    fn tell(
        &self,
        space: &mut Space,
        what: &str,
        set: Set,
        found: &mut Comparison,
    ) -> Result<(), TooBig> {
        let Some(example) = space.example(set) else {
            return Ok(());
        };
        let family = self.rules[0].source.family;
        let mut text = format!("{}: {what}\n  for example:", self.place);
        for (field, v) in &example.values {
            let _ = write!(
                text,
                " {}={}",
                field.row().name.replace(' ', "-"),
                value(*field, family, *v)
            );
        }
        for (side, name) in ["before", "after"].iter().enumerate() {
            let by = self.walks[side].map_or_else(
                || "no table".to_owned(),
                |walk| {
                    let decides = walk.endings.iter().find(|e| space.contains(e.2, &example));
                    let origin = decides.and_then(|e| self.rules[side].origin.get(e.1.0 as usize));
                    origin.map_or_else(|| "unknown".to_owned(), |o| o.text.clone())
                },
            );
            let _ = write!(text, "\n  {name}: {by}");
        }
        found.differences.push(text);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn diff(a: &str, b: &str) -> Comparison {
        let load = |rules: &str| {
            let text = format!("*filter\n:INPUT DROP [0:0]\n{rules}COMMIT\n");
            Loaded::parse(&text, "rules", Family::V4).unwrap()
        };
        compare(&load(a), &load(b))
    }

    #[test]
    fn the_same_in_other_words_is_the_same() {
        let one = "-A INPUT -p tcp -m tcp --dport 20:23 -j ACCEPT\n";
        let other = "-A INPUT -p tcp -m tcp --dport 20:21 -j ACCEPT\n\
            -A INPUT -p udp -j DROP\n-A INPUT -p tcp -m tcp --dport 22:23 -j ACCEPT\n";
        let found = diff(one, other);
        assert!(found.unknown.is_empty(), "{found:?}");
        assert!(found.differences.is_empty(), "{found:?}");
        let found = diff(one, one);
        assert!(found.differences.is_empty() && found.unknown.is_empty());
    }

    /// What is not compared is not said to be the same; rules that are, are.
    #[test]
    fn exemptions_from_tracking_are_unknown_unless_nothing_changed() {
        let load = |rule: &str| {
            let text = format!("*raw\n:PREROUTING ACCEPT [0:0]\n{rule}COMMIT\n");
            Loaded::parse(&text, "rules", Family::V4).unwrap()
        };
        let (none, some) = (load(""), load("-A PREROUTING -p udp -j NOTRACK\n"));
        assert_eq!(compare(&none, &some).unknown.len(), 1);
        assert!(compare(&some, &some).unknown.is_empty());
    }

    #[test]
    fn what_changes_is_told_with_an_example_and_the_rules() {
        let found = diff(
            "-A INPUT -p tcp -m tcp --dport 22 -j ACCEPT\n",
            "-A INPUT -p tcp -m tcp --dport 23 -j ACCEPT\n",
        );
        let all = found.differences.join("\n");
        assert!(
            all.contains("INPUT: newly accepted") && all.contains("INPUT: newly dropped"),
            "{all}"
        );
        assert!(
            all.contains("destination-port=23") && all.contains("destination-port=22"),
            "{all}"
        );
        assert!(all.contains("before: -P INPUT DROP"), "{all}");
    }

    #[test]
    fn another_answer_is_a_difference() {
        let found = diff(
            "-A INPUT -p tcp -j REJECT --reject-with tcp-reset\n",
            "-A INPUT -p tcp -j REJECT --reject-with icmp-port-unreachable\n",
        );
        assert_eq!(found.differences.len(), 1, "{found:?}");
        assert!(found.differences[0].contains("rejected differently"));
    }

    #[test]
    fn state_kept_by_rules_is_said_to_be_unknown() {
        let rules = "-A INPUT -m limit --limit 1/sec -j ACCEPT\n";
        let found = diff(rules, &rules.replace("1/sec", "2/sec"));
        assert!(found.differences.is_empty() && !found.unknown.is_empty());
        // What has not been touched needs no comparison.
        assert!(diff(rules, rules).unknown.is_empty());
    }
}
