//! Restored connections and packets that follow.

use tidegate_conntrack::config::Config;
use tidegate_conntrack::entry::TcpConn;
use tidegate_conntrack::snapshot::{Restored, Snapshot};
use tidegate_conntrack::{CtInfo, Dir, SECOND, Status, Tuple};

use crate::world::{ACK, FIN, NOW, PSH, SYN, Say, WALL, World, flow, restored, small};

fn state(world: &World, n: usize) -> Option<TcpConn> {
    let tuple = flow(n);
    let mut entries = world.ct.iter().map(|(_, e)| e);
    let entry = entries.find(|e| *e.tuple(Dir::Original) == tuple)?;
    Some(entry.tcp().unwrap().state)
}

#[test]
fn segments_after_a_gap_belong_to_their_connection() {
    // The next segment, from either side, wherever the numbers have got to meanwhile.
    for dir in Dir::BOTH {
        for (seq, ack) in [
            (1000, 1000),
            (5_000_000, 90_000_000),
            (0x8000_0000, 5),
            (0xffff_fff0, 0x7fff_ffff),
        ] {
            let mut world = World::new(small());
            world.connect(0);
            let bytes = world.snapshot(64);
            let (mut again, _) = restored(&bytes, NOW + 60 * SECOND, 60 * SECOND, small());
            let mut say = Say::tcp(PSH | ACK, seq, ack);
            say.data = vec![b'x'; 1000];
            let at = again.send(0, dir, &say).expect("not INVALID");
            let info = match dir {
                Dir::Original => CtInfo::Established,
                Dir::Reply => CtInfo::EstablishedReply,
            };
            assert_eq!(at.info, info);
            // The answer, which acknowledges more than was seen, and so on.
            let answer = Say::tcp(ACK, ack.wrapping_add(70_000), seq.wrapping_add(1000));
            again.send(0, dir.other(), &answer).expect("not INVALID");
            let more = Say::tcp(ACK, seq.wrapping_add(1000), ack.wrapping_add(70_000));
            again.send(0, dir, &more).expect("not INVALID");
            assert_eq!(state(&again, 0), Some(TcpConn::Established));
            assert!(again.ct.entry(at.id).unwrap().status.has(Status::ASSURED));
            assert_eq!(again.ct.stats().invalid, 0);
            assert_eq!(again.ct.count(), 1);
        }
    }
}

#[test]
fn a_handshake_and_a_farewell_go_on() {
    // Before any answer: nothing may have moved, and the answer is judged by it.
    let mut world = World::new(small());
    world
        .send(0, Dir::Original, &Say::tcp(SYN, 999, 0))
        .unwrap();
    let (mut again, _) = restored(&world.snapshot(64), NOW, 0, small());
    let answer = Say::tcp(SYN | ACK, 4999, 1000);
    again.send(0, Dir::Reply, &answer).expect("not INVALID");
    again
        .send(0, Dir::Original, &Say::tcp(ACK, 1000, 5000))
        .expect("not INVALID");
    assert_eq!(state(&again, 0), Some(TcpConn::Established));

    let mut world = World::new(small());
    world.connect(0);
    world
        .send(0, Dir::Original, &Say::tcp(FIN | ACK, 1000, 1000))
        .unwrap();
    let (mut again, _) = restored(&world.snapshot(64), NOW, 0, small());
    assert_eq!(state(&again, 0), Some(TcpConn::FinWait));
    for (dir, flags, seq, ack, wanted) in [
        (Dir::Reply, ACK, 1000, 1001, TcpConn::CloseWait),
        (Dir::Reply, FIN | ACK, 1000, 1001, TcpConn::LastAck),
        (Dir::Original, ACK, 1001, 1001, TcpConn::TimeWait),
    ] {
        again.send(0, dir, &Say::tcp(flags, seq, ack)).unwrap();
        assert_eq!(state(&again, 0), Some(wanted));
    }
}

#[test]
fn a_source_keeps_its_translated_port() {
    // Flow 1 is translated; a second connection of the same source and port to another
    // server gets the same outside port, since its source is remembered.
    let mut world = World::new(small());
    world.connect(1);
    let (mut again, report) = restored(&world.snapshot(64), NOW, 0, small());
    assert_eq!(report.translated, [true, false]);
    let inside = flow(1);
    let other = Tuple {
        dst: inside.dst + 1,
        ..inside
    };
    for world in [&mut world, &mut again] {
        let at = world.open(1, &other).unwrap();
        let reply = *world.ct.entry(at.id).unwrap().tuple(Dir::Reply);
        assert_eq!({ reply.dst }, 0xcb00_7164);
        assert_eq!({ reply.dst_id }, { inside.src_id });
    }
}

fn udp_world() -> World {
    let mut world = World::new(small());
    for n in [2, 9, 16] {
        world.send(n, Dir::Original, &Say::tcp(0, 0, 0)).unwrap();
    }
    world
}

#[test]
fn what_is_there_already_stays() {
    let bytes = udp_world().snapshot(64);
    let snapshot = Snapshot::open(&bytes).unwrap();
    assert_eq!((snapshot.connections(), snapshot.written()), (3, WALL));
    let mut world = World::new(small());
    let at = world.send(9, Dir::Original, &Say::tcp(0, 0, 0)).unwrap();
    world.ct.set_mark(at.id, 7);
    let report = world.ct.restore(NOW, WALL, &snapshot);
    assert_eq!((report.connections, report.taken), (2, 1));
    assert_eq!(world.ct.entry(at.id).unwrap().mark, 7);
    assert_eq!(world.ct.count(), 3);
    // A second time nothing is missing.
    let report = world.ct.restore(NOW, WALL, &snapshot);
    assert_eq!((report.connections, report.taken), (0, 3));
    assert_eq!(world.ct.iter().count(), 3);
}

#[test]
fn limits_hold() {
    let bytes = udp_world().snapshot(64);
    let tight = Config { max: 2, ..small() };
    let (world, report) = restored(&bytes, NOW, 0, tight);
    assert_eq!((report.connections, report.full), (2, 1));
    assert_eq!(world.ct.count(), 2);

    let mut world = World::new(small());
    for n in [1, 8] {
        world.connect(n);
        world.announce(n, 9);
    }
    assert_eq!(world.ct.expectations().count(), 2);
    let bytes = world.snapshot(64);
    let tight = Config {
        expect_max: 1,
        ..small()
    };
    let (world, report) = restored(&bytes, NOW, 0, tight);
    assert_eq!((report.expectations, report.full), (1, 1));
    assert_eq!(world.ct.expectations().count(), 1);
    // Without their connections, expectations mean nothing.
    let none = Config { max: 1, ..small() };
    let (world, report) = restored(&bytes, NOW, 0, none);
    assert_eq!((report.expectations, report.orphaned), (1, 1));
    assert_eq!(world.ct.expectations().count(), 1);
}

#[test]
fn a_clock_that_went_back_ages_nothing() {
    let bytes = udp_world().snapshot(64);
    let snapshot = Snapshot::open(&bytes).unwrap();
    let mut world = World::new(small());
    let report = world.ct.restore(5, 1, &snapshot);
    assert_eq!(report.connections, 3);
    world.now = 5;
    assert!(
        world.lists().iter().all(|l| l.contains(" 30 ")),
        "{:?}",
        world.lists()
    );
}

#[test]
fn nothing_restores_to_nothing() {
    let bytes = World::new(small()).snapshot(1);
    let (world, report) = restored(&bytes, NOW, 0, small());
    assert_eq!(report, Restored::default());
    assert_eq!(world.ct.count(), 0);
    assert_eq!(bytes.len(), 32 + 3 + 8 + 4);
}
