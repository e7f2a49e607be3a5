//! What is sent through the router.

use std::fs;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use tidegate_sys::{FramePort, OutFrame, PacketOptions, PacketSocket};

use crate::net::Host;
use crate::place::{GHOST_OUT, Place, ROUTER_MACS, SENDER, pin};

/// Flows among which small packets are spread.
const FLOWS: u16 = 256;
/// Bytes of a UDP packet in the smallest Ethernet frame: 64 with its check sequence.
const SMALLEST: usize = 46;
const BATCH: usize = 32;
const TRIAL: Duration = Duration::from_secs(2);
/// What else the machine does takes from a figure: the best of some counts.
const REPEATS: u32 = 3;

/// An Ethernet frame to the router with a UDP datagram of flow `n`.
fn small(mac: [u8; 6], from: [u8; 4], to: [u8; 4], ports: (u16, u16)) -> OutFrame {
    let mut head = [0; 14];
    head[..6].copy_from_slice(&mac);
    head[6..12].copy_from_slice(&[2, 0, 0, 0, 9, 9]);
    head[12] = 8;
    let mut body = vec![0x45, 0, 0, SMALLEST as u8, 0, 0, 0x40, 0, 64, 17, 0, 0];
    body.extend(from);
    body.extend(to);
    body.extend(ports.0.to_be_bytes());
    body.extend(ports.1.to_be_bytes());
    // No checksum, as UDP over IPv4 allows.
    body.extend([0, (SMALLEST - 20) as u8, 0, 0]);
    body.resize(SMALLEST, 0);
    tidegate_wire::checksum::fix_ipv4(&mut body);
    OutFrame {
        protocol: 0x0800,
        head,
        head_len: 14,
        body,
        ..OutFrame::default()
    }
}

fn socket(host: &Host) -> PacketSocket {
    let options = PacketOptions {
        buffer: 1 << 20,
        send_ring: 256,
        ..PacketOptions::default()
    };
    host.run(|| {
        let index = nix::net::if_::if_nametoindex("eth0").unwrap();
        PacketSocket::open(index, &options).unwrap()
    })
}

/// Frames that a host's `eth0` has received.
fn received(host: &Host) -> u64 {
    let text = host.run(|| fs::read_to_string("/proc/thread-self/net/dev").unwrap());
    let line = text
        .lines()
        .find_map(|l| l.trim().strip_prefix("eth0:"))
        .unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

/// Time that the datapath's thread has run, in nanoseconds.
fn worked() -> u64 {
    let tasks = fs::read_dir("/proc/self/task").unwrap().flatten();
    let mut of_datapath = tasks.filter(|t| {
        let name = fs::read_to_string(t.path().join("comm")).unwrap_or_default();
        name.starts_with("tidegate-datapa")
    });
    let Some(task) = of_datapath.next() else {
        return 0;
    };
    let text = fs::read_to_string(task.path().join("schedstat")).unwrap_or_default();
    text.split(' ')
        .next()
        .and_then(|n| n.parse().ok())
        .unwrap_or(0)
}

/// Sends for a while, at a rate or as fast as it goes; returns packets sent, packets that
/// arrived outside, and seconds.
fn offer(place: &Place, frames: &[OutFrame], rate: Option<f64>, time: Duration) -> (u64, u64, f64) {
    let before = received(&place.outside);
    let mut socket = socket(&place.inside);
    pin(Some(SENDER));
    let begun = Instant::now();
    let mut sent = 0u64;
    while begun.elapsed() < time {
        if let Some(rate) = rate {
            let due = sent as f64 / rate;
            while begun.elapsed().as_secs_f64() < due {
                std::hint::spin_loop();
            }
        }
        let from = sent as usize % frames.len();
        let to = frames.len().min(from + BATCH);
        let done = socket.send(&frames[from..to]);
        // One that is refused is lost on the way to the router.
        sent += done.sent as u64 + u64::from(done.refused.is_some());
    }
    let seconds = begun.elapsed().as_secs_f64();
    pin(None);
    thread::sleep(Duration::from_millis(200));
    (sent, received(&place.outside) - before, seconds)
}

pub(crate) fn small_packets(place: &Place) -> Vec<(&'static str, f64)> {
    let ports = |n: u16| (5000 + n, 7000);
    let forth = |n| small(ROUTER_MACS[0], [10, 0, 0, 2], GHOST_OUT, ports(n));
    let frames: Vec<OutFrame> = (0..FLOWS).map(forth).collect();
    // The ghosts answer once: the flows are established.
    let back = |n| {
        let (a, b) = ports(n);
        small(ROUTER_MACS[1], GHOST_OUT, [10, 0, 0, 2], (b, a))
    };
    let answers: Vec<OutFrame> = (0..FLOWS).map(back).collect();
    socket(&place.inside).send(&frames);
    thread::sleep(Duration::from_millis(100));
    socket(&place.outside).send(&answers);
    thread::sleep(Duration::from_millis(100));
    let (mut most, mut each) = (0f64, f64::MAX);
    for _ in 0..REPEATS {
        let worked_before = worked();
        let (_, arrived, seconds) = offer(place, &frames, None, TRIAL);
        let busy = worked() - worked_before;
        assert!(arrived > 0, "nothing arrives");
        most = most.max(arrived as f64 / seconds);
        each = each.min(busy as f64 / arrived as f64);
    }
    // The highest rate at which nothing at all is lost.
    let (mut low, mut high) = (0.0, most * 1.1);
    for _ in 0..6 {
        let rate = (low + high) / 2.0;
        let all_arrive = (0..REPEATS).any(|_| {
            let (sent, arrived, _) = offer(place, &frames, Some(rate), TRIAL / 2);
            arrived >= sent
        });
        if all_arrive {
            low = rate;
        } else {
            high = rate;
        }
    }
    vec![
        ("64-byte packets a second, most (thousands)", most / 1e3),
        (
            "64-byte packets a second without loss (thousands)",
            low / 1e3,
        ),
        ("datapath thread's time per packet (ns)", each),
    ]
}

fn listener(place: &Place) -> TcpListener {
    place
        .outside
        .run(|| TcpListener::bind("10.1.0.2:80").unwrap())
}

fn connect(place: &Place) -> TcpStream {
    connect_to(place, "10.1.0.2:80")
}

fn connect_to(place: &Place, there: &str) -> TcpStream {
    place.inside.run(|| TcpStream::connect(there).unwrap())
}

/// The best of some tries.
fn best(mut once: impl FnMut() -> f64) -> f64 {
    (0..REPEATS).map(|_| once()).fold(0.0, f64::max)
}

pub(crate) fn tcp(place: &Place) -> Vec<(&'static str, f64)> {
    let most = best(|| {
        let listener = listener(place);
        let to = connect(place);
        transfer(to, listener.accept().unwrap().0).0
    });
    vec![("TCP, one connection (Gbit/s)", most)]
}

/// A server on the router itself, which takes and sends.
pub(crate) fn own(place: &Place) -> Vec<(&'static str, f64)> {
    place.steer(0);
    let mut figures = Vec::new();
    for (names, takes) in [
        (
            [
                "TCP to a local server (Gbit/s)",
                "… processor's time of both ends and firewall for a gigabyte (ms)",
            ],
            true,
        ),
        (
            [
                "TCP from a local server (Gbit/s)",
                "… processor's time for a gigabyte (ms)",
            ],
            false,
        ),
    ] {
        let ends = || ends_on(place, &place.inside, "10.0.0.1:80");
        figures.extend(names.into_iter().zip(best_transfer(takes, ends)));
    }
    figures
}

/// Both ends on the router.
pub(crate) fn loopback(place: &Place) -> Vec<(&'static str, f64)> {
    let ends = || ends_on(place, &place.router, "127.0.0.1:80");
    let ([speed, cost], of_transfers) = place.kernels_share(|| best_transfer(true, ends));
    let (asked, of_questions) = place.kernels_share(|| best(|| questions(ends())));
    vec![
        ("TCP over loopback (Gbit/s)", speed),
        (
            "… processor's time of both ends and firewall for a gigabyte (ms)",
            cost,
        ),
        ("questions and answers over loopback, a second", asked),
        ("packets of transfers left to the kernel (%)", of_transfers),
        ("packets of questions left to the kernel (%)", of_questions),
    ]
}

/// A client's end and that of a server on the router.
fn ends_on(place: &Place, client: &Host, there: &str) -> [TcpStream; 2] {
    let listener = place.router.run(|| TcpListener::bind(there).unwrap());
    let client = client.run(|| TcpStream::connect(there).unwrap());
    [client, listener.accept().unwrap().0]
}

/// The speed of the fastest transfer to the server, or from it, and the cost of the cheapest.
fn best_transfer(to_server: bool, ends: impl Fn() -> [TcpStream; 2]) -> [f64; 2] {
    let (mut most, mut least) = (0f64, f64::MAX);
    for _ in 0..REPEATS {
        let [client, server] = ends();
        let (speed, cost) = match to_server {
            true => transfer(client, server),
            false => transfer(server, client),
        };
        (most, least) = (most.max(speed), least.min(cost));
    }
    [most, least]
}

/// How often a second something small is asked and answered.
fn questions([mut client, mut server]: [TcpStream; 2]) -> f64 {
    let answering = thread::spawn(move || {
        let mut question = [0; 64];
        while server.read_exact(&mut question).is_ok() {
            server.write_all(&question).unwrap();
        }
    });
    client.set_nodelay(true).unwrap();
    let (begun, mut count) = (Instant::now(), 0);
    let mut answer = [0; 64];
    while begun.elapsed() < TRIAL {
        client.write_all(&[7; 64]).unwrap();
        client.read_exact(&mut answer).unwrap();
        count += 1;
    }
    let seconds = begun.elapsed().as_secs_f64();
    drop(client);
    answering.join().unwrap();
    f64::from(count) / seconds
}

/// Processor's time that this process has taken, in milliseconds.
fn taken() -> f64 {
    let text = fs::read_to_string("/proc/self/stat").unwrap();
    let ticks = text.rsplit(')').next().unwrap().split_whitespace();
    ticks
        .skip(11)
        .take(2)
        .map(|t| t.parse::<f64>().unwrap() * 10.0)
        .sum()
}

/// Sends for a while; returns gigabits a second, and milliseconds of the processor's time for
/// a gigabyte.
fn transfer(mut from: TcpStream, mut to: TcpStream) -> (f64, f64) {
    let before = taken();
    let reading = thread::spawn(move || {
        let mut buffer = vec![0; 1 << 18];
        let (begun, mut total) = (Instant::now(), 0);
        while let Ok(len @ 1..) = to.read(&mut buffer) {
            total += len;
        }
        (total as f64 / 1e9, begun.elapsed().as_secs_f64())
    });
    let buffer = vec![7; 1 << 18];
    let begun = Instant::now();
    while begun.elapsed() < TRIAL {
        from.write_all(&buffer).unwrap();
    }
    drop(from);
    let (gigabytes, seconds) = reading.join().unwrap();
    (gigabytes * 8.0 / seconds, (taken() - before) / gigabytes)
}

pub(crate) fn connections(place: &Place) -> Vec<(&'static str, f64)> {
    let most = best(|| connect_for_a_while(place));
    vec![("connections a second, one after the other", most)]
}

fn connect_for_a_while(place: &Place) -> f64 {
    let listener = listener(place);
    listener.set_nonblocking(true).unwrap();
    let over = Arc::new(AtomicBool::new(false));
    let stop = Arc::clone(&over);
    let accepting = thread::spawn(move || {
        while !stop.load(Ordering::Relaxed) {
            if let Ok((mut stream, _)) = listener.accept() {
                let _ = stream.set_nonblocking(false);
                let _ = stream.write_all(b"!");
            } else {
                thread::yield_now();
            }
        }
    });
    let begun = Instant::now();
    let count = place.inside.run(|| {
        let mut count = 0u32;
        while begun.elapsed() < TRIAL {
            let mut stream = TcpStream::connect("10.1.0.2:80").unwrap();
            stream.read_to_end(&mut Vec::new()).unwrap();
            count += 1;
        }
        count
    });
    let rate = f64::from(count) / begun.elapsed().as_secs_f64();
    over.store(true, Ordering::Relaxed);
    accepting.join().unwrap();
    rate
}

pub(crate) fn latency(place: &Place) -> Vec<(&'static str, f64)> {
    let far = place.outside.run(|| UdpSocket::bind("10.1.0.2:7").unwrap());
    far.set_read_timeout(Some(Duration::from_secs(1))).unwrap();
    let echo = thread::spawn(move || {
        let mut buffer = [0; 64];
        while let Ok((len, peer)) = far.recv_from(&mut buffer) {
            let _ = far.send_to(&buffer[..len], peer);
        }
    });
    let near = place.inside.run(|| UdpSocket::bind("10.0.0.2:0").unwrap());
    near.connect("10.1.0.2:7").unwrap();
    near.set_read_timeout(Some(Duration::from_secs(1))).unwrap();
    let mut times: Vec<f64> = Vec::new();
    let begun = Instant::now();
    while begun.elapsed() < TRIAL {
        let asked = Instant::now();
        near.send(b"hello").unwrap();
        if near.recv(&mut [0; 64]).is_ok() {
            times.push(asked.elapsed().as_secs_f64() * 1e6);
        }
    }
    echo.join().unwrap();
    times.sort_by(f64::total_cmp);
    let at = |share: f64| times[((times.len() - 1) as f64 * share) as usize];
    vec![
        ("there and back, median (µs)", at(0.5)),
        ("there and back, 99 % (µs)", at(0.99)),
        ("there and back, 99.9 % (µs)", at(0.999)),
    ]
}
