//! The smallest rules that would let refused packets pass, tried out before they are told.

use std::fmt::Write;

use anyhow::Result;
use serde_json::{Value, json};
use tidegate_ir::{Hook, TableKind};
use tidegate_syntax::{CounterMode, RestoreOptions, restore};
use tidegate_tools::HostNames;
use tidegate_wire::{Family, proto};

use crate::course::{Passed, Place, ends_of};
use crate::replay::explain::Explainer;
use crate::replay::paint::{Paint, Tone};
use crate::replay::rules::{Loaded, Rules};

/// More rules than this are no remedy.
const MOST: usize = 6;

/// What would help.
pub(super) enum Remedy {
    /// These commands, which have been tried.
    Rules(Vec<String>),
    /// No rule in the place of the refusal helps.
    None(String),
}

/// A packet that is refused, and what watched it.
pub(super) type Refusal = (Passed, Explainer);

/// Looks for rules until nothing is refused, `first` being what `rules` refuse: `refusal`
/// tries rules.
///
/// # Errors
/// Rules cannot be tried.
pub(super) fn find(
    rules: &Rules,
    first: Refusal,
    refusal: impl Fn(&Rules) -> Result<Option<Refusal>>,
) -> Result<Remedy> {
    let mut changed = Rules(rules.0.iter().map(Loaded::copy).collect());
    let mut commands = Vec::new();
    let mut next = Some(first);
    while let Some((passed, explainer)) = next {
        if commands.len() == MOST {
            let why = format!("more than {MOST} rules stand in the way");
            return Ok(Remedy::None(why));
        }
        let family = explainer.family();
        let Some(found) = one(&changed, &passed, &explainer) else {
            let why = passed.fate.why();
            let why = why.unwrap_or_else(|| "no rule can help there".to_owned());
            return Ok(Remedy::None(why));
        };
        if let Err(why) = add(&mut changed, family, &found) {
            return Ok(Remedy::None(why));
        }
        let tool = match family {
            Family::V4 => "iptables",
            Family::V6 => "ip6tables",
        };
        let table = match found.table {
            TableKind::Filter => String::new(),
            other => format!(" -t {}", other.name()),
        };
        commands.push(format!("{tool}{table} {}", found.rule));
        next = refusal(&changed)?;
    }
    Ok(Remedy::Rules(commands))
}

/// A rule to be added.
struct Found {
    table: TableKind,
    rule: String,
}

fn one(rules: &Rules, passed: &Passed, explainer: &Explainer) -> Option<Found> {
    let origin = rules.origin(explainer.family(), passed.fate.rule()?)?;
    let hook = *explainer.walk.hooks.last()?;
    let place = match origin.number {
        0 => format!("-A {}", origin.chain),
        number => format!("-I {} {number}", origin.chain),
    };
    let mut rule = place;
    match explainer.walk.state.name() {
        "ESTABLISHED" | "RELATED" => {
            rule += " -m conntrack --ctstate RELATED,ESTABLISHED";
        }
        state => {
            let bytes = explainer.last_bytes().unwrap_or(&passed.bytes);
            rule += &selection(bytes, passed, explainer, hook)?;
            if state == "NEW" && origin.table == TableKind::Filter {
                rule += " -m conntrack --ctstate NEW";
            }
        }
    }
    rule += " -j ACCEPT";
    Some(Found {
        table: origin.table,
        rule,
    })
}

/// The packet as a rule selects it: its ends, protocol and service, and where it comes in.
fn selection(bytes: &[u8], passed: &Passed, explainer: &Explainer, hook: Hook) -> Option<String> {
    let ends = ends_of(bytes)?;
    let layout = tidegate_wire::parse(bytes).ok()?;
    let mut text = format!(" -s {} -d {}", ends.src, ends.dst);
    if let (Place::At(dev), Hook::Input | Hook::Forward | Hook::Prerouting) = (passed.from, hook) {
        let _ = write!(text, " -i {}", explainer.interface(dev));
    }
    match layout.proto {
        proto::TCP | proto::UDP | proto::UDPLITE | proto::SCTP | proto::DCCP => {
            let name = crate::replay::brief::ProtoName(layout.proto);
            let _ = write!(text, " -p {name} --dport {}", ends.dport);
        }
        proto::ICMP => {
            let kind = layout.l4(bytes).first()?;
            let _ = write!(text, " -p icmp --icmp-type {kind}");
        }
        proto::ICMPV6 => {
            let kind = layout.l4(bytes).first()?;
            let _ = write!(text, " -p ipv6-icmp --icmpv6-type {kind}");
        }
        other => {
            let _ = write!(text, " -p {other}");
        }
    }
    Some(text)
}

fn add(rules: &mut Rules, family: Family, found: &Found) -> Result<(), String> {
    let loaded = rules
        .0
        .iter_mut()
        .find(|l| l.source.family == family)
        .ok_or("no rules of this family")?;
    let mut source = loaded.source.clone();
    let text = format!("*{}\n{}\nCOMMIT\n", found.table.name(), found.rule);
    let options = RestoreOptions {
        counters: CounterMode::Ignore,
        noflush: true,
        ..RestoreOptions::default()
    };
    restore(
        &mut source,
        &text,
        &options,
        "tidegate",
        &HostNames::default(),
    )
    .map_err(|e| format!("`{}` is refused: {e}", found.rule))?;
    let sets = std::mem::take(&mut loaded.sets);
    *loaded = Loaded::new(source).map_err(|e| e.render("tidegate", None))?;
    loaded.sets = sets;
    Ok(())
}

impl Remedy {
    /// For programs.
    pub(super) fn json(&self) -> Value {
        match self {
            Remedy::Rules(commands) => json!({ "commands": commands, "tried": true }),
            Remedy::None(why) => json!({ "commands": [], "why": why }),
        }
    }

    /// For people.
    pub(super) fn text(&self, paint: Paint) -> String {
        match self {
            Remedy::Rules(commands) => {
                let mut out = format!(
                    "{}\n",
                    paint.text(Tone::Strong, "It would pass with (tried out):")
                );
                for command in commands {
                    let _ = writeln!(out, "  {command}");
                }
                out
            }
            Remedy::None(why) => format!("No rule to be added lets it pass: {why}\n"),
        }
    }
}
