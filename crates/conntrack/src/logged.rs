//! What `nf_conntrack_log_invalid` makes the kernel write: the text between
//! `nf_ct_proto_N: ` and the packet.
//!
//! A reason without text is one the kernel does not log. Where the kernel prints SCTP
//! tags and lengths as the machine's byte order makes them look, and a newline, these
//! are the numbers themselves, in one line.

use crate::config::Config;
use crate::reason::{InvalidReason, Note};
use alloc::format;
use alloc::string::String;
use core::net::{Ipv4Addr, Ipv6Addr};
use tidegate_wire::proto;

/// `log_invalid` for all protocols (`IPPROTO_RAW`).
const EVERY: u8 = 255;
/// Timer ticks per second of the usual kernel; one message prints a time in ticks.
const HZ: u32 = 250;

impl Config {
    /// Whether invalid packets of a protocol are logged.
    #[inline]
    #[must_use]
    pub const fn logs_invalid(&self, protocol: u8) -> bool {
        self.log_invalid != 0 && (self.log_invalid == EVERY || self.log_invalid == protocol)
    }
}

impl InvalidReason {
    /// What is logged about a packet of `protocol`.
    #[must_use]
    pub fn logged(&self, protocol: u8) -> Option<String> {
        use InvalidReason as R;
        Some(match *self {
            R::ShortHeader | R::Truncated | R::BadChecksum => header_text(self, protocol)?.into(),
            R::NoChecksum => "checksum missing".into(),
            R::BadFlags(_) => "invalid tcp flag combination".into(),
            R::NewNotSyn(_) => "invalid new".into(),
            R::BadState { class, dir, state } => format!(
                "packet (index {}) in dir {} invalid, state {}",
                class as u8,
                dir as u8,
                state.name()
            ),
            R::SeqOverUpper { bound, .. } => {
                format!("SEQ is over upper bound {bound} (over the window of the receiver)")
            }
            R::AckOverUpper { bound, .. } => {
                format!("ACK is over upper bound {bound} (ACKed data not seen yet)")
            }
            R::RstBelowAck { .. } => "invalid rst".into(),
            R::BadChunks {
                number,
                kind,
                len,
                alone,
            } => format!(
                "do_basic_checks failed. chunk num {number}, type {kind}, len {len} flag {}",
                u8::from(alone)
            ),
            R::BadTag { tag, known, dir } => format!(
                "verification tag check failed {tag:x} vs {known:x} for dir {}",
                dir as u8
            ),
            R::BadChunkInState { kind, dir, state } => format!(
                "Invalid, old_state {}, dir {}, type {kind}",
                state as u8, dir as u8
            ),
            R::UnknownIcmpType(_) => "invalid icmp type".into(),
            R::IcmpErrorOuterDaddr { outer, inner } => {
                let show = |a| address(a, protocol);
                format!("outer daddr {} != inner {}", show(outer), show(inner))
            }
            R::ShortRedirect => "short redirect".into(),
            R::ForeignRedirect => "invalid saddr or hoplimit for redirect".into(),
            R::BareRedirect => "redirect without options".into(),
            R::NoL4Header
            | R::NoTuple
            | R::NotLoose
            | R::NoChunks
            | R::ChunkCannotOpen(_)
            | R::ChunkTag(_)
            | R::WrongFamily
            | R::IcmpNoRequest(_)
            | R::IcmpErrorInnerBad
            | R::IcmpErrorInnerUnknown => return None,
        })
    }
}

/// What the trackers say about headers: by protocol, the texts for one that is short,
/// for lengths that do not fit, for a wrong checksum.
const HEADER_TEXTS: [(u8, [Option<&str>; 3]); 6] = [
    (
        proto::TCP,
        [None, Some("truncated packet"), Some("bad checksum")],
    ),
    (
        proto::UDP,
        [
            Some("short packet"),
            Some("truncated/malformed packet"),
            Some("bad checksum"),
        ],
    ),
    (
        proto::UDPLITE,
        [
            Some("short packet"),
            Some("invalid checksum coverage"),
            Some("bad checksum"),
        ],
    ),
    (
        proto::ICMP,
        [Some("short packet"), None, Some("bad hw icmp checksum")],
    ),
    (
        proto::ICMPV6,
        [Some("short packet"), None, Some("ICMPv6 checksum failed")],
    ),
    (
        proto::SCTP,
        [
            Some("nf_ct_sctp: short packet "),
            None,
            Some("nf_ct_sctp: bad CRC "),
        ],
    ),
];

fn header_text(reason: &InvalidReason, protocol: u8) -> Option<&'static str> {
    let (_, texts) = HEADER_TEXTS.iter().find(|row| row.0 == protocol)?;
    match reason {
        InvalidReason::ShortHeader => texts[0],
        InvalidReason::Truncated => texts[1],
        _ => texts[2],
    }
}

/// The form of `%pI4` and `%pI6`.
fn address(addr: u128, protocol: u8) -> String {
    if protocol == proto::ICMP {
        return format!("{}", Ipv4Addr::from(addr as u32));
    }
    let groups = Ipv6Addr::from(addr).segments().map(|g| format!("{g:04x}"));
    groups.join(":")
}

impl Note {
    /// What is logged about a packet.
    #[must_use]
    pub fn logged(&self) -> Option<String> {
        Some(match *self {
            Note::IgnoredInState { class, dir, state } => format!(
                "packet (index {}) in dir {} ignored, state {}",
                class as u8,
                dir as u8,
                state.name()
            ),
            Note::ChallengeAck => "challenge-ack ignored".into(),
            Note::MoreThanExpected { over } => format!("{over} bytes more than expected"),
            Note::SeqUnderLower { bound, .. } => {
                format!("SEQ is under lower bound {bound} (already ACKed data retransmitted)")
            }
            Note::AckUnderLower { bound, .. } => {
                format!("ignored ACK under lower bound {bound} (possible overly delayed)")
            }
            Note::ClosesBothWays {
                class,
                dir,
                answered,
                seconds,
            } => format!(
                "packet (index {}, dir {}) response for index {} lower timeout to {}",
                class as u8,
                dir as u8,
                answered as u8,
                u64::from(seconds) * u64::from(HZ)
            ),
            Note::SynRetransmitted | Note::InitRetransmitted | Note::HeartbeatTag(_) => {
                return None;
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::entry::{SctpConn, TcpClass, TcpConn};
    use crate::tuple::Dir;

    /// Texts that Linux 6.18 and 6.12 logged.
    #[test]
    fn the_kernels_texts() {
        use InvalidReason as R;
        let dir = Dir::Original;
        let (class, state) = (TcpClass::SynAck, TcpConn::Established);
        let outer = R::IcmpErrorOuterDaddr {
            outer: 0xfd00 << 112 | 9,
            inner: 0xfd00 << 112 | 2,
        };
        let cases = [
            (proto::TCP, R::Truncated, "truncated packet"),
            (proto::UDP, R::Truncated, "truncated/malformed packet"),
            (proto::UDPLITE, R::Truncated, "invalid checksum coverage"),
            (proto::SCTP, R::BadChecksum, "nf_ct_sctp: bad CRC "),
            (proto::ICMP, R::BadChecksum, "bad hw icmp checksum"),
            (
                proto::TCP,
                R::BadState { class, dir, state },
                "packet (index 1) in dir 0 invalid, state ESTABLISHED",
            ),
            (
                proto::TCP,
                R::SeqOverUpper {
                    seq: 90_001_001,
                    bound: 66537,
                    over: 1,
                },
                "SEQ is over upper bound 66537 (over the window of the receiver)",
            ),
            (
                proto::SCTP,
                R::BadChunkInState {
                    kind: 7,
                    dir: Dir::Reply,
                    state: SctpConn::HeartbeatSent,
                },
                "Invalid, old_state 8, dir 1, type 7",
            ),
            (
                proto::ICMPV6,
                outer,
                "outer daddr fd00:0000:0000:0000:0000:0000:0000:0009 != inner fd00:0000:0000:0000:0000:0000:0000:0002",
            ),
        ];
        for (protocol, reason, text) in cases {
            assert_eq!(reason.logged(protocol).as_deref(), Some(text));
        }
        let note = Note::ClosesBothWays {
            class: TcpClass::Fin,
            dir: Dir::Reply,
            answered: TcpClass::Fin,
            seconds: 300,
        };
        let text = "packet (index 2, dir 1) response for index 2 lower timeout to 75000";
        assert_eq!(note.logged().as_deref(), Some(text));
        assert_eq!(R::ShortHeader.logged(proto::TCP), None);
        assert_eq!(R::NoTuple.logged(proto::TCP), None);
    }

    #[test]
    fn a_number_selects_one_protocol_and_255_all() {
        let logs = |log_invalid, protocol| {
            let config = Config {
                log_invalid,
                ..Config::default()
            };
            config.logs_invalid(protocol)
        };
        assert!(logs(255, proto::UDP) && logs(6, proto::TCP));
        assert!(!logs(6, proto::UDP) && !logs(0, proto::TCP) && !logs(0, 0));
    }
}
