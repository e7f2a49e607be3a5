//! What rules refuse does not pass, and senders are told what the rules say.

use std::io;
use std::net::{SocketAddr, TcpStream, UdpSocket};

use nix::sys::socket::{setsockopt, sockopt};
use tidegate_wire::Family;

use crate::net::{Host, able, client_and_server, filter, nat};
use crate::talk::{PATIENCE, megabytes, reaches, udp};

const SERVER: [(&str, &str); 2] = [("10.0.0.1", "10.0.0.2"), ("fd00::1", "fd00::2")];

fn at(addr: &str, port: u16) -> SocketAddr {
    SocketAddr::new(addr.parse().unwrap(), port)
}

#[test]
fn input_drops() {
    if !able() {
        return;
    }
    let (client, server) = client_and_server();
    let rules = filter(&[
        "-A INPUT -p udp --dport 9 -j DROP",
        "-A INPUT -i lo -p udp --dport 8 -j DROP",
    ]);
    let guard = server.guard(&rules, &rules);
    for (ours, theirs) in SERVER {
        let from = udp(&client, at(theirs, 0));
        let (open, shut) = (udp(&server, at(ours, 7)), udp(&server, at(ours, 9)));
        assert!(reaches(&from, &open, at(ours, 7)));
        assert!(!reaches(&from, &shut, at(ours, 9)));
        let own = udp(&server, at(ours, 0));
        let shut = udp(&server, at(ours, 8));
        assert!(reaches(&own, &open, at(ours, 7)));
        assert!(!reaches(&own, &shut, at(ours, 8)));
        assert!(reaches(&from, &shut, at(ours, 8)));
    }
    for family in [Family::V4, Family::V6] {
        assert_eq!((guard.counted(family, 0), guard.counted(family, 1)), (1, 1));
    }
    assert_eq!(
        (guard.traffic("eth0").dropped, guard.traffic("lo").dropped),
        (2, 2)
    );
}

#[test]
fn output_drops() {
    if !able() {
        return;
    }
    let (client, server) = client_and_server();
    let rules = filter(&["-A OUTPUT -p udp --dport 9 -j DROP"]);
    let guard = server.guard(&rules, &rules);
    for (ours, theirs) in SERVER {
        let from = udp(&server, at(ours, 0));
        let (open, shut) = (udp(&client, at(theirs, 7)), udp(&client, at(theirs, 9)));
        assert!(reaches(&from, &open, at(theirs, 7)));
        assert!(!reaches(&from, &shut, at(theirs, 9)));
        assert!(!reaches(&from, &udp(&server, at(ours, 9)), at(ours, 9)));
    }
    for family in [Family::V4, Family::V6] {
        assert_eq!(guard.counted(family, 0), 2);
    }
}

/// What the kernel makes of ICMP errors at a socket (`icmp_err_convert`,
/// `tab_unreach` of ICMPv6).
const ERRORS4: [(&str, i32); 6] = [
    ("icmp-net-unreachable", libc_errno::ENETUNREACH),
    ("icmp-host-unreachable", libc_errno::EHOSTUNREACH),
    ("icmp-port-unreachable", libc_errno::ECONNREFUSED),
    ("icmp-proto-unreachable", libc_errno::ENOPROTOOPT),
    ("icmp-net-prohibited", libc_errno::ENETUNREACH),
    ("icmp-admin-prohibited", libc_errno::EHOSTUNREACH),
];
const ERRORS6: [(&str, i32); 4] = [
    ("icmp6-no-route", libc_errno::ENETUNREACH),
    ("icmp6-adm-prohibited", libc_errno::EACCES),
    ("icmp6-addr-unreachable", libc_errno::EHOSTUNREACH),
    ("icmp6-port-unreachable", libc_errno::ECONNREFUSED),
];

/// Error numbers of Linux on most machines (uapi `asm-generic/errno.h`).
mod libc_errno {
    pub(super) const EACCES: i32 = 13;
    pub(super) const ENOPROTOOPT: i32 = 92;
    pub(super) const ENETUNREACH: i32 = 101;
    pub(super) const ECONNREFUSED: i32 = 111;
    pub(super) const EHOSTUNREACH: i32 = 113;
}

/// Rules that reject port 1000 + n of UDP and TCP in the `n`th way.
fn rejecting(chain: &str, ways: &[(&str, i32)]) -> String {
    let mut rules = vec![format!(
        "-A {chain} -p tcp --dport 999 -j REJECT --reject-with tcp-reset"
    )];
    for (n, (way, _)) in ways.iter().enumerate() {
        let port = 1000 + n;
        for proto in ["udp", "tcp"] {
            rules.push(format!(
                "-A {chain} -p {proto} --dport {port} -j REJECT --reject-with {way}"
            ));
        }
    }
    let rules: Vec<&str> = rules.iter().map(String::as_str).collect();
    filter(&rules)
}

/// What a connected datagram socket hears after sending.
fn udp_error(host: &Host, to: SocketAddr) -> Option<i32> {
    let any = if to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
    let socket: UdpSocket = udp(host, any.parse().unwrap());
    // Without this a socket hears of some errors only.
    match to {
        SocketAddr::V4(_) => setsockopt(&socket, sockopt::Ipv4RecvErr, &true).unwrap(),
        SocketAddr::V6(_) => setsockopt(&socket, sockopt::Ipv6RecvErr, &true).unwrap(),
    }
    host.run(|| socket.connect(to)).unwrap();
    // Where a program tells local senders at once, this is an error already.
    let _ = socket.send(b"hello");
    socket
        .recv(&mut [0; 16])
        .err()
        .and_then(|e| e.raw_os_error())
}

fn tcp_error(host: &Host, to: SocketAddr) -> Option<i32> {
    let called = host.run(|| TcpStream::connect_timeout(&to, PATIENCE));
    called.err().and_then(|e: io::Error| e.raw_os_error())
}

fn told(host: &Host, to: &str, ways: &[(&str, i32)]) {
    assert_eq!(
        tcp_error(host, at(to, 999)),
        Some(libc_errno::ECONNREFUSED),
        "{to}"
    );
    for (n, (way, errno)) in ways.iter().enumerate() {
        let port = 1000 + n as u16;
        assert_eq!(
            udp_error(host, at(to, port)),
            Some(*errno),
            "UDP to {to}: {way}"
        );
        assert_eq!(
            tcp_error(host, at(to, port)),
            Some(*errno),
            "TCP to {to}: {way}"
        );
    }
}

#[test]
fn a_local_sender_hears_of_a_rejection() {
    if !able() {
        return;
    }
    let (_client, server) = client_and_server();
    let _guard = server.guard(
        &rejecting("OUTPUT", &ERRORS4),
        &rejecting("OUTPUT", &ERRORS6),
    );
    for to in ["10.0.0.2", "127.0.0.1", "10.0.0.1"] {
        told(&server, to, &ERRORS4);
    }
    for to in ["fd00::2", "::1", "fd00::1"] {
        told(&server, to, &ERRORS6);
    }
}

#[test]
fn a_remote_sender_hears_of_a_rejection() {
    if !able() {
        return;
    }
    let (client, server) = client_and_server();
    let _guard = server.guard(&rejecting("INPUT", &ERRORS4), &rejecting("INPUT", &ERRORS6));
    told(&client, "10.0.0.1", &ERRORS4);
    told(&client, "fd00::1", &ERRORS6);
}

#[test]
fn local_redirects() {
    if !able() {
        return;
    }
    let (client, server) = client_and_server();
    let rules = nat(&[
        "-A PREROUTING -p tcp --dport 80 -j REDIRECT --to-ports 8080",
        "-A OUTPUT -p tcp --dport 80 -j REDIRECT --to-ports 8081",
    ]);
    let _guard = server.guard(&rules, &rules);
    for (ours, theirs) in SERVER {
        let serving = crate::talk::serve(&server, at(ours, 8080)).unwrap();
        crate::talk::call(&client, at(ours, 80)).unwrap();
        serving.join().unwrap().unwrap();
        // What this host sends to anybody's port 80 ends here.
        let own = if at(ours, 0).is_ipv4() {
            "127.0.0.1"
        } else {
            "::1"
        };
        let serving = crate::talk::serve(&server, at(own, 8081)).unwrap();
        crate::talk::call(&server, at(theirs, 80)).unwrap();
        serving.join().unwrap().unwrap();
    }
}

#[test]
fn logs() {
    if !able() {
        return;
    }
    let (client, server) = client_and_server();
    let rules = filter(&[
        "-A INPUT -p icmp -j LOG --log-prefix \"in: \"",
        "-A INPUT -p icmp -j DROP",
    ]);
    let guard = server.guard(&rules, &filter(&[]));
    assert!(client.silent("10.0.0.1"));
    let lines = guard.seen.lines();
    assert_eq!(lines.len(), 3);
    let mac = |host: &Host| {
        let said = host.sh("ip -o link show eth0");
        let mac = said
            .split("link/ether ")
            .nth(1)
            .and_then(|s| s.split(' ').next());
        mac.unwrap().to_owned()
    };
    let link = format!("{}:{}:08:00", mac(&server), mac(&client));
    for line in lines {
        let begins = format!("in: IN=eth0 OUT= MAC={link} SRC=10.0.0.2 DST=10.0.0.1 LEN=84 ");
        assert!(line.starts_with(&begins), "{line}\n{begins}");
    }
}

/// Rules change under traffic: nothing that is allowed throughout is harmed.
#[test]
fn rules_change_under_traffic() {
    if !able() {
        return;
    }
    let (client, server) = client_and_server();
    let rules = |n: usize| {
        let extra: Vec<String> = (0..n)
            .map(|i| format!("-A INPUT -p udp --dport {} -j DROP", 2000 + i))
            .collect();
        let mut all = vec!["-A INPUT -m conntrack --ctstate ESTABLISHED -j ACCEPT"];
        all.extend(extra.iter().map(String::as_str));
        filter(&all)
    };
    let guard = server.guard(&rules(0), &rules(0));
    std::thread::scope(|scope| {
        let talking = scope.spawn(|| {
            for _ in 0..6 {
                megabytes(&client, &server, at("10.0.0.1", 80));
                megabytes(&server, &client, at("fd00::2", 80));
                std::thread::sleep(std::time::Duration::from_millis(200));
            }
        });
        let mut n = 0;
        while !talking.is_finished() {
            n += 1;
            guard.load(Family::V4, &rules(n * 7 % 50));
            guard.load(Family::V6, &rules(n * 3 % 50));
            std::thread::sleep(std::time::Duration::from_millis(250));
        }
        assert!(n >= 4);
        talking.join().unwrap();
    });
    assert_eq!(guard.traffic("eth0").dropped, 0);
}
