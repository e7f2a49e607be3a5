//! The way of a packet between the hooks: in, through, around; [`out`] is the rest of it.

mod made;
mod out;
mod queued;
mod straight;
mod synproxy;
mod way;

use tidegate_ir::Hook;
use tidegate_wire::{Family, Layout, Malformed, parse, proto};

use crate::emit::IcmpError;
use crate::engine::{Engine, Incoming, Outgoing};
use crate::env::{IfIndex, is_multicast};
use crate::flow::Unplanned;
use crate::offload::{Followed, Last};
use crate::options4::Here;
use crate::options6::Refused;
use crate::origin::BELOW;
use crate::outcome::{Disposition, DropReason, Outcome, Output, Passed, Role};
use crate::packet::{Packet, Tracking, WayOut};
use crate::routing::{Path, route_in};
use crate::run::{Run, Stop};
use crate::sockets::Whose;
use crate::trace::{Trace, TraceEvent};
use crate::{options4, options6};

pub(crate) use way::{Then, Way};

/// Generated packets may cause generated packets (a reset that is rejected); this
/// many levels are followed.
const MAX_DEPTH: u8 = 4;

impl<T: Trace> Run<'_, T> {
    pub(crate) fn receive(mut self, incoming: &Incoming, mut bytes: Vec<u8>) -> Outcome {
        // The headers of packets that have been announced have been read.
        let known = self.engine.conntrack.layout_of(&bytes);
        let told = known.is_some();
        // The layout is looked at where it is: a copy would wait for its pieces to be written.
        let done = match &known.map_or_else(|| parse(&bytes), Ok) {
            Err(why) => self.dropped(DropReason::Malformed(*why)),
            Ok(layout) => match refused(incoming, &bytes, layout) {
                Some(why) => self.dropped(why),
                None => {
                    bytes.truncate(layout.len as usize);
                    if let Some(passed) = self.straight(incoming, (&mut bytes, layout), told) {
                        self.engine.count_passed();
                        return self.outcome(passed.into());
                    }
                    self.come_in(incoming, Packet::of(bytes, *layout))
                }
            },
        };
        self.engine.count_passed();
        self.outcome(done)
    }

    /// A received packet before any hook.
    fn come_in(&mut self, incoming: &Incoming, mut packet: Packet) -> Disposition {
        packet.link = incoming.link;
        if self.engine.asks_sockets_of(packet.family()) {
            packet.whose = Some(Box::default());
        }
        packet.segment = incoming.segment;
        self.event(TraceEvent::Packet {
            bytes: &packet.bytes,
            role: Role::Forwarded,
        });
        self.set_input(&mut packet, incoming.dev);
        let done = self.finish(&mut packet, Role::Forwarded, |run, p| {
            run.hop_by_hop_options(p)?;
            run.input_path(p, Role::Forwarded)
        });
        self.keep_plan(&packet, done);
        done
    }

    pub(crate) fn send(
        mut self,
        bytes: Vec<u8>,
        mark: u32,
        on: Option<Outgoing>,
        whose: Option<Box<Whose>>,
    ) -> Outcome {
        let disposition = match Packet::new(bytes) {
            Err(why) => self.dropped(DropReason::Malformed(why)),
            Ok(mut packet) => {
                packet.mark = mark;
                packet.segment = on.and_then(|way| way.segment);
                let asked = self.engine.asks_sockets_of(packet.family());
                packet.whose = match whose {
                    None if asked => Some(Box::new(Whose::sent(&packet))),
                    whose => whose.filter(|_| asked),
                };
                let on = on.map(|way| way.dev);
                self.event(TraceEvent::Packet {
                    bytes: &packet.bytes,
                    role: Role::Own,
                });
                let done = self.finish(&mut packet, Role::Own, |run, p| {
                    run.output_path(p, Role::Own, on)
                });
                self.keep_plan(&packet, done);
                done
            }
        };
        self.outcome(disposition)
    }

    pub(crate) fn unreachable(mut self, bytes: Vec<u8>) -> Vec<Output> {
        // Codes of RFC 792 and RFC 4443: host, address.
        if let Ok(packet) = Packet::new(bytes) {
            let code = match packet.family() {
                Family::V4 => 1,
                Family::V6 => 3,
            };
            self.emit_error(&packet, IcmpError::Unreachable(code));
        }
        self.outputs
    }

    /// What became of a packet holds for the next ones of its flow; its connection remembers
    /// how it came in.
    fn keep_plan(&mut self, packet: &Packet, done: Disposition) {
        let through = matches!(done, Disposition::Sent | Disposition::Delivered);
        let whole = Followed::of(packet).filter(|_| through && !T::ACTIVE);
        self.engine.last = whole.map(Last::Whole);
        let Engine {
            flows,
            conntrack,
            origins,
            env,
            ..
        } = &mut *self.engine;
        if !T::ACTIVE
            && packet.follow.is_none()
            && let Tracking::Connection(a) = packet.tracking
        {
            if !through {
                flows.recorder.spoil(Unplanned::Dropped);
            }
            if flows.recorder.has_noted() {
                let whole = conntrack.entry(a.id).map(|e| e.tags[a.dir.ix()]);
                let kept = flows.keep(packet.mark, env);
                let kept = kept.or_else(|| flows.keep_reason(whole?));
                if let Some(tag) = kept {
                    conntrack.set_tag(a.id, a.dir, tag | whole.unwrap_or(0) & !BELOW);
                }
            }
        }
        flows.recorder.end();
        origins.end(self.now, packet, conntrack);
    }

    fn outcome(self, disposition: Disposition) -> Outcome {
        Outcome {
            disposition,
            outputs: self.outputs,
            looped: self.looped,
        }
    }

    fn dropped(&mut self, reason: DropReason) -> Disposition {
        self.engine.drops.count_drop(&reason);
        Disposition::Dropped(reason)
    }

    /// Runs a path and gives back the connection of a packet that did not make it.
    fn finish(
        &mut self,
        packet: &mut Packet,
        way: impl Into<Way>,
        path: impl FnOnce(&mut Self, &mut Packet) -> Result<Passed, Stop>,
    ) -> Disposition {
        match path(self, packet) {
            Ok(passed) => passed.into(),
            Err(Stop::Held) => Disposition::Held,
            Err(Stop::Parked) => self.park(packet, way.into()),
            // Stages send packets to their queues.
            Err(Stop::Queue(_, rule)) => self.gone(packet, DropReason::Queue(rule)),
            Err(Stop::Drop(reason)) => self.gone(packet, reason),
        }
    }

    fn gone(&mut self, packet: &Packet, reason: DropReason) -> Disposition {
        if let Tracking::Connection(a) = &packet.tracking
            && !packet.borrows_connection
        {
            self.engine.conntrack.release(a.id);
        }
        self.event(TraceEvent::Dropped(reason));
        self.dropped(reason)
    }

    fn set_input(&mut self, packet: &mut Packet, dev: IfIndex) {
        packet.in_dev = Some(dev);
        packet.in_name = self.engine.env.name_number(dev);
        packet.out_dev = None;
        packet.out_name = 0;
    }

    /// Notes the realms of the packet's route, which may be that of its source too.
    fn set_realm(&self, packet: &mut Packet, local: bool) {
        if packet.family() == Family::V4 {
            let ends = (packet.src(), packet.dst());
            let received = packet.in_dev.is_some();
            packet.realm = self.engine.env.realms(received, local, ends, packet.mark);
        }
    }

    fn set_output(&mut self, packet: &mut Packet, way: WayOut) {
        packet.out_dev = Some(way.dev);
        packet.out_name = self.engine.env.name_number(way.dev);
        packet.next_hop = way.via;
        packet.broadcast = way.broadcast;
        self.event(TraceEvent::Routed {
            output: Some(way.dev),
        });
    }

    /// From an interface: PREROUTING, routing, then to a socket or onwards.
    fn input_path(&mut self, packet: &mut Packet, role: Role) -> Result<Passed, Stop> {
        self.hook(packet, Hook::Prerouting)?;
        self.received(packet, role)
    }

    /// Behind PREROUTING.
    fn received(&mut self, packet: &mut Packet, role: Role) -> Result<Passed, Stop> {
        let planned = packet.follow.and_then(|f| self.engine.flows.path(f));
        let path = match planned {
            _ if packet.looped => Path::Local,
            Some(path) => path,
            None => {
                let path = route_in(packet, &self.engine.env);
                self.engine.flows.recorder.routed(path);
                self.set_realm(packet, path == Path::Local);
                path
            }
        };
        if packet.family() == Family::V4 && packet.layout.l4 > 20 {
            self.ipv4_options(packet, &path)?;
        }
        match path {
            Path::Local => {
                self.event(TraceEvent::Routed { output: None });
                self.reassemble_for_delivery(packet)?;
                self.hook(packet, Hook::Input)?;
                Ok(self.deliver(packet))
            }
            Path::Forward { dev, via } => self.forward_path(packet, dev, via, role),
            Path::Stop(reason, error) => {
                if let Some(error) = error {
                    self.emit_error(packet, error);
                }
                Err(Stop::Drop(reason))
            }
        }
    }

    /// Behind INPUT.
    fn deliver(&mut self, packet: &mut Packet) -> Passed {
        let dev = packet.in_dev.unwrap_or(self.engine.env.loopback());
        let bytes = std::mem::take(&mut packet.bytes);
        self.outputs.push(Output::Deliver {
            dev,
            bytes,
            mark: packet.mark,
            given: packet.whose.as_ref().and_then(|w| w.given()),
        });
        Passed::Delivered
    }

    /// `ip_forward`, `ip6_forward`: what must hold before FORWARD, then out.
    fn forward_path(
        &mut self,
        packet: &mut Packet,
        dev: IfIndex,
        via: Option<u128>,
        role: Role,
    ) -> Result<Passed, Stop> {
        // It has been given to a socket, and routing did not bring it there.
        if packet.whose.as_ref().is_some_and(|w| w.is_given()) {
            return Err(Stop::Drop(DropReason::NotForwarding));
        }
        if packet.ttl() <= 1 {
            self.emit_error(packet, IcmpError::TimeExceeded);
            return Err(Stop::Drop(DropReason::TtlExceeded));
        }
        let mtu = self.mtu(dev);
        if too_big(packet, mtu) && !self.segments_fit(packet, mtu) {
            self.emit_error(packet, IcmpError::TooBig(mtu));
            return Err(Stop::Drop(DropReason::TooBig));
        }
        self.set_output(
            packet,
            WayOut {
                dev,
                via,
                broadcast: false,
            },
        );
        packet.decrease_ttl();
        self.hook(packet, Hook::Forward)?;
        self.forwarded(packet, role)
    }

    /// Behind FORWARD.
    fn forwarded(&mut self, packet: &mut Packet, role: Role) -> Result<Passed, Stop> {
        options4::forward(packet, &self.engine.env);
        self.postrouting_path(packet, role)
    }

    /// Before any hook (`ip6_rcv_core`).
    fn hop_by_hop_options(&mut self, packet: &Packet) -> Result<(), Stop> {
        if packet.family() == Family::V4 {
            return Ok(());
        }
        options6::check(&packet.bytes).map_err(|refused| {
            if let Refused::Problem { code, pointer } = refused {
                self.emit_error(packet, IcmpError::ParameterProblem(code, pointer));
            }
            Stop::Drop(DropReason::Options)
        })
    }

    /// After routing (`ip_rcv_options`). Source routing is refused, as hosts come.
    fn ipv4_options(&mut self, packet: &mut Packet, path: &Path) -> Result<(), Stop> {
        if matches!(path, Path::Stop(DropReason::Martian, _)) {
            return Ok(());
        }
        let env = &self.engine.env;
        let (src, dst) = (packet.src(), packet.dst());
        let address = if *path == Path::Local && env.is_local(Family::V4, dst) {
            Some(dst)
        } else {
            options4::source_towards(env, src, 0, 0)
        };
        let here = Here {
            env,
            address: address.unwrap_or(0) as u32,
            clock: (self.now / 1_000_000 % 86_400_000) as u32,
        };
        let header = usize::from(packet.layout.l4);
        let bytes = packet.bytes.get_mut(..header).unwrap_or_default();
        match options4::compile(bytes, &mut packet.options, &here) {
            Ok(()) if packet.options.source_routed() => Err(Stop::Drop(DropReason::Options)),
            Ok(()) => Ok(()),
            Err(at) => {
                self.emit_error(packet, IcmpError::ParameterProblem(0, at as u32));
                Err(Stop::Drop(DropReason::Options))
            }
        }
    }

    /// Whether the packet passes though it is longer than the link: it stands for several
    /// segments that fit, joined by the receiving or to be cut by the sending network
    /// card (GRO, GSO). Where nobody says so: no TCP sends more than its link takes, and
    /// nothing larger than the link's MTU can have come in.
    fn segments_fit(&self, packet: &Packet, mtu: u32) -> bool {
        if packet.segment.is_some() {
            return packet.longest() <= mtu;
        }
        let sent_or_too_long = packet
            .in_dev
            .is_none_or(|dev| packet.layout.len > self.mtu(dev));
        packet.layout.proto == proto::TCP && packet.fragments.is_none() && sent_or_too_long
    }

    fn mtu(&self, dev: IfIndex) -> u32 {
        self.engine.env.interface(dev).map_or(1500, |i| i.mtu)
    }
}

/// Why the network layer does not take in a received packet, if it does not.
#[inline]
fn refused(incoming: &Incoming, bytes: &[u8], layout: &Layout) -> Option<DropReason> {
    if incoming.family.is_some_and(|f| f != layout.family) {
        Some(DropReason::Malformed(Malformed::Version))
    } else if !incoming.to_host {
        Some(DropReason::OtherHost)
    } else if refused_at_the_door(bytes, layout) {
        Some(DropReason::Martian)
    } else {
        None
    }
}

/// IPv6 addresses that never come in from a link (`ip6_rcv_core`): loopback, a
/// multicast source, a group of interface-local or reserved scope.
fn refused_at_the_door(bytes: &[u8], layout: &Layout) -> bool {
    let (src, dst) = (layout.src(bytes), layout.dst(bytes));
    let group = |a| is_multicast(Family::V6, a);
    layout.family == Family::V6
        && (src == 1 || dst == 1 || group(src) || (group(dst) && (dst >> 112) & 0xf <= 1))
}

/// Before FORWARD: longer than the link, and not to be fragmented by us
/// (`ip_exceeds_mtu`, `ip6_pkt_too_big`).
fn too_big(packet: &Packet, mtu: u32) -> bool {
    let largest = packet.fragments.as_ref().map(|f| f.largest);
    match (packet.family(), largest) {
        (Family::V4, Some(largest)) => {
            packet.layout.len > mtu && packet.layout.dont_frag && largest > mtu
        }
        (Family::V4, None) => packet.layout.len > mtu && packet.layout.dont_frag,
        (Family::V6, Some(largest)) => largest > mtu,
        (Family::V6, None) => packet.layout.len > mtu,
    }
}
