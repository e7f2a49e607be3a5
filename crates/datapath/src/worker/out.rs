//! What the engine puts out, on its way to interfaces and sockets.

use std::collections::HashMap;

use tidegate_engine::env::{IfIndex, RouteType};
use tidegate_engine::{Disposition, Outcome, Output, Ticket};
use tidegate_sys::OutFrame;
use tidegate_wire::{Family, parse};

use super::{ETH_P_IP, ETH_P_IPV6, SPARE, SPARE_SIZE, Source, Worker, is_broadcast};
use crate::divert::Framing;
use crate::neighbour::{Known, Settled, group_mac};
use crate::port::{Port, Side};

impl Worker {
    pub(super) fn carry_out(&mut self, source: &Source, dev: IfIndex, mut outcome: Outcome) {
        if let Disposition::Dropped(_) = outcome.disposition
            && let Some(Some(port)) = self.ports.get_mut(source.slot)
        {
            port.traffic.dropped += 1;
        }
        let parked = self.engine.take_parked();
        self.note_parked(parked, source, dev);
        self.observer.decided(self.now, dev, &outcome);
        self.put_out(source, &mut outcome.outputs);
        self.engine.recycle(outcome.outputs);
    }

    /// Remembers where packets came from that wait for the readers of queues.
    fn note_parked(&mut self, parked: Vec<Ticket>, source: &Source, dev: IfIndex) {
        let from = parked.into_iter().map(|ticket| (ticket, (*source, dev)));
        self.parked.extend(from);
    }

    /// Sends what has waited for the reader of a queue and is to go on.
    pub(super) fn carry_on(&mut self) {
        let answered = self.engine.take_answered();
        if answered.is_empty() {
            return;
        }
        for answered in answered {
            let known = self.parked.remove(&answered.ticket);
            let nowhere = (Source::ENGINE, self.engine.env().loopback());
            let (source, dev) = known.unwrap_or(nowhere);
            self.note_parked(answered.parked, &source, dev);
            if let Some(heard) = &mut self.heard {
                heard.decided(&self.engine);
            }
            if let Some(stops) = &mut self.stops {
                stops.decided(&self.engine);
            }
            self.carry_out(&source, dev, answered.outcome);
        }
        self.flush();
    }

    fn put_out(&mut self, source: &Source, outputs: &mut Vec<Output>) {
        for output in outputs.drain(..) {
            match output {
                Output::Transmit {
                    dev,
                    next_hop,
                    bytes,
                    as_sent,
                    ..
                } => self.transmit(source, dev, next_hop, bytes, as_sent),
                Output::Deliver {
                    dev,
                    bytes,
                    mark,
                    given,
                } => {
                    if self.leads_away(dev, &bytes, mark) {
                        continue;
                    }
                    if let Some(gifts) = &mut self.gifts {
                        gifts.let_in(&self.engine, &bytes, mark, given);
                    }
                    self.deliver(source, dev, bytes);
                }
                Output::Log { .. } | Output::Nflog(_) => self.observer.output(self.now, &output),
            }
        }
    }

    /// Puts a packet on an interface's queue, with a link-layer header.
    fn transmit(
        &mut self,
        source: &Source,
        dev: IfIndex,
        next_hop: u128,
        mut body: Vec<u8>,
        as_sent: bool,
    ) {
        let Some((slot, port)) = port_of(&self.by_dev, &mut self.ports, dev) else {
            self.stray += 1;
            return;
        };
        let (family, protocol) = kind_of(&body);
        let head_len = port.head_len();
        let mut frame = OutFrame {
            vnet: source.segments.apply(&mut body, head_len, port.mtu),
            protocol,
            head: [0; 14],
            head_len: head_len as u8,
            body,
        };
        let Some(wire) = port.wire.as_mut() else {
            self.stray += 1;
            return;
        };
        let Framing::Ethernet(own) = port.framing else {
            wire.queue.push(frame);
            return;
        };
        if as_sent && source.slot == slot && source.side == Side::Door {
            frame.head = source.head;
            wire.queue.push(frame);
            return;
        }
        frame.head[6..12].copy_from_slice(&own);
        frame.head[12..].copy_from_slice(&protocol.to_be_bytes());
        let neighbour = (dev, family, next_hop);
        let to = match group_mac(family, next_hop) {
            Some(mac) => Known::Mac(mac),
            None if port.no_arp => Known::Mac(own),
            None => self.neighbours.ask(neighbour, self.now),
        };
        let to = match to {
            Known::NotYet if is_broadcast(self.engine.env(), neighbour) => Known::Mac([0xff; 6]),
            other => other,
        };
        match to {
            Known::Mac(mac) => {
                frame.head[..6].copy_from_slice(&mac);
                wire.queue.push(frame);
            }
            Known::NotYet => {
                if !self.neighbours.wait(neighbour, frame, self.now) {
                    port.traffic.lost.crowded += 1;
                }
            }
        }
    }

    /// Whether the kernel, which routes once more what is let in, would send a looped packet
    /// out: rules have given it an address of another host on its way.
    fn leads_away(&mut self, dev: IfIndex, packet: &[u8], mark: u32) -> bool {
        let env = self.engine.env();
        if dev != env.loopback() {
            return false;
        }
        let Ok(layout) = parse(packet) else {
            return false;
        };
        let (src, dst) = (layout.src(packet), layout.dst(packet));
        let route = env.route(layout.family, dst, src, mark);
        let away = route.is_some_and(|r| r.kind == RouteType::Unicast);
        if let (true, Some((_, port))) = (away, port_of(&self.by_dev, &mut self.ports, dev)) {
            port.traffic.lost.astray += 1;
        }
        away
    }

    /// Puts a packet on the queue into this host's sockets.
    fn deliver(&mut self, source: &Source, dev: IfIndex, mut body: Vec<u8>) {
        let loopback = self.engine.env().loopback();
        let dev = if self.by_dev.contains_key(&dev) {
            dev
        } else {
            loopback
        };
        let Some((slot, port)) = port_of(&self.by_dev, &mut self.ports, dev) else {
            self.stray += 1;
            return;
        };
        let (_, protocol) = kind_of(&body);
        let mut head = [0; 14];
        let came_by = source.slot == slot && source.side == Side::Wire;
        if came_by && matches!(port.framing, Framing::Ethernet(_)) {
            head[..6].copy_from_slice(&source.head[..6]);
        } else {
            head[..6].copy_from_slice(&port.near_mac);
        }
        head[6..12].copy_from_slice(&port.secret);
        head[12..].copy_from_slice(&protocol.to_be_bytes());
        port.door.queue.push(OutFrame {
            vnet: source.segments.apply(&mut body, 14, u32::MAX),
            protocol,
            head,
            head_len: 14,
            body,
        });
    }

    /// Sends what has been waiting for neighbours; who sent what cannot be sent is told.
    pub(super) fn settle(&mut self, settled: Vec<Settled>) {
        for one in settled {
            let Some((_, port)) = port_of(&self.by_dev, &mut self.ports, one.key.0) else {
                self.stray += one.frames.len() as u64;
                continue;
            };
            let (Some(mac), Some(wire)) = (one.mac, port.wire.as_mut()) else {
                port.traffic.lost.unresolved += one.frames.len() as u64;
                for frame in one.frames {
                    let mut told = self.engine.unreachable(self.now, frame.body, &mut ());
                    let parked = self.engine.take_parked();
                    self.note_parked(parked, &Source::ENGINE, one.key.0);
                    self.put_out(&Source::ENGINE, &mut told);
                }
                continue;
            };
            for mut frame in one.frames {
                frame.head[..6].copy_from_slice(&mac);
                wire.queue.push(frame);
            }
        }
    }

    /// Sends everything that is queued.
    pub(super) fn flush(&mut self) {
        for port in self.ports.iter_mut().flatten() {
            for side in [Side::Wire, Side::Door] {
                let Some(channel) = port.channel(side) else {
                    continue;
                };
                if channel.queue.is_empty() {
                    continue;
                }
                let (sent, failed) = channel.send(self.now);
                for frame in channel.queue.drain(..) {
                    if self.spare.len() < SPARE && frame.body.capacity() <= SPARE_SIZE {
                        self.spare.push(frame.body);
                    }
                }
                match side {
                    Side::Wire => port.traffic.sent += sent,
                    Side::Door => {
                        port.traffic.to_sockets += sent;
                        if let Some(fast) = self.fast.as_ref().filter(|_| port.fast) {
                            fast.let_in(sent);
                        }
                    }
                }
                port.traffic.lost.refused += failed;
            }
        }
    }
}

pub(super) fn port_of<'a>(
    by_dev: &HashMap<IfIndex, usize>,
    ports: &'a mut [Option<Port>],
    dev: IfIndex,
) -> Option<(usize, &'a mut Port)> {
    let slot = *by_dev.get(&dev)?;
    let port = ports.get_mut(slot)?.as_mut()?;
    Some((slot, port))
}

/// Family and Ethernet type of a packet.
fn kind_of(packet: &[u8]) -> (Family, u16) {
    match packet.first().map(|b| b >> 4) {
        Some(6) => (Family::V6, ETH_P_IPV6),
        _ => (Family::V4, ETH_P_IP),
    }
}
