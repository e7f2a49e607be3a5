//! The space of connections that questions are about.

use std::collections::BTreeSet;
use std::sync::Arc;

use tidegate_analysis::{
    Area, Bound, Course, Fate, Goes, Journey, Lens, LensId, Origin, Prepared, Set, Space,
    Surroundings, TooBig, Way, Window, possible,
};
use tidegate_engine::env::RouteType;
use tidegate_engine::interface_number;
use tidegate_host::Host;
use tidegate_ir::{Effect, Field, Manip, RuleId, Ruleset, TableKind, ctstate};
use tidegate_wire::{Family, proto};

use crate::replay::rules::{Loaded, Rules};
use crate::whole::{MOST_NODES, class};

/// Connections that can be opened, and whose answers get back.
#[derive(Clone, Debug)]
pub(super) struct Open {
    /// Where first packets end.
    pub(super) fate: Fate,
    /// How they are seen there.
    pub(super) seen: LensId,
    /// First packets as they are sent.
    pub(super) set: Set,
}

/// What became of some first packets.
pub(super) struct Openings {
    /// Those with answers.
    pub(super) open: Vec<Open>,
    /// Those that arrive, and whose answers do not.
    pub(super) unanswered: Set,
    /// The way of the first packets.
    pub(super) journey: Journey,
    /// Rules that may come out either way on the way of any of them.
    pub(super) doubts: Vec<(RuleId, Set)>,
}

/// One family's rules and everything that can be asked about them.
pub(super) struct Asked<'a> {
    /// All rules.
    pub(super) rules: &'a Rules,
    /// Those asked about.
    pub(super) loaded: &'a Loaded,
    /// As the engine runs them, with sets as they are now.
    pub(super) settled: Arc<Ruleset>,
    /// The host, where it is known.
    pub(super) host: Option<&'a Host>,
    /// What routing says.
    pub(super) surroundings: Option<Surroundings>,
    pub(super) prepared: Prepared,
    /// Where the packets are that are asked about.
    pub(super) window: Window,
    /// Sets.
    pub(super) space: Space,
    /// Interfaces that have a name, loopback not among them.
    pub(super) names: Vec<String>,
    /// Steps of work that are left for all that is asked.
    left: u64,
}

/// Steps of work for everything that is asked: some ten seconds.
const MOST_STEPS: u64 = 120_000_000;

/// Types of addresses as rules ask for them.
const UNICAST: u128 = RouteType::Unicast as u128;
const LOCAL: u128 = RouteType::Local as u128;

/// Bytes of a transport header that a first packet has at least.
fn shortest(protocol: u8) -> u128 {
    match protocol {
        proto::TCP => 24,
        _ => 8,
    }
}

/// Addresses of single hosts: what connections are between. The kernel takes those that begin with
/// 0 or 240 and more for hosts as well (`ipv4_is_zeronet`, `ip_route_input_slow`).
fn hosts(family: Family) -> &'static [(u128, u128)] {
    match family {
        Family::V4 => &[
            (1, 0x7eff_ffff),
            (0x8000_0000, 0xdfff_ffff),
            (0xf000_0000, 0xffff_fffe),
        ],
        Family::V6 => &[(2, (0xff << 120) - 1)],
    }
}

/// ICMP type and code of an echo request.
pub(crate) const fn echo(family: Family) -> u128 {
    match family {
        Family::V4 => 0x0800,
        Family::V6 => 0x8000,
    }
}

/// The protocol number of ICMP.
pub(crate) const fn icmp(family: Family) -> u8 {
    match family {
        Family::V4 => proto::ICMP,
        Family::V6 => proto::ICMPV6,
    }
}

/// Whether the protocol has ports.
pub(crate) const fn has_ports(protocol: u8) -> bool {
    matches!(
        protocol,
        proto::TCP | proto::UDP | proto::UDPLITE | proto::SCTP | proto::DCCP
    )
}

/// Intervals that questions about connections tell apart.
pub(crate) fn questions<'n>(
    family: Family,
    names: impl Iterator<Item = &'n String>,
) -> Vec<(Field, u128, u128)> {
    let mut all = Vec::new();
    for field in [Field::Src, Field::Dst] {
        all.extend(hosts(family).iter().map(|(lo, hi)| (field, *lo, *hi)));
    }
    let one = |field, v| (field, v, v);
    let lo = interface_number("lo");
    let top = u128::from(u16::MAX);
    all.extend([
        one(Field::InName, lo),
        one(Field::OutName, lo),
        one(Field::IcmpTypeCode, echo(family)),
        one(Field::SrcType, UNICAST),
        one(Field::SrcType, LOCAL),
        (Field::Sport, 1, top),
        (Field::Dport, 1, top),
        (Field::L4Len, 8, top),
        (Field::L4Len, 24, top),
    ]);
    all.extend(names.map(|n| one(Field::InName, interface_number(n))));
    all
}

impl<'a> Asked<'a> {
    /// Prepares for questions about these values.
    pub(super) fn new(
        rules: &'a Rules,
        loaded: &'a Loaded,
        host: Option<&'a Host>,
        mut questions: Vec<(Field, u128, u128)>,
    ) -> Self {
        let family = loaded.source.family;
        let surroundings = host.map(|h| surroundings(h, family));
        if let Some(known) = &surroundings {
            questions.extend(known.questions());
        }
        let names = names(loaded, host);
        questions.extend(self::questions(family, names.iter()));
        let settled = loaded.settled();
        let tested = Space::new([&*settled], &[], 2);
        if tested.has(Field::PktType) {
            questions.push((Field::PktType, 0, 0));
        }
        Asked {
            rules,
            loaded,
            host,
            surroundings,
            prepared: Prepared::new(&settled),
            window: Window::ALL,
            space: Space::mirrored([&*settled], &questions, MOST_NODES),
            settled,
            names,
            left: MOST_STEPS,
        }
    }

    /// Asks with so many steps of work, out of those that are left. Sets from before are forgotten.
    ///
    /// # Errors
    /// They are not enough.
    pub(super) fn within<T>(
        &mut self,
        steps: u64,
        ask: impl FnOnce(&mut Self) -> Result<T, TooBig>,
    ) -> Result<T, TooBig> {
        let steps = steps.min(self.left);
        self.space.clear();
        self.space.bdd.allow(steps);
        let answer = ask(self);
        self.left -= steps - self.space.bdd.allowed().min(steps);
        answer
    }

    /// A share of the steps that are left.
    pub(super) const fn share(&self, of: u64) -> u64 {
        self.left / of
    }

    /// The family.
    pub(super) fn family(&self) -> Family {
        self.loaded.source.family
    }

    /// First packets of connections of a protocol.
    pub(super) fn openers(&mut self, protocol: u8, origin: Origin) -> Result<Set, TooBig> {
        let family = self.family();
        let top = u128::from(u16::MAX);
        let mut wanted = vec![
            (Field::Proto, protocol.into(), protocol.into()),
            (Field::FragOff, 0, 0),
            (Field::L4Len, shortest(protocol), top),
        ];
        if has_ports(protocol) {
            wanted.extend([(Field::Sport, 1, top), (Field::Dport, 1, top)]);
        }
        if protocol == icmp(family) {
            wanted.push((Field::IcmpTypeCode, echo(family), echo(family)));
        }
        if origin == Origin::Received && self.space.has(Field::PktType) {
            wanted.push((Field::PktType, 0, 0));
        }
        self.window = Window::ALL;
        for &(field, lo, hi) in &wanted {
            self.window.narrow(&self.space, field, lo, hi);
        }
        let mut set = possible(&mut self.space, family, None)?;
        let these = class(&mut self.space, &wanted)?;
        set = self.space.bdd.and(set, these)?;
        for field in [Field::Src, Field::Dst] {
            let mut single = Set::EMPTY;
            for (lo, hi) in hosts(family) {
                let one = self.space.within(field, *lo, *hi)?;
                single = self.space.bdd.or(single, one)?;
            }
            set = self.space.bdd.and(set, single)?;
        }
        self.placed(set, origin)
    }

    /// Packets of whatever kind.
    pub(super) fn any_packet(&mut self, origin: Origin) -> Result<Set, TooBig> {
        let family = self.family();
        self.window = Window::ALL;
        let set = possible(&mut self.space, family, None)?;
        let (link, none) = match origin {
            Origin::Received => (Field::InName, Field::OutName),
            Origin::Sent => (Field::OutName, Field::InName),
        };
        let away = self.space.within(link, 0, 0)?;
        let set = self.space.bdd.minus(set, away)?;
        match origin {
            Origin::Received => Ok(set),
            Origin::Sent => {
                let nowhere = self.space.within(none, 0, 0)?;
                self.space.bdd.and(set, nowhere)
            }
        }
    }

    /// Those of `set` that can be where they are.
    fn placed(&mut self, set: Set, origin: Origin) -> Result<Set, TooBig> {
        let received = origin == Origin::Received;
        let space = &mut self.space;
        let (link, none) = match received {
            true => (Field::InName, Field::OutName),
            false => (Field::OutName, Field::InName),
        };
        let lo = interface_number("lo");
        let mut set = set;
        for away in [0, lo] {
            let away = space.within(link, away, away)?;
            set = space.bdd.minus(set, away)?;
        }
        // Where it leaves, if it is forwarded, is left open.
        if !received {
            let nowhere = space.within(none, 0, 0)?;
            set = space.bdd.and(set, nowhere)?;
        } else {
            for away in [0, lo] {
                let away = space.within(none, away, away)?;
                set = space.bdd.minus(set, away)?;
            }
        }
        match &self.surroundings {
            Some(known) => {
                let possible = known.possible(space, received)?;
                set = space.bdd.and(set, possible)?;
                if !received {
                    let sends = sends(space, known)?;
                    set = space.bdd.and(set, sends)?;
                }
            }
            None => {
                let other = if received { UNICAST } else { LOCAL };
                if space.has(Field::SrcType) {
                    let kind = space.within(Field::SrcType, other, other)?;
                    set = space.bdd.and(set, kind)?;
                }
                if space.has(Field::DstType) {
                    let one = space.within(Field::DstType, UNICAST, UNICAST)?;
                    let own = space.within(Field::DstType, LOCAL, LOCAL)?;
                    let either = match received {
                        true => space.bdd.or(one, own)?,
                        false => one,
                    };
                    set = space.bdd.and(set, either)?;
                }
            }
        }
        Ok(set)
    }

    /// What becomes of first packets, answers and what follows.
    pub(super) fn openings(
        &mut self,
        origin: Origin,
        set: Set,
        fixed: &[(Field, u128)],
    ) -> Result<Openings, TooBig> {
        let way = Way {
            rules: &self.settled,
            prepared: &self.prepared,
            host: self.surroundings.as_ref(),
            window: self.window,
        };
        let space = &mut self.space;
        let journey = way.send(space, Course::Opens, origin, set, fixed)?;
        let mut result = Openings {
            open: Vec::new(),
            unanswered: Set::EMPTY,
            journey: Journey::default(),
            doubts: Vec::new(),
        };
        for end in journey.arrived() {
            let back = match end.fate {
                Fate::Here => Origin::Sent,
                _ => Origin::Received,
            };
            let answers = way.send(space, Course::Answers(end.seen), back, end.set, fixed)?;
            let mut set = Set::EMPTY;
            for (seen, answered) in marked(space, end.seen, &answers)? {
                let on = way.send(space, Course::GoesOn(seen), origin, answered, fixed)?;
                let passed = all(space, &on)?;
                set = space.bdd.or(set, passed)?;
                for visit in &on.visits {
                    result.doubts.extend(&visit.walk.doubts);
                }
            }
            let lost = space.bdd.minus(end.set, set)?;
            result.unanswered = space.bdd.or(result.unanswered, lost)?;
            if !set.is_empty() {
                result.open.push(Open {
                    fate: end.fate,
                    seen: end.seen,
                    set,
                });
            }
            for visit in &answers.visits {
                result.doubts.extend(&visit.walk.doubts);
            }
        }
        for visit in &journey.visits {
            result.doubts.extend(&visit.walk.doubts);
        }
        result.journey = journey;
        Ok(result)
    }

    /// The interfaces that lead to everybody: where the default route goes, else where
    /// sources are translated, else all.
    pub(super) fn outside(&self) -> Vec<String> {
        let family = self.family();
        if let Some(host) = self.host {
            let far = match family {
                Family::V4 => 0x0808_0808,
                Family::V6 => 0x2001_4860_4860 << 80 | 0x8888,
            };
            let dev = host.env.route(family, far, 0, 0).and_then(|r| r.dev);
            let name = dev.and_then(|d| host.env.interface(d));
            return name.map(|i| i.name.clone()).into_iter().collect();
        }
        let mut found: BTreeSet<String> = BTreeSet::new();
        let mut inside: BTreeSet<String> = BTreeSet::new();
        let tables = self.loaded.source.tables.iter();
        for table in tables.filter(|t| t.kind == TableKind::Nat) {
            for rule in table.chains().flat_map(|c| &c.rules) {
                let target = rule.spec.target.name();
                let translates = matches!(target, "MASQUERADE" | "SNAT");
                for out in rule.spec.output.iter().filter(|_| translates) {
                    let to = if out.invert { &mut inside } else { &mut found };
                    to.extend(concrete(&out.name));
                }
            }
        }
        if found.is_empty() && !inside.is_empty() {
            let others = self.names.iter().filter(|n| !inside.contains(*n));
            found.extend(others.cloned());
        }
        found.into_iter().collect()
    }

    /// Whether some rule translates destinations.
    pub(super) fn translates(&self) -> bool {
        let to = |e: &Effect| matches!(e, Effect::Nat(spec) if spec.manip == Manip::Dst);
        let mut rules = self.settled.rules();
        rules.any(|(_, _, r)| r.effects.iter().any(to))
    }

    /// Protocols that rules are about, beside those everybody has.
    pub(super) fn protocols(&self) -> Vec<u8> {
        let mut all = vec![proto::TCP, proto::UDP, icmp(self.family())];
        let classes = self.space.classes(Field::Proto);
        let other = |p: &u8| !all.contains(p) && *p != 0 && *p != 1 && *p != 58;
        let single = classes.iter().filter(|c| c.0 == c.1 && c.0 < 256);
        let more: Vec<u8> = single.map(|c| c.0 as u8).filter(other).collect();
        all.extend(more);
        all
    }

    /// How a rule is called: table, chain, number.
    pub(super) fn rule(&self, id: RuleId) -> String {
        self.loaded.origin.get(id.0 as usize).map_or_else(
            || "a rule".to_owned(),
            |o| match o.number {
                0 => format!("{} {} policy: {}", o.table.name(), o.chain, o.text),
                n => format!("{} {} {n}: {}", o.table.name(), o.chain, o.text),
            },
        )
    }
}

/// How an opener's further packets are seen, which answers went before: these may have marked the
/// connection, or be known to nobody who tracks it.
fn marked(
    space: &mut Space,
    opener: LensId,
    answers: &Journey,
) -> Result<Vec<(LensId, Set)>, TooBig> {
    let mut found: Vec<(LensId, Set)> = Vec::new();
    for end in answers.arrived() {
        let answer = space.lens(end.seen);
        let mut seen = Lens::clone(&space.lens(opener));
        if answer.value(Field::CtState) != Some(ctstate::UNTRACKED) {
            seen.set(Field::CtMark, answer.get(Field::CtMark));
        } else if seen.value(Field::HasCt) == Some(1) {
            seen.set(Field::CtState, Bound::Const(ctstate::UNTRACKED));
        }
        let seen = space.name(seen)?;
        match found.iter_mut().find(|f| f.0 == seen) {
            Some(known) => known.1 = space.bdd.or(known.1, end.set)?,
            None => found.push((seen, end.set)),
        }
    }
    Ok(found)
}

fn all(space: &mut Space, journey: &Journey) -> Result<Set, TooBig> {
    let mut set = Set::EMPTY;
    for end in journey.arrived() {
        set = space.bdd.or(set, end.set)?;
    }
    Ok(set)
}

/// What this host sends by where.
fn sends(space: &mut Space, known: &Surroundings) -> Result<Set, TooBig> {
    let (mut from, mut by) = (Set::EMPTY, Set::EMPTY);
    for area in &known.areas {
        match area.goes {
            Goes::Here => {
                let own = space.within(Field::Src, area.first, area.last)?;
                from = space.bdd.or(from, own)?;
            }
            Goes::Out(name) => {
                let to = class(
                    space,
                    &[
                        (Field::Dst, area.first, area.last),
                        (Field::OutName, name, name),
                    ],
                )?;
                by = space.bdd.or(by, to)?;
            }
            Goes::Nowhere => {}
        }
    }
    space.bdd.and(from, by)
}

/// `eth+` stands for some `eth0`.
pub(super) fn concrete(name: &str) -> Option<String> {
    match name.strip_suffix('+') {
        Some("") => None,
        Some(start) => Some(format!("{start}0")),
        None => Some(name.to_owned()),
    }
}

/// Interfaces of the host, else those that rules name, and one more.
pub(crate) fn names(loaded: &Loaded, host: Option<&Host>) -> Vec<String> {
    let mut all: BTreeSet<String> = BTreeSet::new();
    if let Some(host) = host {
        let links = host.env.interfaces().iter().filter(|i| !i.loopback);
        all.extend(links.map(|i| i.name.clone()));
        return all.into_iter().collect();
    }
    for rule in loaded
        .source
        .tables
        .iter()
        .flat_map(|t| t.chains().flat_map(|c| &c.rules))
    {
        for link in [&rule.spec.input, &rule.spec.output].into_iter().flatten() {
            all.extend(concrete(&link.name));
        }
    }
    all.remove("lo");
    // One that no rule names.
    all.extend(["eth0", "eth1"].map(str::to_owned));
    all.into_iter().collect()
}

/// What routing says of every address.
pub(crate) fn surroundings(host: &Host, family: Family) -> Surroundings {
    let env = &host.env;
    let mut bounds = env.boundaries(family);
    // Nobody, this host itself, groups.
    let (top, special): (u128, &[u128]) = match family {
        Family::V4 => (u32::MAX.into(), &[1, 0xe000_0000, 0xf000_0000, 0xffff_ffff]),
        Family::V6 => (u128::MAX, &[1, 2, 0xff << 120]),
    };
    bounds.extend(special);
    bounds.sort_unstable();
    bounds.dedup();
    let mut areas: Vec<Area> = Vec::new();
    for (at, &first) in bounds.iter().enumerate() {
        if first > top {
            break;
        }
        let last = bounds.get(at + 1).map_or(top, |next| (next - 1).min(top));
        let route = env.route(family, first, 0, 0);
        let goes = match route {
            Some(r) => match (r.kind, r.dev.and_then(|d| env.interface(d))) {
                (RouteType::Local | RouteType::Broadcast | RouteType::Anycast, _) => Goes::Here,
                (RouteType::Unicast, Some(link)) if !link.loopback => {
                    Goes::Out(interface_number(&link.name))
                }
                _ => Goes::Nowhere,
            },
            None => Goes::Nowhere,
        };
        let kind = env.address_type(family, first, None) as u128;
        match areas.last_mut() {
            Some(before) if before.goes == goes && before.kind == kind => before.last = last,
            _ => areas.push(Area {
                first,
                last,
                goes,
                kind,
            }),
        }
    }
    let links = env.interfaces().iter().filter(|i| !i.loopback);
    let interfaces: Vec<u128> = links.clone().map(|i| interface_number(&i.name)).collect();
    let own = links.filter_map(|i| {
        let address = env.first_address(family, i.index)?;
        Some((interface_number(&i.name), address))
    });
    Surroundings {
        areas,
        forwards: env.forwards(family),
        strict: env.settings.rp_filter == tidegate_engine::env::RpFilter::Strict
            && family == Family::V4,
        own: own.collect(),
        interfaces,
    }
}
