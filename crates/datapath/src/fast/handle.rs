//! The handles of the table: the loop's and the tracker's.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tidegate_ebpf::fast::known;
use tidegate_ebpf::layout::{self, Fate, global};
use tidegate_engine::conntrack::elsewhere::{Elsewhere, Seen};
use tidegate_engine::conntrack::{Entry, Time};
use tidegate_engine::env::IfIndex;
use tidegate_engine::{Engine, Goes};

use super::table::{Hop, SWEEP, Table};
use crate::neighbour::Neighbours;
use crate::port::End;

/// The loop's handle of the fast path.
#[derive(Debug, Clone)]
pub(crate) struct Fast {
    table: Arc<Mutex<Table>>,
    swept: Time,
}

/// The tracker's.
#[derive(Debug)]
struct Shared(Arc<Mutex<Table>>);

fn lock(table: &Mutex<Table>) -> MutexGuard<'_, Table> {
    table.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Elsewhere for Shared {
    fn look(&mut self, place: u32, entry: &Entry, back: bool) -> Seen {
        lock(&self.0).look(place, entry, back)
    }
}

impl Fast {
    /// Connects the tables with the engine.
    pub(crate) fn new(table: Table, engine: &mut Engine) -> Self {
        let table = Arc::new(Mutex::new(table));
        engine.set_elsewhere(Box::new(Shared(Arc::clone(&table))));
        let fast = Fast { table, swept: 0 };
        fast.follow(engine);
        fast
    }

    /// Tells the programs what has changed for all connections.
    pub(crate) fn follow(&self, engine: &Engine) {
        let table = &mut *lock(&self.table);
        let globals = &table.kernel.globals;
        let epoch = engine.epoch() + 1;
        if globals.load(global::EPOCH) != epoch {
            globals.store(global::EPOCH, epoch);
            // No way that is told of them holds any more.
            table.hops.clear(&table.kernel.hops);
        }
        let verify = u64::from(engine.conntrack().config().checksum);
        globals.store(global::VERIFY, verify);
    }

    /// The engine has decided a packet: perhaps more of its flow can be left to the
    /// programs. `ends` knows the interfaces that have them.
    pub(crate) fn offer(
        &self,
        engine: &mut Engine,
        neighbours: &Neighbours,
        ends: impl Fn(IfIndex) -> Option<End>,
    ) {
        let Ok(offer) = engine.offer() else {
            return;
        };
        let Some(from) = ends(offer.comes.dev()) else {
            return;
        };
        let table = &mut *lock(&self.table);
        let Goes::Out { dev, next_hop } = offer.goes else {
            let on = layout::Goes::On;
            return table.offer(&offer, on, Hop::default(), engine.epoch());
        };
        let Some(to) = ends(dev) else {
            return;
        };
        let next = (dev, offer.before.family, next_hop);
        let words = &table.kernel.hops;
        let place = (to.resolves).then(|| table.hops.place(words, next, to.mac, neighbours));
        let hop = Hop {
            place: place.flatten(),
            early: (from.early && to.takes).then_some(from.mac),
        };
        let goes = layout::Goes::Out {
            dev: dev.0,
            next_hop,
            mtu: to.mtu,
        };
        table.offer(&offer, goes, hop, engine.epoch());
    }

    /// Neighbours' addresses have changed.
    pub(crate) fn follow_neighbours(&self, neighbours: &Neighbours) {
        let table = &mut *lock(&self.table);
        table.hops.follow(&table.kernel.hops, neighbours);
    }

    /// This host's own Ethernet address in a frame that came up; when the program has put the
    /// frame's connection there, it is counted and `true` is returned.
    pub(crate) fn came_up(&self, address: [u8; 6]) -> bool {
        let mut table = lock(&self.table);
        let known = known(&table.kernel.secrets, address);
        if let Some((place, dir)) = known {
            table.seen(place, dir);
        }
        known.is_some()
    }

    /// So many frames have been sent to sockets of this host, where a program counts them.
    pub(crate) fn let_in(&self, frames: u64) {
        lock(&self.table).inward.count(frames);
    }

    /// So many frames have come from sockets of this host, where a program has counted them.
    pub(crate) fn came_from_sockets(&self, frames: u64) {
        if frames > 0 {
            lock(&self.table).upward.count(frames);
        }
    }

    /// Whether it would be good to know if any socket has something.
    pub(crate) fn is_curious(&self) -> bool {
        lock(&self.table).fresh
    }

    /// Whether programs have all connections that have been offered to them.
    pub(crate) fn is_settled(&self) -> bool {
        lock(&self.table).is_settled()
    }

    /// Everything that has been decided was sent; `idle`: and nothing waits in the sockets.
    pub(crate) fn hand_over(&self, engine: &mut Engine, idle: bool) {
        let gone = lock(&self.table).hand_over(engine, idle);
        for (id, place) in gone {
            engine.entrust(id, place);
        }
    }

    /// What is to be done now and then.
    pub(crate) fn sweep(&mut self, engine: &mut Engine, neighbours: &mut Neighbours, now: Time) {
        if now.saturating_sub(self.swept) < SWEEP {
            return;
        }
        self.swept = now;
        let silent = {
            let table = &mut *lock(&self.table);
            table.hops.used(&table.kernel.hops, neighbours, now);
            table.sweep(engine, now)
        };
        for place in silent {
            engine.look_at(place);
        }
    }

    /// What became of packets at the programs.
    pub(crate) fn fates(&self) -> Vec<(Fate, u64)> {
        lock(&self.table).fates()
    }
}
