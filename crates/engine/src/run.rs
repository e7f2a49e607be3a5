//! One packet at one hook: the stages in order.

use tidegate_conntrack::{self as ct, Attached, CtInfo, InHook, Status, Time, Tracked};
use tidegate_ir::{Hook, QueueSpec, RuleId, TableKind};
use tidegate_wire::Family;

use crate::act::Copy;
use crate::at_table::AtTable;
use crate::defrag::{self, Defragged};
use crate::engine::{Engine, Family4Or6, index};
use crate::facts::View;
use crate::flow::{Follow, Start, Unplanned};
use crate::hooks::{Stage, stages};
use crate::origin::{By, Passage};
use crate::outcome::{DropReason, Output};
use crate::packet::{Packet, Tracking};
use crate::queue::Held;
use crate::staged::Otherwise;
use crate::tables::{self, Decision};
use crate::trace::{Trace, TraceEvent};
use crate::usual::Usual;

/// Why a packet leaves the way it was on.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Stop {
    /// Discarded.
    Drop(DropReason),
    /// Kept as a fragment.
    Held,
    /// A rule said NFQUEUE.
    Queue(QueueSpec, RuleId),
    /// It waits for the answer of a queue's reader, in the place that [`Run::parking`] says.
    Parked,
}

/// Where a packet was when a rule said NFQUEUE.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Place {
    pub(crate) hook: Hook,
    /// Which of the hook's stages.
    pub(crate) at: usize,
    /// What its route was made with.
    pub(crate) routed: RoutingInputs,
}

/// Where a packet waits.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Parking {
    pub(crate) held: Held,
    pub(crate) place: Place,
}

impl From<ct::DropReason> for Stop {
    fn from(reason: ct::DropReason) -> Self {
        Stop::Drop(DropReason::Conntrack(reason))
    }
}

/// One call into the engine.
pub(crate) struct Run<'e, T> {
    pub(crate) engine: &'e mut Engine,
    pub(crate) trace: &'e mut T,
    pub(crate) now: Time,
    pub(crate) outputs: Vec<Output>,
    pub(crate) looped: bool,
    /// Where the packet that is on its way out of the hooks is to wait.
    pub(crate) parking: Option<Parking>,
    /// The connection that tracking has found for a packet before it came to a hook, where
    /// there is no more to be said.
    pub(crate) attached: Option<Attached>,
    /// What else tracking has said about it.
    pub(crate) tracked: Option<Tracked>,
}

impl<'e, T: Trace> Run<'e, T> {
    pub(crate) fn new(engine: &'e mut Engine, now: Time, trace: &'e mut T) -> Self {
        if let Some(staged) = engine.staged.as_deref_mut() {
            staged.begin();
        }
        Run {
            outputs: std::mem::take(&mut engine.spare),
            engine,
            trace,
            now,
            looped: false,
            parking: None,
            attached: None,
            tracked: None,
        }
    }

    #[inline]
    pub(crate) fn event(&mut self, event: TraceEvent<'_>) {
        if T::ACTIVE {
            self.trace.event(event);
        }
    }

    /// Takes `packet` through all stages of `hook`.
    pub(crate) fn hook(&mut self, packet: &mut Packet, hook: Hook) -> Result<(), Stop> {
        self.event(TraceEvent::Hook {
            hook,
            input: packet.in_dev,
            output: packet.out_dev,
        });
        self.stages(packet, hook, 0)
    }

    /// Takes `packet` through the stages of `hook` from the one at `from` on.
    pub(crate) fn stages(
        &mut self,
        packet: &mut Packet,
        hook: Hook,
        from: usize,
    ) -> Result<(), Stop> {
        // Those before `from` are behind it.
        let mut left = self.active(packet, hook) >> from << from;
        while left != 0 {
            let at = left.trailing_zeros() as usize;
            left &= left - 1;
            match self.stage(packet, hook, stages(hook)[at]) {
                Err(Stop::Queue(spec, rule)) => {
                    let routed = routing_inputs(packet);
                    self.queue(packet, Place { hook, at, routed }, spec, rule)?;
                }
                done => done?,
            }
        }
        Ok(())
    }

    /// The stages of `hook` that have something to do with packets of this one's family, a
    /// bit each.
    fn active(&self, packet: &Packet, hook: Hook) -> u8 {
        self.engine.active[index(packet.family())][hook as usize]
    }

    /// Takes `packet` through a stage once more, where there still is one.
    pub(crate) fn stage_again(&mut self, packet: &mut Packet, place: Place) -> Result<(), Stop> {
        if self.active(packet, place.hook) >> place.at & 1 == 0 {
            return Ok(());
        }
        self.stage(packet, place.hook, stages(place.hook)[place.at])
    }

    /// Takes `packet` through one stage.
    fn stage(&mut self, packet: &mut Packet, hook: Hook, stage: Stage) -> Result<(), Stop> {
        match stage {
            Stage::Table(_) if packet.follow.is_some() => self.follow_table(packet),
            Stage::Defrag => self.defrag(packet, hook)?,
            Stage::Table(TableKind::Mangle) if hook == Hook::Output => {
                self.mangle_output(packet)?;
                self.engine.flows.recorder.table_passed();
            }
            Stage::Table(kind) => {
                self.table(packet, kind, hook)?;
                self.engine.flows.recorder.table_passed();
            }
            Stage::Conntrack => self.conntrack(packet, hook)?,
            Stage::Nat(manip) => self.nat(packet, hook, manip)?,
            Stage::Confirm => {
                self.splice(packet)?;
                self.confirm(packet)?;
            }
        }
        Ok(())
    }

    /// Packets that have been through it are not reassembled again.
    fn defrag(&mut self, packet: &mut Packet, hook: Hook) -> Result<(), Stop> {
        let settled = matches!(
            packet.tracking,
            Tracking::Connection(_) | Tracking::Untracked
        );
        if settled || !defrag::takes(packet) {
            return Ok(());
        }
        let user = if hook == Hook::Output {
            defrag::User::Output
        } else {
            defrag::User::Prerouting
        };
        self.reassemble(packet, user)
    }

    /// IPv4 fragments for this host that nothing has put together yet are put together
    /// before INPUT (`ip_local_deliver`); IPv6 leaves that to the transport protocols.
    pub(crate) fn reassemble_for_delivery(&mut self, packet: &mut Packet) -> Result<(), Stop> {
        if packet.family() == Family::V4 && packet.layout.is_fragment() {
            self.reassemble(packet, defrag::User::Delivery)?;
        }
        Ok(())
    }

    fn reassemble(&mut self, packet: &mut Packet, user: defrag::User) -> Result<(), Stop> {
        let limits = self.engine.config.defrag;
        match self.engine.defrag.take(packet, user, self.now, &limits) {
            Defragged::Held => Err(Stop::Held),
            Defragged::Passed => Ok(()),
            Defragged::Refused(error) => Err(Stop::Drop(DropReason::Fragment(error))),
            Defragged::Whole(whole) => {
                *packet = *whole;
                if let Some(fragments) = &mut packet.fragments {
                    fragments.delivered = user == defrag::User::Delivery;
                }
                let len = packet.bytes.len();
                self.event(TraceEvent::Reassembled(len));
                Ok(())
            }
        }
    }

    pub(crate) fn table(
        &mut self,
        packet: &mut Packet,
        kind: TableKind,
        hook: Hook,
    ) -> Result<(), Stop> {
        let staged = self.rehearse(packet, kind, hook);
        let (decision, copies, by) = self.decide(packet, kind, hook);
        if let Some(staged) = staged {
            let what = Otherwise {
                family: packet.family(),
                table: kind,
                hook,
                live: (decision.into(), by),
                staged,
            };
            self.compare(packet, what);
        }
        let passage = || {
            let by = By::Rule(by?);
            Some(Passage {
                hook,
                table: kind,
                by,
            })
        };
        self.engine.origins.note(packet, passage);
        if !copies.is_empty() {
            self.send_copies(copies);
        }
        match decision {
            Decision::Accept => Ok(()),
            Decision::Drop(reason) => Err(Stop::Drop(reason)),
            Decision::Reject(kind, id) => {
                self.reject(packet, kind);
                Err(Stop::Drop(DropReason::Reject(id)))
            }
            Decision::Queue(spec, id) => Err(Stop::Queue(spec, id)),
            Decision::SynProxy(spec, id) => self.syn_proxy(packet, &spec, id),
            Decision::Problem(pointer, id) => {
                self.emit_problem(packet, pointer);
                Err(Stop::Drop(DropReason::Target(id)))
            }
        }
    }

    fn decide(
        &mut self,
        packet: &mut Packet,
        kind: TableKind,
        hook: Hook,
    ) -> (Decision, Vec<Copy>, Option<RuleId>) {
        let Engine {
            families,
            conntrack,
            env,
            random,
            outside,
            stack,
            flows,
            shared,
            ..
        } = &mut *self.engine;
        let Family4Or6 {
            rules,
            classifiers,
            counters,
            steps,
            ..
        } = &mut families[index(packet.family())];
        let Some(table) = rules.table(kind) else {
            return (Decision::Accept, Vec::new(), None);
        };
        let mut at = AtTable {
            copies: Vec::new(),
            packet,
            usual: Usual::unread(),
            conntrack,
            env,
            counters,
            steps,
            shared,
            random,
            outside,
            trace: self.trace,
            recorder: &mut flows.recorder,
            outputs: &mut self.outputs,
            now: self.now,
            hook,
            last: None,
        };
        let decision = tables::walk(&mut at, table, &classifiers[kind as usize], hook, stack);
        if !at.outside.said.is_empty() {
            at.log_said();
        }
        (decision, at.copies, at.last)
    }

    /// Locally sent packets are routed again when mangle changed what routing looks
    /// at (`ipt_mangle_out`, `ip6t_mangle_out`).
    fn mangle_output(&mut self, packet: &mut Packet) -> Result<(), Stop> {
        let before = routing_inputs(packet);
        let done = self.table(packet, TableKind::Mangle, Hook::Output);
        let stays = matches!(done, Ok(()) | Err(Stop::Queue(..)));
        if stays && routing_inputs(packet) != before {
            self.reroute(packet)?;
        }
        done
    }

    fn conntrack(&mut self, packet: &mut Packet, hook: Hook) -> Result<(), Stop> {
        let template = match &packet.tracking {
            Tracking::Connection(_) | Tracking::Untracked => return Ok(()),
            Tracking::None | Tracking::Invalid(_) => None,
            Tracking::Template(t) => Some(*t),
        };
        let in_hook = if hook == Hook::Prerouting {
            InHook::Prerouting
        } else {
            InHook::Output
        };
        // Field by field, as they were written: a copy of the whole would wait for all.
        if let Some(Attached { id, dir, info }) = self.attached.take() {
            packet.tracking = Tracking::Connection(Attached { id, dir, info });
            self.is_tracked(packet);
            return Ok(());
        }
        let tracked = self.tracked.take().unwrap_or_else(|| {
            let (bytes, layout) = (&packet.bytes, &packet.layout);
            let conntrack = &mut self.engine.conntrack;
            conntrack.handle_packet(self.now, bytes, layout, in_hook, template.as_ref())
        });
        if self
            .engine
            .conntrack
            .config()
            .logs_invalid(packet.layout.proto)
        {
            self.log_invalid(packet, &tracked);
        }
        packet.tracking = match tracked {
            Tracked::Ct(attached) => Tracking::Connection(attached),
            Tracked::Untracked => Tracking::Untracked,
            Tracked::Invalid(reason) => {
                self.engine.drops.count_invalid(&reason);
                Tracking::Invalid(reason)
            }
            Tracked::Drop(reason) => return Err(reason.into()),
        };
        self.is_tracked(packet);
        Ok(())
    }

    /// The packet has what tracking says about it.
    fn is_tracked(&mut self, packet: &mut Packet) {
        if let Tracking::Connection(a) = packet.tracking
            && matches!(a.info, CtInfo::New | CtInfo::Related)
            && self
                .engine
                .conntrack
                .entry(a.id)
                .is_some_and(|e| !e.confirmed())
        {
            self.engine.origins.begin(a.id);
        }
        if T::ACTIVE {
            let note = self.engine.conntrack.last_note();
            self.trace.event(TraceEvent::Conntrack {
                tracking: &packet.tracking,
                note,
            });
        } else {
            self.plan(packet);
        }
    }

    /// Lets the packet follow the plan of its flow, or records it for one.
    fn plan(&mut self, packet: &mut Packet) {
        let Engine {
            families,
            conntrack,
            env,
            random,
            outside,
            flows,
            shared,
            staged,
            ..
        } = &mut *self.engine;
        let Tracking::Connection(a) = packet.tracking else {
            return flows.recorder.end();
        };
        if packet.traced || staged.is_some() {
            return flows.recorder.spoil(Unplanned::Watched);
        }
        let Some(start) = Start::of(packet, a.info) else {
            return flows.recorder.end();
        };
        let tag = conntrack.entry(a.id).map_or(0, |e| e.tags[a.dir.ix()]);
        let mut facts = View {
            packet,
            usual: &mut Usual::unread(),
            conntrack,
            env,
            steps: &mut families[index(packet.family())].steps,
            shared,
            random,
            outside,
            now: self.now,
            rehearsed: false,
        };
        let Some(plan) = flows.fitting(tag, &start, &mut facts) else {
            return flows.record(start);
        };
        packet.mark = plan.mark;
        packet.follow = Some(Follow::of(tag));
        flows.followed += 1;
    }

    /// Raises the counters of the table that the packet would walk now.
    fn follow_table(&mut self, packet: &mut Packet) {
        let Engine {
            families, flows, ..
        } = &mut *self.engine;
        let counters = &mut families[index(packet.family())].counters;
        let len = packet.layout.len;
        if let Some(follow) = &mut packet.follow {
            for &id in flows.next_table(follow) {
                if let Some(counter) = counters.get_mut(id as usize) {
                    counter.count(len);
                }
            }
        }
    }

    /// The last hook: helper and sequence adjustment, then the entry enters the table
    /// (`nf_confirm`).
    fn confirm(&mut self, packet: &mut Packet) -> Result<(), Stop> {
        let Some(mut attached) = packet.tracking.connection().copied() else {
            return Ok(());
        };
        let read = |e: &ct::Entry| e.helper.is_some() || e.status.has(Status::SEQ_ADJUST);
        if self.engine.conntrack.entry(attached.id).is_some_and(read) {
            self.help(packet, &attached)?;
        }
        let conntrack = &mut self.engine.conntrack;
        let fresh = T::ACTIVE && conntrack.entry(attached.id).is_some_and(|e| !e.confirmed());
        let before = (attached.id, attached.info);
        conntrack.confirm(self.now, &mut attached)?;
        if (attached.id, attached.info) != before {
            packet.tracking = Tracking::Connection(attached);
        }
        if fresh
            && self
                .engine
                .conntrack
                .entry(attached.id)
                .is_some_and(ct::Entry::confirmed)
        {
            self.event(TraceEvent::Confirmed(attached));
        }
        Ok(())
    }
}

/// What routing depends on, per family.
pub(crate) type RoutingInputs = (u128, u128, u32, u8, u8);

pub(crate) fn routing_inputs(p: &Packet) -> RoutingInputs {
    let hop_limit = match p.family() {
        Family::V4 => 0,
        Family::V6 => p.ttl(),
    };
    (p.src(), p.dst(), p.mark, p.tos(), hop_limit)
}
