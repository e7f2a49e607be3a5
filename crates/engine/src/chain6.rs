//! The IPv6 header chain as reassembly walks it. It trusts the lengths in the headers
//! further than [`tidegate_wire::parse`] does, because the kernel does.

use tidegate_wire::{be16, proto};

/// A fragment header and the byte that names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct FragmentHeader {
    /// Offset of the header.
    pub(crate) at: usize,
    /// Offset of the next-header byte that leads to it.
    pub(crate) named_at: usize,
}

/// `ipv6_ext_hdr`
fn is_extension(next: u8) -> bool {
    matches!(
        next,
        proto::HOPOPTS
            | proto::ROUTING
            | proto::FRAGMENT
            | proto::AH
            | proto::NONE
            | proto::DSTOPTS
    )
}

/// The header at `at`: the one it names and its own size in bytes.
fn header(bytes: &[u8], kind: u8, at: usize) -> Option<(u8, usize)> {
    let (&next, &len) = (bytes.get(at)?, bytes.get(at.checked_add(1)?)?);
    let len = usize::from(len);
    let size = match kind {
        proto::FRAGMENT => 8,
        proto::AH => (len + 2) * 4,
        _ => (len + 1) * 8,
    };
    Some((next, size))
}

/// The first fragment header of the packet (`find_prev_fhdr`).
pub(crate) fn fragment_header(bytes: &[u8]) -> Option<FragmentHeader> {
    let mut named_at = 6;
    let mut at = 40;
    let mut next = *bytes.get(named_at)?;
    while next != proto::FRAGMENT {
        if !is_extension(next) || next == proto::NONE {
            return None;
        }
        let (following, size) = header(bytes, next, at)?;
        named_at = at;
        next = following;
        at += size;
    }
    (at <= bytes.len()).then_some(FragmentHeader { at, named_at })
}

/// Whether the first fragment, whose fragment header is at `at`, ends before its
/// transport header does (`ipv6frag_thdr_truncated`, RFC 8200 4.5). Chains that cannot
/// be followed to their end count as not truncated.
pub(crate) fn transport_truncated(bytes: &[u8], at: usize) -> bool {
    let Some((kind, at)) = transport(bytes, at) else {
        return false;
    };
    let needed = match kind {
        proto::TCP => 20,
        proto::UDP | proto::ICMPV6 => 8,
        _ => 1,
    };
    at + needed > bytes.len()
}

/// `ipv6_skip_exthdr` from the fragment header on; `None` for later fragments too.
fn transport(bytes: &[u8], mut at: usize) -> Option<(u8, usize)> {
    let mut kind = proto::FRAGMENT;
    while is_extension(kind) {
        if kind == proto::NONE {
            return None;
        }
        let (next, size) = header(bytes, kind, at)?;
        if kind == proto::FRAGMENT && be16(bytes, at + 2)? & !7 != 0 {
            return None;
        }
        kind = next;
        at += size;
    }
    Some((kind, at))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn packet(first: u8, rest: &[u8]) -> Vec<u8> {
        let mut p = vec![0; 40];
        p[0] = 0x60;
        p[6] = first;
        p.extend_from_slice(rest);
        p
    }

    #[test]
    fn the_first_of_two_fragment_headers_counts() {
        let nested = [
            44, 0, 0, 0, 0, 0, 0, 6, 17, 0, 0, 1, 0, 0, 0, 7, 0, 1, 0, 53, 0, 8, 0, 0,
        ];
        let found = fragment_header(&packet(44, &nested)).unwrap();
        assert_eq!((found.at, found.named_at), (40, 6));
    }

    #[test]
    fn a_header_behind_options_is_found() {
        let p = packet(60, &[44, 0, 1, 4, 0, 0, 0, 0, 17, 0, 0, 1, 0, 0, 0, 1]);
        let found = fragment_header(&p).unwrap();
        assert_eq!((found.at, found.named_at), (48, 40));
        assert_eq!(fragment_header(&p[..44]), None);
        assert_eq!(fragment_header(&packet(59, &[])), None);
    }

    #[test]
    fn options_longer_than_the_fragment_truncate_it() {
        // Destination options of 32 bytes, of which 8 are in the first fragment.
        let p = packet(44, &[60, 0, 0, 1, 0, 0, 0, 5, 17, 3, 0, 0, 0, 0, 0, 0]);
        assert!(transport_truncated(&p, 40));
        let later = packet(44, &[60, 0, 0, 8, 0, 0, 0, 5, 17]);
        assert!(!transport_truncated(&later, 40));
        let whole = packet(44, &[17, 0, 0, 1, 0, 0, 0, 5, 0, 1, 0, 53, 0, 8, 0, 0]);
        assert!(!transport_truncated(&whole, 40));
        assert!(transport_truncated(&whole[..55], 40));
    }
}
