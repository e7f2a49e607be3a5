//! `tidegate ct list` and `tidegate nat list`.

use serde_json::Value;

use crate::err;
use crate::support::Daemon;

/// A connection whose source is translated.
const MADE: &str = "conntrack -I -p tcp -s 10.0.0.5 -d 8.8.8.8 --sport 40000 --dport 53 \
                    -n 192.168.1.1 --state ESTABLISHED -u ASSURED,SEEN_REPLY -t 4000";

#[test]
fn connections_and_translations_for_people() {
    let mut d = Daemon::new();
    d.start();
    d.out(MADE);
    for line in ["ct list", "ct list global", "ct list -d"] {
        let listed = d.out(line);
        assert!(
            listed.starts_with("TCP OUT 10.0.0.5:40000 -> 8.8.8.8:53 expires="),
            "{listed}"
        );
        assert!(
            listed.contains(" [ SeenNonSyn SeenReply Assured ] State=ESTABLISHED "),
            "{listed}"
        );
        assert_eq!(listed.lines().count(), 1);
    }
    assert_eq!(
        d.out("nat list"),
        "TCP OUT 10.0.0.5:40000 -> 8.8.8.8:53 XLATE_SRC 192.168.1.1:40000 NeedsCT=1\n\
         TCP IN 8.8.8.8:53 -> 192.168.1.1:40000 XLATE_DST 10.0.0.5:40000 NeedsCT=1\n"
    );
    let wrong = d.ask("ct delete");
    assert_eq!(wrong.status.code(), Some(2));
    assert!(
        err(&wrong).starts_with("usage: tidegate ct list"),
        "{}",
        err(&wrong)
    );
}

#[test]
fn connections_and_translations_for_programs() {
    let mut d = Daemon::new();
    d.start();
    let read = |d: &Daemon, line: &str| -> Value { serde_json::from_str(&d.out(line)).unwrap() };
    assert_eq!(read(&d, "ct list --json"), serde_json::json!([]));
    assert_eq!(read(&d, "nat list -o json"), serde_json::json!([]));
    d.out(MADE);
    let listed = read(&d, "ct list -o json");
    assert_eq!(listed[0]["Source"]["Address"], "10.0.0.5");
    assert_eq!(listed[0]["Destination"]["Port"], 53);
    assert_eq!(listed[0]["State"], "ESTABLISHED");
    let listed = read(&d, "nat list --json");
    assert_eq!(listed.as_array().unwrap().len(), 2);
    assert_eq!(listed[0]["To"]["Address"], "192.168.1.1");
}

/// More entries than are looked at between two packets.
#[test]
fn every_entry_is_listed_once() {
    let mut d = Daemon::new();
    d.start();
    let lines: String = (1..=2000)
        .map(|n| format!("-I -p udp -s 10.0.0.2 -d 192.0.2.9 --sport {n} --dport 53 -t 100\n"))
        .collect();
    d.write("many", &lines);
    d.out(&format!("conntrack -R {}", d.path("many").display()));
    let listed: Vec<Value> = serde_json::from_str(&d.out("ct list --json")).unwrap();
    let mut ports: Vec<u64> = listed
        .iter()
        .map(|c| c["Source"]["Port"].as_u64().unwrap())
        .collect();
    ports.sort_unstable();
    assert!(ports.into_iter().eq(1..=2000));
}
