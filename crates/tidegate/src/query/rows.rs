//! Services: which ports of whom are open to whom.

use serde_json::{Value, json};
use tidegate_analysis::{Bound, Fate, Goes, Origin, Set, TooBig};
use tidegate_host::address;
use tidegate_ir::{Field, RuleId};

use super::ask::{Asked, Open, echo, has_ports, icmp};
use super::confirm::Tried;
use super::words::{Senders, addresses, rest, values};
use crate::replay::brief::ProtoName;

/// Rules that are named as a reason.
const NAMED: usize = 3;
/// Pieces that ports are cut into at most, when they cannot be looked at all at once, and steps of
/// work for one at least, while there are any.
const PIECES: usize = 4_000;
const PIECE: u64 = 500_000;
/// Destinations that are told apart at most.
const DESTINATIONS: usize = 600;

impl Question {
    /// The interface that senders are told apart by.
    const fn link(&self) -> Field {
        match self.origin {
            Origin::Received => Field::InName,
            Origin::Sent => Field::OutName,
        }
    }
}

/// What is asked: first packets of one protocol.
#[derive(Clone, Debug)]
pub(super) struct Question {
    /// Protocol.
    pub(super) protocol: u8,
    /// Who sends.
    pub(super) origin: Origin,
    /// Senders and destinations, as intervals that must all hold.
    pub(super) only: Vec<(Field, u128, u128)>,
    /// Networks or interfaces of which one must be the sender's; all where it is empty.
    pub(super) from: Vec<(Field, u128, u128)>,
    /// Only what is translated to this server.
    pub(super) after: Option<Wanted>,
}

/// Where connections end, in words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Target {
    /// `this host`, `through` or a translated address.
    pub(super) place: String,
    /// Destinations as the sender names them.
    pub(super) destination: String,
    /// What it is translated to, with port.
    pub(super) translated: Option<String>,
}

/// Ports of a target that the same senders can reach.
#[derive(Clone, Debug)]
pub(super) struct Row {
    /// Protocol.
    pub(super) protocol: u8,
    /// Ports, where there are ports.
    pub(super) ports: Vec<(u16, u16)>,
    /// Where.
    pub(super) target: Target,
    /// Who.
    pub(super) senders: Vec<Senders>,
    /// What else must hold.
    pub(super) limits: Vec<String>,
    /// A connection that got through.
    pub(super) example: Option<Tried>,
    /// Why it is not known.
    pub(super) unknown: Option<String>,
    /// The rules that decided on the example, in words.
    pub(super) by: Option<String>,
}

/// Intervals of ports.
type Ports = Vec<(u16, u16)>;

/// Packets that share a row.
struct Part {
    open: Open,
    ports: Ports,
    rest: Set,
}

impl Asked<'_> {
    /// Which connections can be opened.
    pub(super) fn rows(&mut self, question: &Question) -> Vec<Row> {
        let whole = self.share(4);
        match self.within(whole, |asked| asked.rows_of(question, &[])) {
            Ok(rows) => rows,
            Err(TooBig) if has_ports(question.protocol) => self.pieces(question),
            Err(TooBig) => vec![left_out(question.protocol, Vec::new())],
        }
    }

    /// The same, port by port.
    fn pieces(&mut self, question: &Question) -> Vec<Row> {
        let mut rows: Vec<Row> = Vec::new();
        let asked = question.only.iter().find(|o| o.0 == Field::Dport);
        let (lo, hi) = asked.map_or((1, u128::from(u16::MAX)), |o| (o.1, o.2));
        let mut inside = self.space.classes(Field::Dport);
        inside.retain(|c| c.0 >= lo && c.1 <= hi);
        // The rest is for the other questions.
        let mut left = self.share(4) * 3;
        for (at, class) in inside.iter().enumerate() {
            let ports = vec![(class.0 as u16, class.1.min(0xffff) as u16)];
            let mut piece = question.clone();
            piece.only.push((Field::Dport, class.0, class.1));
            let steps = left.min(PIECE.max(left / (inside.len() - at) as u64));
            let before = self.share(1);
            let found = match at < PIECES {
                true => self.within(steps, |asked| {
                    asked.rows_of(&piece, &[(Field::Dport, class.0)])
                }),
                false => Err(TooBig),
            };
            left -= (before - self.share(1)).min(left);
            let found = found.unwrap_or_else(|TooBig| vec![left_out(question.protocol, ports)]);
            for row in found {
                match rows.iter_mut().find(|r| r.is_like(&row)) {
                    Some(same) => same.add(&row.ports),
                    None => rows.push(row),
                }
            }
        }
        rows
    }

    fn rows_of(
        &mut self,
        question: &Question,
        fixed: &[(Field, u128)],
    ) -> Result<Vec<Row>, TooBig> {
        let protocol = question.protocol;
        let all = self.openers(protocol, question.origin)?;
        let set = self.narrowed(all, question)?;
        let mut known = vec![(Field::Proto, u128::from(protocol))];
        if protocol == icmp(self.family()) {
            known.push((Field::IcmpTypeCode, echo(self.family())));
        }
        known.extend(fixed);
        let found = self.openings(question.origin, set, &known)?;
        let mut rows = Vec::new();
        for mut open in self.by_target(found.open)? {
            if let Some(wanted) = &question.after
                && !self.translated_to(wanted, &mut open)?
            {
                continue;
            }
            for part in self.parts(question, &open)? {
                rows.push(self.row(question, part, all, &found.doubts)?);
            }
        }
        Ok(rows)
    }

    /// Openings that end alike, whatever marks they have.
    fn by_target(&mut self, all: Vec<Open>) -> Result<Vec<Open>, TooBig> {
        let mut found: Vec<(Fate, [Bound; 2], Option<RuleId>, Open)> = Vec::new();
        for open in all {
            let lens = self.space.lens(open.seen);
            let server = [lens.get(Field::Dst), lens.get(Field::Dport)];
            let by = lens.dnat.map(|d| d.0);
            match found
                .iter_mut()
                .find(|f| (f.0, f.1, f.2) == (open.fate, server, by))
            {
                Some(same) => same.3.set = self.space.bdd.or(same.3.set, open.set)?,
                None => found.push((open.fate, server, by, open)),
            }
        }
        Ok(found.into_iter().map(|f| f.3).collect())
    }

    /// The packets that a question is about.
    fn narrowed(&mut self, all: Set, question: &Question) -> Result<Set, TooBig> {
        for &(field, lo, hi) in &question.only {
            self.window.narrow(&self.space, field, lo, hi);
        }
        let only = crate::whole::class(&mut self.space, &question.only)?;
        let mut set = self.space.bdd.and(all, only)?;
        if !question.from.is_empty() {
            let mut any = Set::EMPTY;
            for &(field, lo, hi) in &question.from {
                let one = self.space.within(field, lo, hi)?;
                any = self.space.bdd.or(any, one)?;
            }
            set = self.space.bdd.and(set, any)?;
        }
        Ok(set)
    }

    /// Openings cut so that in each part senders, links and destinations have nothing to do
    /// with each other, as far as can be.
    fn parts(&mut self, question: &Question, open: &Open) -> Result<Vec<Part>, TooBig> {
        let link = question.link();
        let mut parts: Vec<Part> = Vec::new();
        for class in self.space.classes(link) {
            let by = self.space.within(link, class.0, class.0)?;
            let set = self.space.bdd.and(open.set, by)?;
            for (ports, set) in self.by_ports(question.protocol, set)? {
                for set in self.by_destination(set)? {
                    let rest = self.space.without(set, link)?;
                    let rest = self.space.without(rest, Field::Dport)?;
                    let same = |p: &&mut Part| p.rest == rest && p.ports == ports;
                    match parts.iter_mut().find(same) {
                        Some(same) => same.open.set = self.space.bdd.or(same.open.set, set)?,
                        None => parts.push(Part {
                            open: Open {
                                set,
                                ..open.clone()
                            },
                            ports: ports.clone(),
                            rest,
                        }),
                    }
                }
            }
        }
        Ok(parts)
    }

    /// Ports that are open to the same packets otherwise.
    fn by_ports(&mut self, protocol: u8, set: Set) -> Result<Vec<(Ports, Set)>, TooBig> {
        if set.is_empty() {
            return Ok(Vec::new());
        }
        if !has_ports(protocol) {
            return Ok(vec![(Vec::new(), set)]);
        }
        let mut groups: Vec<(Set, Ports, Set)> = Vec::new();
        for (lo, hi) in self.space.classes(Field::Dport) {
            if lo == 0 || lo > 0xffff {
                continue;
            }
            let class = self.space.within(Field::Dport, lo, lo)?;
            let of = self.space.bdd.and(set, class)?;
            if of.is_empty() {
                continue;
            }
            let rest = self.space.without(of, Field::Dport)?;
            let ports = (lo as u16, hi.min(0xffff) as u16);
            match groups.iter_mut().find(|g| g.0 == rest) {
                Some(same) => {
                    add(&mut same.1, &[ports]);
                    same.2 = self.space.bdd.or(same.2, of)?;
                }
                None => groups.push((rest, vec![ports], of)),
            }
        }
        Ok(groups.into_iter().map(|g| (g.1, g.2)).collect())
    }

    /// Destinations that are open to the same senders.
    fn by_destination(&mut self, set: Set) -> Result<Vec<Set>, TooBig> {
        let classes = self.space.classes(Field::Dst);
        if classes.len() > DESTINATIONS {
            return Ok(vec![set]);
        }
        let mut groups: Vec<(Set, Set)> = Vec::new();
        for (lo, _) in classes {
            let class = self.space.within(Field::Dst, lo, lo)?;
            let of = self.space.bdd.and(set, class)?;
            if of.is_empty() {
                continue;
            }
            // What kind of address it is goes with it.
            let rest = self.space.without(of, Field::Dst)?;
            let rest = self.space.without(rest, Field::DstType)?;
            match groups.iter_mut().find(|g| g.0 == rest) {
                Some(same) => same.1 = self.space.bdd.or(same.1, of)?,
                None => groups.push((rest, of)),
            }
        }
        if groups.is_empty() {
            // Destinations are told apart by bits.
            return Ok(vec![set]);
        }
        Ok(groups.into_iter().map(|g| g.1).collect())
    }

    fn row(
        &mut self,
        question: &Question,
        part: Part,
        all: Set,
        doubts: &[(RuleId, Set)],
    ) -> Result<Row, TooBig> {
        let senders = self.senders(part.open.set, all, question.link())?;
        let limits = self.limits(part.open.set, all)?;
        let target = self.target(question, &part.open, all)?;
        let example = self.confirmed(question.protocol, &part.open, |t| t.complete)?;
        let unknown = match example {
            Some(_) => None,
            None => Some(self.reason(part.open.set, doubts)?),
        };
        let by = example.as_ref().and_then(|t| self.decider(&t.hits));
        Ok(Row {
            protocol: question.protocol,
            ports: part.ports,
            target,
            senders,
            limits,
            example,
            unknown,
            by,
        })
    }

    fn target(&mut self, question: &Question, open: &Open, all: Set) -> Result<Target, TooBig> {
        let family = self.family();
        let lens = self.space.lens(open.seen);
        let some = values(&mut self.space, open.set, Field::Dst)?;
        let mut whole = values(&mut self.space, all, Field::Dst)?;
        if let Some(known) = self.surroundings.as_ref().filter(|_| lens.dnat.is_none()) {
            let own = known.areas.iter().filter(|a| a.goes == Goes::Here);
            let own: Vec<(u128, u128)> = own.map(|a| (a.first, a.last)).collect();
            let others = rest(&whole, &own);
            whole = match open.fate {
                Fate::Here => rest(&whole, &others),
                _ => others,
            };
        }
        let (destination, ..) = addresses(family, &some, &whole);
        let translated = lens.dnat.map(|_| {
            let host = match lens.get(Field::Dst) {
                Bound::Const(a) => address(family, a).to_string(),
                Bound::Of { .. } => "the same address".to_owned(),
                Bound::Absent | Bound::Unknown => "some address".to_owned(),
            };
            match lens.get(Field::Dport) {
                Bound::Const(port) if has_ports(question.protocol) => format!("{host} port {port}"),
                _ => host,
            }
        });
        let place = match open.fate {
            Fate::Here => "this host",
            _ => "other hosts",
        };
        Ok(Target {
            place: place.to_owned(),
            destination,
            translated,
        })
    }

    /// Why nothing is known about connections in `set`.
    fn reason(&mut self, set: Set, doubts: &[(RuleId, Set)]) -> Result<String, TooBig> {
        let mut rules = Vec::new();
        for (rule, of) in doubts {
            let name = self.rule(*rule);
            if !rules.contains(&name) && !self.space.bdd.and(*of, set)?.is_empty() {
                rules.push(name);
            }
        }
        let more = rules.len().saturating_sub(NAMED);
        rules.truncate(NAMED);
        Ok(match (rules.is_empty(), more) {
            (true, _) => "no example that was tried got through".to_owned(),
            (false, 0) => format!("depends on {}", rules.join("; ")),
            (false, more) => format!("depends on {} and {more} more", rules.join("; ")),
        })
    }

    /// The rule of the filter table that let a packet pass, else the last one it met.
    fn decider(&self, hits: &[RuleId]) -> Option<String> {
        let filter = |id: &&RuleId| {
            let origin = self.loaded.origin.get(id.0 as usize);
            origin.is_some_and(|o| o.table == tidegate_ir::TableKind::Filter)
        };
        let decisive = hits.iter().rfind(filter).or_else(|| hits.last())?;
        Some(self.rule(*decisive))
    }
}

fn left_out(protocol: u8, ports: Vec<(u16, u16)>) -> Row {
    Row {
        protocol,
        ports,
        target: Target {
            place: "anybody".to_owned(),
            destination: "anywhere".to_owned(),
            translated: None,
        },
        senders: Vec::new(),
        limits: Vec::new(),
        example: None,
        unknown: Some(
            TooBig
                .to_string()
                .trim_start_matches("unknown: ")
                .to_owned(),
        ),
        by: None,
    }
}

/// Adds ports, which come in ascending order.
fn add(ports: &mut Vec<(u16, u16)>, more: &[(u16, u16)]) {
    for &(lo, hi) in more {
        match ports.last_mut() {
            Some(last) if last.1.checked_add(1) == Some(lo) => last.1 = hi,
            _ => ports.push((lo, hi)),
        }
    }
}

impl Row {
    fn is_like(&self, other: &Row) -> bool {
        self.target == other.target
            && self.senders == other.senders
            && self.limits == other.limits
            && self.unknown == other.unknown
            && self.by == other.by
    }

    fn add(&mut self, ports: &[(u16, u16)]) {
        add(&mut self.ports, ports);
    }

    /// Protocol and ports, in words.
    pub(super) fn service(&self) -> String {
        let protocol = ProtoName(self.protocol);
        let list: Vec<String> = self
            .ports
            .iter()
            .map(|&(lo, hi)| match lo == hi {
                true => lo.to_string(),
                false => format!("{lo}-{hi}"),
            })
            .collect();
        match list.is_empty() {
            true if matches!(self.protocol, 1 | 58) => format!("{protocol} ping"),
            true => protocol.to_string(),
            false => format!("{protocol}/{}", list.join(",")),
        }
    }

    /// Where to, in words.
    pub(super) fn to(&self) -> String {
        let target = &self.target;
        let mut text = match (target.place.as_str(), target.destination.as_str()) {
            (place, "anywhere") => place.to_owned(),
            ("this host", at) => format!("this host as {at}"),
            (_, at) => at.to_owned(),
        };
        if let Some(to) = &target.translated {
            text = match target.destination.as_str() {
                "anywhere" => format!("{to} (translated)"),
                at => format!("{to} (translated from {at})"),
            };
        }
        text
    }

    /// Who, in words.
    pub(super) fn from(&self) -> String {
        let mut all: Vec<String> = self
            .senders
            .iter()
            .map(|s| match s.interfaces.as_slice() {
                [any] if any == "any" => s.sources.clone(),
                links => format!("{}: {}", links.join(","), s.sources),
            })
            .collect();
        if all.is_empty() {
            all.push("?".to_owned());
        }
        let mut text = all.join("; ");
        if !self.limits.is_empty() {
            text += &format!(" ({})", self.limits.join(", "));
        }
        text
    }

    /// For programs.
    pub(super) fn json(&self, family: &str) -> Value {
        let senders: Vec<Value> = self
            .senders
            .iter()
            .map(|s| {
                let key = if s.except { "except" } else { "networks" };
                json!({ "interfaces": s.interfaces, key: s.networks })
            })
            .collect();
        json!({
            "family": family,
            "protocol": ProtoName(self.protocol).to_string(),
            "ports": self.ports,
            "to": self.target.place,
            "destination": self.target.destination,
            "translated": self.target.translated,
            "from": senders,
            "limits": self.limits,
            "open": self.example.is_some().then_some(true),
            "example": self.example.as_ref().map(|t| &t.words),
            "by": self.by,
            "unknown": self.unknown,
        })
    }
}

/// A server that is asked about, as the sender names it or after translation.
#[derive(Clone, Copy, Debug)]
pub(super) struct Wanted {
    /// Ports.
    pub(super) ports: Option<(u128, u128)>,
    /// This host.
    pub(super) here: bool,
    /// Addresses.
    pub(super) net: Option<(u128, u128)>,
}

impl Wanted {
    fn only(&self) -> Vec<(Field, u128, u128)> {
        let ports = self.ports.map(|(lo, hi)| (Field::Dport, lo, hi));
        let net = self.net.map(|(lo, hi)| (Field::Dst, lo, hi));
        ports.into_iter().chain(net).collect()
    }

    /// Whether a value can be one of some.
    fn holds(bound: Bound, range: Option<(u128, u128)>) -> bool {
        match (bound, range) {
            (Bound::Const(v), Some((lo, hi))) => (lo..=hi).contains(&v),
            _ => true,
        }
    }
}

impl Asked<'_> {
    /// Connections to a server that is named before or after translation.
    pub(super) fn rows_to(
        &mut self,
        protocol: u8,
        origin: Origin,
        from: &[(Field, u128, u128)],
        wanted: &Wanted,
    ) -> Vec<Row> {
        let mut rows = self.rows(&Question {
            protocol,
            origin,
            only: wanted.only(),
            from: from.to_vec(),
            after: None,
        });
        if self.translates() {
            rows.extend(self.rows(&Question {
                protocol,
                origin,
                only: Vec::new(),
                from: from.to_vec(),
                after: Some(*wanted),
            }));
        }
        rows.retain(|r| !wanted.here || r.target.place == "this host" || r.unknown.is_some());
        rows
    }

    /// Those of some openings that end at a server, translated, and were not sent to it.
    fn translated_to(&mut self, wanted: &Wanted, open: &mut Open) -> Result<bool, TooBig> {
        let lens = self.space.lens(open.seen);
        if lens.dnat.is_none() {
            return Ok(false);
        }
        let before = crate::whole::class(&mut self.space, &wanted.only())?;
        open.set = self.space.bdd.minus(open.set, before)?;
        for (field, range) in [(Field::Dport, wanted.ports), (Field::Dst, wanted.net)] {
            let bound = lens.get(field);
            if !Wanted::holds(bound, range) {
                return Ok(false);
            }
            if let (Bound::Of { from, .. }, Some((lo, hi))) = (bound, range)
                && bound == Bound::same(from)
            {
                let one = self.space.within(from, lo, hi)?;
                open.set = self.space.bdd.and(open.set, one)?;
            }
        }
        Ok(!open.set.is_empty())
    }
}
