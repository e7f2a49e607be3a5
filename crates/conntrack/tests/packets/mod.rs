//! Builds IPv4 packets with right checksums, and passes them through a tracker.
#![allow(dead_code, reason = "every test uses a part")]

use tidegate_conntrack::config::Config;
use tidegate_conntrack::{
    Attached, Conntrack, EntryId, InHook, SECOND, Status, Template, Time, Tracked,
};
use tidegate_wire::{Family, Layout, checksum, crc32c, parse, proto};

pub(crate) struct Ip {
    pub(crate) src: [u8; 4],
    pub(crate) dst: [u8; 4],
}

impl Ip {
    pub(crate) fn back(&self) -> Ip {
        Ip {
            src: self.dst,
            dst: self.src,
        }
    }

    /// A packet of `protocol` around `l4`, whose checksum goes to `check_at`.
    pub(crate) fn packet(&self, protocol: u8, mut l4: Vec<u8>, check_at: Option<usize>) -> Vec<u8> {
        let mut pkt = vec![0x45, 0, 0, 0, 0, 1, 0, 0, 64, protocol, 0, 0];
        pkt.extend(self.src);
        pkt.extend(self.dst);
        let len = (20 + l4.len()) as u16;
        pkt[2..4].copy_from_slice(&len.to_be_bytes());
        checksum::fix_ipv4(&mut pkt);
        if let Some(at) = check_at {
            let number = |a: [u8; 4]| u128::from(u32::from_be_bytes(a));
            let (src, dst) = (number(self.src), number(self.dst));
            let pseudo = match protocol {
                proto::ICMP => 0,
                p => checksum::pseudo(Family::V4, src, dst, p, l4.len() as u32),
            };
            let check = checksum::finish(pseudo, &l4);
            l4[at..at + 2].copy_from_slice(&check.to_be_bytes());
        }
        pkt.extend(l4);
        pkt
    }

    pub(crate) fn udp(&self, sport: u16, dport: u16) -> Vec<u8> {
        let mut l4 = [sport, dport, 9, 0].map(u16::to_be_bytes).concat();
        l4.push(b'q');
        self.packet(proto::UDP, l4, Some(6))
    }

    pub(crate) fn tcp(&self, ports: (u16, u16), flags: u8, seq: u32, ack: u32) -> Vec<u8> {
        let mut l4 = [ports.0, ports.1].map(u16::to_be_bytes).concat();
        l4.extend(seq.to_be_bytes());
        l4.extend(ack.to_be_bytes());
        l4.extend([0x50, flags, 0x20, 0, 0, 0, 0, 0]);
        self.packet(proto::TCP, l4, Some(16))
    }

    pub(crate) fn echo(&self, ty: u8, id: u16) -> Vec<u8> {
        let [hi, lo] = id.to_be_bytes();
        self.packet(proto::ICMP, vec![ty, 0, 0, 0, hi, lo, 0, 1], Some(2))
    }

    /// One chunk without flags.
    pub(crate) fn sctp(&self, ports: (u16, u16), tag: u32, kind: u8, value: &[u8]) -> Vec<u8> {
        let mut l4 = [ports.0, ports.1].map(u16::to_be_bytes).concat();
        l4.extend(tag.to_be_bytes());
        l4.extend([0, 0, 0, 0, kind, 0]);
        l4.extend((4 + value.len() as u16).to_be_bytes());
        l4.extend(value);
        let check = crc32c::sctp(&l4).expect("the common header is whole");
        l4[8..12].copy_from_slice(&check.to_le_bytes());
        self.packet(proto::SCTP, l4, None)
    }
}

/// Value of an INIT or INIT ACK chunk that announces `tag`.
pub(crate) fn init(tag: u8) -> [u8; 16] {
    [0, 0, 0, tag, 0, 0, 16, 0, 0, 1, 0, 1, 0, 0, 0, 7]
}

pub(crate) fn layout(pkt: &[u8]) -> Layout {
    parse(pkt).expect("a packet built here is sound")
}

pub(crate) const NOW: Time = 1_795_227_335 * SECOND;
pub(crate) const HOST: Ip = Ip {
    src: [10, 0, 0, 2],
    dst: [10, 0, 1, 2],
};

pub(crate) fn small() -> Config {
    Config {
        buckets: 64,
        ..Config::default()
    }
}

pub(crate) struct Lab {
    pub(crate) ct: Conntrack,
    pub(crate) now: Time,
}

impl Lab {
    pub(crate) fn new(config: Config) -> Lab {
        Lab {
            ct: Conntrack::new(config),
            now: NOW,
        }
    }

    pub(crate) fn classify(&mut self, pkt: &[u8], template: Option<&Template>) -> Tracked {
        let layout = layout(pkt);
        self.ct
            .handle_packet(self.now, pkt, &layout, InHook::Prerouting, template)
    }

    pub(crate) fn attach(&mut self, pkt: &[u8]) -> Attached {
        match self.classify(pkt, None) {
            Tracked::Ct(at) => at,
            other @ (Tracked::Untracked | Tracked::Invalid(_) | Tracked::Drop(_)) => {
                panic!("{other:?}")
            }
        }
    }

    /// Classifies and confirms.
    pub(crate) fn pass(&mut self, pkt: &[u8]) -> Attached {
        let mut at = self.attach(pkt);
        self.ct
            .confirm(self.now, &mut at)
            .expect("known to the test");
        at
    }

    pub(crate) fn left(&self, id: EntryId) -> u64 {
        self.ct
            .entry(id)
            .expect("known to the test")
            .remaining(self.now)
    }

    pub(crate) fn status(&self, id: EntryId) -> Status {
        self.ct.entry(id).expect("known to the test").status
    }
}
