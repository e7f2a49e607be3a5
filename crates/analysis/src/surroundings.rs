//! Where addresses are: what routing would say, as intervals.

use tidegate_ir::Field;

use crate::bdd::{Set, TooBig};
use crate::lens::Bound;
use crate::space::Space;

/// Where packets to an address go.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Goes {
    /// To this host.
    Here,
    /// Out of the interface of this name, as a number.
    Out(u128),
    /// Nowhere.
    Nowhere,
}

/// Addresses that routing treats alike.
#[derive(Clone, Copy, Debug)]
pub struct Area {
    /// First address.
    pub first: u128,
    /// Last address.
    pub last: u128,
    /// Where packets to them go.
    pub goes: Goes,
    /// Their type (`RTN_*`), as rules ask for it.
    pub kind: u128,
}

/// What is known about the host that rules are for.
#[derive(Clone, Debug, Default)]
pub struct Surroundings {
    /// All addresses, in ascending order, without gaps.
    pub areas: Vec<Area>,
    /// Whether packets are routed onwards.
    pub forwards: bool,
    /// Whether packets must come from where packets to their sender go.
    pub strict: bool,
    /// Names of interfaces, as numbers, loopback not among them.
    pub interfaces: Vec<u128>,
    /// Own addresses of interfaces.
    pub own: Vec<(u128, u128)>,
}

impl Surroundings {
    /// The area of an address.
    #[must_use]
    pub fn area(&self, address: u128) -> Option<&Area> {
        let after = self.areas.partition_point(|a| a.first <= address);
        self.areas.get(after.checked_sub(1)?)
    }

    /// The one area that all addresses are in that some bits of another address leave open.
    pub(crate) fn around(&self, address: Bound) -> Option<&Area> {
        let Bound::Of { keep, xor, .. } = address else {
            return None;
        };
        let area = self.area(xor & !keep)?;
        (xor | keep <= area.last).then_some(area)
    }

    /// Intervals that questions about this host tell apart.
    #[must_use]
    pub fn questions(&self) -> Vec<(Field, u128, u128)> {
        let mut all = Vec::new();
        for area in &self.areas {
            all.push((Field::Src, area.first, area.last));
            all.push((Field::Dst, area.first, area.last));
            if let Goes::Out(name) = area.goes {
                all.push((Field::InName, name, name));
                all.push((Field::OutName, name, name));
            }
        }
        for name in &self.interfaces {
            all.push((Field::InName, *name, *name));
            all.push((Field::OutName, *name, *name));
        }
        all
    }

    /// Packets whose addresses have the types that routing says.
    ///
    /// # Errors
    /// The limit is reached.
    pub fn typed(&self, space: &mut Space) -> Result<Set, TooBig> {
        let mut all = Set::ALL;
        for (field, kind) in [(Field::Src, Field::SrcType), (Field::Dst, Field::DstType)] {
            if !space.has(kind) {
                continue;
            }
            let mut sound = Set::EMPTY;
            for area in &self.areas {
                let addresses = space.within(field, area.first, area.last)?;
                let kind = space.within(kind, area.kind, area.kind)?;
                let one = space.bdd.and(addresses, kind)?;
                sound = space.bdd.or(sound, one)?;
            }
            all = space.bdd.and(all, sound)?;
        }
        Ok(all)
    }

    /// Packets that this host can have received or sent: types of addresses are right, senders
    /// of received ones are others and come from where they are.
    ///
    /// # Errors
    /// The limit is reached.
    pub fn possible(&self, space: &mut Space, received: bool) -> Result<Set, TooBig> {
        let mut all = self.typed(space)?;
        if !received {
            return Ok(all);
        }
        let mut from = Set::EMPTY;
        for area in &self.areas {
            let mut one = space.within(Field::Src, area.first, area.last)?;
            match area.goes {
                Goes::Here => continue,
                Goes::Out(name) if self.strict => {
                    let by = space.within(Field::InName, name, name)?;
                    one = space.bdd.and(one, by)?;
                }
                Goes::Nowhere if self.strict => continue,
                Goes::Out(_) | Goes::Nowhere => {}
            }
            from = space.bdd.or(from, one)?;
        }
        all = space.bdd.and(all, from)?;
        if !self.interfaces.is_empty() {
            let mut names = Set::EMPTY;
            for name in &self.interfaces {
                let one = space.within(Field::InName, *name, *name)?;
                names = space.bdd.or(names, one)?;
            }
            all = space.bdd.and(all, names)?;
        }
        Ok(all)
    }
}
