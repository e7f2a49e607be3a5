//! A loaded set of programs with its maps.

use aya::maps::{Array, MapData, PerCpuArray};
use aya::programs::{SchedClassifier, TestRun, TestRunOptions, TestRunResult, Xdp};
use aya::{Ebpf, EbpfLoader};
use tidegate_ebpf::fast::{EARLY, EGRESS, INGRESS, Secrets, TAIL, programs};
use tidegate_ebpf::layout::{
    BUCKET, CONNECTION, Fate, GATE, GLOBAL, HASH, HOP, Hook, Slot, TURN, turn,
};

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
/// Buckets of the index that are in use.
pub(crate) const BUCKETS: u32 = 256;

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
    pub(crate) front: Front,
}

impl Fast {
    pub(crate) fn load(front: Front) -> Self {
        let bytes = programs(&SECRETS).unwrap();
        let mut loader = EbpfLoader::new();
        for (name, entries) in [
            ("flows", 2 * BUCKETS),
            ("gates", PLACES),
            ("connections", PLACES),
        ] {
            loader.map_max_entries(name, entries);
        }
        let mut kernel = loader.load(&bytes).unwrap();
        for name in [INGRESS, EGRESS, TAIL] {
            program(&mut kernel, name).load().unwrap();
        }
        early(&mut kernel).load().unwrap();
        Fast { kernel, front }
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
        let mut map = array::<[u32; BUCKET]>(&mut self.kernel, "flows");
        let like = |place| Slot { place, ..*slot }.word(PLACES);
        let [first, other] = slot.buckets(BUCKETS);
        let mut set = |at, slot: usize, word| {
            let mut bucket = map.get(&at, 0).unwrap();
            bucket[slot] = word;
            map.set(at, bucket, 0).unwrap();
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
        array::<[u64; GATE]>(&mut self.kernel, "gates")
            .get(&place, 0)
            .unwrap()
    }

    pub(crate) fn set_gate(&mut self, place: u32, gate: [u64; GATE]) {
        array::<[u64; GATE]>(&mut self.kernel, "gates")
            .set(place, gate, 0)
            .unwrap();
    }

    pub(crate) fn set_globals(&mut self, globals: [u64; GLOBAL]) {
        array::<[u64; GLOBAL]>(&mut self.kernel, "globals")
            .set(0, globals, 0)
            .unwrap();
    }

    #[allow(dead_code, reason = "for the tests")]
    pub(crate) fn globals(&mut self) -> [u64; GLOBAL] {
        let map = array::<[u64; GLOBAL]>(&mut self.kernel, "globals");
        map.get(&0, 0).unwrap()
    }

    pub(crate) fn set_hop(&mut self, place: u32, hop: [u64; HOP]) {
        let mut map = array::<[u64; HOP]>(&mut self.kernel, "hops");
        map.set(place, hop, 0).unwrap();
    }

    pub(crate) fn hop(&mut self, place: u32) -> [u64; HOP] {
        let map = array::<[u64; HOP]>(&mut self.kernel, "hops");
        map.get(&place, 0).unwrap()
    }

    pub(crate) fn connection(&mut self, place: u32) -> [u8; CONNECTION] {
        let map = array::<[u8; CONNECTION]>(&mut self.kernel, "connections");
        map.get(&place, LOCK).unwrap()
    }

    pub(crate) fn set_connection(&mut self, place: u32, connection: [u8; CONNECTION]) {
        let mut map = array::<[u8; CONNECTION]>(&mut self.kernel, "connections");
        map.set(place, connection, LOCK).unwrap();
    }

    /// How many turns have begun; all of them have ended.
    #[allow(dead_code, reason = "for the tests")]
    pub(crate) fn turns(&mut self) -> u64 {
        let map = array::<[u64; TURN]>(&mut self.kernel, "turns");
        let all = map.iter().map(Result::unwrap).map(|t| {
            assert_eq!(t[turn::BEGUN], t[turn::ENDED]);
            t[turn::BEGUN]
        });
        all.sum()
    }

    pub(crate) fn fate(&mut self, fate: Fate) -> u64 {
        if let Some(counted) = turn::counted(fate) {
            let map = array::<[u64; TURN]>(&mut self.kernel, "turns");
            return map.iter().map(|turn| turn.unwrap()[counted]).sum();
        }
        let map = self.kernel.map_mut("fates").unwrap();
        let map: PerCpuArray<_, u64> = map.try_into().unwrap();
        map.get(&(fate as u32), 0).unwrap().iter().sum()
    }
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
