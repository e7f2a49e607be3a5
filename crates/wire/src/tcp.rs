//! TCP header access (RFC 9293 section 3.1).

use crate::be32;

/// Flag bits of byte 13.
pub mod flags {
    /// FIN.
    pub const FIN: u8 = 0x01;
    /// SYN.
    pub const SYN: u8 = 0x02;
    /// RST.
    pub const RST: u8 = 0x04;
    /// PSH.
    pub const PSH: u8 = 0x08;
    /// ACK.
    pub const ACK: u8 = 0x10;
    /// URG.
    pub const URG: u8 = 0x20;
    /// ECE.
    pub const ECE: u8 = 0x40;
    /// CWR.
    pub const CWR: u8 = 0x80;
}

/// Option kinds used on the packet path.
pub mod option {
    /// End of option list.
    pub const EOL: u8 = 0;
    /// No operation.
    pub const NOP: u8 = 1;
    /// Maximum segment size.
    pub const MSS: u8 = 2;
    /// Window scale.
    pub const WSCALE: u8 = 3;
    /// SACK permitted.
    pub const SACK_PERM: u8 = 4;
    /// SACK blocks.
    pub const SACK: u8 = 5;
    /// Time stamps.
    pub const TIMESTAMP: u8 = 8;
}

/// A checked view of a TCP header with its options and payload.
#[derive(Clone, Copy, Debug)]
pub struct Tcp<'a> {
    bytes: &'a [u8],
    header: usize,
}

impl<'a> Tcp<'a> {
    /// Views `l4`; `None` when it is shorter than 20 bytes or than its data offset,
    /// or when the data offset is below five words.
    #[inline]
    #[must_use]
    pub fn new(l4: &'a [u8]) -> Option<Self> {
        let header = usize::from(*l4.get(12)? >> 4) * 4;
        (l4.len() >= 20 && header >= 20 && header <= l4.len()).then_some(Tcp { bytes: l4, header })
    }

    /// Source port.
    #[inline]
    #[must_use]
    pub fn sport(&self) -> u16 {
        u16::from_be_bytes([self.bytes[0], self.bytes[1]])
    }

    /// Destination port.
    #[inline]
    #[must_use]
    pub fn dport(&self) -> u16 {
        u16::from_be_bytes([self.bytes[2], self.bytes[3]])
    }

    /// Sequence number.
    #[inline]
    #[must_use]
    pub fn seq(&self) -> u32 {
        be32(self.bytes, 4).unwrap_or(0)
    }

    /// Acknowledgement number.
    #[inline]
    #[must_use]
    pub fn ack(&self) -> u32 {
        be32(self.bytes, 8).unwrap_or(0)
    }

    /// Flag byte ([`flags`]).
    #[inline]
    #[must_use]
    pub fn flags(&self) -> u8 {
        self.bytes[13]
    }

    /// Raw window.
    #[inline]
    #[must_use]
    pub fn window(&self) -> u16 {
        u16::from_be_bytes([self.bytes[14], self.bytes[15]])
    }

    /// Header length in bytes, options included.
    #[inline]
    #[must_use]
    pub fn header_len(&self) -> usize {
        self.header
    }

    /// Option bytes.
    #[inline]
    #[must_use]
    pub fn options(&self) -> &'a [u8] {
        &self.bytes[20..self.header]
    }

    /// Payload bytes.
    #[inline]
    #[must_use]
    pub fn payload(&self) -> &'a [u8] {
        &self.bytes[self.header..]
    }
}

/// Iterates over TCP options as `(kind, offset of the kind byte, option data)`.
///
/// Stops at EOL, at a length below two and at an option that overruns, as
/// `tcp_options` in the kernel's TCP tracker does.
#[derive(Clone, Debug)]
pub struct Options<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Options<'a> {
    /// Iterates over `bytes`, the option part of a header.
    #[must_use]
    pub fn new(bytes: &'a [u8]) -> Self {
        Options { bytes, at: 0 }
    }
}

impl<'a> Iterator for Options<'a> {
    type Item = (u8, usize, &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let kind = *self.bytes.get(self.at)?;
            match kind {
                option::EOL => return None,
                option::NOP => self.at += 1,
                _ => {
                    let len = usize::from(*self.bytes.get(self.at + 1)?);
                    if len < 2 {
                        return None;
                    }
                    let data = self.bytes.get(self.at + 2..self.at + len)?;
                    let at = self.at;
                    self.at += len;
                    return Some((kind, at, data));
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    extern crate alloc;
    use alloc::vec::Vec;

    #[test]
    fn options_stop_at_overrun_and_end() {
        let o: Vec<u8> = Options::new(&[1, 2, 4, 5, 180, 3, 3, 7])
            .map(|o| o.0)
            .collect();
        assert_eq!(o, [2, 3]);
        assert_eq!(Options::new(&[2, 9, 0]).count(), 0);
        assert_eq!(Options::new(&[2, 1, 0]).count(), 0);
        assert_eq!(Options::new(&[0, 2, 4, 5, 180]).count(), 0);
    }

    #[test]
    fn short_headers_are_refused() {
        assert!(Tcp::new(&[0; 19]).is_none());
        let mut h = [0u8; 20];
        h[12] = 0x60;
        assert!(Tcp::new(&h).is_none());
        h[12] = 0x50;
        assert!(Tcp::new(&h).is_some());
    }
}
