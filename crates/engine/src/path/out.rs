//! The way of a packet out of this host: routing, the last hooks, the link.

use tidegate_ir::Hook;
use tidegate_wire::{Family, proto};

use super::{Then, Way};
use crate::emit::IcmpError;
use crate::env::{Env, IfIndex, RouteType, is_multicast};
use crate::flow::Unplanned;
use crate::fragment;
use crate::outcome::{DropReason, Output, Passed, Role};
use crate::packet::{LinkHeader, Packet, Tracking, WayOut};
use crate::run::{Run, Stop};
use crate::sockets::Whose;
use crate::trace::Trace;

impl<T: Trace> Run<'_, T> {
    /// From a local socket: routing, unless the kernel has done that, OUTPUT, out.
    pub(super) fn output_path(
        &mut self,
        packet: &mut Packet,
        role: Role,
        on: Option<IfIndex>,
    ) -> Result<Passed, Stop> {
        let way = match on {
            Some(dev) => self.way_on(packet, dev),
            None => self.route_out(packet)?,
        };
        packet.as_sent = on.is_some();
        self.set_output(packet, way);
        self.set_realm(packet, false);
        self.hook(packet, Hook::Output)?;
        self.sent(packet, role)
    }

    /// Behind OUTPUT.
    pub(super) fn sent(&mut self, packet: &mut Packet, role: Role) -> Result<Passed, Stop> {
        if let Some(way) = packet.rerouted.take() {
            packet.as_sent &= self.stays_inside(packet, &way);
            self.set_output(packet, way);
            self.set_realm(packet, false);
        }
        self.postrouting_path(packet, role)
    }

    /// The way out that the kernel has chosen. Its next hop is in the packet's link-layer
    /// header.
    fn way_on(&self, packet: &Packet, dev: IfIndex) -> WayOut {
        let env = &self.engine.env;
        let to_all = packet.family() == Family::V4
            && env.address_type(Family::V4, packet.dst(), None) == RouteType::Broadcast;
        WayOut {
            dev,
            via: None,
            broadcast: to_all || heard_by_own_group(packet, env),
        }
    }

    /// The way out for a packet of this host.
    fn route_out(&self, packet: &Packet) -> Result<WayOut, Stop> {
        let env = &self.engine.env;
        let family = packet.family();
        let route = env.route(family, packet.dst(), packet.src(), packet.mark);
        let no_route = Stop::Drop(DropReason::NoRoute);
        let route = route.ok_or(no_route)?;
        match route.kind {
            RouteType::Local => Ok(WayOut {
                dev: env.loopback(),
                via: None,
                broadcast: false,
            }),
            RouteType::Unicast | RouteType::Broadcast | RouteType::Multicast => Ok(WayOut {
                dev: route.dev.ok_or(no_route)?,
                via: route.via,
                broadcast: route.kind == RouteType::Broadcast || is_limited_broadcast(packet),
            }),
            _ => Err(no_route),
        }
    }

    /// Routes a locally sent packet again (`ip_route_me_harder`). The hook it is at goes
    /// on with the interface it began with. A loopback source cannot leave through
    /// another interface.
    pub(crate) fn reroute(&mut self, packet: &mut Packet) -> Result<(), Stop> {
        let way = self.route_out(packet)?;
        if !self.stays_inside(packet, &way) {
            self.engine.flows.recorder.spoil(Unplanned::Rerouted);
        }
        let loopback_source = packet.family() == Family::V4 && packet.src() >> 24 == 127;
        if loopback_source && way.dev != self.engine.env.loopback() {
            return Err(Stop::Drop(DropReason::Martian));
        }
        packet.rerouted = Some(way);
        Ok(())
    }

    /// Whether a packet was to leave by loopback, and still is: there it has but one way.
    fn stays_inside(&self, packet: &Packet, way: &WayOut) -> bool {
        let dev = Some(self.engine.env.loopback());
        Some(way.dev) == dev && packet.out_dev == dev && !packet.broadcast
    }

    pub(super) fn postrouting_path(
        &mut self,
        packet: &mut Packet,
        role: Role,
    ) -> Result<Passed, Stop> {
        let dev = packet.out_dev.ok_or(Stop::Drop(DropReason::NoRoute))?;
        if packet.broadcast {
            self.hear_own_broadcast(packet, dev, role);
        }
        self.hook(packet, Hook::Postrouting)?;
        self.transmit(packet, role)
    }

    /// Behind POSTROUTING.
    pub(super) fn transmit(&mut self, packet: &mut Packet, role: Role) -> Result<Passed, Stop> {
        let dev = packet.out_dev.ok_or(Stop::Drop(DropReason::NoRoute))?;
        if dev == self.engine.env.loopback() {
            return self.loop_back(packet, dev, role);
        }
        let mtu = self.mtu(dev);
        // Whoever cuts it into segments may cut it into shorter ones.
        let cut_anyway = packet.longest() < packet.layout.len && !packet.layout.dont_frag;
        if fragment::needed(packet, mtu) && !cut_anyway && !self.segments_fit(packet, mtu) {
            return self.transmit_fragments(packet, dev, mtu, role);
        }
        let next_hop = packet.next_hop.unwrap_or(packet.dst());
        let bytes = std::mem::take(&mut packet.bytes);
        self.put_out(packet, (dev, next_hop), bytes, role);
        Ok(Passed::Sent)
    }

    fn put_out(
        &mut self,
        packet: &Packet,
        (dev, next_hop): (IfIndex, u128),
        bytes: Vec<u8>,
        role: Role,
    ) {
        Output::add(&mut self.outputs, || Output::Transmit {
            dev,
            next_hop,
            bytes,
            role,
            mark: packet.mark,
            priority: packet.priority,
            as_sent: packet.as_sent,
        });
    }

    fn transmit_fragments(
        &mut self,
        packet: &mut Packet,
        dev: IfIndex,
        mtu: u32,
        role: Role,
    ) -> Result<Passed, Stop> {
        if must_not_cut(packet, mtu) {
            self.emit_error(packet, IcmpError::TooBig(mtu));
            return Err(Stop::Drop(DropReason::TooBig));
        }
        let next_hop = packet.next_hop.unwrap_or(packet.dst());
        let pieces = fragment::cut(packet, mtu, &mut self.engine.random)
            .ok_or(Stop::Drop(DropReason::TooBig))?;
        for bytes in pieces {
            self.put_out(packet, (dev, next_hop), bytes, role);
        }
        Ok(Passed::Sent)
    }

    /// What this host broadcasts it receives itself: a copy passes POSTROUTING before the
    /// packet does and comes back in by the same interface (`ip_mc_output`).
    fn hear_own_broadcast(&mut self, packet: &Packet, dev: IfIndex, role: Role) {
        self.engine.flows.recorder.spoil(Unplanned::Rerouted);
        let mut copy = Packet {
            borrows_connection: true,
            whose: packet.whose.as_ref().map(|_| Box::new(Whose::of(None))),
            ..packet.clone()
        };
        let then = Then::Heard(dev);
        self.finish(&mut copy, Way { role, then }, |run, p| {
            run.hook(p, Hook::Postrouting)?;
            run.loop_back(p, dev, role)
        });
    }

    /// Out of loopback and in again; the connection stays attached, so the second
    /// half skips what the first has done.
    pub(super) fn loop_back(
        &mut self,
        packet: &mut Packet,
        dev: IfIndex,
        role: Role,
    ) -> Result<Passed, Stop> {
        packet.looped = true;
        self.looped |= role == Role::Own && !packet.broadcast;
        if matches!(
            packet.tracking,
            Tracking::Invalid(_) | Tracking::Template(_)
        ) {
            packet.tracking = Tracking::None;
        }
        packet.link = LinkHeader::new(&loopback_header(packet.family()));
        self.set_input(packet, dev);
        self.hop_by_hop_options(packet)?;
        self.input_path(packet, role)
    }
}

fn is_limited_broadcast(packet: &Packet) -> bool {
    packet.family() == Family::V4 && packet.dst() == 0xffff_ffff
}

/// Whether this host's own sockets may be members of the group that it sends a datagram
/// to. What is no datagram (IGMP, neighbour discovery) is for others.
fn heard_by_own_group(packet: &Packet, env: &Env) -> bool {
    env.settings.any_group
        && packet.layout.proto == proto::UDP
        && is_multicast(packet.family(), packet.dst())
}

/// Whether a packet of any origin that is longer than the link is not to be cut.
fn must_not_cut(packet: &Packet, mtu: u32) -> bool {
    match packet.fragments.as_ref() {
        Some(f) => match packet.family() {
            Family::V4 => packet.layout.dont_frag && (f.largest > mtu || f.delivered),
            Family::V6 => f.largest > mtu || f.delivered && packet.layout.len > mtu,
        },
        None => packet.layout.dont_frag,
    }
}

/// Loopback frames have an Ethernet header of zeroes.
fn loopback_header(family: Family) -> [u8; 14] {
    let mut header = [0; 14];
    let ethertype: u16 = match family {
        Family::V4 => 0x0800,
        Family::V6 => 0x86dd,
    };
    header[12..].copy_from_slice(&ethertype.to_be_bytes());
    header
}
