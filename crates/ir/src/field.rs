//! What a condition can look at: one row per field.

/// A value of a packet, its connection or its surroundings.
///
/// All values are unsigned and at most 128 bits wide. IPv4 addresses occupy the low
/// 32 bits. Interface names are their 16 bytes (NUL padded, `IFNAMSIZ`) read as one
/// big-endian number, so that a `+` wildcard is a prefix mask; the name is 0 where
/// the hook has no such device.
///
/// Those come first that rules ask for most: their values can stand in a list.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Field {
    /// Source address.
    Src,
    /// Destination address.
    Dst,
    /// Transport protocol (IPv6: the header that ends the extension chain).
    Proto,
    /// Fragment offset in units of eight bytes.
    FragOff,
    /// Bytes available from the transport header on; absent in later fragments.
    L4Len,
    /// Source port: the first two bytes of the transport header.
    Sport,
    /// Destination port: bytes two and three of the transport header.
    Dport,
    /// Byte 13 of the TCP header.
    TcpFlags,
    /// Input interface name.
    InName,
    /// Output interface name.
    OutName,
    /// Packet mark.
    Mark,
    /// Connection-tracking state, one of [`ctstate`]. Always present.
    CtState,
    /// IPv4 TOS byte or IPv6 traffic class.
    Tos,
    /// TTL or hop limit.
    Ttl,
    /// Bytes of the network packet, header included.
    Length,
    /// 1 when the TCP option of this kind is present, 0 when not; absent when the
    /// option list is cut short by the packet's end.
    TcpOption(u8),
    /// Maximum segment size that a TCP header announces; absent without the option.
    TcpMss,
    /// ICMP or ICMPv6 type times 256 plus code.
    IcmpTypeCode,
    /// Bytes of the transport header as one big-endian number; absent in later
    /// fragments and where the packet ends before.
    L4 {
        /// Offset of the first.
        at: u8,
        /// How many, 1 to 16.
        len: u8,
    },
    /// Bytes of the first IPv6 extension header of a kind (`ipv6_find_hdr`) as one
    /// big-endian number; absent where there is no such header or the packet ends before.
    Ext {
        /// Its number.
        header: u8,
        /// Offset of the first byte.
        at: u8,
        /// How many bytes, 1 to 16.
        len: u8,
    },
    /// Whether there is an IPv6 extension header of this number: 0 for no, 1 for yes, 2
    /// when the chain of headers is cut short before it.
    HasExt(u8),
    /// IPv6 extension headers and what follows them, one of [`exthdr`] each; absent
    /// when the chain of headers is cut short.
    ExtHeaders,
    /// To whom the link layer sent the packet, one of [`pkttype`].
    PktType,
    /// Link-layer source address; absent where the packet came without an Ethernet header.
    SrcMac,
    /// Group of the input interface (`ip link set … group`); absent where the hook has none.
    InGroup,
    /// Group of the output interface.
    OutGroup,
    /// Realms of the route (`dst->tclassid`): that of the source's in the upper half, that
    /// of the destination's in the lower. IPv4 only.
    Realm,
    /// Number of the processor that handles the packet.
    Cpu,
    /// What kind of socket sent the packet, one of [`socket`]. Always present.
    Socket,
    /// User that opened the socket which sent the packet; absent unless a program's did.
    SocketUid,
    /// The same of the group.
    SocketGid,
    /// Class (`net_cls.classid`) of the socket that sent the packet or, at INPUT, is
    /// connected with its sender; absent without one.
    SocketClass,
    /// Priority, which is a queueing discipline's class.
    Priority,
    /// 1 when the packet belongs to a tracked connection, else 0. Always present.
    HasCt,
    /// Status bits of the connection ([`ctstatus`]).
    CtStatus,
    /// Direction: 0 original, 1 reply.
    CtDir,
    /// Connection mark.
    CtMark,
    /// Labels of the connection, a bit each.
    CtLabels,
    /// Protocol of the connection.
    CtProto,
    /// Source address of the original direction.
    CtOrigSrc,
    /// Destination address of the original direction.
    CtOrigDst,
    /// Source address of the reply direction.
    CtReplSrc,
    /// Destination address of the reply direction.
    CtReplDst,
    /// Source port (or ICMP id) of the original direction.
    CtOrigSport,
    /// Destination port of the original direction.
    CtOrigDport,
    /// Source port of the reply direction.
    CtReplSport,
    /// Destination port of the reply direction.
    CtReplDport,
    /// Seconds until the connection times out, 0 when overdue.
    CtExpire,
    /// Packets of the original direction so far, this one included; absent when the
    /// connection is not accounted.
    CtOrigPackets,
    /// Bytes of the original direction.
    CtOrigBytes,
    /// Packets of the reply direction.
    CtReplPackets,
    /// Bytes of the reply direction.
    CtReplBytes,
    /// Original source address of the connection that announced this one, or of this one.
    CtMasterSrc,
    /// Name of the helper that expected the connection, as 16 bytes, NUL padded; absent
    /// when none did.
    CtMasterHelper,
    /// Route type (`RTN_*`) of the source address, any interface.
    SrcType,
    /// Route type of the destination address, any interface.
    DstType,
    /// Route type of the source address as seen from the input interface.
    SrcTypeIn,
    /// Route type of the destination address as seen from the input interface.
    DstTypeIn,
    /// Route type of the source address as seen from the output interface.
    SrcTypeOut,
    /// Route type of the destination address as seen from the output interface.
    DstTypeOut,
    /// 1 when the way back to the source passes the reverse path test (`rpfilter_mt`).
    ReversePath(ReversePath),
}

/// How [`Field::ReversePath`] is tested.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ReversePath {
    /// Any interface will do.
    pub loose: bool,
    /// The way back is that of the packet's mark.
    pub mark: bool,
    /// A source of this host passes.
    pub local: bool,
}

/// How long a field's value holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// Fixed for all packets of one direction of a flow (while the ruleset, marks
    /// and surroundings stay as they are).
    Flow,
    /// May differ from packet to packet of a flow.
    Packet,
}

/// The facts about one [`Field`].
#[derive(Clone, Copy, Debug)]
pub struct FieldRow {
    /// Name in explanations.
    pub name: &'static str,
    /// Width in bits.
    pub bits: u8,
    /// How long the value holds.
    pub scope: Scope,
    /// Whether an [`Effect`](crate::Effect) can write it.
    pub writable: bool,
}

const fn row(name: &'static str, bits: u8, scope: Scope, writable: bool) -> FieldRow {
    FieldRow {
        name,
        bits,
        scope,
        writable,
    }
}

const fn bits(bytes: u8) -> u8 {
    if bytes < 16 { bytes * 8 } else { 128 }
}

impl Field {
    /// Whether the value comes from connection tracking.
    #[must_use]
    pub const fn is_connection(self) -> bool {
        matches!(
            self,
            Field::HasCt
                | Field::CtState
                | Field::CtStatus
                | Field::CtDir
                | Field::CtMark
                | Field::CtLabels
                | Field::CtProto
                | Field::CtOrigSrc
                | Field::CtOrigDst
                | Field::CtReplSrc
                | Field::CtReplDst
                | Field::CtOrigSport
                | Field::CtOrigDport
                | Field::CtReplSport
                | Field::CtReplDport
                | Field::CtExpire
                | Field::CtOrigPackets
                | Field::CtOrigBytes
                | Field::CtReplPackets
                | Field::CtReplBytes
                | Field::CtMasterSrc
                | Field::CtMasterHelper
        )
    }

    /// Whether the value is known only where the host's sockets are.
    #[must_use]
    pub const fn is_of_socket(self) -> bool {
        matches!(
            self,
            Field::Socket | Field::SocketUid | Field::SocketGid | Field::SocketClass
        )
    }

    /// The facts about this field. Address widths are those of IPv6.
    #[must_use]
    pub const fn row(self) -> FieldRow {
        use Scope::{Flow, Packet};
        match self {
            Field::Src => row("source", 128, Flow, false),
            Field::Dst => row("destination", 128, Flow, false),
            Field::Proto => row("protocol", 8, Flow, false),
            Field::Tos => row("tos", 8, Packet, true),
            Field::Ttl => row("ttl", 8, Packet, true),
            Field::Length => row("length", 32, Packet, false),
            Field::FragOff => row("fragment offset", 13, Packet, false),
            Field::L4Len => row("transport bytes", 16, Packet, false),
            Field::Sport => row("source port", 16, Flow, false),
            Field::Dport => row("destination port", 16, Flow, false),
            Field::TcpFlags => row("tcp flags", 8, Packet, false),
            Field::TcpOption(_) => row("tcp option", 1, Packet, false),
            Field::TcpMss => row("tcp mss", 16, Packet, false),
            Field::L4 { len, .. } => row("transport header", bits(len), Packet, false),
            Field::Ext { len, .. } => row("extension header", bits(len), Packet, false),
            Field::HasExt(_) => row("has extension header", 2, Packet, false),
            Field::ExtHeaders => row("extension headers", 8, Packet, false),
            Field::PktType => row("packet type", 3, Packet, false),
            Field::SrcMac => row("source mac", 48, Packet, false),
            Field::IcmpTypeCode => row("icmp type and code", 16, Packet, false),
            Field::InName => row("input interface", 128, Flow, false),
            Field::OutName => row("output interface", 128, Flow, false),
            Field::InGroup => row("input group", 32, Flow, false),
            Field::OutGroup => row("output group", 32, Flow, false),
            Field::Realm => row("realm", 32, Packet, false),
            Field::Cpu => row("processor", 32, Packet, false),
            Field::Socket => row("socket", 2, Packet, false),
            Field::SocketUid => row("user", 32, Packet, false),
            Field::SocketGid => row("group", 32, Packet, false),
            Field::SocketClass => row("class", 32, Packet, false),
            Field::Mark => row("mark", 32, Packet, true),
            Field::Priority => row("priority", 32, Packet, true),
            Field::HasCt => row("tracked", 1, Packet, false),
            Field::CtState => row("ctstate", 3, Packet, false),
            Field::CtStatus => row("ctstatus", 16, Packet, false),
            Field::CtDir => row("ctdir", 1, Flow, false),
            Field::CtMark => row("connmark", 32, Packet, true),
            Field::CtLabels => row("connlabels", 128, Packet, false),
            Field::CtProto => row("ctproto", 8, Flow, false),
            Field::CtOrigSrc => row("ctorigsrc", 128, Flow, false),
            Field::CtOrigDst => row("ctorigdst", 128, Flow, false),
            Field::CtReplSrc => row("ctreplsrc", 128, Packet, false),
            Field::CtReplDst => row("ctrepldst", 128, Packet, false),
            Field::CtOrigSport => row("ctorigsrcport", 16, Flow, false),
            Field::CtOrigDport => row("ctorigdstport", 16, Flow, false),
            Field::CtReplSport => row("ctreplsrcport", 16, Packet, false),
            Field::CtReplDport => row("ctrepldstport", 16, Packet, false),
            Field::CtExpire => row("ctexpire", 32, Packet, false),
            Field::CtOrigPackets => row("original packets", 64, Packet, false),
            Field::CtOrigBytes => row("original bytes", 64, Packet, false),
            Field::CtReplPackets => row("reply packets", 64, Packet, false),
            Field::CtReplBytes => row("reply bytes", 64, Packet, false),
            Field::CtMasterSrc => row("master source", 128, Flow, false),
            Field::CtMasterHelper => row("helper", 128, Flow, false),
            Field::ReversePath(_) => row("reverse path", 1, Packet, false),
            Field::SrcType | Field::SrcTypeIn | Field::SrcTypeOut => {
                row("source address type", 4, Flow, false)
            }
            Field::DstType | Field::DstTypeIn | Field::DstTypeOut => {
                row("destination address type", 4, Flow, false)
            }
        }
    }
}

/// Values of [`Field::CtState`].
pub mod ctstate {
    /// No connection could be found or made.
    pub const INVALID: u128 = 0;
    /// Both directions have been seen.
    pub const ESTABLISHED: u128 = 1;
    /// Expected connection, or an ICMP error about a connection.
    pub const RELATED: u128 = 2;
    /// First direction only.
    pub const NEW: u128 = 3;
    /// Exempted from tracking.
    pub const UNTRACKED: u128 = 4;
}

/// Bits of [`Field::CtStatus`] (uapi `enum ip_conntrack_status`).
pub mod ctstatus {
    /// Created by an expectation.
    pub const EXPECTED: u32 = 1 << 0;
    /// A reply was seen.
    pub const SEEN_REPLY: u32 = 1 << 1;
    /// Will not be evicted early.
    pub const ASSURED: u32 = 1 << 2;
    /// In the table.
    pub const CONFIRMED: u32 = 1 << 3;
    /// Source is translated.
    pub const SRC_NAT: u32 = 1 << 4;
    /// Destination is translated.
    pub const DST_NAT: u32 = 1 << 5;
}

/// Bits of [`Field::ExtHeaders`] (uapi `ip6t_ipv6header.h`).
pub mod exthdr {
    /// Hop-by-hop options.
    pub const HOP: u32 = 1 << 7;
    /// Destination options.
    pub const DST: u32 = 1 << 6;
    /// Routing header.
    pub const ROUTE: u32 = 1 << 5;
    /// Fragment header.
    pub const FRAG: u32 = 1 << 4;
    /// Authentication header.
    pub const AUTH: u32 = 1 << 3;
    /// Encapsulated security payload.
    pub const ESP: u32 = 1 << 2;
    /// No next header.
    pub const NONE: u32 = 1 << 1;
    /// Any other protocol.
    pub const PROTO: u32 = 1 << 0;
}

/// Values of [`Field::Socket`].
pub mod socket {
    /// No socket, or one that its program has closed.
    pub const NONE: u128 = 0;
    /// One of the kernel's own, which belongs to nobody.
    pub const KERNEL: u128 = 1;
    /// A program's.
    pub const PROGRAM: u128 = 2;
}

/// Values of [`Field::PktType`] (uapi `if_packet.h`).
pub mod pkttype {
    /// To this host.
    pub const HOST: u128 = 0;
    /// To everybody.
    pub const BROADCAST: u128 = 1;
    /// To a group.
    pub const MULTICAST: u128 = 2;
    /// To another host.
    pub const OTHERHOST: u128 = 3;
    /// Sent by this host.
    pub const OUTGOING: u128 = 4;
}
