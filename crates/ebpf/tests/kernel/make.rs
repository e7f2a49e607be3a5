//! Makes packets.

use tidegate_wire::{Family, checksum, proto};

pub(crate) const SYN: u8 = 2;
pub(crate) const PSH: u8 = 8;
pub(crate) const ACK: u8 = 16;

/// Where a packet comes from and goes to.
#[derive(Clone, Copy)]
pub(crate) struct Way {
    pub(crate) family: Family,
    pub(crate) src: (u128, u16),
    pub(crate) dst: (u128, u16),
}

pub(crate) struct Tcp<'a> {
    pub(crate) flags: u8,
    pub(crate) seq: u32,
    pub(crate) ack: u32,
    pub(crate) window: u16,
    pub(crate) options: &'a [u8],
    pub(crate) payload: usize,
}

impl Way {
    fn network(&self, protocol: u8, l4: &mut [u8], check_at: usize) -> Vec<u8> {
        let (src, dst) = (self.src.0, self.dst.0);
        let pseudo = checksum::pseudo(self.family, src, dst, protocol, l4.len() as u32);
        let check = match checksum::finish(pseudo, l4) {
            0 if protocol == proto::UDP => 0xffff,
            check => check,
        };
        l4[check_at..check_at + 2].copy_from_slice(&check.to_be_bytes());
        let len = l4.len() as u16;
        let mut packet = match self.family {
            Family::V4 => {
                let mut p = vec![0x45, 0, 0, 0, 0, 1, 0x40, 0, 64, protocol, 0, 0];
                p.extend((src as u32).to_be_bytes());
                p.extend((dst as u32).to_be_bytes());
                p[2..4].copy_from_slice(&(len + 20).to_be_bytes());
                checksum::fix_ipv4(&mut p);
                p
            }
            Family::V6 => {
                let mut p = vec![0x60, 0, 0, 0, 0, 0, protocol, 64];
                p.extend(src.to_be_bytes());
                p.extend(dst.to_be_bytes());
                p[4..6].copy_from_slice(&len.to_be_bytes());
                p
            }
        };
        packet.extend_from_slice(l4);
        packet
    }

    pub(crate) fn udp(&self, payload: &[u8]) -> Vec<u8> {
        let len = 8 + payload.len() as u16;
        let mut l4 = [self.src.1, self.dst.1, len, 0]
            .map(u16::to_be_bytes)
            .concat();
        l4.extend_from_slice(payload);
        self.network(proto::UDP, &mut l4, 6)
    }

    pub(crate) fn tcp(&self, tcp: &Tcp<'_>) -> Vec<u8> {
        let mut l4 = [self.src.1, self.dst.1].map(u16::to_be_bytes).concat();
        l4.extend(tcp.seq.to_be_bytes());
        l4.extend(tcp.ack.to_be_bytes());
        let words = (20 + tcp.options.len()) / 4;
        l4.extend([(words as u8) << 4, tcp.flags]);
        l4.extend(tcp.window.to_be_bytes());
        l4.extend([0; 4]);
        l4.extend_from_slice(tcp.options);
        l4.extend((0..tcp.payload).map(|n| n as u8));
        self.network(proto::TCP, &mut l4, 16)
    }
}

/// Numbers that look random, the same ones each time.
pub(crate) struct Numbers(pub(crate) u64);

impl Numbers {
    /// Below `end`.
    pub(crate) fn below(&mut self, end: u64) -> u64 {
        // SplitMix64.
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % end
    }

    pub(crate) fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }
}
