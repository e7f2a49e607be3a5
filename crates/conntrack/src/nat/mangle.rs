//! Replacing text in the payload of a TCP segment or UDP datagram
//! (`nf_nat_mangle_tcp_packet`, `nf_nat_mangle_udp_packet`).

use alloc::vec::Vec;
use core::ops::Range;
use tidegate_wire::tcp::Tcp;
use tidegate_wire::{Family, Layout, be16, checksum, proto, put};

/// Largest packet there is.
const MAX_PACKET: usize = 65_535;

/// Replaces the payload bytes `range` of a TCP or UDP packet by `text`; the packet grows or
/// shrinks, its length fields and checksums follow. Returns the change of length.
///
/// `None`, and the packet unchanged, when it is no such packet with that payload or
/// would become larger than 65535 bytes.
pub fn replace_payload(
    pkt: &mut Vec<u8>,
    layout: &Layout,
    range: Range<usize>,
    text: &[u8],
) -> Option<i32> {
    let l4 = usize::from(layout.l4);
    let end = layout.len as usize;
    let header = match layout.proto {
        proto::TCP => Tcp::new(pkt.get(l4..end)?)?.header_len(),
        proto::UDP => pkt.get(l4..end)?.get(..8)?.len(),
        _ => return None,
    };
    let (from, to) = (l4 + header + range.start, l4 + header + range.end);
    if range.start > range.end || to > end {
        return None;
    }
    let diff = i32::try_from(text.len()).ok()? - i32::try_from(range.len()).ok()?;
    let new_len = end.checked_add_signed(diff as isize)?;
    if new_len > MAX_PACKET {
        return None;
    }
    pkt.truncate(end);
    pkt.splice(from..to, text.iter().copied());
    match layout.family {
        Family::V4 => checksum::replace_ipv4_word(pkt, 2, new_len as u16),
        Family::V6 => {
            put(pkt, 4, &((new_len - 40) as u16).to_be_bytes());
        }
    }
    if layout.proto == proto::UDP {
        put(pkt, l4 + 4, &((new_len - l4) as u16).to_be_bytes());
    }
    fix_checksum(pkt, layout);
    Some(diff)
}

/// Computes the transport checksum anew; UDP without one stays so.
fn fix_checksum(pkt: &mut [u8], layout: &Layout) {
    let udp = layout.proto == proto::UDP;
    let at = usize::from(layout.l4) + if udp { 6 } else { 16 };
    if udp && be16(pkt, at) == Some(0) {
        return;
    }
    put(pkt, at, &[0; 2]);
    let segment = pkt.get(usize::from(layout.l4)..).unwrap_or_default();
    let pseudo = checksum::pseudo(
        layout.family,
        layout.src(pkt),
        layout.dst(pkt),
        layout.proto,
        segment.len() as u32,
    );
    let check = match checksum::finish(pseudo, segment) {
        0 if udp => 0xffff,
        check => check,
    };
    put(pkt, at, &check.to_be_bytes());
}

#[cfg(test)]
mod tests;
