//! Texts of the tool for wrong rules, as iptables 1.8.13 (or 1.8.9, where it is the
//! same) prints them after its name.

use tidegate_ir::{Hook, TableKind};
use tidegate_wire::Family;
use tidegate_xt::Status;

use crate::common::{self, Fault};

const INVALID: &str = "Invalid argument. Run `dmesg' for more information.";
const RANGE: &str = "Numerical result out of range.";
const NOT_FOUND: &str = "No chain/target/match by that name.";

const FILTER: &[(&str, &str)] = &[
    ("-m tcp --dport 22", INVALID),
    ("-p udp -m tcp --dport 22", INVALID),
    ("! -p tcp -m tcp --dport 22", INVALID),
    (
        "-p tcp --dport 65536",
        "invalid port/service `65536' specified",
    ),
    ("-p tcp --dport -1", "invalid port/service `-1' specified"),
    ("-p tcp --dport 30:20", "invalid portrange (min > max)"),
    ("-p udp --dport 30:20", "Port range 30-20 is negative.\n"),
    (
        "-p tcp --dport 1:2:3",
        "invalid port/service `2:3' specified",
    ),
    (
        "-p tcp --dport 22 --dport 23",
        "Only one `--destination-port' allowed",
    ),
    ("-p tcp --tcp-flags SYN", "--tcp-flags requires two args."),
    ("-p tcp --tcp-flags SYN,FOO SYN", "Unknown TCP flag `FOO'"),
    ("-p tcp --tcp-option 0", "Bad TCP option \"0\""),
    (
        "-p tcp --syn --syn",
        "Only one of `--syn' or `--tcp-flags'  allowed",
    ),
    ("-p icmp --icmp-type nosuch", "Unknown ICMP type `nosuch'"),
    ("-p icmp --icmp-type 256", "Unknown ICMP type `256'"),
    (
        "-p icmp --icmp-type ech",
        "Ambiguous ICMP type `ech': `echo-reply' or `echo-request'?",
    ),
    (
        "-m multiport --dports 80",
        "multiport needs `-p tcp', `-p udp', `-p udplite', `-p sctp' or `-p dccp'",
    ),
    (
        "-p icmp -m multiport --dports 80",
        "multiport only works with TCP, UDP, UDPLITE, SCTP and DCCP",
    ),
    (
        "-p tcp -m multiport --dports 1:2,3:4,5:6,7:8,9:10,11:12,13:14,15:16",
        "too many ports specified",
    ),
    (
        "-p tcp -m multiport --dports 5:3",
        "invalid portrange specified",
    ),
    ("-p tcp -m multiport", "no ports specified"),
    (
        "-p tcp -m multiport --dports 1 --sports 2",
        "multiport: option \"--source-ports\" cannot be used together with \"--destination-ports\".\n",
    ),
    (
        "-m limit --limit-burst 10001",
        "limit: bad value for option \"--limit-burst\", or out of range (0-10000).\n",
    ),
    ("-m limit --limit 1/day", RANGE),
    ("-m mark", "mark: option \"--mark\" must be specified\n"),
    (
        "-m limit ! --limit 5/s",
        "limit: option \"--limit\" cannot be inverted.\n",
    ),
    (
        "-m statistic --mode nth --every 3",
        "statistic: option \"--every\" also requires \"--packet\".\n",
    ),
    ("-j REJECT --reject-with tcp-reset", INVALID),
    ("-j TTL --ttl-set 5", INVALID),
    ("-j SNAT --to-source 1.1.1.1", INVALID),
];

const RAW: &[(&str, &str)] = &[
    ("-j CT --helper ftp", NOT_FOUND),
    ("-j CT --zone 65536", "Cannot parse 65536 as a zone ID"),
];

fn check(place: (TableKind, Hook), list: &[(&str, &str)]) {
    for (rule, text) in list {
        let fault = common::parse(Family::V4, place, rule).expect_err(rule);
        assert_eq!(fault.text(), *text, "{rule}");
        if let Fault::Tool(error) = fault {
            assert_eq!(error.status, Status::Parameter, "{rule}");
            assert_eq!(error.status.code(), 2);
        }
    }
}

#[test]
fn the_tools_texts_for_wrong_rules() {
    check((TableKind::Filter, Hook::Input), FILTER);
    check((TableKind::Raw, Hook::Prerouting), RAW);
}
