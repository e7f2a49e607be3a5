//! Connections through a SYN proxy, and a flood of SYNs against it.
#![allow(clippy::unwrap_used, reason = "a test over packets of its own")]
#![allow(dead_code, reason = "parts of another test are used in part")]

#[path = "drops/packets.rs"]
mod packets;
#[path = "drops/world.rs"]
mod world;

use std::time::{Duration, Instant};

use packets::Ends;
use tidegate_engine::conntrack::{self, SECOND, Status};
use tidegate_engine::{
    Config, Disposition, DropReason, Outcome, Output, SynProxyCounts, TrackWhen,
};
use tidegate_wire::tcp::{Options, Tcp, flags, option};
use tidegate_wire::{Family, be32, parse};
use world::{ETH0, ETH1, FORTH, SERVER, World};

const SYN: u8 = flags::SYN;
const ACK: u8 = flags::ACK;
const PSH: u8 = flags::PSH;
const RULES: &[(&str, &str)] = &[
    (
        "raw",
        "-A PREROUTING -p tcp --dport 80 --syn -j CT --notrack",
    ),
    (
        "filter",
        ":FORWARD DROP\n\
         -A FORWARD -p tcp --dport 80 -m conntrack --ctstate INVALID,UNTRACKED \
         -j SYNPROXY --sack-perm --timestamp --wscale 7 --mss 1460\n\
         -A FORWARD -m conntrack --ctstate INVALID -j DROP\n\
         -A FORWARD -m conntrack --ctstate NEW,ESTABLISHED -j ACCEPT\n\
         -A FORWARD -p tcp --dport 81 -j ACCEPT",
    ),
];

/// A proxy in front of 10.0.1.2:80 whose table takes so many connections.
fn proxy(max: u32) -> World {
    World::with(&Config {
        track: TrackWhen::Always,
        conntrack: conntrack::Config {
            max,
            buckets: max,
            tcp_loose: false,
            hash_key: [9; 16],
            ..conntrack::Config::default()
        },
        ..Config::default()
    })
    .rules(RULES)
}

/// What left, one packet each: the interface and the transport header.
fn left(outcome: &Outcome) -> Vec<(tidegate_engine::env::IfIndex, Vec<u8>)> {
    let sent = outcome.outputs.iter().filter_map(|o| match o {
        Output::Transmit { dev, bytes, .. } => {
            let l4 = usize::from(parse(bytes).unwrap().l4);
            Some((*dev, bytes[l4..].to_vec()))
        }
        _ => None,
    });
    sent.collect()
}

/// Time stamps as an option.
fn stamps(value: u32, echo: u32) -> Vec<u8> {
    let mut bytes = vec![1, 1, option::TIMESTAMP, 10];
    bytes.extend(value.to_be_bytes());
    bytes.extend(echo.to_be_bytes());
    bytes
}

/// The sender's and the other one's clock.
fn stamps_of(l4: &[u8]) -> (u32, u32) {
    let tcp = Tcp::new(l4).unwrap();
    let found = Options::new(tcp.options()).find(|o| o.0 == option::TIMESTAMP);
    let data = found.unwrap().2;
    (be32(data, 0).unwrap(), be32(data, 4).unwrap())
}

/// A client in the middle of a connection.
struct Client {
    ends: Ends,
    port: u16,
    /// Its next number, and the next one that it expects.
    numbers: [u32; 2],
}

impl Client {
    /// Opens a connection by way of the proxy; the server's number is 7,000,000.
    fn connects(world: &mut World, address: u128, port: u16) -> Option<Client> {
        let ends = Ends(Family::V4, address, SERVER);
        let there = [port, 80];
        let answer = world.receive(ETH0, &ends.tcp(there, SYN, 1000, 0));
        let (_, l4) = left(&answer).pop()?;
        let isn = Tcp::new(&l4)?.seq();
        let opening = world.receive(ETH0, &ends.tcp(there, ACK, 1001, isn.wrapping_add(1)));
        let (dev, l4) = left(&opening).pop()?;
        let syn = Tcp::new(&l4)?;
        assert_eq!((dev, syn.flags(), syn.seq()), (ETH1, SYN, 1000));
        let taken = ends.back().tcp([80, port], SYN | ACK, 7_000_000, 1001);
        let both = left(&world.receive(ETH1, &taken));
        assert_eq!(both.len(), 2, "the server and the client hear of it");
        Some(Client {
            ends,
            port,
            numbers: [1001, isn.wrapping_add(1)],
        })
    }

    /// Asks and is answered, with the numbers that either end expects.
    fn talks(&mut self, world: &mut World) -> bool {
        let [seq, ack] = self.numbers;
        let there = [self.port, 80];
        let ask = self.ends.segment(there, PSH | ACK, [seq, ack], &[], b"?");
        let Some((_, asked)) = left(&world.receive(ETH0, &ask)).pop() else {
            return false;
        };
        let heard = Tcp::new(&asked).unwrap().ack();
        let back = [80, self.port];
        let answer = self
            .ends
            .back()
            .segment(back, PSH | ACK, [heard, seq + 1], &[], b"!");
        let Some((_, answered)) = left(&world.receive(ETH1, &answer)).pop() else {
            return false;
        };
        let seen = Tcp::new(&answered).unwrap().seq();
        self.numbers = [seq + 1, ack.wrapping_add(1)];
        seen == ack
    }
}

#[test]
fn both_ends_keep_their_numbers_and_clocks() {
    let mut world = proxy(100);
    let offer = [&stamps(500, 0)[..], &[2, 4, 5, 180, 4, 2, 1, 1, 1, 3, 3, 2]].concat();
    let there = [4000, 80];
    let syn = FORTH.segment(there, SYN, [1000, 0], &offer, b"");
    let answer = left(&world.receive(ETH0, &syn)).remove(0).1;
    let tcp = Tcp::new(&answer).unwrap();
    let isn = tcp.seq();
    let (clock, echo) = stamps_of(&answer);
    // Nothing may be sent before the server is there; scale 2 and SACK are remembered.
    assert_eq!((tcp.window(), echo, clock & 0x3f), (0, 500, 2 | 1 << 4));
    assert_eq!(world.engine.conntrack().count(), 0);

    let come_back = stamps(510, clock);
    let ack = FORTH.segment(there, ACK, [1001, isn.wrapping_add(1)], &come_back, b"");
    let opening = left(&world.receive(ETH0, &ack)).remove(0).1;
    let offered = Tcp::new(&opening).unwrap();
    let kinds: Vec<_> = Options::new(offered.options())
        .map(|(kind, _, data)| (kind, data.to_vec()))
        .filter(|o| o.0 != option::TIMESTAMP)
        .collect();
    let expected = [
        (option::MSS, vec![5, 180]),
        (option::SACK_PERM, vec![]),
        (option::WSCALE, vec![2]),
    ];
    assert_eq!(kinds, expected);

    let theirs = [&stamps(90_000, 510)[..], &[2, 4, 5, 180, 1, 3, 3, 9]].concat();
    let back = FORTH.back();
    let taken = back.segment([80, 4000], SYN | ACK, [7_000_000, 1001], &theirs, b"");
    let heard = left(&world.receive(ETH1, &taken));
    let to_client = &heard.iter().find(|h| h.0 == ETH0).unwrap().1;
    let told = Tcp::new(to_client).unwrap();
    assert_eq!(told.seq(), isn.wrapping_add(1));
    assert_eq!(stamps_of(to_client).0, clock);

    // The server's clock goes on by 7, and so does the one that the client sees.
    let data = back.segment(
        [80, 4000],
        PSH | ACK,
        [7_000_001, 1001],
        &stamps(90_007, 510),
        b"hello",
    );
    let data = left(&world.receive(ETH1, &data)).remove(0).1;
    assert_eq!(Tcp::new(&data).unwrap().seq(), isn.wrapping_add(1));
    assert_eq!(stamps_of(&data), (clock + 7, 510));
    let ack = FORTH.segment(
        there,
        ACK,
        [1001, isn.wrapping_add(6)],
        &stamps(520, clock + 7),
        b"",
    );
    let ack = left(&world.receive(ETH0, &ack)).remove(0).1;
    assert_eq!(Tcp::new(&ack).unwrap().ack(), 7_000_006);
    assert_eq!(stamps_of(&ack), (520, 90_007));
}

#[test]
fn a_lost_syn_is_asked_for_again() {
    let mut world = proxy(100);
    let there = [4000, 80];
    let answer = left(&world.receive(ETH0, &FORTH.tcp(there, SYN, 1000, 0)))
        .remove(0)
        .1;
    let next = Tcp::new(&answer).unwrap().seq().wrapping_add(1);
    world.receive(ETH0, &FORTH.tcp(there, ACK, 1001, next));
    // The window is closed, so the client asks whether it is still.
    let again = left(&world.receive(ETH0, &FORTH.tcp(there, ACK, 1000, next)));
    let syn = Tcp::new(&again[0].1).unwrap();
    assert_eq!((again[0].0, syn.flags(), syn.seq()), (ETH1, SYN, 1000));
    // One more SYN of the client is answered, and the answer not taken for the server's.
    let answered = left(&world.receive(ETH0, &FORTH.tcp(there, SYN, 1000, 0)));
    assert_eq!(answered.len(), 1);
    assert_eq!(Tcp::new(&answered[0].1).unwrap().flags(), SYN | ACK);
    let taken = FORTH.back().tcp([80, 4000], SYN | ACK, 7_000_000, 1001);
    assert_eq!(left(&world.receive(ETH1, &taken)).len(), 2);
    // Every acknowledgement that was looked at had a valid cookie.
    let counts = SynProxyCounts {
        syn_received: 2,
        cookie_valid: 2,
        cookie_retrans: 1,
        ..SynProxyCounts::default()
    };
    assert_eq!(world.engine.synproxy(), counts);
    // The columns of Linux 6.18.
    let table = counts.table();
    let lines: Vec<&str> = table.lines().collect();
    assert_eq!(
        lines,
        [
            "entries\t\tsyn_received\tcookie_invalid\tcookie_valid\tcookie_retrans\tconn_reopened",
            "00000000\t00000002\t00000000\t00000002\t00000001\t00000000",
        ]
    );
}

#[test]
fn a_cookie_is_good_for_two_minutes_at_most() {
    let mut world = proxy(100);
    let there = [4000, 80];
    let answer = left(&world.receive(ETH0, &FORTH.tcp(there, SYN, 1000, 0)))
        .remove(0)
        .1;
    let next = Tcp::new(&answer).unwrap().seq().wrapping_add(1);
    world.now += 121 * SECOND;
    let late = world.receive(ETH0, &FORTH.tcp(there, ACK, 1001, next));
    let Disposition::Dropped(DropReason::BadCookie(_)) = late.disposition else {
        panic!("{late:?}");
    };
    assert_eq!(world.engine.conntrack().count(), 0);
    assert_eq!(world.engine.synproxy().cookie_invalid, 1);
}

/// A number that looks random.
fn mixed(n: u32) -> u32 {
    let n = (n ^ n >> 16).wrapping_mul(0x7feb_352d);
    let n = (n ^ n >> 15).wrapping_mul(0x846c_a68b);
    n ^ n >> 16
}

/// SYNs from everywhere, every other one past the proxy so that the table is full.
/// `TIDEGATE_FLOOD_SECONDS=60` lets it go on for so long by the clock.
#[test]
fn a_flood_at_the_tables_limit_costs_nobody_a_connection() {
    const MAX: u32 = 4096;
    let seconds = std::env::var("TIDEGATE_FLOOD_SECONDS").ok();
    let long = seconds
        .and_then(|s| s.parse().ok())
        .map(Duration::from_secs);
    let begin = Instant::now();
    let mut world = proxy(MAX);
    let known = |n: u16| 0x0a00_0064 + u128::from(n % 100);
    let mut established: Vec<Client> = (0..1000)
        .map(|n| Client::connects(&mut world, known(n), 5000 + n).unwrap())
        .collect();
    assert!(established.iter_mut().all(|c| c.talks(&mut world)));
    let (mut sent, mut honest, mut tries) = (0u32, 0u32, 0u32);
    while long.map_or(sent < 100_000, |long| begin.elapsed() < long) {
        for _ in 0..100 {
            sent += 1;
            let from = Ends(
                Family::V4,
                0x0b00_0000 | u128::from(mixed(sent) >> 8),
                SERVER,
            );
            let port = 1024 + (sent % 60_000) as u16;
            let syn = from.tcp([port, 80 + (sent % 2) as u16], SYN, mixed(!sent), 0);
            world.receive(ETH0, &syn);
        }
        let at = (sent / 100) as usize % established.len();
        assert!(established[at].talks(&mut world), "{at} after {sent}");
        honest += 1;
        let port = 10_000 + (honest % 50_000) as u16;
        let mut attempts = 0..3;
        let found = attempts.find_map(|n| Client::connects(&mut world, 0x0a00_0003 + n, port));
        tries += attempts.start as u32;
        let mut client = found.expect("an honest client does not get in");
        assert!(client.talks(&mut world));
        let bye = client.ends.tcp(
            [port, 80],
            flags::RST | ACK,
            client.numbers[0],
            client.numbers[1],
        );
        world.receive(ETH0, &bye);
        world.now += SECOND / 10;
    }
    assert!(established.iter_mut().all(|c| c.talks(&mut world)));
    let conntrack = world.engine.conntrack();
    assert!(conntrack.count() <= MAX);
    assert!(
        conntrack.stats().early_drop > 10_000,
        "the table was not full"
    );
    let assured = conntrack
        .iter()
        .filter(|(_, e)| e.status.has(Status::ASSURED));
    assert!(assured.count() >= established.len());
    println!(
        "{sent} SYNs, {honest} honest clients in {tries} tries, {:?}",
        begin.elapsed()
    );
}
