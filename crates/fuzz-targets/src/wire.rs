//! Any bytes as a packet.

use tidegate_wire::{Family, Layout, checksum, parse, parse_embedded, proto, tcp};

/// Every offset that a layout names lies inside the packet, TCP options end where the
/// header does, and incremental checksums agree with whole ones.
pub fn wire(data: &[u8]) {
    if let Ok(layout) = parse(data) {
        offsets(&layout, data);
        assert!(layout.len as usize <= data.len());
        let packet = &data[..layout.len as usize];
        assert_eq!(parse(packet), Ok(layout), "padding changes the layout");
        rewrite(packet);
    }
    for family in [Family::V4, Family::V6] {
        if let Some(layout) = parse_embedded(family, data) {
            offsets(&layout, data);
            assert!(layout.has_l4());
        }
    }
}

fn offsets(layout: &Layout, data: &[u8]) {
    assert!(usize::from(layout.l4) <= data.len());
    assert!(usize::from(layout.proto_at) < data.len());
    assert!(layout.ttl_at() < data.len());
    assert_eq!(data[usize::from(layout.proto_at)], layout.proto);
    if layout.frag_hdr != 0 {
        assert!(usize::from(layout.frag_hdr) + 8 <= data.len());
        assert!(layout.frag_hdr + 8 <= layout.l4);
    }
    let _ = (layout.src(data), layout.dst(data), layout.ttl(data));
    let l4 = layout.l4(data);
    let Some(segment) = tcp::Tcp::new(l4).filter(|_| layout.proto == proto::TCP) else {
        return;
    };
    assert!(segment.header_len() <= l4.len());
    assert_eq!(segment.header_len() + segment.payload().len(), l4.len());
    for (_, at, value) in tcp::Options::new(segment.options()) {
        assert!(at + 2 + value.len() <= segment.options().len());
    }
}

/// An IPv4 packet with another address and length word has the checksum that the whole
/// header gives.
fn rewrite(packet: &[u8]) {
    if packet[0] >> 4 != 4 {
        return;
    }
    let mut changed = packet.to_vec();
    checksum::replace_ipv4_addr(&mut changed, 12, 0x0a00_0001);
    checksum::replace_ipv4_word(&mut changed, 4, 0xbeef);
    let header = &changed[..usize::from(packet[0] & 15) * 4];
    assert_eq!(checksum::fold(checksum::sum(header)), 0xffff);
}
