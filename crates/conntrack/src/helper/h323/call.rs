//! Calls: Q.931 with what H.225.0 puts into it (`nf_conntrack_q931`), and H.245 by itself or
//! within.

use super::per::{Found, Role, What};
use super::{Place, Refused, h225, per};
use crate::Conntrack;
use crate::expect::OnMatch;
use crate::helper::{Helped, HelperKind};
use alloc::vec::Vec;
use core::ops::Range;
use tidegate_wire::{be16, proto};

/// Protocol discriminator of Q.931.
const Q931: u8 = 8;
/// Information element with the message of H.225.0.
const USER_USER: u8 = 0x7e;
/// Bit of information elements that are one octet.
const SINGLE: u8 = 0x80;

/// What a Q.931 message at `range` says.
pub(super) fn read(payload: &[u8], range: Range<usize>) -> Option<Vec<Found>> {
    let inner = user_information(payload.get(range.clone())?)?;
    let inner = range.start + inner.start..range.start + inner.end;
    per::read(payload, inner, &h225::USER_INFORMATION)
}

/// Where a Q.931 message has the one of H.225.0 (Q.931 section 4, H.225.0 section 7.2.2.31).
fn user_information(message: &[u8]) -> Option<Range<usize>> {
    let [Q931, reference, ..] = message else {
        return None;
    };
    // Call reference, message type.
    let mut at = 2 + usize::from(*reference) + 1;
    loop {
        let element = *message.get(at)?;
        if element == USER_USER {
            let len = usize::from(be16(message, at + 1)?);
            let (start, end) = (at + 4, at + 3 + len);
            return (start < end && end <= message.len()).then_some(start..end);
        }
        at += match element & SINGLE {
            0 => 2 + usize::from(*message.get(at + 1)?),
            _ => 1,
        };
    }
}

impl Conntrack {
    /// Follows what a message announces; `true` when it was changed.
    pub(super) fn follow_call(
        &mut self,
        helped: &mut Helped<'_>,
        found: &[Found],
    ) -> Result<bool, Refused> {
        // A call that is forwarded has nothing else to say.
        let forwarded = found.iter().any(|f| f.role == Role::Forwarded);
        let tunnelled = found.iter().position(|f| f.role == Role::Tunnelled);
        let own = tunnelled.unwrap_or(found.len());
        // Whether the channel is for T.120, and over a connection of its own.
        let (mut t120, mut separate) = (false, false);
        // In an answer, T.120 comes after media, wherever it stands.
        let mut last = None;
        let mut changed = false;
        for (i, f) in found.iter().enumerate() {
            match f.role {
                Role::Channel if f.what == What::Begins => (t120, separate) = (false, false),
                Role::T120 => t120 = true,
                Role::LanStack => separate = t120,
                Role::Tunnelled => changed |= self.expect_last(helped, &mut last)?,
                _ => {}
            }
            let ends = matches!(f.role, Role::Alternative) == forwarded || i > own;
            let Some(place) = Place::read(helped, &f.what).filter(|_| ends) else {
                continue;
            };
            changed |= match f.role {
                Role::H245 => self.expect_h245(helped, place)?,
                Role::Callee | Role::Caller => self.put_end(helped, f.role, place)?,
                Role::Alternative => self.expect_forwarded(helped, place)?,
                Role::Media => self.expect_rtp(helped, place)?,
                Role::Stack if separate => self.expect_t120(helped, place)?,
                Role::AckStack => {
                    last = Some(place);
                    false
                }
                _ => false,
            };
        }
        changed |= self.expect_last(helped, &mut last)?;
        Ok(changed)
    }

    fn expect_last(
        &mut self,
        helped: &mut Helped<'_>,
        last: &mut Option<Place>,
    ) -> Result<bool, Refused> {
        match last.take() {
            Some(place) => self.expect_t120(helped, place),
            None => Ok(false),
        }
    }

    /// H.245 on a connection of its own (`expect_h245`).
    fn expect_h245(&mut self, helped: &mut Helped<'_>, place: Place) -> Result<bool, Refused> {
        let Some([own, other]) = self.ends_of_own(helped, place) else {
            return Ok(false);
        };
        let to = ({ other.dst }, place.port);
        let child = Some(HelperKind::H245);
        let Some(mut e) = self.h323_expected(helped, to, proto::TCP, child) else {
            return Ok(false);
        };
        if { own.src } != { other.dst } && self.h323_translated(helped) {
            e.on_match = OnMatch::FollowMaster;
            return self.expect_at_place(helped, place, e, true);
        }
        self.expect_plainly(helped.now, e).map_err(|_| Refused)?;
        Ok(false)
    }

    /// The ends of a call as the receiver knows them (`process_setup`).
    fn put_end(
        &mut self,
        helped: &mut Helped<'_>,
        role: Role,
        place: Place,
    ) -> Result<bool, Refused> {
        let Some([_, other]) = self.both_ways(helped) else {
            return Ok(false);
        };
        let (addr, port) = match role {
            Role::Callee => ({ other.src }, { other.src_id }),
            _ => ({ other.dst }, { other.dst_id }),
        };
        if !self.h323_translated(helped) || place.addr == addr {
            return Ok(false);
        }
        Self::put_place(helped, place, addr, port)
    }

    /// The call goes on to somebody else, who may be anybody (`expect_callforwarding`); no
    /// matter when both are behind the same router.
    fn expect_forwarded(&mut self, helped: &mut Helped<'_>, place: Place) -> Result<bool, Refused> {
        let Some([own, other]) = self.both_ways(helped) else {
            return Ok(false);
        };
        let family = helped.layout.family;
        let filtered = self.config.helper.h323_callforward_filter;
        if place.port == 0 || filtered && helped.ways.same(family, place.addr, other.src) {
            return Ok(false);
        }
        let translated = { own.src } != { other.dst } && self.h323_translated(helped);
        let dst = if translated { other.dst } else { place.addr };
        let child = Some(HelperKind::Q931);
        let Some(mut e) = self.h323_expected(helped, (dst, place.port), proto::TCP, child) else {
            return Ok(false);
        };
        if translated {
            e.on_match = OnMatch::FollowCall;
            e.saved_addr = place.addr;
            return self.expect_at_place(helped, place, e, false);
        }
        self.expect_plainly(helped.now, e).map_err(|_| Refused)?;
        Ok(false)
    }
}
