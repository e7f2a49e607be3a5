//! PPTP (RFC 2637; `nf_conntrack_pptp`, `nf_nat_pptp`): calls within a control connection
//! announce a GRE tunnel each way, whose packets carry only the receiver's call id.

use super::{Announced, Helped, HelperState};
use crate::Conntrack;
use crate::entry::{EntryId, Status};
use crate::expect::{Expectation, OnMatch};
use crate::nat::{Manip, NatRange};
use crate::reason::DropReason;
use crate::tuple::{Dir, Tuple};
use alloc::collections::BTreeMap;
use tidegate_wire::{be16, be32, proto};

/// Length of the header of a control message.
const HEADER: usize = 12;
const CONTROL: u16 = 1;
const COOKIE: u32 = 0x1a2b_3c4d;

/// Message types (RFC 2637 section 2).
mod message {
    pub(super) const START_REQUEST: u16 = 1;
    pub(super) const START_REPLY: u16 = 2;
    pub(super) const STOP_REQUEST: u16 = 3;
    pub(super) const STOP_REPLY: u16 = 4;
    pub(super) const ECHO_REQUEST: u16 = 5;
    pub(super) const ECHO_REPLY: u16 = 6;
    pub(super) const OUT_REQUEST: u16 = 7;
    pub(super) const OUT_REPLY: u16 = 8;
    pub(super) const IN_REQUEST: u16 = 9;
    pub(super) const IN_REPLY: u16 = 10;
    pub(super) const IN_CONNECT: u16 = 11;
    pub(super) const CLEAR: u16 = 12;
    pub(super) const DISCONNECT: u16 = 13;
    pub(super) const WAN_ERROR: u16 = 14;
    pub(super) const LINK_INFO: u16 = 15;
}

/// Length of each message after its header.
const LENGTHS: [usize; 16] = [
    0, 144, 144, 4, 4, 0, 0, 156, 20, 208, 12, 16, 4, 136, 28, 12,
];

/// State of the control session, in the kernel's order.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
enum Session {
    #[default]
    None,
    Error,
    StopRequested,
    Requested,
    Confirmed,
}

/// State of the call.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Call {
    #[default]
    None,
    OutRequested,
    OutConfirmed,
    InRequested,
    InReplied,
    InConfirmed,
    ClearRequested,
}

/// What is remembered of a control connection (`struct nf_ct_pptp_master`,
/// `struct nf_nat_pptp`). PNS is the client, PAC the server.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PptpState {
    session: Session,
    call: Call,
    /// Call ids as the outside knows them.
    pns: u16,
    pac: u16,
    /// Those the ends chose themselves.
    own_pns: u16,
    own_pac: u16,
}

/// A control message.
struct Message<'a> {
    kind: u16,
    body: &'a [u8],
}

impl<'a> Message<'a> {
    fn read(payload: &'a [u8]) -> Option<Message<'a>> {
        let control = be16(payload, 2)? == CONTROL && be32(payload, 4)? == COOKIE;
        let body = payload.get(HEADER..)?;
        let kind = be16(payload, 8)?;
        let whole = LENGTHS
            .get(usize::from(kind))
            .is_none_or(|&n| body.len() >= n);
        (control && whole).then_some(Message { kind, body })
    }

    fn id(&self, at: usize) -> u16 {
        be16(self.body, at).unwrap_or(0)
    }

    fn result(&self, at: usize) -> u8 {
        self.body.get(at).copied().unwrap_or(0)
    }
}

/// What a message leads to besides a new state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outcome {
    /// It does not belong here; it passes as it is.
    Stray,
    /// Nothing.
    Noted,
    /// A tunnel is expected.
    Tunnel,
    /// The tunnel ends.
    Over,
}

impl Session {
    const ALL: [Session; 5] = [
        Session::None,
        Session::Error,
        Session::StopRequested,
        Session::Requested,
        Session::Confirmed,
    ];
}

impl Call {
    const ALL: [Call; 7] = [
        Call::None,
        Call::OutRequested,
        Call::OutConfirmed,
        Call::InRequested,
        Call::InReplied,
        Call::InConfirmed,
        Call::ClearRequested,
    ];
}

impl PptpState {
    /// As numbers: the states of session and call; the call ids of client and server as the
    /// outside knows them, and those that they chose themselves.
    pub(crate) fn numbers(&self) -> ([u8; 2], [u16; 4]) {
        let states = [self.session as u8, self.call as u8];
        (states, [self.pns, self.pac, self.own_pns, self.own_pac])
    }

    /// Out of [`PptpState::numbers`]; `None` when there are no such states.
    pub(crate) fn from_numbers(states: [u8; 2], ids: [u16; 4]) -> Option<PptpState> {
        let [session, call] = states.map(usize::from);
        let [pns, pac, own_pns, own_pac] = ids;
        Some(PptpState {
            session: *Session::ALL.get(session)?,
            call: *Call::ALL.get(call)?,
            pns,
            pac,
            own_pns,
            own_pac,
        })
    }

    /// Source and destination call id of the tunnel's packets by the direction of the
    /// control connection, before translation.
    fn tunnel_ids(&self, translated: bool) -> [(u16, u16); 2] {
        match translated {
            false => [(self.pns, self.pac), (self.pac, self.pns)],
            true => [(self.own_pns, self.pac), (self.own_pac, self.pns)],
        }
    }

    /// A message of the client (`pptp_outbound_pkt`).
    fn client(&mut self, m: &Message<'_>) -> Outcome {
        let confirmed = self.session == Session::Confirmed;
        match m.kind {
            message::START_REQUEST if self.session == Session::None => {
                self.session = Session::Requested;
            }
            message::STOP_REQUEST => self.session = Session::StopRequested,
            message::OUT_REQUEST if confirmed => {
                self.call = Call::OutRequested;
                self.pns = m.id(0);
            }
            message::IN_REPLY
                if matches!(self.call, Call::InRequested | Call::InReplied)
                    && self.pac == m.id(2) =>
            {
                if m.result(4) == 1 {
                    self.call = Call::InReplied;
                    self.pns = m.id(0);
                } else {
                    self.call = Call::None;
                }
            }
            message::CLEAR if confirmed => self.call = Call::ClearRequested,
            message::LINK_INFO | message::ECHO_REQUEST | message::ECHO_REPLY => {}
            _ => return Outcome::Stray,
        }
        Outcome::Noted
    }

    /// A message of the server (`pptp_inbound_pkt`).
    fn server(&mut self, m: &Message<'_>) -> Outcome {
        let confirmed = self.session == Session::Confirmed;
        let or_error = |good: u8, state| {
            if good == 1 { state } else { Session::Error }
        };
        match m.kind {
            message::START_REPLY if self.session >= Session::Requested => {
                self.session = or_error(m.result(2), Session::Confirmed);
            }
            message::STOP_REPLY if self.session <= Session::StopRequested => {
                self.session = or_error(m.result(0), Session::None);
            }
            message::OUT_REPLY
                if confirmed
                    && matches!(self.call, Call::OutRequested | Call::OutConfirmed)
                    && self.pns == m.id(2) =>
            {
                if m.result(4) != 1 {
                    self.call = Call::None;
                    return Outcome::Noted;
                }
                self.call = Call::OutConfirmed;
                self.pac = m.id(0);
                return Outcome::Tunnel;
            }
            message::IN_REQUEST if confirmed => {
                self.call = Call::InRequested;
                self.pac = m.id(0);
            }
            message::IN_CONNECT
                if confirmed
                    && matches!(self.call, Call::InReplied | Call::InConfirmed)
                    && self.pns == m.id(0) =>
            {
                self.call = Call::InConfirmed;
                return Outcome::Tunnel;
            }
            message::DISCONNECT => {
                self.call = Call::None;
                return Outcome::Over;
            }
            message::WAN_ERROR
            | message::LINK_INFO
            | message::ECHO_REQUEST
            | message::ECHO_REPLY => {}
            _ => return Outcome::Stray,
        }
        Outcome::Noted
    }
}

/// Where the client's call id stands in messages that are translated, by who sends them.
fn id_at(dir: Dir, kind: u16) -> Option<usize> {
    match (dir, kind) {
        (Dir::Original, message::OUT_REQUEST | message::IN_REPLY | message::CLEAR) => Some(0),
        (Dir::Reply, message::OUT_REPLY) => Some(2),
        (
            Dir::Reply,
            message::IN_CONNECT | message::WAN_ERROR | message::DISCONNECT | message::LINK_INFO,
        ) => Some(0),
        _ => None,
    }
}

/// The source call ids of tunnels, which their packets do not carry, by what they do:
/// addresses and destination id (`nf_ct_gre_keymap`).
#[derive(Debug, Default)]
pub(crate) struct KeyMap {
    keys: BTreeMap<(u128, u128, u16), (EntryId, u16)>,
}

impl KeyMap {
    /// Completes the tuple of a GRE packet of version 1.
    pub(crate) fn complete(&self, tuple: &mut Tuple, l4: &[u8]) {
        if tuple.proto != proto::GRE || self.keys.is_empty() {
            return;
        }
        if be16(l4, 0).is_some_and(|flags| flags & 7 == 1)
            && let Some(&(_, key)) = self.keys.get(&(tuple.src, tuple.dst, tuple.dst_id))
        {
            tuple.src_id = key;
        }
    }

    fn holds(&self, tuple: &Tuple, master: EntryId) -> bool {
        let found = self.keys.get(&(tuple.src, tuple.dst, tuple.dst_id));
        found.is_some_and(|f| f.0 == master)
    }

    /// `false` when there is another tunnel like this.
    fn add(&mut self, tuple: &Tuple, master: EntryId) -> bool {
        let key = (tuple.src, tuple.dst, tuple.dst_id);
        match self.keys.get(&key) {
            Some((owner, _)) => *owner == master,
            None => {
                self.keys.insert(key, (master, tuple.src_id));
                true
            }
        }
    }

    pub(crate) fn forget(&mut self, master: EntryId) {
        self.keys.retain(|_, (owner, _)| *owner != master);
    }
}

impl Conntrack {
    pub(super) fn help_pptp(&mut self, helped: &mut Helped<'_>) -> Result<bool, DropReason> {
        let dir = helped.dir();
        let payload = helped.payload().filter(|_| helped.established());
        let Some(m) = payload.and_then(Message::read) else {
            return Ok(false);
        };
        let mut state = self.pptp(helped.attached.id);
        let outcome = match dir {
            Dir::Original => state.client(&m),
            Dir::Reply => state.server(&m),
        };
        let kind = m.kind;
        if outcome == Outcome::Stray {
            return Ok(false);
        }
        let translated = self.translated(helped);
        if translated && dir == Dir::Original && kind == message::OUT_REQUEST {
            // The client's port is its own on the outside.
            state.own_pns = state.pns;
            state.pns = self
                .entry(helped.attached.id)
                .map_or(state.pns, |e| e.tuple(Dir::Reply).dst_id);
        }
        self.remember_pptp(helped.attached.id, state);
        match outcome {
            Outcome::Tunnel => self.expect_tunnel(helped, state, translated),
            Outcome::Over => self.end_tunnel(helped.attached.id),
            Outcome::Stray | Outcome::Noted => {}
        }
        let Some(at) = id_at(dir, kind).filter(|_| translated) else {
            return Ok(false);
        };
        let id = match dir {
            Dir::Original => state.pns,
            Dir::Reply => state.own_pns,
        };
        let at = HEADER + at;
        self.replace(helped, at..at + 2, &id.to_be_bytes())?;
        Ok(true)
    }

    fn pptp(&self, id: EntryId) -> PptpState {
        match self.entry(id).and_then(|e| e.helper_state()) {
            Some(HelperState::Pptp(state)) => *state,
            _ => PptpState::default(),
        }
    }

    fn remember_pptp(&mut self, id: EntryId, state: PptpState) {
        if let Some(place) = self.remembered(id) {
            *place = HelperState::Pptp(state);
        }
    }

    /// Expects GRE both ways (`exp_gre`); what cannot be expected passes unexpected.
    fn expect_tunnel(&mut self, helped: &Helped<'_>, mut state: PptpState, translated: bool) {
        let master = helped.attached.id;
        let Some(entry) = self.entry(master) else {
            return;
        };
        let tuples = entry.tuples;
        if translated {
            state.own_pac = state.pac;
            self.remember_pptp(master, state);
        }
        let ids = state.tunnel_ids(translated);
        let mut both: [Option<Expectation>; 2] = [None, None];
        for dir in Dir::BOTH {
            let (src_id, dst_id) = ids[dir.ix()];
            let announced = Announced {
                src: Some(tuples[dir.ix()].src),
                dst: tuples[dir.ix()].dst,
                port: dst_id,
                proto: proto::GRE,
            };
            let mut e = self.announce(helped, &announced);
            e.tuple.src_id = src_id;
            e.mask_src_id = u16::MAX;
            e.on_match = OnMatch::Tunnel;
            if translated {
                e.dir = dir;
                e.saved_id = match dir {
                    Dir::Original => state.pns,
                    Dir::Reply => state.own_pns,
                };
            }
            both[dir.ix()] = Some(e);
        }
        let [Some(there), Some(back)] = both else {
            return;
        };
        let tuples = [there.tuple, back.tuple];
        let zone = there.zone;
        let done = self.expect_plainly(helped.now, there).is_ok()
            && self.expect_plainly(helped.now, back).is_ok()
            && self.add_keys(master, &tuples);
        if !done {
            for tuple in &tuples {
                self.forget_own(master, tuple, zone);
            }
        }
    }

    /// A control connection has one tunnel; the message may have come again.
    fn add_keys(&mut self, master: EntryId, tuples: &[Tuple; 2]) -> bool {
        let held = self.gre_keys.keys.values().any(|v| v.0 == master);
        if held {
            return tuples.iter().all(|t| self.gre_keys.holds(t, master));
        }
        let added = tuples.iter().all(|t| self.gre_keys.add(t, master));
        if !added {
            self.gre_keys.forget(master);
        }
        added
    }

    /// Tuples of the tunnel that a control connection has agreed upon, by its directions.
    fn tunnel_tuples(&self, master: EntryId) -> Option<[Tuple; 2]> {
        let entry = self.entry(master)?;
        let ids = self
            .pptp(master)
            .tunnel_ids(entry.status.has(Status::NAT_MASK));
        Some(Dir::BOTH.map(|dir| Tuple {
            src_id: ids[dir.ix()].0,
            dst_id: ids[dir.ix()].1,
            proto: proto::GRE,
            ..*entry.tuple(dir)
        }))
    }

    /// Whether packets of the tunnel are known by the call id that they carry.
    pub(crate) fn has_tunnel(&self, master: EntryId) -> bool {
        let tuples = self.tunnel_tuples(master);
        tuples.is_some_and(|both| both.iter().all(|t| self.gre_keys.holds(t, master)))
    }

    /// Makes packets of the tunnel known again, for a connection that comes from a record.
    pub(crate) fn restore_tunnel(&mut self, master: EntryId) {
        if let Some(tuples) = self.tunnel_tuples(master) {
            self.add_keys(master, &tuples);
        }
    }

    fn forget_own(&mut self, master: EntryId, tuple: &Tuple, zone: u16) {
        let own = self
            .expectation(tuple, zone)
            .is_some_and(|e| e.master == master);
        if own {
            self.forget_expectation(tuple, zone);
        }
    }

    /// The call is over: its tunnel goes, there or expected (`pptp_destroy_siblings`).
    pub(crate) fn end_tunnel(&mut self, master: EntryId) {
        let state = self.pptp(master);
        self.gre_keys.forget(master);
        let Some(entry) = self.entry(master) else {
            return;
        };
        let (tuples, zone) = (entry.tuples, entry.zone);
        let ids = [(state.pns, state.pac), (state.pac, state.pns)];
        for dir in Dir::BOTH {
            let (src_id, dst_id) = ids[dir.ix()];
            let tunnel = Tuple {
                src_id,
                dst_id,
                proto: proto::GRE,
                ..tuples[dir.ix()]
            };
            match self.find(&tunnel, zone) {
                Some((id, _)) => {
                    self.delete(id);
                }
                None => {
                    self.forget_expectation(&tunnel, zone.id);
                }
            }
        }
    }

    /// One way of the tunnel has come: the other one is part of it, and expected no more
    /// (`pptp_expectfn`, `pptp_nat_expected`).
    pub(crate) fn tunnel_came(&mut self, id: EntryId, e: &Expectation) {
        let Some(master) = self.entry(e.master) else {
            return;
        };
        let translated = master.status.has(Status::NAT_MASK);
        let there = *master.tuple(e.dir.other());
        if !translated {
            if let Some(other) = e.tuple.inverse() {
                self.forget_expectation(&other, e.zone);
            }
            return;
        }
        if e.dir == Dir::Original {
            let state = self.pptp(e.master);
            let other = Tuple {
                src_id: state.pac,
                dst_id: state.pns,
                proto: proto::GRE,
                ..there
            };
            // The kernel misses the one for the other direction; so is it here.
            self.forget_expectation(&other, e.zone);
        }
        let key = Some((e.saved_id, e.saved_id));
        for (manip, addr, keyed) in [
            (Manip::Src, there.dst, Dir::Original),
            (Manip::Dst, there.src, Dir::Reply),
        ] {
            let range = NatRange {
                ports: key.filter(|_| e.dir == keyed),
                ..NatRange::address(addr)
            };
            // It was there a moment ago.
            let _ = self.nat_setup(id, manip, &range);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec::Vec;

    fn message(kind: u16, body: &[u8]) -> Vec<u8> {
        let len = (HEADER + body.len()) as u16;
        let head = [len, CONTROL, 0x1a2b, 0x3c4d, kind, 0].map(u16::to_be_bytes);
        [&head.concat()[..], body].concat()
    }

    fn call_reply(id: u16, peer: u16, result: u8) -> Vec<u8> {
        let mut body = [id.to_be_bytes(), peer.to_be_bytes()].concat();
        body.push(result);
        body.resize(20, 0);
        message(message::OUT_REPLY, &body)
    }

    #[test]
    fn a_call_out() {
        let mut state = PptpState::default();
        let mut start = [0; 144];
        let m = message(message::START_REQUEST, &start);
        assert_eq!(state.client(&Message::read(&m).unwrap()), Outcome::Noted);
        start[2] = 1;
        let m = message(message::START_REPLY, &start);
        assert_eq!(state.server(&Message::read(&m).unwrap()), Outcome::Noted);
        let mut request = [0; 156];
        request[1] = 7;
        let m = message(message::OUT_REQUEST, &request);
        assert_eq!(state.client(&Message::read(&m).unwrap()), Outcome::Noted);
        // For another call, refused, accepted.
        let stray = call_reply(9, 8, 1);
        let stray = Message::read(&stray).unwrap();
        assert_eq!(state.server(&stray), Outcome::Stray);
        let accepted = call_reply(9, 7, 1);
        let accepted = Message::read(&accepted).unwrap();
        assert_eq!(state.server(&accepted), Outcome::Tunnel);
        assert_eq!((state.pns, state.pac), (7, 9));
    }

    #[test]
    fn what_is_no_message() {
        let good = call_reply(9, 7, 1);
        assert!(Message::read(&good).is_some());
        for cut in 0..good.len() {
            assert!(Message::read(&good[..cut]).is_none(), "{cut}");
        }
        for at in [3, 4, 7] {
            let mut bad = good.clone();
            bad[at] ^= 1;
            assert!(Message::read(&bad).is_none(), "{at}");
        }
    }

    #[test]
    fn nothing_before_the_session() {
        let mut state = PptpState::default();
        let reply = call_reply(9, 0, 1);
        assert_eq!(
            state.server(&Message::read(&reply).unwrap()),
            Outcome::Stray
        );
    }
}
