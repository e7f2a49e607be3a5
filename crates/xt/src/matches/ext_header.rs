//! What the matches on one IPv6 extension header share.

use tidegate_ir::{Cond, Field};

/// True when the packet has the header with its first `len` (1 to 16) bytes; without the
/// header false; a chain cut short before it, or in it, drops the packet on the spot.
pub(super) fn present(header: u8, len: u8) -> Vec<Cond> {
    let bytes = Field::Ext { header, at: 0, len };
    let whole = Cond::range(bytes, 0, u128::MAX);
    vec![
        Cond::DropWhen(Box::new(Cond::eq(Field::HasExt(header), 2))),
        Cond::eq(Field::HasExt(header), 1),
        Cond::DropWhen(Box::new(Cond::Not(Box::new(whole)))),
    ]
}
