//! One command after the other, as typed.

use crate::support::Daemon;
use crate::{err, out};

const TCP: &str = "-p tcp -s 10.0.0.2 -d 192.0.2.9 --sport 40000 --dport 22";

#[test]
fn make_list_change_remove() {
    let mut d = Daemon::new();
    d.start();
    let made = d.ask(&format!(
        "conntrack -I {TCP} --state ESTABLISHED -t 4000 -u ASSURED,SEEN_REPLY -m 7"
    ));
    assert_eq!(made.status.code(), Some(0));
    assert_eq!(
        err(&made),
        "conntrack v1.4.7 (conntrack-tools): 1 flow entries have been created.\n"
    );
    let line = |mark, uses| {
        format!(
            "tcp      6 LIFE ESTABLISHED src=10.0.0.2 dst=192.0.2.9 sport=40000 dport=22 \
             src=192.0.2.9 dst=10.0.0.2 sport=22 dport=40000 [ASSURED] mark={mark} use={uses}\n"
        )
    };
    // The time left depends on how long the test took so far.
    let without_life = |text: String| {
        let mut words: Vec<&str> = text.split(' ').collect();
        let life = words
            .iter()
            .position(|w| w.parse::<u32>().is_ok_and(|n| n > 3900));
        words[life.unwrap()] = "LIFE";
        words.join(" ")
    };
    let listed = d.ask("conntrack -L");
    assert_eq!(without_life(out(&listed)), line(7, 1));
    assert_eq!(
        err(&listed),
        "conntrack v1.4.7 (conntrack-tools): 1 flow entries have been shown.\n"
    );
    // The kernel holds an entry that it names alone.
    let changed = d.out(&format!("conntrack -U {TCP} -m 8"));
    assert_eq!(without_life(changed), line(8, 2));
    assert_eq!(
        without_life(d.out(&format!("conntrack -G {TCP}"))),
        line(8, 2)
    );
    assert_eq!(d.out("conntrack -C"), "1\n");
    let removed = d.ask(&format!("conntrack -D {TCP}"));
    assert_eq!(without_life(out(&removed)), line(8, 1));
    assert_eq!(
        err(&removed),
        "conntrack v1.4.7 (conntrack-tools): 1 flow entries have been deleted.\n"
    );
    let nothing = d.ask(&format!("conntrack -D {TCP}"));
    assert_eq!(nothing.status.code(), Some(1));
    assert_eq!(d.out("conntrack -C"), "0\n");
}

#[test]
fn statistics_and_emptying() {
    let mut d = Daemon::new();
    d.start();
    let lines: String = (1..=600)
        .map(|n| format!("-I -p udp -s 10.0.0.2 -d 192.0.2.9 --sport {n} --dport 53 -t 100\n"))
        .collect();
    d.write("many", &lines);
    d.out(&format!("conntrack -R {}", d.path("many").display()));
    assert_eq!(d.out("conntrack -C"), "600\n");
    assert_eq!(
        d.out("conntrack -S"),
        "cpu=0   \tfound=0 invalid=0 insert=600 insert_failed=0 drop=0 early_drop=0 error=0 \
         search_restart=0 clash_resolve=0 chaintoolong=0 \n"
    );
    let emptied = d.ask("conntrack -F");
    assert_eq!(
        err(&emptied),
        "conntrack v1.4.7 (conntrack-tools): connection tracking table has been emptied.\n"
    );
    assert_eq!(d.out("conntrack -C"), "0\n");
    assert_eq!(d.out("conntrack -L"), "");
}

/// Wrong lines are refused before the daemon is asked, so also without one.
#[test]
fn without_a_daemon() {
    let d = Daemon::new();
    let wrong = d.ask("conntrack -L -s 10.0.0.2 -d ::1");
    assert_eq!(wrong.status.code(), Some(2), "{}", err(&wrong));
    assert_eq!(
        d.out("conntrack --version"),
        "conntrack v1.4.7 (conntrack-tools)\n"
    );
    let missing = d.ask("conntrack -L");
    assert_eq!(missing.status.code(), Some(4));
    let said = err(&missing);
    assert!(said.contains("no tidegate daemon is running"), "{said}");
    let offline = d.ask("--offline state conntrack -L");
    assert_eq!(offline.status.code(), Some(1));
    let said = err(&offline);
    assert!(said.contains("running daemon only"), "{said}");
}

/// The last words of a bad line are the kernel's.
#[test]
fn what_the_table_refuses() {
    let mut d = Daemon::new();
    d.start();
    d.out(&format!("conntrack -I {TCP} --state LISTEN -t 50"));
    for (line, text) in [
        (
            format!("conntrack -I {TCP} --state LISTEN -t 50"),
            "Operation failed: Such conntrack exists, try -U to update\n",
        ),
        (
            "conntrack -G -p tcp -s 10.0.0.3 -d 192.0.2.9 --sport 1 --dport 2".to_owned(),
            "Operation failed: such conntrack doesn't exist\n",
        ),
    ] {
        let run = d.ask(&line);
        assert_eq!(run.status.code(), Some(1), "{line}");
        assert!(err(&run).ends_with(text), "{line}: {}", err(&run));
    }
}
