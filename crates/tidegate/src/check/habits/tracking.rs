//! Habits around connection tracking: helpers, exemptions, translations that go around rules.

use tidegate_analysis::{Set, TooBig};
use tidegate_engine::conntrack::HelperKind;
use tidegate_ir::{
    Cond, Conds, CtSpec, Effect, Field, Hook, Manip, NatSource, Rule, TableKind, Verdict,
};
use tidegate_wire::{Family, proto};

use super::super::Subject;
use super::super::finding::{Finding, name};
use super::super::source::Place;
use super::{intervals, rules};

/// The helpers that rules of the table raw give.
fn given(subject: &Subject<'_>) -> Vec<String> {
    let raw = rules(subject, TableKind::Raw).into_iter();
    let names = raw.filter_map(|(place, r)| {
        let helps = |e: &Effect| {
            matches!(
                e,
                Effect::Ct(CtSpec::Template {
                    helper: Some(_),
                    ..
                })
            )
        };
        let given = r.effects.iter().any(helps);
        named(&subject.spec(&place, &[])).filter(|_| given)
    });
    names.collect()
}

/// The helper that a rule's words name.
fn named(spec: &str) -> Option<String> {
    let (_, rest) = spec.split_once("--helper ")?;
    let name = rest.split(' ').next()?;
    Some(name.trim_matches('"').to_owned())
}

/// The helper that `-m helper` means: its name, maybe with a port behind it.
fn known(words: &str) -> Option<HelperKind> {
    let bare = words.rsplit_once('-').map(|b| b.0);
    HelperKind::by_name(words).or_else(|| HelperKind::by_name(bare?))
}

/// Rules about a helper's connections where no rule gives any connection that helper.
pub(super) fn unassigned(
    subject: &mut Subject<'_>,
    findings: &mut Vec<Finding>,
) -> Result<(), TooBig> {
    let given = given(subject);
    for (place, _) in rules(subject, TableKind::Filter) {
        let spec = subject.spec(&place, &[]);
        if !subject.uses(&place, "helper") || spec.contains("! --helper") {
            continue;
        }
        let known = named(&spec).and_then(|words| known(&words));
        // Without a port its connections are only announced by those of another one.
        let Some(kind) = known.filter(|k| k.port() != 0) else {
            continue;
        };
        let (helper, port) = (kind.name(), kind.port());
        if given.iter().any(|g| g == helper) {
            continue;
        }
        let text = format!(
            "{} is about connections of the helper {helper}, but no rule gives any connection that helper",
            name(&place)
        );
        let proto = match kind.protocols().contains(&proto::UDP) {
            true => "udp",
            false => "tcp",
        };
        let rule = format!("-A PREROUTING -p {proto} --dport {port} -j CT --helper {helper}");
        findings.push(
            Finding::new("TG043", Some(place), text)
                .note("unless its module is loaded for a port, which no file of rules says: tidegate lsmod")
                .help(subject.command(TableKind::Raw, &rule)),
        );
    }
    Ok(())
}

/// The commands that accept only what is needed of RELATED, instead of the rule at `place`.
fn narrowed(subject: &Subject<'_>, place: &Place, helper: &str) -> String {
    let (chain, mut at) = (&place.chain, place.number);
    let spec = subject.spec(place, &[]);
    let mut commands = Vec::new();
    let only = spec.replace("RELATED,ESTABLISHED", "ESTABLISHED");
    match only == spec {
        true => commands.push(format!("-D {chain} {at}")),
        false => {
            commands.push(format!("-R {chain} {at} {only}"));
            at += 1;
        }
    }
    let icmp = match subject.loaded.source.family {
        Family::V4 => "icmp",
        Family::V6 => "ipv6-icmp",
    };
    for what in [
        format!("-p {icmp}"),
        format!("-p tcp --dport 1024: -m helper --helper {helper}"),
    ] {
        commands.push(format!(
            "-I {chain} {at} {what} -m conntrack --ctstate RELATED -j ACCEPT"
        ));
    }
    let commands = commands.iter().map(|c| subject.command(place.table, c));
    commands.collect::<Vec<_>>().join(" && ")
}

/// FTP without a helper; a helper with RELATED open.
pub(super) fn ftp(subject: &mut Subject<'_>, findings: &mut Vec<Finding>) -> Result<(), TooBig> {
    let all = rules(subject, TableKind::Filter);
    let accepts = || all.iter().filter(|(_, r)| r.verdict == Verdict::Accept);
    if let Some(helper) = given(subject).into_iter().next() {
        let related = subject.space.within(Field::CtState, 2, 2)?;
        let new = subject.space.within(Field::CtState, 3, 3)?;
        for (place, rule) in accepts() {
            let holds = subject.space.rule(&rule.cond)?.holds;
            let every = subject.space.bdd.minus(related, holds)?.is_empty();
            let only = subject.space.bdd.and(new, holds)?.is_empty();
            if every && only && place.chain != "OUTPUT" {
                let text = format!(
                    "{} accepts all that is RELATED: ICMP errors, and whatever the helper expects",
                    name(place)
                );
                let help = narrowed(subject, place, &helper);
                findings.push(
                    Finding::new("TG042", Some(place.clone()), text)
                        .note("what is expected now: conntrack -L expect")
                        .help(help),
                );
            }
        }
        return Ok(());
    }
    let ports = |r: &Rule| intervals(&r.cond, Field::Dport).unwrap_or_default();
    let passive = accepts().any(|(_, r)| ports(r).iter().any(|p| p.0 >= 1024 && p.1 - p.0 >= 9));
    for (place, rule) in accepts().filter(|_| !passive) {
        let control = ports(rule)
            .iter()
            .any(|p| p.0 <= 21 && 21 <= p.1 && p.1 - p.0 < 10);
        let new = subject.space.within(Field::CtState, 3, 3)?;
        let holds = subject.space.rule(&rule.cond)?.holds;
        if control && place.chain != "OUTPUT" && !subject.space.bdd.and(holds, new)?.is_empty() {
            let text = format!(
                "{} accepts FTP (21/tcp), but no rule assigns the ftp helper",
                name(place)
            );
            findings.push(
                Finding::new("TG040", Some(place.clone()), text)
                    .note("data connections will be NEW, not RELATED, and dropped where the policy is DROP")
                    .help(subject.command(
                        TableKind::Raw,
                        "-A PREROUTING -p tcp --dport 21 -j CT --helper ftp",
                    )),
            );
        }
    }
    Ok(())
}

fn exempts(rule: &Rule) -> bool {
    let untracked = |e: &Effect| matches!(e, Effect::Ct(CtSpec::Untracked));
    rule.effects.iter().any(untracked)
}

/// NOTRACK in one direction; translations that it hides packets from.
pub(super) fn notrack(
    subject: &mut Subject<'_>,
    findings: &mut Vec<Finding>,
) -> Result<(), TooBig> {
    let all = rules(subject, TableKind::Raw);
    let raw: Vec<_> = all.iter().filter(|(_, r)| exempts(r)).collect();
    for (place, rule) in &raw {
        let twins = [
            (Field::Dport, Field::Sport, "sport"),
            (Field::Sport, Field::Dport, "dport"),
        ];
        for (field, other, word) in twins {
            let Some(wanted) = intervals(&rule.cond, field) else {
                continue;
            };
            let answered = raw.iter().any(|(at, r)| {
                let there = intervals(&r.cond, other);
                at != place
                    && there.is_none_or(|t| {
                        t.iter()
                            .any(|t| wanted.iter().any(|w| t.0 <= w.0 && w.1 <= t.1))
                    })
                    && (there_is_no(&r.cond, field) || at.chain != place.chain)
            });
            if !answered {
                let (lo, hi) = wanted.first().copied().unwrap_or_default();
                let range = if lo == hi {
                    lo.to_string()
                } else {
                    format!("{lo}:{hi}")
                };
                let back = if place.chain == "PREROUTING" {
                    "OUTPUT"
                } else {
                    "PREROUTING"
                };
                let text = format!(
                    "{} exempts one direction only: answers make connections of their own",
                    name(place)
                );
                let tcp = intervals(&rule.cond, Field::Proto).is_some_and(|p| p.contains(&(6, 6)));
                let proto = if tcp { "tcp" } else { "udp" };
                findings.push(Finding::new("TG052", Some(place.clone()), text).help(
                    subject.command(
                        TableKind::Raw,
                        &format!("-A {back} -p {proto} --{word} {range} -j NOTRACK"),
                    ),
                ));
            }
        }
    }
    untranslated(subject, findings)
}

fn there_is_no(cond: &Conds, field: Field) -> bool {
    intervals(cond, field).is_none()
}

fn untranslated(subject: &mut Subject<'_>, findings: &mut Vec<Finding>) -> Result<(), TooBig> {
    let raw = rules(subject, TableKind::Raw);
    let steps = |c: &Conds| {
        let mut found = false;
        c.visit(&mut |c| found |= matches!(c, Cond::Call(_)));
        found
    };
    if raw.iter().any(|(_, r)| steps(&r.cond)) {
        return Ok(());
    }
    let mut untracked = Set::EMPTY;
    let mut by = None;
    for (place, rule) in raw.iter().filter(|(_, r)| exempts(r)) {
        let some = subject.matches((TableKind::Raw, Hook::Prerouting), rule)?;
        untracked = subject.space.bdd.or(untracked, some)?;
        if !some.is_empty() {
            by = Some(place.clone());
        }
    }
    if by.is_none() {
        return Ok(());
    }
    for (place, rule) in rules(subject, TableKind::Nat) {
        if !rule.effects.iter().any(|e| matches!(e, Effect::Nat(_))) {
            continue;
        }
        let matches = subject.matches((TableKind::Nat, Hook::Prerouting), &rule)?;
        if matches.is_empty() {
            continue;
        }
        if subject.space.bdd.minus(matches, untracked)?.is_empty()
            && let Some(by) = by.clone()
        {
            let text = format!(
                "{} can never translate: all of its packets are UNTRACKED",
                name(&place)
            );
            let help = subject.deleted(&by);
            findings.push(
                Finding::new("TG053", Some(place), text)
                    .other(by, "exempts them from tracking")
                    .help(help),
            );
        }
    }
    Ok(())
}

/// INPUT rules that translated packets never see.
pub(super) fn hidden(subject: &mut Subject<'_>, findings: &mut Vec<Finding>) -> Result<(), TooBig> {
    let nat_rules = rules(subject, TableKind::Nat);
    let mut elsewhere = Vec::new();
    for (place, rule) in &nat_rules {
        let away = rule.effects.iter().any(|e| {
            matches!(e, Effect::Nat(s) if s.manip == Manip::Dst && matches!(s.addr, NatSource::Range(..)))
        });
        if away {
            let matches = subject.matches((TableKind::Nat, Hook::Prerouting), rule)?;
            elsewhere.push((place.clone(), matches));
        }
    }
    if elsewhere.is_empty() {
        return Ok(());
    }
    let refuses = |r: &Rule| matches!(r.verdict, Verdict::Drop | Verdict::Reject(_));
    let filter = rules(subject, TableKind::Filter);
    // By the port before translation, in FORWARD or a chain that it calls.
    let refused_elsewhere: Vec<(u128, u128)> = filter
        .iter()
        .filter(|(_, r)| refuses(r))
        .filter_map(|(_, r)| intervals(&r.cond, Field::CtOrigDport))
        .flatten()
        .collect();
    for (place, rule) in filter {
        let refuses = refuses(&rule);
        let Some(ports) = intervals(&rule.cond, Field::Dport).filter(|_| refuses) else {
            continue;
        };
        let port = ports.first().map_or(0, |p| p.0);
        if refused_elsewhere.iter().any(|p| p.0 <= port && port <= p.1) {
            continue;
        }
        let matches = subject.matches((TableKind::Filter, Hook::Input), &rule)?;
        for (by, set) in &elsewhere {
            if subject.space.bdd.and(*set, matches)?.is_empty() {
                continue;
            }
            let text = format!(
                "{} refuses port {port}, but {} sends such packets elsewhere first: they go through FORWARD",
                name(&place),
                name(by)
            );
            let proto = intervals(&rule.cond, Field::Proto).is_some_and(|p| p.contains(&(17, 17)));
            let proto = if proto { "udp" } else { "tcp" };
            findings.push(
                Finding::new("TG090", Some(place.clone()), text)
                    .other(by.clone(), "translates them before INPUT")
                    .help(subject.command(
                        TableKind::Filter,
                        &format!("-I FORWARD 1 -p {proto} -m conntrack --ctorigdstport {port} --ctdir ORIGINAL -j DROP"),
                    ))
                    .note("with Docker, put it into DOCKER-USER instead of FORWARD"),
            );
            break;
        }
    }
    Ok(())
}
