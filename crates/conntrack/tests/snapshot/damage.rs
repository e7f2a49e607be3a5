//! Damaged snapshots.

use tidegate_conntrack::Conntrack;
use tidegate_conntrack::snapshot::{Damage, Snapshot};
use tidegate_wire::crc32c;

use crate::world::{FLOWS, NOW, Say, WALL, World, flow, small};
use tidegate_conntrack::{Dir, SECOND};

const HEADER: usize = 32;

/// A snapshot with every kind of record.
fn sample() -> Vec<u8> {
    let mut world = World::new(small());
    for n in 0..FLOWS {
        if flow(n).proto == 6 {
            world.connect(n);
            world.announce(n, n as u8);
        } else {
            world.send(n, Dir::Original, &Say::tcp(0, 0, 0));
        }
    }
    world.open_expected();
    world.announce(1, 99);
    world.snapshot(64)
}

/// Where records begin and end, the end record included.
fn records(bytes: &[u8]) -> Vec<std::ops::Range<usize>> {
    let mut found = Vec::new();
    let mut at = HEADER;
    while at < bytes.len() {
        let len = usize::from(u16::from_le_bytes([bytes[at + 1], bytes[at + 2]]));
        found.push(at..at + 3 + len + 4);
        at += 3 + len + 4;
    }
    found
}

/// Makes the checksums fit again.
fn seal(bytes: &mut [u8]) {
    let check = crc32c::checksum(&[&bytes[..HEADER - 4]]);
    bytes[HEADER - 4..HEADER].copy_from_slice(&check.to_le_bytes());
    for range in records(bytes) {
        let record = &mut bytes[range];
        let (body, field) = record.split_at_mut(record.len() - 4);
        field.copy_from_slice(&crc32c::checksum(&[body]).to_le_bytes());
    }
}

#[test]
fn every_flipped_bit_is_noticed() {
    let sound = sample();
    assert!(records(&sound).len() > 20);
    for at in 0..sound.len() {
        for bit in 0..8 {
            let mut bytes = sound.clone();
            bytes[at] ^= 1 << bit;
            assert!(Snapshot::open(&bytes).is_err(), "byte {at}, bit {bit}");
        }
    }
}

#[test]
fn every_cut_is_noticed() {
    let sound = sample();
    for len in 0..sound.len() {
        let wanted = if len < 8 {
            Damage::NotOne
        } else {
            Damage::Short
        };
        assert_eq!(Snapshot::open(&sound[..len]).unwrap_err(), wanted, "{len}");
    }
    let mut longer = sound.clone();
    longer.push(0);
    assert_eq!(Snapshot::open(&longer).unwrap_err(), Damage::Trailing);
}

#[test]
fn a_missing_record_is_noticed() {
    let sound = sample();
    let ranges = records(&sound);
    let mut bytes = sound.clone();
    bytes.drain(ranges[3].clone());
    assert_eq!(Snapshot::open(&bytes).unwrap_err(), Damage::Count);
    let mut twice = sound.clone();
    let copy = sound[ranges[3].clone()].to_vec();
    let at = ranges[3].start;
    twice.splice(at..at, copy);
    assert_eq!(Snapshot::open(&twice).unwrap_err(), Damage::Count);
}

#[test]
fn another_version_is_not_guessed_at() {
    let mut bytes = sample();
    bytes[8] = 2;
    seal(&mut bytes);
    assert_eq!(Snapshot::open(&bytes).unwrap_err(), Damage::Version(2));
    assert_eq!(Snapshot::open(b"").unwrap_err(), Damage::NotOne);
    let text = [b'x'; 100];
    assert_eq!(Snapshot::open(&text).unwrap_err(), Damage::NotOne);
}

/// Fields of the first record of an IPv4 connection, and values they cannot have.
#[test]
fn what_cannot_be_is_refused() {
    let sound = sample();
    let first = records(&sound)[0].start + 3;
    assert_eq!(sound[first + 8..first + 10], [4, 6], "a TCP connection");
    // Number 8, kind 2, two tuples of 12, status 4, mark 4, zone 2 and 1, life 8,
    // interface 4, parts 1, state.
    let status = first + 10 + 24;
    let zone = status + 8;
    let life = zone + 3;
    let parts = life + 12;
    let tcp = parts + 2;
    for (at, value, what) in [
        (first + 8, 5, "family"),
        (first + 9, 17, "protocol"),
        (status, 0, "status"),
        (status + 1, 2, "status"),
        (status + 3, 1, "status"),
        (zone + 2, 0, "zone"),
        (zone + 2, 4, "zone"),
        (life + 7, 0x80, "life"),
        (parts, 0x83, "length"),
        (parts + 1, 9, "protocol"),
        (tcp + 16, 15, "window scale"),
        (tcp + 36, 10, "state"),
        (tcp + 37, 2, "direction"),
        (tcp + 39, 6, "state"),
        (tcp + 56 + 7, 0x40, "counter"),
        (first - 3, 8, "kind"),
    ] {
        let mut bytes = sound.clone();
        bytes[at] = value;
        seal(&mut bytes);
        let damage = Snapshot::open(&bytes).unwrap_err();
        assert_eq!(damage, Damage::Absurd { record: 1, what });
        assert!(damage.to_string().contains(what));
    }
}

/// A small generator (xorshift), so that a failure repeats.
struct Random(u64);

impl Random {
    fn below(&mut self, n: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 16) as usize % n
    }
}

/// Bodies changed at random under checksums that fit: what is accepted is a table that
/// keeps its own rules.
#[test]
fn nothing_that_passes_does_harm() {
    let sound = sample();
    let ranges = records(&sound);
    let mut random = Random(0x5eed);
    let mut accepted = 0;
    for _ in 0..20_000 {
        let mut bytes = sound.clone();
        for _ in 0..=random.below(6) {
            let record = &ranges[random.below(ranges.len())];
            let at = record.start + 3 + random.below(record.len() - 7);
            bytes[at] = random.below(256) as u8;
        }
        seal(&mut bytes);
        let Ok(snapshot) = Snapshot::open(&bytes) else {
            continue;
        };
        accepted += 1;
        let mut ct = Conntrack::new(small());
        let report = ct.restore(NOW, WALL, &snapshot);
        let listed = ct.iter().count();
        assert_eq!(ct.count() as usize, listed);
        assert_eq!(report.connections as usize, listed);
        assert_eq!(report.expectations as usize, ct.expectations().count());
        let mut world = World { ct, now: NOW };
        assert!(Snapshot::open(&world.snapshot(9)).is_ok());
        let _ = world.lists();
        for n in 0..FLOWS {
            world.send(n, Dir::Reply, &Say::tcp(16, 1000, 1000));
            world.send(n, Dir::Original, &Say::tcp(16, 1000, 1000));
        }
        let forever = u64::from(u32::MAX) * SECOND + 20 * 86_400 * SECOND;
        world.ct.handle_timeout(NOW + forever);
        assert_eq!(world.ct.count(), 0);
        assert_eq!(world.ct.expectations().count(), 0);
    }
    assert!(accepted > 1000, "{accepted}");
}
