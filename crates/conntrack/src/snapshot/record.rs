//! The bodies of records.
//!
//! A *tuple* is source and destination address (4 or 16 bytes each, by the record's
//! family), source and destination id (2 each).
//!
//! A **connection**: its number (8), family (1: 4 or 6), protocol (1), original tuple,
//! reply tuple, status (4), mark (4), zone (2) and its directions (1), life left (8, ns),
//! masquerade interface (4), which of the parts below there are (1, a bit each), protocol
//! state: its kind (1) and its fields in the order of the structure. Then the parts:
//!
//! | bit | part |
//! |---|---|
//! | 0 | counters: packets and bytes of the original, of the reply direction (8 each) |
//! | 1 | has time stamps: nothing |
//! | 2 | age at the moment of writing (8, signed, ns) |
//! | 3 | helper (1) |
//! | 4 | master: its number (8), family (1), protocol (1), original tuple |
//! | 5 | sequence adjustment, per direction: position, offset before, offset after (4 each) |
//! | 6 | FTP, per direction: line ends known (1), their sequence numbers (4, 4) |
//! | 7 | labels (16), security mark (4) |
//!
//! An **expectation**: its master's number (8), family (1), protocol (1), tuple, source
//! mask (16), source id mask (2), zone (2), class (1), flags (1), helper (1, 0 for none),
//! helper of the child (1), what happens to the child (1), direction (1), address before
//! translation (16), id before translation (2), life left (8, ns).

mod read;

use alloc::boxed::Box;
use alloc::string::String;
use alloc::vec::Vec;

use super::bytes::put;
use super::helped::Memory;
use super::older::OlderOf;
use crate::entry::{Entry, EntryId, Extra, HelperKind, ProtoState, Status};
use crate::expect::{Expectation, OnMatch};
use crate::synproxy::Proxied;
use crate::tuple::Tuple;
use crate::{Family, SECOND, Time};

pub(super) use read::read;

/// Longest life that a timeout in seconds can give.
const LONGEST: u64 = u32::MAX as u64 * SECOND;
/// Largest window scale (RFC 7323 section 2.3).
const MAX_WSCALE: u8 = 14;
/// Status bits of a connection that can be restored.
const STATUS: u32 = Status::EXPECTED
    | Status::SEEN_REPLY
    | Status::ASSURED
    | Status::CONFIRMED
    | Status::NAT_MASK
    | Status::SEQ_ADJUST
    | Status::NAT_DONE_MASK
    | Status::FIXED_TIMEOUT
    | Status::HELPER;

mod part {
    pub(super) const COUNTERS: u8 = 1;
    pub(super) const STAMPS: u8 = 2;
    pub(super) const AGE: u8 = 4;
    pub(super) const HELPER: u8 = 8;
    pub(super) const MASTER: u8 = 16;
    pub(super) const SEQADJ: u8 = 32;
    pub(super) const FTP: u8 = 64;
    pub(super) const MARKS: u8 = 128;
}

mod state {
    pub(super) const NONE: u8 = 0;
    pub(super) const TCP: u8 = 1;
    pub(super) const SCTP: u8 = 2;
    pub(super) const UDP: u8 = 3;
    pub(super) const GRE: u8 = 4;
}

/// What a record holds.
pub(super) enum Stored {
    Connection(Box<StoredEntry>),
    Expectation(Box<StoredExpectation>),
    /// Name of the timeout policy that the connection before it has.
    Policy(String),
    /// What the connection before it remembers of its SYN proxy.
    Proxied(Proxied),
    /// What its helper remembers.
    Helped(Memory),
    /// Corrections of its sequence numbers before the last one.
    Older(OlderOf),
    /// Connections and expectations before it.
    End {
        counts: [u32; 2],
    },
}

/// A connection with its times still relative.
pub(super) struct StoredEntry {
    pub(super) id: u64,
    /// Number of its master.
    pub(super) master: Option<u64>,
    /// Life left.
    pub(super) life: Time,
    /// Age, if it has a time of birth.
    pub(super) age: Option<i64>,
    /// Time until two-way UDP traffic counts as a stream.
    pub(super) stream_in: i64,
    /// The rest. Its master has a tuple, but no id that means anything.
    pub(super) entry: Entry,
}

/// An expectation with its time still relative.
pub(super) struct StoredExpectation {
    pub(super) master: u64,
    pub(super) life: Time,
    pub(super) expectation: Expectation,
}

/// Whether an entry is to be written: listed, and not run out at `base`.
pub(super) fn lasts(entry: &Entry, base: Time) -> bool {
    entry.confirmed()
        && !entry.status.has(Status::DYING | Status::NAT_CLASH)
        && entry.timeout > base
}

fn number(id: EntryId) -> u64 {
    u64::from(id.generation.get()) << 32 | u64::from(id.index)
}

/// `to - from` with a sign.
fn difference(to: Time, from: Time) -> i64 {
    (i128::from(to) - i128::from(from)).clamp(i64::MIN.into(), i64::MAX.into()) as i64
}

fn helper_number(helper: Option<HelperKind>) -> u8 {
    let at = HelperKind::all().position(|h| Some(h) == helper);
    at.map_or(0, |i| i as u8 + 1)
}

fn kind(out: &mut Vec<u8>, t: &Tuple) {
    let family = match t.family {
        Family::V4 => 4,
        Family::V6 => 6,
    };
    out.extend_from_slice(&[family, t.proto]);
}

fn tuple(out: &mut Vec<u8>, t: &Tuple) {
    for address in [t.src, t.dst] {
        match t.family {
            Family::V4 => out.extend_from_slice(&(address as u32).to_be_bytes()),
            Family::V6 => out.extend_from_slice(&address.to_be_bytes()),
        }
    }
    put::u16(out, t.src_id);
    put::u16(out, t.dst_id);
}

pub(super) fn connection(out: &mut Vec<u8>, id: EntryId, entry: &Entry, base: Time) {
    // A new field must find its place here.
    let Entry {
        tuples,
        status,
        mark,
        zone,
        timeout,
        proto,
        counters,
        watched: _,
        helper,
        masq_index,
        pending: _,
        extra,
        tags: _,
        place: _,
    } = entry;
    let extra = extra.as_deref().copied().unwrap_or_default();
    let Extra {
        start,
        master,
        children: _,
        expecting: _,
        seqadj,
        helper: remembered,
        labels,
        secmark,
        // Records of their own.
        policy: _,
        proxied: _,
    } = extra;
    let ftp = remembered.ftp();
    let marks = labels != 0 || secmark != 0;
    put::u64(out, number(id));
    kind(out, &tuples[0]);
    tuples.iter().for_each(|t| tuple(out, t));
    put::u32(out, status.0);
    put::u32(out, *mark);
    put::u16(out, zone.id);
    out.push(zone.dirs);
    put::u64(out, timeout.saturating_sub(base));
    put::u32(out, *masq_index);
    let parts = [
        (counters.is_some(), part::COUNTERS),
        (start.is_some(), part::STAMPS),
        (start.is_some(), part::AGE),
        (helper.is_some(), part::HELPER),
        (master.is_some(), part::MASTER),
        (seqadj.is_some(), part::SEQADJ),
        (ftp.is_some(), part::FTP),
        (marks, part::MARKS),
    ];
    out.push(parts.iter().filter(|p| p.0).map(|p| p.1).sum());
    protocol_state(out, proto, base);
    for c in counters.iter().flat_map(|both| both.iter()) {
        put::u64(out, c.packets);
        put::u64(out, c.bytes);
    }
    if let Some(start) = start {
        put::i64(out, difference(base, start));
    }
    if helper.is_some() {
        out.push(helper_number(*helper));
    }
    if let Some(master) = master {
        put::u64(out, number(master.id));
        kind(out, &master.tuple);
        tuple(out, &master.tuple);
    }
    if let Some(seqadj) = seqadj {
        for way in &seqadj.dirs {
            put::u32(out, way.correction_pos);
            put::u32(out, way.offset_before as u32);
            put::u32(out, way.offset_after as u32);
        }
    }
    if let Some(ftp) = ftp {
        for (known, [a, b]) in ftp.line_ends() {
            out.push(known);
            put::u32(out, a);
            put::u32(out, b);
        }
    }
    if marks {
        out.extend_from_slice(&labels.to_be_bytes());
        put::u32(out, secmark);
    }
}

fn protocol_state(out: &mut Vec<u8>, proto: &ProtoState, base: Time) {
    match proto {
        ProtoState::Stateless => out.push(state::NONE),
        ProtoState::Tcp(tcp) => {
            out.push(state::TCP);
            for side in &tcp.seen {
                for n in [side.end, side.maxend, side.maxwin, side.maxack] {
                    put::u32(out, n);
                }
                out.extend_from_slice(&[side.scale, side.flags]);
            }
            let (dir, class) = (tcp.last_dir as u8, tcp.last_class as u8);
            out.extend_from_slice(&[tcp.state as u8, dir, tcp.retrans, class]);
            for n in [tcp.last_seq, tcp.last_ack, tcp.last_end] {
                put::u32(out, n);
            }
            put::u16(out, tcp.last_win);
            out.extend_from_slice(&[tcp.last_wscale, tcp.last_flags]);
        }
        ProtoState::Sctp(sctp) => {
            out.extend_from_slice(&[state::SCTP, sctp.state as u8]);
            sctp.vtag.iter().for_each(|&tag| put::u32(out, tag));
            let [original, reply] = sctp.init.map(u8::from);
            let (dir, failed) = (sctp.last_dir as u8, u8::from(sctp.tag_failed));
            out.extend_from_slice(&[original, reply, dir, failed]);
        }
        ProtoState::Udp { stream_ts } => {
            out.push(state::UDP);
            put::i64(out, difference(*stream_ts, base));
        }
        ProtoState::Gre {
            timeout,
            stream_timeout,
        } => {
            out.push(state::GRE);
            put::u32(out, *timeout);
            put::u32(out, *stream_timeout);
        }
    }
}

pub(super) fn expectation(out: &mut Vec<u8>, e: &Expectation, base: Time) {
    put::u64(out, number(e.master));
    kind(out, &e.tuple);
    tuple(out, &e.tuple);
    out.extend_from_slice(&e.mask_src.to_be_bytes());
    put::u16(out, e.mask_src_id);
    put::u16(out, e.zone);
    let on_match = match e.on_match {
        OnMatch::Plain => 0,
        OnMatch::FollowMaster => 1,
        OnMatch::Tunnel => 2,
        OnMatch::FollowSip => 3,
        OnMatch::FollowCall => 4,
    };
    out.extend_from_slice(&[
        e.class,
        e.flags,
        helper_number(e.helper),
        helper_number(e.assign_helper),
        on_match,
        e.dir as u8,
    ]);
    out.extend_from_slice(&e.saved_addr.to_be_bytes());
    put::u16(out, e.saved_id);
    put::u64(out, e.timeout.saturating_sub(base));
}

/// What cannot be.
pub(super) type Absurd = &'static str;
