//! Translation of addresses on the way.

use tidegate_ir::{Field, Hook, Manip, NatSource, NatSpec, RuleId, TableKind, ctstate, ctstatus};

use super::{Course, TARGETS, Trip};
use crate::bdd::{Set, TooBig};
use crate::lens::{Bound, Lens, LensId};
use crate::walk::{Ending, Flow, join};

impl Trip<'_, '_> {
    /// The nat table for first packets, and translation for others.
    pub(super) fn translated(&mut self, hook: Hook, flow: Flow) -> Result<Flow, TooBig> {
        let (mut first, mut out) = (Flow::new(), Flow::new());
        for (seen, set) in flow {
            let lens = self.space.lens(seen);
            match (self.course, lens.get(Field::CtState)) {
                (_, Bound::Const(ctstate::NEW)) => first.push((seen, set)),
                (_, Bound::Const(ctstate::ESTABLISHED)) => {
                    let next = self.as_before(hook, &lens);
                    let next = self.space.name(next)?;
                    join(self.space, &mut out, (next, set))?;
                }
                (Course::Any, Bound::Of { .. }) => {
                    self.any(hook, seen, set, &mut first, &mut out)?;
                }
                _ => join(self.space, &mut out, (seen, set))?,
            }
        }
        match self.walk(TableKind::Nat, hook, first)? {
            Ok(walk) => {
                for exit in walk.endings.iter().filter(|e| e.ending.passes()) {
                    let part = (exit.seen, exit.set);
                    match exit.ending {
                        Ending::Nat(spec) => {
                            self.translate(hook, (exit.by, spec), part, &mut out)?;
                        }
                        _ => join(self.space, &mut out, part)?,
                    }
                }
                self.visited(TableKind::Nat, hook, walk);
            }
            Err(first) => {
                for part in first {
                    join(self.space, &mut out, part)?;
                }
            }
        }
        Ok(out)
    }

    /// Translation of a packet whose connection has been translated.
    fn as_before(&self, hook: Hook, lens: &Lens) -> Lens {
        let mut next = lens.clone();
        let (opener, reply) = match self.course {
            Course::Answers(opener) => (self.space.lens(opener), true),
            Course::GoesOn(opener) => (self.space.lens(opener), false),
            Course::Opens | Course::Any => return next,
        };
        let incoming = matches!(hook, Hook::Prerouting | Hook::Output);
        match (incoming, reply) {
            // The answer goes to who asked.
            (true, true) => {
                next.set(Field::Dst, Bound::same(Field::Src));
                next.set(Field::Dport, Bound::same(Field::Sport));
                self.retype(&mut next);
            }
            (true, false) => {
                next.set(Field::Dst, opener.get(Field::Dst));
                next.set(Field::Dport, opener.get(Field::Dport));
                next.dnat = opener.dnat;
                self.retype(&mut next);
            }
            (false, _) => {}
        }
        next
    }

    /// Packets of any state: first ones go through the table, those of translated
    /// connections have the addresses that their connection says.
    fn any(
        &mut self,
        hook: Hook,
        seen: LensId,
        set: Set,
        first: &mut Flow,
        out: &mut Flow,
    ) -> Result<(), TooBig> {
        if self.way.rules.table(TableKind::Nat).is_none() {
            return join(self.space, out, (seen, set));
        }
        let new = self
            .space
            .within(Field::CtState, ctstate::NEW, ctstate::NEW)?;
        let opens = self.space.bdd.and(set, new)?;
        if !opens.is_empty() {
            first.push((seen, opens));
        }
        let rest = self.space.bdd.minus(set, new)?;
        let incoming = matches!(hook, Hook::Prerouting | Hook::Output);
        let tracked = self.space.within(Field::HasCt, 1, 1)?;
        let of = self.space.bdd.and(rest, tracked)?;
        if !incoming || of.is_empty() {
            return join(self.space, out, (seen, rest));
        }
        let others = self.space.bdd.minus(rest, tracked)?;
        join(self.space, out, (seen, others))?;
        let mut left = of;
        for (dir, bit, address, port) in [
            (0, ctstatus::DST_NAT, Field::CtReplSrc, Field::CtReplSport),
            (1, ctstatus::SRC_NAT, Field::CtOrigSrc, Field::CtOrigSport),
        ] {
            let way = self.space.within(Field::CtDir, dir, dir)?;
            let status = self.space.bits(Field::CtStatus, bit.into())?;
            let translated = self.space.bdd.and(way, status)?;
            let part = self.space.bdd.and(left, translated)?;
            left = self.space.bdd.minus(left, translated)?;
            let mut lens = (*self.space.lens(seen)).clone();
            lens.set(Field::Dst, Bound::same(address));
            lens.set(Field::Dport, Bound::same(port));
            self.retype(&mut lens);
            for (kind, part) in self.kinds(address, part)? {
                let mut lens = lens.clone();
                lens.set(Field::DstType, kind);
                let next = self.space.name(lens)?;
                join(self.space, out, (next, part))?;
            }
        }
        join(self.space, out, (seen, left))
    }

    /// Packets by what kind of address a field of theirs holds, as far as rules ask.
    fn kinds(&mut self, address: Field, set: Set) -> Result<Vec<(Bound, Set)>, TooBig> {
        let Some(host) = self.way.host.filter(|_| self.space.has(Field::DstType)) else {
            return Ok(vec![(Bound::Unknown, set)]);
        };
        let mut kinds: Vec<(Bound, Set)> = Vec::new();
        for area in &host.areas {
            let of = self.space.within(address, area.first, area.last)?;
            let of = self.space.bdd.and(of, set)?;
            let kind = Bound::Const(area.kind);
            match kinds.iter_mut().find(|k| k.0 == kind) {
                Some(same) => same.1 = self.space.bdd.or(same.1, of)?,
                None => kinds.push((kind, of)),
            }
        }
        Ok(kinds)
    }

    /// What a translation makes of first packets.
    fn translate(
        &mut self,
        hook: Hook,
        (by, spec): (RuleId, NatSpec),
        (seen, set): (LensId, Set),
        out: &mut Flow,
    ) -> Result<(), TooBig> {
        let lens = self.space.lens(seen);
        let (address, port) = match spec.manip {
            Manip::Src => (Field::Src, Field::Sport),
            Manip::Dst => (Field::Dst, Field::Dport),
        };
        let mut targets: Vec<(Bound, Set)> = Vec::new();
        match spec.addr {
            NatSource::Keep => targets.push((lens.get(address), set)),
            NatSource::Range(lo, hi) if hi.saturating_sub(lo) < TARGETS => {
                targets.extend((lo..=hi).map(|a| (Bound::Const(a), set)));
            }
            NatSource::Range(..) => targets.push((Bound::Unknown, set)),
            NatSource::Network { addr, mask } => targets.push((
                match lens.get(address) {
                    Bound::Const(old) => Bound::Const(old & !mask | addr),
                    Bound::Of { from, keep, xor } => Bound::Of {
                        from,
                        keep: keep & !mask,
                        xor: xor & !mask ^ addr,
                    },
                    other @ (Bound::Absent | Bound::Unknown) => other,
                },
                set,
            )),
            NatSource::OutInterface => targets.push((Bound::Unknown, set)),
            NatSource::InInterface => self.redirected(hook, &lens, set, &mut targets)?,
        }
        for (target, set) in targets {
            let mut next = (*lens).clone();
            next.set(address, target);
            if let Some((lo, hi)) = spec.ports {
                let one = lo == hi && spec.base_port.is_none();
                let to = match one {
                    true => Bound::Const(lo.into()),
                    false => Bound::Unknown,
                };
                next.set(port, to);
            } else if spec.manip == Manip::Src {
                // Kept if nobody else has it.
                next.set(port, Bound::Unknown);
            }
            let bit = match spec.manip {
                Manip::Src => {
                    next.snat = Some((by, spec));
                    next.set(Field::CtReplDst, target);
                    next.set(Field::CtReplDport, next.get(Field::Sport));
                    ctstatus::SRC_NAT
                }
                Manip::Dst => {
                    next.dnat = Some((by, spec));
                    next.set(Field::CtReplSrc, target);
                    next.set(Field::CtReplSport, next.get(Field::Dport));
                    ctstatus::DST_NAT
                }
            };
            let same = self.unchanged(&lens, spec, target, set)?;
            let status = next.value(Field::CtStatus);
            let status = status.map_or(Bound::Unknown, |s| Bound::Const(s | u128::from(bit)));
            let changed = self.space.bdd.minus(set, same)?;
            self.retype(&mut next);
            // The connection is one of translated addresses only if they are others.
            for (status, set) in [(status, changed), (Bound::Unknown, same)] {
                next.set(Field::CtStatus, status);
                let next = self.space.name(next.clone())?;
                join(self.space, out, (next, set))?;
            }
        }
        Ok(())
    }

    /// Packets among which are all that a translation leaves as they are (`nf_nat_setup_info`).
    fn unchanged(
        &mut self,
        lens: &Lens,
        spec: NatSpec,
        target: Bound,
        set: Set,
    ) -> Result<Set, TooBig> {
        if !self.space.has(Field::CtStatus) {
            return Ok(Set::EMPTY);
        }
        let (address, port) = match spec.manip {
            Manip::Src => (Field::Src, Field::Sport),
            Manip::Dst => (Field::Dst, Field::Dport),
        };
        let own = lens.value(Field::InName) == Some(0);
        let range = match target {
            // Who is forwarded has no address of this host.
            Bound::Unknown if spec.manip == Manip::Src && !own => return Ok(Set::EMPTY),
            Bound::Const(to) => Some((to, to)),
            Bound::Of { keep, xor, .. } => Some((xor & !keep, xor & !keep | keep)),
            Bound::Absent | Bound::Unknown => None,
        };
        let mut same = set;
        for (field, range) in [
            (address, range),
            (port, spec.ports.map(|p| (p.0.into(), p.1.into()))),
        ] {
            let Some((lo, hi)) = range else {
                continue;
            };
            match lens.get(field) {
                Bound::Const(old) if !(lo..=hi).contains(&old) => return Ok(Set::EMPTY),
                bound @ Bound::Of { from, .. } if bound == Bound::same(from) => {
                    let may = self.space.within(from, lo, hi)?;
                    same = self.space.bdd.and(same, may)?;
                }
                _ => {}
            }
        }
        Ok(same)
    }

    /// This host's own address, where a packet came in.
    fn redirected(
        &mut self,
        hook: Hook,
        lens: &Lens,
        set: Set,
        targets: &mut Vec<(Bound, Set)>,
    ) -> Result<(), TooBig> {
        let v4 = self.way.rules.family == tidegate_wire::Family::V4;
        if hook == Hook::Output {
            let own = if v4 { 0x7f00_0001 } else { 1 };
            targets.push((Bound::Const(own), set));
            return Ok(());
        }
        let known = self
            .way
            .host
            .filter(|_| lens.get(Field::InName) == Bound::same(Field::InName));
        let Some(host) = known else {
            targets.push((Bound::Unknown, set));
            return Ok(());
        };
        let mut rest = set;
        for &(name, address) in &host.own {
            let by = self.space.within(Field::InName, name, name)?;
            let here = self.space.bdd.and(rest, by)?;
            rest = self.space.bdd.minus(rest, by)?;
            if !here.is_empty() {
                targets.push((Bound::Const(address), here));
            }
        }
        if !rest.is_empty() {
            targets.push((Bound::Unknown, rest));
        }
        Ok(())
    }

    /// What rules see of addresses that have changed.
    fn retype(&self, lens: &mut Lens) {
        let types = [
            (
                Field::Src,
                Field::SrcType,
                [Field::SrcTypeIn, Field::SrcTypeOut],
            ),
            (
                Field::Dst,
                Field::DstType,
                [Field::DstTypeIn, Field::DstTypeOut],
            ),
        ];
        for (address, plain, others) in types {
            let kind = match lens.get(address) {
                Bound::Const(a) => self
                    .way
                    .host
                    .and_then(|h| h.area(a))
                    .map_or(Bound::Unknown, |area| Bound::Const(area.kind)),
                bound if bound == Bound::same(Field::Src) => Bound::same(Field::SrcType),
                bound if bound == Bound::same(Field::Dst) => Bound::same(Field::DstType),
                bound => {
                    let area = self.way.host.and_then(|h| h.around(bound));
                    area.map_or(Bound::Unknown, |area| Bound::Const(area.kind))
                }
            };
            lens.set(plain, kind);
            for field in others {
                if lens.get(address) != Bound::same(address) {
                    lens.set(field, Bound::Unknown);
                }
            }
        }
    }
}
