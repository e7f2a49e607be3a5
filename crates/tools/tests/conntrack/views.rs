//! `ct list` and `nat list`.

use std::sync::Arc;

use serde_json::Value;
use tidegate_conntrack::{Config, SECOND};
use tidegate_tools::views::{IsLocal, View, printed};

use crate::local::Local;

/// This host is 192.168.1.1.
fn local_addresses() -> IsLocal {
    Arc::new(|_, addr| addr == 0xc0a8_0101)
}

fn table() -> Local {
    let local = Local::new(Config {
        timestamp: true,
        buckets: 64,
        ..Config::default()
    });
    for line in [
        "-I -s 10.0.0.5 -d 8.8.8.8 -p tcp --sport 40000 --dport 53 --state ESTABLISHED -t 8000 -u SEEN_REPLY,ASSURED --src-nat 192.168.1.1",
        "-I -s 192.0.2.9 -d 192.168.1.1 -p tcp --sport 5 --dport 22 --state FIN_WAIT -t 100 -u SEEN_REPLY -w 3",
        "-I -s 192.0.2.9 -d 192.168.1.1 -p tcp --sport 5 --dport 80 --state SYN_SENT -t 100 --dst-nat 10.0.0.7:8080",
        "-I -s fd00::1 -d fd00::2 -p icmpv6 --icmpv6-type 128 --icmpv6-code 0 --icmpv6-id 7 -t 30 -m 0x2a",
    ] {
        local.lines(line);
    }
    local.wait(5 * SECOND);
    local
}

fn lines(local: &Local, view: View, words: &[&str]) -> Vec<String> {
    let shown = printed(view, words, local, &local_addresses());
    assert_eq!((shown.status, shown.err.as_str()), (0, ""));
    shown.out.lines().map(str::to_owned).collect()
}

#[test]
fn connections() {
    let local = table();
    let shown = lines(&local, View::Connections, &["list", "global"]);
    let without_id = |l: &String| l.rsplit_once(" ID=").unwrap().0.to_owned();
    let end = 1_795_227_335 + 8000;
    assert_eq!(
        shown.iter().map(without_id).collect::<Vec<_>>(),
        [
            format!(
                "TCP OUT 10.0.0.5:40000 -> 8.8.8.8:53 expires={end} (remaining: 7995 sec(s)) RxPackets=0 RxBytes=0 TxPackets=0 TxBytes=0 Flags=0x3010 [ SeenNonSyn SeenReply Assured ] State=ESTABLISHED Mark=0x0"
            ),
            format!(
                "TCP IN 192.0.2.9:5 -> 192.168.1.1:22 expires={} (remaining: 95 sec(s)) RxPackets=0 RxBytes=0 TxPackets=0 TxBytes=0 Flags=0x1010 [ SeenNonSyn SeenReply ] State=FIN_WAIT Mark=0x0 Zone=3",
                end - 7900
            ),
            format!(
                "TCP OUT 192.0.2.9:5 -> 192.168.1.1:80 expires={} (remaining: 95 sec(s)) RxPackets=0 RxBytes=0 TxPackets=0 TxBytes=0 Flags=0x0000 [ ] State=SYN_SENT Mark=0x0",
                end - 7900
            ),
            format!(
                "ICMPv6 OUT [fd00::1]:7 -> [fd00::2]:0 expires={} (remaining: 25 sec(s)) RxPackets=0 RxBytes=0 TxPackets=0 TxBytes=0 Flags=0x0000 [ ] Mark=0x2a",
                end - 7970
            ),
        ]
    );
}

#[test]
fn translations() {
    let local = table();
    assert_eq!(
        lines(&local, View::Translations, &["list"]),
        [
            "TCP OUT 10.0.0.5:40000 -> 8.8.8.8:53 XLATE_SRC 192.168.1.1:40000 Created=5sec NeedsCT=1",
            "TCP IN 8.8.8.8:53 -> 192.168.1.1:40000 XLATE_DST 10.0.0.5:40000 Created=5sec NeedsCT=1",
            "TCP IN 192.0.2.9:5 -> 192.168.1.1:80 XLATE_DST 10.0.0.7:8080 Created=5sec NeedsCT=1",
            "TCP OUT 10.0.0.7:8080 -> 192.0.2.9:5 XLATE_SRC 192.168.1.1:80 Created=5sec NeedsCT=1",
        ]
    );
}

#[test]
fn as_json() {
    let local = table();
    let parse = |view, words: &[&str]| -> Value {
        serde_json::from_str(&printed(view, words, &local, &local_addresses()).out).unwrap()
    };
    let ct = parse(View::Connections, &["list", "global", "-o", "json"]);
    assert_eq!(ct.as_array().unwrap().len(), 4);
    assert_eq!(ct[0]["Source"]["Address"], "10.0.0.5");
    assert_eq!(ct[0]["Destination"]["Port"], 53);
    assert_eq!(ct[0]["Remaining"], 7995);
    assert_eq!(ct[1]["Zone"], "3");
    let nat = parse(View::Translations, &["list", "--json"]);
    assert_eq!(nat[0]["To"]["Port"], 40000);
    assert_eq!(nat[2]["Action"], "XLATE_DST");
    let empty = Local::small();
    let none = printed(
        View::Translations,
        &["list", "--json"],
        &empty,
        &local_addresses(),
    );
    assert_eq!(
        serde_json::from_str::<Value>(&none.out).unwrap(),
        Value::Array(Vec::new())
    );
}

#[test]
fn wrong_words_get_the_usage() {
    let local = Local::small();
    for words in [&[][..], &["lst"], &["list", "-x"], &["list", "-o"]] {
        let shown = printed(View::Connections, words, &local, &local_addresses());
        assert_eq!(shown.status, 2);
        assert!(
            shown.err.starts_with("usage: tidegate ct list"),
            "{}",
            shown.err
        );
    }
}
