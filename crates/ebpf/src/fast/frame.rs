//! What a program keeps on its stack, and the kernel's numbers it needs.

/// Received Ethernet and network header; the latter is aligned.
pub(super) const ETHERNET: i16 = IP - 14;
pub(super) const IP: i16 = -160;
/// Transport header and first options.
pub(super) const L4: i16 = -120;
/// Key of the flow.
pub(super) const KEY: i16 = -48;
/// Index of a map with few entries; the next hop of a redirection later.
pub(super) const INDEX: i16 = -4;

/// The packet in a few numbers.
pub(super) const NOW: i16 = -256;
pub(super) const SEQ: i16 = -248;
pub(super) const ACK: i16 = -244;
pub(super) const END: i16 = -240;
/// Highest edge acknowledged, by SACK blocks too.
pub(super) const SACK: i16 = -236;
pub(super) const WINDOW: i16 = -232;
/// Length from the network header on.
pub(super) const LEN: i16 = -228;
/// The [`crate::layout::Fate`] of a packet that must go up, or 0.
pub(super) const DOUBT: i16 = -224;
pub(super) const DIR: i16 = -220;
/// Protocol: TCP or UDP.
pub(super) const PROTO: i16 = -216;
/// Bytes of network header.
pub(super) const IP_LEN: i16 = -212;
/// Length of the longest segment from the network header on.
pub(super) const LONGEST: i16 = -208;
/// The checksum of the transport header.
pub(super) const CHECK: i16 = -204;
/// Sum over the pseudo-header.
pub(super) const PSEUDO: i16 = -200;
/// Type of service or traffic class.
pub(super) const TOS: i16 = -192;
/// TTL or hop limit.
pub(super) const TTL: i16 = -188;

/// Copy of the packet's way, [`crate::layout::at::WAY`] bytes.
pub(super) const WAY: i16 = -352;
/// Argument of `bpf_redirect_neigh`, 20 bytes.
pub(super) const NEIGHBOUR: i16 = -376;
/// Ethernet addresses to and from the next hop, and its place.
pub(super) const HOP: i16 = -392;
pub(super) const HOP_PLACE: i16 = HOP + 12;
/// Whether those have been written into the header.
pub(super) const ADDRESSED: i16 = -396;

/// Where a program looks at frames.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Front {
    /// In the kernel's traffic control.
    Tcx,
    /// Before the kernel.
    Xdp,
}

/// What XDP writes before a frame of a known connection that must go up, so that traffic
/// control does not judge it once more.
pub(super) mod note {
    /// Place of the connection, with the direction in the highest bit.
    pub(in crate::fast) const PLACE: i16 = 0;
    /// The [`crate::layout::Fate`].
    pub(in crate::fast) const FATE: i16 = 4;
    /// Number among its connection's, so that the kernel does not join frames.
    pub(in crate::fast) const NUMBER: i16 = 8;
    /// The secret of [`crate::fast::Secrets`].
    pub(in crate::fast) const SECRET: i16 = 16;
    pub(in crate::fast) const LEN: i16 = 24;
}

/// Fields of `struct __sk_buff`.
pub(super) mod skb {
    pub(in crate::fast) const LEN: i16 = 0;
    pub(in crate::fast) const PACKET_TYPE: i16 = 4;
    pub(in crate::fast) const PROTOCOL: i16 = 16;
    pub(in crate::fast) const VLAN_PRESENT: i16 = 20;
    pub(in crate::fast) const DEVICE: i16 = 40;
    pub(in crate::fast) const CB: i16 = 48;
    pub(in crate::fast) const DATA: i16 = 76;
    pub(in crate::fast) const DATA_END: i16 = 80;
    pub(in crate::fast) const META: i16 = 140;
    pub(in crate::fast) const GSO_SIZE: i16 = 176;
}

/// Fields of `struct xdp_md`.
pub(super) mod xdp {
    pub(in crate::fast) const DATA: i16 = 0;
    pub(in crate::fast) const DATA_END: i16 = 4;
    pub(in crate::fast) const META: i16 = 8;
    pub(in crate::fast) const DEVICE: i16 = 12;
}

/// Numbers of helpers (`__BPF_FUNC_MAPPER`).
pub(super) mod helper {
    pub(in crate::fast) const MAP_LOOKUP: i32 = 1;
    pub(in crate::fast) const STORE_BYTES: i32 = 9;
    pub(in crate::fast) const L4_CSUM_REPLACE: i32 = 11;
    pub(in crate::fast) const REDIRECT: i32 = 23;
    pub(in crate::fast) const LOAD_BYTES: i32 = 26;
    pub(in crate::fast) const CSUM_DIFF: i32 = 28;
    pub(in crate::fast) const ADJUST_META: i32 = 54;
    pub(in crate::fast) const SPIN_LOCK: i32 = 93;
    pub(in crate::fast) const SPIN_UNLOCK: i32 = 94;
    pub(in crate::fast) const KTIME_BOOT: i32 = 125;
    pub(in crate::fast) const CSUM_LEVEL: i32 = 135;
    pub(in crate::fast) const REDIRECT_NEIGH: i32 = 152;
    pub(in crate::fast) const REDIRECT_PEER: i32 = 155;
    pub(in crate::fast) const XDP_LOAD_BYTES: i32 = 189;
    pub(in crate::fast) const XDP_STORE_BYTES: i32 = 190;
}

/// What a traffic-control program answers (`enum tcx_action_base`).
pub(super) mod answer {
    pub(in crate::fast) const NEXT: i32 = -1;
    pub(in crate::fast) const PASS: i32 = 0;
    pub(in crate::fast) const DROP: i32 = 2;
    /// `XDP_PASS`
    pub(in crate::fast) const XDP_PASS: i32 = 2;
}

/// Ethernet types as the kernel keeps them, in the network's byte order.
pub(crate) const ETH_P_IP: i32 = (0x0800_u16).to_be() as i32;
pub(crate) const ETH_P_IPV6: i32 = (0x86dd_u16).to_be() as i32;
