//! Hop-by-hop options, read before any hook (`ipv6_parse_hopopts`, `ip6_parse_tlv`).

use tidegate_wire::{be32, proto};

/// `max_hbh_opts_number`: options other than padding that are read.
const MAX_OPTIONS: u32 = 8;
/// Padding longer than this has no use (RFC 8504 5.3).
const MAX_PADDING: usize = 7;

const PAD1: u8 = 0;
const PADN: u8 = 1;
const ROUTER_ALERT: u8 = 0x05;
const CALIPSO: u8 = 0x07;
const IOAM: u8 = 0x31;
const JUMBO: u8 = 0xc2;

/// Code of a parameter problem about a header field.
const HEADER_FIELD: u8 = 0;
/// Code of a parameter problem about an option that is not known.
const UNKNOWN_OPTION: u8 = 2;

/// Why the options stop a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refused {
    /// Nobody is told.
    Silently,
    /// The sender is told where the trouble is.
    Problem {
        /// Code of the ICMPv6 parameter problem.
        code: u8,
        /// Offset in the packet.
        pointer: u32,
    },
}

/// Reads the hop-by-hop options of an IPv6 packet, if it begins with them.
///
/// Jumbograms are refused: none of the engine's links carries them.
pub(crate) fn check(bytes: &[u8]) -> Result<(), Refused> {
    if bytes.get(6) != Some(&proto::HOPOPTS) {
        return Ok(());
    }
    let size = bytes.get(41).map(|&n| (usize::from(n) + 1) * 8);
    let end = 40 + size.ok_or(Refused::Silently)?;
    let header = bytes.get(..end).ok_or(Refused::Silently)?;
    let (mut at, mut padding, mut options) = (42, 0, 0);
    while let Some(&kind) = header.get(at) {
        let size = match kind {
            PAD1 => 1,
            _ => usize::from(*header.get(at + 1).ok_or(Refused::Silently)?) + 2,
        };
        let data = match kind {
            PAD1 => &[],
            _ => header.get(at + 2..at + size).ok_or(Refused::Silently)?,
        };
        if matches!(kind, PAD1 | PADN) {
            padding += size;
            if padding > MAX_PADDING || data.iter().any(|&b| b != 0) {
                return Err(Refused::Silently);
            }
        } else {
            options += 1;
            padding = 0;
            if options > MAX_OPTIONS {
                return Err(Refused::Silently);
            }
            option(bytes, at, data)?;
        }
        at += size;
    }
    Ok(())
}

fn option(bytes: &[u8], at: usize, data: &[u8]) -> Result<(), Refused> {
    match bytes.get(at) {
        Some(&ROUTER_ALERT) if data.len() == 2 => Ok(()),
        // No CALIPSO domain is configured that could vouch for a label.
        Some(&(ROUTER_ALERT | CALIPSO)) => Err(Refused::Silently),
        // In-situ OAM is off, as it comes, but its alignment is looked at (RFC 9486 3).
        Some(&IOAM) if !at.is_multiple_of(4) || data.len() < 2 => Err(Refused::Silently),
        Some(&JUMBO) => Err(jumbo(bytes, at, data)),
        Some(&kind) => unknown(kind, at),
        None => Err(Refused::Silently),
    }
}

/// `ipv6_hop_jumbo`: what is wrong with a jumbo payload length (RFC 2675).
fn jumbo(bytes: &[u8], at: usize, data: &[u8]) -> Refused {
    let problem = |pointer: usize| Refused::Problem {
        code: HEADER_FIELD,
        pointer: pointer as u32,
    };
    if data.len() != 4 || at % 4 != 2 {
        return Refused::Silently;
    }
    if be32(data, 0).is_some_and(|len| len <= 65535) {
        return problem(at + 2);
    }
    if bytes.get(4..6) != Some(&[0, 0]) {
        return problem(at);
    }
    Refused::Silently
}

/// RFC 8200 4.2: the two highest bits of an option's type say what to do with it
/// (`ip6_tlvopt_unknown`). Whether a packet to a group is answered is for the sender of
/// errors to know.
fn unknown(kind: u8, at: usize) -> Result<(), Refused> {
    match kind >> 6 {
        0 => Ok(()),
        1 => Err(Refused::Silently),
        _ => Err(Refused::Problem {
            code: UNKNOWN_OPTION,
            pointer: at as u32,
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(options: &[u8]) -> Vec<u8> {
        let mut p = vec![0; 42];
        p[0] = 0x60;
        p[5] = (options.len() + 2) as u8;
        p[40] = proto::NONE;
        p[41] = ((options.len() + 2) / 8 - 1) as u8;
        p.extend_from_slice(options);
        p
    }

    #[test]
    fn the_action_bits_decide_about_unknown_options() {
        assert_eq!(check(&with(&[0x3e, 4, 0, 0, 0, 0])), Ok(()));
        let silent = Err(Refused::Silently);
        assert_eq!(check(&with(&[0x45, 4, 0, 0, 0, 0])), silent);
        let told = |code, pointer| Err(Refused::Problem { code, pointer });
        assert_eq!(check(&with(&[0xbe, 4, 0, 0, 0, 0])), told(2, 42));
        assert_eq!(check(&with(&[0, 0xfe, 3, 0, 0, 0])), told(2, 43));
    }

    #[test]
    fn padding_is_short_and_zero() {
        let silent = Err(Refused::Silently);
        assert_eq!(check(&with(&[1, 4, 0, 0, 0, 0])), Ok(()));
        assert_eq!(check(&with(&[1, 4, 0, 0, 0, 1])), silent);
        assert_eq!(check(&with(&[0; 14])), silent);
        assert_eq!(check(&with(&[1, 5, 0, 0, 0, 0])), silent);
    }

    #[test]
    fn a_jumbo_length_must_be_needed() {
        let told = |pointer| Err(Refused::Problem { code: 0, pointer });
        assert_eq!(check(&with(&[0xc2, 4, 0, 0, 0, 16])), told(44));
        assert_eq!(check(&with(&[0xc2, 4, 0, 1, 0x11, 0x70])), told(42));
        let mut without_length = with(&[0xc2, 4, 0, 1, 0x11, 0x70]);
        without_length[5] = 0;
        assert_eq!(check(&without_length), Err(Refused::Silently));
    }

    #[test]
    fn a_header_past_the_end_is_refused() {
        let mut p = with(&[1, 4, 0, 0, 0, 0]);
        p[41] = 200;
        assert_eq!(check(&p), Err(Refused::Silently));
        assert_eq!(check(&p[..41]), Err(Refused::Silently));
    }
}
