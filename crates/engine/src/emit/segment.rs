//! TCP segments of the firewall's own.

use tidegate_wire::{checksum, proto};

use super::{IpHeader, ip_packet};
use crate::packet::Packet;

/// A segment without payload.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Segment {
    /// Source and destination port.
    pub(crate) ports: [u16; 2],
    pub(crate) seq: u32,
    pub(crate) ack: u32,
    pub(crate) flags: u8,
    pub(crate) window: u16,
}

impl Segment {
    /// The packet that takes it from one of the ends of `about` to the other: the way
    /// `about` goes, or `back`. `options` are whole words, ten at the most.
    pub(crate) fn packet(&self, about: &Packet, back: bool, ttl: u8, options: &[u8]) -> Vec<u8> {
        let ends = match back {
            false => (about.src(), about.dst()),
            true => (about.dst(), about.src()),
        };
        let mut l4 = Vec::with_capacity(20 + options.len());
        l4.extend(self.ports.iter().flat_map(|p| p.to_be_bytes()));
        l4.extend_from_slice(&self.seq.to_be_bytes());
        l4.extend_from_slice(&self.ack.to_be_bytes());
        let words = (20 + options.len()) / 4;
        l4.extend_from_slice(&[(words << 4) as u8, self.flags]);
        l4.extend_from_slice(&self.window.to_be_bytes());
        l4.extend_from_slice(&[0; 4]);
        l4.extend_from_slice(options);
        let len = l4.len() as u32;
        let sum = checksum::pseudo(about.family(), ends.0, ends.1, proto::TCP, len);
        let sum = checksum::finish(sum, &l4);
        l4[16..18].copy_from_slice(&sum.to_be_bytes());
        let header = IpHeader {
            proto: proto::TCP,
            ttl,
            tos: 0,
        };
        ip_packet(about.family(), ends, header, &l4)
    }
}
