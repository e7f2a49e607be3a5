//! Whatever stands on the command line, the tool answers.

use proptest::prelude::*;

use crate::local::Local;

/// Words that mean something, and some that do not.
const WORDS: &[&str] = &[
    "-L",
    "-I",
    "-A",
    "-U",
    "-D",
    "-G",
    "-E",
    "-F",
    "-C",
    "-S",
    "-V",
    "-h",
    "-R",
    "conntrack",
    "expect",
    "dying",
    "unconfirmed",
    "-s",
    "-d",
    "-r",
    "-q",
    "-p",
    "tcp",
    "udp",
    "icmp",
    "icmpv6",
    "gre",
    "sctp",
    "dccp",
    "udplite",
    "47",
    "0",
    "256",
    "-t",
    "-u",
    "ASSURED",
    "SEEN_REPLY,UNSET",
    "-z",
    "-e",
    "NEW",
    "--tuple-src",
    "--tuple-dst",
    "--mask-src",
    "--mask-dst",
    "-m",
    "1/2",
    "-i",
    "-f",
    "ipv4",
    "ipv6",
    "-n",
    "-g",
    "-j",
    "-o",
    "xml",
    "save",
    "id,extended",
    "ktimestamp",
    "-c",
    "-b",
    "-w",
    "-l",
    "--label-add",
    "--label-del",
    "--orig-zone",
    "--reply-zone",
    "--sport",
    "--dport",
    "--reply-port-src",
    "--reply-port-dst",
    "--state",
    "ESTABLISHED",
    "--orig-vtag",
    "--reply-vtag",
    "--srckey",
    "--dstkey",
    "--icmp-type",
    "--icmp-code",
    "--icmp-id",
    "8",
    "128",
    "--icmpv6-type",
    "--icmpv6-code",
    "1.1.1.1",
    "2.2.2.2",
    "1.1.1.0/24",
    "::1",
    "[::1]:80",
    "9.9.9.9:5",
    "100",
    "65535",
    "-1",
    "4294967295",
    "",
    "-",
    "--",
    "--=",
    "-x",
    "é",
];

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn known_words_in_any_order(picks in prop::collection::vec(0..WORDS.len(), 0..16)) {
        let local = Local::small();
        local.run("-I -s 1.1.1.1 -d 2.2.2.2 -p udp --sport 1 --dport 2 -t 100", "");
        let words: Vec<&str> = picks.iter().map(|i| WORDS[*i]).filter(|w| *w != "-R").collect();
        let printed = local.run_words(&words, "");
        prop_assert!(printed.status <= 2);
        prop_assert!(printed.status == 0 || !printed.err.is_empty());
    }

    #[test]
    fn any_text(words in prop::collection::vec(".{0,12}", 0..8), file in ".{0,200}") {
        let local = Local::small();
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        if words.first().is_none_or(|w| *w != "-R" && *w != "--load-file") {
            prop_assert!(local.run_words(&words, "").status <= 2);
        }
        prop_assert!(local.run_words(&["-R", "-"], &file).status <= 2);
    }
}
