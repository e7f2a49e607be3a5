//! What becomes of packets.

/// What became of a packet at the fast path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// Forwarded.
    Forwarded = 0,
    /// Given to this host's sockets.
    Passed,
    /// Not for this host alone: broadcast, multicast.
    NotOurs,
    /// Not plain TCP or UDP over IPv4 or IPv6: options, extension headers, ICMP, damage.
    Unusual,
    /// A fragment.
    Fragment,
    /// Opens or closes a TCP connection, or is urgent.
    TcpFlags,
    /// TCP options beyond time stamps and SACK.
    TcpOptions,
    /// Of no connection that the kernel was told of.
    Unknown,
    /// The checksum is wrong, or could not be verified.
    Checksum,
    /// The engine has the connection at present.
    Held,
    /// Rules or surroundings have changed.
    Stale,
    /// This direction is not handled here, or other packets than this one are.
    NoWay,
    /// TTL or hop limit runs out.
    Ttl,
    /// Too long for the way out.
    TooBig,
    /// Not clearly inside the TCP window.
    Window,
    /// Forwarded before the kernel looked at it.
    Early,
    /// Dropped, as rules say.
    Stopped,
    /// Sent by this host's sockets, and let out.
    Sent,
}

impl Fate {
    /// All, by number.
    pub const ALL: [Fate; 18] = [
        Fate::Forwarded,
        Fate::Passed,
        Fate::NotOurs,
        Fate::Unusual,
        Fate::Fragment,
        Fate::TcpFlags,
        Fate::TcpOptions,
        Fate::Unknown,
        Fate::Checksum,
        Fate::Held,
        Fate::Stale,
        Fate::NoWay,
        Fate::Ttl,
        Fate::TooBig,
        Fate::Window,
        Fate::Early,
        Fate::Stopped,
        Fate::Sent,
    ];

    /// A few words for reports.
    #[must_use]
    pub const fn words(self) -> &'static str {
        match self {
            Fate::Forwarded => "forwarded in the kernel",
            Fate::Passed => "to this host's sockets, in the kernel",
            Fate::NotOurs => "broadcast and multicast",
            Fate::Unusual => "not plain TCP or UDP",
            Fate::Fragment => "fragments",
            Fate::TcpFlags => "TCP opening, closing or urgent",
            Fate::TcpOptions => "unusual TCP options",
            Fate::Unknown => "of no known connection",
            Fate::Checksum => "checksum wrong or not verified",
            Fate::Held => "while the engine had the connection",
            Fate::Stale => "after a change of rules or routes",
            Fate::NoWay => "not decided for the whole flow",
            Fate::Ttl => "TTL ran out",
            Fate::TooBig => "too long for the way out",
            Fate::Window => "not clearly inside the TCP window",
            Fate::Early => "forwarded at the interface (XDP)",
            Fate::Stopped => "dropped by rules in the kernel",
            Fate::Sent => "from this host's sockets, in the kernel",
        }
    }
}
