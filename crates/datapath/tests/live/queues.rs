//! Packets that wait for the readers of queues, with and without programs in the kernel.

use std::net::UdpSocket;
use std::sync::mpsc::{Receiver, Sender, channel};

use tidegate_datapath::{Datapath, Fate};
use tidegate_engine::{Engine, QueueReader, QueueSettings, QueueVerdict, Queued, Taken};
use tidegate_wire::Family;

use crate::fast::{at, fate, guard, may, stream, talk, talk_until};
use crate::net::{Guard, able, eventually, filter};
use crate::router::{Net, net};
use crate::talk::{SHORT, datagrams, megabytes, reaches, udp};

/// Passes on the numbers of packets.
#[derive(Debug)]
struct Numbers(Sender<u32>);

impl QueueReader for Numbers {
    fn take(&mut self, packet: &Queued<'_>) -> Taken {
        match self.0.send(packet.id) {
            Ok(()) => Taken::Waits,
            Err(_) => Taken::NoRoom,
        }
    }
}

/// Reads queue 5.
fn read(datapath: &Datapath) -> Receiver<u32> {
    let (to, numbers) = channel();
    let bind = move |engine: &mut Engine, _| {
        let settings = QueueSettings::default();
        engine.bind_queue(5, settings, Box::new(Numbers(to)))
    };
    datapath.with(bind).unwrap().unwrap();
    numbers
}

fn accept(datapath: &Datapath, id: u32) {
    let work = move |engine: &mut Engine, now| {
        let verdict = QueueVerdict::Accept.into();
        // In the end some have gone with their reader.
        let _ = engine.answer(now, 5, id, verdict, &mut ());
    };
    datapath.submit(Box::new(work)).unwrap();
}

fn waiting(guard: &Guard) -> usize {
    let count = |engine: &mut Engine, _| engine.queue_counts().map(|c| c.waiting).sum();
    guard.datapath.with(count).unwrap()
}

/// Accepts whatever comes while `work` is done; how many packets there were.
fn accepting(guard: &Guard, work: impl FnOnce()) -> u32 {
    let numbers = read(&guard.datapath);
    std::thread::scope(|scope| {
        let datapath = &guard.datapath;
        let answering = scope.spawn(move || {
            let mut last = 0;
            for id in numbers {
                accept(datapath, id);
                last = id;
            }
            last
        });
        work();
        let unbind = |engine: &mut Engine, _| engine.unbind_queue(5);
        datapath.with(unbind).unwrap().unwrap();
        answering.join().unwrap()
    })
}

const ALL: [&str; 3] = [
    "-A FORWARD -j NFQUEUE --queue-num 5",
    "-A INPUT -j NFQUEUE --queue-num 5",
    "-A OUTPUT -j NFQUEUE --queue-num 5",
];

fn streams(net: &Net) {
    for server in ["10.1.0.2:80", "[fd01::2]:80"] {
        megabytes(&net.inside, &net.outside, at(server));
    }
    // Of the router itself, in and out.
    megabytes(&net.inside, &net.router, at("10.0.0.1:80"));
    megabytes(&net.router, &net.outside, at("10.1.0.2:81"));
    let (from, to) = sockets(net);
    datagrams(&from, &to, at("10.1.0.2:7"));
}

fn sockets(net: &Net) -> (UdpSocket, UdpSocket) {
    let from = udp(&net.inside, at("10.0.0.2:4000"));
    (from, udp(&net.outside, at("10.1.0.2:7")))
}

#[test]
fn everything_gets_through_unharmed() {
    if !able() {
        return;
    }
    let net = net();
    net.routed();
    let guard = net.router.guard(&filter(&ALL), &filter(&ALL));
    let (from, to) = sockets(&net);
    assert!(!reaches(&from, &to, at("10.1.0.2:7")), "without a reader");
    drop((from, to));
    let count = accepting(&guard, || streams(&net));
    assert!(count > 100, "{count} packets");
    assert_eq!(guard.traffic("eth1").lost.total(), 0);
}

#[test]
fn what_waits_goes_with_its_reader_or_interface() {
    if !able() {
        return;
    }
    let net = net();
    net.routed();
    let guard = net.router.guard(&filter(&ALL[..1]), &filter(&[]));
    let (from, to) = sockets(&net);
    to.set_read_timeout(Some(SHORT)).unwrap();
    let waits = |numbers: &Receiver<u32>| {
        from.send_to(b"waits", at("10.1.0.2:7")).unwrap();
        assert_eq!(numbers.recv().unwrap(), 1);
        assert_eq!(waiting(&guard), 1);
    };
    let unbind = || {
        let unbind = |engine: &mut Engine, _| engine.unbind_queue(5);
        guard.datapath.with(unbind).unwrap().unwrap();
    };
    let numbers = read(&guard.datapath);
    waits(&numbers);
    unbind();
    assert!(to.recv(&mut [0; 9]).is_err());
    let numbers = read(&guard.datapath);
    waits(&numbers);
    net.router.sh("ip link set eth1 down");
    assert!(eventually(|| waiting(&guard) == 0));
    unbind();
}

/// Whoever asks only about a connection's first packet has the others forwarded in the
/// kernel; where all are asked about, none is.
#[test]
fn the_kernel_forwards_what_is_not_asked_about() {
    if !may() {
        return;
    }
    let net = net();
    net.routed();
    let rules = [
        "-A FORWARD -m conntrack --ctstate ESTABLISHED -j ACCEPT",
        "-A FORWARD -j NFQUEUE --queue-num 5",
    ];
    let guard = guard(&net.router, &filter(&rules));
    let there = at("10.1.0.2:7");
    let mut both = None;
    let count = accepting(&guard, || {
        let open = both.insert(stream(&net, "10.1.0.2:7", "10.0.0.2:4000"));
        talk_until(&guard, open, there, 20);
    });
    let both = both.unwrap();
    assert_eq!(count, 1);
    assert_eq!(guard.counted(Family::V4, 1), 1);
    let before = fate(&guard, Fate::Forwarded);
    guard.load(Family::V4, &filter(&ALL));
    let count = accepting(&guard, || talk(&both.0, &both.1, there, 50));
    assert_eq!(count, 100);
    assert_eq!(fate(&guard, Fate::Forwarded), before);
}
