//! Choosing the address and port a connection is translated to (`get_unique_tuple`).

use super::manip::Manip;
use crate::tuple::Tuple;
use tidegate_wire::jhash::jhash;
use tidegate_wire::{Family, proto};

/// Most consecutive candidates tried from one start (`NF_NAT_MAX_ATTEMPTS`).
const MAX_ATTEMPTS: u32 = 128;
/// Smallest window of another round.
const LAST_ROUND: u32 = 16;
/// Attempts left of a round below which a closing connection gives way
/// (`NF_NAT_HARDER_THRESH`).
pub const HARDER: u32 = MAX_ATTEMPTS / 4;

/// What a translation may choose from (`struct nf_nat_range2`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NatRange {
    /// First and last address; `None` keeps the address. IPv4 in the low 32 bits.
    pub addresses: Option<(u128, u128)>,
    /// First and last port, ICMP id or GRE key; `None` keeps it when possible.
    pub ports: Option<(u16, u16)>,
    /// Original port that maps to the first of `ports` (`--to-destination a-b/base`).
    pub base_port: Option<u16>,
    /// Start the search for a port at random (`--random`, `--random-fully`).
    pub random: bool,
    /// Choose the address from the source address alone (`--persistent`).
    pub persistent: bool,
}

impl NatRange {
    /// One fixed address.
    #[must_use]
    pub fn address(addr: u128) -> NatRange {
        NatRange {
            addresses: Some((addr, addr)),
            ..NatRange::default()
        }
    }

    /// Whether the source of `tuple` lies inside (`nf_in_range`).
    #[must_use]
    pub fn holds_source(&self, tuple: &Tuple) -> bool {
        let src = tuple.src;
        self.addresses
            .is_none_or(|(min, max)| min <= src && src <= max)
            && self.holds_id(tuple, Manip::Src)
    }

    /// `l4proto_in_range`.
    fn holds_id(&self, tuple: &Tuple, manip: Manip) -> bool {
        let Some((min, max)) = self.ports else {
            return true;
        };
        if !has_id(tuple.proto) {
            return true;
        }
        let id = *id_of(&mut { *tuple }, manip);
        min <= id && id <= max
    }
}

/// Whether the transport protocol has something to choose.
pub(crate) fn has_id(protocol: u8) -> bool {
    matches!(
        protocol,
        proto::ICMP
            | proto::ICMPV6
            | proto::GRE
            | proto::TCP
            | proto::UDP
            | proto::UDPLITE
            | proto::SCTP
    )
}

/// The identifier of the `manip` end; ICMP has one for both.
pub(crate) fn id_of(tuple: &mut Tuple, manip: Manip) -> &mut u16 {
    match (tuple.proto, manip) {
        (proto::ICMP | proto::ICMPV6, _) | (_, Manip::Src) => &mut tuple.src_id,
        (_, Manip::Dst) => &mut tuple.dst_id,
    }
}

/// What the choice depends on besides its arguments: the table and chance. Tuples are
/// those of the original direction after translation.
pub trait Space {
    /// Whether the inverse of `tuple` belongs to another connection.
    fn taken(&mut self, tuple: &Tuple) -> bool;

    /// The same for a connection's own source, when two hosts may be opening the same
    /// connection towards each other (`nf_nat_used_tuple_new`).
    fn taken_unless_crossing(&mut self, tuple: &Tuple) -> bool;

    /// The same, but a closing connection may be removed to make `tuple` free
    /// (`nf_nat_used_tuple_harder`).
    fn taken_by_live(&mut self, tuple: &Tuple) -> bool;

    /// The source that another connection from the same source was given, if it lies in
    /// `range` (`find_appropriate_src`); the destination is that of `tuple`.
    fn mapped_source(&mut self, tuple: &Tuple, range: &NatRange) -> Option<Tuple>;

    /// A random number.
    fn random(&mut self) -> u16;

    /// A search was given up: what it could choose from is in use.
    fn exhausted(&mut self) {}
}

/// What is translated.
#[derive(Clone, Copy, Debug)]
pub struct Wish<'a> {
    /// Tuple of the original direction as translated so far.
    pub tuple: &'a Tuple,
    /// The choice.
    pub range: &'a NatRange,
    /// Which end.
    pub manip: Manip,
    /// Zone id, part of the address hash.
    pub zone: u16,
    /// The connection was announced by another one (GRE keys change only then).
    pub has_master: bool,
}

/// The translated tuple. It may be taken when the search is given up: the connection
/// then fails to be confirmed.
pub fn choose(wish: &Wish<'_>, space: &mut impl Space) -> Tuple {
    let Wish { range, manip, .. } = *wish;
    if manip == Manip::Src
        && !range.random
        && let Some(kept) = keep_or_reuse(wish, space)
    {
        return kept;
    }
    let mut tuple = with_address(wish);
    if !range.random {
        let fits = match range.ports {
            Some((min, max)) => {
                range.base_port.is_none()
                    && range.holds_id(&tuple, manip)
                    && (min == max || !space.taken(&tuple))
            }
            None => !space.taken(&tuple),
        };
        if fits {
            return tuple;
        }
    }
    search(wish, &mut tuple, space);
    tuple
}

fn keep_or_reuse(wish: &Wish<'_>, space: &mut impl Space) -> Option<Tuple> {
    let tuple = wish.tuple;
    if wish.range.holds_source(tuple) {
        return (!space.taken_unless_crossing(tuple)).then_some(*tuple);
    }
    let reused = space.mapped_source(tuple, wish.range)?;
    (!space.taken(&reused)).then_some(reused)
}

/// The tuple with an address of the range, by hash of the addresses
/// (`find_best_ips_proto`). Hash and word order are the kernel's on a little-endian
/// machine, so the same client gets the same address there and here.
pub(crate) fn with_address(wish: &Wish<'_>) -> Tuple {
    let mut tuple = *wish.tuple;
    let Some((min, max)) = wish.range.addresses else {
        return tuple;
    };
    let chosen = if min == max {
        min
    } else {
        hashed(wish, min, max)
    };
    match wish.manip {
        Manip::Src => tuple.src = chosen,
        Manip::Dst => tuple.dst = chosen,
    }
    tuple
}

fn hashed(wish: &Wish<'_>, min: u128, max: u128) -> u128 {
    let family = wish.tuple.family;
    let (min, max) = (words(family, min), words(family, max));
    let mut dst = words(family, wish.tuple.dst);
    let last = match family {
        Family::V4 => 0,
        Family::V6 => 3,
    };
    let salt = if wish.range.persistent {
        0
    } else {
        dst[last].swap_bytes() ^ u32::from(wish.zone)
    };
    let source = words(family, wish.tuple.src).map(u32::swap_bytes);
    let mut hash = jhash(&source, salt);
    let mut out = [0u32; 4];
    let mut full_range = false;
    for i in 0..=last {
        let (base, span) = if full_range {
            (0, u32::MAX)
        } else {
            (min[i], max[i].wrapping_sub(min[i]).wrapping_add(1))
        };
        let scaled = (u64::from(hash) * u64::from(span)) >> 32;
        out[i] = base.wrapping_add(scaled as u32);
        if wish.manip == Manip::Dst {
            dst[i] = out[i];
        }
        full_range |= out[i] != max[i];
        if !wish.range.persistent {
            hash ^= dst[i].swap_bytes();
        }
    }
    match family {
        Family::V4 => u128::from(out[0]),
        Family::V6 => out.iter().fold(0, |sum, &w| sum << 32 | u128::from(w)),
    }
}

/// An address as the four words of `union nf_inet_addr`, most significant first.
fn words(family: Family, addr: u128) -> [u32; 4] {
    match family {
        Family::V4 => [addr as u32, 0, 0, 0],
        Family::V6 => [96, 64, 32, 0].map(|shift| (addr >> shift) as u32),
    }
}

/// First value and number of values the identifier may take; `None` when it must stay.
fn id_space(wish: &Wish<'_>) -> Option<(u16, u32)> {
    let span = |min: u16, max: u16| (min, u32::from(max) - u32::from(min) + 1);
    let explicit = wish.range.ports.map(|(a, b)| span(a.min(b), a.max(b)));
    let implied = match wish.tuple.proto {
        proto::ICMP | proto::ICMPV6 => span(0, u16::MAX),
        proto::GRE if wish.has_master => span(1, u16::MAX),
        proto::GRE => return None,
        p if !has_id(p) => return None,
        _ if explicit.is_none() && wish.manip == Manip::Dst => return None,
        _ => match wish.tuple.src_id {
            ..512 => span(1, 511),
            512..1024 => span(600, 1023),
            1024.. => span(1024, u16::MAX),
        },
    };
    Some(explicit.unwrap_or(implied))
}

/// Looks for a free identifier (`nf_nat_l4proto_unique_tuple`).
fn search(wish: &Wish<'_>, tuple: &mut Tuple, space: &mut impl Space) {
    let Some((min, size)) = id_space(wish) else {
        return;
    };
    let range = wish.range;
    let mut off = match range.base_port {
        Some(base) => (*id_of(tuple, wish.manip)).wrapping_sub(base),
        None if range.random || wish.manip == Manip::Src => space.random(),
        None => 0,
    };
    let mut attempts = size.min(MAX_ATTEMPTS);
    loop {
        for tried in 0..attempts {
            let step = u32::from(off) % size;
            *id_of(tuple, wish.manip) = min.wrapping_add(step as u16);
            let taken = if attempts - tried > HARDER {
                space.taken(tuple)
            } else {
                space.taken_by_live(tuple)
            };
            if !taken {
                return;
            }
            off = off.wrapping_add(1);
        }
        if attempts >= size || attempts < LAST_ROUND {
            space.exhausted();
            return;
        }
        attempts /= 2;
        off = space.random();
    }
}

#[cfg(test)]
mod tests;
