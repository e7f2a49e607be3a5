//! A loaded set of programs with its maps.

use aya::maps::{Array, Map as Loaded, MapData, PerCpuArray};
use aya::programs::{SchedClassifier, TestRun, TestRunOptions, TestRunResult, Xdp};
use std::os::fd::{AsFd, AsRawFd};

use aya::Ebpf;
use tidegate_ebpf::fast::{EARLY, EGRESS, INGRESS, INSIDE, Secrets, TAIL, programs};
use tidegate_ebpf::layout::{
    BUCKET, CONNECTION, Fate, GATE, GLOBAL, HASH, HOP, HOPS, Hook, Slot, TURN, TURNS, buckets,
    tables, turn,
};
use tidegate_ebpf::{Map, object};

pub(crate) const SECRETS: Secrets = Secrets {
    injected: [2, 1, 2, 3, 4, 5],
    known: [0x02, 0x77],
    sent_on: [0x1111_1111, 0x2222_2222],
    hash: SECRET,
    places: PLACES,
    early: true,
};

/// Odd numbers, all different.
const SECRET: [u64; HASH] = {
    let mut secret = [0; HASH];
    let mut i = 0;
    while i < HASH {
        secret[i] = 0x9e37_79b9_7f4a_7c15u64.wrapping_mul(2 * i as u64 + 1);
        i += 1;
    }
    secret
};

/// Places for connections.
const PLACES: u32 = 128;
/// Buckets of the index that are in use: all there are for so many.
pub(crate) const BUCKETS: u32 = buckets(PLACES);

// What is one value to the kernel.
type Flows = [[u32; BUCKET]; 2 * BUCKETS as usize];
type Gates = [[u64; GATE]; PLACES as usize];
type Hops = [[u64; HOP]; HOPS.entries as usize];
type Turns = [[u64; TURN]; TURNS.entries as usize];

/// `BPF_F_LOCK`
const LOCK: u64 = 4;

/// Where a program looks at frames, with the numbers of its answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Front {
    name: &'static str,
    /// `TCX_REDIRECT`, `XDP_REDIRECT`.
    pub(crate) sent_on: i32,
    /// `TCX_NEXT`, `XDP_PASS`.
    pub(crate) left: i32,
    pub(crate) hook: Hook,
    /// Packets go on as they would without the program: they are this host's own.
    pub(crate) own: bool,
}

pub(crate) const TCX: Front = Front {
    name: INGRESS,
    sent_on: 7,
    left: -1,
    hook: Hook::Ingress,
    own: false,
};
/// To a socket.
#[allow(dead_code, reason = "for the tests")]
pub(crate) const LOCAL_IN: Front = Front {
    sent_on: 0,
    own: true,
    ..TCX
};
/// From one.
#[allow(dead_code, reason = "for the tests")]
pub(crate) const LOCAL_OUT: Front = Front {
    name: EGRESS,
    hook: Hook::Egress,
    ..LOCAL_IN
};
pub(crate) const XDP: Front = Front {
    name: EARLY,
    sent_on: 4,
    left: 2,
    hook: Hook::Ingress,
    own: false,
};

pub(crate) struct Fast {
    kernel: Ebpf,
    tables: Ebpf,
    pub(crate) front: Front,
}

impl Fast {
    pub(crate) fn load(front: Front) -> Self {
        Fast::load_with(front, &SECRETS, &tables(PLACES))
    }

    /// The same with tables of one's own.
    pub(crate) fn load_with(front: Front, secrets: &Secrets, tables: &[Map]) -> Self {
        let definitions: Vec<_> = tables.iter().collect();
        let tables = Ebpf::load(&object(Vec::new(), &definitions).unwrap()).unwrap();
        let find = |map: &Map| descriptor(tables.map(map.name)?);
        let programs = programs(secrets, find).unwrap();
        let mut kernel = Ebpf::load(&object(programs, &[]).unwrap()).unwrap();
        for name in [INGRESS, EGRESS, INSIDE, TAIL] {
            program(&mut kernel, name).load().unwrap();
        }
        early(&mut kernel).load().unwrap();
        Fast {
            kernel,
            tables,
            front,
        }
    }

    fn test(&mut self, options: TestRunOptions<'_>) -> TestRunResult {
        if self.front == XDP {
            return early(&mut self.kernel).test_run(options).unwrap();
        }
        let program = program(&mut self.kernel, self.front.name);
        program.test_run(options).unwrap()
    }

    /// What the program answers, and the frame as it leaves.
    pub(crate) fn run(&mut self, frame: &[u8]) -> (i32, Vec<u8>) {
        let mut out = vec![0; frame.len() + 64];
        let mut options = TestRunOptions::new();
        options.data_in = Some(frame);
        options.data_out = Some(&mut out);
        let done = self.test(options);
        out.truncate(done.data_size_out as usize);
        (done.return_value as i32, out)
    }

    /// Nanoseconds that the program takes for the frame, on the average of `rounds`.
    #[allow(dead_code, reason = "for the bench")]
    pub(crate) fn time(&mut self, frame: &[u8], rounds: u32) -> u64 {
        let mut options = TestRunOptions::new();
        options.data_in = Some(frame);
        options.repeat = rounds;
        let done = self.test(options);
        done.duration.as_nanos() as u64
    }

    /// Puts a flow into the last slot of its first bucket, or where a program looks first in its
    /// second. Flows that are like it, but other connections', are in the first bucket then, and
    /// where a program would find them first that goes through the second.
    pub(crate) fn set_flow(&mut self, slot: &Slot, second: bool) {
        let mut map = array::<Flows>(&mut self.tables, "flows");
        let like = |place| Slot { place, ..*slot }.word(PLACES);
        let [first, other] = slot.buckets(BUCKETS);
        let mut set = |at: u32, slot: usize, word| {
            let mut flows = map.get(&0, 0).unwrap();
            flows[at as usize][slot] = word;
            map.set(0, flows, 0).unwrap();
        };
        if second {
            set(first, 3, like(PLACES - 1));
            set(other, 0, like(PLACES - 1));
            set(other, slot.home(), slot.word(PLACES));
        } else {
            set(first, BUCKET - 1, slot.word(PLACES));
        }
    }

    pub(crate) fn gate(&mut self, place: u32) -> [u64; GATE] {
        array::<Gates>(&mut self.tables, "gates")
            .get(&0, 0)
            .unwrap()[place as usize]
    }

    pub(crate) fn set_gate(&mut self, place: u32, gate: [u64; GATE]) {
        let mut map = array::<Gates>(&mut self.tables, "gates");
        let mut gates = map.get(&0, 0).unwrap();
        gates[place as usize] = gate;
        map.set(0, gates, 0).unwrap();
    }

    pub(crate) fn set_globals(&mut self, globals: [u64; GLOBAL]) {
        array::<[u64; GLOBAL]>(&mut self.tables, "globals")
            .set(0, globals, 0)
            .unwrap();
    }

    #[allow(dead_code, reason = "for the tests")]
    pub(crate) fn globals(&mut self) -> [u64; GLOBAL] {
        let map = array::<[u64; GLOBAL]>(&mut self.tables, "globals");
        map.get(&0, 0).unwrap()
    }

    pub(crate) fn set_hop(&mut self, place: u32, hop: [u64; HOP]) {
        let mut map = array::<Hops>(&mut self.tables, "hops");
        let mut hops = map.get(&0, 0).unwrap();
        hops[place as usize] = hop;
        map.set(0, hops, 0).unwrap();
    }

    pub(crate) fn hop(&mut self, place: u32) -> [u64; HOP] {
        let map = array::<Hops>(&mut self.tables, "hops");
        map.get(&0, 0).unwrap()[place as usize]
    }

    pub(crate) fn connection(&mut self, place: u32) -> [u8; CONNECTION] {
        let map = array::<[u8; CONNECTION]>(&mut self.tables, "connections");
        map.get(&place, LOCK).unwrap()
    }

    pub(crate) fn set_connection(&mut self, place: u32, connection: [u8; CONNECTION]) {
        let mut map = array::<[u8; CONNECTION]>(&mut self.tables, "connections");
        map.set(place, connection, LOCK).unwrap();
    }

    fn all_turns(&mut self) -> Turns {
        array::<Turns>(&mut self.tables, "turns")
            .get(&0, 0)
            .unwrap()
    }

    /// How many turns have begun; all of them have ended.
    #[allow(dead_code, reason = "for the tests")]
    pub(crate) fn turns(&mut self) -> u64 {
        let all = self.all_turns().into_iter().map(|t| {
            assert_eq!(t[turn::BEGUN], t[turn::ENDED]);
            t[turn::BEGUN]
        });
        all.sum()
    }

    pub(crate) fn fate(&mut self, fate: Fate) -> u64 {
        if let Some(counted) = turn::counted(fate) {
            return self.all_turns().iter().map(|turn| turn[counted]).sum();
        }
        let map = self.tables.map_mut("fates").unwrap();
        let map: PerCpuArray<_, u64> = map.try_into().unwrap();
        map.get(&(fate as u32), 0).unwrap().iter().sum()
    }
}

/// A table's file descriptor.
fn descriptor(table: &Loaded) -> Option<i32> {
    let (Loaded::Array(data)
    | Loaded::HashMap(data)
    | Loaded::PerCpuArray(data)
    | Loaded::ProgramArray(data)) = table
    else {
        return None;
    };
    Some(data.fd().as_fd().as_raw_fd())
}

fn program<'a>(kernel: &'a mut Ebpf, name: &str) -> &'a mut SchedClassifier {
    kernel.program_mut(name).unwrap().try_into().unwrap()
}

fn early(kernel: &mut Ebpf) -> &mut Xdp {
    kernel.program_mut(EARLY).unwrap().try_into().unwrap()
}

fn array<'a, V: aya::Pod>(kernel: &'a mut Ebpf, name: &str) -> Array<&'a mut MapData, V> {
    kernel.map_mut(name).unwrap().try_into().unwrap()
}

/// Whether there is a kernel to try.
pub(crate) fn allowed() -> bool {
    let root = std::fs::metadata("/proc/self").is_ok_and(|m| {
        use std::os::unix::fs::MetadataExt;
        m.uid() == 0
    });
    if !root {
        eprintln!("SKIPPED: programs can be loaded by root only");
    }
    root
}
