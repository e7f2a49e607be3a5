//! Media of a call: RTP with RTCP, and T.120 (`expect_rtp_rtcp`, `expect_t120`).

use super::{MEDIA, Place, Refused};
use crate::Conntrack;
use crate::expect::{Expectation, OnMatch, expect_flag};
use crate::helper::Helped;
use tidegate_wire::proto;

impl Conntrack {
    /// RTP on the even port of a pair and RTCP on the odd one.
    pub(super) fn expect_rtp(
        &mut self,
        helped: &mut Helped<'_>,
        place: Place,
    ) -> Result<bool, Refused> {
        let Some([own, other]) = self.ends_of_own(helped, place) else {
            return Ok(false);
        };
        let on = |port| self.h323_expected(helped, (other.dst, port), proto::UDP, None);
        let (Some(rtp), Some(rtcp)) = (on(place.port & !1), on(place.port | 1)) else {
            return Ok(false);
        };
        if { own.src } != { other.dst } && self.h323_translated(helped) {
            return self.expect_rtp_translated(helped, place, [rtp, rtcp]);
        }
        self.expect_plainly(helped.now, rtp.clone())
            .map_err(|_| Refused)?;
        if self.expect_plainly(helped.now, rtcp).is_err() {
            self.forget_same(&rtp);
            return Err(Refused);
        }
        Ok(false)
    }

    /// The same at a pair of ports of the outside address (`nat_rtp_rtcp`). Nothing happens
    /// when there are too many media or no free ports.
    fn expect_rtp_translated(
        &mut self,
        helped: &mut Helped<'_>,
        place: Place,
        pair: [Expectation; 2],
    ) -> Result<bool, Refused> {
        let (id, dir) = (helped.attached.id, helped.dir());
        let mut state = self.h323_state(id);
        let known = |m: &[u16; 2]| m[dir.ix()] == place.port & !1 || m[dir.ix()] == 0;
        let Some(slot) = state.media.iter().position(known) else {
            return Ok(false);
        };
        let pair = pair.map(|mut e| {
            e.on_match = OnMatch::FollowMaster;
            e.dir = dir.other();
            e.saved_id = e.tuple.dst_id;
            e
        });
        let (now, policy) = (helped.now, self.policy(helped.kind, 0));
        let [rtp, rtcp] = &pair;
        let Some(port) = self.on_a_pair(rtp, rtcp, |ct, e| ct.expect(now, e, policy)) else {
            return Ok(false);
        };
        let addr = pair[0].tuple.dst;
        let changed = Self::put_place(helped, place, addr, port | place.port & 1)?;
        if slot < MEDIA {
            state.media[slot][dir.ix()] = place.port & !1;
            state.media[slot][dir.other().ix()] = port;
            self.h323_remember(id, state);
        }
        Ok(changed)
    }

    /// T.120, on any number of connections.
    pub(super) fn expect_t120(
        &mut self,
        helped: &mut Helped<'_>,
        place: Place,
    ) -> Result<bool, Refused> {
        let Some([own, other]) = self.ends_of_own(helped, place) else {
            return Ok(false);
        };
        let to = ({ other.dst }, place.port);
        let Some(mut e) = self.h323_expected(helped, to, proto::TCP, None) else {
            return Ok(false);
        };
        e.flags = expect_flag::PERMANENT;
        if { own.src } != { other.dst } && self.h323_translated(helped) {
            e.on_match = OnMatch::FollowMaster;
            return self.expect_at_place(helped, place, e, false);
        }
        self.expect_plainly(helped.now, e).map_err(|_| Refused)?;
        Ok(false)
    }
}
