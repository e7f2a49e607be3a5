//! Mistakes that show in what happens to packets: what `tidegate explain` and `replay` say.

use tidegate_capture::{Direction, LinkType, Writer};

use crate::common::{Desk, Finding, one};

/// `explain` finds the mistake, says what is named, and what it advises takes the finding
/// away.
fn explained(desk: &Desk, options: &str, packets: &[&str], code: &str, says: &[&str]) {
    let found = one(&desk.explain(options, packets), code);
    for part in says {
        assert!(found.text.contains(part), "{part}: {found:?}");
    }
    desk.follow(&found.remedy);
    let after = desk.explain(options, packets);
    assert!(
        !after.iter().any(|f| f.code == code),
        "after `{}`: {after:?}",
        found.remedy
    );
}

const NO_ANSWERS: &str = "*filter\n:INPUT DROP [0:0]\n:OUTPUT ACCEPT [0:0]\n-A INPUT -i lo -j ACCEPT\n\
    -A INPUT -p tcp -m tcp --dport 22 -m conntrack --ctstate NEW -j ACCEPT\nCOMMIT\n";

#[test]
fn an_answer_that_no_rule_lets_in() {
    explained(
        &Desk::new(NO_ANSWERS),
        "",
        &[
            "udp 10.0.0.5:41122 > 1.1.1.1:53 out eth0",
            "udp 1.1.1.1:53 > 10.0.0.5:41122 in eth0",
        ],
        "TG021",
        &[
            "1.1.1.1:53 > 10.0.0.5:41122",
            "is ESTABLISHED",
            "the INPUT policy refuses it",
        ],
    );
}

/// kubernetes#94861: the SYN went another way.
#[test]
fn an_answer_whose_question_went_another_way() {
    let desk = Desk::new(
        "*filter\n:FORWARD DROP [0:0]\n-A FORWARD -m conntrack --ctstate INVALID -j DROP\n\
         -A FORWARD -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT\nCOMMIT\n",
    );
    explained(
        &desk,
        "",
        &["tcp 10.50.0.2:443 > 192.168.1.120:51000 in eth1 out eth0 syn,ack"],
        "TG050",
        &["INVALID", "10.50.0.2:443", "asymmetric routing"],
    );
}

/// kubernetes#117924: what is out of window is not translated, and somebody resets.
#[test]
fn a_segment_out_of_the_window_that_was_seen() {
    let desk = Desk::new(
        "*filter\n:INPUT DROP [0:0]\n:OUTPUT ACCEPT [0:0]\n\
         -A INPUT -m conntrack --ctstate ESTABLISHED -j ACCEPT\n\
         -A INPUT -p tcp -m tcp --dport 22 -m conntrack --ctstate NEW -j ACCEPT\nCOMMIT\n",
    );
    let host = "[[interface]]\nname = \"eth0\"\naddresses = [\"203.0.113.5/24\"]\n\
        [[route]]\nto = \"default\"\nvia = \"203.0.113.1\"\n";
    desk.write("host", host);
    let packets = [
        "tcp 192.0.2.7:40000 > 203.0.113.5:22 in eth0 syn seq 1000",
        "tcp 203.0.113.5:22 > 192.0.2.7:40000 out eth0 syn,ack seq 5000 acks 1001",
        "tcp 192.0.2.7:40000 > 203.0.113.5:22 in eth0 ack seq 1001 acks 5001",
        "tcp 192.0.2.7:40000 > 203.0.113.5:22 in eth0 ack,psh seq 200000 acks 5001 bytes 10",
    ];
    let found = one(&desk.explain("--host host", &packets), "TG051");
    // The window that the server's SYN,ACK granted ends at 1001 + 64240.
    for part in [
        "SEQ 200000 is over upper bound",
        "window of the receiver 64240",
        "without scaling",
    ] {
        assert!(found.text.contains(part), "{part}: {found:?}");
    }
    let setting = found.remedy.strip_prefix("tidegate sysctl -w ").unwrap();
    let (name, value) = setting.split_once('=').unwrap();
    desk.write("host", &format!("{host}[sysctl]\n\"{name}\" = {value}\n"));
    let after = desk.explain("--host host", &packets);
    assert!(after.is_empty(), "{after:?}");
}

/// kubernetes#56903: two questions from one socket at once. Here packets of one flow come
/// one after the other, so none is lost to a race, and there is nothing to say.
#[test]
fn two_questions_of_one_socket_at_once() {
    let desk = Desk::new(
        "*nat\n-A POSTROUTING -o eth1 -j MASQUERADE\nCOMMIT\n*filter\n:FORWARD DROP [0:0]\n\
         -A FORWARD -p udp -m udp --dport 53 -j ACCEPT\nCOMMIT\n",
    );
    let ask = "udp 10.0.0.2:40000 > 198.51.100.53:53 in eth0 out eth1 after 0";
    let out = desk.out(&format!(
        "tidegate explain --json --rules v4 '{ask}' '{ask}'"
    ));
    let json: serde_json::Value = serde_json::from_str(&out).unwrap();
    for packet in json["packets"].as_array().unwrap() {
        assert_eq!(
            (&packet["verdict"], &packet["ctstate"]),
            (&"ACCEPT".into(), &"NEW".into())
        );
    }
    assert_eq!(json["findings"].as_array().unwrap().len(), 0);
}

/// Server Fault 55611.
#[test]
fn a_client_on_the_servers_own_link() {
    let desk = Desk::new(
        "*nat\n-A PREROUTING -d 203.0.113.42 -p tcp --dport 80 -j DNAT --to-destination 192.168.0.10\nCOMMIT\n",
    );
    desk.write(
        "host",
        "[host]\nforward = true\n[[interface]]\nname = \"lan0\"\naddresses = [\"192.168.0.1/24\"]\n\
         [[interface]]\nname = \"wan0\"\naddresses = [\"203.0.113.42/24\"]\n",
    );
    explained(
        &desk,
        "--course --host host",
        &["tcp 192.168.0.50:40000 > 203.0.113.42:80 in lan0"],
        "TG070",
        &[
            "192.168.0.10 is on the same link as 192.168.0.50",
            "expects an answer from 203.0.113.42",
        ],
    );
}

/// `ssh works fine, but scp hangs`.
#[test]
fn an_error_that_path_mtu_discovery_needs() {
    let desk = Desk::new(
        "*filter\n:INPUT DROP [0:0]\n:OUTPUT ACCEPT [0:0]\n-A INPUT -i lo -j ACCEPT\n\
         -A INPUT -m conntrack --ctstate ESTABLISHED -j ACCEPT\nCOMMIT\n",
    );
    explained(
        &desk,
        "",
        &[
            "tcp 203.0.113.5:40000 > 192.0.2.7:443 out eth0 syn",
            "icmp 198.51.100.1 > 203.0.113.5 in eth0 unreachable/4 about tcp 203.0.113.5:40000 > 192.0.2.7:443",
        ],
        "TG071",
        &["the INPUT policy refuses", "smaller packets", "hangs"],
    );
}

#[test]
fn a_limit_that_did_not_match() {
    let desk = Desk::new(
        "*filter\n:INPUT ACCEPT [0:0]\n-A INPUT -p icmp -m limit --limit 1/second --limit-burst 1 -j ACCEPT\nCOMMIT\n",
    );
    let ping = "icmp 192.0.2.7 > 203.0.113.5 in eth0 echo-request";
    explained(
        &desk,
        "",
        &[ping, ping],
        "TG120",
        &[
            "INPUT 1 limits, bucket empty, next packet in 1.000 s",
            "the INPUT policy accepts the packet all the same",
        ],
    );
}

const RECENT: &str = "*filter\n:INPUT DROP [0:0]\n\
    -A INPUT -p tcp -m tcp --dport 22 -m recent --update --seconds 30 --hitcount 2 --name ssh --rsource -j DROP\n\
    -A INPUT -p tcp -m tcp --dport 22 -m recent --set --name ssh --rsource -j ACCEPT\nCOMMIT\n";

#[test]
fn an_address_in_a_list_of_recent() {
    let desk = Desk::new(RECENT);
    let login = "tcp 198.51.100.4 > 203.0.113.5:22 in eth0 syn";
    let found = one(&desk.explain("", &[login, login, login]), "TG123");
    let wanted =
        "INPUT 1 refuses because 198.51.100.4 has at least 2 hits in 30 s in list ssh, wanted 2";
    assert_eq!(found.text, wanted);
    assert_eq!(found.remedy, "tidegate recent ssh -198.51.100.4");
}

/// A pcapng file of IPv4 packets at eth0: each in words of TCP, and whether it comes in.
fn capture(desk: &Desk, packets: &[(bool, &str, u32, u32, u8, &str)]) {
    let mut writer = Writer::new(Vec::new(), "test").unwrap();
    let eth0 = writer.add_interface(Some("eth0"), LinkType::Raw).unwrap();
    for (n, &(comes_in, ends, seq, ack, flags, payload)) in packets.iter().enumerate() {
        let (from, to) = ends.split_once(" > ").unwrap();
        let (from, to): (std::net::SocketAddrV4, std::net::SocketAddrV4) =
            (from.parse().unwrap(), to.parse().unwrap());
        let mut tcp = Vec::new();
        tcp.extend(from.port().to_be_bytes());
        tcp.extend(to.port().to_be_bytes());
        tcp.extend(seq.to_be_bytes());
        tcp.extend(ack.to_be_bytes());
        tcp.extend([0x50, flags, 0xfa, 0xf0, 0, 0, 0, 0]);
        tcp.extend(payload.as_bytes());
        let addresses = (
            u128::from(from.ip().to_bits()),
            u128::from(to.ip().to_bits()),
        );
        let family = tidegate_wire::Family::V4;
        let pseudo =
            tidegate_wire::checksum::pseudo(family, addresses.0, addresses.1, 6, tcp.len() as u32);
        let sum = tidegate_wire::checksum::finish(pseudo, &tcp);
        tcp[16..18].copy_from_slice(&sum.to_be_bytes());
        let header = tidegate_engine::IpHeader {
            proto: 6,
            ttl: 64,
            tos: 0,
        };
        let bytes = tidegate_engine::ip_packet(family, addresses, header, &tcp);
        let direction = if comes_in {
            Direction::In
        } else {
            Direction::Out
        };
        let at = 1_767_225_600_000_000_000 + n as u64 * 1_000_000;
        let len = bytes.len() as u32;
        writer.packet(eth0, at, direction, &bytes, len, "").unwrap();
    }
    writer.flush().unwrap();
    std::fs::write(desk.path("ftp.pcapng"), writer.get_mut()).unwrap();
}

const SYN: u8 = 2;
const ACK: u8 = 16;
const DATA: u8 = 24;

/// firewalld#1049: `ls` hangs after 227.
#[test]
fn ftp_announces_a_connection_that_nobody_expects() {
    let desk = Desk::new(
        "*filter\n:INPUT DROP [0:0]\n:OUTPUT ACCEPT [0:0]\n-A INPUT -i lo -j ACCEPT\n\
         -A INPUT -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT\n\
         -A INPUT -p tcp -m tcp --dport 21 -m conntrack --ctstate NEW -j ACCEPT\nCOMMIT\n",
    );
    desk.write(
        "host",
        "[[interface]]\nname = \"eth0\"\naddresses = [\"192.0.2.9/24\"]\n",
    );
    let (there, back) = (
        "192.0.2.7:40000 > 192.0.2.9:21",
        "192.0.2.9:21 > 192.0.2.7:40000",
    );
    let passive = "227 Entering Passive Mode (192,0,2,9,118,209)\r\n";
    capture(
        &desk,
        &[
            (true, there, 100, 0, SYN, ""),
            (false, back, 500, 101, SYN | ACK, ""),
            (true, there, 101, 501, ACK, ""),
            // The helper reads what begins behind the end of a line that it has seen.
            (false, back, 501, 101, DATA, "220 ready\r\n"),
            (true, there, 101, 512, DATA, "PASV\r\n"),
            (false, back, 512, 107, DATA, passive),
            (true, "192.0.2.7:40001 > 192.0.2.9:30417", 900, 0, SYN, ""),
        ],
    );
    let findings = |desk: &Desk| -> Vec<Finding> {
        let out = desk.out("tidegate replay --json --rules v4 --host host ftp.pcapng");
        let lines = out
            .lines()
            .map(|l| serde_json::from_str::<serde_json::Value>(l).unwrap());
        let told = lines.filter(|l| l["number"].is_u64() && l["finding"].is_object());
        told.map(|l| Finding::explained(&l["finding"])).collect()
    };
    let found = one(&findings(&desk), "TG040");
    for part in [
        "packet 6 announced port 30417 of 192.0.2.9",
        "no helper watches",
    ] {
        assert!(found.text.contains(part), "{found:?}");
    }
    // The same for people: at the packet, and once more at the end.
    let out = desk.out("tidegate replay --rules v4 --host host ftp.pcapng");
    assert!(out.contains("Packet 7: TG040: FTP"), "{out}");
    let out = desk.out("tidegate explain --rules v4 --host host --capture ftp.pcapng --packet 7");
    assert!(out.contains(&format!("Do: {}", found.remedy)), "{out}");
    desk.follow(&found.remedy);
    assert!(findings(&desk).is_empty(), "{:?}", findings(&desk));
}
