//! The values that nearly all rules ask for, read once for all rules of a table.
//!
//! Where a value is to be had from depends on what it is, and the processor foresees such a
//! choice badly, for every test of every rule. A list knows where they are.

use tidegate_ir::Field;

use crate::facts::{state, transport};
use crate::packet::Packet;

/// How many they are.
const COUNT: usize = 12;

/// Their values, if they have been read.
#[derive(Debug)]
pub(crate) struct Usual {
    values: [u128; COUNT],
    /// A bit for each that the packet has; [`READ`] beside them.
    present: u32,
}

/// The values are those of the packet as it is.
const READ: u32 = 1 << 31;

/// Where the value of a field is; [`COUNT`] where it is none of these. They are the first of all
/// fields in that order, so that a number is all there is to it.
#[inline]
const fn place(field: Field) -> usize {
    match field {
        Field::Src => 0,
        Field::Dst => 1,
        Field::Proto => 2,
        Field::FragOff => 3,
        Field::L4Len => 4,
        Field::Sport => 5,
        Field::Dport => 6,
        Field::TcpFlags => 7,
        Field::InName => 8,
        Field::OutName => 9,
        Field::Mark => 10,
        Field::CtState => 11,
        _ => COUNT,
    }
}

impl Usual {
    /// None has been read.
    #[inline]
    pub(crate) const fn unread() -> Usual {
        Usual {
            values: [0; COUNT],
            present: 0,
        }
    }

    /// The packet may have changed.
    #[inline]
    pub(crate) fn forget(&mut self) {
        self.present = 0;
    }

    /// The value of a field of `packet`, which has not changed since the first was read; `None`
    /// where the field is none of these.
    #[inline]
    pub(crate) fn load(&mut self, field: Field, packet: &Packet) -> Option<Option<u128>> {
        let place = place(field);
        if place == COUNT {
            return None;
        }
        if self.present & READ == 0 {
            self.read(packet);
        }
        let there = self.present >> place & 1 != 0;
        Some(there.then_some(self.values[place]))
    }

    #[inline(never)]
    fn read(&mut self, p: &Packet) {
        let there = |value| Some(u128::from(value));
        let l4 = |field| transport(&p.bytes, &p.layout, field);
        let proto = there(u32::from(p.layout.proto)).filter(|_| !p.layout.broken_chain);
        // In the order of their places.
        let all = [
            Some(p.src()),
            Some(p.dst()),
            proto,
            there(p.layout.frag_off.into()),
            l4(Field::L4Len),
            l4(Field::Sport),
            l4(Field::Dport),
            l4(Field::TcpFlags),
            Some(p.in_name),
            Some(p.out_name),
            there(p.mark),
            Some(state(&p.tracking)),
        ];
        self.present = READ;
        for (place, value) in all.into_iter().enumerate() {
            self.values[place] = value.unwrap_or(0);
            self.present |= u32::from(value.is_some()) << place;
        }
    }
}
