//! H.323 (`nf_conntrack_h323`): gatekeepers by RAS, calls by Q.931 and H.225.0, media by
//! H.245 and fast start. Addresses in messages are four or sixteen octets with a port after
//! them, which NAT overwrites: no message changes its length.
//!
//! A call counts only if its TCP connection began as one, and an address of somebody else
//! only in the answer to a question: a browser that is made to send something like a message
//! announces nothing.

mod call;
mod h225;
mod h245;
mod media;
mod per;
mod ras;
#[cfg(test)]
mod tests;

use super::{Announced, Helped, HelperKind, HelperState};
use crate::entry::EntryId;
use crate::expect::Expectation;
use crate::nat::mangle::replace_payload;
use crate::nat::{Manip, NatRange};
use crate::reason::DropReason;
use crate::tuple::{Dir, Tuple};
use crate::{Conntrack, Family};
use core::ops::Range;
use tidegate_wire::be16;

/// Most media of a connection that are translated.
const MEDIA: usize = 4;
/// Length of a TPKT header (RFC 1006).
const TPKT: usize = 4;

/// What is remembered of a connection (`struct nf_ct_h323_master`). Pairs of ports are by the
/// direction in which they are known.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct H323State {
    /// Where calls or H.245 connections are taken.
    pub(crate) signal: [u16; 2],
    /// Where media go.
    pub(crate) media: [[u16; 2]; MEDIA],
    /// RAS: how long the registration lasts, seconds.
    pub(crate) life: u32,
    /// Length of a message whose header came alone, by direction; 0: none did.
    pub(crate) split: [u16; 2],
    /// RAS: who has asked where to call.
    pub(crate) asked: [bool; 2],
    /// Whether a call began as one, once that is known.
    pub(crate) began: Option<bool>,
}

/// Another connection may have taken what was to be expected, or no room was left.
struct Refused;

/// The end of a connection that a message tells.
#[derive(Clone, Copy)]
struct Place {
    /// Where it stands in the payload.
    at: usize,
    addr: u128,
    port: u16,
}

impl Place {
    /// An address of the connection's own family.
    fn read(helped: &Helped<'_>, what: &per::What) -> Option<Place> {
        let (family, octets, at) = match *what {
            per::What::Place(4, at) => (Family::V4, 4, at),
            per::What::Place(16, at) => (Family::V6, 16, at),
            _ => return None,
        };
        let payload = helped
            .payload()
            .filter(|_| family == helped.layout.family)?;
        let addr = payload.get(at..at + octets)?;
        let addr = addr.iter().fold(0, |n, b| n << 8 | u128::from(*b));
        let port = be16(payload, at + octets)?;
        Some(Place { at, addr, port })
    }
}

impl Conntrack {
    fn h323_state(&self, id: EntryId) -> H323State {
        match self.entry(id).and_then(|e| e.helper_state()) {
            Some(HelperState::H323(state)) => *state,
            _ => H323State::default(),
        }
    }

    fn h323_remember(&mut self, id: EntryId, state: H323State) {
        if let Some(place) = self.remembered(id) {
            *place = HelperState::H323(state);
        }
    }

    /// The messages of a segment, each in an envelope of its own (RFC 1006).
    pub(in crate::helper) fn help_h323(
        &mut self,
        helped: &mut Helped<'_>,
    ) -> Result<bool, DropReason> {
        let call = helped.kind == HelperKind::Q931;
        let began = !call || self.began_as_call(helped);
        if !began || !helped.established() {
            return Ok(false);
        }
        let mut changed = false;
        let mut last = None;
        while let Some(message) = self.next_message(helped, last) {
            let payload = helped.payload().unwrap_or(&[]);
            let found = match call {
                true => call::read(payload, message.clone()),
                false => per::read(payload, message.clone(), &h245::MESSAGE),
            };
            let Some(found) = found else {
                break;
            };
            changed |= self
                .follow_call(helped, &found)
                .map_err(|Refused| match call {
                    true => DropReason::Helper("cannot process Q.931 message"),
                    false => DropReason::Helper("cannot process H.245 message"),
                })?;
            last = Some(message);
        }
        Ok(changed)
    }

    /// Whether the first segment that the caller sent began with an envelope; until it has
    /// sent one, nothing does.
    fn began_as_call(&mut self, helped: &Helped<'_>) -> bool {
        let Some(payload) = helped.payload() else {
            return false;
        };
        let id = helped.attached.id;
        let mut state = self.h323_state(id);
        if helped.dir() == Dir::Original && state.began.is_none() {
            state.began = Some(payload.starts_with(&[3, 0]));
            self.h323_remember(id, state);
        }
        state.began == Some(true)
    }

    /// The message after `last` in a segment, without its envelope (`get_tpkt_data`). Some
    /// send the envelope's header in a segment of its own.
    fn next_message(
        &mut self,
        helped: &Helped<'_>,
        last: Option<Range<usize>>,
    ) -> Option<Range<usize>> {
        let payload = helped.payload()?;
        let id = helped.attached.id;
        let dir = helped.dir().ix();
        let mut state = self.h323_state(id);
        let awaited = usize::from(core::mem::take(&mut state.split[dir]));
        let first = last.is_none();
        let at = last.map_or(0, |l| l.end);
        let rest = payload.get(at..)?;
        let header = rest.get(..TPKT).filter(|h| h.starts_with(&[3, 0]));
        let len = header.and_then(|h| be16(h, 2)).map(usize::from);
        let message = match len {
            Some(len) if (TPKT..=rest.len()).contains(&len) && (first || rest.len() > TPKT) => {
                Some(at + TPKT..at + len)
            }
            Some(len) if first && rest.len() == TPKT && len > TPKT => {
                state.split[dir] = (len - TPKT) as u16;
                None
            }
            None if first && awaited > 0 && awaited <= rest.len() => Some(0..awaited),
            _ => None,
        };
        self.h323_remember(id, state);
        message
    }

    /// The connection's tuples, if `place` is the sender's own.
    fn ends_of_own(&self, helped: &Helped<'_>, place: Place) -> Option<[Tuple; 2]> {
        let both = self.both_ways(helped)?;
        (place.addr == { both[0].src } && place.port != 0).then_some(both)
    }

    /// Whether addresses in messages are translated.
    fn h323_translated(&self, helped: &Helped<'_>) -> bool {
        helped.layout.family == Family::V4 && self.translated(helped)
    }

    /// Writes another address and port over a place (IPv4).
    fn put_place(
        helped: &mut Helped<'_>,
        place: Place,
        addr: u128,
        port: u16,
    ) -> Result<bool, Refused> {
        let mut text = [0; 6];
        text[..4].copy_from_slice(&(addr as u32).to_be_bytes());
        text[4..].copy_from_slice(&port.to_be_bytes());
        let range = place.at..place.at + text.len();
        replace_payload(helped.pkt, &helped.layout, range, &text)
            .map(|_| true)
            .ok_or(Refused)
    }

    /// Something that the receiver of a message may open to `dst`.
    fn h323_expected(
        &self,
        helped: &Helped<'_>,
        (dst, port): (u128, u16),
        proto: u8,
        child: Option<HelperKind>,
    ) -> Option<Expectation> {
        let [_, other] = self.both_ways(helped)?;
        let announced = Announced {
            src: Some(other.src),
            dst,
            port,
            proto,
        };
        Some(Expectation {
            assign_helper: child,
            ..self.announce(helped, &announced)
        })
    }

    /// Expects, translated, what the sender takes at `place`; tells the receiver where, and
    /// remembers that with `state`, if there is one. Nothing happens when no port is free.
    fn expect_at_place(
        &mut self,
        helped: &mut Helped<'_>,
        place: Place,
        mut e: Expectation,
        remember: bool,
    ) -> Result<bool, Refused> {
        let Some([_, other]) = self.both_ways(helped) else {
            return Ok(false);
        };
        let (id, dir) = (helped.attached.id, helped.dir());
        let mut state = self.h323_state(id);
        e.dir = dir.other();
        e.saved_id = place.port;
        let known = remember && state.signal[dir.ix()] == place.port;
        let first = match known {
            true => state.signal[dir.other().ix()],
            false => place.port,
        };
        let Ok(port) = self.expect_on_some_port(helped.now, &e, first) else {
            return Ok(false);
        };
        let changed = Self::put_place(helped, place, other.dst, port)?;
        if remember {
            state.signal[dir.ix()] = place.port;
            state.signal[dir.other().ix()] = port;
            self.h323_remember(id, state);
        }
        Ok(changed)
    }

    /// Translates a call that comes from anywhere, or goes on to somebody else
    /// (`ip_nat_q931_expect`, `ip_nat_callforwarding_expect`).
    pub(crate) fn follow_h323(&mut self, id: EntryId, e: &Expectation) {
        let Some(from) = self.entry(id).map(|c| c.tuple(e.dir.other()).src) else {
            return;
        };
        let master = self.entry(e.master).map(|m| m.tuple(e.dir.other()).src);
        let to = match (e.saved_addr, master) {
            (0, Some(addr)) => addr,
            (addr, _) => addr,
        };
        let to = NatRange {
            ports: Some((e.saved_id, e.saved_id)),
            ..NatRange::address(to)
        };
        // Neither can fail: the child was there a moment ago.
        let _ = self.nat_setup(id, Manip::Src, &NatRange::address(from));
        let _ = self.nat_setup(id, Manip::Dst, &to);
    }
}
