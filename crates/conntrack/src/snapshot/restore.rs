//! A table out of a snapshot.

use alloc::collections::{BTreeMap, BTreeSet};
use alloc::vec::Vec;

use super::helped::Memory;
use super::older::OlderOf;
use super::record::{Stored, StoredEntry, StoredExpectation};
use super::{Records, Snapshot};
use crate::entry::{Entry, EntryId, ProtoState, Status, TcpConn, TcpSide, TcpState, tcp_flag};
use crate::helper::{HelperKind, HelperState};
use crate::tuple::Dir;
use crate::{Conntrack, Family, Time};

/// What became of a snapshot.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Restored {
    /// Connections that are back.
    pub connections: u32,
    /// Expectations that are back.
    pub expectations: u32,
    /// Connections and expectations whose time has run out since.
    pub expired: u32,
    /// Connections and expectations for which there was no room.
    pub full: u32,
    /// Connections and expectations whose place has been taken since, or, of two with one
    /// tuple, the one written first.
    pub taken: u32,
    /// Expectations whose connection is not back.
    pub orphaned: u32,
    /// IPv4 and IPv6: whether connections are back.
    pub families: [bool; 2],
    /// IPv4 and IPv6: whether translated connections are back.
    pub translated: [bool; 2],
}

/// Why something is not restored.
#[derive(Clone, Copy)]
enum Left {
    Expired,
    Full,
    Taken,
    Orphaned,
}

impl Restored {
    fn left(&mut self, why: Left) {
        let count = match why {
            Left::Expired => &mut self.expired,
            Left::Full => &mut self.full,
            Left::Taken => &mut self.taken,
            Left::Orphaned => &mut self.orphaned,
        };
        *count += 1;
    }
}

/// What is known while a snapshot is restored.
struct Run<'a> {
    now: Time,
    /// Nanoseconds since it was written.
    elapsed: u64,
    snapshot: &'a Snapshot<'a>,
    /// Entries that were there before.
    live: BTreeSet<EntryId>,
    /// Restored entries that others refer to, by their old numbers.
    masters: BTreeMap<u64, EntryId>,
    /// Restored entries with the old numbers of their masters.
    children: Vec<(EntryId, u64)>,
    report: Restored,
}

impl Conntrack {
    /// Puts back what a snapshot holds, at `now`, which is `wall` nanoseconds after 1970.
    /// What has run out meanwhile, or whose place is taken, is left out; entries that are
    /// there stay. No events are recorded.
    ///
    /// Nobody knows what TCP has sent meanwhile: restored connections learn their windows
    /// from the next segments of both sides, like one picked up in mid-stream, and keep
    /// their state.
    pub fn restore(&mut self, now: Time, wall: u64, snapshot: &Snapshot<'_>) -> Restored {
        let mut run = Run {
            now,
            elapsed: wall.saturating_sub(snapshot.written),
            snapshot,
            live: self.slab.iter().map(|(id, _)| id).collect(),
            masters: BTreeMap::new(),
            children: Vec::new(),
            report: Restored::default(),
        };
        let mut expectations = Vec::new();
        let mut last = None;
        let mut records = Records::of(snapshot.records, true);
        // The snapshot has been read once: it has no damage, and an end.
        while let Ok(stored) = records.next() {
            match stored {
                Stored::Connection(c) => last = self.restore_entry(&mut run, *c),
                Stored::Policy(name) => self.restore_policy(last, &name),
                Stored::Proxied(proxied) => {
                    if let Some(entry) = last.and_then(|id| self.slab.get_mut(id)) {
                        entry.extra_mut().proxied = Some(proxied);
                    }
                }
                Stored::Helped(memory) => self.restore_helped(last, &memory),
                Stored::Older(older) => self.restore_older(last, older),
                Stored::Expectation(e) => expectations.push(e),
                Stored::End { .. } => break,
            }
        }
        self.find_masters(&run);
        for e in expectations {
            match self.restore_expectation(&run, *e) {
                Ok(()) => run.report.expectations += 1,
                Err(why) => run.report.left(why),
            }
        }
        run.report
    }

    /// What a connection's helper remembers, if it is still one of that kind.
    fn restore_helped(&mut self, id: Option<EntryId>, memory: &Memory) {
        let kinds: &[HelperKind] = match memory.state {
            HelperState::Sip(_) => &[HelperKind::Sip],
            HelperState::H323(_) => &[HelperKind::Ras, HelperKind::Q931, HelperKind::H245],
            HelperState::SaneAsked => &[HelperKind::Sane],
            HelperState::Pptp(_) => &[HelperKind::Pptp],
            HelperState::None | HelperState::Ftp(_) => &[],
        };
        let Some(id) = id else { return };
        let entry = self.slab.get_mut(id);
        if let Some(entry) = entry.filter(|e| e.helper.is_some_and(|h| kinds.contains(&h))) {
            entry.extra_mut().helper = memory.state;
            if memory.tunnel {
                self.restore_tunnel(id);
            }
        }
    }

    fn restore_older(&mut self, id: Option<EntryId>, older: OlderOf) {
        let entry = id.and_then(|id| self.slab.get_mut(id));
        let extra = entry.and_then(|e| e.extra.as_mut());
        if let Some(seqadj) = extra.and_then(|x| x.seqadj.as_mut()) {
            let way = &mut seqadj.dirs[older.dir.ix()];
            for correction in older.corrections {
                way.remember(correction);
            }
        }
    }

    /// The policy that has this name now, whatever it says.
    fn restore_policy(&mut self, id: Option<EntryId>, name: &str) {
        let policy = self.config.policies.by_name(name).map(|(id, _)| id);
        if let (Some(policy), Some(entry)) = (policy, id.and_then(|id| self.slab.get_mut(id))) {
            entry.extra_mut().policy = Some(policy);
        }
    }

    fn restore_entry(&mut self, run: &mut Run<'_>, stored: StoredEntry) -> Option<EntryId> {
        let (old, master) = (stored.id, stored.master);
        let entry = run.present(stored);
        let outcome = entry.ok_or(Left::Expired).and_then(|e| self.admit(run, e));
        let id = match outcome {
            Ok(id) => id,
            Err(why) => {
                run.report.left(why);
                return None;
            }
        };
        run.report.connections += 1;
        if run.snapshot.masters.contains(&old) {
            run.masters.insert(old, id);
        }
        run.children.extend(master.map(|m| (id, m)));
        Some(id)
    }

    /// Puts an entry with its deadline into the table.
    fn admit(&mut self, run: &mut Run<'_>, mut entry: Entry) -> Result<EntryId, Left> {
        entry.watched = self.config.events;
        let (tuples, zone) = (entry.tuples, entry.zone);
        let hash = Dir::BOTH.map(|d| self.table.hash(entry.tuple(d), zone.id_for(d)));
        for (tuple, hash) in tuples.iter().zip(hash) {
            let Some((other, _)) = self.table.find(&self.slab, tuple, zone, hash, |_| false) else {
                continue;
            };
            if run.live.contains(&other) {
                return Err(Left::Taken);
            }
            // Written earlier, it ended while the snapshot was being written.
            self.delete(other);
            self.reap();
            run.report.connections -= 1;
            run.report.left(Left::Taken);
        }
        if self.full(1) {
            return Err(Left::Full);
        }
        let family = usize::from(tuples[0].family == Family::V6);
        run.report.families[family] = true;
        run.report.translated[family] |= entry.status.has(Status::NAT_MASK);
        let (deadline, source) = (entry.timeout, entry.status.has(Status::SRC_NAT_DONE));
        let id = self.slab.insert(entry, hash[0]);
        self.count += 1;
        for dir in Dir::BOTH {
            self.table
                .link(&mut self.slab, id.index, dir, hash[dir.ix()]);
        }
        self.wheel.arm(&mut self.slab, id.index, deadline, run.now);
        self.registers(id, true);
        if self.config.blocks.size > 0 {
            self.hold_again(id);
        }
        if source {
            let zone_id = zone.id_for(Dir::Original);
            self.by_source
                .insert(&self.table, id.index, &tuples[0], zone_id);
        }
        Ok(id)
    }

    fn find_masters(&mut self, run: &Run<'_>) {
        for &(child, old) in &run.children {
            let Some(&master) = run.masters.get(&old) else {
                continue;
            };
            let Some(entry) = self.slab.get_mut(master) else {
                continue;
            };
            let children = &mut entry.extra_mut().children;
            *children = children.saturating_add(1);
            let child = self.slab.get_mut(child).and_then(|e| e.extra.as_mut());
            if let Some(m) = child.and_then(|extra| extra.master.as_mut()) {
                m.id = master;
            }
        }
    }

    fn restore_expectation(&mut self, run: &Run<'_>, e: StoredExpectation) -> Result<(), Left> {
        let left = e.life.checked_sub(run.elapsed).filter(|&l| l > 0);
        let mut expectation = e.expectation;
        expectation.timeout = run.now.saturating_add(left.ok_or(Left::Expired)?);
        let master = run.masters.get(&e.master).ok_or(Left::Orphaned)?;
        expectation.master = *master;
        if self.slab.get(*master).is_none() {
            return Err(Left::Orphaned);
        }
        if self.expectations.len() >= self.config.expect_max as usize {
            return Err(Left::Full);
        }
        self.expect_again(expectation).map_err(|_| Left::Taken)
    }
}

impl Run<'_> {
    /// The entry with absolute times; `None` when it has run out.
    fn present(&self, stored: StoredEntry) -> Option<Entry> {
        let left = stored.life.checked_sub(self.elapsed).filter(|&l| l > 0)?;
        let mut entry = stored.entry;
        entry.timeout = self.now.saturating_add(left);
        // What this clock showed when the snapshot was written.
        let base = i128::from(self.now) - i128::from(self.elapsed);
        let moment = |offset: i64| {
            let at = base + i128::from(offset);
            at.clamp(0, Time::MAX.into()) as Time
        };
        if let Some(age) = stored.age {
            entry.extra_mut().start = Some(moment(age.saturating_neg()));
        }
        match &mut entry.proto {
            ProtoState::Udp { stream_ts } => *stream_ts = moment(stored.stream_in),
            ProtoState::Tcp(tcp) => *tcp = relearnt(*tcp),
            ProtoState::Sctp(_) | ProtoState::Gre { .. } | ProtoState::Stateless => {}
        }
        Some(entry)
    }
}

/// The same with both sides' windows to be learnt from their next segments (`tcp_new` of a connection
/// in mid-stream). Before the answer to its SYN nothing about a connection can have moved.
pub(crate) fn relearnt(mut tcp: TcpState) -> TcpState {
    const KEPT: u8 = tcp_flag::WINDOW_SCALE | tcp_flag::SACK_PERM | tcp_flag::CLOSE_INIT;
    for side in &mut tcp.seen {
        side.flags |= tcp_flag::BE_LIBERAL;
        if !matches!(tcp.state, TcpConn::SynSent | TcpConn::SynSent2) {
            *side = TcpSide {
                scale: side.scale,
                flags: side.flags & KEPT | tcp_flag::BE_LIBERAL,
                ..TcpSide::default()
            };
        }
    }
    TcpState { retrans: 0, ..tcp }
}
