//! SIP (RFC 3261, `nf_conntrack_sip`): where user agents can be reached, and the media of
//! their calls.
//!
//! Over TCP only connections count that began as SIP: a browser that is made to send
//! something like a message in the middle of a request announces nothing.

mod nat;
mod text;

use super::{Announced, CANNOT_EXPECT, Helped, HelperKind, HelperState, decimal};
use crate::entry::{EntryId, Status};
use crate::expect::{ExpectError, Expectation, expect_flag};
use crate::nat::mangle::replace_payload;
use crate::reason::DropReason;
use crate::tuple::{Dir, Tuple};
use crate::{Conntrack, SECOND, Time};
use core::ops::Range;
use text::{CONTACT, CONTENT_LENGTH, CSEQ, EXPIRES, Found, Line, Text, VIA_UDP};
use tidegate_wire::proto;

/// Classes of expectations.
mod class {
    pub(super) const SIGNALLING: u8 = 0;
    pub(super) const AUDIO: u8 = 1;
    pub(super) const VIDEO: u8 = 2;
    pub(super) const IMAGE: u8 = 3;
}

/// Shortest message.
const SHORTEST: usize = b"SIP/2.0 200".len();
const STATUS_LINE: &[u8] = b"SIP/2.0 ";
const END_OF_HEADERS: &[u8] = b"\r\n\r\n";

/// Most media of a description that are looked at.
const MEDIA: usize = 3;
const MEDIA_TYPES: [(&[u8], u8); 3] = [
    (b"audio ", class::AUDIO),
    (b"video ", class::VIDEO),
    (b"image ", class::IMAGE),
];

const NO_VOICE: DropReason = DropReason::Helper("cannot add expectation for voice");

/// What is remembered of a connection (`struct nf_ct_sip_master`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SipState {
    register_cseq: u32,
    invite_cseq: u32,
    /// Where the client of a NAT wants its answers, other than it sends from; 0: there.
    forced_port: u16,
    /// Whether a TCP connection began as SIP, once that is known.
    began: Option<bool>,
}

/// A message and its place in the payload.
struct Message {
    at: usize,
    len: usize,
    /// By how much it has grown.
    grown: i32,
    changed: bool,
}

impl Message {
    fn new(at: usize, len: usize) -> Message {
        Message {
            at,
            len,
            grown: 0,
            changed: false,
        }
    }

    fn text<'h>(&self, helped: &'h Helped<'_>) -> Text<'h> {
        let payload = helped.payload().unwrap_or(&[]);
        Text {
            bytes: payload.get(self.at..self.at + self.len).unwrap_or(&[]),
            family: helped.layout.family,
        }
    }
}

/// Where media go, by what is expected there.
struct Known {
    addr: u128,
    port: u16,
    /// Both ends of the call are behind this NAT and reach each other without it.
    direct: bool,
    /// Another connection expects them.
    enough: bool,
}

/// What a request or the answer to one is about.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Method {
    Invite,
    Update,
    Ack,
    Prack,
    Bye,
    Register,
}

const METHODS: [(&[u8], Method); 6] = [
    (b"INVITE", Method::Invite),
    (b"UPDATE", Method::Update),
    (b"ACK", Method::Ack),
    (b"PRACK", Method::Prack),
    (b"BYE", Method::Bye),
    (b"REGISTER", Method::Register),
];

fn method_at(text: &[u8]) -> Option<(Method, usize)> {
    let found = METHODS.iter().find(|(name, _)| {
        let start = text.get(..name.len());
        start.is_some_and(|t| t.eq_ignore_ascii_case(name))
    })?;
    Some((found.1, found.0.len()))
}

impl Conntrack {
    pub(super) fn help_sip(&mut self, helped: &mut Helped<'_>) -> Result<bool, DropReason> {
        let Some(payload) = helped.payload() else {
            return Ok(false);
        };
        let len = payload.len();
        let tcp = helped.layout.proto == proto::TCP;
        if tcp && !helped.established() {
            return Ok(false);
        }
        let life = self.config.helper.sip_timeout;
        self.prolong(helped.now, helped.attached.id, life);
        if tcp && !self.began_as_sip(helped) || len < SHORTEST {
            return Ok(false);
        }
        if !tcp {
            let mut message = Message::new(0, len);
            self.sip_message(helped, &mut message)?;
            return Ok(message.changed);
        }
        self.sip_stream(helped)
    }

    /// Whether the first segment that the client sent on a TCP connection was SIP; until it
    /// has sent one, nothing is.
    fn began_as_sip(&mut self, helped: &Helped<'_>) -> bool {
        let whole = Message::new(0, helped.payload().map_or(0, <[u8]>::len));
        let begins = whole.text(helped).begins();
        let original = helped.dir() == Dir::Original;
        let Some(state) = self.sip_state_mut(helped.attached.id) else {
            return false;
        };
        if original && state.began.is_none() {
            state.began = Some(begins);
        }
        state.began == Some(true)
    }

    fn sip_state(&self, id: EntryId) -> SipState {
        match self.entry(id).and_then(|e| e.helper_state()) {
            Some(HelperState::Sip(state)) => *state,
            _ => SipState::default(),
        }
    }

    fn sip_state_mut(&mut self, id: EntryId) -> Option<&mut SipState> {
        let remembered = self.remembered(id)?;
        if !matches!(remembered, HelperState::Sip(_)) {
            *remembered = HelperState::Sip(SipState::default());
        }
        match remembered {
            HelperState::Sip(state) => Some(state),
            _ => None,
        }
    }

    /// The messages of a segment, as far as they are whole (`sip_help_tcp`).
    fn sip_stream(&mut self, helped: &mut Helped<'_>) -> Result<bool, DropReason> {
        let (mut at, mut grown, mut changed) = (0, 0, false);
        loop {
            let all = helped.payload().map_or(0, <[u8]>::len);
            let rest = Message::new(at, all.saturating_sub(at));
            let Some(len) = message_len(&rest.text(helped)) else {
                break;
            };
            if len > rest.len {
                break;
            }
            let mut message = Message::new(at, len);
            self.sip_message(helped, &mut message)?;
            at += message.len;
            grown += message.grown;
            changed |= message.changed;
        }
        if self.translated(helped) {
            self.register_resize(helped.attached, helped.seq(), grown);
        }
        Ok(changed)
    }

    fn sip_message(
        &mut self,
        helped: &mut Helped<'_>,
        message: &mut Message,
    ) -> Result<(), DropReason> {
        let status = message.text(helped).bytes.get(..STATUS_LINE.len());
        if status.is_some_and(|s| s.eq_ignore_ascii_case(STATUS_LINE)) {
            self.sip_response(helped, message)?;
        } else {
            self.sip_request(helped, message)?;
        }
        if self.translated(helped) {
            self.translate_sip(helped, message)?;
        }
        Ok(())
    }

    /// Writes `with` in place of the bytes `range` of a message.
    fn rewrite(
        helped: &mut Helped<'_>,
        message: &mut Message,
        range: Range<usize>,
        with: &[u8],
    ) -> Option<()> {
        let whole = message.at + range.start..message.at + range.end;
        let diff = replace_payload(helped.pkt, &helped.layout, whole, with)?;
        helped.layout.len = helped.layout.len.saturating_add_signed(diff);
        message.len = message.len.saturating_add_signed(diff as isize);
        message.grown += diff;
        message.changed = true;
        Some(())
    }

    fn sip_request(
        &mut self,
        helped: &mut Helped<'_>,
        message: &mut Message,
    ) -> Result<(), DropReason> {
        let text = message.text(helped);
        let Some([own, _]) = self.both_ways(helped) else {
            return Ok(());
        };
        // Some telephones send from a high port and listen on another one.
        let via = text.place(&VIA_UDP, 0, false);
        let forced = match via {
            Found::At(via) if via.addr == { own.src } && via.port != own.src_id => Some(via.port),
            _ => None,
        };
        let method = method_at(text.bytes).filter(|(_, len)| {
            let rest = text.bytes.get(*len..).unwrap_or(&[]);
            matches!(rest, [b' ', next, ..] if next.is_ascii_alphabetic())
        });
        let cseq = method.map(|_| cseq(&text)).transpose()?;
        if let (Some(port), Some(state)) = (forced, self.sip_state_mut(helped.attached.id)) {
            state.forced_port = port;
        }
        let (Some((method, _)), Some((cseq, _))) = (method, cseq) else {
            return Ok(());
        };
        match method {
            Method::Invite => {
                self.forget_media(helped.attached.id);
                self.sip_media(helped, message)?;
                if let Some(state) = self.sip_state_mut(helped.attached.id) {
                    state.invite_cseq = cseq;
                }
                Ok(())
            }
            Method::Update | Method::Ack | Method::Prack => self.sip_media(helped, message),
            Method::Bye => {
                self.forget_media(helped.attached.id);
                Ok(())
            }
            Method::Register => self.sip_registration(helped, message, cseq),
        }
    }

    fn sip_response(
        &mut self,
        helped: &mut Helped<'_>,
        message: &mut Message,
    ) -> Result<(), DropReason> {
        let text = message.text(helped);
        if text.bytes.len() < SHORTEST {
            return Ok(());
        }
        let code = text.number(STATUS_LINE.len());
        if code == 0 {
            return Err(DropReason::Helper("cannot get code"));
        }
        let (cseq, end) = cseq(&text)?;
        let method = text.bytes.get(end + 1..).and_then(method_at);
        let id = helped.attached.id;
        match method.map(|(method, _)| method) {
            Some(Method::Invite | Method::Update | Method::Prack) => match code {
                100..=299 => self.sip_media(helped, message),
                _ => {
                    if self.sip_state(id).invite_cseq == cseq {
                        self.forget_media(id);
                    }
                    Ok(())
                }
            },
            Some(Method::Register) => self.sip_registered(helped, message, cseq, code),
            Some(Method::Ack | Method::Bye) | None => Ok(()),
        }
    }

    /// Media that the description in a message announces (`process_sdp`).
    fn sip_media(
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

    fn expect_of_any(&mut self, now: Time, e: Expectation) -> Result<(), ExpectError> {
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
    fn forget_media(&mut self, id: EntryId) {
        self.forget_expectations_where(|e| e.master == id && e.class != class::SIGNALLING);
    }

    /// A client says where it can be reached (`process_register_request`).
    fn sip_registration(
        &mut self,
        helped: &mut Helped<'_>,
        message: &mut Message,
        cseq: u32,
    ) -> Result<(), DropReason> {
        let id = helped.attached.id;
        let expected = |e: &crate::Entry| e.status.has(Status::EXPECTED);
        if self.entry(id).is_none_or(expected) {
            return Ok(());
        }
        let Some([own, other]) = self.both_ways(helped) else {
            return Ok(());
        };
        let text = message.text(helped);
        let usual = expires(&text);
        let contact = match text.place(&CONTACT, 0, false) {
            Found::At(contact) => contact,
            Found::Bad(_) => return Err(DropReason::Helper("cannot parse contact")),
            Found::No => return Ok(()),
        };
        // Nobody registers others.
        if contact.addr != { own.src }
            || !same_transport(&text, contact.at.end, helped.layout.proto)
        {
            return Ok(());
        }
        if life(&text, contact.at.end, usual)? != 0 {
            let direct = self.config.helper.sip_direct_signalling;
            let announced = Announced {
                src: direct.then_some(other.src),
                dst: contact.addr,
                port: contact.port,
                proto: helped.layout.proto,
            };
            let e = Expectation {
                flags: expect_flag::PERMANENT | expect_flag::INACTIVE,
                assign_helper: Some(HelperKind::Sip),
                ..self.announce(helped, &announced)
            };
            if self.translated(helped) {
                self.expect_contact(helped, message, e, contact.at)?;
            } else {
                self.expect_plainly(helped.now, e)
                    .map_err(|_| CANNOT_EXPECT)?;
            }
        }
        if let Some(state) = self.sip_state_mut(id) {
            state.register_cseq = cseq;
        }
        Ok(())
    }

    /// The registrar's answer (`process_register_response`).
    fn sip_registered(
        &mut self,
        helped: &Helped<'_>,
        message: &Message,
        cseq: u32,
        code: u32,
    ) -> Result<(), DropReason> {
        let id = helped.attached.id;
        if self.sip_state(id).register_cseq != cseq || (100..200).contains(&code) {
            return Ok(());
        }
        let Some([own, _]) = self.both_ways(helped) else {
            return Ok(());
        };
        let text = message.text(helped);
        let usual = expires(&text);
        let (mut from, mut inside) = (0, false);
        while (200..300).contains(&code) {
            let contact = match text.place(&CONTACT, from, inside) {
                Found::At(contact) => contact,
                Found::Bad(_) => return Err(DropReason::Helper("cannot parse contact")),
                Found::No => break,
            };
            (from, inside) = (contact.end, true);
            let transport = helped.layout.proto;
            if contact.addr != { own.dst } || !same_transport(&text, contact.at.end, transport) {
                continue;
            }
            let life = life(&text, contact.at.end, usual)?;
            if life == 0 {
                break;
            }
            let reached = (contact.addr, contact.port, transport);
            if self.activate(helped.now, id, reached, life) {
                return Ok(());
            }
        }
        self.forget_expectations_where(|e| e.master == id && e.class == class::SIGNALLING);
        Ok(())
    }

    /// Lets the connections come that a registration announced
    /// (`refresh_signalling_expectation`).
    fn activate(
        &mut self,
        now: Time,
        master: EntryId,
        (addr, port, proto): (u128, u16, u8),
        seconds: u32,
    ) -> bool {
        let deadline = now.saturating_add(Time::from(seconds) * SECOND);
        let wanted = |e: &Expectation| {
            e.master == master
                && e.class == class::SIGNALLING
                && ({ e.tuple.dst }, { e.tuple.dst_id }, e.tuple.proto) == (addr, port, proto)
        };
        self.refresh_expectation(deadline, wanted, |e| e.flags &= !expect_flag::INACTIVE)
    }
}

/// How long a registration is to last by the header for it.
fn expires(text: &Text<'_>) -> u32 {
    match text.header(&EXPIRES, 0) {
        Found::At(range) => text.number(range.start),
        Found::No | Found::Bad(_) => 0,
    }
}

/// How long a contact is to be reached, by its own parameter if it has one.
fn life(text: &Text<'_>, from: usize, usual: u32) -> Result<u32, DropReason> {
    match text.number_in(from, "expires=") {
        Found::At((_, seconds)) => Ok(seconds),
        Found::No => Ok(usual),
        Found::Bad(_) => Err(DropReason::Helper("cannot parse expires")),
    }
}

/// Whether a contact is to be reached by the connection's own transport
/// (`ct_sip_parse_transport`).
fn same_transport(text: &Text<'_>, from: usize, transport: u8) -> bool {
    let name: &[u8] = match transport {
        proto::TCP => b"TCP",
        _ => b"UDP",
    };
    text.word(from, "transport=").is_none_or(|word| {
        let start = word.get(..name.len());
        start.is_some_and(|w| w.eq_ignore_ascii_case(name))
    })
}

/// A message's sequence number, and where its digits end.
fn cseq(text: &Text<'_>) -> Result<(u32, usize), DropReason> {
    match text.header(&CSEQ, 0) {
        Found::At(range) => Ok((text.number(range.start), range.end)),
        Found::No | Found::Bad(_) => Err(DropReason::Helper("cannot parse cseq")),
    }
}

/// How long the first message of a stream is by its header; `None` when it does not say.
fn message_len(text: &Text<'_>) -> Option<usize> {
    let Found::At(length) = text.header(&CONTENT_LENGTH, 0) else {
        return None;
    };
    let (body, _) = decimal(text.bytes.get(length.clone())?);
    let rest = text.bytes.get(length.end..)?;
    let mut windows = rest.windows(END_OF_HEADERS.len());
    let end = windows.position(|w| w == END_OF_HEADERS)? + END_OF_HEADERS.len();
    let body = usize::try_from(body).unwrap_or(usize::MAX);
    Some((length.end + end).saturating_add(body))
}
