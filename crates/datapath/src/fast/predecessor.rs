//! What a datapath that was killed has left in the kernel: programs that go on forwarding
//! the connections they had, and the tables that say which.
//!
//! Its successor takes these connections over before its own programs, which are in place
//! in front of those by then, begin to work. So no packet of theirs finds nobody who knows it.

use std::cmp::Reverse;
use std::collections::{BTreeMap, HashMap as Map, HashSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use aya::maps::{Array, MapData};
use tidegate_ebpf::layout::{
    CONNECTION, GATE, GLOBAL, after, gate, global, key_of, tcp_state, tuple_of,
};
use tidegate_engine::Engine;
use tidegate_engine::conntrack::by_hand::{Change, GivenState, NewEntry};
use tidegate_engine::conntrack::entry::{TcpConn, TcpState, Zone};
use tidegate_engine::conntrack::{Dir, NatRange, SECOND, Status, Time, Tuple};
use tidegate_sys::Clock;
use tidegate_wire::proto;

use super::kernel::{PINNED, place, remove, shared};
use super::table::LOCK;

/// Programs that have begun on a packet have ended after that.
const TURN: Duration = Duration::from_millis(20);

/// Pins in this network namespace that others have left.
#[derive(Debug)]
pub(crate) struct Predecessor {
    place: PathBuf,
    files: Vec<PathBuf>,
}

/// The pins of one process, by the first part of their names.
type Group<'a> = Map<&'a str, &'a Path>;

/// A connection that its programs have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Left {
    /// As its packets come, and as they leave.
    original: [Tuple; 2],
    /// When the last one passed, nanoseconds of `CLOCK_BOOTTIME`.
    last: u64,
    /// The windows of a TCP connection.
    tcp: Option<TcpState>,
}

/// What predecessors have left.
#[derive(Debug, Default)]
pub(crate) struct Legacy {
    pub(crate) connections: Vec<Left>,
    /// Why connections of some are not among them.
    pub(crate) lost: Vec<String>,
}

impl Predecessor {
    /// What is pinned and not ours, whose names end in `own`.
    pub(crate) fn find(own: Option<&str>) -> Result<Option<Self>> {
        let place = place()?;
        let Ok(entries) = fs::read_dir(&place) else {
            return Ok(None);
        };
        let mut files = Vec::new();
        for entry in entries {
            let path = entry?.path();
            let name = path.file_name().and_then(|n| n.to_str());
            let ours = own.is_some_and(|own| name.is_some_and(|n| n.ends_with(own)));
            if !ours {
                files.push(path);
            }
        }
        let any = !files.is_empty();
        Ok(any.then_some(Predecessor { place, files }))
    }

    /// By the word in which the names of a process's pins end.
    fn groups(&self) -> BTreeMap<&str, Group<'_>> {
        let mut groups: BTreeMap<&str, Group<'_>> = BTreeMap::new();
        for file in &self.files {
            let name = file.file_name().and_then(|n| n.to_str());
            if let Some((first, owner)) = name.and_then(|n| n.rsplit_once('-')) {
                groups.entry(owner).or_default().insert(first, file);
            }
        }
        groups
    }

    /// The connections that programs have. There are several predecessors where one was
    /// killed before it had taken away what was before it: both may have some then.
    pub(crate) fn connections(&self) -> Legacy {
        let mut legacy = Legacy::default();
        for (owner, group) in self.groups() {
            match connections(&group) {
                Ok(left) => legacy.connections.extend(left),
                // One that had no program in place yet had no connections.
                Err(_) if group.keys().all(|name| PINNED.contains(name)) => {}
                Err(e) => legacy.lost.push(format!("{owner}: {e:#}")),
            }
        }
        legacy.connections = newest(std::mem::take(&mut legacy.connections));
        legacy
    }

    /// Takes its programs and tables away, once nothing is on its way by them.
    pub(crate) fn remove(self) -> Result<()> {
        std::thread::sleep(TURN);
        for file in &self.files {
            remove(file)?;
        }
        // Ours may be there too.
        let _ = fs::remove_dir(&self.place);
        Ok(())
    }
}

fn open(group: &Group<'_>, name: &str) -> Result<MapData> {
    let path = group
        .get(name)
        .with_context(|| format!("no table {name}"))?;
    MapData::from_pin(path).with_context(|| path.display().to_string())
}

/// The connections that the programs of one process have.
///
/// # Errors
/// Its tables are not there, or are others.
fn connections(group: &Group<'_>) -> Result<Vec<Left>> {
    let [gates, windows, globals] = PINNED;
    let gates = open(group, gates)?;
    let info = gates.info()?;
    let bytes = info.value_size() as usize * info.max_entries() as usize;
    let windows: Array<_, [u8; CONNECTION]> = array(open(group, windows)?)?;
    let places = windows.len() as usize;
    ensure!(bytes == places * GATE * 8, "another version's");
    let gates = shared(aya::maps::Map::Array(gates), places * GATE)?;
    let globals: Array<_, [u64; GLOBAL]> = array(open(group, globals)?)?;
    let epoch = globals.get(&0, 0)?[global::EPOCH];
    let mut left = Vec::new();
    for at in 0..places {
        let word = |n| gates.load(at * GATE + n);
        if word(gate::EPOCH) != epoch || word(gate::SENT) != word(gate::DONE) {
            continue;
        }
        let gate = std::array::from_fn(word);
        let Some(original) = connection(&gate) else {
            continue;
        };
        let tcp = match original[0].proto {
            proto::TCP => Some(established(&windows.get(&(at as u32), LOCK)?)),
            _ => None,
        };
        left.push(Left {
            original,
            last: gate[gate::LAST],
            tcp,
        });
    }
    Ok(left)
}

/// An established TCP connection as programs knew it.
fn established(bytes: &[u8; CONNECTION]) -> TcpState {
    TcpState {
        state: TcpConn::Established,
        ..tcp_state(bytes, &TcpState::default())
    }
}

/// Each connection once, as it is known to whose programs saw it last.
fn newest(mut left: Vec<Left>) -> Vec<Left> {
    left.sort_by_key(|one| Reverse(one.last));
    let mut seen = HashSet::new();
    left.retain(|one| seen.insert(one.original[0]));
    left
}

fn array<V: aya::Pod>(data: MapData) -> Result<Array<MapData, V>> {
    Ok(Array::try_from(aya::maps::Map::Array(data))?)
}

/// A connection's original direction, before and after translation, from what is known of
/// one direction or both.
fn connection(gate: &[u64; GATE]) -> Option<[Tuple; 2]> {
    let [original, reply] = Dir::BOTH.map(|dir| tuple_of(&key_of(gate, dir)?));
    let one = original.or(reply)?;
    let after = |dir| after(gate, dir, (one.family, one.proto));
    let original = original.or_else(|| after(Dir::Reply)?.inverse())?;
    let leaves = after(Dir::Original).or_else(|| reply?.inverse())?;
    Some([original, leaves])
}

/// What a translation did to one end.
fn range(before: (u128, u16), after: (u128, u16)) -> Option<NatRange> {
    (before != after).then(|| NatRange {
        ports: Some((after.1, after.1)),
        ..NatRange::address(after.0)
    })
}

/// Has the engine take a predecessor's connections over; how many there are.
pub(crate) fn adopt(engine: &mut Engine, now: Time, clock: Clock, left: &[Left]) -> usize {
    let table = engine.conntrack_mut();
    let mut adopted = 0;
    for Left {
        original,
        last,
        tcp,
    } in left
    {
        let [before, after] = *original;
        let timeouts = &table.config().timeouts;
        let life = match tcp {
            Some(tcp) => timeouts.tcp[tcp.state as usize],
            None => timeouts.udp[1],
        };
        let state = tcp.map(GivenState::TcpOnce);
        let silent = now.saturating_sub(clock.at(*last)) / SECOND;
        let timeout = u64::from(life).saturating_sub(silent) as u32;
        let Some(reply) = before.inverse().filter(|_| timeout > 0) else {
            continue;
        };
        let status = Status::SEEN_REPLY | Status::ASSURED;
        let done = match table.find(&before, Zone::default()) {
            // A record knows it, as it was some time ago.
            Some((id, _)) => {
                let change = Change {
                    timeout: Some(timeout),
                    status,
                    state,
                    ..Change::default()
                };
                table.change_by_hand(now, id, &change).is_ok()
            }
            None => {
                let entry = NewEntry {
                    tuples: [before, reply],
                    zone: Zone::default(),
                    timeout,
                    status,
                    mark: 0,
                    state,
                    nat: [
                        range((before.src, before.src_id), (after.src, after.src_id)),
                        range((before.dst, before.dst_id), (after.dst, after.dst_id)),
                    ],
                    helper: None,
                    labels: 0,
                };
                table.create_by_hand(now, &entry).is_ok()
            }
        };
        adopted += usize::from(done);
    }
    adopted
}

#[cfg(test)]
mod tests {
    use tidegate_ebpf::layout::{Goes, Hook, PATH, Way, key, path};
    use tidegate_wire::Family;

    use super::*;

    fn tuple(src: (u32, u16), dst: (u32, u16)) -> Tuple {
        Tuple {
            src: src.0.into(),
            dst: dst.0.into(),
            src_id: src.1,
            dst_id: dst.1,
            family: Family::V4,
            proto: proto::UDP,
        }
    }

    /// One was killed before it had taken away another's: names tell whose a pin is.
    #[test]
    fn pins_belong_to_the_process_whose_word_they_end_in() {
        let names = [
            "gates-0000000a",
            "2-ingress-0000000a",
            "gates-0000000b",
            "globals-0000000b",
        ];
        let predecessor = Predecessor {
            place: PathBuf::from("/pins"),
            files: names.map(|name| Path::new("/pins").join(name)).into(),
        };
        let groups = predecessor.groups();
        let of = |owner, first| groups.get(owner).and_then(|g: &Group<'_>| g.get(first));
        let file = |at: usize| predecessor.files[at].as_path();
        assert_eq!(groups.len(), 2);
        assert_eq!(of("0000000a", "gates"), Some(&file(0)));
        assert_eq!(of("0000000a", "2-ingress"), Some(&file(1)));
        assert_eq!(of("0000000b", "gates"), Some(&file(2)));
        assert_eq!(of("0000000b", "globals"), Some(&file(3)));
    }

    #[test]
    fn of_a_connection_that_two_know_the_last_to_see_it_is_believed() {
        let comes = tuple((1, 1), (2, 2));
        let left = |after, last| Left {
            original: [comes, after],
            last,
            tcp: None,
        };
        let (old, new) = (
            left(tuple((3, 3), (2, 2)), 5),
            left(tuple((4, 4), (2, 2)), 9),
        );
        let other = Left {
            original: [tuple((7, 7), (2, 2)); 2],
            last: 1,
            tcp: None,
        };
        assert_eq!(newest(vec![old, other, new]), [new, other]);
    }

    /// Translated at both ends, it is the same connection whichever direction tells of it.
    #[test]
    fn a_connection_is_read_back_from_either_direction() {
        const CLIENT: (u32, u16) = (0x0a00_0002, 40_000);
        const OUTSIDE: (u32, u16) = (0x0a01_0001, 1024);
        const ASKED: (u32, u16) = (0x0a00_0001, 80);
        const SERVER: (u32, u16) = (0x0a01_0002, 8080);
        let comes = [tuple(CLIENT, ASKED), tuple(SERVER, OUTSIDE)];
        let leaves = [tuple(OUTSIDE, SERVER), tuple(ASKED, CLIENT)];
        let way = |dir: usize| Way {
            goes: Goes::On,
            before: comes[dir],
            after: leaves[dir],
            tos: None,
            hop: None,
            early: None,
        };
        for there in [[true, true], [true, false], [false, true]] {
            let mut gate = [0; GATE];
            for dir in 0..2 {
                let key = key(7, Hook::Ingress, &comes[dir]);
                let path = path(&key, there[dir].then(|| way(dir)).as_ref());
                let first = gate::PATHS + PATH / 2 * dir;
                let (one, other) = path.split_at(PATH / 2);
                gate[first..first + PATH / 2].copy_from_slice(one);
                gate[first + gate::REST..first + gate::REST + PATH / 2].copy_from_slice(other);
            }
            let read = connection(&gate);
            assert_eq!(read, Some([comes[0], leaves[0]]), "{there:?}");
        }
    }
}
