//! Entries and expectations made, changed and removed by hand (`nf_conntrack_netlink`).

use crate::entry::{Entry, EntryId, HelperKind, ProtoState, Status, change, tcp_flag};
use crate::entry::{SctpConn, SctpState, TcpConn, TcpState};
use crate::event::EventKind;
use crate::expect::{ExpectError, ExpectPolicy, Expectation, OnMatch};
use crate::nat::{Manip, NatRange};
use crate::snapshot::relearnt;
use crate::sysctl::LONGEST;
use crate::tuple::{Dir, Tuple};
use crate::{Conntrack, Cursor, Family, SECOND, Time, Zone};
use core::fmt;
use tidegate_wire::proto;

/// Status bits that can be set, but never cleared, from outside.
const SETTABLE: u32 = Status::SEEN_REPLY | Status::ASSURED | Status::FIXED_TIMEOUT;
/// Most expectations of a class of a master, for those made by hand.
const POLICY_MAX: u8 = 255;

/// Why something was not done by hand; the text is the kernel's error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ByHandError {
    /// There is one already (EEXIST).
    Exists,
    /// There is none (ENOENT).
    Missing,
    /// It makes no sense (EINVAL).
    Invalid,
    /// A status bit that is not for users (EBUSY).
    Busy,
    /// The timeout is fixed (EPERM).
    Fixed,
    /// No room (ENOMEM).
    Full,
    /// The master has no helper (EOPNOTSUPP).
    NoHelper,
}

impl fmt::Display for ByHandError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            ByHandError::Exists => "File exists",
            ByHandError::Missing => "No such file or directory",
            ByHandError::Invalid => "Invalid argument",
            ByHandError::Busy => "Device or resource busy",
            ByHandError::Fixed => "Operation not permitted",
            ByHandError::Full => "Cannot allocate memory",
            ByHandError::NoHelper => "Operation not supported",
        })
    }
}

impl core::error::Error for ByHandError {}

/// State of a connection as it can be given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GivenState {
    /// TCP.
    Tcp(TcpConn),
    /// TCP as another tracker knew it; of what has been sent since then nothing is known.
    TcpOnce(TcpState),
    /// SCTP, with the verification tags of both directions.
    Sctp(SctpConn, [u32; 2]),
}

/// A connection as it is to be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NewEntry {
    /// Original and reply tuple.
    pub tuples: [Tuple; 2],
    /// Zone.
    pub zone: Zone,
    /// Life in seconds.
    pub timeout: u32,
    /// Status bits.
    pub status: u32,
    /// Mark.
    pub mark: u32,
    /// State, for TCP and SCTP.
    pub state: Option<GivenState>,
    /// Translation of source and destination, on top of what the reply tuple says.
    pub nat: [Option<NatRange>; 2],
    /// Helper.
    pub helper: Option<HelperKind>,
    /// Labels, a bit each.
    pub labels: u128,
}

/// What is to be changed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Change {
    /// Life from now on, in seconds.
    pub timeout: Option<u32>,
    /// Mark.
    pub mark: Option<u32>,
    /// Status bits to add.
    pub status: u32,
    /// State, for TCP and SCTP.
    pub state: Option<GivenState>,
    /// Labels, a bit each, in the place of those there are.
    pub labels: Option<u128>,
}

/// An expectation as it is to be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NewExpectation {
    /// Original tuple of the connection that announces it.
    pub master: Tuple,
    /// What is expected.
    pub tuple: Tuple,
    /// Bits of the source address that count.
    pub mask_src: u128,
    /// Bits of the source port that count.
    pub mask_src_id: u16,
    /// Zone of the master.
    pub zone: Zone,
    /// Life in seconds.
    pub timeout: u32,
}

fn life(seconds: u32) -> Time {
    Time::from(seconds.min(LONGEST)) * SECOND
}

/// Whether an entry can have this tuple.
fn sound(tuple: &Tuple) -> bool {
    let family = match tuple.proto {
        proto::ICMP => Family::V4,
        proto::ICMPV6 => Family::V6,
        _ => tuple.family,
    };
    family == tuple.family && tuple.inverse().is_some()
}

impl Entry {
    fn give(&mut self, state: GivenState) {
        match (&mut self.proto, state) {
            (ProtoState::Tcp(tcp), GivenState::Tcp(to)) => tcp.state = to,
            (ProtoState::Tcp(tcp), GivenState::TcpOnce(once)) => *tcp = relearnt(once),
            (ProtoState::Sctp(sctp), GivenState::Sctp(to, vtag)) => {
                sctp.state = to;
                sctp.vtag = vtag;
            }
            _ => return,
        }
        self.pending |= change::PROTOINFO;
    }
}

impl Conntrack {
    /// Makes a connection (`ctnetlink_create_conntrack`).
    ///
    /// # Errors
    /// `Exists`, `Invalid`, `Busy` or `Full`; nothing was made.
    pub fn create_by_hand(&mut self, now: Time, new: &NewEntry) -> Result<EntryId, ByHandError> {
        self.handle_timeout(now);
        let [original, reply] = new.tuples;
        let same_kind = (original.family, original.proto) == (reply.family, reply.proto);
        if !same_kind || !sound(&original) || !sound(&reply) {
            return Err(ByHandError::Invalid);
        }
        if self.named(new).is_some() {
            return Err(ByHandError::Exists);
        }
        if new.status & Status::EXPECTED != 0 {
            return Err(ByHandError::Busy);
        }
        let hash = self.table.hash(&original, new.zone.id_for(Dir::Original));
        self.make_room(now, hash).map_err(|_| ByHandError::Full)?;
        self.count += 1;
        let entry = self.made_by_hand(new);
        let id = self.slab.insert(entry, hash);
        if new.nat != [None; 2] {
            self.translate_by_hand(id, &new.nat);
        }
        self.insert_by_hand(now, id, life(new.timeout))?;
        self.stats.insert += 1;
        self.report(id, EventKind::New);
        Ok(id)
    }

    /// The entry a connection to be made would collide with.
    fn named(&self, new: &NewEntry) -> Option<EntryId> {
        let mut tuples = new.tuples.iter();
        tuples.find_map(|t| self.find(t, new.zone)).map(|f| f.0)
    }

    fn made_by_hand(&self, new: &NewEntry) -> Entry {
        let mut entry = Entry::new(new.tuples);
        entry.zone = new.zone;
        entry.mark = new.mark;
        entry.keep_accounts(&self.config);
        entry.watched = self.config.events;
        entry.status.set(new.status & SETTABLE);
        entry.helper = new.helper.or_else(|| self.automatic_helper(&new.tuples[1]));
        if new.helper.is_some() {
            entry.status.set(Status::HELPER);
        }
        entry.proto = match new.tuples[0].proto {
            proto::TCP => {
                let mut tcp = TcpState::default();
                // Nothing is known about windows; the next packets teach.
                for side in &mut tcp.seen {
                    side.flags = tcp_flag::SACK_PERM | tcp_flag::BE_LIBERAL;
                }
                ProtoState::Tcp(tcp)
            }
            proto::SCTP => ProtoState::Sctp(SctpState::default()),
            proto::UDP => ProtoState::Udp { stream_ts: 0 },
            proto::GRE => {
                let [timeout, stream_timeout] = self.config.timeouts.gre;
                ProtoState::Gre {
                    timeout,
                    stream_timeout,
                }
            }
            _ => ProtoState::Stateless,
        };
        if let Some(state) = new.state {
            entry.give(state);
        }
        entry.pending |= change::MARK;
        if new.labels != 0 {
            entry.extra_mut().labels = new.labels;
            entry.pending |= change::LABEL;
        }
        entry
    }

    /// Decides both ends, destination first, as `ctnetlink_setup_nat` does.
    fn translate_by_hand(&mut self, id: EntryId, nat: &[Option<NatRange>; 2]) {
        for (manip, range) in [(Manip::Dst, &nat[1]), (Manip::Src, &nat[0])] {
            // The entry was put in place a moment ago.
            let _ = match range {
                Some(range) => self.nat_setup(id, manip, range),
                None => self.nat_null_binding(id, manip),
            };
        }
    }

    fn insert_by_hand(&mut self, now: Time, id: EntryId, life: Time) -> Result<(), ByHandError> {
        let Some(entry) = self.slab.get_mut(id) else {
            return Err(ByHandError::Missing);
        };
        entry.stamp(now);
        let (tuples, zone) = (entry.tuples, entry.zone);
        if tuples.iter().any(|t| self.find(t, zone).is_some()) {
            self.release(id);
            return Err(ByHandError::Exists);
        }
        let under = Dir::BOTH.map(|d| (d, self.table.hash(&tuples[d.ix()], zone.id_for(d))));
        self.enter(now, id, life, &under);
        Ok(())
    }

    /// Changes a connection (`ctnetlink_change_conntrack`).
    ///
    /// # Errors
    /// `Missing`, `Busy` or `Fixed`; what was to be changed before the failing part (mark
    /// and state come last) is changed.
    pub fn change_by_hand(
        &mut self,
        now: Time,
        id: EntryId,
        change: &Change,
    ) -> Result<(), ByHandError> {
        self.handle_timeout(now);
        self.recall(id);
        let entry = self.slab.get_mut(id).filter(|e| e.confirmed());
        let entry = entry.ok_or(ByHandError::Missing)?;
        if change.timeout.is_some() && entry.status.has(Status::FIXED_TIMEOUT) {
            return Err(ByHandError::Fixed);
        }
        if change.status & Status::EXPECTED != 0 {
            return Err(ByHandError::Busy);
        }
        let bits = change.status & SETTABLE;
        for (bit, event) in [
            (Status::SEEN_REPLY, change::REPLY),
            (Status::ASSURED, change::ASSURED),
        ] {
            if bits & bit != 0 {
                entry.pending |= event;
            }
        }
        entry.status.set(bits);
        if let Some(state) = change.state {
            entry.give(state);
        }
        if let Some(mark) = change.mark {
            entry.mark = mark;
        }
        if let Some(labels) = change.labels {
            entry.extra_mut().labels = labels;
            entry.pending |= change::LABEL;
        }
        // As the kernel does, whatever changed.
        entry.pending |= change::MARK;
        if let Some(seconds) = change.timeout {
            self.set_timeout(now, id, life(seconds));
        }
        self.report(id, EventKind::Update);
        Ok(())
    }

    /// Removes a connection for good; `false` when there is none.
    pub fn delete_by_hand(&mut self, now: Time, id: EntryId) -> bool {
        self.handle_timeout(now);
        let gone = self.delete(id);
        self.reap();
        gone
    }

    /// Sets an entry's counters to nought (`-z`).
    pub fn zero_counters(&mut self, id: EntryId) {
        self.recall(id);
        if let Some(entry) = self.entry_mut(id) {
            entry.counters = entry.counters.as_ref().map(|_| Default::default());
        }
    }

    /// Announces a connection (`ctnetlink_create_expect`); its master must have a helper.
    ///
    /// # Errors
    /// `Missing` master, `NoHelper`, `Exists`, `Busy` or `Full`.
    pub fn expect_by_hand(&mut self, now: Time, new: &NewExpectation) -> Result<(), ByHandError> {
        self.handle_timeout(now);
        if self.expectation(&new.tuple, new.zone.id).is_some() {
            return Err(ByHandError::Exists);
        }
        let (master, _) = self
            .find(&new.master, new.zone)
            .ok_or(ByHandError::Missing)?;
        let helper = self.slab.get(master).and_then(|e| e.helper);
        let expectation = Expectation {
            tuple: new.tuple,
            mask_src: new.mask_src,
            mask_src_id: new.mask_src_id,
            master,
            zone: new.zone.id,
            class: 0,
            flags: 0,
            helper: Some(helper.ok_or(ByHandError::NoHelper)?),
            assign_helper: None,
            on_match: OnMatch::Plain,
            dir: Dir::Original,
            saved_addr: 0,
            saved_id: 0,
            timeout: 0,
        };
        let policy = ExpectPolicy {
            max: POLICY_MAX,
            timeout: new.timeout.min(LONGEST),
        };
        self.expect(now, expectation, policy).map_err(|e| match e {
            ExpectError::NoMaster => ByHandError::Missing,
            ExpectError::Already | ExpectError::Busy => ByHandError::Busy,
            ExpectError::Full => ByHandError::Full,
        })
    }

    /// Takes a helper out of service (what unloading its module does), piece by piece: its
    /// connections in `slots` places from the one that `cursor` names are helped no more.
    /// Returns where to go on; with the last piece goes what the helper expects.
    pub fn retire_helper(
        &mut self,
        helper: HelperKind,
        cursor: Cursor,
        slots: u32,
    ) -> Option<Cursor> {
        let (entries, next) = self.piece(cursor, slots);
        let helped = entries.filter(|(_, e)| e.helper == Some(helper));
        let ids: alloc::vec::Vec<EntryId> = helped.map(|(id, _)| id).collect();
        for id in ids {
            if let Some(entry) = self.slab.get_mut(id) {
                entry.helper = None;
                entry.pending |= change::HELPER;
                self.report(id, EventKind::Update);
            }
        }
        if next.is_none() {
            self.forget_expectations_where(|e| {
                e.helper == Some(helper) || e.assign_helper == Some(helper)
            });
        }
        next
    }
}
