//! A million connections: what making, finding, listing, expiring and deleting them costs, and the
//! longest that any single call takes.
//!
//! `chrt -f 50 cargo bench -p tidegate-conntrack --bench million`; as an argument, how many.

use std::collections::BTreeMap;
use std::hint::black_box;
use std::time::{Duration, Instant};

use rustix::time::{ClockId, clock_gettime};
use tidegate_conntrack::config::Config;
use tidegate_conntrack::format::{Columns, conntrack_line};
use tidegate_conntrack::{Conntrack, Cursor, EntryId, InHook, SECOND, Time, Tracked};
use tidegate_wire::{Layout, checksum, parse, proto};

/// Packets announced at a time, as the userspace datapath does.
const BATCH: usize = 32;
/// Entries and places looked at in one call, as in the daemon.
const AT_ONCE: u32 = 256;
const START: Time = 1_795_227_335 * SECOND;

fn packet(n: u32, protocol: u8, l4: &[u8]) -> Vec<u8> {
    let len = (20 + l4.len()) as u16;
    let mut pkt = vec![0x45, 0, 0, 0, 0, 1, 0, 0, 64, protocol, 0, 0];
    // No order that a table could profit from.
    pkt.extend((n.wrapping_mul(0x9e37_79b1) | 0x0100_0000).to_be_bytes());
    pkt.extend([192, 0, 2, 1]);
    pkt[2..4].copy_from_slice(&len.to_be_bytes());
    checksum::fix_ipv4(&mut pkt);
    pkt.extend(l4);
    pkt
}

fn tcp(n: u32, flags: u8) -> Vec<u8> {
    let mut l4 = [1000u16, 80].map(u16::to_be_bytes).concat();
    l4.extend([1u32, 1].map(u32::to_be_bytes).concat());
    l4.extend([0x50, flags, 0x20, 0, 0, 0, 0, 0]);
    packet(n, proto::TCP, &l4)
}

fn udp(n: u32) -> Vec<u8> {
    let l4 = [1000u16, 53, 8, 0].map(u16::to_be_bytes).concat();
    packet(n, proto::UDP, &l4)
}

/// What a kind of call took.
#[derive(Default)]
struct Took {
    calls: u64,
    all: Duration,
    /// The longest by the clock, and by this thread's time on a processor: the first counts what
    /// the machine did meanwhile, and the pauses that it gives others under `chrt -f`.
    worst: Duration,
    worst_own: Duration,
}

/// Time that this thread has had on a processor.
fn own_time() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

#[derive(Default)]
struct Figures(BTreeMap<&'static str, Took>);

impl Figures {
    fn time<R>(&mut self, what: &'static str, work: impl FnOnce() -> R) -> R {
        let own = own_time();
        let start = Instant::now();
        let result = work();
        let took = start.elapsed();
        let own = own_time() - own;
        let all = self.0.entry(what).or_default();
        all.calls += 1;
        all.all += took;
        all.worst = all.worst.max(took);
        all.worst_own = all.worst_own.max(own);
        result
    }

    fn print(&self) {
        for (what, t) in &self.0 {
            println!(
                "{what:34} {:>9} calls {:>8.0} ns each, worst {:>7.1} us on the processor, {:>7.1} by the clock",
                t.calls,
                t.all.as_nanos() as f64 / t.calls as f64,
                t.worst_own.as_nanos() as f64 / 1000.0,
                t.worst.as_nanos() as f64 / 1000.0
            );
        }
    }
}

/// Tracks and confirms; how many became connections.
fn track(ct: &mut Conntrack, now: Time, packets: &[(Vec<u8>, Layout)]) -> u32 {
    ct.foresee(packets.iter().map(|p| &p.0[..]));
    let mut made = 0;
    for (pkt, layout) in packets {
        if let Tracked::Ct(mut at) = ct.handle_packet(now, pkt, layout, InHook::Output, None) {
            made += u32::from(ct.confirm(now, &mut at).is_ok());
        }
    }
    made
}

fn parsed(packets: impl Iterator<Item = Vec<u8>>) -> Vec<(Vec<u8>, Layout)> {
    packets
        .filter_map(|p| parse(&p).ok().map(|l| (p, l)))
        .collect()
}

fn table(count: u32) -> Conntrack {
    Conntrack::new(Config {
        max: count,
        buckets: count,
        // As the daemon has it.
        at_once: AT_ONCE,
        ..Config::default()
    })
}

/// All of `packets`, by batches, as calls of `what`.
fn pass(
    figures: &mut Figures,
    what: &'static str,
    ct: &mut Conntrack,
    now: Time,
    packets: &[(Vec<u8>, Layout)],
) {
    let start = Instant::now();
    let mut made = 0;
    for batch in packets.chunks(BATCH) {
        made += figures.time(what, || track(ct, now, batch));
    }
    let rate = f64::from(made) / start.elapsed().as_secs_f64();
    println!("{what}: {made} of {}, {rate:.0} a second", packets.len());
}

/// Lets time pass to `now` and calls until nothing is left to do.
fn expire(figures: &mut Figures, what: &'static str, ct: &mut Conntrack, now: Time) {
    while ct.poll_timeout().is_some_and(|at| at <= now) {
        figures.time(what, || ct.handle_timeout(now));
    }
}

/// Another order of the same numbers.
fn shuffled(n: u32, count: u32) -> u32 {
    (u64::from(n) * 7919 % u64::from(count)) as u32
}

fn main() {
    // cargo adds a word of its own.
    let count = std::env::args().skip(1).find_map(|a| a.parse().ok());
    let count: u32 = count.unwrap_or(1_000_000);
    let mut figures = Figures::default();
    let f = &mut figures;
    let opening = parsed((0..count).map(|n| tcp(n, 0x02)));
    let going = parsed((0..count).map(|n| tcp(shuffled(n, count), 0x10)));

    let mut ct = table(count);
    pass(f, "create: 32 SYNs", &mut ct, START, &opening);
    ct.flush();
    pass(f, "create again: 32 SYNs", &mut ct, START, &opening);
    // SYNs of one moment end in one moment: the worst that the clock can bring.
    expire(
        f,
        "expire: SYNs of one moment",
        &mut ct,
        START + 121 * SECOND,
    );
    assert_eq!(ct.count(), 0);

    // Picked up in mid-stream: five minutes unanswered; ends spread over a minute.
    let start = START + 200 * SECOND;
    for (n, batch) in going.chunks(count as usize / 60 + 1).enumerate() {
        let at = start + n as u64 * SECOND;
        for batch in batch.chunks(BATCH) {
            f.time("pick up: 32 segments", || track(&mut ct, at, batch));
        }
    }
    let now = start + 60 * SECOND;
    pass(f, "look up: 32 segments", &mut ct, now, &going);

    let mut text = 0;
    let mut cursor = Some(Cursor::default());
    while let Some(from) = cursor {
        f.time("list: 256 places", || {
            let (piece, next) = ct.piece(from, 256);
            for (id, entry) in piece {
                text += conntrack_line(id, entry, now, Columns::default()).len();
            }
            cursor = next;
        });
    }
    println!("list: {text} bytes");

    f.time("resize: the call", || ct.resize(2 * count));
    let mut rest = going.chunks(1);
    while ct.poll_timeout().is_some_and(|at| at <= now) {
        f.time("resize: a step", || ct.handle_timeout(now));
        let batch = rest.next().unwrap_or_default();
        f.time("resize: a segment meanwhile", || track(&mut ct, now, batch));
    }

    let ids: Vec<EntryId> = ct.iter().map(|(id, _)| id).collect();
    for id in ids {
        f.time("delete: one", || ct.delete(id));
    }
    assert_eq!(ct.count(), 0);

    // Five days later, all at once, after a clock that stood still.
    pass(f, "create a third time: 32 segments", &mut ct, now, &going);
    expire(
        f,
        "expire: five days later",
        &mut ct,
        now + 432_000 * SECOND,
    );
    assert_eq!(ct.count(), 0);
    // The same by the second.
    pass(
        f,
        "create a fourth time: 32 datagrams",
        &mut ct,
        now,
        &parsed((0..count).map(udp)),
    );
    for second in 0..40 {
        expire(
            f,
            "expire: UDP by the second",
            &mut ct,
            now + second * SECOND,
        );
    }
    assert_eq!(ct.count(), 0);
    black_box(&ct);
    figures.print();
}
