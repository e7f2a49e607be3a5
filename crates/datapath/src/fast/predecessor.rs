//! What a datapath that was killed has left in the kernel: programs that go on forwarding
//! the connections they had, and the tables that say which.
//!
//! Its successor takes these connections over before its own programs, which are in place
//! in front of those by then, begin to work. So no packet of theirs finds nobody who knows it.

use std::collections::HashMap as Map;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use aya::maps::{Array, HashMap, MapData};
use tidegate_ebpf::layout::{
    CONNECTION, FLOW, GATE, GLOBAL, KEY, after, gate, global, place_of, tuple_of,
};
use tidegate_engine::Engine;
use tidegate_engine::conntrack::by_hand::{Change, GivenState, NewEntry};
use tidegate_engine::conntrack::entry::{TcpConn, Zone};
use tidegate_engine::conntrack::{Dir, NatRange, SECOND, Status, Time, Tuple};
use tidegate_sys::Clock;
use tidegate_wire::proto;

use super::kernel::{PINNED, place, remove};

/// Programs that have begun on a packet have ended after that.
const TURN: Duration = Duration::from_millis(20);

/// A predecessor's pins in this network namespace.
#[derive(Debug)]
pub(crate) struct Predecessor {
    place: PathBuf,
    files: Vec<PathBuf>,
}

/// A connection that its programs have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Left {
    /// As its packets come, and as they leave.
    original: [Tuple; 2],
    /// When the last one passed, nanoseconds of `CLOCK_BOOTTIME`.
    last: u64,
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

    /// Where it has pinned a table. Of several predecessors only the last one's programs
    /// can be at work, for each takes away what was before.
    fn pinned(&self, name: &str) -> Result<&Path> {
        let named = |p: &&PathBuf| {
            let file = p.file_name().and_then(|n| n.to_str());
            file.is_some_and(|f| f.split_once('-').is_some_and(|(first, _)| first == name))
        };
        let mut found = self.files.iter().filter(named);
        match (found.next(), found.next()) {
            (Some(one), None) => Ok(one),
            (None, _) => bail!("no table {name}"),
            (Some(_), Some(_)) => bail!("several tables {name}"),
        }
    }

    fn open(&self, name: &str) -> Result<MapData> {
        let path = self.pinned(name)?;
        MapData::from_pin(path).with_context(|| path.display().to_string())
    }

    /// The connections that its programs have.
    ///
    /// # Errors
    /// Its tables are not there, or are others.
    pub(crate) fn connections(&self) -> Result<Vec<Left>> {
        let [flows, gates, connections, globals] = PINNED;
        let flows = self.open(flows)?;
        let flows: HashMap<_, [u8; KEY], [u8; FLOW]> =
            HashMap::try_from(aya::maps::Map::HashMap(flows))?;
        let gates: Array<_, [u64; GATE]> = array(self.open(gates)?)?;
        let ways: Array<_, [u8; CONNECTION]> = array(self.open(connections)?)?;
        let globals: Array<_, [u64; GLOBAL]> = array(self.open(globals)?)?;
        let epoch = globals.get(&0, 0)?[global::EPOCH];
        let mut places: Map<u32, [Option<Tuple>; 2]> = Map::new();
        for flow in flows.iter() {
            let (key, value) = flow?;
            let (at, dir) = place_of(&value);
            places.entry(at).or_default()[dir as usize] = tuple_of(&key);
        }
        let mut left = Vec::new();
        for (at, before) in places {
            let gate = gates.get(&at, 0)?;
            if gate[gate::EPOCH] != epoch || gate[gate::SENT] != gate[gate::DONE] {
                continue;
            }
            let bytes = ways.get(&at, 0)?;
            left.extend(connection(&bytes, before).map(|original| Left {
                original,
                last: gate[gate::LAST],
            }));
        }
        Ok(left)
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

fn array<V: aya::Pod>(data: MapData) -> Result<Array<MapData, V>> {
    Ok(Array::try_from(aya::maps::Map::Array(data))?)
}

/// A connection's original direction, before and after translation, from what is known of
/// one direction or both.
fn connection(bytes: &[u8; CONNECTION], before: [Option<Tuple>; 2]) -> Option<[Tuple; 2]> {
    let [original, reply] = before;
    let one = original.or(reply)?;
    let after = |dir| after(bytes, dir, (one.family, one.proto));
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
    for Left { original, last } in left {
        let [before, after] = *original;
        let timeouts = &table.config().timeouts;
        let (life, state) = match before.proto {
            proto::TCP => {
                let state = TcpConn::Established;
                (timeouts.tcp[state as usize], Some(GivenState::Tcp(state)))
            }
            _ => (timeouts.udp[1], None),
        };
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
    use tidegate_ebpf::layout::{Connection, Goes, Way};
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
            let connection_of = Connection {
                ways: [0, 1].map(|dir| there[dir].then(|| way(dir))),
                ..Connection::default()
            };
            let keys = [0, 1].map(|dir| there[dir].then_some(comes[dir]));
            let read = connection(&connection_of.to_bytes(), keys);
            assert_eq!(read, Some([comes[0], leaves[0]]), "{there:?}");
        }
    }
}
