//! A guarded router between two hosts.

use std::net::SocketAddr;

use tidegate_wire::Family;

use crate::net::{Host, able, all_by_xdp, filter, nat};
use crate::talk::{call, megabytes, reaches, serve, udp};

/// Inside 10.0.0.2 and fd00::2 behind `eth0` of the router (.1), outside 10.1.0.2 and
/// fd01::2 behind `eth1`.
pub(crate) struct Net {
    pub(crate) inside: Host,
    pub(crate) router: Host,
    pub(crate) outside: Host,
}

pub(crate) fn net() -> Net {
    let (inside, router, outside) = (Host::new(), Host::new(), Host::new());
    inside.link("eth0", &router, "eth0");
    outside.link("eth0", &router, "eth1");
    router.sh("
        sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1
        ip addr add 10.0.0.1/24 dev eth0; ip addr add fd00::1/64 dev eth0 nodad
        ip addr add 10.1.0.1/24 dev eth1; ip addr add fd01::1/64 dev eth1 nodad
    ");
    inside.sh("
        ip addr add 10.0.0.2/24 dev eth0; ip addr add fd00::2/64 dev eth0 nodad
        ip route add default via 10.0.0.1; ip -6 route add default via fd00::1
    ");
    outside.sh("ip addr add 10.1.0.2/24 dev eth0; ip addr add fd01::2/64 dev eth0 nodad");
    Net {
        inside,
        router,
        outside,
    }
}

impl Net {
    /// The outside knows the way in.
    pub(crate) fn routed(&self) {
        self.outside
            .sh("ip route add default via 10.1.0.1; ip -6 route add default via fd01::1");
    }
}

fn at(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

#[test]
fn forwards() {
    if !able() {
        return;
    }
    let net = net();
    net.routed();
    let rules = filter(&[
        "-A FORWARD -p udp --dport 9 -j DROP",
        "-A FORWARD -m conntrack --ctstate INVALID -j DROP",
    ]);
    let guard = net.router.guard(&rules, &rules);
    for to in ["10.1.0.2", "fd01::2"] {
        for size in [56, 4000] {
            assert!(net.inside.pings(to, size), "{to}, {size}");
        }
    }
    for (near, far) in [("10.0.0.2", "10.1.0.2"), ("[fd00::2]", "[fd01::2]")] {
        megabytes(&net.inside, &net.outside, at(&format!("{far}:80")));
        megabytes(&net.outside, &net.inside, at(&format!("{near}:80")));
        let from = udp(&net.inside, at(&format!("{near}:0")));
        for (port, passes) in [(7, true), (9, false)] {
            let to = at(&format!("{far}:{port}"));
            assert_eq!(reaches(&from, &udp(&net.outside, to), to), passes, "{to}");
        }
    }
    for family in [Family::V4, Family::V6] {
        assert_eq!(guard.counted(family, 0), 1);
        assert_eq!(guard.counted(family, 1), 0);
    }
}

#[test]
fn translates_addresses() {
    if !able() {
        return;
    }
    let net = net();
    let rules = |inside: &str| {
        nat(&[
            &format!(
                "-A PREROUTING -i eth1 -p tcp --dport 8080 -j DNAT --to-destination {inside}:80"
            ),
            "-A POSTROUTING -o eth1 -j MASQUERADE",
        ])
    };
    let guard = net.router.guard(&rules("10.0.0.2"), &rules("[fd00::2]"));
    // Out: the outside sees the router, which is all it knows the way to.
    for (far, router) in [("10.1.0.2", "10.1.0.1"), ("fd01::2", "fd01::1")] {
        assert!(net.inside.pings(far, 4000), "{far}");
        let to = SocketAddr::new(far.parse().unwrap(), 80);
        let serving = serve(&net.outside, to).unwrap();
        call(&net.inside, to).unwrap();
        assert_eq!(serving.join().unwrap().unwrap().to_string(), router);
    }
    // In: who calls the router's port is answered by the inside, and seen by it.
    for (listen, call_to, caller) in [
        ("10.0.0.2:80", "10.1.0.1:8080", "10.1.0.2"),
        ("[fd00::2]:80", "[fd01::1]:8080", "fd01::2"),
    ] {
        let serving = serve(&net.inside, at(listen)).unwrap();
        call(&net.outside, at(call_to)).unwrap();
        assert_eq!(serving.join().unwrap().unwrap().to_string(), caller);
    }
    assert_eq!(guard.counted(Family::V4, 0), 1);
}

/// The router says so when a packet is too long for the next link.
#[test]
fn path_mtu() {
    if !able() {
        return;
    }
    let net = net();
    net.routed();
    net.router.sh("ip link set eth1 mtu 1400");
    net.outside.sh("ip link set eth0 mtu 1400");
    let _guard = net.router.guard(&filter(&[]), &filter(&[]));
    for to in ["10.1.0.2", "fd01::2"] {
        let script = format!("ping -n -c 1 -W 2 -M do -s 1440 {to} 2>&1 || true");
        let said = net.inside.sh(&script).to_lowercase();
        assert!(
            said.contains("mtu = 1400") || said.contains("mtu=1400"),
            "{to}: {said}"
        );
        // The sender has learnt it.
        assert!(net.inside.pings(to, 1440), "{to}");
    }
    megabytes(&net.inside, &net.outside, at("10.1.0.2:80"));
    megabytes(&net.inside, &net.outside, at("[fd01::2]:80"));
}

/// Neighbours that the kernel has found, or was told of, before the start.
#[test]
fn neighbours_known_before() {
    if !able() {
        return;
    }
    let net = net();
    net.routed();
    let mac = net.outside.sh("ip -o link show eth0");
    let mac = mac
        .split("link/ether ")
        .nth(1)
        .and_then(|s| s.split(' ').next());
    net.router.sh(&format!(
        "ip neigh replace 10.1.0.2 lladdr {} dev eth1 nud permanent",
        mac.unwrap()
    ));
    for to in ["10.1.0.2", "fd01::2"] {
        assert!(net.inside.pings(to, 56));
    }
    let _guard = net.router.guard(&filter(&[]), &filter(&[]));
    for to in ["10.1.0.2", "fd01::2"] {
        let script = format!("ping -n -q -c 1 -W 1 {to} >/dev/null");
        net.inside.sh(&script);
    }
}

/// A router tells who sends to nobody, through NAT too: from the address that the kernel
/// takes there, which is the one that the packet has got.
#[test]
fn nobody_there() {
    if !able() {
        return;
    }
    let net = net();
    let rules = nat(&["-A POSTROUTING -o eth1 -j MASQUERADE"]);
    let guard = net.router.guard(&rules, &rules);
    let ask = |to: &str| {
        let script = format!("ping -n -c 2 -i 0.1 -W 6 -w 7 {to} 2>&1 || true");
        net.inside.sh(&script)
    };
    std::thread::scope(|scope| {
        let six = scope.spawn(|| ask("fd01::99"));
        let four = ask("10.1.0.99");
        assert!(
            four.contains("From 10.1.0.1 icmp_seq=1 Destination Host Unreachable"),
            "{four}"
        );
        let six = six.join().unwrap();
        let says = "From fd01::1 icmp_seq=1 Destination unreachable: Address unreachable";
        assert!(six.contains(says), "{six}");
    });
    assert!(guard.traffic("eth1").lost.unresolved >= 2);
}

/// Segments that do not fit the next link are not passed on as parts of a large packet.
#[test]
fn path_mtu_of_large_packets() {
    if !able() || all_by_xdp() {
        // There are no large packets then.
        return;
    }
    let net = net();
    net.routed();
    let _guard = net.router.guard(&filter(&[]), &filter(&[]));
    // The sender believes that 1500 bytes fit all the way until it is told; both ends
    // agree on segments for 1500.
    net.router.sh("ip link set eth1 mtu 1300");
    // The router looks at its interfaces a little later, on a busy machine later still.
    std::thread::sleep(std::time::Duration::from_secs(1));
    for to in ["10.1.0.2:80", "[fd01::2]:80"] {
        megabytes(&net.inside, &net.outside, at(to));
    }
    let said = net
        .inside
        .sh("ip route get 10.1.0.2; ip -6 route get fd01::2");
    assert_eq!(said.matches("mtu 1300").count(), 2, "{said}");
}

/// The kernel routes a looped packet once, so that one with a new destination still reaches this
/// host's sockets. Past the datapath it would be routed again and go out, as if somebody had sent it.
#[test]
fn what_is_looped_never_leaves() {
    if !able() {
        return;
    }
    let net = net();
    net.outside
        .sh("ip addr add fd01::fffe:0:0:1/64 dev eth0 nodad");
    let rules = "*mangle\n:PREROUTING ACCEPT [0:0]\n:OUTPUT ACCEPT [0:0]
-A PREROUTING -i lo -p udp -j DNPT --src-pfx fd00::/64 --dst-pfx fd01::/64
-A OUTPUT -p udp\nCOMMIT\n";
    let guard = net.router.guard(&filter(&[]), rules);
    let outside = udp(&net.outside, at("[fd01::fffe:0:0:1]:9"));
    let sender = udp(&net.router, at("[fd00::1]:0"));
    assert!(!reaches(&sender, &outside, at("[fd00::1]:9")));
    assert_eq!([0, 1].map(|n| guard.counted(Family::V6, n)), [1, 1]);
    assert_eq!(guard.traffic("lo").lost.astray, 1);
}
