//! A tracker with some traffic of all kinds, and its snapshots.

use tidegate_conntrack::config::Config;
use tidegate_conntrack::format::{Columns, conntrack_line, expect_line, proc_line};
use tidegate_conntrack::snapshot::{Restored, Snapshot, Writer};
use tidegate_conntrack::{
    Attached, Conntrack, Dir, DropReason, Entry, HelperKind, InHook, Manip, NatHook, NatRange,
    ProtoState, SECOND, Template, Time, Tracked, Tuple, Zone,
};
use tidegate_wire::{Family, checksum, crc32c, parse, proto};

pub(crate) const NOW: Time = 1_000_000 * SECOND;
/// The wall clock at [`NOW`].
pub(crate) const WALL: u64 = 1_795_000_000 * SECOND;

pub(crate) const FIN: u8 = 1;
pub(crate) const SYN: u8 = 2;
pub(crate) const RST: u8 = 4;
pub(crate) const PSH: u8 = 8;
pub(crate) const ACK: u8 = 16;

/// A packet with this tuple around transport bytes from `rest` on, its checksum at `at`.
fn packet(t: &Tuple, rest: &[u8], at: Option<usize>) -> Vec<u8> {
    let (src, dst) = ({ t.src }, { t.dst });
    let mut l4 = match t.proto {
        proto::ICMP | proto::ICMPV6 => {
            let [kind, code] = { t.dst_id }.to_be_bytes();
            let [hi, lo] = { t.src_id }.to_be_bytes();
            vec![kind, code, 0, 0, hi, lo, 0, 1]
        }
        proto::GRE | 99 => Vec::new(),
        _ => [{ t.src_id }, { t.dst_id }].map(u16::to_be_bytes).concat(),
    };
    l4.extend(rest);
    if let Some(at) = at {
        let pseudo = match t.proto {
            proto::ICMP => 0,
            p => checksum::pseudo(t.family, src, dst, p, l4.len() as u32),
        };
        let check = checksum::finish(pseudo, &l4);
        l4[at..at + 2].copy_from_slice(&check.to_be_bytes());
    }
    if t.proto == proto::SCTP {
        let check = crc32c::sctp(&l4).unwrap();
        l4[8..12].copy_from_slice(&check.to_le_bytes());
    }
    let len = l4.len() as u16;
    let mut bytes;
    match t.family {
        Family::V4 => {
            bytes = vec![0x45, 0, 0, 0, 0, 1, 0, 0, 64, t.proto, 0, 0];
            bytes[2..4].copy_from_slice(&(20 + len).to_be_bytes());
            bytes.extend((src as u32).to_be_bytes());
            bytes.extend((dst as u32).to_be_bytes());
            checksum::fix_ipv4(&mut bytes);
        }
        Family::V6 => {
            bytes = vec![0x60, 0, 0, 0, 0, 0, t.proto, 64];
            bytes[4..6].copy_from_slice(&len.to_be_bytes());
            bytes.extend(src.to_be_bytes());
            bytes.extend(dst.to_be_bytes());
        }
    }
    bytes.extend(l4);
    bytes
}

/// What a packet of a flow says.
#[derive(Clone, Debug)]
pub(crate) struct Say {
    pub(crate) flags: u8,
    pub(crate) seq: u32,
    pub(crate) ack: u32,
    pub(crate) data: Vec<u8>,
}

impl Say {
    pub(crate) fn tcp(flags: u8, seq: u32, ack: u32) -> Say {
        Say {
            flags,
            seq,
            ack,
            data: Vec::new(),
        }
    }

    fn packet(&self, t: &Tuple) -> Vec<u8> {
        match t.proto {
            proto::TCP => {
                let mut rest = [self.seq, self.ack].map(u32::to_be_bytes).concat();
                rest.extend([0x50, self.flags, 0x20, 0, 0, 0, 0, 0]);
                rest.extend(&self.data);
                packet(t, &rest, Some(16))
            }
            proto::UDP => packet(t, &[0, 9, 0, 0, b'?'], Some(6)),
            proto::ICMP | proto::ICMPV6 => packet(t, &[], Some(2)),
            proto::SCTP => {
                let kind = [1, 2, 4, 5][usize::from(self.flags) % 4];
                let mut rest = self.seq.to_be_bytes().to_vec();
                rest.extend([0, 0, 0, 0, kind, 0, 0, 20]);
                rest.extend([0, 0, 0, 7, 0, 0, 16, 0, 0, 1, 0, 1, 0, 0, 0, 9]);
                packet(t, &rest, None)
            }
            proto::GRE => packet(t, &[0, 0, 8, 0, 0, 0, 0, 0], None),
            _ => packet(t, b"anything", None),
        }
    }
}

/// Traffic and the tracker it passes.
pub(crate) struct World {
    pub(crate) ct: Conntrack,
    pub(crate) now: Time,
}

/// Flows by number: protocol, family, addresses, ports; some in zones of their own, some
/// with their source translated.
pub(crate) const FLOWS: usize = 28;

/// The original tuple of a flow.
pub(crate) fn flow(n: usize) -> Tuple {
    let family = if n % 5 == 4 { Family::V6 } else { Family::V4 };
    let icmp = match family {
        Family::V4 => proto::ICMP,
        Family::V6 => proto::ICMPV6,
    };
    let proto = [
        proto::TCP,
        proto::TCP,
        proto::UDP,
        icmp,
        proto::SCTP,
        proto::GRE,
        99,
    ][n % 7];
    let host = |net: u128, host: u128| match family {
        Family::V4 => 0x0a00_0000 | net << 8 | host,
        Family::V6 => 0xfd00 << 112 | net << 64 | host,
    };
    let port = n as u16;
    let (src_id, dst_id) = match proto {
        proto::ICMP => (port, 0x0800),
        proto::ICMPV6 => (port, 0x8000),
        proto::GRE | 99 => (0, 0),
        // Every other TCP flow is an FTP control connection.
        proto::TCP if n % 7 == 1 => (3000 + port, 21),
        _ => (3000 + port, 80),
    };
    Tuple {
        src: host(0, 2 + n as u128 % 3),
        dst: host(1, 2 + n as u128 / 7),
        src_id,
        dst_id,
        family,
        proto,
    }
}

fn zone(n: usize) -> Zone {
    match n % 4 {
        1 => Zone::both(5),
        2 => Zone {
            id: 6,
            dirs: Zone::ORIG,
        },
        _ => Zone::default(),
    }
}

/// Where a flow's source is translated to.
fn translation(n: usize) -> Option<NatRange> {
    let public = match flow(n).family {
        Family::V4 => 0xcb00_7164,
        Family::V6 => 0x2001 << 112 | 9,
    };
    (n % 3 == 1).then(|| NatRange::address(public))
}

pub(crate) fn small() -> Config {
    Config {
        buckets: 64,
        acct: true,
        timestamp: true,
        ..Config::default()
    }
}

impl World {
    pub(crate) fn new(config: Config) -> World {
        World {
            ct: Conntrack::new(config),
            now: NOW,
        }
    }

    /// A packet of a flow, in the addresses its sender knows; whether it passed.
    pub(crate) fn send(&mut self, n: usize, dir: Dir, say: &Say) -> Option<Attached> {
        let original = flow(n);
        let found = self.ct.find(&original, zone(n));
        let entry = found.and_then(|(id, _)| self.ct.entry(id));
        let tuple = match (dir, entry) {
            (Dir::Original, _) => original,
            (Dir::Reply, Some(entry)) => *entry.tuple(Dir::Reply),
            (Dir::Reply, None) => original.inverse().unwrap(),
        };
        self.pass(n, say.packet(&tuple))
    }

    /// A first packet with a tuple of its own, otherwise treated like those of a flow.
    pub(crate) fn open_as(&mut self, n: usize, tuple: &Tuple, say: &Say) -> Option<Attached> {
        self.pass(n, say.packet(tuple))
    }

    /// The same with a SYN.
    pub(crate) fn open(&mut self, n: usize, tuple: &Tuple) -> Option<Attached> {
        self.open_as(n, tuple, &Say::tcp(SYN, 1, 0))
    }

    fn pass(&mut self, n: usize, mut bytes: Vec<u8>) -> Option<Attached> {
        let layout = parse(&bytes).unwrap();
        let template = Template {
            zone: zone(n),
            helper: (flow(n).dst_id == 21).then_some(HelperKind::Ftp),
            ..Template::default()
        };
        let hook = InHook::Prerouting;
        let tracked = self
            .ct
            .handle_packet(self.now, &bytes, &layout, hook, Some(&template));
        let Tracked::Ct(mut at) = tracked else {
            return None;
        };
        let passed = self.translate(n, &at, &mut bytes);
        let passed = passed.and_then(|()| {
            self.ct.help(self.now, &at, &mut bytes, &layout)?;
            self.ct.confirm(self.now, &mut at)
        });
        if passed.is_err() {
            self.ct.release(at.id);
        }
        passed.ok().map(|()| at)
    }

    fn translate(&mut self, n: usize, at: &Attached, bytes: &mut [u8]) -> Result<(), DropReason> {
        let layout = parse(bytes).unwrap();
        for hook in [NatHook::Prerouting, NatHook::Postrouting] {
            let manip = hook.manip();
            if self.ct.nat_rules_needed(at, manip) {
                match translation(n).filter(|_| manip == Manip::Src) {
                    Some(range) => self.ct.nat_setup(at.id, manip, &range)?,
                    None => self.ct.nat_null_binding(at.id, manip)?,
                }
            }
            self.ct.nat_translate(at, hook, bytes, &layout)?;
        }
        Ok(())
    }

    /// Opens a TCP connection; both sides begin with 1000.
    pub(crate) fn connect(&mut self, n: usize) {
        for (dir, flags, ack) in [
            (Dir::Original, SYN, 0),
            (Dir::Reply, SYN | ACK, 1000),
            (Dir::Original, ACK, 1000),
        ] {
            let seq = if flags & SYN != 0 { 999 } else { 1000 };
            self.send(n, dir, &Say::tcp(flags, seq, ack)).unwrap();
        }
    }

    /// The table as bytes, in pieces of so many places.
    pub(crate) fn snapshot(&self, places: u32) -> Vec<u8> {
        let mut out = Vec::new();
        let mut writer = Writer::new(self.now, WALL, &mut out);
        while !writer.step(&self.ct, places, &mut out) {}
        out
    }
}

/// A new tracker with what `bytes` hold, `gap` later, whose clock shows `now`.
pub(crate) fn restored(bytes: &[u8], now: Time, gap: u64, config: Config) -> (World, Restored) {
    let snapshot = Snapshot::open(bytes).unwrap();
    let mut world = World {
        ct: Conntrack::new(config),
        now,
    };
    let report = world.ct.restore(now, WALL + gap, &snapshot);
    (world, report)
}

impl World {
    /// Everything that listings show, without identifiers.
    pub(crate) fn lists(&self) -> Vec<String> {
        let columns = Columns {
            extended: true,
            ..Columns::default()
        };
        let mut out = Vec::new();
        for (id, entry) in self.ct.iter() {
            out.push(proc_line(entry, self.now));
            out.push(conntrack_line(id, entry, self.now, columns));
        }
        let expected = self.ct.expectations();
        // Those are listed as memory has them.
        let mut lines: Vec<_> = expected
            .map(|e| {
                expect_line(
                    e,
                    self.ct.entry(e.master).map(|m| m.tuple(Dir::Original)),
                    self.now,
                )
            })
            .collect();
        lines.sort();
        out.extend(lines);
        out
    }

    /// Everything there is to know about entries and expectations, but for identifiers,
    /// what is learnt again, and absolute times.
    pub(crate) fn details(&self) -> Vec<String> {
        let entries = self.ct.iter().map(|(_, e)| detail(e, self.now));
        let expectations = self.ct.expectations().map(|e| {
            let mut e = e.clone();
            let master = self.ct.entry(e.master).map(|m| m.tuples);
            e.timeout -= self.now;
            format!(
                "{:?} {master:?}",
                (
                    &e.tuple, e.mask_src, e.on_match, e.dir, e.saved_id, e.timeout
                )
            )
        });
        let mut expectations: Vec<String> = expectations.collect();
        expectations.sort();
        entries.chain(expectations).collect()
    }
}

fn detail(entry: &Entry, now: Time) -> String {
    let mut e = entry.clone();
    e.timeout -= now;
    e.pending = 0;
    e.tags = [0; 2];
    let mut extra = e.extra.take().map_or_else(Default::default, |x| *x);
    extra.start = extra.start.map(|start| now - start);
    let master = extra.master.take().map(|m| m.tuple);
    match &mut e.proto {
        ProtoState::Tcp(tcp) => {
            tcp.retrans = 0;
            for side in &mut tcp.seen {
                *side = tidegate_conntrack::TcpSide {
                    scale: side.scale,
                    ..Default::default()
                };
            }
        }
        ProtoState::Udp { stream_ts } => *stream_ts = stream_ts.wrapping_sub(now),
        ProtoState::Sctp(_) | ProtoState::Gre { .. } | ProtoState::Stateless => {}
    }
    format!("{e:?} {extra:?} {master:?}")
}
