//! Any bytes as a packet: every offset a layout names must lie inside the packet.
#![no_main]

use libfuzzer_sys::fuzz_target;
use tidegate_wire::{parse, tcp};

fuzz_target!(|data: &[u8]| {
    if let Ok(layout) = parse(data) {
        assert!(layout.len as usize <= data.len());
        assert!(usize::from(layout.l4) <= data.len());
        let l4 = layout.l4(data);
        let _ = (layout.src(data), layout.dst(data), layout.ttl(data));
        if let Some(view) = tcp::Tcp::new(l4) {
            assert!(view.header_len() <= l4.len());
            for (_, at, value) in tcp::Options::new(view.options()) {
                assert!(at + 2 + value.len() <= view.options().len());
            }
        }
    }
});
