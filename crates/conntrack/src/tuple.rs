//! Tuples: what identifies one direction of a connection (`nf_conntrack_tuple`).

use core::fmt;
use core::hash::{Hash, Hasher};
use tidegate_wire::{Family, Layout, be16, be32, proto};

/// Direction of a packet relative to its connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Dir {
    /// The direction of the packet that created the entry.
    Original = 0,
    /// The other one.
    Reply = 1,
}

impl Dir {
    /// Both directions, original first.
    pub const BOTH: [Dir; 2] = [Dir::Original, Dir::Reply];

    /// The opposite direction.
    #[inline]
    #[must_use]
    pub const fn other(self) -> Dir {
        match self {
            Dir::Original => Dir::Reply,
            Dir::Reply => Dir::Original,
        }
    }

    /// Index into per-direction arrays.
    #[inline]
    #[must_use]
    pub const fn ix(self) -> usize {
        self as usize
    }
}

/// Addresses and transport identifiers of one direction.
///
/// Packed to 40 bytes; read address fields by value (`{ t.src }` in format macros).
#[derive(Clone, Copy, Eq)]
#[repr(C, packed(8))]
pub struct Tuple {
    /// Source address; IPv4 in the low 32 bits.
    pub src: u128,
    /// Destination address; IPv4 in the low 32 bits.
    pub dst: u128,
    /// Source port (TCP, UDP, SCTP, UDPlite), ICMP echo id, GRE source key, else 0.
    pub src_id: u16,
    /// Destination port, ICMP `type << 8 | code`, GRE destination key, else 0.
    pub dst_id: u16,
    /// Address family.
    pub family: Family,
    /// Transport protocol number.
    pub proto: u8,
}

impl Tuple {
    /// All but the addresses, in the lower 48 bits of a word.
    #[inline]
    pub(crate) fn tail(&self) -> u64 {
        let ids = u64::from(self.src_id) | u64::from(self.dst_id) << 16;
        ids | u64::from(self.family as u8) << 32 | u64::from(self.proto) << 40
    }
}

/// Whole words at once: most tuples that are compared are equal.
impl PartialEq for Tuple {
    #[inline]
    fn eq(&self, other: &Tuple) -> bool {
        let addresses = (self.src ^ other.src) | (self.dst ^ other.dst);
        addresses | u128::from(self.tail() ^ other.tail()) == 0
    }
}

impl Hash for Tuple {
    fn hash<H: Hasher>(&self, state: &mut H) {
        let (src, dst) = (self.src, self.dst);
        (src, dst, self.tail()).hash(state);
    }
}

/// ICMP types that ask, with the type that answers (`icmp_invert_tuple`).
const ICMP_PAIRS: [(u8, u8); 4] = [(8, 0), (13, 14), (15, 16), (17, 18)];
/// ICMPv6 types that ask, with the type that answers (`icmpv6_invert_tuple`).
const ICMPV6_PAIRS: [(u8, u8); 2] = [(128, 129), (139, 140)];

/// GRE protocol type of PPP, the only payload of version 1 (RFC 2637 section 4.1).
const GRE_PPP: u16 = 0x880b;

fn inverse_type(pairs: &[(u8, u8)], ty: u8) -> Option<u8> {
    pairs.iter().find_map(|&(ask, answer)| match ty {
        t if t == ask => Some(answer),
        t if t == answer => Some(ask),
        _ => None,
    })
}

impl Tuple {
    /// The tuple of a packet; `None` when it has no readable transport header part
    /// (later fragment, cut short, GRE version 1 that is not PPP).
    #[inline]
    #[must_use]
    pub fn from_packet(pkt: &[u8], layout: &Layout) -> Option<Tuple> {
        if !layout.has_l4() {
            return None;
        }
        let l4 = pkt.get(usize::from(layout.l4)..layout.len as usize)?;
        Tuple::from_parts(
            layout.family,
            layout.proto,
            layout.src(pkt),
            layout.dst(pkt),
            l4,
        )
    }

    /// The tuple for given addresses and transport bytes (also used on the packet
    /// inside an ICMP error, of which only the start may be present).
    #[inline]
    #[must_use]
    pub fn from_parts(family: Family, proto: u8, src: u128, dst: u128, l4: &[u8]) -> Option<Tuple> {
        let (src_id, dst_id) = ids(proto, l4)?;
        Some(Tuple {
            src,
            dst,
            src_id,
            dst_id,
            family,
            proto,
        })
    }

    /// The tuple an answer has; `None` for ICMP types that have no answer.
    #[inline]
    #[must_use]
    pub fn inverse(&self) -> Option<Tuple> {
        let (src_id, dst_id) = match self.proto {
            proto::ICMP | proto::ICMPV6 => {
                let pairs: &[_] = if self.proto == proto::ICMP {
                    &ICMP_PAIRS
                } else {
                    &ICMPV6_PAIRS
                };
                let [ty, code] = self.dst_id.to_be_bytes();
                let ty = inverse_type(pairs, ty)?;
                (self.src_id, u16::from_be_bytes([ty, code]))
            }
            _ => (self.dst_id, self.src_id),
        };
        Some(Tuple {
            src: self.dst,
            dst: self.src,
            src_id,
            dst_id,
            ..*self
        })
    }

    /// Whether `src_id` and `dst_id` are ports.
    #[inline]
    #[must_use]
    pub fn has_ports(&self) -> bool {
        has_ports(self.proto)
    }

    /// ICMP type (meaningful for ICMP and ICMPv6 only).
    #[inline]
    #[must_use]
    pub fn icmp_type(&self) -> u8 {
        (self.dst_id >> 8) as u8
    }

    /// ICMP code (meaningful for ICMP and ICMPv6 only).
    #[inline]
    #[must_use]
    pub fn icmp_code(&self) -> u8 {
        self.dst_id as u8
    }
}

fn has_ports(proto: u8) -> bool {
    matches!(
        proto,
        proto::TCP | proto::UDP | proto::SCTP | proto::UDPLITE
    )
}

/// Transport identifiers from the start of the transport header (`nf_ct_get_tuple`).
#[inline]
fn ids(proto: u8, l4: &[u8]) -> Option<(u16, u16)> {
    match proto {
        p if has_ports(p) => {
            let ports = be32(l4, 0)?;
            Some(((ports >> 16) as u16, ports as u16))
        }
        proto::ICMP | proto::ICMPV6 => {
            l4.get(..8)?;
            Some((be16(l4, 4)?, be16(l4, 0)?))
        }
        proto::GRE => gre_keys(l4),
        _ => Some((0, 0)),
    }
}

/// GRE keys: 0 unless version 1, whose call id is the destination key
/// (`gre_pkt_to_tuple`; the source key would come from a PPTP key map, 0 without one).
/// Headers too short for a key have none.
fn gre_keys(l4: &[u8]) -> Option<(u16, u16)> {
    let version = be16(l4, 0).map_or(0, |flags| flags & 7);
    let (Some(protocol), Some(call)) = (be16(l4, 2), be16(l4, 6)) else {
        return Some((0, 0));
    };
    match (version, protocol) {
        (1, GRE_PPP) => Some((0, call)),
        (1, _) => None,
        _ => Some((0, 0)),
    }
}

impl fmt::Debug for Tuple {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (src, dst) = ({ self.src }, { self.dst });
        match self.family {
            Family::V4 => write!(
                f,
                "v4/{} {}:{} -> {}:{}",
                self.proto,
                core::net::Ipv4Addr::from(src as u32),
                { self.src_id },
                core::net::Ipv4Addr::from(dst as u32),
                { self.dst_id }
            ),
            Family::V6 => write!(
                f,
                "v6/{} [{}]:{} -> [{}]:{}",
                self.proto,
                core::net::Ipv6Addr::from(src),
                { self.src_id },
                core::net::Ipv6Addr::from(dst),
                { self.dst_id }
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whatever differs, in whichever byte.
    #[test]
    fn tuples_are_the_same_when_every_part_of_them_is() {
        let tuple = Tuple {
            src: 1,
            dst: 2,
            src_id: 3,
            dst_id: 4,
            family: Family::V4,
            proto: 5,
        };
        assert_eq!(tuple, { tuple });
        let others = (0..16).flat_map(|byte| {
            let long = 1u128 << (8 * byte);
            let short = 1u16 << byte;
            [
                Tuple {
                    src: 1 ^ long,
                    ..tuple
                },
                Tuple {
                    dst: 2 ^ long,
                    ..tuple
                },
                Tuple {
                    src_id: 3 ^ short,
                    ..tuple
                },
                Tuple {
                    dst_id: 4 ^ short,
                    ..tuple
                },
                Tuple {
                    proto: 5 ^ 1 << (byte % 8),
                    ..tuple
                },
                Tuple {
                    family: Family::V6,
                    ..tuple
                },
            ]
        });
        for other in others {
            assert_ne!(tuple, other);
        }
    }
}
