//! Links that are not plain Ethernet: tagged frames, and packets without any header.

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd};
use std::process::{Command, Stdio};

use tidegate_datapath::Options;
use tidegate_sys::{FramePort, OutFrame, PacketOptions, PacketSocket};
use tidegate_wire::Family;

use crate::net::{Host, Running, able, client_and_server, eventually, filter, nat, skipped};
use crate::talk::{datagrams, megabytes, reaches, udp};

fn at(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

const NONE: &[&str] = &[];

/// A client and a server with a tagged link as well, 10.5.0.0/24; `None` where the kernel
/// has no such thing.
fn tagged() -> Option<(Host, Host)> {
    let (client, server) = client_and_server();
    let tried = client.try_sh("ip link add link lo name lo.5 type vlan id 5; ip link del lo.5");
    if let Err(why) = tried {
        skipped(&format!("no VLAN interface can be made here: {why}"));
        return None;
    }
    for (host, n) in [(&client, 2), (&server, 1)] {
        host.sh(&format!(
            "ip link add link eth0 name eth0.5 type vlan id 5
             ip link set eth0.5 up; ip addr add 10.5.0.{n}/24 dev eth0.5
             ip addr add fd05::{n}/64 dev eth0.5 nodad"
        ));
    }
    Some((client, server))
}

/// Tagged frames belong to the interface of their tag: its rules decide, once.
#[test]
fn tagged_frames_meet_the_rules_of_their_own_interface() {
    if !able() {
        return;
    }
    let Some((client, server)) = tagged() else {
        return;
    };
    let rules = filter(&[
        "-A INPUT -i eth0 -d 10.5.0.1",
        "-A INPUT -i eth0.5 -p udp --dport 9 -j DROP",
        "-A INPUT -i eth0.5 -p icmp",
    ]);
    let guard = server.guard(&rules, &filter(NONE));
    for to in ["10.0.0.1", "10.5.0.1", "fd05::1"] {
        assert!(client.pings(to, 56), "{to}");
        assert!(client.pings(to, 4000), "{to}");
    }
    megabytes(&client, &server, at("10.5.0.1:80"));
    megabytes(&server, &client, at("[fd05::2]:80"));
    let (from, to) = (
        udp(&client, at("10.5.0.2:0")),
        udp(&server, at("10.5.0.1:9")),
    );
    assert!(!reaches(&from, &to, at("10.5.0.1:9")));
    assert_eq!(guard.counted(Family::V4, 0), 0);
    // Six echo requests; fragments count as what they make.
    assert_eq!(guard.counted(Family::V4, 2), 6);
}

/// Where only the untagged link is guarded, tagged frames are the kernel's.
#[test]
fn tagged_frames_pass_a_guarded_link() {
    if !able() {
        return;
    }
    let Some((client, server)) = tagged() else {
        return;
    };
    let options = Options {
        interfaces: Some(vec!["eth0".to_owned(), "lo".to_owned()]),
        ..Options::default()
    };
    let closed = filter(&["-A INPUT -j DROP", "-A OUTPUT -j DROP"]);
    let _guard = server.guard_with(options, &closed, &closed);
    assert!(client.silent("10.0.0.1"));
    for to in ["10.5.0.1", "fd05::1"] {
        assert!(client.pings(to, 4000), "{to}");
    }
    megabytes(&client, &server, at("10.5.0.1:80"));
}

/// Tagged frames come past a guard that lets nothing in, and do not count as received.
#[test]
fn tagged_frames_are_left_alone() {
    const COUNT: usize = 5;
    if !able() {
        return;
    }
    let (client, server) = client_and_server();
    server.sh("ip link set eth0 address 02:00:00:00:00:01");
    let closed = filter(&["-A INPUT -j DROP"]);
    let guard = server.guard(&closed, &closed);
    // Behind the guard's own filters, which have the first places.
    server.sh("
        ip link add sink type dummy || ip link add sink type veth
        ip link set sink up
        tc filter add dev eth0 ingress protocol 802.1q pref 40000 u32 match u32 0 0 \\
            action mirred egress redirect dev sink
    ");
    let mut frame = OutFrame {
        protocol: 0x8100,
        head: [2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 9, 0x81, 0],
        head_len: 14,
        body: vec![0, 5, 8, 0, 0x45],
        ..OutFrame::default()
    };
    frame.body.resize(50, 0);
    let mut socket = client.run(|| {
        let index = nix::net::if_::if_nametoindex("eth0").unwrap();
        PacketSocket::open(index, &PacketOptions::default()).unwrap()
    });
    assert_eq!(socket.send(&vec![frame; COUNT]).sent, COUNT);
    let sent = format!("bytes {COUNT} pkt");
    assert!(eventually(|| {
        let said = server.sh("tc -s filter show dev eth0 ingress pref 40000");
        said.contains(&sent)
    }));
    assert_eq!(guard.traffic("eth0").received, 0);
}

/// Joins two namespaces by TUN devices: what one sends the other receives.
const CABLE: &str = r"
import ctypes, fcntl, os, select, struct, sys
def tun(space):
    if ctypes.CDLL(None, use_errno=True).setns(os.open(space, os.O_RDONLY), 0):
        raise OSError(ctypes.get_errno(), 'setns')
    device = os.open('/dev/net/tun', os.O_RDWR)
    fcntl.ioctl(device, 0x400454ca, struct.pack('16sH22x', b'tun0', 0x1001))
    return device
a, b = tun(sys.argv[1]), tun(sys.argv[2])
print('joined', flush=True)
while True:
    for device in select.select([a, b], [], [])[0]:
        packet = os.read(device, 65536)
        try:
            os.write(b if device == a else a, packet)
        except OSError:
            pass
";

/// `tun0` of both, without addresses; `None` where there is no such thing.
fn cable(a: &Host, b: &Host) -> Option<Running> {
    let place = |h: &Host| {
        let fd = h.fd().as_fd().as_raw_fd();
        format!("/proc/{}/fd/{fd}", std::process::id())
    };
    let mut program = Command::new("python3");
    program.args(["-c", CABLE, &place(a), &place(b)]);
    let child = program.stdout(Stdio::piped()).spawn();
    let Ok(child) = child else {
        skipped("TUN devices are tested with python3");
        return None;
    };
    let mut running = Running(child);
    let out = running.0.stdout.as_mut().unwrap();
    let mut said = String::new();
    BufReader::new(out).read_line(&mut said).unwrap();
    if said != "joined\n" {
        skipped("no TUN device can be made here");
        return None;
    }
    Some(running)
}

/// A host behind a header-less interface.
#[test]
fn tun_in_and_out() {
    if !able() {
        return;
    }
    let (client, server) = (Host::new(), Host::new());
    let Some(_cable) = cable(&client, &server) else {
        return;
    };
    for (host, n) in [(&client, 2), (&server, 1)] {
        host.sh(&format!(
            "ip link set tun0 up; ip addr add 10.9.0.{n}/24 dev tun0
             ip addr add fd09::{n}/64 dev tun0 nodad"
        ));
    }
    let guard = server.guard(
        &filter(&[
            "-A INPUT -i tun0 -p udp --dport 9 -j DROP",
            "-A INPUT -i tun0 -p icmp",
        ]),
        &filter(NONE),
    );
    assert!(client.pings("10.9.0.1", 56) && server.pings("10.9.0.2", 4000));
    assert!(client.pings("fd09::1", 4000) && server.pings("fd09::2", 56));
    assert_eq!(guard.counted(Family::V4, 1), 6);
    megabytes(&client, &server, at("10.9.0.1:80"));
    megabytes(&server, &client, at("[fd09::2]:80"));
    let ask = udp(&client, at("10.9.0.2:0"));
    let answer = udp(&server, at("10.9.0.1:7"));
    datagrams(&ask, &answer, at("10.9.0.1:7"));
    let shut = udp(&server, at("10.9.0.1:9"));
    assert!(!reaches(&ask, &shut, at("10.9.0.1:9")));
    guard.datapath.stop().unwrap();
    assert!(reaches(&ask, &shut, at("10.9.0.1:9")));
    assert!(client.pings("10.9.0.1", 56));
}

/// A router between a header-less interface and an Ethernet, masquerading.
#[test]
fn tun_to_ethernet() {
    if !able() {
        return;
    }
    let (inside, router, outside) = (Host::new(), Host::new(), Host::new());
    let Some(_cable) = cable(&inside, &router) else {
        return;
    };
    outside.link("eth0", &router, "eth1");
    inside.sh("
        ip link set tun0 up; ip addr add 10.9.0.2/24 dev tun0; ip route add default dev tun0
    ");
    router.sh("
        sysctl -qw net.ipv4.ip_forward=1
        ip link set tun0 up; ip addr add 10.9.0.1/24 dev tun0
        ip addr add 10.1.0.1/24 dev eth1
    ");
    outside.sh("ip addr add 10.1.0.2/24 dev eth0");
    let rules = nat(&["-A POSTROUTING -o eth1 -j MASQUERADE"]);
    let _guard = router.guard(&rules, &filter(NONE));
    assert!(inside.pings("10.1.0.2", 56) && inside.pings("10.1.0.2", 4000));
    megabytes(&inside, &outside, at("10.1.0.2:80"));
    let ask = udp(&inside, at("10.9.0.2:0"));
    let answer = udp(&outside, at("10.1.0.2:7"));
    datagrams(&ask, &answer, at("10.1.0.2:7"));
}
