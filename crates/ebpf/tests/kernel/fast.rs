//! A loaded set of programs with its maps.

use aya::maps::{Array, HashMap, MapData, PerCpuArray};
use aya::programs::{SchedClassifier, TestRun, TestRunOptions};
use aya::{Ebpf, EbpfLoader};
use tidegate_ebpf::fast::{EGRESS, INGRESS, Secrets, TAIL, programs};
use tidegate_ebpf::layout::{CONNECTION, FLOW, Fate, GATE, GLOBAL, KEY};

pub(crate) const SECRETS: Secrets = Secrets {
    injected: [2, 1, 2, 3, 4, 5],
    known: [0x02, 0x77],
    sent_on: [0x1111_1111, 0x2222_2222, 0x3333_3333, 0x4444_4444],
};

/// `BPF_F_LOCK`
const LOCK: u64 = 4;

pub(crate) struct Fast {
    kernel: Ebpf,
}

impl Fast {
    pub(crate) fn load() -> Self {
        let bytes = programs(&SECRETS).unwrap();
        let mut loader = EbpfLoader::new();
        for (name, entries) in [("flows", 256), ("gates", 128), ("connections", 128)] {
            loader.map_max_entries(name, entries);
        }
        let mut kernel = loader.load(&bytes).unwrap();
        for name in [INGRESS, EGRESS, TAIL] {
            program(&mut kernel, name).load().unwrap();
        }
        Fast { kernel }
    }

    /// What the program answers, and the frame as it leaves.
    pub(crate) fn run(&mut self, frame: &[u8]) -> (i32, Vec<u8>) {
        let mut out = vec![0; frame.len() + 64];
        let mut options = TestRunOptions::new();
        options.data_in = Some(frame);
        options.data_out = Some(&mut out);
        let done = program(&mut self.kernel, INGRESS)
            .test_run(options)
            .unwrap();
        out.truncate(done.data_size_out as usize);
        (done.return_value as i32, out)
    }

    /// Nanoseconds that the program takes for the frame, on the average of `rounds`.
    #[allow(dead_code, reason = "for the bench")]
    pub(crate) fn time(&mut self, frame: &[u8], rounds: u32) -> u64 {
        let mut options = TestRunOptions::new();
        options.data_in = Some(frame);
        options.repeat = rounds;
        let done = program(&mut self.kernel, INGRESS)
            .test_run(options)
            .unwrap();
        done.duration.as_nanos() as u64
    }

    pub(crate) fn set_flow(&mut self, key: [u8; KEY], value: [u8; FLOW]) {
        let map = self.kernel.map_mut("flows").unwrap();
        let mut map: HashMap<_, [u8; KEY], [u8; FLOW]> = map.try_into().unwrap();
        map.insert(key, value, 0).unwrap();
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

    pub(crate) fn connection(&mut self, place: u32) -> [u8; CONNECTION] {
        let map = array::<[u8; CONNECTION]>(&mut self.kernel, "connections");
        map.get(&place, LOCK).unwrap()
    }

    pub(crate) fn set_connection(&mut self, place: u32, connection: [u8; CONNECTION]) {
        let mut map = array::<[u8; CONNECTION]>(&mut self.kernel, "connections");
        map.set(place, connection, LOCK).unwrap();
    }

    pub(crate) fn fate(&mut self, fate: Fate) -> u64 {
        let map = self.kernel.map_mut("fates").unwrap();
        let map: PerCpuArray<_, u64> = map.try_into().unwrap();
        map.get(&(fate as u32), 0).unwrap().iter().sum()
    }
}

fn program<'a>(kernel: &'a mut Ebpf, name: &str) -> &'a mut SchedClassifier {
    kernel.program_mut(name).unwrap().try_into().unwrap()
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
