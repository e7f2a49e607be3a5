//! Classic BPF programs for packet sockets (uapi `linux/filter.h`).

/// One instruction.
pub type Insn = libc::sock_filter;

/// Ancillary data (`SKF_AD_OFF` and what follows it).
const ANCILLARY: u32 = -0x1000_i32 as u32;
/// The link-layer header (`SKF_LL_OFF`): injected frames have one on their way into
/// interfaces that have none, too, in front of what a packet socket there sees.
const LINK: u32 = -0x0020_0000_i32 as u32;
const PROTOCOL: u32 = ANCILLARY;
const PACKET_TYPE: u32 = ANCILLARY + 4;
const VLAN_PRESENT: u32 = ANCILLARY + 48;

const LOAD_WORD: u16 = 0x20;
const LOAD_HALF: u16 = 0x28;
const JUMP_EQUAL: u16 = 0x15;
const JUMP_GREATER: u16 = 0x25;
const RETURN: u16 = 0x06;

const ETH_P_IP: u32 = 0x0800;
const ETH_P_IPV6: u32 = 0x86dd;
/// `PACKET_HOST`, `PACKET_BROADCAST`, `PACKET_MULTICAST` are smaller or equal.
const PACKET_MULTICAST: u32 = 2;
/// Whole frame.
const ALL: u32 = 0x0004_0000;

const fn insn(code: u16, k: u32, yes: u8, no: u8) -> Insn {
    Insn {
        code,
        jt: yes,
        jf: no,
        k,
    }
}

/// Lets through untagged IPv4 and IPv6 frames for this host or for everybody whose
/// Ethernet source is not `secret`.
#[must_use]
pub fn wire_filter(secret: [u8; 6]) -> Vec<Insn> {
    let [a, b, c, d, e, f] = secret;
    let (high, low) = (
        u32::from_be_bytes([a, b, c, d]),
        u32::from(u16::from_be_bytes([e, f])),
    );
    vec![
        insn(LOAD_WORD, VLAN_PRESENT, 0, 0),
        insn(JUMP_EQUAL, 0, 0, 10),
        insn(LOAD_WORD, PACKET_TYPE, 0, 0),
        insn(JUMP_GREATER, PACKET_MULTICAST, 8, 0),
        insn(LOAD_WORD, PROTOCOL, 0, 0),
        insn(JUMP_EQUAL, ETH_P_IP, 1, 0),
        insn(JUMP_EQUAL, ETH_P_IPV6, 0, 5),
        insn(LOAD_WORD, LINK + 6, 0, 0),
        insn(JUMP_EQUAL, high, 0, 2),
        insn(LOAD_HALF, LINK + 10, 0, 0),
        insn(JUMP_EQUAL, low, 1, 0),
        insn(RETURN, ALL, 0, 0),
        insn(RETURN, 0, 0, 0),
    ]
}
