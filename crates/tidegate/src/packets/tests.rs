use super::*;
use tidegate_wire::parse as layout;

fn packet(text: &str) -> Described {
    text.parse().unwrap()
}

#[test]
fn words_become_packets() {
    let p = packet("tcp 192.0.2.7:40000 > 203.0.113.5:22 in eth0 syn");
    assert_eq!((p.proto, p.sport, p.dport), (6, 40_000, 22));
    assert_eq!((p.input.as_deref(), p.tcp_flags()), (Some("eth0"), 2));
    let p = packet("udp [2001:db8::7]:5353 -> [2001:db8::1]:53 mark 0x10 after 2.5s");
    assert_eq!(
        (p.family(), p.mark, p.after),
        (Family::V6, 16, 2_500_000_000)
    );
    let p = packet("tcp 192.0.2.7>203.0.113.5:22 syn,ack out wan0");
    assert_eq!((p.tcp_flags(), p.output.as_deref()), (0x12, Some("wan0")));
    let p = packet("icmp ::1 > ::1 ping");
    assert_eq!((p.proto, p.icmp), (58, Some((128, 0))));
    let p = packet("icmp 10.0.0.1 > 10.0.0.2 unreachable/4 about udp 10.0.0.2:5 > 10.9.0.1:53");
    assert_eq!(p.icmp, Some((3, 4)));
    assert_eq!(p.about.map(|a| a.dport), Some(53));
}

#[test]
fn what_cannot_be_understood_is_named() {
    for (text, wanted) in [
        ("tcp 192.0.2.7 203.0.113.5:22", "protocol, sender"),
        ("tcp 192.0.2.7 > 203.0.113.5", "goes to a port"),
        ("tpc 192.0.2.7 > 203.0.113.5:1", "`tpc` is no protocol"),
        (
            "tcp 192.0.2.7 > example.org:80",
            "`example.org:80` is no address",
        ),
        ("tcp 192.0.2.7 > [::1]:80", "different families"),
        ("tcp 192.0.2.7 > 192.0.2.1:80 snow", "`snow` is no TCP flag"),
        ("udp 192.0.2.7 > 192.0.2.1:80 syn", "`syn` says nothing"),
        ("udp 192.0.2.7 > 192.0.2.1:80 in", "`in` needs a word"),
        (
            "icmp 192.0.2.7 > 192.0.2.1 packet-too-big",
            "no ICMP type of this family",
        ),
        ("gre 192.0.2.7:1 > 192.0.2.1", "no ports"),
        ("udp 192.0.2.7 > 192.0.2.1:80 ttl 300", "`300` is no number"),
    ] {
        let error = format!("{:#}", text.parse::<Described>().unwrap_err());
        assert!(error.contains(wanted), "{text}: {error}");
    }
}

/// Every packet is whole and its checksums are right: RFC 1071's sum over all of it is 0.
#[test]
fn bytes_have_right_lengths_and_checksums() {
    for text in [
        "tcp 192.0.2.7:40000 > 203.0.113.5:22 syn",
        "tcp [2001:db8::7]:5353 > [2001:db8::1]:53 psh,ack bytes 7",
        "udp 192.0.2.7:1 > 203.0.113.5:2 bytes 3",
        "udplite 192.0.2.7:1 > 203.0.113.5:2",
        "icmp 192.0.2.7 > 203.0.113.5",
        "icmp6 fe80::1 > ff02::1 neighbour-solicitation",
        "icmp 10.0.0.1 > 10.0.0.2 unreachable/4 about udp 10.0.0.2:5 > 10.9.0.1:53",
        "gre 192.0.2.7 > 203.0.113.5",
        "sctp 192.0.2.7:1 > 203.0.113.5:2",
    ] {
        let p = packet(text);
        let bytes = crate::course::alone(&p);
        let l = layout(&bytes).unwrap();
        assert_eq!(l.len as usize, bytes.len(), "{text}");
        assert_eq!(l.proto, p.proto, "{text}");
        let l4 = l.l4(&bytes);
        let (family, src) = tidegate_host::number(p.src);
        let dst = tidegate_host::number(p.dst).1;
        let extra = match p.proto {
            proto::ICMP => 0,
            proto::TCP | proto::UDP | proto::UDPLITE | proto::ICMPV6 => {
                tidegate_wire::checksum::pseudo(family, src, dst, p.proto, l4.len() as u32)
            }
            _ => continue,
        };
        assert_eq!(tidegate_wire::checksum::finish(extra, l4), 0, "{text}");
    }
}

proptest::proptest! {
    #[test]
    fn no_words_panic(text in "[a-z0-9 :.>/\\[\\]-]{0,60}", tail in "\\PC{0,20}") {
        let _ = text.parse::<Described>();
        if let Ok(p) = format!("tcp 10.0.0.1 > 10.0.0.2:80 {tail}").parse::<Described>() {
            let bytes = crate::course::alone(&p);
            proptest::prop_assert!(layout(&bytes).is_ok());
        }
    }
}
