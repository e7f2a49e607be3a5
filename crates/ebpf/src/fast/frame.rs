//! What a program keeps on its stack, and the kernel's numbers it needs.

// What most packets need lies within 128 bytes of the frame's pointer, which instructions of
// x86 have a short form for.

/// Index of a map with few entries; the next hop of a redirection later.
pub(crate) const INDEX: i16 = -4;
/// Key of the flow.
pub(crate) const KEY: i16 = -48;
/// Pointer to this processor's turn.
pub(crate) const TURN: i16 = -56;
pub(crate) const NOW: i16 = -64;
/// Epoch of the rules in force.
pub(crate) const EPOCH: i16 = -72;
/// Sum over the pseudo-header.
pub(crate) const PSEUDO: i16 = -80;
/// Length from the network header on.
pub(crate) const LEN: i16 = -84;
/// Length of the longest segment from the network header on.
pub(crate) const LONGEST: i16 = -88;
/// Bytes of network header.
pub(crate) const IP_LEN: i16 = -92;
/// Protocol: TCP or UDP.
pub(crate) const PROTO: i16 = -96;
/// The [`crate::layout::Fate`] of a packet that must go up, or 0.
pub(crate) const DOUBT: i16 = -100;
/// Nearly folded sum over pseudo-header, transport header and payload; 0 when they are too
/// long for the program to sum up itself.
pub(crate) const SUM: i16 = -104;
/// The checksum of the transport header.
pub(crate) const CHECK: i16 = -108;
/// TTL or hop limit.
pub(crate) const TTL: i16 = -112;
/// Place and direction of the connection.
pub(crate) const PLACE: i16 = -116;
pub(crate) const DIR: i16 = -120;
/// Where the flow may be in the index: which bytes of a bucket come first, and the tag there. More
/// of it is below.
pub(crate) const HOME: i16 = -124;
pub(crate) const TAG: i16 = -128;

/// Transport header and first options.
pub(crate) const L4: i16 = -200;
/// Received Ethernet and network header; the latter is aligned.
pub(crate) const ETHERNET: i16 = IP - 14;
pub(crate) const IP: i16 = -240;
pub(crate) const SEQ: i16 = -260;
pub(crate) const ACK: i16 = -264;
pub(crate) const END: i16 = -268;
/// Highest edge acknowledged, by SACK blocks too.
pub(crate) const SACK: i16 = -272;
pub(crate) const WINDOW: i16 = -276;
/// Ethernet addresses to and from the next hop, and its place.
pub(crate) const HOP: i16 = -296;
pub(crate) const HOP_PLACE: i16 = HOP + 12;
/// Argument of `bpf_redirect_neigh`, 20 bytes.
pub(crate) const NEIGHBOUR: i16 = -320;
/// Pointer to the flow's bucket, the bucket's place, and [`crate::layout::global::LAST_BUCKET`].
pub(crate) const BUCKET_AT: i16 = -328;
pub(crate) const BUCKET_PLACE: i16 = -336;
pub(crate) const LAST_BUCKET: i16 = -344;

/// Where a program looks at frames.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Front {
    /// In the kernel's traffic control.
    Tcx,
    /// Before the kernel.
    Xdp,
}

impl Front {
    /// Where the context has the interface.
    pub(crate) const fn device(self) -> i16 {
        match self {
            Front::Tcx => skb::DEVICE,
            Front::Xdp => xdp::DEVICE,
        }
    }

    /// The answer that drops a packet.
    pub(crate) const fn drop(self) -> i32 {
        match self {
            Front::Tcx => answer::DROP,
            Front::Xdp => answer::XDP_DROP,
        }
    }
}

/// What XDP writes before a frame of a known connection that must go up, so that traffic
/// control does not judge it once more.
pub(crate) mod note {
    /// Place of the connection, with the direction in the highest bit.
    pub(crate) const PLACE: i16 = 0;
    /// The [`crate::layout::Fate`].
    pub(crate) const FATE: i16 = 4;
    /// Number among its connection's, so that the kernel does not join frames.
    pub(crate) const NUMBER: i16 = 8;
    /// The secret of [`crate::fast::Secrets`].
    pub(crate) const SECRET: i16 = 16;
    pub(crate) const LEN: i16 = 24;
}

/// Fields of `struct __sk_buff`.
pub(crate) mod skb {
    pub(crate) const LEN: i16 = 0;
    pub(crate) const PACKET_TYPE: i16 = 4;
    pub(crate) const PROTOCOL: i16 = 16;
    pub(crate) const VLAN_PRESENT: i16 = 20;
    pub(crate) const DEVICE: i16 = 40;
    pub(crate) const CB: i16 = 48;
    pub(crate) const DATA: i16 = 76;
    pub(crate) const DATA_END: i16 = 80;
    pub(crate) const META: i16 = 140;
    pub(crate) const GSO_SIZE: i16 = 176;
}

/// Fields of `struct xdp_md`.
pub(crate) mod xdp {
    pub(crate) const DATA: i16 = 0;
    pub(crate) const DATA_END: i16 = 4;
    pub(crate) const META: i16 = 8;
    pub(crate) const DEVICE: i16 = 12;
}

/// Numbers of helpers (`__BPF_FUNC_MAPPER`).
pub(crate) mod helper {
    pub(crate) const MAP_LOOKUP: i32 = 1;
    pub(crate) const STORE_BYTES: i32 = 9;
    pub(crate) const PROCESSOR: i32 = 8;
    pub(crate) const L4_CSUM_REPLACE: i32 = 11;
    pub(crate) const TAIL_CALL: i32 = 12;
    pub(crate) const REDIRECT: i32 = 23;
    pub(crate) const LOAD_BYTES: i32 = 26;
    pub(crate) const CSUM_DIFF: i32 = 28;
    pub(crate) const ADJUST_META: i32 = 54;
    pub(crate) const SPIN_LOCK: i32 = 93;
    pub(crate) const SPIN_UNLOCK: i32 = 94;
    pub(crate) const JIFFIES: i32 = 118;
    pub(crate) const KTIME_BOOT: i32 = 125;
    pub(crate) const CSUM_LEVEL: i32 = 135;
    pub(crate) const REDIRECT_NEIGH: i32 = 152;
    pub(crate) const REDIRECT_PEER: i32 = 155;
    pub(crate) const XDP_LOAD_BYTES: i32 = 189;
    pub(crate) const XDP_STORE_BYTES: i32 = 190;
}

/// What a traffic-control program answers (`enum tcx_action_base`).
pub(crate) mod answer {
    pub(crate) const NEXT: i32 = -1;
    pub(crate) const PASS: i32 = 0;
    pub(crate) const DROP: i32 = 2;
    /// `XDP_DROP`
    pub(crate) const XDP_DROP: i32 = 1;
    /// `XDP_PASS`
    pub(crate) const XDP_PASS: i32 = 2;
}

/// Ethernet types as the kernel keeps them, in the network's byte order.
pub(crate) const ETH_P_IP: i32 = (0x0800_u16).to_be() as i32;
pub(crate) const ETH_P_IPV6: i32 = (0x86dd_u16).to_be() as i32;
