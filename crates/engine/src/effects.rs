//! What effects do to a packet and its connection.

use tidegate_ir::{Expr, Field, Mss};
use tidegate_wire::{Family, be16, checksum, proto, put, tcp, tcp::Tcp, tcp::flags};

use crate::packet::Packet;

/// Writes a packet field; connection fields are the caller's. The new value is
/// computed from the old by `expr`.
pub(crate) fn assign_packet(packet: &mut Packet, field: Field, expr: Expr, other: u128) {
    match field {
        Field::Mark => packet.mark = expr.apply(u128::from(packet.mark), other) as u32,
        Field::Priority => {
            packet.priority = expr.apply(u128::from(packet.priority), other) as u32;
        }
        Field::Tos => {
            let new = expr.apply(u128::from(packet.tos()), other) as u8;
            packet.set_tos(new);
        }
        Field::Ttl => {
            let new = expr.apply(u128::from(packet.ttl()), other) as u8;
            if new != packet.ttl() {
                packet.set_ttl(new);
            }
        }
        _ => {}
    }
}

/// Rewrites or adds the MSS option (`tcpmss_mangle_packet`). `path_mtu` is the
/// smaller of both directions' MTUs. `Err` when the packet is to be dropped.
pub(crate) fn clamp_mss(packet: &mut Packet, mss: Mss, path_mtu: u32) -> Result<(), ()> {
    if packet.layout.proto != proto::TCP || packet.layout.frag_off != 0 {
        return Ok(());
    }
    let l4_at = usize::from(packet.layout.l4);
    let Some(view) = Tcp::new(packet.l4()) else {
        return Err(());
    };
    let headers = match packet.family() {
        Family::V4 => 40,
        Family::V6 => 60,
    };
    let wanted = match mss {
        Mss::Set(n) => n,
        Mss::ClampToPathMtu => u16::try_from(path_mtu.saturating_sub(headers)).unwrap_or(u16::MAX),
    };
    if mss == Mss::ClampToPathMtu && path_mtu <= headers {
        return Err(());
    }
    let found = find_mss(view.options());
    let header_len = view.header_len();
    let has_payload = !view.payload().is_empty();
    let syn = view.flags() & flags::SYN != 0;
    match found {
        Some(at) => {
            let at = l4_at + 20 + at;
            let old = be16(&packet.bytes, at + 2).unwrap_or(0);
            if old > wanted {
                replace_l4_word(packet, at + 2, wanted);
            }
            Ok(())
        }
        None if !syn || has_payload || header_len >= 60 => Ok(()),
        None => {
            let limit = match packet.family() {
                Family::V4 => 536,
                Family::V6 => 1220,
            };
            insert_mss(packet, l4_at, wanted.min(limit));
            Ok(())
        }
    }
}

/// Offset of a well-formed MSS option.
fn find_mss(options: &[u8]) -> Option<usize> {
    let mut at = 0;
    while at + 4 <= options.len() {
        match options[at] {
            tcp::option::MSS if options[at + 1] == 4 => return Some(at),
            tcp::option::EOL | tcp::option::NOP => at += 1,
            _ => at += usize::from(options[at + 1]).max(1),
        }
    }
    None
}

fn replace_l4_word(packet: &mut Packet, at: usize, new: u16) {
    let check_at = usize::from(packet.layout.l4) + 16;
    let (Some(old), Some(check)) = (be16(&packet.bytes, at), be16(&packet.bytes, check_at)) else {
        return;
    };
    // An option may start at an odd offset; the sum then sees swapped bytes.
    let odd = (at - usize::from(packet.layout.l4)) % 2 == 1;
    let fix = |v: u16| if odd { v.swap_bytes() } else { v };
    put(&mut packet.bytes, at, &new.to_be_bytes());
    let check = checksum::update16(check, fix(old), fix(new));
    put(&mut packet.bytes, check_at, &check.to_be_bytes());
}

/// Inserts an MSS option in front of all others and repairs lengths and checksums.
fn insert_mss(packet: &mut Packet, l4_at: usize, mss: u16) {
    let option = [tcp::option::MSS, 4, (mss >> 8) as u8, mss as u8];
    packet.bytes.splice(l4_at + 20..l4_at + 20, option);
    let words = (packet.bytes[l4_at + 12] >> 4) + 1;
    packet.bytes[l4_at + 12] = words << 4 | (packet.bytes[l4_at + 12] & 0x0f);
    let len_at = match packet.family() {
        Family::V4 => 2,
        Family::V6 => 4,
    };
    let len = be16(&packet.bytes, len_at).unwrap_or(0).wrapping_add(4);
    put(&mut packet.bytes, len_at, &len.to_be_bytes());
    if packet.family() == Family::V4 {
        checksum::fix_ipv4(&mut packet.bytes);
    }
    let (src, dst, family) = (packet.src(), packet.dst(), packet.family());
    let l4 = &mut packet.bytes[l4_at..];
    l4[16..18].fill(0);
    let extra = checksum::pseudo(family, src, dst, proto::TCP, l4.len() as u32);
    let check = checksum::finish(extra, l4);
    l4[16..18].copy_from_slice(&check.to_be_bytes());
    packet.reparse();
}
