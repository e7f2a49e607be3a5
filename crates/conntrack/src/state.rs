//! Protocol state of a connection: what the trackers remember.

use crate::Time;
use crate::tuple::Dir;

/// TCP connection states (`enum tcp_conntrack`), numbered as in the kernel.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names are the states' own")]
pub enum TcpConn {
    #[default]
    None = 0,
    SynSent = 1,
    SynRecv = 2,
    Established = 3,
    FinWait = 4,
    CloseWait = 5,
    LastAck = 6,
    TimeWait = 7,
    Close = 8,
    SynSent2 = 9,
}

impl TcpConn {
    /// All states in numeric order.
    pub const ALL: [TcpConn; 10] = [
        TcpConn::None,
        TcpConn::SynSent,
        TcpConn::SynRecv,
        TcpConn::Established,
        TcpConn::FinWait,
        TcpConn::CloseWait,
        TcpConn::LastAck,
        TcpConn::TimeWait,
        TcpConn::Close,
        TcpConn::SynSent2,
    ];

    /// Upper-case name as listings print it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            TcpConn::None => "NONE",
            TcpConn::SynSent => "SYN_SENT",
            TcpConn::SynRecv => "SYN_RECV",
            TcpConn::Established => "ESTABLISHED",
            TcpConn::FinWait => "FIN_WAIT",
            TcpConn::CloseWait => "CLOSE_WAIT",
            TcpConn::LastAck => "LAST_ACK",
            TcpConn::TimeWait => "TIME_WAIT",
            TcpConn::Close => "CLOSE",
            TcpConn::SynSent2 => "SYN_SENT2",
        }
    }

    /// Whether a full table may evict even an assured entry in this state.
    #[must_use]
    pub const fn can_early_drop(self) -> bool {
        matches!(
            self,
            TcpConn::FinWait
                | TcpConn::CloseWait
                | TcpConn::LastAck
                | TcpConn::TimeWait
                | TcpConn::Close
        )
    }
}

/// Packet classes of the TCP tracker, numbered as in the kernel's log lines.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names are the flags'")]
pub enum TcpClass {
    Syn = 0,
    SynAck = 1,
    Fin = 2,
    Ack = 3,
    Rst = 4,
    #[default]
    None = 5,
}

/// What the TCP tracker knows about one side (`struct ip_ct_tcp_state`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TcpSide {
    /// Highest sequence number sent plus one.
    pub end: u32,
    /// Highest right window edge the peer granted.
    pub maxend: u32,
    /// Largest window this side advertised, scaled.
    pub maxwin: u32,
    /// Highest acknowledgement this side sent.
    pub maxack: u32,
    /// Window scale in use.
    pub scale: u8,
    /// [`tcp_flag`] bits.
    pub flags: u8,
}

/// Flag bits of [`TcpSide::flags`] and [`TcpState::last_flags`] (uapi nf_conntrack_tcp.h).
pub mod tcp_flag {
    /// Sent a window scale option.
    pub const WINDOW_SCALE: u8 = 0x01;
    /// Sent SACK-permitted.
    pub const SACK_PERM: u8 = 0x02;
    /// Its FIN started the close.
    pub const CLOSE_INIT: u8 = 0x04;
    /// No window check.
    pub const BE_LIBERAL: u8 = 0x08;
    /// `end` advanced and has not been acknowledged.
    pub const DATA_UNACKNOWLEDGED: u8 = 0x10;
    /// `maxack` is valid.
    pub const MAXACK_SET: u8 = 0x20;
    /// A challenge ACK may come (SYN seen in LAST_ACK).
    pub const EXP_CHALLENGE_ACK: u8 = 0x40;
    /// Both sides opened at once.
    pub const SIMULTANEOUS_OPEN: u8 = 0x80;
}

/// State of a TCP connection (`struct ip_ct_tcp`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TcpState {
    /// Per direction: what the side sending in that direction did.
    pub seen: [TcpSide; 2],
    /// Connection state.
    pub state: TcpConn,
    /// Direction of the last remembered packet.
    pub last_dir: Dir,
    /// Identical ACK-class packets seen in a row.
    pub retrans: u8,
    /// Class of the last packet.
    pub last_class: TcpClass,
    /// Its sequence number.
    pub last_seq: u32,
    /// Its acknowledgement number.
    pub last_ack: u32,
    /// Its end.
    pub last_end: u32,
    /// Its window as written in the header.
    pub last_win: u16,
    /// Window scale of the last ignored SYN.
    pub last_wscale: u8,
    /// [`tcp_flag`] bits of the last ignored SYN.
    pub last_flags: u8,
}

impl Default for TcpState {
    fn default() -> TcpState {
        TcpState {
            seen: [TcpSide::default(); 2],
            state: TcpConn::None,
            last_dir: Dir::Original,
            retrans: 0,
            last_class: TcpClass::None,
            last_seq: 0,
            last_ack: 0,
            last_end: 0,
            last_win: 0,
            last_wscale: 0,
            last_flags: 0,
        }
    }
}

/// SCTP association states (`enum sctp_conntrack`), numbered as in the kernel.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names are the states' own")]
pub enum SctpConn {
    #[default]
    None = 0,
    Closed = 1,
    CookieWait = 2,
    CookieEchoed = 3,
    Established = 4,
    ShutdownSent = 5,
    ShutdownRecd = 6,
    ShutdownAckSent = 7,
    HeartbeatSent = 8,
}

impl SctpConn {
    /// All states in numeric order.
    pub const ALL: [SctpConn; 9] = [
        SctpConn::None,
        SctpConn::Closed,
        SctpConn::CookieWait,
        SctpConn::CookieEchoed,
        SctpConn::Established,
        SctpConn::ShutdownSent,
        SctpConn::ShutdownRecd,
        SctpConn::ShutdownAckSent,
        SctpConn::HeartbeatSent,
    ];

    /// Upper-case name as listings print it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            SctpConn::None => "NONE",
            SctpConn::Closed => "CLOSED",
            SctpConn::CookieWait => "COOKIE_WAIT",
            SctpConn::CookieEchoed => "COOKIE_ECHOED",
            SctpConn::Established => "ESTABLISHED",
            SctpConn::ShutdownSent => "SHUTDOWN_SENT",
            SctpConn::ShutdownRecd => "SHUTDOWN_RECD",
            SctpConn::ShutdownAckSent => "SHUTDOWN_ACK_SENT",
            SctpConn::HeartbeatSent => "HEARTBEAT_SENT",
        }
    }

    /// Whether a full table may evict even an assured entry in this state.
    #[must_use]
    pub const fn can_early_drop(self) -> bool {
        matches!(
            self,
            SctpConn::ShutdownSent | SctpConn::ShutdownRecd | SctpConn::ShutdownAckSent
        )
    }
}

/// State of an SCTP association (`struct ip_ct_sctp`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SctpState {
    /// Association state.
    pub state: SctpConn,
    /// Verification tag expected in packets of each direction, 0 when unknown.
    pub vtag: [u32; 2],
    /// Directions that sent an INIT.
    pub init: [bool; 2],
    /// Direction of the heartbeat with a wrong tag.
    pub last_dir: Dir,
    /// A heartbeat with a wrong tag was let through.
    pub tag_failed: bool,
}

impl Default for SctpState {
    fn default() -> SctpState {
        SctpState {
            state: SctpConn::None,
            vtag: [0; 2],
            init: [false; 2],
            last_dir: Dir::Original,
            tag_failed: false,
        }
    }
}

/// Per-protocol part of an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProtoState {
    /// Protocols without state of their own (ICMP, ICMPv6, generic).
    Stateless,
    /// TCP.
    Tcp(TcpState),
    /// SCTP.
    Sctp(SctpState),
    /// UDP and UDPlite.
    Udp {
        /// After this moment two-way traffic counts as a stream.
        stream_ts: Time,
    },
    /// GRE: timeouts kept in the entry, in seconds.
    Gre {
        /// Before a reply.
        timeout: u32,
        /// After a reply.
        stream_timeout: u32,
    },
}
