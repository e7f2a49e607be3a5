//! Packets of this host's own sockets: what is different from received ones.
//!
//! What a socket sends is on its way out of an interface already, with the next hop's
//! address on it. A packet that the program answers for goes on from here, past the filters
//! that would bring it up; others go up, and those of a known connection say on their Ethernet source, which
//! is this host's own, whose they are.

use super::find::find;
use super::frame::{ETHERNET, Front, answer, helper, skb};
use super::parse::source_is;
use super::send::{self, ETHERNET_HEADER};
use super::take::take;
use super::{
    CONTEXT, Secrets, count_fate, door, fine, globals, leave, mark_known, ours, turn, waits, word,
};
use crate::asm::{Asm, Cond, Label, Reg, Size};
use crate::layout::{Fate, Hook, global};

/// Place of the Ethernet source in a frame.
const SOURCE: i32 = 6;

pub(super) fn egress(secrets: &Secrets) -> Asm {
    let mut a = Asm::new();
    let (own, next, up, hold) = (a.label(), a.label(), a.label(), a.label());
    a.mov(CONTEXT, Reg::R1);
    sent_on(&mut a, secrets, own);
    a.bind(own);
    fine(&mut a);
    waits(&mut a, next);
    let exits = ours(&mut a, next);
    exits.first(&mut a, exits.unusual);
    find(&mut a, secrets, (Front::Tcx, Hook::Egress), up);
    take(&mut a, hold, None);
    send::pass(&mut a, Hook::Egress, Fate::Sent);

    a.bind(exits.unusual);
    leave(&mut a, Fate::Unusual, up);
    a.bind(hold);
    turn::end(&mut a, None);
    mark_known(&mut a, secrets, SOURCE);
    a.bind(up);
    count_fate(&mut a);
    count(&mut a, global::SENT_UP);
    // As the filter behind would: between there may still be a predecessor's program.
    door(&mut a, 1, next);
    a.call(helper::REDIRECT);
    a.exit();
    a.bind(next);
    a.mov(Reg::R0, answer::NEXT);
    a.exit();
    a
}

/// Lets out what `ingress` has sent on; all else is at `own`.
fn sent_on(a: &mut Asm, secrets: &Secrets, own: Label) {
    for (i, word) in secrets.sent_on.into_iter().enumerate() {
        a.load(Size::W, Reg::R2, CONTEXT, skb::CB + 4 * i as i16);
        a.jump_if32(Cond::Ne, Reg::R2, word as i32, own);
    }
    a.mov(Reg::R0, answer::PASS);
    a.exit();
}

/// Loopback's: all that it sends has been looked at, and comes in.
pub(super) fn inside(secrets: &Secrets) -> Asm {
    let mut a = Asm::new();
    let (next, from_engine) = (a.label(), a.label());
    a.mov(CONTEXT, Reg::R1);
    let exits = ours(&mut a, next);
    exits.load(&mut a, 0, ETHERNET, ETHERNET_HEADER);
    source_is(&mut a, secrets.injected, from_engine);
    // A frame that cannot be read is none of the engine's.
    a.bind(exits.unusual);
    a.bind(exits.fragment);
    a.bind(next);
    a.mov(Reg::R0, answer::NEXT);
    a.exit();
    a.bind(from_engine);
    let_in(&mut a);
    a
}

/// Lets in what comes from the engine, and counts it.
pub(super) fn let_in(a: &mut Asm) {
    count(a, global::LET_IN);
    a.mov(Reg::R0, answer::PASS);
    a.exit();
}

/// Adds one to a word of the globals.
fn count(a: &mut Asm, which: usize) {
    globals(a);
    a.mov(Reg::R1, 1);
    a.fetch_add(Reg::R0, word(which), Reg::R1);
}
