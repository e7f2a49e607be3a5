use super::*;
use crate::env::{IfIndex, Interface, Settings};
use crate::packet::LinkHeader;

fn env() -> Env {
    let iface = |n, name: &str| Interface {
        index: IfIndex(n),
        name: name.to_owned(),
        addresses: Vec::new(),
        group: 0,
        mtu: 1500,
        mac: None,
        loopback: false,
    };
    Env::new(
        vec![iface(2, "ctxr0"), iface(3, "ctxr1")],
        &[],
        &[],
        Settings::default(),
    )
}

fn plain() -> LogSpec {
    LogSpec {
        level: 4,
        prefix: String::new(),
        tcp_sequence: false,
        tcp_options: false,
        ip_options: false,
        uid: false,
        mac_decode: false,
    }
}

/// A forwarded packet with TTL 63 from 10.1.0.2 to 10.2.0.2.
fn ipv4(protocol: u8, tos: u8, id: u16, frag: u16, options: &[u8], l4: &[u8]) -> Packet {
    let header = 20 + options.len();
    let mut p = vec![0x40 | (header / 4) as u8, tos];
    p.extend_from_slice(&((header + l4.len()) as u16).to_be_bytes());
    p.extend_from_slice(&id.to_be_bytes());
    p.extend_from_slice(&frag.to_be_bytes());
    p.extend_from_slice(&[63, protocol, 0, 0, 10, 1, 0, 2, 10, 2, 0, 2]);
    p.extend_from_slice(options);
    tidegate_wire::checksum::fix_ipv4(&mut p);
    p.extend_from_slice(l4);
    forwarded(p, 0x0800)
}

fn forwarded(bytes: Vec<u8>, ethertype: u16) -> Packet {
    let mut p = Packet::new(bytes).unwrap();
    p.in_dev = Some(IfIndex(2));
    p.out_dev = Some(IfIndex(3));
    let mut link = vec![2, 0, 0, 0, 1, 1, 2, 0, 0, 0, 1, 2];
    link.extend_from_slice(&ethertype.to_be_bytes());
    p.link = LinkHeader::new(&link);
    p
}

fn tcp(
    ports: (u16, u16),
    words: (u32, u32),
    flags: u8,
    window: u16,
    urgent: u16,
    options: &[u8],
) -> Vec<u8> {
    let mut t = Vec::new();
    t.extend_from_slice(&ports.0.to_be_bytes());
    t.extend_from_slice(&ports.1.to_be_bytes());
    t.extend_from_slice(&words.0.to_be_bytes());
    t.extend_from_slice(&words.1.to_be_bytes());
    t.push((((20 + options.len()) / 4) << 4) as u8);
    t.push(flags);
    t.extend_from_slice(&window.to_be_bytes());
    t.extend_from_slice(&[0, 0]);
    t.extend_from_slice(&urgent.to_be_bytes());
    t.extend_from_slice(options);
    t
}

const UDP: [u8; 10] = [0x13, 0x88, 0, 53, 0, 10, 0, 0, 1, 2];
const MAC: &str =
    "IN=ctxr0 OUT=ctxr1 MAC=02:00:00:00:01:01:02:00:00:00:01:02:08:00 SRC=10.1.0.2 DST=10.2.0.2 ";

// The expected texts are lines that Linux 6.12 printed for such packets.
#[track_caller]
fn check(spec: &LogSpec, packet: &Packet, want: &str) {
    assert_eq!(line(spec, packet, &env()).trim_end(), want);
}

#[test]
fn tcp_lines() {
    let mut syn = tcp((40000, 80), (1, 0), 2, 1234, 0, &[]);
    syn.extend_from_slice(&[0; 8]);
    let p = ipv4(6, 0, 1, 0, &[], &syn);
    let rest = "LEN=48 TOS=0x00 PREC=0x00 TTL=63 ID=1 PROTO=TCP SPT=40000 DPT=80 WINDOW=1234 RES=0x00 SYN URGP=0";
    check(&plain(), &p, &format!("{MAC}{rest}"));
    let p = ipv4(
        6,
        0,
        1,
        0,
        &[],
        &tcp((40000, 80), (1, 0), 0xff, 65535, 5, &[]),
    );
    let rest = "LEN=40 TOS=0x00 PREC=0x00 TTL=63 ID=1 PROTO=TCP SPT=40000 DPT=80 WINDOW=65535 RES=0x00 CWR ECE URG ACK PSH RST SYN FIN URGP=5";
    check(&plain(), &p, &format!("{MAC}{rest}"));
}

#[test]
fn everything_switched_on() {
    let spec = LogSpec {
        prefix: "PFX: ".to_owned(),
        tcp_sequence: true,
        tcp_options: true,
        ip_options: true,
        uid: true,
        ..plain()
    };
    let mut t = tcp((1, 2), (4_000_000_000, 5), 0x18, 8192, 0, &[2, 4, 5, 0xb4]);
    t.extend_from_slice(&[0; 4]);
    let p = ipv4(6, 0, 1, 0, &[1, 1, 7, 3, 4, 0, 0, 0], &t);
    let rest = "LEN=56 TOS=0x00 PREC=0x00 TTL=63 ID=1 OPT (0101070304000000) PROTO=TCP SPT=1 DPT=2 SEQ=4000000000 ACK=5 WINDOW=8192 RES=0x00 ACK PSH URGP=0 OPT (020405B4)";
    check(&spec, &p, &format!("PFX: {MAC}{rest}"));
}

#[test]
fn udp_lines() {
    let p = ipv4(17, 0xb8, 4660, 0x4000, &[], &UDP);
    check(
        &plain(),
        &p,
        &format!(
            "{MAC}LEN=30 TOS=0x18 PREC=0xA0 TTL=63 ID=4660 DF PROTO=UDP SPT=5000 DPT=53 LEN=10"
        ),
    );
    let mut p = ipv4(17, 0, 1, 0, &[], &UDP);
    p.mark = 0x1f;
    check(
        &plain(),
        &p,
        &format!(
            "{MAC}LEN=30 TOS=0x00 PREC=0x00 TTL=63 ID=1 PROTO=UDP SPT=5000 DPT=53 LEN=10 MARK=0x1f"
        ),
    );
}

#[test]
fn mac_decoded() {
    let spec = LogSpec {
        mac_decode: true,
        ..plain()
    };
    let want = "IN=ctxr0 OUT=ctxr1 MACSRC=02:00:00:00:01:02 MACDST=02:00:00:00:01:01 MACPROTO=0800 SRC=10.1.0.2 DST=10.2.0.2 LEN=30 TOS=0x00 PREC=0x00 TTL=63 ID=1 PROTO=UDP SPT=5000 DPT=53 LEN=10";
    check(&spec, &ipv4(17, 0, 1, 0, &[], &UDP), want);
}

fn inner(protocol: u8, l4: &[u8]) -> Vec<u8> {
    let mut p = vec![0x45, 0];
    p.extend_from_slice(&((20 + l4.len()) as u16).to_be_bytes());
    p.extend_from_slice(&[0, 1, 0, 0, 64, protocol, 0, 0, 10, 2, 0, 2, 10, 1, 0, 2]);
    p.extend_from_slice(l4);
    p
}

#[test]
fn icmp_lines() {
    let head = format!("{MAC}LEN=58 TOS=0x00 PREC=0x00 TTL=63 ID=1 PROTO=ICMP ");
    let quote = "[SRC=10.2.0.2 DST=10.1.0.2 LEN=30 TOS=0x00 PREC=0x00 TTL=64 ID=1 PROTO=UDP SPT=5000 DPT=53 LEN=10 ]";
    for (header, want) in [
        ([3, 3, 0, 0, 0, 0, 0, 0], format!("TYPE=3 CODE=3 {quote}")),
        (
            [3, 4, 0, 0, 0, 0, 5, 0x78],
            format!("TYPE=3 CODE=4 {quote} MTU=1400"),
        ),
        (
            [5, 1, 0, 0, 9, 8, 7, 6],
            format!("TYPE=5 CODE=1 GATEWAY=9.8.7.6 {quote}"),
        ),
        (
            [12, 0, 0, 0, 20, 0, 0, 0],
            "TYPE=12 CODE=0 PARAMETER=20".to_owned(),
        ),
    ] {
        let l4 = [&header[..], &inner(17, &UDP)].concat();
        check(
            &plain(),
            &ipv4(1, 0, 1, 0, &[], &l4),
            &format!("{head}{want}"),
        );
    }
    let echo = ipv4(1, 0, 1, 0, &[], &[8, 0, 0, 0, 0, 3, 0, 4, 0]);
    check(
        &plain(),
        &echo,
        &format!("{MAC}LEN=29 TOS=0x00 PREC=0x00 TTL=63 ID=1 PROTO=ICMP TYPE=8 CODE=0 ID=3 SEQ=4"),
    );
    let short = ipv4(1, 0, 1, 0, &[], &[8, 0, 0, 0, 0, 3]);
    check(
        &plain(),
        &short,
        &format!("{MAC}LEN=26 TOS=0x00 PREC=0x00 TTL=63 ID=1 PROTO=ICMP INCOMPLETE [6 bytes]"),
    );
}

#[test]
fn other_protocols_and_fragments() {
    let head = |len: u32| format!("{MAC}LEN={len} TOS=0x00 PREC=0x00 TTL=63 ID=1 ");
    let mut esp = vec![0, 0, 0x12, 0x34];
    esp.resize(16, 0);
    check(
        &plain(),
        &ipv4(50, 0, 1, 0, &[], &esp),
        &format!("{}PROTO=ESP SPI=0x1234", head(36)),
    );
    let mut ah = vec![0, 0, 0, 0, 0, 0, 0xab, 0xcd];
    ah.resize(24, 0);
    check(
        &plain(),
        &ipv4(51, 0, 1, 0, &[], &ah),
        &format!("{}PROTO=AH SPI=0xabcd", head(44)),
    );
    check(
        &plain(),
        &ipv4(47, 0, 1, 0, &[], &[0; 12]),
        &format!("{}PROTO=47", head(32)),
    );
    check(
        &plain(),
        &ipv4(6, 0, 1, 0, &[], &[0; 4]),
        &format!("{}PROTO=TCP INCOMPLETE [4 bytes]", head(24)),
    );
    let later = ipv4(17, 0, 99, 0x2000 | 75, &[], &[0; 600]);
    check(
        &plain(),
        &later,
        &format!("{MAC}LEN=620 TOS=0x00 PREC=0x00 TTL=63 ID=99 MF FRAG:75 PROTO=UDP"),
    );
}

fn ipv6(next: u8, first: u32, payload: &[u8]) -> Packet {
    let mut p = (0x6000_0000 | first).to_be_bytes().to_vec();
    p.extend_from_slice(&(payload.len() as u16).to_be_bytes());
    p.extend_from_slice(&[next, 63]);
    for net in [0xfd01u128, 0xfd02] {
        p.extend_from_slice(&(net << 112 | 2).to_be_bytes());
    }
    p.extend_from_slice(payload);
    forwarded(p, 0x86dd)
}

#[test]
fn ipv6_lines() {
    let spec = LogSpec {
        tcp_sequence: true,
        ip_options: true,
        ..plain()
    };
    let head = "IN=ctxr0 OUT=ctxr1 MAC=02:00:00:00:01:01:02:00:00:00:01:02:86:dd SRC=fd01:0000:0000:0000:0000:0000:0000:0002 DST=fd02:0000:0000:0000:0000:0000:0000:0002 ";
    let p = ipv6(6, 0x0200_0abc, &tcp((1, 2), (5, 0), 2, 8192, 0, &[]));
    check(
        &spec,
        &p,
        &format!(
            "{head}LEN=60 TC=32 HOPLIMIT=63 FLOWLBL=2748 PROTO=TCP SPT=1 DPT=2 SEQ=5 ACK=0 WINDOW=8192 RES=0x00 SYN URGP=0"
        ),
    );
    let p = ipv6(58, 0, &[128, 0, 0, 0, 0, 1, 0, 2]);
    check(
        &spec,
        &p,
        &format!("{head}LEN=48 TC=0 HOPLIMIT=63 FLOWLBL=0 PROTO=ICMPv6 TYPE=128 CODE=0 ID=1 SEQ=2"),
    );
    let later = [&[17, 0, 0x04, 0xd0, 0, 0, 0x12, 0x34][..], &[0; 276]].concat();
    let p = ipv6(44, 0, &later);
    check(
        &spec,
        &p,
        &format!(
            "{head}LEN=324 TC=0 HOPLIMIT=63 FLOWLBL=0 OPT ( FRAG:1232 ID:00001234 ) PROTO=UDP"
        ),
    );
}

#[test]
fn nflog_copies_as_much_as_the_rule_wants() {
    let mut packet = ipv4(17, 0, 1, 0, &[], &[0, 1, 0, 2, 0, 9, 0, 0, 7]);
    packet.mark = 0x1f;
    let of_size = |size| NflogSpec {
        group: 5,
        prefix: "seen".to_owned(),
        size,
    };
    let whole = copy(&of_size(None), &packet, Hook::Forward, &env());
    let device = |n, name: &str| Device {
        index: IfIndex(n),
        name: name.to_owned(),
    };
    let wanted = Nflog {
        group: 5,
        prefix: "seen".to_owned(),
        hook: Hook::Forward,
        input: Some(device(2, "ctxr0")),
        output: Some(device(3, "ctxr1")),
        mark: 0x1f,
        bytes: packet.bytes.clone(),
        len: 29,
    };
    assert_eq!(whole, wanted);
    for (size, kept) in [(0, 0), (24, 24), (29, 29), (4000, 29)] {
        let cut = copy(&of_size(Some(size)), &packet, Hook::Forward, &env());
        assert_eq!((cut.bytes.len(), cut.len), (kept, 29), "{size}");
    }
}
