//! What became of a packet.

use tidegate_ir::{Hook, RuleId};
use tidegate_wire::Malformed;

use crate::env::IfIndex;

/// Why a packet went no further.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DropReason {
    /// Not a packet the network layer takes in.
    Malformed(Malformed),
    /// An IPv4 option or IPv6 hop-by-hop option that is broken or refused.
    Options,
    /// The link layer addressed it to another host.
    OtherHost,
    /// A rule said DROP.
    Rule(RuleId),
    /// A rule said REJECT.
    Reject(RuleId),
    /// A base chain's policy.
    Policy(RuleId),
    /// A match dropped it on the spot (`hotdrop`).
    Hotdrop(RuleId),
    /// More nested jumps than the engine follows.
    JumpDepth,
    /// Connection tracking refused it.
    Conntrack(tidegate_conntrack::DropReason),
    /// The queue that a rule sent it to has no reader, or no room.
    Queue(RuleId),
    /// Who reads this queue said so, made no packet of it, sent it on to a queue without
    /// reader or room, or went away.
    QueueReader(u16),
    /// A target could not do its work (MASQUERADE without an address, TCPMSS on a
    /// damaged header).
    Target(RuleId),
    /// The SYN proxy has taken it: it answered, or opened the connection, by packets of
    /// its own.
    SynProxy,
    /// The rule's SYN proxy finds no cookie of its own in it.
    BadCookie(RuleId),
    /// Source or destination address that the routing code refuses.
    Martian,
    /// No route, or one that refuses.
    NoRoute,
    /// This host does not forward.
    NotForwarding,
    /// TTL or hop limit ran out.
    TtlExceeded,
    /// Larger than the outgoing link takes, and not to be fragmented.
    TooBig,
    /// A fragment that cannot belong to any packet, or overlaps another.
    Fragment(FragmentError),
    /// Generated packets led to more generated packets than the engine follows.
    Depth,
}

/// What was wrong with a fragment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FragmentError {
    /// Overlaps data already there; all fragments of the packet are discarded.
    Overlap,
    /// Already there.
    Duplicate,
    /// Length or offset impossible.
    Shape,
    /// The fragment memory limit was reached.
    Memory,
}

/// What became of a packet, in one word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Disposition {
    /// Left through an interface.
    Sent,
    /// Given to a local socket.
    Delivered,
    /// Stopped.
    Dropped(DropReason),
    /// A fragment kept until its packet is whole.
    Held,
    /// Waits for the answer of who reads its queue.
    Queued,
}

/// What became of a packet that nothing stopped.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Passed {
    Sent,
    Delivered,
}

impl From<Passed> for Disposition {
    fn from(passed: Passed) -> Disposition {
        match passed {
            Passed::Sent => Disposition::Sent,
            Passed::Delivered => Disposition::Delivered,
        }
    }
}

/// Why a packet is in the outputs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// The packet that came in, routed onwards.
    Forwarded,
    /// The packet that a local socket sent.
    Own,
    /// A packet the firewall made: a reset or an ICMP error.
    Emitted,
    /// A copy that TEE made.
    Copy,
}

/// One thing that came out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Output {
    /// Network-layer bytes for an interface.
    Transmit {
        /// Interface.
        dev: IfIndex,
        /// Next hop address (the destination itself when it is on the link).
        next_hop: u128,
        /// Packet.
        bytes: Vec<u8>,
        /// Why.
        role: Role,
        /// Packet mark.
        mark: u32,
        /// Priority that a rule gave it (CLASSIFY); else 0.
        priority: u32,
        /// The way that [`crate::Engine::send_on`] was told still holds, and with it the
        /// link-layer header that the packet was sent with.
        as_sent: bool,
    },
    /// Network-layer bytes for a local socket.
    Deliver {
        /// Interface it came in by.
        dev: IfIndex,
        /// Packet.
        bytes: Vec<u8>,
        /// Packet mark.
        mark: u32,
        /// Address and port of the socket without a peer that a rule has given it to
        /// (TPROXY), which it is not addressed to.
        given: Option<(u128, u16)>,
    },
    /// A LOG line, without time stamp.
    Log {
        /// Syslog level, 0 to 7.
        level: u8,
        /// Text without newline, prefix included.
        line: String,
        /// The rule's prefix alone.
        prefix: String,
        /// Where it was written.
        hook: Hook,
        /// Input interface.
        input: Option<IfIndex>,
        /// Output interface.
        output: Option<IfIndex>,
    },
    /// A packet for who listens to an NFLOG group.
    Nflog(Box<Nflog>),
}

impl Output {
    /// Adds what `make` makes, made where it stays: a copy of what has just been written field
    /// by field would wait for all of it. There is room first, and seen to be: where growing
    /// may still fail, it is made apart.
    #[inline]
    pub(crate) fn add(outputs: &mut Vec<Output>, make: impl FnOnce() -> Output) {
        outputs.reserve(1);
        if outputs.len() < outputs.capacity() {
            outputs.push(make());
        }
    }
}

/// A copy of a packet as it was where a rule said NFLOG.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Nflog {
    /// Group of listeners.
    pub group: u16,
    /// The rule's prefix.
    pub prefix: String,
    /// Where the rule was met.
    pub hook: Hook,
    /// Input interface.
    pub input: Option<Device>,
    /// Output interface.
    pub output: Option<Device>,
    /// Packet mark.
    pub mark: u32,
    /// The packet from its network header on, or as much of it as the rule wanted.
    pub bytes: Vec<u8>,
    /// Length of the whole packet.
    pub len: u32,
}

/// An interface by number and name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Device {
    /// Number.
    pub index: IfIndex,
    /// Name; empty when it is not known.
    pub name: String,
}

/// Result of one packet.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// What became of the packet itself.
    pub disposition: Disposition,
    /// Everything that came out, in order.
    pub outputs: Vec<Output>,
    /// A locally sent packet had left through loopback before it met its end: its
    /// sender saw no error.
    pub looped: bool,
}
