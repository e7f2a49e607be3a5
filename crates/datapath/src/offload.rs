//! What network cards do for the kernel: completing checksums, cutting large packets.

use tidegate_sys::{Gso, VnetHeader};
use tidegate_wire::{Family, Layout, checksum, parse, proto, put};

/// Completes a checksum that was left to the card. `packet` starts `head` bytes into the
/// frame.
pub(crate) fn complete(packet: &mut [u8], vnet: &VnetHeader, head: usize) {
    if !vnet.needs_csum {
        return;
    }
    let Some(start) = usize::from(vnet.csum_start).checked_sub(head) else {
        return;
    };
    let at = start + usize::from(vnet.csum_offset);
    let Some(covered) = packet.get(start..).filter(|_| at + 2 <= packet.len()) else {
        return;
    };
    let sum = match checksum::finish(0, covered) {
        0 => 0xffff,
        sum => sum,
    };
    put(packet, at, &sum.to_be_bytes());
}

/// Completes a checksum that was left to the card, of a packet that came without a word
/// about it (by XDP): the field holds the sum of the pseudo-header alone then. One in
/// 65,536 wrong checksums looks the same.
pub(crate) fn complete_partial(packet: &mut [u8]) {
    let Ok(layout) = parse(packet) else {
        return;
    };
    let at = match layout.proto {
        proto::TCP => 16,
        proto::UDP => 6,
        _ => return,
    };
    let l4 = usize::from(layout.l4);
    let Some(covered) = packet.get(l4..layout.len as usize) else {
        return;
    };
    let Some(field) = covered.get(at..at + 2) else {
        return;
    };
    let (src, dst) = (layout.src(packet), layout.dst(packet));
    let len = covered.len() as u32;
    let pseudo = checksum::fold(checksum::pseudo(layout.family, src, dst, layout.proto, len));
    if layout.is_fragment() || !layout.has_l4() || field != pseudo.to_be_bytes() {
        return;
    }
    let sum = match checksum::finish(0, covered) {
        0 => 0xffff,
        sum => sum,
    };
    put(packet, l4 + at, &sum.to_be_bytes());
}

/// How a large packet that came as one is to be cut when it leaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Segments {
    /// TCP payload bytes in each; 0 when the packet did not come as one of several.
    size: u16,
    ecn: bool,
}

impl Segments {
    /// Of a packet that stands for itself.
    pub(crate) const NONE: Segments = Segments {
        size: 0,
        ecn: false,
    };

    pub(crate) fn of(vnet: &VnetHeader) -> Self {
        match vnet.gso {
            Gso::Tcp4 | Gso::Tcp6 => Segments {
                size: vnet.gso_size,
                ecn: vnet.ecn,
            },
            Gso::None | Gso::Udp | Gso::Other(_) => Segments::NONE,
        }
    }

    /// As the engine takes it.
    pub(crate) fn payload(self) -> Option<u16> {
        Some(self.size)
    }

    /// Leaves cutting and checksums of `packet` to the kernel, when it is to be cut: for
    /// a link of `mtu`. It starts `head` bytes into the frame.
    pub(crate) fn apply(self, packet: &mut [u8], head: usize, mtu: u32) -> VnetHeader {
        self.try_apply(packet, head, mtu).unwrap_or_default()
    }

    fn try_apply(self, packet: &mut [u8], head: usize, mtu: u32) -> Option<VnetHeader> {
        if self.size == 0 {
            return None;
        }
        let layout = parse(packet).ok()?;
        if layout.proto != proto::TCP || layout.is_fragment() || !layout.has_l4() {
            return None;
        }
        let l4 = usize::from(layout.l4);
        let headers = l4 + usize::from(packet.get(l4 + 12)? >> 4) * 4;
        let payload = packet.len().checked_sub(headers)?;
        let room = (mtu as usize)
            .checked_sub(headers)
            .filter(|&room| room > 0)?;
        let size = self.size.min(u16::try_from(room).unwrap_or(u16::MAX));
        if payload <= usize::from(size) {
            return None;
        }
        let (src, dst) = (layout.src(packet), layout.dst(packet));
        let len = (packet.len() - l4) as u32;
        let pseudo = checksum::pseudo(layout.family, src, dst, proto::TCP, len);
        put(packet, l4 + 16, &checksum::fold(pseudo).to_be_bytes());
        Some(VnetHeader {
            needs_csum: true,
            data_valid: false,
            gso: match layout.family {
                Family::V4 => Gso::Tcp4,
                Family::V6 => Gso::Tcp6,
            },
            ecn: self.ecn,
            hdr_len: (head + headers) as u16,
            gso_size: size,
            csum_start: (head + l4) as u16,
            csum_offset: 16,
        })
    }
}

/// Cuts a packet of several UDP datagrams of `size` bytes each (`UDP_SEGMENT`) into
/// packets of one, checksums complete. `None` when it is no such packet.
pub(crate) fn split_udp(packet: &[u8], size: u16) -> Option<Vec<Vec<u8>>> {
    const UDP: usize = 8;
    let layout = parse(packet).ok()?;
    if layout.proto != proto::UDP || layout.is_fragment() || !layout.has_l4() || size == 0 {
        return None;
    }
    let l4 = usize::from(layout.l4);
    let headers = packet.get(..l4 + UDP)?;
    let payload = packet.get(l4 + UDP..layout.len as usize)?;
    let piece = |(i, data): (usize, &[u8])| {
        let mut made = Vec::with_capacity(headers.len() + data.len());
        made.extend_from_slice(headers);
        made.extend_from_slice(data);
        let udp = (made.len() - l4) as u16;
        put(&mut made, l4 + 4, &udp.to_be_bytes());
        finish_piece(&mut made, &layout, i, l4 + 6);
        made
    };
    let pieces = payload.chunks(usize::from(size)).enumerate();
    Some(pieces.map(piece).collect())
}

/// Cuts a packet whose cutting was left to the kernel ([`Segments::apply`]) into its
/// segments of `size` payload bytes, checksums complete. `None` when it is no such
/// packet.
pub(crate) fn split_tcp(packet: &[u8], size: u16, ecn: bool) -> Option<Vec<Vec<u8>>> {
    const FIN_PSH: u8 = 0x09;
    const CWR: u8 = 0x80;
    let layout = parse(packet).ok()?;
    if layout.proto != proto::TCP || layout.is_fragment() || !layout.has_l4() || size == 0 {
        return None;
    }
    let l4 = usize::from(layout.l4);
    let header = l4 + usize::from(packet.get(l4 + 12)? >> 4) * 4;
    let headers = packet.get(..header)?;
    let payload = packet.get(header..layout.len as usize)?;
    let first = u32::from_be_bytes(*headers.get(l4 + 4..)?.first_chunk()?);
    let last = payload.len().div_ceil(usize::from(size)).checked_sub(1)?;
    let piece = |(i, data): (usize, &[u8])| {
        let mut made = Vec::with_capacity(header + data.len());
        made.extend_from_slice(headers);
        made.extend_from_slice(data);
        let seq = first.wrapping_add(i as u32 * u32::from(size));
        put(&mut made, l4 + 4, &seq.to_be_bytes());
        if i != last {
            made[l4 + 13] &= !FIN_PSH;
        }
        if i != 0 && ecn {
            made[l4 + 13] &= !CWR;
        }
        finish_piece(&mut made, &layout, i, l4 + 16);
        made
    };
    let pieces = payload.chunks(usize::from(size)).enumerate();
    Some(pieces.map(piece).collect())
}

/// Lengths, IPv4 identification and checksums of the `i`th piece of a packet whose
/// transport checksum is at `sum_at`.
fn finish_piece(made: &mut [u8], whole: &Layout, i: usize, sum_at: usize) {
    let total = made.len();
    match whole.family {
        Family::V4 => {
            let id = u16::from_be_bytes([made[4], made[5]]).wrapping_add(i as u16);
            put(made, 2, &(total as u16).to_be_bytes());
            put(made, 4, &id.to_be_bytes());
            checksum::fix_ipv4(made);
        }
        Family::V6 => {
            put(made, 4, &((total - 40) as u16).to_be_bytes());
        }
    }
    write_sum(made, whole, sum_at);
}

/// Writes the transport checksum at its place.
fn write_sum(packet: &mut [u8], layout: &Layout, sum_at: usize) {
    let (l4, total) = (usize::from(layout.l4), packet.len());
    put(packet, sum_at, &[0, 0]);
    let (src, dst) = (layout.src(packet), layout.dst(packet));
    let pseudo = checksum::pseudo(layout.family, src, dst, layout.proto, (total - l4) as u32);
    let sum = match checksum::finish(pseudo, &packet[l4..]) {
        0 if layout.proto == proto::UDP => 0xffff,
        sum => sum,
    };
    put(packet, sum_at, &sum.to_be_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 10.0.0.1:1 > 10.0.0.2:2, UDP, `len` bytes of payload, no checksums.
    fn udp(len: usize) -> Vec<u8> {
        let mut p = vec![
            0x45, 0, 0, 0, 0, 7, 0x40, 0, 64, 17, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2,
        ];
        p.extend([0, 1, 0, 2, 0, 0, 0, 0]);
        p.extend((0..len).map(|n| n as u8));
        let total = (p.len() as u16).to_be_bytes();
        p[2..4].copy_from_slice(&total);
        checksum::fix_ipv4(&mut p);
        p
    }

    /// RFC 1071: the sum over pseudo-header and datagram, checksum included, is all ones.
    fn sum_holds(p: &[u8]) -> bool {
        let layout = parse(p).unwrap();
        let l4 = layout.l4(p);
        let pseudo = checksum::pseudo(
            layout.family,
            layout.src(p),
            layout.dst(p),
            layout.proto,
            l4.len() as u32,
        );
        checksum::fold(pseudo + checksum::sum(l4)) == 0xffff
    }

    #[test]
    fn datagrams_of_one_size_are_cut_apart() {
        let pieces = split_udp(&udp(25), 10).unwrap();
        let lengths: Vec<usize> = pieces.iter().map(Vec::len).collect();
        assert_eq!(lengths, [38, 38, 33]);
        for (i, piece) in pieces.iter().enumerate() {
            assert!(sum_holds(piece));
            assert_eq!(piece[4..6], [0, 7 + i as u8]);
            assert_eq!(usize::from(piece[28]), i * 10);
        }
        assert_eq!(split_udp(&udp(25), 0), None);
    }

    /// What the kernel's `tcp_gso_segment` makes of it.
    #[test]
    fn a_long_segment_is_cut_apart() {
        let mut p = vec![
            0x45, 0, 0, 0, 0, 7, 0x40, 0, 64, 6, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2,
        ];
        // Ports, sequence and acknowledgement, CWR|ACK|PSH|FIN, window.
        p.extend([0, 1, 0, 2, 0xff, 0xff, 0xff, 0xf8, 0, 0, 0, 1, 0x50, 0x99]);
        p.extend([1, 0, 0, 0, 0, 0]);
        p.extend(0..25u8);
        let total = (p.len() as u16).to_be_bytes();
        p[2..4].copy_from_slice(&total);
        checksum::fix_ipv4(&mut p);
        let pieces = split_tcp(&p, 10, true).unwrap();
        let lengths: Vec<usize> = pieces.iter().map(Vec::len).collect();
        assert_eq!(lengths, [50, 50, 45]);
        let seqs: Vec<&[u8]> = pieces.iter().map(|p| &p[24..28]).collect();
        assert_eq!(seqs, [[255, 255, 255, 248], [0, 0, 0, 2], [0, 0, 0, 12]]);
        let flags: Vec<u8> = pieces.iter().map(|p| p[33]).collect();
        assert_eq!(flags, [0x90, 0x10, 0x19]);
        for (i, piece) in pieces.iter().enumerate() {
            assert!(sum_holds(piece));
            assert_eq!(piece[4..6], [0, 7 + i as u8]);
            assert_eq!(usize::from(piece[40]), i * 10);
        }
        assert_eq!(split_tcp(&p, 10, false).unwrap()[1][33], 0x90);
        assert_eq!(split_tcp(&p, 0, false), None);
    }

    #[test]
    fn a_checksum_left_to_the_card_is_completed() {
        let mut p = udp(5);
        let pseudo = checksum::pseudo(Family::V4, 0x0a00_0001, 0x0a00_0002, 17, 13);
        p[24..26].copy_from_slice(&13u16.to_be_bytes());
        p[26..28].copy_from_slice(&checksum::fold(pseudo).to_be_bytes());
        let vnet = VnetHeader {
            needs_csum: true,
            csum_start: 34,
            csum_offset: 6,
            ..VnetHeader::default()
        };
        complete(&mut p, &vnet, 14);
        assert!(sum_holds(&p));
        let before = p.clone();
        for start in [13, 60, u16::MAX] {
            let nonsense = VnetHeader {
                csum_start: start,
                ..vnet
            };
            complete(&mut p, &nonsense, 14);
            assert_eq!(p, before);
        }
    }

    /// `CHECKSUM_PARTIAL`: the field holds the pseudo-header's sum. Any other value is a
    /// checksum, right or wrong, and stays; so do a missing one and a fragment's.
    #[test]
    fn only_the_sum_of_the_pseudo_header_is_completed() {
        let pseudo = checksum::pseudo(Family::V4, 0x0a00_0001, 0x0a00_0002, 17, 13);
        let partial = checksum::fold(pseudo);
        let with = |sum: u16, fragment: u8| {
            let mut p = udp(5);
            p[24..26].copy_from_slice(&13u16.to_be_bytes());
            p[26..28].copy_from_slice(&sum.to_be_bytes());
            p[6] = fragment;
            checksum::fix_ipv4(&mut p);
            p
        };
        let mut p = with(partial, 0x40);
        complete_partial(&mut p);
        assert!(sum_holds(&p));
        for (sum, fragment) in [(partial ^ 1, 0x40), (0, 0x40), (partial, 0x20)] {
            let mut p = with(sum, fragment);
            let before = p.clone();
            complete_partial(&mut p);
            assert_eq!(p, before);
        }
        for len in 0..p.len() {
            complete_partial(&mut p.clone()[..len]);
        }
    }
}
