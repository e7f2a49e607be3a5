//! Packet bytes: one parse into a [`Layout`], header constants, checksums.
//!
//! Everything works on a *network-layer packet*: a byte slice that starts at the
//! IPv4 or IPv6 header and ends with the packet (link-layer padding removed).
//! Nothing here allocates, panics on input, or knows about rules or connections.
#![no_std]

pub mod checksum;
pub mod crc32c;
pub mod ext6;
pub mod jhash;
mod layout;
pub mod tcp;

pub use layout::{Layout, Malformed, parse, parse_embedded};

/// Address family of a packet, a ruleset or a tuple.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Family {
    /// IPv4 (`AF_INET`, 2).
    V4,
    /// IPv6 (`AF_INET6`, 10).
    V6,
}

/// IP protocol numbers that the packet path treats by name (IANA registry).
pub mod proto {
    /// IPv6 hop-by-hop options.
    pub const HOPOPTS: u8 = 0;
    /// ICMP for IPv4.
    pub const ICMP: u8 = 1;
    /// TCP.
    pub const TCP: u8 = 6;
    /// UDP.
    pub const UDP: u8 = 17;
    /// DCCP.
    pub const DCCP: u8 = 33;
    /// IPComp.
    pub const IPCOMP: u8 = 108;
    /// IPv6 routing header.
    pub const ROUTING: u8 = 43;
    /// IPv6 fragment header.
    pub const FRAGMENT: u8 = 44;
    /// GRE.
    pub const GRE: u8 = 47;
    /// ESP.
    pub const ESP: u8 = 50;
    /// Authentication header.
    pub const AH: u8 = 51;
    /// ICMP for IPv6.
    pub const ICMPV6: u8 = 58;
    /// No next header.
    pub const NONE: u8 = 59;
    /// IPv6 destination options.
    pub const DSTOPTS: u8 = 60;
    /// SCTP.
    pub const SCTP: u8 = 132;
    /// Mobility header.
    pub const MH: u8 = 135;
    /// UDP-Lite.
    pub const UDPLITE: u8 = 136;
}

/// The big-endian 16-bit value at `off`, or `None` past the end.
#[inline]
#[must_use]
pub fn be16(buf: &[u8], off: usize) -> Option<u16> {
    let b = buf.get(off..off.checked_add(2)?)?;
    Some(u16::from_be_bytes([b[0], b[1]]))
}

/// The big-endian 32-bit value at `off`, or `None` past the end.
#[inline]
#[must_use]
pub fn be32(buf: &[u8], off: usize) -> Option<u32> {
    let b = buf.get(off..off.checked_add(4)?)?;
    Some(u32::from_be_bytes([b[0], b[1], b[2], b[3]]))
}

/// The big-endian 128-bit value at `off`, or `None` past the end.
#[inline]
#[must_use]
pub fn be128(buf: &[u8], off: usize) -> Option<u128> {
    let b: [u8; 16] = buf.get(off..off.checked_add(16)?)?.try_into().ok()?;
    Some(u128::from_be_bytes(b))
}

/// Writes `bytes` at `off`; `false` (and nothing written) when they do not fit.
#[inline]
pub fn put(buf: &mut [u8], off: usize, bytes: &[u8]) -> bool {
    let Some(end) = off.checked_add(bytes.len()) else {
        return false;
    };
    match buf.get_mut(off..end) {
        Some(dst) => {
            dst.copy_from_slice(bytes);
            true
        }
        None => false,
    }
}
