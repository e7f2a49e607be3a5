//! Packet sockets' rings, between two ends of a link.

use std::net::UdpSocket;
use std::thread::sleep;
use std::time::{Duration, Instant};

use tidegate_sys::{Frame, FramePort, OutFrame, PacketKind, PacketOptions, PacketSocket};

use crate::net::{Host, able, eventually};

/// The smallest ring there is: 64 KiB of slots of 2 KiB.
const SLOTS: u32 = 32;
const NEAR: [u8; 6] = [2, 0, 0, 0, 0, 1];
const FAR: [u8; 6] = [2, 0, 0, 0, 0, 2];

fn link() -> (Host, Host) {
    let (near, far) = (Host::new(), Host::new());
    near.link("eth0", &far, "eth0");
    let quiet = "sysctl -qw net.ipv6.conf.all.disable_ipv6=1; ip link set eth0 mtu 9000";
    near.sh(&format!(
        "{quiet}; ip link set eth0 address 02:00:00:00:00:01"
    ));
    far.sh(&format!(
        "{quiet}; ip link set eth0 address 02:00:00:00:00:02; ip addr add 10.0.0.2/24 dev eth0"
    ));
    (near, far)
}

fn open(host: &Host, ring: u32) -> PacketSocket {
    let options = PacketOptions {
        buffer: 1 << 22,
        receive_ring: ring,
        send_ring: ring,
        ..PacketOptions::default()
    };
    host.run(|| {
        let index = nix::net::if_::if_nametoindex("eth0").unwrap();
        PacketSocket::open(index, &options).unwrap()
    })
}

/// The `n`th frame, of a protocol for experiments (IEEE 802).
fn frame(n: u32, len: usize) -> OutFrame {
    let mut head = [0; 14];
    head[..6].copy_from_slice(&FAR);
    head[6..12].copy_from_slice(&NEAR);
    head[12..].copy_from_slice(&[0x88, 0xb5]);
    let mut body = n.to_be_bytes().repeat(len / 4 + 1);
    body.truncate(len);
    OutFrame {
        protocol: 0x88b5,
        head,
        head_len: 14,
        body,
        ..OutFrame::default()
    }
}

fn all(socket: &mut PacketSocket) -> Vec<Vec<u8>> {
    let mut got = Vec::new();
    let mut take = |frame: Frame<'_>| {
        assert_eq!(frame.kind, PacketKind::Host);
        assert_eq!(frame.protocol, 0x88b5);
        got.push(frame.bytes.to_vec());
    };
    while socket.receive(1000, &mut take).unwrap() > 0 {}
    got
}

/// Short frames from slots and long ones from the queue stay in order.
#[test]
fn order() {
    if !able() {
        return;
    }
    let (near, far) = link();
    for (sends, receives) in [(SLOTS, SLOTS), (0, SLOTS), (SLOTS, 0)] {
        let (mut from, mut to) = (open(&near, sends), open(&far, receives));
        let sent: Vec<OutFrame> = (0..400)
            .map(|n| frame(n, [46, 1500, 1900, 1990, 2048, 9000, 300][n as usize % 7]))
            .collect();
        let mut got = Vec::new();
        for some in sent.chunks(20) {
            let done = from.send(some);
            assert_eq!(done.sent, some.len(), "{:?}", done.refused);
            got.extend(all(&mut to));
        }
        let whole = |f: &OutFrame| [&f.head[..], &f.body].concat();
        assert!(got == sent.iter().map(whole).collect::<Vec<_>>());
        assert_eq!(to.lost(), 0);
    }
}

/// What finds no room is counted, and what follows is received.
#[test]
fn overflow() {
    if !able() {
        return;
    }
    let (near, far) = link();
    let (mut from, mut to) = (open(&near, SLOTS), open(&far, SLOTS));
    let many: Vec<OutFrame> = (0..100).map(|n| frame(n, 46)).collect();
    assert_eq!(from.send(&many).sent, 100);
    assert_eq!(all(&mut to).len(), SLOTS as usize);
    assert_eq!(to.lost(), u64::from(100 - SLOTS));
    assert_eq!(from.send(&many[..5]).sent, 5);
    assert_eq!(all(&mut to).len(), 5);
    assert_eq!(to.lost(), 0);
}

/// A slot is free again long before a program reads what was in it.
#[test]
fn sent_frames_are_copies() {
    if !able() {
        return;
    }
    let (near, far) = link();
    let mut from = open(&near, SLOTS);
    let reader = far.run(|| UdpSocket::bind("10.0.0.2:9").unwrap());
    reader
        .set_read_timeout(Some(Duration::from_secs(5)))
        .unwrap();
    let sent: Vec<OutFrame> = (0..SLOTS * 2)
        .map(|n| {
            let mut made = frame(n, 1000);
            (made.protocol, made.head[12], made.head[13]) = (0x0800, 8, 0);
            let ip = [
                0x45, 0, 3, 232, 0, 0, 0, 0, 64, 17, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2,
            ];
            made.body[..20].copy_from_slice(&ip);
            tidegate_wire::checksum::fix_ipv4(&mut made.body);
            made.body[20..28].copy_from_slice(&[0, 9, 0, 9, 3, 212, 0, 0]);
            made
        })
        .collect();
    assert_eq!(from.send(&sent).sent, sent.len());
    for frame in &sent {
        let mut got = [0; 2000];
        let len = reader.recv(&mut got).unwrap();
        assert!(got[..len] == frame.body[28..]);
    }
}

/// An interface that is down refuses frames, says so once, and works when it is up again.
#[test]
fn down_and_up() {
    if !able() {
        return;
    }
    let (near, far) = link();
    let (mut from, mut to) = (open(&near, SLOTS), open(&far, SLOTS));
    let some: Vec<OutFrame> = (0..50).map(|n| frame(n, 46)).collect();
    near.sh("ip link set eth0 down");
    let done = from.send(&some);
    assert_eq!(done.sent, 0);
    assert!(done.refused.is_some());
    assert!(from.receive(10, &mut |_| ()).is_err());
    assert_eq!(from.receive(10, &mut |_| ()).unwrap(), 0);
    near.sh("ip link set eth0 up");
    let done = from.send(&some[..10]);
    assert_eq!(done.sent, 10, "{:?}", done.refused);
    let (begun, mut got) = (Instant::now(), Vec::new());
    while got.len() < 10 && begun.elapsed() < Duration::from_secs(5) {
        got.extend(all(&mut to));
        sleep(Duration::from_millis(5));
    }
    assert_eq!(got.len(), 10);
    assert!(eventually(|| from.send(&some).sent == some.len()));
}
