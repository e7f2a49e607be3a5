//! What rulesets need or should not have, asked of the sets of packets that pass.

mod hours;
mod late;
mod local;
mod tracking;

use tidegate_analysis::{Set, TooBig};
use tidegate_engine::interface_number;
use tidegate_ir::{
    Chain, Cond, Conds, Effect, Field, Hook, Policy, Rule, TableKind, Verdict, ctstate,
};
use tidegate_wire::{Family, proto};

use super::Subject;
use super::finding::{Finding, name};
use super::source::Place;
use crate::whole::class;
use hours::hours;
use late::late;
use local::sockets;
use tracking::{ftp, hidden, notrack, unassigned};

/// Intervals that the questions here tell apart.
pub(super) fn questions() -> Vec<(Field, u128, u128)> {
    let lo = interface_number("lo");
    let one = |field, v| (field, v, v);
    vec![
        one(Field::InName, lo),
        one(Field::Dport, 21),
        one(Field::Dport, 5432),
        one(Field::Sport, 53),
        one(Field::Sport, 443),
        one(Field::IcmpTypeCode, 0x0304),
        (Field::IcmpTypeCode, 0x0200, 0x02ff),
        (Field::IcmpTypeCode, 0x8700, 0x87ff),
        (Field::IcmpTypeCode, 0x8800, 0x88ff),
        (Field::Dport, 1024, 65_535),
    ]
}

type Lint = fn(&mut Subject<'_>, &mut Vec<Finding>) -> Result<(), TooBig>;

/// Questions, and what is not known where one of them is too large.
const LINTS: [(&str, Lint); 12] = [
    ("TG003", empty),
    ("TG020, TG021, TG071 or TG081", by_default),
    ("TG022", late),
    ("TG023", sockets),
    ("TG040 or TG042", ftp),
    ("TG043", unassigned),
    ("TG052 or TG053", notrack),
    ("TG090", hidden),
    ("TG120", limits),
    ("TG064 or TG122", ports),
    ("TG124", logs),
    ("TG121", hours),
];

/// Asks everything.
pub(super) fn find(subject: &mut Subject<'_>, findings: &mut Vec<Finding>) {
    for (codes, lint) in LINTS {
        let mark = subject.space.bdd.mark();
        if lint(subject, findings).is_err() {
            let text = format!(
                "whether these rules deserve {codes} is unknown: they tell too many combinations of packets apart"
            );
            findings.push(Finding::new("TG000", None, text));
        }
        // What one question needed is of no use to the next.
        subject.space.bdd.back(mark);
    }
}

/// Rules of a table with their place.
fn rules(subject: &Subject<'_>, kind: TableKind) -> Vec<(Place, Rule)> {
    let mut all = Vec::new();
    for chain in subject
        .loaded
        .lowered
        .table(kind)
        .iter()
        .flat_map(|t| &t.chains)
    {
        for (index, rule) in chain.rules.iter().enumerate() {
            let place = Place {
                table: kind,
                chain: chain.name.clone(),
                number: index as u32 + 1,
            };
            all.push((place, rule.clone()));
        }
    }
    all
}

fn base(subject: &Subject<'_>, kind: TableKind, hook: Hook) -> Option<Chain> {
    let table = subject.loaded.lowered.table(kind)?;
    table.chain(table.base_chain(hook)?).cloned()
}

fn policy_place(kind: TableKind, hook: Hook) -> Place {
    Place {
        table: kind,
        chain: hook.chain_name().to_owned(),
        number: 0,
    }
}

/// Whether what no rule is about is refused.
pub(super) fn refuses_by_default(chain: &Chain) -> bool {
    let refuses = |v: Verdict| matches!(v, Verdict::Drop | Verdict::Reject(_));
    let policy = chain.base.is_some_and(|b| b.policy == Policy::Drop);
    policy
        || chain
            .rules
            .iter()
            .any(|r| r.cond.is_empty() && refuses(r.verdict))
}

/// Policy DROP and no rules.
fn empty(subject: &mut Subject<'_>, findings: &mut Vec<Finding>) -> Result<(), TooBig> {
    for hook in [Hook::Input, Hook::Output] {
        let Some(chain) = base(subject, TableKind::Filter, hook) else {
            continue;
        };
        let drops = chain.base.is_some_and(|b| b.policy == Policy::Drop);
        if drops && chain.rules.is_empty() {
            let what = if hook == Hook::Input {
                "input"
            } else {
                "output"
            };
            let text = format!(
                "{0} has policy DROP and no rules: all {what} stops, your own session included",
                chain.name
            );
            let place = Some(policy_place(TableKind::Filter, hook));
            findings
                .push(Finding::new("TG003", place, text).help(
                    subject.command(TableKind::Filter, &format!("-P {} ACCEPT", chain.name)),
                ));
        }
    }
    Ok(())
}

/// What an INPUT chain that refuses by default has to let in.
fn by_default(subject: &mut Subject<'_>, findings: &mut Vec<Finding>) -> Result<(), TooBig> {
    let Some(chain) = base(subject, TableKind::Filter, Hook::Input) else {
        return Ok(());
    };
    if !refuses_by_default(&chain) || chain.rules.is_empty() {
        return Ok(());
    }
    let place = policy_place(TableKind::Filter, Hook::Input);
    let lo = interface_number("lo");
    let family = subject.loaded.source.family;
    let (own, icmp, too_big) = match family {
        Family::V4 => (0x7f00_0001, proto::ICMP, (0x0304, 0x0304)),
        Family::V6 => (1, proto::ICMPV6, (0x0200, 0x02ff)),
    };
    let icmp = u128::from(icmp);
    let state = |s| (Field::CtState, s, s);
    let local = [
        (Field::InName, lo, lo),
        state(ctstate::NEW),
        (Field::Proto, 6, 6),
        (Field::Src, own, own),
        (Field::Dst, own, own),
        (Field::Dport, 5432, 5432),
    ];
    if subject.accepted(&local)?.is_empty() {
        let text = "INPUT refuses by default and lets nothing in over lo: local services \
                    (databases, resolvers, health checks) cannot be reached from this host";
        let help = subject.command(TableKind::Filter, "-I INPUT 1 -i lo -j ACCEPT");
        findings.push(
            Finding::new("TG020", Some(place.clone()), text)
                .help(help)
                .note("what names a server `localhost` and goes by its unix socket works all the same; 127.0.0.1 does not"),
        );
    }
    let answer = |number: u128, port: u128| {
        [
            state(ctstate::ESTABLISHED),
            (Field::Proto, number, number),
            (Field::Sport, port, port),
            (Field::Dport, 1024, 65_535),
        ]
    };
    if !from_outside(subject, &answer(17, 53))? && !from_outside(subject, &answer(6, 443))? {
        let text = "INPUT refuses by default and accepts no ESTABLISHED packets: answers to what this host \
                    asks (DNS, updates, time) are dropped";
        let rule = "-I INPUT 1 -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT";
        let help = subject.command(TableKind::Filter, rule);
        findings.push(Finding::new("TG021", Some(place.clone()), text).help(help));
    }
    let error = [
        state(ctstate::RELATED),
        (Field::Proto, icmp, icmp),
        (Field::IcmpTypeCode, too_big.0, too_big.1),
    ];
    if !from_outside(subject, &error)? {
        let text = "INPUT refuses by default and drops ICMP errors of its connections (\"fragmentation needed\", \
                    \"packet too big\"): connections over smaller links hang once they send much";
        let rule = "-I INPUT 1 -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT";
        let help = subject.command(TableKind::Filter, rule);
        findings.push(Finding::new("TG071", Some(place.clone()), text).help(help));
    }
    if family == Family::V6 {
        discovery(subject, findings)?;
    }
    Ok(())
}

/// Whether INPUT can accept such packets from another interface than `lo`.
fn from_outside(subject: &mut Subject<'_>, fields: &[(Field, u128, u128)]) -> Result<bool, TooBig> {
    let lo = interface_number("lo");
    let accepted = subject.accepted(fields)?;
    let from_lo = class(&mut subject.space, &[(Field::InName, lo, lo)])?;
    Ok(!subject.space.bdd.minus(accepted, from_lo)?.is_empty())
}

/// Neighbour discovery, which is never tracked.
fn discovery(subject: &mut Subject<'_>, findings: &mut Vec<Finding>) -> Result<(), TooBig> {
    for (kind, what) in [(135u128, "solicitation"), (136, "advertisement")] {
        let wanted = [
            (Field::CtState, ctstate::UNTRACKED, ctstate::UNTRACKED),
            (Field::Proto, 58, 58),
            (Field::IcmpTypeCode, kind << 8, kind << 8 | 0xff),
        ];
        if !from_outside(subject, &wanted)? {
            let place = Some(policy_place(TableKind::Filter, Hook::Input));
            let text =
                format!("IPv6 INPUT drops neighbour {what} ({kind}): the link stops working");
            let rule = "-I INPUT 1 -p ipv6-icmp -j ACCEPT";
            let help = subject.command(TableKind::Filter, rule);
            findings.push(Finding::new("TG081", place, text).help(help));
        }
    }
    Ok(())
}

/// The intervals of a port that a rule asks for.
fn intervals(conds: &Conds, field: Field) -> Option<Vec<(u128, u128)>> {
    conds.iter().find_map(|c| of(c, field))
}

fn of(cond: &Cond, field: Field) -> Option<Vec<(u128, u128)>> {
    match cond {
        Cond::Test(test) if test.field() == field => Some(test.intervals()?.collect()),
        Cond::All(list) => list.iter().find_map(|c| of(c, field)),
        Cond::Any(list) => {
            let all: Option<Vec<_>> = list.iter().map(|c| of(c, field)).collect();
            all.map(|a| a.concat())
        }
        Cond::Shared(inner) => of(inner, field),
        _ => None,
    }
}

/// Limited ACCEPT rules whose excess is accepted as well.
fn limits(subject: &mut Subject<'_>, findings: &mut Vec<Finding>) -> Result<(), TooBig> {
    for (place, rule) in rules(subject, TableKind::Filter) {
        if rule.verdict != Verdict::Accept || !subject.uses(&place, "limit") {
            continue;
        }
        let mut stopped = false;
        let lowered = subject.loaded.lowered.clone();
        for hook in [Hook::Input, Hook::Forward, Hook::Output] {
            let at = (TableKind::Filter, hook);
            let space = &mut subject.space;
            if let Some(part) = subject.whole.around(space, &lowered, at, &rule)? {
                let stops = part.stopped(space)?;
                let both = space.bdd.and(stops, part.matches(&rule))?;
                stopped |= !both.is_empty();
            }
        }
        if !stopped {
            let text = format!(
                "{} limits nothing: what exceeds the limit is accepted by what follows",
                name(&place)
            );
            let unlimited = subject.spec(&place, &["limit"]);
            let rule = unlimited.replace("-j ACCEPT", "-j DROP");
            let at = place.number + 1;
            let help = subject.command(
                TableKind::Filter,
                &format!("-I {} {at} {rule}", place.chain),
            );
            findings.push(Finding::new("TG120", Some(place), text).help(help));
        }
    }
    Ok(())
}

/// Rules that mistake ports for directions.
fn ports(subject: &mut Subject<'_>, findings: &mut Vec<Finding>) -> Result<(), TooBig> {
    let new = subject.space.within(Field::CtState, 3, 3)?;
    let established = subject.space.within(Field::CtState, 1, 1)?;
    for (place, rule) in rules(subject, TableKind::Filter) {
        let own_ports = [67, 68, 546, 547, 5353];
        let source = intervals(&rule.cond, Field::Sport)
            .filter(|s| s.iter().all(|p| p.1 < 1024 && !own_ports.contains(&p.0)));
        let hole = source.is_some()
            && intervals(&rule.cond, Field::Dport).is_none()
            && rule.verdict == Verdict::Accept;
        let excludes = excludes_ports(&rule);
        if !hole && !excludes {
            continue;
        }
        let mut reached = Set::EMPTY;
        for hook in [Hook::Input, Hook::Forward] {
            let some = subject.matches((TableKind::Filter, hook), &rule)?;
            reached = subject.space.bdd.or(reached, some)?;
        }
        if hole && !subject.space.bdd.and(reached, new)?.is_empty() {
            let port = source.and_then(|s| s.first().copied()).map_or(0, |p| p.0);
            let text = format!(
                "{} lets in new connections to every port from source port {port}, which anybody can choose",
                name(&place)
            );
            let at = place.number;
            let spec = subject.spec(&place, &[]);
            let spec = spec.replace("-j ACCEPT", "-m conntrack --ctstate ESTABLISHED -j ACCEPT");
            let help = subject.command(
                TableKind::Filter,
                &format!("-R {} {at} {spec}", place.chain),
            );
            findings.push(Finding::new("TG064", Some(place.clone()), text).help(help));
        }
        if excludes && !subject.space.bdd.and(reached, established)?.is_empty() {
            let text = format!(
                "{} excludes destination ports, so it matches answers too: their destination port is the client's",
                name(&place)
            );
            let spec = subject.spec(&place, &[]);
            let spec = spec.replace(" -j ", " -m conntrack --ctstate NEW -j ");
            let change = format!("-R {} {} {spec}", place.chain, place.number);
            let help = subject.command(TableKind::Filter, &change);
            findings.push(Finding::new("TG122", Some(place), text).help(help));
        }
    }
    Ok(())
}

fn excludes_ports(rule: &Rule) -> bool {
    let mut excludes = false;
    rule.cond.visit(&mut |c| {
        if let Cond::Not(inner) = c {
            inner.visit(&mut |c| {
                excludes |= matches!(c, Cond::Test(t) if t.field() == Field::Dport)
            });
        }
    });
    excludes
}

/// LOG without limit.
fn logs(subject: &mut Subject<'_>, findings: &mut Vec<Finding>) -> Result<(), TooBig> {
    for kind in TableKind::ALL {
        for (place, rule) in rules(subject, kind) {
            let logs = rule.effects.iter().any(|e| matches!(e, Effect::Log(_)));
            let mut limited = false;
            rule.cond
                .visit(&mut |c| limited |= matches!(c, Cond::Call(_)));
            if logs && !limited {
                let text = format!("{} logs every packet, however many there are", name(&place));
                let spec = subject.spec(&place, &[]);
                let spec = spec.replace(
                    "-j LOG",
                    "-m limit --limit 5/minute --limit-burst 10 -j LOG",
                );
                let change = format!("-R {} {} {spec}", place.chain, place.number);
                let help = subject.command(kind, &change);
                findings.push(Finding::new("TG124", Some(place), text).help(help));
            }
        }
    }
    Ok(())
}
