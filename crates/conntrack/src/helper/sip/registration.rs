//! Registrations: where user agents can be reached (RFC 3261 section 10).

use super::text::{CONTACT, EXPIRES, Found, Text};
use super::{Message, class};
use crate::entry::{EntryId, Status};
use crate::expect::{Expectation, expect_flag};
use crate::helper::{Announced, CANNOT_EXPECT, Helped, HelperKind};
use crate::reason::DropReason;
use crate::{Conntrack, SECOND, Time};
use tidegate_wire::proto;

impl Conntrack {
    /// A client says where it can be reached (`process_register_request`).
    pub(super) fn sip_registration(
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
    pub(super) fn sip_registered(
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
