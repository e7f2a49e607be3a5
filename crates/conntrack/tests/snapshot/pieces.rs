//! A snapshot written while packets pass.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use tidegate_conntrack::register::Register;
use tidegate_conntrack::snapshot::{Snapshot, Writer};
use tidegate_conntrack::{Conntrack, Dir, SECOND, Tuple};
use tidegate_wire::{Family, proto};

use crate::world::{NOW, Say, WALL, World, small};

fn udp(n: u16) -> Tuple {
    Tuple {
        src: 0x0a00_0002,
        dst: 0x0a00_0102,
        src_id: n,
        dst_id: 53,
        family: Family::V4,
        proto: proto::UDP,
    }
}

fn wide() -> tidegate_conntrack::Config {
    tidegate_conntrack::Config {
        buckets: 4096,
        ..small()
    }
}

impl World {
    fn open_udp(&mut self, n: u16) {
        self.open_as(3, &udp(n), &Say::tcp(0, 0, 0)).unwrap();
    }
}

#[test]
fn entries_are_whole_whatever_happens_between_the_pieces() {
    let mut world = World::new(wide());
    (0..600).for_each(|n| world.open_udp(n));
    let mut out = Vec::new();
    let mut writer = Writer::new(world.now, WALL, &mut out);
    let mut next = 600;
    let mut steps = 0;
    while !writer.step(&world.ct, 50, &mut out) {
        steps += 1;
        // Some end, some change, some come.
        world.now += SECOND / 10;
        let ids: Vec<_> = world.ct.iter().map(|(id, _)| id).step_by(97).collect();
        ids.iter().for_each(|&id| assert!(world.ct.delete(id)));
        (next..next + 5).for_each(|n| world.open_udp(n));
        next += 5;
        let first = world.ct.iter().next().unwrap().0;
        world.ct.set_mark(first, steps);
    }
    // Six hundred places, fifty at a time.
    assert!(steps >= 11);
    assert!(writer.step(&world.ct, 50, &mut out), "it stays complete");
    let snapshot = Snapshot::open(&out).unwrap();
    let mut again = Conntrack::new(wide());
    let report = again.restore(NOW, WALL, &snapshot);
    assert_eq!(report.connections + report.taken, snapshot.connections());
    // What was there all the time is there, once.
    let tuples: Vec<Tuple> = again.iter().map(|(_, e)| *e.tuple(Dir::Original)).collect();
    for (_, entry) in world.ct.iter() {
        let tuple = *entry.tuple(Dir::Original);
        let copies = tuples.iter().filter(|t| **t == tuple).count();
        let since_the_start = tuple.src_id < 600;
        assert!(copies <= 1);
        assert!(copies == 1 || !since_the_start, "{tuple:?} is missing");
    }
}

#[test]
fn of_two_with_one_tuple_the_later_counts() {
    let mut world = World::new(wide());
    (0..300).for_each(|n| world.open_udp(n));
    let mut out = Vec::new();
    let mut writer = Writer::new(world.now, WALL, &mut out);
    assert!(!writer.step(&world.ct, 256, &mut out));
    // One that has been written ends, its place is taken, and it begins anew further on.
    let (old, _) = world.ct.find(&udp(5), Default::default()).unwrap();
    world.ct.delete(old);
    world.open_udp(1000);
    world.open_udp(5);
    let (new, _) = world.ct.find(&udp(5), Default::default()).unwrap();
    world.ct.set_mark(new, 5);
    while !writer.step(&world.ct, 256, &mut out) {}
    let mut again = Conntrack::new(wide());
    let report = again.restore(NOW, WALL, &Snapshot::open(&out).unwrap());
    assert_eq!((report.connections, report.taken), (300, 1));
    let (id, _) = again.find(&udp(5), Default::default()).unwrap();
    assert_eq!(again.entry(id).unwrap().mark, 5);
    assert_eq!(again.count(), 300);
}

/// How many connections have a tuple.
#[derive(Clone, Debug, Default)]
struct Book(Arc<Mutex<HashMap<Tuple, i32>>>);

impl Book {
    fn add(&self, tuples: &[Tuple; 2], n: i32) {
        let mut all = self.0.lock().unwrap();
        for tuple in tuples {
            *all.entry(*tuple).or_default() += n;
        }
    }

    fn of(ct: &Conntrack) -> HashMap<Tuple, i32> {
        let tuples = ct.iter().flat_map(|(_, e)| e.tuples);
        tuples.map(|t| (t, 1)).collect()
    }

    fn present(&self) -> HashMap<Tuple, i32> {
        let all = self.0.lock().unwrap();
        all.iter()
            .filter(|(_, n)| **n != 0)
            .map(|(t, n)| (*t, *n))
            .collect()
    }
}

impl Register for Book {
    fn enters(&mut self, tuples: &[Tuple; 2]) {
        self.add(tuples, 1);
    }

    fn leaves(&mut self, tuples: &[Tuple; 2]) {
        self.add(tuples, -1);
    }
}

/// However a connection has come into the table or gone.
#[test]
fn a_register_has_all_tuples_of_the_table() {
    let mut world = World::new(wide());
    (0..20).for_each(|n| world.open_udp(n));
    let book = Book::default();
    world.ct.set_register(Box::new(book.clone()));
    (20..30).for_each(|n| world.open_udp(n));
    let (one, _) = world.ct.find(&udp(5), Default::default()).unwrap();
    world.ct.delete(one);
    assert_eq!(book.present().len(), 58);
    assert_eq!(book.present(), Book::of(&world.ct));

    let mut out = Vec::new();
    let mut writer = Writer::new(world.now, WALL, &mut out);
    while !writer.step(&world.ct, 256, &mut out) {}
    let mut again = Conntrack::new(wide());
    let book = Book::default();
    again.set_register(Box::new(book.clone()));
    again.restore(NOW, WALL, &Snapshot::open(&out).unwrap());
    assert_eq!(book.present().len(), 58);
    assert_eq!(book.present(), Book::of(&again));
    again.flush();
    assert!(book.present().is_empty());
}
