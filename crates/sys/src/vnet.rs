//! What network cards leave undone: checksums and segmentation (`struct virtio_net_hdr`,
//! uapi `linux/virtio_net.h`).

/// Bytes of the header in front of every frame.
pub(crate) const LEN: usize = 10;

const NEEDS_CSUM: u8 = 1;
const DATA_VALID: u8 = 2;
const ECN: u8 = 0x80;

/// How a frame that stands for several is to be cut.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Gso {
    /// Not at all.
    #[default]
    None,
    /// TCP over IPv4.
    Tcp4,
    /// TCP over IPv6.
    Tcp6,
    /// UDP datagrams of one size.
    Udp,
    /// IPv4 fragments of a UDP datagram, or something newer.
    Other(u8),
}

impl Gso {
    const fn from_number(number: u8) -> Self {
        match number & !ECN {
            0 => Gso::None,
            1 => Gso::Tcp4,
            4 => Gso::Tcp6,
            5 => Gso::Udp,
            other => Gso::Other(other),
        }
    }

    const fn number(self) -> u8 {
        match self {
            Gso::None => 0,
            Gso::Tcp4 => 1,
            Gso::Tcp6 => 4,
            Gso::Udp => 5,
            Gso::Other(n) => n,
        }
    }
}

/// The header in terms that matter here.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct VnetHeader {
    /// The checksum field holds the sum of the pseudo-header alone; the sum from
    /// `csum_start` on is to be added at `csum_start + csum_offset`.
    pub needs_csum: bool,
    /// The checksum has been verified, or the frame never was on a wire.
    pub data_valid: bool,
    /// How the frame is to be cut.
    pub gso: Gso,
    /// With [`Gso::Tcp4`] and [`Gso::Tcp6`]: only the first segment carries CWR.
    pub ecn: bool,
    /// Bytes of all headers, link layer included, where `gso` is set.
    pub hdr_len: u16,
    /// Payload bytes per segment.
    pub gso_size: u16,
    /// From the start of the frame.
    pub csum_start: u16,
    /// From `csum_start`.
    pub csum_offset: u16,
}

impl VnetHeader {
    pub(crate) fn read(bytes: &[u8; LEN]) -> Self {
        let word = |at: usize| u16::from_ne_bytes([bytes[at], bytes[at + 1]]);
        VnetHeader {
            needs_csum: bytes[0] & NEEDS_CSUM != 0,
            data_valid: bytes[0] & DATA_VALID != 0,
            gso: Gso::from_number(bytes[1]),
            ecn: bytes[1] & ECN != 0,
            hdr_len: word(2),
            gso_size: word(4),
            csum_start: word(6),
            csum_offset: word(8),
        }
    }

    pub(crate) fn write(&self) -> [u8; LEN] {
        let mut bytes = [0; LEN];
        bytes[0] = if self.needs_csum { NEEDS_CSUM } else { 0 };
        bytes[1] = self.gso.number() | if self.ecn { ECN } else { 0 };
        let words = [
            self.hdr_len,
            self.gso_size,
            self.csum_start,
            self.csum_offset,
        ];
        for (slot, word) in bytes[2..].chunks_exact_mut(2).zip(words) {
            slot.copy_from_slice(&word.to_ne_bytes());
        }
        bytes
    }
}

/// The header of a frame of `len` bytes of which nothing is left to do, in a ring. All of
/// it is said to be headers: these the kernel copies at once (`tpacket_fill_skb`). The rest
/// it would refer to where it lies, and copy to a page of its own on the way up another
/// host's stack (`skb_orphan_frags_rx`), which costs more.
pub(crate) fn copied(len: u16) -> [u8; LEN] {
    let header = VnetHeader {
        hdr_len: len,
        ..VnetHeader::default()
    };
    header.write()
}

#[cfg(test)]
mod tests {
    use super::*;

    // struct virtio_net_hdr: flags, gso_type, hdr_len, gso_size, csum_start, csum_offset.
    #[test]
    fn fields_are_where_the_kernel_has_them() {
        let header = VnetHeader {
            needs_csum: true,
            data_valid: false,
            gso: Gso::Tcp6,
            ecn: true,
            hdr_len: 74,
            gso_size: 1428,
            csum_start: 54,
            csum_offset: 16,
        };
        let bytes = header.write();
        assert_eq!(bytes[..2], [1, 0x84]);
        assert_eq!(bytes[4..6], 1428u16.to_ne_bytes());
        assert_eq!(VnetHeader::read(&bytes), header);
    }
}
