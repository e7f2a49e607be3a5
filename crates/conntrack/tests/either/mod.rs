//! Packets by the short way or by the long one, drawn at random.

use tidegate_conntrack::{Conntrack, InHook, Tracked};
use tidegate_wire::Layout;

/// The same numbers from the same seed.
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn below(&mut self, n: usize) -> usize {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % n
    }
}

/// What tracking says of a packet, `short`: by the short way, where there is one, and whether its
/// layout has been told; and whether there was.
pub(crate) fn track(
    ct: &mut Conntrack,
    now: u64,
    (bytes, layout): (&[u8], &Layout),
    short: Option<bool>,
) -> (Tracked, bool) {
    let gone_on = short.and_then(|told| ct.go_on(now, (bytes, layout), told));
    let tracked = match gone_on {
        Some(attached) => Tracked::Ct(attached),
        None => ct.handle_packet(now, bytes, layout, InHook::Prerouting, None),
    };
    (tracked, gone_on.is_some())
}
