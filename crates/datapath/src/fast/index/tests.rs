use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::AsFd;

use rustix::fs::{MemfdFlags, ftruncate, memfd_create};
use tidegate_ebpf::layout::{GLOBAL, Hook, MOST_PLACES, key};
use tidegate_engine::conntrack::Tuple;
use tidegate_wire::{Family, proto};

use super::*;

/// Memory like that of a table.
fn memory(words: usize) -> SharedWords {
    let memory = memfd_create("table", MemfdFlags::CLOEXEC).unwrap();
    ftruncate(&memory, words as u64 * 8).unwrap();
    SharedWords::map(memory.as_fd(), words).unwrap()
}

/// Numbers without a pattern (SplitMix64).
fn random(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut z = *state;
    z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ z >> 31
}

fn index(state: &mut u64, places: u32) -> Index {
    let secret = std::array::from_fn(|_| random(state) | 1);
    let globals = Arc::new(memory(GLOBAL));
    Index::new(memory(words(places)), globals, (secret, places))
}

/// The keys of one client's flow from the `n`th port, out and back.
fn keys(n: u32) -> [[u8; KEY]; 2] {
    let there = Tuple {
        src: 0x0a40_0001 + u128::from(n >> 12),
        dst: 0x0a01_0003,
        src_id: 0x4000 + (n & 0xfff) as u16,
        dst_id: 7000,
        family: Family::V4,
        proto: proto::UDP,
    };
    let back = there.inverse().unwrap();
    [(2, there), (3, back)].map(|(dev, tuple)| key(dev, Hook::Ingress, &tuple))
}

/// Whom a program takes the flow with `key` for, if it looks no further than it must.
fn found(index: &Index, key: &[u8; KEY], is_its: impl Fn((u32, Dir)) -> bool) -> bool {
    let last = index.globals.load(global::LAST_BUCKET);
    let slot = index.slot(key, (0, Dir::Original));
    let [first, second] = slot.buckets((last & u64::from(u32::MAX)) as u32 + 1);
    let among = |at: u32| {
        let all = bucket(at).map(|at| index.load(at));
        let like = all.into_iter().find(|w| slot.is_like(*w, index.places));
        like.is_some_and(|word| is_its(Slot::whose(word, index.places)))
    };
    among(first) || last & SPILLED != 0 && among(second)
}

fn has(index: &Index, key: &[u8; KEY], whose: (u32, Dir)) -> bool {
    found(index, key, |w| w == whose)
}

/// Flows come and go, some to other connections, while the index grows from its smallest to its
/// largest.
#[test]
fn programs_find_all_flows_while_the_index_grows() {
    const PLACES: u32 = 4096;
    let mut state = 1;
    let mut index = index(&mut state, PLACES);
    let mut there: BTreeMap<u32, u32> = BTreeMap::new();
    let mut free: Vec<u32> = (0..PLACES).collect();
    let mut sizes = BTreeSet::new();
    let mut growing = 0;
    for step in 0..40_000u32 {
        sizes.insert(index.used.count);
        growing += u32::from(index.growing.is_some());
        // More come than go, until most places are taken.
        let n = random(&mut state) as u32 % (PLACES - 100);
        match there.get(&n).copied() {
            None => {
                let Some(place) = free.pop() else { continue };
                for (key, dir) in keys(n).iter().zip(Dir::BOTH) {
                    index.add(key, (place, dir), None);
                }
                there.insert(n, place);
            }
            Some(place) if step % 3 == 0 => {
                for (key, dir) in keys(n).iter().zip(Dir::BOTH) {
                    index.remove(key, (place, dir));
                    assert!(!has(&index, key, (place, dir)));
                }
                there.remove(&n);
                free.insert(0, place);
            }
            Some(old) if step % 3 == 1 => {
                let Some(place) = free.pop() else { continue };
                for (key, dir) in keys(n).iter().zip(Dir::BOTH) {
                    index.add(key, (place, dir), Some(old));
                }
                there.insert(n, place);
                free.insert(0, old);
            }
            Some(_) => {}
        }
        if step % 97 == 0 {
            for (n, place) in &there {
                for (key, dir) in keys(*n).iter().zip(Dir::BOTH) {
                    assert!(has(&index, key, (*place, dir)), "step {step}, flow {n}");
                }
            }
        }
    }
    assert_eq!(index.used.flows, 2 * there.len());
    assert_eq!(sizes.len(), 6, "{sizes:?}");
    assert!(growing > 200, "copied at once: {growing}");
    for (n, place) in there {
        for (key, dir) in keys(n).iter().zip(Dir::BOTH) {
            index.remove(key, (place, dir));
        }
    }
    assert_eq!((index.used.flows, index.used.spilled), (0, 0));
}

/// How many of the flows of `connections`, in an index for more, programs do not find.
fn missing(state: &mut u64, places: u32, connections: u32) -> usize {
    let mut index = index(state, places);
    for n in 0..connections {
        for (key, dir) in keys(n).iter().zip(Dir::BOTH) {
            index.add(key, (n, dir), None);
        }
    }
    let all = (0..connections).flat_map(|n| keys(n).map(|key| (n, key)));
    let gone = all.filter(|(n, key)| !found(&index, key, |(place, _)| place == *n));
    gone.count()
}

/// With any secret, hardly any of a full table's flows has no room.
#[test]
fn flows_that_differ_little_do_not_crowd() {
    let mut state = 2;
    let missing: usize = (0..40).map(|_| missing(&mut state, 8192, 8192)).sum();
    assert!(missing < 100, "of {} flows {missing}", 40 * 2 * 8192);
}

/// Most flows are where programs look first, with as many as a bucket has at most before there
/// are more.
#[test]
fn most_flows_are_looked_at_first() {
    const FLOWS: u32 = 4096;
    let mut index = index(&mut 5, FLOWS);
    for n in 0..FLOWS {
        for (key, dir) in keys(n).iter().zip(Dir::BOTH) {
            index.add(key, (n, dir), None);
        }
    }
    assert_eq!(index.used.flows, CROWDED * index.used.count as usize);
    let first = (0..FLOWS)
        .flat_map(|n| keys(n).map(|key| (n, key)))
        .filter(|(n, key)| {
            let slot = index.slot(key, (0, Dir::Original));
            let [bucket, _] = slot.buckets(index.used.count);
            let word = index.load(bucket as usize * BUCKET + slot.home());
            slot.is_like(word, FLOWS) && Slot::whose(word, FLOWS).0 == *n
        });
    let first = first.count();
    assert!(first * 10 > 7 * 2 * FLOWS as usize, "{first}");
}

/// Where tags are so short that many flows of a bucket have the same, those are in the other.
#[test]
fn flows_that_are_alike_have_a_bucket_each() {
    let missing = missing(&mut 4, MOST_PLACES, 4096);
    assert!(missing < 2 * 4096 / 25, "{missing}");
}

/// Whose a slot is, it says for as many places as there can be.
#[test]
fn slots_tell_all_places_apart() {
    let mut state = 3;
    for places in [1, 2, 3, 1000, 1 << 16, MOST_PLACES - 1, MOST_PLACES] {
        let secret = std::array::from_fn(|_| random(&mut state));
        for n in 0..1000 {
            let place = [0, places - 1, random(&mut state) as u32 % places][n as usize % 3];
            for (key, dir) in keys(n).iter().zip(Dir::BOTH) {
                let mix = mix(&secret, key);
                let word = Slot { place, dir, mix }.word(places);
                assert_eq!(Slot::whose(word, places), (place, dir));
                assert_ne!(word, 0);
            }
        }
    }
}
