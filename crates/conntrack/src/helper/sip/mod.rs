//! SIP (RFC 3261, `nf_conntrack_sip`): where user agents can be reached, and the media of
//! their calls.
//!
//! Over TCP only connections count that began as SIP: a browser that is made to send
//! something like a message in the middle of a request announces nothing.

mod media;
mod nat;
mod registration;
mod text;

use super::{Helped, HelperState, decimal};
use crate::Conntrack;
use crate::entry::EntryId;
use crate::nat::mangle::replace_payload;
use crate::reason::DropReason;
use crate::tuple::Dir;
use core::ops::Range;
use text::{CONTENT_LENGTH, CSEQ, Found, Text, VIA_UDP};
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

/// What is remembered of a connection (`struct nf_ct_sip_master`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SipState {
    pub(crate) register_cseq: u32,
    pub(crate) invite_cseq: u32,
    /// Where the client of a NAT wants its answers, other than it sends from; 0: there.
    pub(crate) forced_port: u16,
    /// Whether a TCP connection began as SIP, once that is known.
    pub(crate) began: Option<bool>,
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
        let began = !tcp || self.began_as_sip(helped);
        if tcp && !helped.established() {
            return Ok(false);
        }
        let life = self.config.helper.sip_timeout;
        self.prolong(helped.now, helped.attached.id, life);
        if !began || len < SHORTEST {
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
