//! Gatekeepers (`nf_conntrack_ras`): registrations, and where calls may go.

use super::per::{Found, Role, What};
use super::{H323State, Place, Refused, h225, per};
use crate::entry::Status;
use crate::expect::{OnMatch, expect_flag};
use crate::helper::{Helped, HelperKind};
use crate::reason::DropReason;
use crate::tuple::Tuple;
use crate::{Conntrack, Family, SECOND, Time};
use alloc::vec::Vec;
use tidegate_wire::proto;

/// How long an ended registration is remembered, seconds.
const FAREWELL: u32 = 30;

impl Conntrack {
    pub(in crate::helper) fn help_ras(
        &mut self,
        helped: &mut Helped<'_>,
    ) -> Result<bool, DropReason> {
        let payload = helped.payload().unwrap_or(&[]);
        let Some(found) = per::read(payload, 0..payload.len(), &h225::RAS_MESSAGE) else {
            return Ok(false);
        };
        self.follow_ras(helped, &found)
            .map_err(|Refused| DropReason::Helper("cannot process RAS message"))
    }

    fn follow_ras(&mut self, helped: &mut Helped<'_>, found: &[Found]) -> Result<bool, Refused> {
        let (id, dir) = (helped.attached.id, helped.dir());
        let begins = |role| {
            found
                .iter()
                .any(|f| f.role == role && f.what == What::Begins)
        };
        if begins(Role::Question) {
            let mut state = self.h323_state(id);
            state.asked[dir.ix()] = true;
            self.h323_remember(id, state);
        }
        let answers = self.h323_state(id).asked[dir.other().ix()];
        let places = |helped: &Helped<'_>, role| -> Vec<Place> {
            let known = found.iter().filter(|f| f.role == role);
            known.filter_map(|f| Place::read(helped, &f.what)).collect()
        };
        // Some list their loopback address first.
        let loopback = |helped: &Helped<'_>, role| {
            let first = found.iter().filter(|f| f.role == role).nth(1);
            let first = first.and_then(|f| Place::read(helped, &f.what));
            first.filter(|p| helped.layout.family == Family::V4 && p.addr >> 24 == 127)
        };
        let (calls, signals) = (Role::Listens, Role::Signal);
        let mut changed =
            self.expect_calls(helped, &places(helped, calls), loopback(helped, calls))?;
        changed |= self.put_ras(helped, &places(helped, Role::Ras))?;
        changed |= self.put_signal(helped, &places(helped, signals), loopback(helped, signals))?;
        changed |= self.put_admission(
            helped,
            &places(helped, Role::Answers),
            &places(helped, Role::Calls),
        )?;
        // Nobody is told about others without having asked.
        if answers {
            let told = |role| places(helped, role).first().copied();
            let (gatekeeper, admitted, located) = (
                told(Role::Gatekeeper),
                told(Role::Admitted),
                told(Role::Located),
            );
            self.expect_gatekeeper(helped, gatekeeper)?;
            changed |= self.expect_admitted(helped, admitted)?;
            self.expect_call_to(helped, located)?;
        }
        let life = found.iter().find_map(|f| match f.what {
            What::Number(less) if f.role == Role::Life => Some((less + 1) as u32),
            _ => None,
        });
        if begins(Role::Registration) {
            let mut state = self.h323_state(id);
            state.life = life.unwrap_or(self.config.helper.h323_default_rrq_ttl);
            self.h323_remember(id, state);
        }
        if begins(Role::Registered) {
            self.registered(helped, life);
        }
        if begins(Role::Unregistration) {
            self.unregister(helped);
        }
        Ok(changed)
    }

    /// An endpoint says where it takes calls (`expect_q931`): from its gatekeeper alone,
    /// unless the module's parameter says otherwise.
    fn expect_calls(
        &mut self,
        helped: &mut Helped<'_>,
        all: &[Place],
        loopback: Option<Place>,
    ) -> Result<bool, Refused> {
        let Some([own, other]) = self.both_ways(helped) else {
            return Ok(false);
        };
        let own_place = |p: &&Place| p.addr == { own.src } && p.port != 0;
        let Some(&place) = all.iter().find(own_place) else {
            return Ok(false);
        };
        let to = ({ other.dst }, place.port);
        let child = Some(HelperKind::Q931);
        let Some(mut e) = self.h323_expected(helped, to, proto::TCP, child) else {
            return Ok(false);
        };
        e.flags = expect_flag::PERMANENT;
        e.on_match = OnMatch::FollowMaster;
        if !self.config.helper.h323_gkrouted_only {
            (e.tuple.src, e.mask_src) = (0, 0);
            e.on_match = OnMatch::FollowCall;
        }
        if !self.h323_translated(helped) {
            e.on_match = OnMatch::Plain;
            self.expect_plainly(helped.now, e).map_err(|_| Refused)?;
            let id = helped.attached.id;
            let mut state = self.h323_state(id);
            state.signal[helped.dir().ix()] = place.port;
            self.h323_remember(id, state);
            return Ok(false);
        }
        let changed = self.expect_at_place(helped, place, e, true)?;
        let port = self.h323_state(helped.attached.id).signal[helped.dir().other().ix()];
        if let Some(first) = loopback.filter(|_| changed) {
            Self::put_place(helped, first, other.dst, port)?;
        }
        Ok(changed)
    }

    /// The sender's own address for RAS as the receiver knows it (`set_ras_addr`).
    fn put_ras(&mut self, helped: &mut Helped<'_>, all: &[Place]) -> Result<bool, Refused> {
        let Some([own, other]) = self.both_ways(helped) else {
            return Ok(false);
        };
        let own_place = |p: &&Place| (p.addr, p.port) == ({ own.src }, { own.src_id });
        match all.iter().find(own_place) {
            Some(place) if self.h323_translated(helped) => {
                Self::put_place(helped, *place, other.dst, other.dst_id)
            }
            _ => Ok(false),
        }
    }

    /// Where calls are taken, as the sender and as the receiver know it, beside the tuples of a
    /// connection that is translated.
    fn signal_ports(&self, helped: &Helped<'_>) -> Option<([Tuple; 2], [u16; 2])> {
        let both = self.both_ways(helped)?;
        let signal = self.h323_state(helped.attached.id).signal;
        let ports = [helped.dir(), helped.dir().other()].map(|dir| signal[dir.ix()]);
        self.h323_translated(helped).then_some((both, ports))
    }

    /// Where an endpoint takes calls, said by itself or by its gatekeeper (`set_sig_addr`).
    fn put_signal(
        &mut self,
        helped: &mut Helped<'_>,
        all: &[Place],
        loopback: Option<Place>,
    ) -> Result<bool, Refused> {
        let Some(([own, other], [inside, outside])) = self.signal_ports(helped) else {
            return Ok(false);
        };
        let ends = [{ own.src }, { own.dst }];
        let known = |p: &&Place| p.port == inside && ends.contains(&p.addr);
        let Some(&place) = all.iter().find(known) else {
            return Ok(false);
        };
        if place.addr == { own.src } {
            let place = loopback.unwrap_or(place);
            return Self::put_place(helped, place, other.dst, outside);
        }
        Self::put_place(helped, place, other.src, outside)
    }

    /// A request to take a call, or to make one (`process_arq`).
    fn put_admission(
        &mut self,
        helped: &mut Helped<'_>,
        answers: &[Place],
        calls: &[Place],
    ) -> Result<bool, Refused> {
        let Some(([own, other], [inside, outside])) = self.signal_ports(helped) else {
            return Ok(false);
        };
        let own_place = |p: &&Place| p.addr == { own.src };
        let taken = answers.first().filter(own_place);
        if let Some(place) = taken.filter(|p| p.port == inside) {
            return Self::put_place(helped, *place, other.dst, outside);
        }
        match calls.first().filter(own_place) {
            Some(place) => Self::put_place(helped, *place, other.dst, place.port),
            None => Ok(false),
        }
    }

    /// Another gatekeeper, to be asked from now on (`process_gcf`).
    fn expect_gatekeeper(
        &mut self,
        helped: &Helped<'_>,
        told: Option<Place>,
    ) -> Result<(), Refused> {
        let (Some(place), Some([own, _])) = (told, self.both_ways(helped)) else {
            return Ok(());
        };
        let entry = self.entry(helped.attached.id);
        let expected = entry.is_some_and(|e| e.status.has(Status::EXPECTED));
        if expected || (place.addr, place.port) == ({ own.src }, { own.src_id }) {
            return Ok(());
        }
        let to = (place.addr, place.port);
        let child = Some(HelperKind::Ras);
        match self.h323_expected(helped, to, proto::UDP, child) {
            Some(e) => self.expect_plainly(helped.now, e).map_err(|_| Refused),
            None => Ok(()),
        }
    }

    /// A gatekeeper lets a call be made, or taken (`process_acf`).
    fn expect_admitted(
        &mut self,
        helped: &mut Helped<'_>,
        told: Option<Place>,
    ) -> Result<bool, Refused> {
        let (Some(place), Some([own, _])) = (told, self.both_ways(helped)) else {
            return Ok(false);
        };
        if place.addr == { own.dst } {
            return self.put_signal(helped, &[place], None);
        }
        self.expect_call_to(helped, told)?;
        Ok(false)
    }

    /// The receiver may call there.
    fn expect_call_to(&mut self, helped: &Helped<'_>, told: Option<Place>) -> Result<(), Refused> {
        let Some(place) = told else {
            return Ok(());
        };
        let to = (place.addr, place.port);
        let child = Some(HelperKind::Q931);
        let Some(mut e) = self.h323_expected(helped, to, proto::TCP, child) else {
            return Ok(());
        };
        e.flags = expect_flag::PERMANENT;
        self.expect_plainly(helped.now, e).map_err(|_| Refused)
    }

    /// A gatekeeper says how long a registration lasts (`process_rcf`); calls from anybody
    /// are expected as long.
    fn registered(&mut self, helped: &Helped<'_>, life: Option<u32>) {
        let (id, dir) = (helped.attached.id, helped.dir());
        let mut state = self.h323_state(id);
        state.life = life.unwrap_or(state.life);
        self.h323_remember(id, state);
        let Some([own, _]) = self.both_ways(helped).filter(|_| state.life > 0) else {
            return;
        };
        self.prolong(helped.now, id, state.life);
        let deadline = helped.now.saturating_add(Time::from(state.life) * SECOND);
        let calls = Tuple {
            src: 0,
            src_id: 0,
            dst: own.dst,
            dst_id: state.signal[dir.other().ix()],
            proto: proto::TCP,
            family: helped.layout.family,
        };
        self.refresh_expectation(
            deadline,
            |e| e.master == id && e.mask_src == 0 && { e.tuple } == calls,
            |_| {},
        );
    }

    /// An endpoint goes (`process_urq`).
    fn unregister(&mut self, helped: &Helped<'_>) {
        let id = helped.attached.id;
        self.forget_expectations(id);
        let state = H323State {
            signal: [0; 2],
            ..self.h323_state(id)
        };
        self.h323_remember(id, state);
        self.prolong(helped.now, id, FAREWELL);
    }
}
