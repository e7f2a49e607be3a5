//! Options that transport protocols add.

use tidegate_conntrack::by_hand::GivenState;
use tidegate_conntrack::entry::{SctpConn, TcpConn};
use tidegate_wire::proto;

use super::Refusal;
use super::options::{Command, Kind, Rule, complain};
use super::values::{number32, port};

/// What such an option gives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Part {
    OrigSrc,
    OrigDst,
    ReplySrc,
    ReplyDst,
    MaskSrc,
    MaskDst,
    TupleSrc,
    TupleDst,
    State,
    OrigTag,
    ReplyTag,
    Role,
    IcmpType,
    IcmpCode,
    IcmpId,
}

/// One option: what it gives, its long names, and a rule each for commands that select
/// (`-L -D -E`), `-U`, `-G`, `-I` and `-A`, `-I expect`, and `-D` and `-G expect`.
pub(super) struct PartOption {
    pub(super) part: Part,
    pub(super) names: &'static [&'static str],
    rules: &'static [u8; 6],
}

/// A protocol that is known by name.
pub(super) struct Protocol {
    pub(super) name: &'static str,
    pub(super) number: u8,
    pub(super) options: &'static [PartOption],
    /// How the missing of both ports or keys is complained about.
    ends: Option<[&'static str; 2]>,
}

const fn part(part: Part, names: &'static [&'static str], rules: &'static [u8; 6]) -> PartOption {
    PartOption { part, names, rules }
}

macro_rules! ports {
    ($tuple:literal $(, $more:expr)*) => {
        &[
            part(Part::OrigSrc, &["sport", "orig-port-src"], b"oooomm"),
            part(Part::OrigDst, &["dport", "orig-port-dst"], b"oooomm"),
            part(Part::ReplySrc, &["reply-port-src"], b"oooo-o"),
            part(Part::ReplyDst, &["reply-port-dst"], b"oooo-o"),
            part(Part::MaskSrc, &["mask-port-src"], b"----m-"),
            part(Part::MaskDst, &["mask-port-dst"], b"----m-"),
            part(Part::TupleSrc, &["tuple-port-src"], $tuple),
            part(Part::TupleDst, &["tuple-port-dst"], $tuple),
            $($more),*
        ]
    };
}

const STATE: &[u8; 6] = b"ooom-o";
const TAG: &[u8; 6] = b"-oom--";
const PORTS: Option<[&str; 2]> = Some([
    "`--sport' and `--dport'",
    "`--reply-src-port' and `--reply-dst-port'",
]);
const KEYS: Option<[&str; 2]> = Some([
    "`--srckey' and `--dstkey'",
    "`--reply-src-key' and `--reply-dst-key'",
]);

/// The protocols.
pub(super) const PROTOCOLS: [Protocol; 8] = [
    Protocol {
        name: "tcp",
        number: proto::TCP,
        options: ports!(b"---om-", part(Part::State, &["state"], STATE)),
        ends: PORTS,
    },
    Protocol {
        name: "udp",
        number: proto::UDP,
        options: ports!(b"----m-"),
        ends: PORTS,
    },
    Protocol {
        name: "udplite",
        number: proto::UDPLITE,
        options: ports!(b"----m-"),
        ends: PORTS,
    },
    Protocol {
        name: "sctp",
        number: proto::SCTP,
        options: ports!(
            b"---om-",
            part(Part::State, &["state"], STATE),
            part(Part::OrigTag, &["orig-vtag"], TAG),
            part(Part::ReplyTag, &["reply-vtag"], TAG)
        ),
        ends: PORTS,
    },
    Protocol {
        name: "dccp",
        number: proto::DCCP,
        options: ports!(
            b"---om-",
            part(Part::State, &["state"], STATE),
            part(Part::Role, &["role"], b"---m--")
        ),
        ends: PORTS,
    },
    Protocol {
        name: "icmp",
        number: proto::ICMP,
        options: &[
            part(Part::IcmpType, &["icmp-type"], b"oomm--"),
            part(Part::IcmpCode, &["icmp-code"], b"oomm--"),
            part(Part::IcmpId, &["icmp-id"], b"oooo--"),
        ],
        ends: None,
    },
    Protocol {
        name: "icmpv6",
        number: proto::ICMPV6,
        options: &[
            part(Part::IcmpType, &["icmpv6-type"], b"oomm--"),
            part(Part::IcmpCode, &["icmpv6-code"], b"oomm--"),
            part(Part::IcmpId, &["icmpv6-id"], b"oooo--"),
        ],
        ends: None,
    },
    Protocol {
        name: "gre",
        number: proto::GRE,
        options: &[
            part(Part::OrigSrc, &["srckey", "orig-key-src"], b"oooomm"),
            part(Part::OrigDst, &["dstkey", "orig-key-dst"], b"oooomm"),
            part(Part::ReplySrc, &["reply-key-src"], b"oooooo"),
            part(Part::ReplyDst, &["reply-key-dst"], b"oooooo"),
            part(Part::MaskSrc, &["mask-key-src"], b"----m-"),
            part(Part::MaskDst, &["mask-key-dst"], b"----m-"),
            part(Part::TupleSrc, &["tuple-key-src"], b"----m-"),
            part(Part::TupleDst, &["tuple-key-dst"], b"----m-"),
        ],
        ends: KEYS,
    },
];

/// What the options of a protocol gave.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Given {
    /// By [`Part`].
    set: [Option<u32>; 15],
    /// TCP or SCTP state.
    pub(super) state: Option<GivenState>,
    /// A state was named that no connection here has.
    pub(super) foreign_state: bool,
}

impl Given {
    /// The number given for a part.
    pub(super) fn get(&self, part: Part) -> Option<u32> {
        self.set[part as usize]
    }

    /// The same as a port.
    pub(super) fn port(&self, part: Part) -> Option<u16> {
        self.get(part).map(|n| n as u16)
    }

    /// Takes an option's argument.
    pub(super) fn take(&mut self, proto: &Protocol, part: Part, text: &str) -> Result<(), Refusal> {
        let value = match part {
            Part::State => {
                self.take_state(proto, text)?;
                0
            }
            Part::Role => match text {
                "client" => 0,
                "server" => 1,
                _ => return Err(Refusal::usage(format!("Unknown DCCP role `{text}'"))),
            },
            _ if proto.number == proto::GRE => number32(text) & 0xffff,
            Part::OrigTag | Part::ReplyTag => number32(text),
            Part::IcmpType | Part::IcmpCode => u32::from(port(text) as u8),
            _ => u32::from(port(text)),
        };
        self.set[part as usize] = Some(value);
        Ok(())
    }

    fn take_state(&mut self, proto: &Protocol, text: &str) -> Result<(), Refusal> {
        self.state = None;
        match proto.number {
            proto::TCP => {
                // The old name of the last state.
                let text = if text == "LISTEN" { "SYN_SENT2" } else { text };
                let state = TcpConn::ALL.into_iter().find(|s| s.name() == text);
                self.state = state.map(GivenState::Tcp);
            }
            proto::SCTP => {
                let state = SctpConn::ALL.into_iter().find(|s| s.name() == text);
                self.state = state.map(|s| GivenState::Sctp(s, [0; 2]));
            }
            // Its connections have no states here, as in today's kernels.
            _ if DCCP_STATES.contains(&text) => {
                self.foreign_state = true;
                return Ok(());
            }
            _ => return Err(Refusal::usage(format!("Unknown DCCP state `{text}'"))),
        }
        let name = proto.name.to_uppercase();
        match self.state {
            Some(_) => Ok(()),
            None => Err(Refusal::usage(format!("unknown {name} state `{text}'"))),
        }
    }
}

const DCCP_STATES: [&str; 10] = [
    "NONE", "REQUEST", "RESPOND", "PARTOPEN", "OPEN", "CLOSEREQ", "CLOSING", "TIMEWAIT", "IGNORE",
    "INVALID",
];

impl Protocol {
    /// The protocol with this number.
    pub(super) fn by_number(number: u8) -> Option<&'static Protocol> {
        const ALL: &[Protocol] = &PROTOCOLS;
        ALL.iter().find(|p| p.number == number)
    }

    /// The first option that is missing or out of place, as a complaint.
    pub(super) fn complaint(&self, command: Command, kind: Kind, given: &Given) -> Option<String> {
        let column = match (command, kind == Kind::Expectations) {
            (Command::Update, _) => 1,
            (Command::Get, false) => 2,
            (Command::Create | Command::Add, false) => 3,
            (Command::Create | Command::Add, true) => 4,
            (Command::Delete | Command::Get, true) => 5,
            _ => 0,
        };
        let wrong = self.options.iter().find_map(|o| {
            let rule = Rule::of(o.rules[column]);
            complain(rule, given.get(o.part).is_some(), o.names[0])
        });
        wrong.or_else(|| match column {
            2 | 3 => self.missing_ends(given),
            _ => None,
        })
    }

    /// A connection is named by both ports of a direction.
    fn missing_ends(&self, given: &Given) -> Option<String> {
        let [orig, reply] = self.ends?;
        let has = |part| given.get(part).is_some();
        let (os, od) = (has(Part::OrigSrc), has(Part::OrigDst));
        let (rs, rd) = (has(Part::ReplySrc), has(Part::ReplyDst));
        if os && od || rs && rd {
            return None;
        }
        let only_reply = (rs || rd) && !os && !od;
        let which = if only_reply { reply } else { orig };
        Some(format!("you have to specify {which}"))
    }
}
