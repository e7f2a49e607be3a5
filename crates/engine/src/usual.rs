//! The values that nearly all rules ask for, read once for all rules of a table.
//!
//! Where a value is to be had from depends on what it is, and the processor foresees such a
//! choice badly, for every test of every rule. A list knows where they are.

use tidegate_ir::Field;
use tidegate_wire::be16;

use crate::facts::state;
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
        let layout = &p.layout;
        let whole = layout.frag_off == 0;
        let l4 = if whole { p.l4() } else { &[] };
        let port = |at| be16(l4, at).map_or(0, u128::from);
        self.values = [
            p.src(),
            p.dst(),
            u128::from(layout.proto),
            u128::from(layout.frag_off),
            l4.len() as u128,
            port(0),
            port(2),
            l4.get(13).map_or(0, |&b| u128::from(b)),
            p.in_name,
            p.out_name,
            u128::from(p.mark),
            state(&p.tracking),
        ];
        let lacks = |field, lacks: bool| u32::from(lacks) << place(field);
        let absent = lacks(Field::Proto, layout.broken_chain)
            | lacks(Field::L4Len, !whole)
            | lacks(Field::Sport, l4.len() < 2)
            | lacks(Field::Dport, l4.len() < 4)
            | lacks(Field::TcpFlags, l4.len() < 14);
        self.present = READ | !absent;
    }
}
