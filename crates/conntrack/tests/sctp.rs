//! What SCTP packets are told, and how long associations stay. Which packets Linux
//! accepts is in `corpus/sctp.txt`.
#![allow(clippy::unwrap_used, reason = "a test over packets of its own")]

mod packets;

use packets::{HOST, Lab, init, small};
use tidegate_conntrack::entry::{SctpConn, SctpState, TcpState};
use tidegate_conntrack::{EntryId, InvalidReason, Note, Tracked};

const INIT: u8 = 1;
const INIT_ACK: u8 = 2;
const HEARTBEAT: u8 = 4;
const SHUTDOWN: u8 = 7;
const SHUTDOWN_ACK: u8 = 8;
const COOKIE_ECHO: u8 = 10;
const COOKIE_ACK: u8 = 11;

fn to(tag: u32, kind: u8, value: &[u8]) -> Vec<u8> {
    HOST.sctp((3000, 36412), tag, kind, value)
}

fn from(tag: u32, kind: u8, value: &[u8]) -> Vec<u8> {
    HOST.back().sctp((36412, 3000), tag, kind, value)
}

fn established(lab: &mut Lab) -> EntryId {
    let id = lab.pass(&to(0, INIT, &init(1))).id;
    lab.pass(&from(1, INIT_ACK, &init(2)));
    lab.pass(&to(2, COOKIE_ECHO, b"ck00"));
    lab.pass(&from(1, COOKIE_ACK, b""));
    id
}

#[test]
fn reasons_name_what_is_wrong() {
    let mut lab = Lab::new(small());
    let mut damaged = to(0, INIT, &init(1));
    *damaged.last_mut().unwrap() ^= 1;
    let kinds = [
        (to(0, 0, b"data"), InvalidReason::ChunkCannotOpen(0)),
        (to(0, COOKIE_ACK, b""), InvalidReason::ChunkCannotOpen(11)),
        (to(9, INIT, &init(1)), InvalidReason::ChunkTag(9)),
        (to(0, INIT, b"short"), InvalidReason::Truncated),
        (damaged, InvalidReason::BadChecksum),
    ];
    for (pkt, reason) in kinds {
        let Tracked::Invalid(got) = lab.classify(&pkt, None) else {
            panic!("not {reason}");
        };
        assert_eq!(got, reason);
    }
    lab.pass(&to(5, HEARTBEAT, b"beat"));
    let answer = lab.classify(&from(0, INIT, &init(2)), None);
    let Tracked::Invalid(reason) = answer else {
        panic!("{answer:?}");
    };
    assert_eq!(
        reason.to_string(),
        "SCTP chunk INIT is not valid in state HEARTBEAT_SENT"
    );
}

#[test]
fn notes_say_why_the_timer_stays() {
    let mut lab = Lab::new(small());
    lab.pass(&to(0, INIT, &init(1)));
    assert_eq!(lab.ct.last_note(), None);
    lab.pass(&to(0, INIT, &init(1)));
    assert_eq!(lab.ct.last_note(), Some(Note::InitRetransmitted));
    // The server's tag is not known yet: the first heartbeat teaches it.
    lab.pass(&to(7, HEARTBEAT, b"beat"));
    assert_eq!(lab.ct.last_note(), None);
    lab.pass(&to(8, HEARTBEAT, b"beat"));
    assert_eq!(lab.ct.last_note(), Some(Note::HeartbeatTag(8)));
}

#[test]
fn a_full_table_may_evict_associations_shutting_down() {
    let mut lab = Lab::new(small());
    let id = established(&mut lab);
    let evictable = |lab: &Lab| lab.ct.entry(id).unwrap().can_early_drop();
    assert!(!evictable(&lab));
    lab.pass(&to(2, SHUTDOWN, b"0000"));
    assert!(evictable(&lab));
    lab.pass(&from(1, SHUTDOWN_ACK, b""));
    assert!(evictable(&lab));
    assert!(!SctpConn::Closed.can_early_drop());
    assert!(SctpConn::ShutdownRecd.can_early_drop());
}

#[test]
fn an_association_needs_less_memory_than_a_tcp_connection() {
    assert!(size_of::<SctpState>() <= size_of::<TcpState>() / 2);
}
