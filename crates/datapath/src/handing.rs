//! Packets for sockets that they are not addressed to (TPROXY), and those that the host's
//! routing rules bring to its sockets by their mark: a program (`tidegate_ebpf::handing`)
//! sees what is let in and reads from a table what is to be done with it.

use std::collections::HashMap;
use std::fmt;

use anyhow::{Context, Result, anyhow};
use aya::maps::{self, MapData};
use aya::programs::SchedClassifier;
use aya::programs::links::FdLink;
use aya::{Ebpf, EbpfLoader};
use tidegate_ebpf::handing::{GIFT, GIVEN, Gift, KEY, MOST, NAME, key, program};
use tidegate_engine::Engine;
use tidegate_wire::{be16, parse, proto};

use crate::fast::{link, map};

type Key = [u8; KEY];

/// How many make room at once. A flow that goes on without its gift is told again by its next
/// packet.
const ROOM: usize = 64;

/// The loop's part.
pub(crate) struct Gifts {
    table: maps::HashMap<MapData, Key, [u8; GIFT]>,
    /// What is in the table.
    told: HashMap<Key, Gift>,
}

/// Puts the program to work on interfaces.
pub(crate) struct Giver(Ebpf);

impl fmt::Debug for Giver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Giver").finish_non_exhaustive()
    }
}

/// Loads the program and its table.
///
/// # Errors
/// The kernel is too old, or a right is missing.
pub(crate) fn start() -> Result<(Giver, Gifts)> {
    let object = tidegate_ebpf::object(vec![program()], &[&GIVEN]).context("a program")?;
    let mut loaded = EbpfLoader::new()
        .load(&object)
        .context("the kernel does not take the table of packets for other sockets")?;
    classifier(&mut loaded)?
        .load()
        .context("the kernel does not take the program that hands packets to sockets")?;
    let table = maps::HashMap::try_from(map(&mut loaded, GIVEN.name)?)?;
    let gifts = Gifts {
        table,
        told: HashMap::new(),
    };
    Ok((Giver(loaded), gifts))
}

fn classifier(loaded: &mut Ebpf) -> Result<&mut SchedClassifier> {
    let program = loaded.program_mut(NAME);
    Ok(program
        .ok_or_else(|| anyhow!("no program {NAME}"))?
        .try_into()?)
}

impl Giver {
    /// For what comes in by `device`, where packets are let in, until the link goes.
    ///
    /// # Errors
    /// The kernel is too old (Linux 6.6).
    pub(crate) fn attach(&mut self, device: &str) -> Result<FdLink> {
        let program = classifier(&mut self.0)?;
        link(program, device, aya::programs::TcAttachType::Ingress)
    }
}

impl Gifts {
    /// A packet is about to be let in: one for a socket that it is not addressed to, or for
    /// an address that is not this host's, needs the program.
    pub(crate) fn let_in(
        &mut self,
        engine: &Engine,
        packet: &[u8],
        mark: u32,
        socket: Option<(u128, u16)>,
    ) {
        // As a rule there is nothing to do.
        if self.told.is_empty() && mark == 0 && socket.is_none() {
            return;
        }
        let Some((key, foreign)) = ends(engine, packet) else {
            return;
        };
        let gift = (socket.is_some() || mark != 0 && foreign).then_some(Gift { mark, socket });
        if self.told.get(&key) == gift.as_ref() {
            return;
        }
        match gift {
            Some(gift) => self.tell(key, gift),
            None => self.forget(&key),
        }
    }

    fn tell(&mut self, key: Key, gift: Gift) {
        if self.told.len() >= MOST {
            let some: Vec<Key> = self.told.keys().take(ROOM).copied().collect();
            some.iter().for_each(|old| self.forget(old));
        }
        // Without it the kernel decides alone, and has no socket for the packet.
        if self.table.insert(key, gift.bytes(), 0).is_ok() {
            self.told.insert(key, gift);
        }
    }

    fn forget(&mut self, key: &Key) {
        // Gone is what it was to be.
        let _ = self.table.remove(key);
        self.told.remove(key);
    }
}

/// The key of a TCP or UDP packet, and whether it is for an address of another host.
fn ends(engine: &Engine, packet: &[u8]) -> Option<(Key, bool)> {
    let layout = parse(packet).ok()?;
    if !matches!(layout.proto, proto::TCP | proto::UDP) || layout.frag_off != 0 {
        return None;
    }
    let l4 = layout.l4(packet);
    let (src, dst) = (layout.src(packet), layout.dst(packet));
    let key = key(layout.proto, (src, be16(l4, 0)?), (dst, be16(l4, 2)?));
    Some((key, !engine.env().is_local(layout.family, dst)))
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use tidegate_sys::Namespace;

    use super::*;

    /// The table stays as full as it may be, and holds what is remembered.
    #[test]
    fn a_full_table_makes_room_for_some() {
        let run = || {
            let Ok((_giver, mut gifts)) = start() else {
                let _ = writeln!(std::io::stderr(), "SKIPPED: programs cannot be loaded here");
                return Ok(());
            };
            let gift = Gift {
                mark: 1,
                socket: None,
            };
            let of = |i: usize| key(proto::UDP, (i as u128, 1), (2, 3));
            (0..MOST + 1).for_each(|i| gifts.tell(of(i), gift));
            assert_eq!(gifts.told.len(), MOST + 1 - ROOM);
            assert_eq!(gifts.told.get(&of(MOST)), Some(&gift));
            let there = gifts.table.keys().filter_map(Result::ok);
            assert_eq!(
                there.filter(|k| gifts.told.contains_key(k)).count(),
                gifts.told.len()
            );
            assert_eq!(gifts.table.keys().count(), gifts.told.len());
            Ok(())
        };
        let Ok(place) = Namespace::new() else {
            let _ = writeln!(
                std::io::stderr(),
                "SKIPPED: no network namespace can be made here"
            );
            return;
        };
        place.run(run).unwrap();
    }
}
