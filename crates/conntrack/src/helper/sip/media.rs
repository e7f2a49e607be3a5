//! Media of calls: the descriptions (RFC 4566) that messages carry, and what is expected.

use super::text::{Found, Line};
use super::{Message, class};
use crate::entry::{EntryId, Status};
use crate::expect::{ExpectError, Expectation};
use crate::helper::{Announced, Helped, HelperKind};
use crate::reason::DropReason;
use crate::tuple::Tuple;
use crate::{Conntrack, Time};
use core::ops::Range;
use tidegate_wire::proto;

/// Most media of a description that are looked at.
const MEDIA: usize = 3;
const MEDIA_TYPES: [(&[u8], u8); 3] = [
    (b"audio ", class::AUDIO),
    (b"video ", class::VIDEO),
    (b"image ", class::IMAGE),
];

const NO_VOICE: DropReason = DropReason::Helper("cannot add expectation for voice");

/// Where media go, by what is expected there.
struct Known {
    addr: u128,
    port: u16,
    /// Both ends of the call are behind this NAT and reach each other without it.
    direct: bool,
    /// Another connection expects them.
    enough: bool,
}

impl Conntrack {
    /// Media that the description in a message announces (`process_sdp`).
    pub(super) fn sip_media(
        &mut self,
        helped: &mut Helped<'_>,
        message: &mut Message,
    ) -> Result<(), DropReason> {
        let text = message.text(helped);
        let Found::At(session) = text.sdp(Line::Version, None, 0) else {
            return Ok(());
        };
        let session = session.start;
        let common = text.sdp_address(session);
        let (mut from, mut count, mut last) = (session, 0, None);
        while count < MEDIA {
            let text = message.text(helped);
            let Found::At(media) = text.sdp(Line::Media, None, from) else {
                break;
            };
            let words = text.bytes.get(media.clone()).unwrap_or(&[]);
            let known = MEDIA_TYPES.iter().find(|(name, _)| words.starts_with(name));
            let Some((name, class)) = known else {
                from = media.end;
                continue;
            };
            let port_at = media.start + name.len()..media.end;
            from = port_at.start;
            let number = text.number(port_at.start);
            if number == 0 {
                continue;
            }
            let port = u16::try_from(number).ok().filter(|p| *p >= 1024);
            let port = port.ok_or(DropReason::HelperPort(number))?;
            let own = text.sdp_address(from);
            let addr = own
                .or(common)
                .ok_or(DropReason::Helper("cannot parse SDP message"))?;
            let addr = self.expect_media(helped, message, *class, (addr, port), port_at)?;
            if own.is_some() && self.translated(helped) {
                Self::rewrite_sdp(helped, message, Line::Connection, from, addr)
                    .ok_or(DropReason::Helper("cannot mangle SDP"))?;
            }
            last = Some(addr);
            count += 1;
        }
        match last.filter(|_| self.translated(helped)) {
            Some(addr) => Self::rewrite_session(helped, message, session, addr)
                .ok_or(DropReason::HelperSilent),
            None => Ok(()),
        }
    }

    /// Expects RTP and RTCP (`set_expected_rtp_rtcp`); returns the address that the media
    /// go to as the other side sees it.
    fn expect_media(
        &mut self,
        helped: &mut Helped<'_>,
        message: &mut Message,
        class: u8,
        (addr, port): (u128, u16),
        port_at: Range<usize>,
    ) -> Result<u128, DropReason> {
        let Some([own, other]) = self.both_ways(helped) else {
            return Ok(addr);
        };
        let direct = self.config.helper.sip_direct_media;
        if direct && addr != { own.src } {
            return Ok(addr);
        }
        let outside = self.config.helper.sip_external_media && !direct;
        if outside && helped.ways.outside(helped.layout.family, addr) {
            return Ok(addr);
        }
        let src = direct.then_some(other.src);
        let Some(known) = self.known_media(helped, class, src, (addr, port)) else {
            return Ok(addr);
        };
        let Known { addr, port, .. } = known;
        if known.direct {
            Self::rewrite_port(helped, message, port_at.clone(), port & !1).ok_or(NO_VOICE)?;
        }
        if known.enough {
            return Ok(addr);
        }
        let [rtp, rtcp] = [port & !1, port | 1].map(|port| {
            let announced = Announced {
                src,
                dst: addr,
                port,
                proto: proto::UDP,
            };
            Expectation {
                class,
                ..self.announce(helped, &announced)
            }
        });
        if self.translated(helped) && !known.direct {
            return self.expect_media_translated(helped, message, [rtp, rtcp], port_at);
        }
        self.expect_pair(helped.now, rtp, rtcp)?;
        Ok(addr)
    }

    /// Puts both in force; one that another connection expects already is as good.
    fn expect_pair(
        &mut self,
        now: Time,
        rtp: Expectation,
        rtcp: Expectation,
    ) -> Result<(), DropReason> {
        let first = self.expect_of_any(now, rtp.clone());
        if !matches!(first, Ok(()) | Err(ExpectError::Already)) {
            return Err(NO_VOICE);
        }
        match self.expect_of_any(now, rtcp) {
            Ok(()) | Err(ExpectError::Already) => Ok(()),
            Err(_) => {
                if first.is_ok() {
                    self.forget_same(&rtp);
                }
                Err(NO_VOICE)
            }
        }
    }

    pub(super) fn expect_of_any(&mut self, now: Time, e: Expectation) -> Result<(), ExpectError> {
        let policy = self.policy(HelperKind::Sip, e.class);
        self.expect_from_any(now, e, policy)
    }

    /// What other connections expect at the media's address already.
    fn known_media(
        &self,
        helped: &Helped<'_>,
        class: u8,
        src: Option<u128>,
        (addr, port): (u128, u16),
    ) -> Option<Known> {
        let master = self.entry(helped.attached.id)?;
        let mut tuple = Tuple {
            src: src.unwrap_or(0),
            dst: addr,
            src_id: 0,
            dst_id: port,
            family: helped.layout.family,
            proto: proto::UDP,
        };
        let (mut direct, mut enough) = (false, false);
        while let Some(e) = self.expectation(&tuple, master.zone.id) {
            let helper = self.entry(e.master).and_then(|m| m.helper);
            if e.master == helped.attached.id || helper != Some(helped.kind) || e.class != class {
                break;
            }
            let moved = e.saved_addr != 0
                && (e.saved_addr, e.saved_id) != ({ e.tuple.dst }, { e.tuple.dst_id });
            if direct || !moved || !master.status.has(Status::NAT_MASK) {
                enough = true;
                break;
            }
            tuple.dst = e.saved_addr;
            tuple.dst_id = e.saved_id;
            direct = true;
        }
        Some(Known {
            addr: tuple.dst,
            port: tuple.dst_id,
            direct,
            enough,
        })
    }

    /// The media of a call that has ended, or begins anew.
    pub(super) fn forget_media(&mut self, id: EntryId) {
        self.forget_expectations_where(|e| e.master == id && e.class != class::SIGNALLING);
    }
}
