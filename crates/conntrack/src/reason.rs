//! Why a packet is INVALID, passed unchanged, or dropped.

use crate::entry::{SctpConn, TcpClass, TcpConn};
use crate::tuple::Dir;
use core::fmt;

/// Why a packet continues without an entry, state INVALID.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InvalidReason {
    /// A later fragment, or no transport header can be found.
    NoL4Header,
    /// The transport header gives no tuple (cut short, or GRE version 1 without PPP).
    NoTuple,
    /// The packet ends before its transport header does.
    ShortHeader,
    /// A length field of the transport header does not fit the packet.
    Truncated,
    /// Transport checksum wrong.
    BadChecksum,
    /// No transport checksum where there must be one (UDPlite).
    NoChecksum,
    /// A TCP flag combination that no stack sends.
    BadFlags(u8),
    /// A first TCP segment that cannot open an entry.
    NewNotSyn(TcpClass),
    /// A mid-stream segment while picking up is switched off.
    NotLoose,
    /// The class of segment is not legal in this state.
    BadState {
        /// Class of the segment.
        class: TcpClass,
        /// Its direction.
        dir: Dir,
        /// State of the connection.
        state: TcpConn,
    },
    /// Starts beyond the window the receiver granted.
    SeqOverUpper {
        /// First sequence number of the segment.
        seq: u32,
        /// First number not allowed.
        bound: u32,
        /// Bytes by which the segment's end is over.
        over: u32,
    },
    /// Acknowledges data that was not seen.
    AckOverUpper {
        /// Acknowledgement (or highest SACK edge).
        ack: u32,
        /// First number not allowed.
        bound: u32,
    },
    /// A reset below what the other side has acknowledged.
    RstBelowAck {
        /// Sequence number of the reset.
        seq: u32,
        /// Highest acknowledgement of the other side.
        ack: u32,
    },
    /// An SCTP packet without chunks.
    NoChunks,
    /// SCTP chunks that may not stand together, or one of length 0.
    BadChunks {
        /// Which chunk, counted from 0.
        number: u32,
        /// Its type.
        kind: u8,
        /// Its length field.
        len: u16,
        /// Whether one before it, or it, must stand alone.
        alone: bool,
    },
    /// A first SCTP packet with a chunk of a type that cannot open an association.
    ChunkCannotOpen(u8),
    /// The SCTP chunk is not legal in this state.
    BadChunkInState {
        /// Type of the chunk.
        kind: u8,
        /// Direction of the packet.
        dir: Dir,
        /// State of the association.
        state: SctpConn,
    },
    /// A wrong SCTP verification tag.
    BadTag {
        /// The tag.
        tag: u32,
        /// The right one, 0 when it is not known.
        known: u32,
        /// Direction of the packet.
        dir: Dir,
    },
    /// An SCTP tag that does not go with one of the packet's chunks.
    ChunkTag(u32),
    /// ICMP in IPv6 or ICMPv6 in IPv4.
    WrongFamily,
    /// An ICMP type beyond the known ones.
    UnknownIcmpType(u8),
    /// An ICMP type that is no request and belongs to no entry.
    IcmpNoRequest(u8),
    /// The packet inside an ICMP error is unreadable or has no reverse.
    IcmpErrorInnerBad,
    /// The packet inside an ICMP error belongs to no connection.
    IcmpErrorInnerUnknown,
    /// The ICMP error is addressed to somebody else than the connection's sender.
    IcmpErrorOuterDaddr {
        /// Destination of the error.
        outer: u128,
        /// Address of the connection.
        inner: u128,
    },
    /// A neighbour discovery redirect that is cut short.
    ShortRedirect,
    /// A neighbour discovery redirect that was not sent by a router on the link.
    ForeignRedirect,
    /// A neighbour discovery redirect without options.
    BareRedirect,
}

impl fmt::Display for InvalidReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        use InvalidReason as R;
        match *self {
            R::NoL4Header => f.write_str("no transport header"),
            R::NoTuple => f.write_str("transport header too short or unusable"),
            R::ShortHeader => f.write_str("packet ends inside the transport header"),
            R::Truncated => f.write_str("truncated or malformed transport header"),
            R::BadChecksum => f.write_str("bad transport checksum"),
            R::NoChecksum => f.write_str("transport checksum missing"),
            R::BadFlags(flags) => write!(f, "invalid tcp flag combination {flags:#04x}"),
            R::NewNotSyn(class) => write!(f, "a {class} cannot open a connection"),
            R::NotLoose => f.write_str("mid-stream segment and tcp_loose is off"),
            R::BadState { class, state, .. } => {
                write!(f, "{class} is not valid in state {}", state.name())
            }
            R::SeqOverUpper { seq, bound, over } => write!(
                f,
                "SEQ {seq} is over upper bound {bound} (end {over} bytes over the window of the receiver)"
            ),
            R::AckOverUpper { ack, bound } => write!(
                f,
                "ACK {ack} is over upper bound {bound} (ACKed data not seen yet)"
            ),
            R::RstBelowAck { seq, ack } => {
                write!(f, "RST with seq {seq} below the acknowledged {ack}")
            }
            R::NoChunks => f.write_str("SCTP packet without chunks"),
            R::BadChunks { number, kind, .. } => {
                write!(f, "SCTP chunk {number}, {}, is out of place", Chunk(kind))
            }
            R::ChunkCannotOpen(kind) => {
                write!(f, "SCTP chunk {} cannot open an association", Chunk(kind))
            }
            R::BadChunkInState { kind, state, .. } => {
                let (chunk, state) = (Chunk(kind), state.name());
                write!(f, "SCTP chunk {chunk} is not valid in state {state}")
            }
            R::BadTag { tag, .. } | R::ChunkTag(tag) => {
                write!(f, "wrong SCTP verification tag {tag:#010x}")
            }
            R::WrongFamily => f.write_str("ICMP of the other address family"),
            R::UnknownIcmpType(ty) => write!(f, "unknown ICMP type {ty}"),
            R::IcmpNoRequest(ty) => write!(f, "ICMP type {ty} belongs to no request"),
            R::IcmpErrorInnerBad => f.write_str("packet inside the ICMP error is unusable"),
            R::IcmpErrorInnerUnknown => {
                f.write_str("packet inside the ICMP error belongs to no connection")
            }
            R::IcmpErrorOuterDaddr { .. } => {
                f.write_str("ICMP error is addressed to somebody else than the sender")
            }
            R::ShortRedirect => f.write_str("redirect is cut short"),
            R::ForeignRedirect => f.write_str("redirect comes from no router on the link"),
            R::BareRedirect => f.write_str("redirect without options"),
        }
    }
}

/// Why a packet kept its entry but changed nothing in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Note {
    /// The state table says to ignore it.
    IgnoredInState {
        /// Class of the segment.
        class: TcpClass,
        /// Its direction.
        dir: Dir,
        /// State of the connection.
        state: TcpConn,
    },
    /// A challenge ACK after a stray SYN.
    ChallengeAck,
    /// Exceeds the window by less than a window.
    MoreThanExpected {
        /// Bytes beyond what was expected.
        over: u32,
    },
    /// Ends below what the receiver still wants.
    SeqUnderLower {
        /// End of the segment.
        end: u32,
        /// Lower bound, itself not allowed.
        bound: u32,
    },
    /// A very old acknowledgement.
    AckUnderLower {
        /// Acknowledgement (or highest SACK edge).
        ack: u32,
        /// Lower bound, itself not allowed.
        bound: u32,
    },
    /// The second out-of-window FIN or RST in a row, each from one side: the entry gets
    /// a shorter life.
    ClosesBothWays {
        /// Class of the segment.
        class: TcpClass,
        /// Its direction.
        dir: Dir,
        /// Class of the other side's segment.
        answered: TcpClass,
        /// The new life in seconds.
        seconds: u32,
    },
    /// A retransmitted SYN does not refresh the timer.
    SynRetransmitted,
    /// A retransmitted SCTP INIT does not refresh the timer.
    InitRetransmitted,
    /// An SCTP heartbeat with a wrong verification tag, let through once.
    HeartbeatTag(u32),
}

impl fmt::Display for Note {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Note::IgnoredInState { class, state, .. } => {
                write!(f, "{class} ignored in state {}", state.name())
            }
            Note::ChallengeAck => f.write_str("taken for a challenge ACK, state kept"),
            Note::MoreThanExpected { over } => {
                write!(f, "ignored: {over} bytes more than expected")
            }
            Note::SeqUnderLower { end, bound } => write!(
                f,
                "ignored: SEQ end {end} is under lower bound {bound} (already ACKed data retransmitted)"
            ),
            Note::AckUnderLower { ack, bound } => write!(
                f,
                "ignored: ACK {ack} under lower bound {bound} (possible overly delayed)"
            ),
            Note::ClosesBothWays { seconds, .. } => {
                write!(f, "both sides close: the entry ends in {seconds} s")
            }
            Note::SynRetransmitted => f.write_str("retransmitted SYN, timer not refreshed"),
            Note::InitRetransmitted => f.write_str("retransmitted INIT, timer not refreshed"),
            Note::HeartbeatTag(tag) => {
                write!(f, "HEARTBEAT with unknown tag {tag:#010x} let through once")
            }
        }
    }
}

/// Why a packet was dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DropReason {
    /// The table is full.
    TableFull,
    /// The entry could not be confirmed: its tuples are taken.
    Clash,
    /// The entry could not be confirmed: hash chain too long.
    ChainTooLong,
    /// The entry died before it was confirmed.
    Dying,
    /// The entry was killed and could not be made anew.
    Killed,
    /// A helper refused the packet.
    Helper(&'static str),
    /// The same: SIP announced media on this port.
    HelperPort(u32),
    /// The same, and says nothing about it.
    HelperSilent,
    /// The packet cannot be translated.
    Nat(&'static str),
    /// Sequence numbers must be adjusted but the TCP header or its options are malformed.
    SeqAdjust,
}

impl fmt::Display for DropReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            DropReason::TableFull => f.write_str("nf_conntrack: table full, dropping packet"),
            DropReason::Clash => f.write_str("another connection has this tuple"),
            DropReason::ChainTooLong => f.write_str("hash chain too long"),
            DropReason::Dying => f.write_str("the connection died before it was confirmed"),
            DropReason::Killed => f.write_str("the connection was removed"),
            DropReason::Helper(why) => write!(f, "helper dropping packet: {why}"),
            DropReason::HelperPort(port) => write!(f, "helper dropping packet: wrong port {port}"),
            DropReason::HelperSilent => f.write_str("helper dropping packet"),
            DropReason::Nat(why) => write!(f, "cannot be translated: {why}"),
            DropReason::SeqAdjust => f.write_str("malformed TCP header or options"),
        }
    }
}

impl fmt::Display for TcpClass {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            TcpClass::Syn => "SYN",
            TcpClass::SynAck => "SYN-ACK",
            TcpClass::Fin => "FIN",
            TcpClass::Ack => "ACK",
            TcpClass::Rst => "RST",
            TcpClass::None => "segment without SYN, FIN, RST and ACK",
        })
    }
}

/// A chunk type, written as in RFC 9260 section 3.2.
struct Chunk(u8);

const CHUNKS: [&str; 15] = [
    "DATA",
    "INIT",
    "INIT ACK",
    "SACK",
    "HEARTBEAT",
    "HEARTBEAT ACK",
    "ABORT",
    "SHUTDOWN",
    "SHUTDOWN ACK",
    "ERROR",
    "COOKIE ECHO",
    "COOKIE ACK",
    "ECNE",
    "CWR",
    "SHUTDOWN COMPLETE",
];

impl fmt::Display for Chunk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match CHUNKS.get(usize::from(self.0)) {
            Some(name) => f.write_str(name),
            None => write!(f, "of type {}", self.0),
        }
    }
}
