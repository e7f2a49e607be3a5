//! The loop: one thread that owns the engine and all sockets.

mod orders;
mod out;

use std::collections::HashMap;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::mpsc::Receiver;
use std::time::Duration;

use anyhow::{Context, Result};
use rustix::event::{Timespec, epoll};
use tidegate_engine::conntrack::{AHEAD, SECOND, Time};
use tidegate_engine::env::{Env, IfIndex, RouteType};
use tidegate_engine::{Disposition, Engine, Incoming, LinkHeader, Outgoing, Output, Ticket};
use tidegate_sys::{Clock, Frame, Gso, PacketKind};
use tidegate_wire::{Family, parse};

use crate::divert::{Device, Framing};
use crate::fast::Fast;
use crate::handing::Gifts;
use crate::neighbour::Neighbours;
use crate::offload::Segments;
use crate::owners::Asked;
use crate::port::{Port, Side};
use crate::report::Report;
use crate::sender::Heard;
use crate::stop::{Ready, Stops};
use crate::{Observer, offload};

/// Frames of one socket before the others get their turn.
const BUDGET: usize = 256;
/// Empty buffers kept for the next frames.
const SPARE: usize = 1024;
/// Buffers that have grown beyond this are given back.
const SPARE_SIZE: usize = 1 << 17;
/// Longest sleep: how often sockets are asked what they have lost.
const SLEEP: Time = SECOND;

const ETH_P_IP: u16 = 0x0800;
const ETH_P_IPV6: u16 = 0x86dd;

/// Something to do with the engine.
pub type Work = Box<dyn FnOnce(&mut Engine, Time) + Send>;

/// What the loop is told from outside.
pub(crate) enum Command {
    /// Something to do between two batches.
    Run(Work),
    /// A guarded interface.
    Add(Box<Port>),
    /// An interface that is guarded no more.
    Remove(IfIndex),
    /// An interface's name, address or MTU changed.
    Change(Box<Device>),
    /// Other surroundings.
    Env(Arc<Env>),
    /// What is going on?
    Report(std::sync::mpsc::SyncSender<Report>),
    /// Programs that drop what the rules drop have been made.
    Stops(Ready),
    /// Which job of the maker of programs for local senders is the last?
    Settle(std::sync::mpsc::SyncSender<u64>),
    /// Something to do once programs have all connections that they may have.
    Leave(Work),
    Stop,
}

/// Where a packet came from, for the frames that come of it.
#[derive(Clone, Copy)]
struct Source {
    slot: usize,
    side: Side,
    head: [u8; 14],
    segments: Segments,
}

/// A packet that waits to be decided together with others.
struct Waiting {
    source: Source,
    protocol: u16,
    kind: PacketKind,
    packet: Vec<u8>,
}

impl Source {
    /// Of packets that the engine makes when none has come in.
    const ENGINE: Source = Source {
        slot: usize::MAX,
        side: Side::Door,
        head: [0; 14],
        segments: Segments::NONE,
    };
}

/// Keys of the poll set beyond the sockets'.
const WAKE: u64 = u64::MAX;
const NEIGHBOURS: u64 = u64::MAX - 1;
const HEARD: u64 = u64::MAX - 2;

/// What programs in the kernel have to do with the loop.
pub(crate) struct KernelSide {
    /// Programs that forward.
    pub(crate) fast: Option<Fast>,
    /// Programs that drop.
    pub(crate) stops: Option<Stops>,
    /// A program that refuses what local sockets send.
    pub(crate) heard: Option<Heard>,
    /// A program that notes who sends.
    pub(crate) asked: Option<Asked>,
    /// A program that hands packets to sockets.
    pub(crate) gifts: Option<Gifts>,
}

pub(crate) struct Worker {
    engine: Engine,
    clock: Clock,
    now: Time,
    ports: Vec<Option<Port>>,
    by_dev: HashMap<IfIndex, usize>,
    neighbours: Neighbours,
    observer: Box<dyn Observer>,
    commands: Receiver<Command>,
    wake: Arc<OwnedFd>,
    poll: OwnedFd,
    spare: Vec<Vec<u8>>,
    /// Packets of the batch that is being received.
    waiting: Vec<Waiting>,
    /// Where packets came from that wait for the readers of queues, and by which interface.
    parked: HashMap<Ticket, (Source, IfIndex)>,
    stray: u64,
    lost_asked: Time,
    /// There are interfaces that are left to the kernel.
    partial: bool,
    /// Programs that forward what the engine has decided.
    fast: Option<Fast>,
    /// Programs that drop what the rules drop.
    stops: Option<Stops>,
    /// Copies of what a program has refused.
    heard: Option<Heard>,
    asked: Option<Asked>,
    /// Packets that need help to find their socket.
    gifts: Option<Gifts>,
    /// Commands are waiting that had no turn yet.
    behind: bool,
    /// What is done when programs have what they may have, and until when that may take.
    leaving: Option<(Work, Time)>,
}

impl Worker {
    pub(crate) fn new(
        engine: Engine,
        clock: Clock,
        observer: Box<dyn Observer>,
        commands: Receiver<Command>,
        wake: Arc<OwnedFd>,
        partial: bool,
        side: KernelSide,
    ) -> Result<Self> {
        let poll = epoll::create(epoll::CreateFlags::CLOEXEC).context("epoll")?;
        let neighbours = Neighbours::new()?;
        watch(&poll, &wake, WAKE)?;
        watch(&poll, &neighbours, NEIGHBOURS)?;
        if let Some(heard) = &side.heard {
            watch(&poll, heard, HEARD)?;
        }
        Ok(Worker {
            engine,
            now: clock.now(),
            clock,
            ports: Vec::new(),
            by_dev: HashMap::new(),
            neighbours,
            observer,
            commands,
            wake,
            poll,
            spare: Vec::new(),
            waiting: Vec::new(),
            parked: HashMap::new(),
            stray: 0,
            lost_asked: 0,
            partial,
            fast: side.fast,
            stops: side.stops,
            heard: side.heard,
            asked: side.asked,
            gifts: side.gifts,
            behind: false,
            leaving: None,
        })
    }

    /// Runs until told to stop.
    pub(crate) fn run(mut self) -> Result<()> {
        let mut events = Vec::with_capacity(64);
        let mut busy = false;
        loop {
            events.clear();
            self.engine.set_cpu(rustix::thread::sched_getcpu() as u32);
            let curious = self.fast.as_ref().is_some_and(Fast::is_curious);
            let eager = curious || self.leaving.is_some();
            let timeout = self.timeout(busy || eager || self.behind);
            match epoll::wait(
                &self.poll,
                rustix::buffer::spare_capacity(&mut events),
                timeout.as_ref(),
            ) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(e) => return Err(e).context("waiting for packets"),
            }
            let idle = !busy && !self.behind && events.iter().all(|e| e.data.u64() >= HEARD);
            self.now = self.clock.now();
            busy = false;
            let mut told = self.behind;
            for event in &events {
                match event.data.u64() {
                    WAKE => told = true,
                    NEIGHBOURS => {
                        let settled = self.neighbours.hear()?;
                        if let Some(fast) = &self.fast {
                            fast.follow_neighbours(&self.neighbours);
                        }
                        self.settle(settled);
                    }
                    HEARD => busy |= self.hear(),
                    key => busy |= self.pump(key),
                }
            }
            self.expire();
            self.flush();
            if let Some(fast) = &mut self.fast {
                fast.hand_over(&mut self.engine, idle);
                fast.sweep(&mut self.engine, &mut self.neighbours, self.now);
            }
            if let Some(stops) = &self.stops {
                stops.follow(&self.engine);
            }
            if told && self.obey()? {
                return Ok(());
            }
            self.carry_on();
            self.leave();
            self.observer.after_batch(&mut self.engine, self.now);
        }
    }

    fn timeout(&self, busy: bool) -> Option<Timespec> {
        let due = [self.engine.poll_timeout(), self.neighbours.deadline()];
        let next = due.into_iter().flatten().min().unwrap_or(Time::MAX);
        let wait = if busy {
            0
        } else {
            next.saturating_sub(self.clock.now()).min(SLEEP)
        };
        Timespec::try_from(Duration::from_nanos(wait)).ok()
    }

    fn expire(&mut self) {
        if self.engine.poll_timeout().is_some_and(|t| t <= self.now) {
            self.engine.handle_timeout(self.now);
        }
        if self.neighbours.deadline().is_some_and(|t| t <= self.now) {
            let settled = self.neighbours.give_up(self.now);
            self.settle(settled);
        }
        if self.now.saturating_sub(self.lost_asked) >= SLEEP {
            self.lost_asked = self.now;
            self.ask_lost();
        }
    }

    fn ask_lost(&mut self) {
        for port in self.ports.iter_mut().flatten() {
            for side in [Side::Wire, Side::Door] {
                let socket = port.channel(side).and_then(|c| c.socket.as_mut());
                port.traffic.lost.overflow += socket.map_or(0, |s| s.lost());
            }
        }
    }

    /// Decides frames of one socket; `true` when more may be waiting.
    fn pump(&mut self, key: u64) -> bool {
        let (slot, side) = place(key);
        let socket = self
            .ports
            .get_mut(slot)
            .and_then(Option::as_mut)
            .and_then(|p| p.channel(side))
            .and_then(|c| c.socket.take());
        let Some(mut socket) = socket else {
            return false;
        };
        let before = self.sent_by_sockets(slot);
        // An interface that is down reports it once and is silent.
        let got = socket
            .receive(BUDGET, &mut |frame| self.frame(slot, side, &frame))
            .unwrap_or(0);
        if let Some(fast) = &self.fast {
            fast.came_from_sockets(self.sent_by_sockets(slot) - before);
        }
        self.decide_all();
        let channel = self.ports[slot].as_mut().and_then(|p| p.channel(side));
        if let Some(channel) = channel {
            channel.socket = Some(socket);
        }
        got == BUDGET
    }

    /// Frames of sockets that have come out of an interface with programs, which count them.
    fn sent_by_sockets(&self, slot: usize) -> u64 {
        let port = self.ports[slot].as_ref().filter(|port| port.fast);
        port.map_or(0, |port| port.traffic.from_sockets)
    }

    fn frame(&mut self, slot: usize, side: Side, frame: &Frame<'_>) {
        let Some(port) = self.ports[slot].as_mut() else {
            return;
        };
        let early = frame.kind == PacketKind::Unknown;
        if early && !is_for_us(port.framing, frame.bytes) {
            return;
        }
        match side {
            Side::Wire => port.traffic.received += 1,
            Side::Door => port.traffic.from_sockets += 1,
        }
        let head_len = port.head_len();
        let Some((head, ip)) = frame.bytes.split_at_checked(head_len) else {
            return;
        };
        let mut source = Source {
            slot,
            side,
            head: [0; 14],
            segments: Segments::of(&frame.vnet),
        };
        source.head[..head_len].copy_from_slice(head);
        // A program may have written over this host's own address.
        let own = match side {
            Side::Wire => 0..6,
            Side::Door => 6..12,
        };
        if let (Some(mac), Some(fast)) = (port.own_mac(), &self.fast)
            && let Some(address) = head.get(own.clone()).and_then(|a| a.first_chunk())
            && fast.came_up(*address)
        {
            source.head[own].copy_from_slice(&mac);
        }
        if frame.vnet.gso == Gso::Udp
            && let Some(pieces) = offload::split_udp(ip, frame.vnet.gso_size)
        {
            for piece in pieces {
                self.wait(source, frame, piece);
            }
            return;
        }
        let mut packet = self.spare.pop().unwrap_or_default();
        packet.clear();
        packet.extend_from_slice(ip);
        if early {
            offload::complete_partial(&mut packet);
        } else {
            offload::complete(&mut packet, &frame.vnet, head_len);
        }
        self.wait(source, frame, packet);
    }

    /// Puts a packet in line, to be decided with those after it.
    fn wait(&mut self, source: Source, frame: &Frame<'_>, packet: Vec<u8>) {
        self.waiting.push(Waiting {
            source,
            protocol: frame.protocol,
            kind: frame.kind,
            packet,
        });
        if self.waiting.len() >= AHEAD {
            self.decide_all();
        }
    }

    /// Decides the packets in line, in their order.
    fn decide_all(&mut self) {
        let mut waiting = std::mem::take(&mut self.waiting);
        if waiting.len() > 1 {
            let packets = waiting.iter().map(|w| w.packet.as_slice());
            self.engine.foresee(packets);
        }
        for next in waiting.drain(..) {
            self.decide(next);
        }
        self.waiting = waiting;
    }

    fn decide(&mut self, next: Waiting) {
        let Waiting {
            source,
            protocol,
            kind,
            packet,
        } = next;
        let source = &source;
        let Some(port) = self.ports[source.slot].as_ref() else {
            return;
        };
        let dev = port.dev;
        if self.partial && source.side == Side::Door && is_forwarded(self.engine.env(), &packet) {
            self.stray += 1;
            return;
        }
        let family = match (port.framing, protocol) {
            (Framing::Bare, _) => None,
            (_, ETH_P_IP) => Some(Family::V4),
            (_, ETH_P_IPV6) => Some(Family::V6),
            _ => return,
        };
        let own = match (source.side, port.framing) {
            (Side::Wire, Framing::Ethernet(own)) => Some(own),
            _ => None,
        };
        let to = self.stops.as_ref().and_then(|_| destination(&packet));
        let outcome = match source.side {
            Side::Wire => {
                let incoming = Incoming {
                    link: LinkHeader::new(&source.head[..port.head_len()]),
                    family,
                    to_host: kind != PacketKind::Other,
                    segment: source.segments.payload(),
                    ..Incoming::on(dev)
                };
                self.engine.receive(self.now, incoming, packet, &mut ())
            }
            Side::Door => {
                let way = Outgoing {
                    dev,
                    mark: 0,
                    segment: source.segments.payload(),
                };
                self.engine.send_on(self.now, way, packet, &mut ())
            }
        };
        self.offer();
        if let Some(heard) = &mut self.heard {
            heard.decided(&self.engine);
        }
        if let Some(stops) = &mut self.stops {
            stops.decided(&self.engine);
            if let (Some(own), Some(to)) = (own, to)
                && is_by_rules(&outcome.disposition)
            {
                stops.offer(&self.engine, (dev, own), to, self.now);
            }
        }
        self.carry_out(source, dev, outcome);
    }

    /// Decides copies of refused packets; `true` when more may be waiting.
    fn hear(&mut self) -> bool {
        let Some((copies, more)) = self.heard.as_mut().map(Heard::take) else {
            return false;
        };
        for (dev, mut packet) in copies {
            let Some(slot) = self.by_dev.get(&IfIndex(dev)).copied() else {
                self.stray += 1;
                continue;
            };
            if let Some(port) = self.ports[slot].as_mut() {
                port.traffic.from_sockets += 1;
            }
            offload::complete_partial(&mut packet);
            let source = Source {
                slot,
                side: Side::Door,
                ..Source::ENGINE
            };
            let way = Outgoing {
                dev: IfIndex(dev),
                mark: 0,
                segment: Some(0),
            };
            let mut outcome = self.engine.send_on(self.now, way, packet, &mut ());
            // Rules have changed meanwhile. Its sender has been told that it was not sent, and
            // a TCP would not believe an answer to it.
            if !matches!(outcome.disposition, Disposition::Dropped(_)) {
                let is_packet = |o: &Output| !matches!(o, Output::Log { .. } | Output::Nflog(_));
                outcome.outputs.retain(|o| !is_packet(o));
            }
            self.carry_out(&source, IfIndex(dev), outcome);
        }
        more
    }

    /// Perhaps the packet that was decided last stands for more of its flow.
    fn offer(&mut self) {
        if let Some(fast) = &self.fast {
            let (by_dev, ports) = (&self.by_dev, &self.ports);
            fast.offer(&mut self.engine, &self.neighbours, |dev| {
                let slot = *by_dev.get(&dev)?;
                ports.get(slot)?.as_ref()?.end()
            });
        }
    }
}

fn watch(poll: &OwnedFd, fd: &impl AsFd, key: u64) -> Result<()> {
    let data = epoll::EventData::new_u64(key);
    epoll::add(poll, fd, data, epoll::EventFlags::IN).context("epoll")
}

fn key(slot: usize, side: Side) -> u64 {
    slot as u64 * 2 + u64::from(side == Side::Door)
}

fn place(key: u64) -> (usize, Side) {
    let side = if key & 1 == 0 { Side::Wire } else { Side::Door };
    ((key / 2) as usize, side)
}

/// Whether an Ethernet frame is for an interface: for its address, or for a group.
fn is_for_us(framing: Framing, frame: &[u8]) -> bool {
    let to: Option<&[u8; 6]> = frame.first_chunk();
    to.is_some_and(|to| to[0] & 1 == 1 || framing == Framing::Ethernet(*to))
}

/// Whether the kernel has forwarded a packet that it sends: it is not this host's own.
fn is_forwarded(env: &Env, packet: &[u8]) -> bool {
    let Ok(layout) = parse(packet) else {
        return true;
    };
    let src = layout.src(packet);
    src != 0 && !env.is_local(layout.family, src)
}

/// Whether a rule or a policy has dropped a packet.
const fn is_by_rules(disposition: &Disposition) -> bool {
    use tidegate_engine::DropReason::{Policy, Rule};
    matches!(disposition, Disposition::Dropped(Rule(_) | Policy(_)))
}

/// Where a packet goes.
fn destination(packet: &[u8]) -> Option<(Family, u128)> {
    match packet.first()? >> 4 {
        4 => {
            let address = packet.get(16..)?.first_chunk()?;
            Some((Family::V4, u32::from_be_bytes(*address).into()))
        }
        6 => {
            let address = packet.get(24..)?.first_chunk()?;
            Some((Family::V6, u128::from_be_bytes(*address)))
        }
        _ => None,
    }
}

/// Whether an address stands for everybody on the link.
fn is_broadcast(env: &Env, (dev, family, addr): crate::neighbour::Key) -> bool {
    family == Family::V4 && env.address_type(family, addr, Some(dev)) == RouteType::Broadcast
}
