//! The state file: kept whole, whatever happens.

use std::fs;
use std::process::Command;

use crate::common::{Host, PROGRAM, finish, without_dates};

#[test]
fn a_hundred_appends_at_once_lose_nothing() {
    let host = Host::new();
    let children: Vec<_> = (0..100)
        .map(|i| {
            let port = (1000 + i).to_string();
            let words = [
                "iptables", "-A", "INPUT", "-p", "tcp", "--dport", &port, "-j", "DROP",
            ];
            host.command(&words).spawn().unwrap()
        })
        .collect();
    for mut child in children {
        assert!(child.wait().unwrap().success());
    }
    let rules = host.run(&["iptables", "-S", "INPUT"]).out;
    for i in 0..100 {
        assert!(
            rules.contains(&format!("--dport {} -j DROP", 1000 + i)),
            "{i}"
        );
    }
    assert_eq!(rules.lines().count(), 101);
}

#[test]
fn families_do_not_touch_each_other() {
    let host = Host::new();
    host.lines(&[
        "ip6tables -A INPUT -s ::1 -j DROP",
        "iptables -A INPUT -s 127.0.0.1 -j DROP",
        "ip6tables -A INPUT -j ACCEPT",
        "iptables -F",
    ]);
    assert_eq!(
        host.run(&["ip6tables", "-S", "INPUT"]).out.lines().count(),
        3
    );
    assert_eq!(
        host.run(&["iptables", "-S", "INPUT"]).out,
        "-P INPUT ACCEPT\n"
    );
}

#[test]
fn a_saved_file_can_be_the_state() {
    let host = Host::new();
    host.set_text("*filter\n:INPUT DROP [1:2]\nCOMMIT\n");
    host.lines(&["iptables -A INPUT -i lo -j ACCEPT"]);
    let dump = without_dates(&host.run(&["iptables-save", "-c"]).out);
    assert_eq!(
        dump,
        "*filter\n:INPUT DROP [1:2]\n:FORWARD ACCEPT [0:0]\n:OUTPUT ACCEPT [0:0]\n\
         [0:0] -A INPUT -i lo -j ACCEPT\nCOMMIT\n"
    );
}

#[test]
fn a_damaged_state_is_named_and_left_alone() {
    let host = Host::new();
    host.set_text("*filter\nnonsense\n");
    let run = host.run(&["iptables", "-A", "INPUT", "-j", "DROP"]);
    assert_eq!(run.status, 4);
    assert!(run.err.contains("line: 2"), "{}", run.err);
    assert_eq!(host.text(), "*filter\nnonsense\n");
}

#[test]
fn the_state_may_be_named_anywhere() {
    let host = Host::new();
    let file = host.state();
    let file = file.to_str().unwrap();
    for words in [
        vec!["--offline", file, "iptables", "-N", "a"],
        vec!["iptables", "-N", "b", "--offline", file],
        vec!["iptables", &format!("--offline={file}"), "-N", "c"],
    ] {
        let output = Command::new(PROGRAM)
            .args(&words)
            .env_remove("TIDEGATE_STATE")
            .output()
            .unwrap();
        assert!(output.status.success(), "{words:?}");
    }
    assert!(
        host.run(&["iptables", "-S"])
            .out
            .ends_with("-N a\n-N b\n-N c\n")
    );
}

#[test]
fn without_a_state_the_tool_says_what_to_do() {
    let call = |words: &[&str]| {
        let output = Command::new(PROGRAM)
            .args(words)
            .env_remove("TIDEGATE_STATE")
            .output();
        finish(output.unwrap())
    };
    let run = call(&["iptables", "-L"]);
    assert_eq!((run.status, run.out.as_str()), (4, ""));
    assert!(run.err.contains("--offline FILE"), "{}", run.err);
    let version = call(&["ip6tables", "--version"]);
    assert_eq!(
        (version.status, version.out.as_str()),
        (0, "ip6tables v1.8.13 (legacy)\n")
    );
    assert_eq!(call(&["iptables", "-Q"]).status, 2);
}

#[test]
fn links_play_the_tools() {
    let host = Host::new();
    let directory = tempfile::tempdir().unwrap();
    assert_eq!(
        host.run(&["link", directory.path().to_str().unwrap()])
            .status,
        0
    );
    for (tool, version) in [
        ("iptables", "iptables v1.8.13 (legacy)\n"),
        ("ip6tables-save", "ip6tables-save v1.8.13 (legacy)\n"),
        ("iptables-restore", "iptables-restore v1.8.13 (legacy)\n"),
    ] {
        let output = Command::new(directory.path().join(tool)).arg("-V").output();
        assert_eq!(finish(output.unwrap()).out, version);
    }
}

#[test]
fn restore_options() {
    let host = Host::new();
    let file = "# hello\n*filter\n:INPUT DROP [5:600]\n:mine - [0:0]\n[7:8] -A INPUT -j mine\nCOMMIT\n\
                *nat\n-A PREROUTING -p udp\nCOMMIT\n";
    let test = host.feed(&["iptables-restore", "-t"], file);
    assert_eq!(
        (test.status, host.text().as_str()),
        (0, ""),
        "a test changes nothing"
    );
    assert_eq!(
        host.feed(&["iptables-restore", "-T", "nat"], file).status,
        0
    );
    assert!(!host.text().contains("*filter"));
    let loud = host.feed(&["iptables-restore", "-v", "-c"], file);
    assert_eq!((loud.status, loud.out.as_str()), (0, "# hello\n"));
    assert!(host.text().contains(":INPUT DROP [5:600]"));
    assert!(host.text().contains("[7:8] -A INPUT -j mine"));
    let more = "*filter\n:mine - [0:0]\n-A mine -j DROP\nCOMMIT\n";
    assert_eq!(host.feed(&["iptables-restore", "-n"], more).status, 0);
    assert!(
        host.text()
            .contains("[7:8] -A INPUT -j mine\n[0:0] -A mine -j DROP")
    );
    let path = host.state().with_extension("rules");
    fs::write(&path, more).unwrap();
    assert_eq!(
        host.run(&["iptables-restore", path.to_str().unwrap()])
            .status,
        0
    );
    assert!(!host.text().contains("-A INPUT"));
    let none = host.run(&["iptables-restore", "/nonexistent"]);
    assert_eq!(none.status, 1);
    assert_eq!(
        none.err,
        "Can't open /nonexistent: No such file or directory\n"
    );
}

#[test]
fn a_state_that_cannot_be_written_is_an_error() {
    let host = Host::new();
    let missing = host.state().join("no/such/directory/state");
    let output = Command::new(PROGRAM)
        .args(["iptables", "-N", "x"])
        .env("TIDEGATE_STATE", &missing)
        .output();
    let run = finish(output.unwrap());
    assert_eq!(run.status, 4);
    assert!(run.err.contains("no/such/directory"), "{}", run.err);
}

#[test]
fn a_restore_killed_at_any_moment_leaves_the_old_rules_or_the_new() {
    let host = Host::new();
    host.lines(&["iptables -N old", "ip6tables -N kept"]);
    let rules: String = (0..5000)
        .map(|i| format!("-A new -s 10.0.{}.{} -j DROP\n", i / 256, i % 256))
        .collect();
    let path = host.state().with_extension("rules");
    fs::write(&path, format!("*filter\n:new - [0:0]\n{rules}COMMIT\n")).unwrap();
    let mut old = 0;
    for delay in 0..40 {
        let mut child = host
            .command(&["iptables-restore", path.to_str().unwrap()])
            .spawn()
            .unwrap();
        std::thread::sleep(std::time::Duration::from_millis(3 * delay));
        let _ = child.kill();
        child.wait().unwrap();
        let listed = host.run(&["iptables", "-S"]).out;
        match listed.lines().count() {
            4 if listed.contains("-N old") => old += 1,
            5004 if listed.contains("-N new") => {}
            n => panic!("{n} lines after {delay}"),
        }
        assert!(host.run(&["ip6tables", "-S"]).out.contains("-N kept"));
        host.lines(&["iptables -F", "iptables -X", "iptables -N old"]);
    }
    assert!(old > 0, "none was killed in time");
    host.lines(&[&format!("iptables-restore {}", path.display())]);
    assert_eq!(host.run(&["iptables", "-S"]).out.lines().count(), 5004);
}

/// A command line is about the sets that there are; a file may be written before them.
#[test]
fn rules_name_sets_that_are_there() {
    let host = Host::new();
    host.lines(&[
        "ipset create here hash:ip",
        "iptables -A INPUT -m set --match-set here src -j DROP",
        "iptables -A INPUT -j SET --add-set here src",
    ]);
    let said = |line: &str| {
        let run = host.line(line);
        (run.status, run.err.lines().next().unwrap_or("").to_owned())
    };
    let missing = "iptables v1.8.13 (legacy): Set gone doesn't exist.".to_owned();
    for rule in ["-m set --match-set gone src", "-j SET --del-set gone src"] {
        for verb in ["-A INPUT", "-I INPUT 1", "-R INPUT 1"] {
            let line = format!("iptables {verb} {rule}");
            assert_eq!(said(&line), (2, missing.clone()), "{line}");
        }
    }
    assert_eq!(
        said("ip6tables -A INPUT -m set --match-set here src"),
        (
            2,
            "ip6tables v1.8.13 (legacy): The protocol family of set here is IPv4, which is not applicable."
                .to_owned()
        )
    );
    let file = "*filter\n-A INPUT -m set --match-set gone src\nCOMMIT\n";
    assert_eq!(host.feed(&["iptables-restore", "-n"], file).status, 0);
    host.lines(&["iptables -D INPUT -m set --match-set gone src"]);
}
