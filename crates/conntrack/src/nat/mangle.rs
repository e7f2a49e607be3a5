//! Replacing text in the payload of a TCP segment (`nf_nat_mangle_tcp_packet`).

use alloc::vec::Vec;
use core::ops::Range;
use tidegate_wire::tcp::Tcp;
use tidegate_wire::{Family, Layout, checksum, proto, put};

/// Largest packet there is.
const MAX_PACKET: usize = 65_535;

/// Replaces the payload bytes `range` of a TCP packet by `text`; the packet grows or
/// shrinks, its length fields and checksums follow. Returns the change of length.
///
/// `None`, and the packet unchanged, when it is no TCP packet with that payload or
/// would become larger than 65535 bytes.
pub fn replace_payload(
    pkt: &mut Vec<u8>,
    layout: &Layout,
    range: Range<usize>,
    text: &[u8],
) -> Option<i32> {
    let l4 = usize::from(layout.l4);
    let end = layout.len as usize;
    let header = Tcp::new(pkt.get(l4..end)?)?.header_len();
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
    fix_tcp_checksum(pkt, layout);
    Some(diff)
}

fn fix_tcp_checksum(pkt: &mut [u8], layout: &Layout) {
    let l4 = usize::from(layout.l4);
    put(pkt, l4 + 16, &[0; 2]);
    let segment = layout.l4(pkt);
    let pseudo = checksum::pseudo(
        layout.family,
        layout.src(pkt),
        layout.dst(pkt),
        proto::TCP,
        segment.len() as u32,
    );
    let check = checksum::finish(pseudo, segment);
    put(pkt, l4 + 16, &check.to_be_bytes());
}

#[cfg(test)]
mod tests;
