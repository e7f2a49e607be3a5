//! What nfct 1.4.7 printed on Linux 6.18 for the same commands.

use std::sync::Mutex;

use tidegate_conntrack::{Config, Conntrack};
use tidegate_syntax::Failure;

use super::*;
use crate::conntrack::{Feed, TrackerWork};

struct Table(Mutex<Conntrack>);

impl Tracker for Table {
    fn submit(&self, work: TrackerWork) -> Result<(), Failure> {
        work(&mut self.0.lock().unwrap(), 0);
        Ok(())
    }

    fn subscribe(&self) -> Result<Feed, Failure> {
        Err(Failure::Plain("none".to_owned()))
    }
}

fn table() -> Table {
    Table(Mutex::new(Conntrack::new(Config::default())))
}

/// What a command prints; `pol1` is named by a rule.
fn say(table: &Table, line: &str) -> (u8, String) {
    let words: Vec<&str> = line.split_whitespace().collect();
    let printed = run(&words, table, &|name| usize::from(name == "pol1"));
    (printed.status, printed.out + &printed.err)
}

fn fails(table: &Table, line: &str, why: &str) {
    assert_eq!(
        say(table, line),
        (1, format!("nfct v1.4.7: {why}\n")),
        "{line}"
    );
}

fn works(table: &Table, line: &str) {
    assert_eq!(say(table, line), (0, String::new()), "{line}");
}

const POL1: &str = ".pol1 = {
\t.l3proto = 2,
\t.l4proto = 6,
\t.policy = {
\t\t.SYN_SENT = 120,
\t\t.SYN_RECV = 60,
\t\t.ESTABLISHED = 100,
\t\t.FIN_WAIT = 120,
\t\t.CLOSE_WAIT = 60,
\t\t.LAST_ACK = 30,
\t\t.TIME_WAIT = 120,
\t\t.CLOSE = 5,
\t\t.SYN_SENT2 = 120,
\t\t.RETRANS = 300,
\t\t.UNACKNOWLEDGED = 300,
\t},
};
";

const U6: &str = ".u6 = {
\t.l3proto = 10,
\t.l4proto = 17,
\t.policy = {
\t\t.UNREPLIED = 7,
\t\t.REPLIED = 120,
\t},
};
";

#[test]
fn policies_come_and_go() {
    let t = table();
    works(&t, "add timeout pol1 inet tcp established 100 close 5");
    fails(
        &t,
        "timeout add pol1 inet tcp established 1",
        "netlink error: Device or resource busy",
    );
    works(&t, "add u6 inet6 udp unreplied 7");
    assert_eq!(say(&t, "list"), (0, POL1.to_owned() + U6));
    assert_eq!(say(&t, "timeout get u6"), (0, U6.to_owned()));
    fails(&t, "get nosuch", "netlink error: No such file or directory");
    fails(
        &t,
        "delete nosuch",
        "netlink error: No such file or directory",
    );
    fails(&t, "delete pol1", "netlink error: Device or resource busy");
    works(&t, "flush");
    assert_eq!(say(&t, "timeout list"), (0, POL1.to_owned()));
}

#[test]
fn mistakes_are_named() {
    let t = table();
    for (line, why) in [
        ("add a inet foo open 9", "unknown layer 4 protocol"),
        ("add a inet9 tcp open 9", "unknown layer 3 protocol"),
        (
            "add a inet tcp open 9",
            "Wrong state name: `open' for protocol `tcp'",
        ),
        (
            "add a inet tcp established",
            "missing value for this timeout",
        ),
        ("add a inet tcp", "netlink error: Invalid argument"),
        ("add", "missing parameters"),
        // Taken for other numbers by nfct.
        (
            "add a inet tcp established x",
            "`x' is no number of seconds up to 8589934",
        ),
        (
            "add a inet tcp established -5",
            "`-5' is no number of seconds up to 8589934",
        ),
        (
            "add a inet tcp established 9999999",
            "`9999999' is no number of seconds up to 8589934",
        ),
    ] {
        fails(&t, line, why);
    }
    assert_eq!(say(&t, "list"), (0, String::new()));
}

#[test]
fn defaults_are_the_settings() {
    let t = table();
    works(&t, "default-set inet tcp established 777");
    let (status, out) = say(&t, "default-get inet tcp");
    assert_eq!(status, 0);
    assert!(
        out.starts_with("\t.l3proto = 2,\n\t.l4proto = 6,\n"),
        "{out}"
    );
    assert!(out.contains("\t\t.ESTABLISHED = 777,\n"), "{out}");
    // A new policy has what holds now; one that is there keeps its own.
    works(&t, "add later inet tcp close 1");
    works(&t, "default-set inet tcp established 778");
    assert!(say(&t, "get later").1.contains(".ESTABLISHED = 777,"));
}

#[test]
fn a_file_gives_back_what_was_written() {
    let t = table();
    for line in [
        "add pol1 inet tcp established 100 close 5",
        "add s inet6 sctp established 9",
        "add g inet generic timeout 9",
    ] {
        works(&t, line);
    }
    let all = policies(&t).unwrap();
    assert_eq!(file_text(&read(&file_text(&all)).unwrap()), file_text(&all));
    assert_eq!(
        read("# none\n\na inet tcp close x\n")
            .unwrap_err()
            .split(':')
            .next(),
        Some("line 3")
    );
    assert_eq!(salvage("bad\na inet udp replied 5\n").iter().count(), 1);
}
