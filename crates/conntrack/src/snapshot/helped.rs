//! What helpers remember of a connection, in a record of its own after it.
//!
//! | helper | body |
//! |---|---|
//! | SIP | 1, numbers of the last registration and call (4 each), port for answers (2), whether it began as SIP (1) |
//! | H.323 | 2, signalling ports by direction (2 each), four pairs of media ports (4 each), life of the registration (4), awaited lengths by direction (2 each), who asked by direction (1 each), whether it began as a call (1) |
//! | SANE | 3: an image was asked for, and not answered |
//! | PPTP | 4, states of session and call (1 each), call ids of client and server outside and their own (2 each), whether it has a tunnel (1) |
//!
//! What is not known yet is 0, no is 1, yes is 2. FTP has a part of the connection's record.

use alloc::vec::Vec;

use super::bytes::{In, put};
use super::record::Absurd;
use crate::helper::HelperState;
use crate::helper::h323::H323State;
use crate::helper::pptp::PptpState;
use crate::helper::sip::SipState;

const SIP: u8 = 1;
const H323: u8 = 2;
const SANE: u8 = 3;
const PPTP: u8 = 4;
const LENGTH: Absurd = "length";

/// What one record says.
#[derive(Debug)]
pub(super) struct Memory {
    pub(super) state: HelperState,
    /// PPTP: packets of its tunnel are known by their call ids.
    pub(super) tunnel: bool,
}

/// Whether there is something for a record.
pub(super) fn has(state: &HelperState) -> bool {
    !matches!(state, HelperState::None | HelperState::Ftp(_))
}

pub(super) fn write(out: &mut Vec<u8>, memory: &Memory) {
    match &memory.state {
        HelperState::Sip(sip) => {
            out.push(SIP);
            put::u32(out, sip.register_cseq);
            put::u32(out, sip.invite_cseq);
            put::u16(out, sip.forced_port);
            out.push(perhaps(sip.began));
        }
        HelperState::H323(h323) => {
            out.push(H323);
            let ports = h323.signal.iter().chain(h323.media.as_flattened());
            ports.for_each(|port| put::u16(out, *port));
            put::u32(out, h323.life);
            h323.split.iter().for_each(|len| put::u16(out, *len));
            out.extend(h323.asked.map(u8::from));
            out.push(perhaps(h323.began));
        }
        HelperState::SaneAsked => out.push(SANE),
        HelperState::Pptp(pptp) => {
            let (states, ids) = pptp.numbers();
            out.push(PPTP);
            out.extend(states);
            ids.iter().for_each(|id| put::u16(out, *id));
            out.push(u8::from(memory.tunnel));
        }
        HelperState::None | HelperState::Ftp(_) => {}
    }
}

pub(super) fn read(body: &[u8]) -> Result<Memory, Absurd> {
    let mut fields = In::new(body);
    let mut tunnel = false;
    let state = match fields.u8() {
        Some(SIP) => HelperState::Sip(SipState {
            register_cseq: fields.u32().ok_or(LENGTH)?,
            invite_cseq: fields.u32().ok_or(LENGTH)?,
            forced_port: fields.u16().ok_or(LENGTH)?,
            began: read_perhaps(&mut fields)?,
        }),
        Some(H323) => HelperState::H323(read_h323(&mut fields)?),
        Some(SANE) => HelperState::SaneAsked,
        Some(PPTP) => {
            let state = read_pptp(&mut fields)?;
            tunnel = flag(&mut fields)?;
            HelperState::Pptp(state)
        }
        _ => return Err("helper"),
    };
    match fields.rest() {
        [] => Ok(Memory { state, tunnel }),
        _ => Err(LENGTH),
    }
}

fn read_h323(fields: &mut In<'_>) -> Result<H323State, Absurd> {
    let mut state = H323State::default();
    let ports = state
        .signal
        .iter_mut()
        .chain(state.media.as_flattened_mut());
    for port in ports {
        *port = fields.u16().ok_or(LENGTH)?;
    }
    state.life = fields.u32().ok_or(LENGTH)?;
    for len in &mut state.split {
        *len = fields.u16().ok_or(LENGTH)?;
    }
    for asked in &mut state.asked {
        *asked = flag(fields)?;
    }
    state.began = read_perhaps(fields)?;
    Ok(state)
}

fn read_pptp(fields: &mut In<'_>) -> Result<PptpState, Absurd> {
    let (mut states, mut ids) = ([0; 2], [0; 4]);
    for state in &mut states {
        *state = fields.u8().ok_or(LENGTH)?;
    }
    for id in &mut ids {
        *id = fields.u16().ok_or(LENGTH)?;
    }
    PptpState::from_numbers(states, ids).ok_or("state")
}

fn flag(fields: &mut In<'_>) -> Result<bool, Absurd> {
    match fields.u8().ok_or(LENGTH)? {
        0 => Ok(false),
        1 => Ok(true),
        _ => Err("flag"),
    }
}

fn perhaps(known: Option<bool>) -> u8 {
    known.map_or(0, |yes| 1 + u8::from(yes))
}

fn read_perhaps(fields: &mut In<'_>) -> Result<Option<bool>, Absurd> {
    match fields.u8().ok_or(LENGTH)? {
        0 => Ok(None),
        1 => Ok(Some(false)),
        2 => Ok(Some(true)),
        _ => Err("flag"),
    }
}
