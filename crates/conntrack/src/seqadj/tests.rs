use super::*;
use alloc::vec::Vec;
use tidegate_wire::checksum::{finish, fold, pseudo, sum};
use tidegate_wire::{Family, proto};

/// A segment with a right checksum for the addresses 1 and 2.
fn segment(seq: u32, ack: u32, options: &[u8], payload: &[u8]) -> Vec<u8> {
    let mut s = Vec::from([0x0b, 0xb8, 0, 21]);
    s.extend(seq.to_be_bytes());
    s.extend(ack.to_be_bytes());
    let words = (20 + options.len()) / 4;
    s.extend([(words as u8) << 4, flags::ACK, 255, 255, 0, 0, 0, 0]);
    s.extend(options);
    s.extend(payload);
    let check = finish(sum_of(&s, 0), &s);
    s[16..18].copy_from_slice(&check.to_be_bytes());
    s
}

fn sum_of(s: &[u8], extra: u64) -> u64 {
    pseudo(Family::V4, 1, 2, proto::TCP, s.len() as u32) + extra
}

fn checksum_is_right(s: &[u8]) -> bool {
    fold(sum_of(s, sum(s))) == 0xffff
}

fn seq_of(s: &[u8]) -> u32 {
    Tcp::new(s).map_or(0, |t| t.seq())
}

fn ack_of(s: &[u8]) -> u32 {
    Tcp::new(s).map_or(0, |t| t.ack())
}

/// Runs `adjust` and returns the segment, having verified its checksum.
fn adjusted(adj: &SeqAdj, dir: Dir, mut s: Vec<u8>) -> Vec<u8> {
    adj.adjust(dir, &mut s).unwrap();
    assert!(checksum_is_right(&s));
    s
}

#[test]
fn the_resized_segment_keeps_its_number_and_what_follows_moves() {
    let mut adj = SeqAdj::default();
    adj.register(Dir::Original, 1000, -2);
    let seq = |n| seq_of(&adjusted(&adj, Dir::Original, segment(n, 7, &[], b"x")));
    assert_eq!([seq(999), seq(1000), seq(1001)], [999, 1000, 999]);
}

#[test]
fn the_peer_acknowledges_in_the_senders_numbers() {
    let mut adj = SeqAdj::default();
    adj.register(Dir::Original, 1000, 5);
    // The segment 1000..1020 went out as 1000..1025; the peer acknowledges 1025.
    let ack = |n| ack_of(&adjusted(&adj, Dir::Reply, segment(7, n, &[], &[])));
    assert_eq!([ack(1000), ack(1001), ack(1025)], [1000, 996, 1020]);
    assert_eq!(
        seq_of(&adjusted(&adj, Dir::Reply, segment(7, 1025, &[], &[]))),
        7
    );
}

#[test]
fn retransmissions_do_not_register_twice() {
    let mut adj = SeqAdj::default();
    adj.register(Dir::Original, 1000, 3);
    adj.register(Dir::Original, 1000, 3);
    let way = adj.dirs[0];
    assert_eq!(
        (way.correction_pos, way.offset_before, way.offset_after),
        (1000, 0, 3)
    );
    adj.register(Dir::Original, 900, 3);
    assert_eq!(adj.dirs[0], way);
}

/// The kernel knows two offsets: it gives what came before the first correction that of
/// the second.
#[test]
fn every_retransmission_gets_the_offset_it_first_had() {
    let mut adj = SeqAdj::default();
    let places = [1000, 2000, 3000, 4000];
    for at in places {
        adj.register(Dir::Original, at, 4);
    }
    let seq = |n| seq_of(&adjusted(&adj, Dir::Original, segment(n, 7, &[], &[])));
    let ack = |n| ack_of(&adjusted(&adj, Dir::Reply, segment(7, n, &[], &[])));
    for (n, at) in places.into_iter().enumerate() {
        let before = 4 * n as u32;
        assert_eq!([seq(at - 500), seq(at)], [at - 500 + before, at + before]);
        assert_eq!(seq(at + 1), at + 1 + before + 4);
        assert_eq!([ack(at - 500 + before), ack(at + before)], [at - 500, at]);
        assert_eq!(ack(at + 500 + before + 4), at + 500);
    }
}

#[test]
fn what_is_too_old_gets_the_oldest_offset_that_is_known() {
    let mut adj = SeqAdj::default();
    let most = OLDER as u32 + 1;
    for n in 1..=most + 3 {
        adj.register(Dir::Original, n * 1000, -1);
    }
    let seq = |n| seq_of(&adjusted(&adj, Dir::Original, segment(n, 7, &[], &[])));
    assert_eq!(adj.dirs[0].older().len(), OLDER);
    assert_eq!([seq(4000), seq(4001), seq(500)], [3997, 3997, 497]);
    // A connection that begins anew forgets.
    adj.shift(Dir::Original, 5);
    assert_eq!(adj.offset(Dir::Original, 500), 5);
}

#[test]
fn sequence_numbers_wrap() {
    let mut adj = SeqAdj::default();
    adj.register(Dir::Original, u32::MAX - 4, 10);
    let out = adjusted(&adj, Dir::Original, segment(u32::MAX - 2, 7, &[], &[]));
    assert_eq!(seq_of(&out), 7);
    let out = adjusted(&adj, Dir::Reply, segment(1, 7, &[], &[]));
    assert_eq!(ack_of(&out), u32::MAX - 2);
}

#[test]
fn sack_edges_move_each_on_its_own() {
    let mut adj = SeqAdj::default();
    adj.register(Dir::Original, 1000, 5);
    for lead in [&[1u8, 1][..], &[1, 1, 1]] {
        let mut options = Vec::from(lead);
        options.extend([5, 10]);
        options.extend(1000u32.to_be_bytes());
        options.extend(2005u32.to_be_bytes());
        options.resize(16, 0);
        let at = 20 + lead.len() + 2;
        let out = adjusted(&adj, Dir::Reply, segment(7, 900, &options, &[]));
        assert_eq!(be32(&out, at), Some(1000));
        assert_eq!(be32(&out, at + 4), Some(2000));
        assert_eq!(ack_of(&out), 900);
    }
}

#[test]
fn bad_options_are_refused() {
    let mut adj = SeqAdj::default();
    adj.register(Dir::Original, 1000, 5);
    for options in [[2, 1, 0, 0], [1, 1, 1, 3], [3, 5, 0, 0]] {
        let mut s = segment(7, 900, &options, &[]);
        assert_eq!(adj.adjust(Dir::Reply, &mut s), Err(BadSegment));
    }
    assert_eq!(adj.adjust(Dir::Reply, &mut [0; 19]), Err(BadSegment));
}

#[test]
fn without_ack_only_the_sequence_number_moves() {
    let mut adj = SeqAdj::default();
    adj.register(Dir::Original, 1000, 5);
    let mut s = segment(7, 2005, &[], &[]);
    s[13] = flags::RST;
    assert_eq!(adj.adjust(Dir::Reply, &mut s), Ok(false));
    assert_eq!(ack_of(&s), 2005);
}
