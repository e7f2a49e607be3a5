//! Processor time of packets on their way through a router, all on one core.

use std::fs;
use std::path::Path;
use std::time::Duration;

use rustix::thread::{CpuSet, sched_setaffinity};
use rustix::time::{ClockId, Timespec, clock_gettime};

use crate::place::Place;

/// Where everything happens.
const CORE: usize = 1;

fn pin(core: Option<usize>) {
    let mut set = CpuSet::new();
    for cpu in 0..CpuSet::MAX_CPU.min(64) {
        if core.is_none_or(|c| c == cpu) {
            set.set(cpu);
        }
    }
    sched_setaffinity(None, &set).unwrap();
}

/// Nanoseconds that the tasks below `place` have run whose names begin so.
fn has_run(place: &str, name: &str) -> u64 {
    let ours =
        |task: &Path| fs::read_to_string(task.join("comm")).is_ok_and(|c| c.starts_with(name));
    let time = |task: &Path| {
        let text = fs::read_to_string(task.join("schedstat")).ok()?;
        text.split(' ').next()?.parse::<u64>().ok()
    };
    let all = fs::read_dir(place).unwrap().flatten().map(|p| p.path());
    all.filter(|t| ours(t)).filter_map(|t| time(&t)).sum()
}

/// Nanoseconds that the core's `ksoftirqd` has run, for what softirqs leave over.
fn deferred() -> u64 {
    has_run("/proc", &format!("ksoftirqd/{CORE}\n"))
}

/// Nanoseconds that this process and the kernel's softirqs have run, on whatever core, and those
/// of the datapath's thread alone.
pub(crate) fn processor() -> [u64; 2] {
    let Timespec { tv_sec, tv_nsec } = clock_gettime(ClockId::ProcessCPUTime);
    let own = tv_sec as u64 * 1_000_000_000 + tv_nsec as u64 + has_run("/proc", "ksoftirqd/");
    [own, has_run("/proc/self/task", "tidegate-datapa")]
}

/// As [`measure`], where every packet opens a connection, with all that has run, on whatever
/// core. The third is the datapath's thread alone.
pub(crate) fn measure_fresh(place: &mut Place, count: u32) -> (f64, f64, f64) {
    all_cores(place, count, Place::open_fresh)
}

/// The same for packets of any kind.
pub(crate) fn measure_paced(place: &mut Place, count: u32) -> (f64, f64, f64) {
    all_cores(place, count, Place::paced)
}

fn all_cores(place: &mut Place, count: u32, send: fn(&mut Place, u32)) -> (f64, f64, f64) {
    let (before, began) = (place.done(), processor());
    send(place, count);
    let ended = processor();
    let arrived = (place.done() - before) as f64;
    let each = |i: usize| (ended[i] - began[i]) as f64 / arrived;
    (each(0), arrived / f64::from(count), each(1))
}

/// Nanoseconds a packet, and the share that arrived, or was dropped where it should be.
pub(crate) fn measure(place: &mut Place, packets: u32) -> (f64, f64) {
    let before = place.done();
    pin(Some(CORE));
    let before_deferred = deferred();
    let took = place.send(packets) + Duration::from_nanos(deferred() - before_deferred);
    pin(None);
    std::thread::sleep(Duration::from_millis(20));
    let arrived = (place.done() - before) as f64;
    (
        took.as_nanos() as f64 / arrived,
        arrived / f64::from(packets),
    )
}

pub(crate) fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}
