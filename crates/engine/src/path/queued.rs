//! Packets on their way into queues and out again (`nf_queue`, `nf_reinject`).

use tidegate_conntrack::Attached;
use tidegate_ir::{Hook, QueueSpec, RuleId};

use super::{Then, Way};
use crate::outcome::{Disposition, DropReason, Outcome, Passed};
use crate::packet::Packet;
use crate::queue::{self, Answer, Bound, Parked, QueueVerdict, Queued};
use crate::run::{Parking, Place, Run, Stop, routing_inputs};
use crate::trace::Trace;

/// How often a packet meets a table again, or is sent on to another queue, by answers that
/// are given at once.
const MAX_TURNS: u32 = 64;

/// Where a packet that has been to a queue goes on.
pub(crate) enum Go {
    /// Behind the table.
    Next,
    /// At the table's beginning.
    Again,
    /// To another queue.
    Queue(u16),
}

impl<T: Trace> Run<'_, T> {
    /// A rule has said NFQUEUE; the packet goes through the rest of its stage, unless it is
    /// to wait.
    pub(crate) fn queue(
        &mut self,
        packet: &mut Packet,
        place: Place,
        spec: QueueSpec,
        rule: RuleId,
    ) -> Result<(), Stop> {
        let go = self.by_rule(packet, place, spec, rule)?;
        self.settle(packet, place, go)
    }

    fn by_rule(
        &mut self,
        packet: &mut Packet,
        place: Place,
        spec: QueueSpec,
        rule: RuleId,
    ) -> Result<Go, Stop> {
        let (cpu, seed) = (self.engine.outside.cpu, self.engine.config.seed as u32);
        let number = queue::number(packet, spec, cpu, seed);
        let bypass = Some(Go::Next).filter(|_| spec.bypass);
        self.enqueue(packet, place, number, (bypass, DropReason::Queue(rule)))
    }

    /// `without` says where the packet goes when nobody reads the queue, and what dropping it
    /// counts as.
    fn enqueue(
        &mut self,
        packet: &mut Packet,
        place: Place,
        number: u16,
        without: (Option<Go>, DropReason),
    ) -> Result<Go, Stop> {
        let dropped = Stop::Drop(without.1);
        match self.show(packet, place.hook, number) {
            Bound::Nobody => without.0.ok_or(dropped),
            Bound::NoRoom { pass: true } => Ok(Go::Next),
            Bound::NoRoom { pass: false } => Err(dropped),
            Bound::Waits(held) => {
                self.parking = Some(Parking { held, place });
                Err(Stop::Parked)
            }
            Bound::Answered(answer) => answered(packet, number, answer),
        }
    }

    fn show(&mut self, packet: &Packet, hook: Hook, number: u16) -> Bound {
        let engine = &mut *self.engine;
        let whose = packet.whose.as_deref().filter(|_| packet.in_dev.is_none());
        let known = &mut engine.outside.sockets;
        let socket = whose.and_then(|w| w.socket(packet, known, &engine.conntrack));
        let owner = socket.and_then(|s| s.owner.as_ref());
        let env = &engine.env;
        let interface = |dev| env.interface(dev);
        let entry = |id| engine.conntrack.entry(id);
        let connection = |a: &Attached| (a.id, a.info, entry(a.id).map_or(0, |e| e.mark));
        let queued = Queued {
            queue: number,
            id: 0,
            hook,
            family: packet.family(),
            mark: packet.mark,
            input: packet.in_dev.and_then(interface),
            output: packet.out_dev.and_then(interface),
            link: packet.link,
            sender: owner.map(|o| (o.uid, o.gid)),
            connection: packet.tracking.connection().map(connection),
            segment: packet.segment,
            bytes: &packet.bytes,
        };
        engine.queues.offer(queued, engine.config.queue_bytes)
    }

    /// Takes a packet that has been to a queue through the rest of its stage.
    fn settle(&mut self, packet: &mut Packet, place: Place, mut go: Go) -> Result<(), Stop> {
        let mut turns = 0;
        loop {
            turns += 1;
            go = match go {
                Go::Next => break,
                Go::Again | Go::Queue(_) if turns > MAX_TURNS => {
                    return Err(Stop::Drop(DropReason::JumpDepth));
                }
                Go::Again => match self.stage_again(packet, place) {
                    Ok(()) => Go::Next,
                    Err(Stop::Queue(spec, rule)) => self.by_rule(packet, place, spec, rule)?,
                    Err(stop) => return Err(stop),
                },
                Go::Queue(number) => {
                    let without = (None, DropReason::QueueReader(number));
                    self.enqueue(packet, place, number, without)?
                }
            };
        }
        // `nf_ip_reroute`, `nf_ip6_reroute`
        if place.hook == Hook::Output && routing_inputs(packet) != place.routed {
            self.reroute(packet)?;
        }
        Ok(())
    }

    /// Parks a packet that waits for its reader's answer.
    pub(super) fn park(&mut self, packet: &mut Packet, way: Way) -> Disposition {
        let Some(at) = self.parking.take() else {
            return Disposition::Held;
        };
        let engine = &mut *self.engine;
        if let Some(a) = packet.tracking.connection() {
            engine.conntrack.pin(a.id);
        }
        let mut bytes = std::mem::take(&mut packet.bytes);
        // Buffers that have been used before may be large, and what waits is bounded.
        bytes.shrink_to_fit();
        let parked = Parked {
            passed: engine.origins.pause(packet),
            epoch: engine.flows.epoch(),
            stopped: engine.staged.as_ref().is_some_and(|s| s.has_stopped()),
            packet: Packet {
                bytes,
                follow: None,
                ..packet.clone()
            },
            place: at.place,
            way,
            ticket: engine.queues.ticket(),
        };
        engine.queues.park(at.held, parked);
        Disposition::Queued
    }

    /// A parked packet has been answered and goes on.
    pub(crate) fn resume(mut self, queue: u16, parked: Parked, answer: Answer) -> Outcome {
        let Parked {
            mut packet,
            place,
            way,
            passed,
            epoch,
            stopped,
            ..
        } = parked;
        if epoch == self.engine.flows.epoch() {
            if let Some((id, passed)) = passed {
                self.engine.origins.go_on(id, passed);
            }
            if let Some(staged) = self.engine.staged.as_deref_mut() {
                staged.go_on(stopped);
            }
        }
        let done = self.finish(&mut packet, way, |run, p| {
            let go = answered(p, queue, answer)?;
            run.settle(p, place, go)?;
            run.stages(p, place.hook, place.at + 1)?;
            run.behind(p, place.hook, way)
        });
        self.keep_plan(&packet, done);
        self.outcome(done)
    }

    /// What comes behind a hook.
    fn behind(&mut self, packet: &mut Packet, hook: Hook, way: Way) -> Result<Passed, Stop> {
        let role = way.role;
        match (hook, way.then) {
            (Hook::Prerouting, _) => self.received(packet, role),
            (Hook::Input, _) => Ok(self.deliver(packet)),
            (Hook::Forward, _) => self.forwarded(packet, role),
            (Hook::Output, Then::Copied(at)) => self.copied(packet, at),
            (Hook::Output, _) => self.sent(packet, role),
            (Hook::Postrouting, Then::Heard(dev)) => self.loop_back(packet, dev, role),
            (Hook::Postrouting, _) => self.transmit(packet, role),
        }
    }
}

/// Takes over what a reader says about a packet (`nfqnl_recv_verdict`).
fn answered(packet: &mut Packet, queue: u16, answer: Answer) -> Result<Go, Stop> {
    let dropped = Stop::Drop(DropReason::QueueReader(queue));
    let go = match answer.verdict {
        QueueVerdict::Drop => return Err(dropped),
        QueueVerdict::Accept => Go::Next,
        QueueVerdict::Repeat => Go::Again,
        QueueVerdict::Queue(number) => Go::Queue(number),
    };
    if !answer.bytes.is_none_or(|bytes| packet.replace(bytes)) {
        return Err(dropped);
    }
    packet.mark = answer.mark.unwrap_or(packet.mark);
    Ok(go)
}
