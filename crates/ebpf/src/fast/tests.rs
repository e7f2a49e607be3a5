//! The window check as the programs have it, run by an interpreter: the same instructions,
//! with the segment's numbers where the programs have them and a connection in memory.

use tidegate_conntrack::Dir;
use tidegate_conntrack::entry::{TcpClass, TcpConn, TcpSide, TcpState, tcp_flag};

use super::frame::{ACK, DIR, END, SACK, SEQ, WINDOW};
use super::window::judge;
use crate::asm::{Asm, Reg, Size};
use crate::layout::{CONNECTION, tcp_state, windows};

/// Numbers of a segment without payload options.
struct Segment {
    dir: Dir,
    seq: u32,
    end: u32,
    ack: u32,
    sack: u32,
    window: u32,
}

const NUMBERS: [i16; 6] = [DIR, SEQ, END, ACK, SACK, WINDOW];

/// Whether the segment passes, and what it leaves.
fn run(before: &TcpState, segment: &Segment) -> (bool, TcpState) {
    let mut a = Asm::new();
    let doubt = a.label();
    for (i, at) in NUMBERS.into_iter().enumerate() {
        a.load(Size::W, Reg::R2, Reg::R1, i as i16 * 4);
        a.store(Size::W, Reg::R10, at, Reg::R2);
    }
    a.mov(Reg::R9, Reg::R1);
    a.alu(crate::asm::Op::Add, Reg::R9, 24);
    judge(&mut a, Reg::R9, doubt);
    a.mov(Reg::R0, 1);
    a.exit();
    a.bind(doubt);
    a.mov(Reg::R0, 0);
    a.exit();
    let (code, _) = a.finish();
    let code: Vec<u8> = code.iter().flat_map(|i| i.to_bytes()).collect();
    let numbers = [
        segment.dir as u32,
        segment.seq,
        segment.end,
        segment.ack,
        segment.sack,
        segment.window,
    ];
    let mut memory: Vec<u8> = numbers.iter().flat_map(|n| n.to_ne_bytes()).collect();
    memory.extend(windows(before));
    let vm = rbpf::EbpfVmRaw::new(Some(&code)).unwrap();
    let passed = vm.execute_program(&mut memory).unwrap() == 1;
    let bytes: &[u8; CONNECTION] = memory[24..].try_into().unwrap();
    (passed, tcp_state(bytes, before))
}

/// A connection over which the client has sent up to 1000 and the server up to 5000, both
/// acknowledged, with windows of 10,000 bytes.
fn connection() -> TcpState {
    let side = |end: u32| TcpSide {
        end,
        maxend: end + 10_000,
        maxwin: 10_000,
        maxack: 0,
        scale: 2,
        flags: tcp_flag::SACK_PERM | tcp_flag::WINDOW_SCALE,
    };
    TcpState {
        seen: [side(1000), side(5000)],
        state: TcpConn::Established,
        ..TcpState::default()
    }
}

const NEXT: Segment = Segment {
    dir: Dir::Original,
    seq: 1000,
    end: 1100,
    ack: 5000,
    sack: 5000,
    window: 2500,
};

#[test]
fn the_next_segment_passes_and_is_remembered() {
    let (passed, after) = run(&connection(), &NEXT);
    assert!(passed);
    let [client, server] = after.seen;
    assert_eq!((client.end, client.maxack), (1100, 5000));
    assert_eq!(
        client.flags & tcp_flag::DATA_UNACKNOWLEDGED,
        tcp_flag::DATA_UNACKNOWLEDGED
    );
    assert_eq!(client.flags & tcp_flag::MAXACK_SET, tcp_flag::MAXACK_SET);
    // The window of 2500 is scaled by 2: the server may send up to 5000 + 10,000.
    assert_eq!((server.maxend, server.maxwin), (15_000, 10_000));
    assert_eq!(after.last_class, TcpClass::Ack);
    let last = (
        after.last_seq,
        after.last_end,
        after.last_ack,
        after.last_win,
    );
    assert_eq!(last, (1000, 1100, 5000, 2500));
    let (again, after) = run(&after, &NEXT);
    assert!(again);
    assert_eq!(after.retrans, 1);
}

/// The bounds of RFC 9293's window as netfilter keeps it: each test fails by one.
#[test]
fn outside_by_one_is_in_doubt_and_changes_nothing() {
    let before = connection();
    let cases = [
        // I: up to and including the right edge.
        (11_000, 11_000, 5000, true),
        (11_001, 11_001, 5000, false),
        // II: after the left edge, a window below what was sent, less one.
        (0u32.wrapping_sub(9000), 0u32.wrapping_sub(9000), 5000, true),
        (
            0u32.wrapping_sub(9001),
            0u32.wrapping_sub(9001),
            5000,
            false,
        ),
        // III: nothing that was not sent.
        (1000, 1000, 5001, false),
        // IV: nothing older than 66,000 bytes.
        (1000, 1000, 5000u32.wrapping_sub(66_000), true),
        (1000, 1000, 5000u32.wrapping_sub(66_001), false),
    ];
    for (seq, end, ack, passes) in cases {
        let segment = Segment {
            seq,
            end,
            ack,
            sack: ack,
            ..NEXT
        };
        let (passed, after) = run(&before, &segment);
        assert_eq!(passed, passes, "{seq} {end} {ack}");
        if !passes {
            assert_eq!(after, before);
        }
    }
}

#[test]
fn sides_that_nobody_knows_are_in_doubt() {
    for side in 0..2 {
        let mut before = connection();
        before.seen[side].maxwin = 0;
        assert!(!run(&before, &NEXT).0);
    }
}

#[test]
fn blocks_count_where_they_were_allowed() {
    let mut before = connection();
    before.seen[1].end = 7000;
    let segment = Segment { sack: 6500, ..NEXT };
    // Advertised: the window and what the blocks are ahead.
    assert_eq!(run(&before, &segment).1.seen[0].maxwin, 11_500);
    before.seen[1].flags &= !tcp_flag::SACK_PERM;
    assert_eq!(run(&before, &segment).1.seen[0].maxwin, 10_000);
}
