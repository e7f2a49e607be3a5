//! Cutting packets for a link (`ip_do_fragment`, `ip6_fragment`).

use tidegate_wire::{Family, checksum, proto, put};

use crate::packet::{Fragments, Packet};
use crate::random::Random;

/// What every IPv6 link takes (RFC 8200 5).
const MINIMUM_MTU6: u32 = 1280;

/// Whether the packet has to be cut for `mtu`: it is too long, or it arrived in
/// fragments and leaves in fragments.
pub(crate) fn needed(packet: &Packet, mtu: u32) -> bool {
    let len = packet.layout.len;
    let reassembled = packet.fragments.as_ref();
    match packet.family() {
        Family::V4 => len > mtu || reassembled.is_some(),
        Family::V6 => len > mtu || reassembled.is_some_and(|f| len > f.largest),
    }
}

/// The fragments of `packet` for a link of `mtu`; `None` when its header leaves no
/// room for data.
pub(crate) fn cut(packet: &Packet, mtu: u32, random: &mut Random) -> Option<Vec<Vec<u8>>> {
    let as_received = match (packet.family(), packet.fragments.as_ref()) {
        (_, None) => mtu,
        (Family::V4, Some(f)) => f.largest,
        (Family::V6, Some(f)) => f.largest.max(MINIMUM_MTU6),
    };
    let mtu = mtu.min(as_received) as usize;
    match packet.family() {
        Family::V4 => cut4(packet, mtu),
        Family::V6 => cut6(packet, mtu, random),
    }
}

/// Payload sizes.
struct Pieces {
    sizes: Vec<usize>,
    /// The packet leaves in the fragments it arrived in.
    as_arrived: bool,
}

/// The fragments that the packet may leave in again: a copy shares them with the packet
/// itself, and is cut anew (`skb_shared` in `ip_do_fragment`).
fn as_arrived(packet: &Packet) -> Option<&Fragments> {
    packet.fragments.as_ref().filter(|_| !packet.is_copy)
}

/// As the packet arrived where that still fits, else as large as the link allows.
fn pieces(total: usize, room: usize, arrived: Option<&Fragments>) -> Option<Pieces> {
    if let Some(f) = arrived {
        let sizes: Vec<usize> = f.sizes.iter().map(|&s| usize::from(s)).collect();
        let last = sizes.len().saturating_sub(1);
        let fits = sizes
            .iter()
            .enumerate()
            .all(|(i, &s)| s <= room && (i == last || s % 8 == 0));
        if fits && sizes.iter().sum::<usize>() == total {
            return Some(Pieces {
                sizes,
                as_arrived: true,
            });
        }
    }
    let sizes = even_sizes(total, room)?;
    Some(Pieces {
        sizes,
        as_arrived: false,
    })
}

fn even_sizes(total: usize, room: usize) -> Option<Vec<usize>> {
    let step = room & !7;
    if step == 0 {
        return None;
    }
    let mut out = Vec::with_capacity(total / step + 1);
    let mut left = total;
    while left > room {
        out.push(step);
        left -= step;
    }
    out.push(left);
    Some(out)
}

fn cut4(packet: &Packet, mtu: usize) -> Option<Vec<Vec<u8>>> {
    let header = usize::from(packet.layout.l4);
    let (head, data) = packet.bytes.split_at_checked(header)?;
    let room = mtu.checked_sub(header)?;
    let Pieces { sizes, as_arrived } = pieces(data.len(), room, as_arrived(packet))?;
    // Only the slow path of `ip_do_fragment` keeps DF, and only for what arrived so.
    let keeps_df = !as_arrived && packet.fragments.as_ref().is_some_and(|f| f.dont_frag);
    let df = if keeps_df { 0x4000 } else { 0 };
    let mut out = Vec::with_capacity(sizes.len());
    let mut at = 0;
    let base = packet.layout.frag_off;
    for (i, &size) in sizes.iter().enumerate() {
        let mut bytes = head.to_vec();
        if i > 0 {
            blank_uncopied_options(&mut bytes);
        }
        bytes.extend_from_slice(data.get(at..at + size)?);
        let more = i + 1 < sizes.len() || packet.layout.more_frags;
        let offset = base + (at / 8) as u16;
        let word = offset | if more { 0x2000 } else { 0 } | df;
        put(&mut bytes, 2, &((header + size) as u16).to_be_bytes());
        put(&mut bytes, 6, &word.to_be_bytes());
        checksum::fix_ipv4(&mut bytes);
        out.push(bytes);
        at += size;
    }
    Some(out)
}

/// Options without the copy bit become no-ops in later fragments
/// (`ip_options_fragment`, RFC 791 3.1).
fn blank_uncopied_options(header: &mut [u8]) {
    let mut at = 20;
    while at < header.len() {
        match header[at] {
            0 => return,
            1 => at += 1,
            kind => {
                let len = usize::from(header.get(at + 1).copied().unwrap_or(0));
                if len < 2 || at + len > header.len() {
                    return;
                }
                if kind & 0x80 == 0 {
                    header[at..at + len].fill(1);
                }
                at += len;
            }
        }
    }
}

fn cut6(packet: &Packet, mtu: usize, random: &mut Random) -> Option<Vec<Vec<u8>>> {
    let (split, named_at) = fragmentable6(&packet.bytes)?;
    let (head, data) = packet.bytes.split_at_checked(split)?;
    let room = mtu.checked_sub(split + 8)?;
    let Pieces { sizes, .. } = pieces(data.len(), room, as_arrived(packet))?;
    let next = *head.get(named_at)?;
    let id = random.next().max(1);
    let mut out = Vec::with_capacity(sizes.len());
    let mut at = 0;
    for (i, &size) in sizes.iter().enumerate() {
        let mut bytes = head.to_vec();
        *bytes.get_mut(named_at)? = proto::FRAGMENT;
        let more = u16::from(i + 1 < sizes.len());
        bytes.extend_from_slice(&[next, 0]);
        bytes.extend_from_slice(&(at as u16 | more).to_be_bytes());
        bytes.extend_from_slice(&id.to_be_bytes());
        bytes.extend_from_slice(data.get(at..at + size)?);
        let payload = u16::try_from(bytes.len() - 40).ok()?;
        put(&mut bytes, 4, &payload.to_be_bytes());
        out.push(bytes);
        at += size;
    }
    Some(out)
}

/// Where the fragmentable part starts, and the offset of the byte naming its first
/// header (`ip6_find_1stfragopt`): after hop-by-hop options, a routing header, and
/// destination options in front of it.
fn fragmentable6(bytes: &[u8]) -> Option<(usize, usize)> {
    let (mut at, mut named_at) = (40, 6);
    let mut next = *bytes.get(6)?;
    let mut found_routing = false;
    loop {
        match next {
            proto::HOPOPTS => {}
            proto::ROUTING => found_routing = true,
            proto::DSTOPTS if !found_routing => {}
            _ => return Some((at, named_at)),
        }
        named_at = at;
        next = *bytes.get(at)?;
        at += (usize::from(*bytes.get(at + 1)?) + 1) * 8;
        if at > bytes.len() {
            return None;
        }
    }
}
