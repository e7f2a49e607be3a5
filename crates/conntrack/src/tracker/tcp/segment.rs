//! What the tracker needs from a TCP header.

use crate::entry::{TcpClass, TcpSide, tcp_flag};
use crate::reason::InvalidReason;
use crate::seqadj::after;
use tidegate_wire::be32;
use tidegate_wire::tcp::{Options, Tcp, flags, option};

/// Largest window scale (RFC 7323 section 2.3).
const MAX_WSCALE: u8 = 14;

/// Bytes of a header without options.
const HEADER: usize = 20;

/// A segment whose header is sound.
#[derive(Clone, Copy, Debug)]
pub(super) struct Segment<'a> {
    pub(super) class: TcpClass,
    pub(super) flags: u8,
    pub(super) seq: u32,
    pub(super) ack: u32,
    /// Sequence number after the last octet; SYN and FIN count one each.
    pub(super) end: u32,
    /// Window as written.
    pub(super) win: u16,
    options: &'a [u8],
}

/// Flag sets that stacks send, without PSH, ECE and CWR (`tcp_valid_flags`).
const LEGAL: [u8; 9] = {
    use flags::{ACK, FIN, RST, SYN, URG};
    [
        SYN,
        SYN | URG,
        SYN | ACK,
        RST,
        RST | ACK,
        FIN | ACK,
        FIN | ACK | URG,
        ACK,
        ACK | URG,
    ]
};

/// [`LEGAL`] as a bit set over the 64 combinations of the six low flags.
const LEGAL_BITS: u64 = {
    let mut bits = 0;
    let mut i = 0;
    while i < LEGAL.len() {
        bits |= 1 << LEGAL[i];
        i += 1;
    }
    bits
};

/// Whether a flag byte is one that stacks send.
#[inline]
pub(super) const fn legal(all: u8) -> bool {
    let flags = all & !(flags::ECE | flags::CWR | flags::PSH);
    LEGAL_BITS >> flags & 1 != 0
}

/// Class of a flag byte: RST wins over SYN, SYN over FIN, FIN over ACK.
#[inline]
pub(super) const fn class(all: u8) -> TcpClass {
    if all & flags::RST != 0 {
        TcpClass::Rst
    } else if all & flags::SYN != 0 {
        if all & flags::ACK != 0 {
            TcpClass::SynAck
        } else {
            TcpClass::Syn
        }
    } else if all & flags::FIN != 0 {
        TcpClass::Fin
    } else if all & flags::ACK != 0 {
        TcpClass::Ack
    } else {
        TcpClass::None
    }
}

impl<'a> Segment<'a> {
    /// Reads a header.
    ///
    /// # Errors
    /// [`InvalidReason::ShortHeader`] and [`InvalidReason::Truncated`] when it does not
    /// fit the packet.
    #[inline]
    pub(super) fn new(l4: &'a [u8]) -> Result<Segment<'a>, InvalidReason> {
        let tcp = Tcp::new(l4).ok_or(if l4.len() < HEADER {
            InvalidReason::ShortHeader
        } else {
            InvalidReason::Truncated
        })?;
        let flags = tcp.flags();
        let phantom = u32::from(flags & flags::SYN != 0) + u32::from(flags & flags::FIN != 0);
        let len = tcp.payload().len() as u32 + phantom;
        Ok(Segment {
            class: class(flags),
            flags,
            seq: tcp.seq(),
            ack: tcp.ack(),
            end: tcp.seq().wrapping_add(len),
            win: tcp.window(),
            options: tcp.options(),
        })
    }

    #[inline]
    pub(super) fn has(&self, flag: u8) -> bool {
        self.flags & flag != 0
    }

    /// Takes over window scale and SACK permission of a SYN (`tcp_options`); a header
    /// without options leaves what was known.
    pub(super) fn read_options(&self, side: &mut TcpSide) {
        if self.options.is_empty() {
            return;
        }
        side.scale = 0;
        side.flags &= tcp_flag::BE_LIBERAL;
        for (kind, _, data) in Options::new(self.options) {
            match (kind, data) {
                (option::SACK_PERM, []) => side.flags |= tcp_flag::SACK_PERM,
                (option::WSCALE, &[scale]) => {
                    side.scale = scale.min(MAX_WSCALE);
                    side.flags |= tcp_flag::WINDOW_SCALE;
                }
                _ => {}
            }
        }
    }

    /// Whether its options are what most stacks send with most segments.
    #[inline]
    fn has_only_timestamps(&self) -> bool {
        const START: [u8; 4] = [option::NOP, option::NOP, option::TIMESTAMP, 10];
        self.options.len() == 12 && self.options.starts_with(&START)
    }

    /// The highest edge acknowledged, SACK blocks included (`tcp_sack`).
    #[inline]
    pub(super) fn sack(&self) -> u32 {
        let mut highest = self.ack;
        if self.options.is_empty() || self.has_only_timestamps() {
            return highest;
        }
        for (kind, _, data) in Options::new(self.options) {
            if kind != option::SACK || data.is_empty() || !data.len().is_multiple_of(8) {
                continue;
            }
            for block in data.chunks_exact(8) {
                let right = be32(block, 4).unwrap_or(highest);
                if after(right, highest) {
                    highest = right;
                }
            }
            break;
        }
        highest
    }
}
