//! One parse of a packet: where its headers are.

use crate::{Family, be16, be128, checksum, proto};

/// Why a packet was refused before any hook (`ip_rcv_core`, `ip6_rcv_core`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Malformed {
    /// Shorter than its fixed network header.
    Truncated,
    /// The version nibble is neither 4 nor 6.
    Version,
    /// IPv4 header length below 20 bytes or past the end of the packet.
    HeaderLength,
    /// IPv4 total length shorter than the header or longer than the packet.
    TotalLength,
    /// IPv4 header checksum wrong.
    HeaderChecksum,
}

/// Where the headers of one packet are. Offsets count from the network header.
///
/// A `Layout` stays valid while only header *values* change; whoever changes the
/// length of the packet parses again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layout {
    /// Address family.
    pub family: Family,
    /// Transport protocol: IPv4 protocol field, or the IPv6 header that ends the chain.
    pub proto: u8,
    /// Offset of the transport header (of its bytes in this fragment).
    pub l4: u16,
    /// Bytes of the network packet, headers included.
    pub len: u32,
    /// Fragment offset in units of eight bytes; 0 for whole packets and first fragments.
    pub frag_off: u16,
    /// More fragments follow.
    pub more_frags: bool,
    /// IPv4: the don't-fragment bit.
    pub dont_frag: bool,
    /// IPv6: offset of the fragment header, 0 when there is none.
    pub frag_hdr: u16,
    /// IPv6: offset of the byte that names [`Layout::proto`]; IPv4: 9.
    pub proto_at: u16,
    /// IPv6: the extension-header chain is cut short or malformed, so `proto` is
    /// only the last header that could be read.
    pub broken_chain: bool,
}

impl Layout {
    /// The layout of a packet that begins with this IPv4 header, which [`parse`] has read before;
    /// `None` when it is another or has options.
    #[inline]
    #[must_use]
    pub fn plain_ipv4(header: &[u8; 20]) -> Option<Layout> {
        (header[0] == 0x45).then(|| Layout::ipv4(header, 20))
    }

    /// Of an IPv4 header, of which 20 bytes are there.
    #[inline]
    fn ipv4(header: &[u8], l4: u16) -> Layout {
        let frag = u16::from_be_bytes([header[6], header[7]]);
        Layout {
            family: Family::V4,
            proto: header[9],
            l4,
            len: u16::from_be_bytes([header[2], header[3]]).into(),
            frag_off: frag & 0x1fff,
            more_frags: frag & 0x2000 != 0,
            dont_frag: frag & 0x4000 != 0,
            frag_hdr: 0,
            proto_at: 9,
            broken_chain: false,
        }
    }

    /// Whether this is a fragment of a larger packet (first, middle or last).
    #[inline]
    #[must_use]
    pub fn is_fragment(&self) -> bool {
        self.more_frags || self.frag_off != 0
    }

    /// Whether the transport header can be in this packet (not a later fragment).
    #[inline]
    #[must_use]
    pub fn has_l4(&self) -> bool {
        self.frag_off == 0 && !self.broken_chain
    }

    /// The transport header and everything after it.
    #[inline]
    #[must_use]
    pub fn l4<'a>(&self, buf: &'a [u8]) -> &'a [u8] {
        buf.get(usize::from(self.l4)..).unwrap_or(&[])
    }

    /// Source address; IPv4 in the low 32 bits.
    #[inline]
    #[must_use]
    pub fn src(&self, buf: &[u8]) -> u128 {
        match self.family {
            Family::V4 => addr4(buf, 12),
            Family::V6 => be128(buf, 8).unwrap_or(0),
        }
    }

    /// Destination address; IPv4 in the low 32 bits.
    #[inline]
    #[must_use]
    pub fn dst(&self, buf: &[u8]) -> u128 {
        match self.family {
            Family::V4 => addr4(buf, 16),
            Family::V6 => be128(buf, 24).unwrap_or(0),
        }
    }

    /// TTL or hop limit.
    #[inline]
    #[must_use]
    pub fn ttl(&self, buf: &[u8]) -> u8 {
        buf.get(self.ttl_at()).copied().unwrap_or(0)
    }

    /// Writes the TTL or hop limit and repairs the IPv4 checksum.
    #[inline]
    pub fn set_ttl(&self, buf: &mut [u8], ttl: u8) {
        match self.family {
            Family::V4 => {
                let word = u16::from_be_bytes([ttl, buf.get(9).copied().unwrap_or(0)]);
                checksum::replace_ipv4_word(buf, 8, word);
            }
            Family::V6 => {
                crate::put(buf, 7, &[ttl]);
            }
        }
    }

    /// Takes one from the TTL or hop limit, which is not 0, and repairs the IPv4 checksum
    /// (`ip_decrease_ttl`).
    #[inline]
    pub fn decrease_ttl(&self, buf: &mut [u8]) {
        let ttl = self.ttl_at();
        if let Some(ttl) = buf.get_mut(ttl) {
            *ttl = ttl.wrapping_sub(1);
        }
        if self.family == Family::V4
            && let Some([.., a, b]) = buf.first_chunk_mut::<12>()
        {
            // The sum of the header is less by 0x0100, so its complement is that much more; all
            // ones become none (RFC 1141).
            let sum = u32::from(u16::from_ne_bytes([*a, *b])) + u32::from(0x0100u16.to_be());
            let sum = (sum + u32::from(sum >= 0xffff)) as u16;
            [*a, *b] = sum.to_ne_bytes();
        }
    }

    /// IPv4 TOS or IPv6 traffic class.
    #[inline]
    #[must_use]
    pub fn tos(&self, buf: &[u8]) -> u8 {
        match self.family {
            Family::V4 => buf.get(1).copied().unwrap_or(0),
            Family::V6 => be16(buf, 0).map_or(0, |w| (w >> 4) as u8),
        }
    }

    /// Offset of the TTL or hop limit byte.
    #[inline]
    #[must_use]
    pub fn ttl_at(&self) -> usize {
        match self.family {
            Family::V4 => 8,
            Family::V6 => 7,
        }
    }
}

#[inline]
fn addr4(buf: &[u8], off: usize) -> u128 {
    u128::from(crate::be32(buf, off).unwrap_or(0))
}

/// Parses the network header of `buf` the way the kernel does before PREROUTING.
///
/// Trailing bytes after the packet's own length are tolerated; the caller trims
/// to [`Layout::len`].
///
/// # Errors
/// [`Malformed`] when the kernel would drop the packet in `ip_rcv`/`ip6_rcv`.
#[inline]
pub fn parse(buf: &[u8]) -> Result<Layout, Malformed> {
    match buf.first().map(|b| b >> 4) {
        Some(4) => parse4(buf),
        Some(6) => parse6(buf),
        Some(_) => Err(Malformed::Version),
        None => Err(Malformed::Truncated),
    }
}

/// Parses the packet embedded in an ICMP error, of which only the start may be there.
///
/// Lengths and checksums are not verified and [`Layout::len`] is what is present.
/// `None` when the transport header cannot be located: header cut short, later
/// fragment, broken or closed (no next header) IPv6 extension chain.
#[inline]
#[must_use]
pub fn parse_embedded(family: Family, buf: &[u8]) -> Option<Layout> {
    let mut layout = Layout {
        family,
        proto: 0,
        l4: 40,
        len: u32::try_from(buf.len()).ok()?,
        frag_off: 0,
        more_frags: false,
        dont_frag: true,
        frag_hdr: 0,
        proto_at: 6,
        broken_chain: false,
    };
    match family {
        Family::V4 => {
            let frag = be16(buf, 6)?;
            layout.l4 = u16::from(*buf.first()? & 0x0f) * 4;
            layout.proto = *buf.get(9)?;
            layout.proto_at = 9;
            layout.frag_off = frag & 0x1fff;
            layout.more_frags = frag & 0x2000 != 0;
            layout.dont_frag = frag & 0x4000 != 0;
            layout.broken_chain = layout.l4 < 20;
        }
        Family::V6 => {
            layout.proto = *buf.get(6)?;
            buf.get(..40)?;
            walk_extensions(buf, &mut layout);
            layout.broken_chain |= layout.proto == proto::NONE;
        }
    }
    (layout.has_l4() && usize::from(layout.l4) <= buf.len()).then_some(layout)
}

#[inline]
fn parse4(buf: &[u8]) -> Result<Layout, Malformed> {
    if buf.len() < 20 {
        return Err(Malformed::Truncated);
    }
    let ihl = usize::from(buf[0] & 0x0f) * 4;
    if ihl < 20 || ihl > buf.len() {
        return Err(Malformed::HeaderLength);
    }
    if !checksum::is_right_ipv4(&buf[..ihl]) {
        return Err(Malformed::HeaderChecksum);
    }
    let layout = Layout::ipv4(buf, ihl as u16);
    if layout.len < ihl as u32 || layout.len as usize > buf.len() {
        return Err(Malformed::TotalLength);
    }
    Ok(layout)
}

fn parse6(buf: &[u8]) -> Result<Layout, Malformed> {
    if buf.len() < 40 {
        return Err(Malformed::Truncated);
    }
    let len = match u16::from_be_bytes([buf[4], buf[5]]) {
        // A jumbo payload option may follow and say how long the packet is.
        0 if buf[6] == proto::HOPOPTS => buf.len(),
        payload => 40 + usize::from(payload),
    };
    if len > buf.len() {
        return Err(Malformed::TotalLength);
    }
    let mut layout = Layout {
        family: Family::V6,
        proto: buf[6],
        l4: 40,
        len: len as u32,
        frag_off: 0,
        more_frags: false,
        dont_frag: true,
        frag_hdr: 0,
        proto_at: 6,
        broken_chain: false,
    };
    walk_extensions(&buf[..len], &mut layout);
    Ok(layout)
}

/// Follows the chain of IPv6 extension headers (RFC 8200 section 4; the headers
/// that `ipv6_ext_hdr` knows). Every step advances, so the walk is bounded by `buf`.
fn walk_extensions(buf: &[u8], layout: &mut Layout) {
    let mut at = 40usize;
    loop {
        let next = layout.proto;
        if !matches!(
            next,
            proto::HOPOPTS | proto::ROUTING | proto::FRAGMENT | proto::AH | proto::DSTOPTS
        ) {
            break;
        }
        let (Some(&following), Some(&len_byte)) = (buf.get(at), buf.get(at + 1)) else {
            layout.broken_chain = true;
            break;
        };
        let size = match next {
            proto::FRAGMENT => 8,
            proto::AH => (usize::from(len_byte) + 2) * 4,
            _ => (usize::from(len_byte) + 1) * 8,
        };
        if at + size > buf.len() {
            layout.broken_chain = true;
            break;
        }
        if next == proto::FRAGMENT {
            let off = be16(buf, at + 2).unwrap_or(0);
            layout.frag_hdr = at as u16;
            layout.frag_off = off >> 3;
            layout.more_frags = off & 1 != 0;
        }
        layout.proto = following;
        layout.proto_at = at as u16;
        at += size;
        if layout.frag_off != 0 {
            break;
        }
    }
    layout.l4 = u16::try_from(at).unwrap_or(u16::MAX);
}

#[cfg(test)]
mod tests {
    use super::*;

    // A UDP packet whose header checksum was computed by hand per RFC 1071.
    const UDP4: [u8; 29] = [
        0x45, 0, 0, 0x1d, 0, 1, 0, 0, 0x40, 0x11, 0x65, 0xcc, 10, 0, 0, 2, 10, 0, 1, 2, 0x0f, 0xa0,
        0, 0x35, 0, 9, 0x6a, 0x03, 0x71,
    ];

    #[test]
    fn reads_a_plain_udp_packet() {
        let l = parse(&UDP4).unwrap();
        assert_eq!((l.proto, l.l4, l.len), (proto::UDP, 20, 29));
        assert_eq!(l.src(&UDP4), 0x0a00_0002);
        assert_eq!(l.dst(&UDP4), 0x0a00_0102);
        assert!(!l.is_fragment());
    }

    #[test]
    fn refuses_what_ip_rcv_refuses() {
        let mut p = UDP4;
        p[10] ^= 1;
        assert_eq!(parse(&p), Err(Malformed::HeaderChecksum));
        assert_eq!(parse(&UDP4[..19]), Err(Malformed::Truncated));
        assert_eq!(parse(&UDP4[..28]), Err(Malformed::TotalLength));
        assert_eq!(parse(&[0x10; 40]), Err(Malformed::Version));
        assert_eq!(parse(&[]), Err(Malformed::Truncated));
    }

    /// Whatever stands there: the checksum of RFC 1624 equation 3, by the general way.
    #[test]
    fn one_less_ttl_is_what_writing_it_gives() {
        let layout = parse(&UDP4).unwrap();
        for ttl in [1, 64, 255] {
            for check in 0..=u16::MAX {
                let mut less = UDP4;
                less[8] = ttl;
                less[10..12].copy_from_slice(&check.to_be_bytes());
                let mut written = less;
                layout.set_ttl(&mut written, ttl - 1);
                layout.decrease_ttl(&mut less);
                assert_eq!(less, written);
            }
        }
    }

    #[test]
    fn walks_extension_headers_to_the_transport() {
        let mut p = [0u8; 40 + 8 + 8 + 8];
        p[0] = 0x60;
        p[5] = 24;
        p[6] = proto::HOPOPTS;
        p[40] = proto::FRAGMENT;
        p[48] = proto::UDP;
        p[51] = 1;
        let l = parse(&p).unwrap();
        assert_eq!(
            (l.proto, l.l4, l.frag_hdr, l.proto_at),
            (proto::UDP, 56, 48, 48)
        );
        assert!(l.more_frags && l.has_l4());
    }

    #[test]
    fn embedded_packets_may_be_cut_after_the_ports() {
        let l = parse_embedded(Family::V4, &UDP4[..24]).unwrap();
        assert_eq!((l.proto, l.l4, l.len), (proto::UDP, 20, 24));
        assert_eq!(parse_embedded(Family::V4, &UDP4[..19]), None);
        let mut later = UDP4;
        later[7] = 1;
        assert_eq!(parse_embedded(Family::V4, &later), None);
        assert_eq!(parse_embedded(Family::V6, &[0x60; 39]), None);
    }

    #[test]
    fn a_cut_extension_chain_is_marked() {
        let mut p = [0u8; 41];
        p[0] = 0x60;
        p[5] = 1;
        p[6] = proto::DSTOPTS;
        let l = parse(&p).unwrap();
        assert!(l.broken_chain && !l.has_l4());
    }
}
