//! Addresses in SIP messages of translated connections (`nf_nat_sip`).

use super::super::{CANNOT_MANGLE, Helped};
use super::text::{
    CONTACT, CONTENT_LENGTH, FROM, Found, Header, Line, Place, TO, VIA_TCP, VIA_UDP, write_address,
};
use super::{Message, STATUS_LINE, class};
use crate::entry::EntryId;
use crate::expect::{Expectation, OnMatch};
use crate::nat::{Manip, NatRange};
use crate::reason::DropReason;
use crate::tuple::Dir;
use crate::{Conntrack, Family};
use alloc::format;
use alloc::string::{String, ToString};
use core::ops::Range;
use tidegate_wire::{proto, put};

const CANNOT_TRANSLATE: DropReason = DropReason::Helper("cannot NAT SIP message");
const NO_PORTS: DropReason = DropReason::Helper("all ports in use for SDP media");

/// An address and a port as a URI has them.
fn write_place(family: Family, addr: u128, port: u16) -> String {
    format!("{}:{port}", write_address(family, addr, true))
}

impl Conntrack {
    /// Translates what a message says about its own connection (`nf_nat_sip`).
    pub(super) fn translate_sip(
        &mut self,
        helped: &mut Helped<'_>,
        message: &mut Message,
    ) -> Result<(), DropReason> {
        self.translate_headers(helped, message)
            .ok_or(CANNOT_TRANSLATE)
    }

    fn translate_headers(&self, helped: &mut Helped<'_>, message: &mut Message) -> Option<()> {
        let text = message.text(helped);
        let status = &STATUS_LINE[..STATUS_LINE.len() - 1];
        let start = text.bytes.get(..status.len());
        let request = !start.is_some_and(|s| s.eq_ignore_ascii_case(status));
        if let Some(place) = text.request().filter(|_| request) {
            self.map_place(helped, message, &place)?;
        }
        self.translate_via(helped, message, request)?;
        let (mut from, mut inside) = (0, false);
        // What was read stays behind, whatever is written.
        while let Found::At(place) = message.text(helped).place(&CONTACT, from, inside) {
            (from, inside) = (place.end, true);
            self.map_place(helped, message, &place)?;
        }
        self.map_header(helped, message, &FROM)?;
        self.map_header(helped, message, &TO)?;
        let forced = self.sip_state(helped.attached.id).forced_port;
        if helped.dir() == Dir::Reply && forced != 0 && helped.layout.proto == proto::UDP {
            put(
                helped.pkt,
                usize::from(helped.layout.l4) + 2,
                &forced.to_be_bytes(),
            );
            Self::rewrite(helped, message, 0..0, b"")?;
        }
        Some(())
    }

    fn map_header(
        &self,
        helped: &mut Helped<'_>,
        message: &mut Message,
        header: &Header,
    ) -> Option<()> {
        match message.text(helped).place(header, 0, false) {
            Found::At(place) => self.map_place(helped, message, &place),
            Found::No | Found::Bad(_) => Some(()),
        }
    }

    /// Writes an address of this connection as the other side knows it (`map_addr`).
    fn map_place(
        &self,
        helped: &mut Helped<'_>,
        message: &mut Message,
        place: &Place,
    ) -> Option<()> {
        let [own, other] = self.both_ways(helped)?;
        let was = (place.addr, place.port);
        let new = if was == ({ own.src }, { own.src_id }) {
            ({ other.dst }, { other.dst_id })
        } else if was == ({ own.dst }, { own.dst_id }) {
            let forced = self.sip_state(helped.attached.id).forced_port;
            let port = if forced == 0 { other.src_id } else { forced };
            ({ other.src }, port)
        } else {
            return Some(());
        };
        if new == was {
            return Some(());
        }
        let with = write_place(helped.layout.family, new.0, new.1);
        Self::rewrite(helped, message, place.at.clone(), with.as_bytes())
    }

    /// The topmost Via header: where the answer goes (RFC 3261, RFC 3581).
    fn translate_via(
        &self,
        helped: &mut Helped<'_>,
        message: &mut Message,
        request: bool,
    ) -> Option<()> {
        let header = match helped.layout.proto {
            proto::TCP => VIA_TCP,
            _ => VIA_UDP,
        };
        let [own, other] = self.both_ways(helped)?;
        let Found::At(via) = message.text(helped).place(&header, 0, false) else {
            return Some(());
        };
        let end = match request {
            true => ({ own.src }, { own.src_id }),
            false => ({ own.dst }, { own.dst_id }),
        };
        if (via.addr, via.port) != end {
            return Some(());
        }
        let family = helped.layout.family;
        let before = message.len;
        self.map_place(helped, message, &via)?;
        let after = (via.at.end + message.len).saturating_sub(before);
        let text = message.text(helped);
        if let Some((range, addr)) = text.address_in(after, "maddr=", true)
            && addr == { own.src }
            && addr != { other.dst }
        {
            let with = write_address(family, other.dst, true);
            Self::rewrite(helped, message, range, with.as_bytes())?;
        }
        let text = message.text(helped);
        if let Some((range, addr)) = text.address_in(after, "received=", false)
            && addr == { own.dst }
            && addr != { other.src }
        {
            let with = write_address(family, other.src, false);
            Self::rewrite(helped, message, range, with.as_bytes())?;
        }
        if let Found::At((range, port)) = message.text(helped).number_in(after, "rport=")
            && port as u16 == own.dst_id
            && port as u16 != other.src_id
        {
            let with = { other.src_id }.to_string();
            Self::rewrite(helped, message, range, with.as_bytes())?;
        }
        Some(())
    }

    /// Expects what a translated client registers (`nf_nat_sip_expect`).
    pub(super) fn expect_contact(
        &mut self,
        helped: &mut Helped<'_>,
        message: &mut Message,
        mut e: Expectation,
        at: Range<usize>,
    ) -> Result<(), DropReason> {
        let Some([own, other]) = self.both_ways(helped) else {
            return Ok(());
        };
        let forced = self.sip_state(helped.attached.id).forced_port;
        let sends_from = if forced == 0 { own.src_id } else { forced };
        let listens = { e.tuple.dst_id };
        let first = if listens == sends_from {
            other.dst_id
        } else {
            listens
        };
        follow(&mut e, helped.dir().other());
        if { own.src } != { other.dst } {
            e.tuple.dst = other.dst;
        }
        let saved = (e.saved_addr, e.saved_id);
        let addr = { e.tuple.dst };
        let port = self
            .expect_on_some_port(helped.now, &e, first)
            .map_err(|_| DropReason::Helper("all ports in use for SIP"))?;
        if (addr, port) == saved {
            return Ok(());
        }
        let with = write_place(helped.layout.family, addr, port);
        if Self::rewrite(helped, message, at, with.as_bytes()).is_none() {
            e.tuple.dst_id = port;
            self.forget_same(&e);
            return Err(CANNOT_MANGLE);
        }
        Ok(())
    }

    /// Expects media at a pair of ports of the outside address (`nf_nat_sdp_media`); returns
    /// that address.
    pub(super) fn expect_media_translated(
        &mut self,
        helped: &mut Helped<'_>,
        message: &mut Message,
        pair: [Expectation; 2],
        port_at: Range<usize>,
    ) -> Result<u128, DropReason> {
        let Some([own, other]) = self.both_ways(helped) else {
            return Err(NO_PORTS);
        };
        let [rtp, rtcp] = pair.map(|mut e| {
            follow(&mut e, helped.dir().other());
            if { own.src } != { other.dst } {
                e.tuple.dst = other.dst;
            }
            e
        });
        let now = helped.now;
        let port = self.on_a_pair(&rtp, &rtcp, |ct, e| ct.expect_of_any(now, e));
        let port = port.ok_or(NO_PORTS)?;
        if port != rtp.saved_id && Self::rewrite_port(helped, message, port_at, port).is_none() {
            for (mut e, port) in [(rtp, port), (rtcp, port + 1)] {
                e.tuple.dst_id = port;
                self.forget_same(&e);
            }
            return Err(CANNOT_MANGLE);
        }
        Ok(rtp.tuple.dst)
    }

    pub(super) fn rewrite_port(
        helped: &mut Helped<'_>,
        message: &mut Message,
        at: Range<usize>,
        port: u16,
    ) -> Option<()> {
        Self::rewrite(helped, message, at, port.to_string().as_bytes())?;
        Self::rewrite_length(helped, message)
    }

    /// The address in a line of the description, and the length of what changed; nothing to
    /// do when there is no such line.
    fn rewrite_line(
        helped: &mut Helped<'_>,
        message: &mut Message,
        line: Line,
        from: usize,
        addr: u128,
    ) -> Option<bool> {
        let text = message.text(helped);
        let Found::At(range) = text.sdp(line, Some(Line::Media), from) else {
            return Some(false);
        };
        let with = write_address(helped.layout.family, addr, false);
        Self::rewrite(helped, message, range, with.as_bytes())?;
        Some(true)
    }

    pub(super) fn rewrite_sdp(
        helped: &mut Helped<'_>,
        message: &mut Message,
        line: Line,
        from: usize,
        addr: u128,
    ) -> Option<()> {
        // Without the line there is something wrong.
        Self::rewrite_line(helped, message, line, from, addr)?.then_some(())?;
        Self::rewrite_length(helped, message)
    }

    /// The session's owner and connection (`nf_nat_sdp_session`).
    pub(super) fn rewrite_session(
        helped: &mut Helped<'_>,
        message: &mut Message,
        from: usize,
        addr: u128,
    ) -> Option<()> {
        Self::rewrite_line(helped, message, Line::Owner, from, addr)?.then_some(())?;
        Self::rewrite_line(helped, message, Line::Connection, from, addr)?;
        Self::rewrite_length(helped, message)
    }

    /// Tells the length of the description (`mangle_content_len`).
    fn rewrite_length(helped: &mut Helped<'_>, message: &mut Message) -> Option<()> {
        let text = message.text(helped);
        let Found::At(version) = text.sdp(Line::Version, None, 0) else {
            return None;
        };
        let len = message.len - version.start + Line::Version.name().len();
        let Found::At(range) = text.header(&CONTENT_LENGTH, 0) else {
            return None;
        };
        Self::rewrite(helped, message, range, len.to_string().as_bytes())
    }

    /// Translates a connection that SIP announced (`nf_nat_sip_expected`): media between two
    /// clients of a NAT in both ways.
    pub(crate) fn follow_sip(&mut self, id: EntryId, expected: &Expectation) {
        let Some(tuple) = self.entry(id).map(|e| *e.tuple(Dir::Original)) else {
            return;
        };
        let to = NatRange {
            ports: Some((expected.saved_id, expected.saved_id)),
            ..NatRange::address(expected.saved_addr)
        };
        let pair = (expected.class != class::SIGNALLING)
            .then(|| {
                self.youngest_expectation(expected.master, |e| {
                    e.tuple.family == tuple.family
                        && e.tuple.proto == tuple.proto
                        && (e.saved_addr, e.saved_id) == ({ tuple.src }, { tuple.src_id })
                })
            })
            .flatten();
        let from = match pair {
            Some(e) => Some(NatRange {
                ports: Some(({ e.tuple.dst_id }, { e.tuple.dst_id })),
                ..NatRange::address(e.tuple.dst)
            }),
            None => self.entry(expected.master).and_then(|master| {
                let peer = master.tuple(expected.dir).src == { tuple.src };
                let outside = master.tuple(expected.dir.other()).dst;
                peer.then(|| NatRange::address(outside))
            }),
        };
        // Neither can fail: the child was there a moment ago.
        let _ = self.nat_setup(id, Manip::Dst, &to);
        if let Some(from) = from {
            let _ = self.nat_setup(id, Manip::Src, &from);
        }
    }
}

/// Has what is expected in `dir` of its master translated to where it is announced.
fn follow(e: &mut Expectation, dir: Dir) {
    e.on_match = OnMatch::FollowSip;
    e.dir = dir;
    e.saved_addr = e.tuple.dst;
    e.saved_id = e.tuple.dst_id;
}
