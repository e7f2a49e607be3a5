//! What a SYN proxy reads from segments and writes into its own (`nf_synproxy_core`).

use tidegate_conntrack::{SECOND, Time};
use tidegate_ir::SynProxySpec;
use tidegate_wire::tcp::{self, Tcp, flags, option};
use tidegate_wire::{be16, be32};

use crate::packet::Packet;

/// What SYN proxies did (`struct synproxy_stats`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SynProxyCounts {
    /// SYNs that were answered with a cookie.
    pub syn_received: u64,
    /// Segments that did not come back with a valid one.
    pub cookie_invalid: u64,
    /// Those that did.
    pub cookie_valid: u64,
    /// Those among them that asked for a server once more.
    pub cookie_retrans: u64,
    /// Closed connections that were opened anew.
    pub conn_reopened: u64,
}

impl SynProxyCounts {
    /// As `/proc/net/stat/synproxy` shows them, with one line for all processors.
    #[must_use]
    pub fn table(&self) -> String {
        let numbers = [
            0,
            self.syn_received,
            self.cookie_invalid,
            self.cookie_valid,
            self.cookie_retrans,
            self.conn_reopened,
        ];
        let line = numbers.map(|n| format!("{:08x}", n as u32)).join("\t");
        format!(
            "entries\t\tsyn_received\tcookie_invalid\tcookie_valid\tcookie_retrans\tconn_reopened\n{line}\n"
        )
    }
}

/// Largest window scale (RFC 7323 section 2.3).
const MAX_SCALE: u8 = 14;
/// The low bits of the proxy's own time stamps tell what the client can do: four bits of
/// window scale, all ones for none, then a bit each.
const NO_SCALE: u32 = 0xf;
const SACK: u32 = 1 << 4;
const ECN: u32 = 1 << 5;
const TOLD: u32 = 0x3f;
/// Length of a minute of the cookies (`TCP_SYNCOOKIE_PERIOD`).
const MINUTE: Time = 60 * SECOND;

/// The minute that cookies of this moment are made in.
pub(crate) fn minute(now: Time) -> u32 {
    (now / MINUTE) as u32
}

/// What the proxy does about a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Part {
    /// It opens a connection: the proxy answers.
    Syn,
    /// It may hold a cookie: the proxy opens the connection.
    Ack,
    /// It cannot be read.
    Damaged,
}

/// What the proxy does about a packet that comes by its rule; nothing about resets and
/// the like.
pub(crate) fn part(packet: &Packet) -> Option<Part> {
    const KINDS: u8 = flags::SYN | flags::ACK | flags::FIN | flags::RST;
    let Some(segment) = Tcp::new(packet.l4()) else {
        return Some(Part::Damaged);
    };
    match segment.flags() & KINDS {
        flags::SYN => Some(Part::Syn),
        flags::ACK => Some(Part::Ack),
        _ => None,
    }
}

/// The time stamp option.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Stamps {
    /// The sender's clock.
    pub(crate) value: u32,
    /// What it last heard of the other one's.
    pub(crate) echo: u32,
}

impl Stamps {
    pub(crate) fn swapped(self) -> Stamps {
        Stamps {
            value: self.echo,
            echo: self.value,
        }
    }
}

/// The options of a segment that a SYN proxy knows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Options {
    pub(crate) mss: Option<u16>,
    pub(crate) scale: Option<u8>,
    pub(crate) sack: bool,
    pub(crate) stamps: Option<Stamps>,
    /// No option, but of the same kind: congestion notification is offered.
    pub(crate) ecn: bool,
}

impl Options {
    /// Those of a header (`synproxy_parse_options`), and whether a SYN offers congestion
    /// notification.
    pub(crate) fn of(segment: &Tcp<'_>) -> Options {
        const OFFERS: u8 = flags::ECE | flags::CWR;
        let mut options = Options {
            ecn: segment.flags() & (OFFERS | flags::SYN) == OFFERS | flags::SYN,
            ..Options::default()
        };
        for (kind, _, data) in tcp::Options::new(segment.options()) {
            match (kind, data.len()) {
                (option::MSS, 2) => options.mss = be16(data, 0),
                (option::WSCALE, 1) => options.scale = Some(data[0].min(MAX_SCALE)),
                (option::SACK_PERM, 0) => options.sack = true,
                (option::TIMESTAMP, 8) => {
                    options.stamps = be32(data, 0)
                        .zip(be32(data, 4))
                        .map(|(value, echo)| Stamps { value, echo });
                }
                _ => {}
            }
        }
        options
    }

    /// What a client that offers these is answered with at `now`, in the name of hosts
    /// that offer `spec`. Without time stamps all but the segment size would be forgotten.
    pub(crate) fn answered(&self, spec: &SynProxySpec, now: Time) -> Options {
        let mss = self.mss.and(spec.mss);
        let Some(stamps) = self.stamps.filter(|_| spec.timestamp) else {
            return Options {
                mss,
                ..Options::default()
            };
        };
        let both = Options {
            mss,
            scale: self.scale.filter(|_| spec.wscale.is_some()),
            sack: self.sack && spec.sack,
            ecn: self.ecn && spec.ecn,
            stamps: None,
        };
        Options {
            stamps: Some(Stamps {
                value: both.told(now),
                echo: stamps.value,
            }),
            scale: both.scale.and(spec.wscale),
            ..both
        }
    }

    /// A time stamp that tells what the client can do (`synproxy_init_timestamp_cookie`).
    fn told(&self, now: Time) -> u32 {
        let clock = (now / (SECOND / 1000)) as u32 & !TOLD;
        clock
            | self.scale.map_or(NO_SCALE, u32::from)
            | if self.sack { SACK } else { 0 }
            | if self.ecn { ECN } else { 0 }
    }

    /// What a client could do that sends these options and a valid cookie, by the time stamp
    /// it got back to us (`synproxy_check_timestamp_cookie`).
    pub(crate) fn remembered(&self, mss: u16) -> Options {
        let told = self.stamps.map_or(NO_SCALE, |s| s.echo);
        let scale = told & NO_SCALE;
        Options {
            mss: Some(mss),
            scale: (scale != NO_SCALE).then_some(scale as u8),
            sack: told & SACK != 0,
            ecn: told & ECN != 0,
            stamps: self.stamps,
        }
    }

    /// The time stamps alone.
    pub(crate) fn only_stamps(stamps: Option<Stamps>) -> Options {
        Options {
            stamps,
            ..Options::default()
        }
    }

    /// As bytes of a header, in words of four (`synproxy_build_options`).
    pub(crate) fn bytes(&self) -> Vec<u8> {
        const NOP: u8 = option::NOP;
        let mut out = Vec::with_capacity(24);
        if let Some(mss) = self.mss {
            out.extend_from_slice(&[option::MSS, 4]);
            out.extend_from_slice(&mss.to_be_bytes());
        }
        let sack = match (self.sack, self.stamps) {
            (true, Some(_)) => &[option::SACK_PERM, 2][..],
            (true, None) => &[NOP, NOP, option::SACK_PERM, 2],
            (false, Some(_)) => &[NOP, NOP],
            (false, None) => &[],
        };
        out.extend_from_slice(sack);
        if let Some(stamps) = self.stamps {
            out.extend_from_slice(&[option::TIMESTAMP, 10]);
            out.extend_from_slice(&stamps.value.to_be_bytes());
            out.extend_from_slice(&stamps.echo.to_be_bytes());
        }
        if let Some(scale) = self.scale {
            out.extend_from_slice(&[NOP, option::WSCALE, 3, scale]);
        }
        out
    }
}
