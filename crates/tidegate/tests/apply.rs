//! `tidegate apply`: refusals, trials, and the lockout lab: a real connection that rules
//! would cut.
#![allow(missing_docs, clippy::unwrap_used)]

#[path = "support/daemon.rs"]
mod support;

use std::io::Write;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use support::{Daemon, PROGRAM};

const OPEN: &str = "*filter\n:INPUT ACCEPT [0:0]\n-A INPUT -i lo -j ACCEPT\nCOMMIT\n";
const CLOSED: &str =
    "*filter\n:INPUT DROP [0:0]\n-A INPUT -p udp -j ACCEPT\n-A INPUT -p icmp -j ACCEPT\nCOMMIT\n";

/// `tidegate apply` over a session from 127.0.0.9, with an answer typed.
fn apply(d: &Daemon, line: &str, typed: &str) -> (Option<i32>, String, String) {
    let mut command = d.command(&format!("apply {line}"));
    command.env("SSH_CONNECTION", "127.0.0.9 40000 127.0.0.1 22");
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    // A refusal does not read what is typed.
    let _ = stdin.write_all(typed.as_bytes());
    if typed != "(nothing)" {
        drop(stdin);
        return said(&child.wait_with_output().unwrap());
    }
    let output = child.wait_with_output().unwrap();
    drop(stdin);
    said(&output)
}

fn said(output: &Output) -> (Option<i32>, String, String) {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (
        output.status.code(),
        text(&output.stdout),
        text(&output.stderr),
    )
}

fn daemon() -> Daemon {
    let mut d = Daemon::new();
    d.write("rules.v4", OPEN);
    d.write("closed", CLOSED);
    d.start();
    d
}

/// The file of that name in the daemon's directory.
fn file(d: &Daemon, name: &str) -> String {
    d.path(name).display().to_string()
}

fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let ends = Instant::now() + Duration::from_secs(20);
    while !holds() {
        assert!(Instant::now() < ends, "{what}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// PITFALLS' first: `-P INPUT DROP`. Session, fresh connection, reason, complete remedy.
#[test]
fn what_would_lock_the_caller_out_is_refused_with_a_remedy() {
    let d = daemon();
    let (code, out, err) = apply(&d, &file(&d, "closed"), "y\n");
    assert_eq!(code, Some(3), "{err}");
    assert!(
        out.contains("\n-P INPUT ACCEPT\n".trim_start()) && out.contains("\n+-P INPUT DROP\n"),
        "{out}"
    );
    let wanted = "TG001 lockout: your session 127.0.0.9:40000 → 127.0.0.1:22 would be DROPPED \
                  by the INPUT policy (no rule matched; 2 examined).\n";
    assert!(err.contains(wanted), "{err}");
    assert!(err.contains("a new connection like it, 127.0.0.9 → 127.0.0.1:22, would be DROPPED"));
    assert!(err.contains("Not applied.\nAdd \"-A INPUT -s 127.0.0.9/32 -p tcp -m tcp --dport 22 -j ACCEPT\" at the end of INPUT"), "{err}");
    assert!(err.contains("--force-lockout"), "{err}");
    assert_eq!(d.rules(), ["-A INPUT -i lo -j ACCEPT"]);
    // The daemon's answers come back over lo as well: both remedies together help.
    let mended = CLOSED.replace(
        "COMMIT",
        "-A INPUT -s 127.0.0.9/32 -p tcp -m tcp --dport 22 -j ACCEPT\n\
         -A INPUT -d 127.0.0.9/32 -p tcp -m tcp --sport 22 -j ACCEPT\nCOMMIT",
    );
    d.write("mended", &mended);
    let (code, _, err) = apply(&d, &file(&d, "mended"), "y\n");
    assert_eq!(code, Some(0), "{err}");
    assert!(err.ends_with("(y/N) Confirmed.\n"), "{err}");
    assert_eq!(d.rules().len(), 4);
}

#[test]
fn a_rule_in_the_way_is_named_and_the_remedy_goes_before_it() {
    let d = daemon();
    d.write(
        "new",
        "*filter\n:WALL - [0:0]\n-A INPUT -p udp -j ACCEPT\n-A INPUT -j WALL\n-A WALL -p tcp -j REJECT\nCOMMIT\n",
    );
    let (code, _, err) = apply(&d, &format!("{} --json", file(&d, "new")), "");
    assert_eq!(code, Some(3), "{err}");
    let (_, out, _) = apply(&d, &format!("{} --json", file(&d, "new")), "");
    let json: serde_json::Value = serde_json::from_str(&out).unwrap();
    assert_eq!(json["outcome"], "refused");
    let finding = &json["findings"][0];
    assert_eq!(finding["client"], "127.0.0.9:40000");
    let text = finding["text"].as_str().unwrap();
    assert!(text.contains("would be REJECTED by rule 1 of WALL (`-A WALL -p tcp -j REJECT --reject-with icmp-port-unreachable`)"), "{text}");
    let remedy = finding["remedy"].as_str().unwrap();
    assert!(remedy.starts_with("Add \"-A INPUT -s 127.0.0.9/32 -p tcp -m tcp --dport 22 -j ACCEPT\" before rule 2 of INPUT"), "{remedy}");
}

#[test]
fn what_is_not_confirmed_comes_off_with_counters_as_before() {
    let d = daemon();
    d.out("iptables -A INPUT -s 192.0.2.7 -c 11 660 -j DROP");
    let before = d.out("iptables-save -c");
    for typed in ["n\n", "", "(nothing)"] {
        let line = format!("--force-lockout --timeout 2 {}", file(&d, "closed"));
        let begun = Instant::now();
        let (code, _, err) = apply(&d, &line, typed);
        assert_eq!(code, Some(255), "{err}");
        assert!(err.contains("TG001"), "{err}");
        assert!(err.ends_with("The rules before are back.\n"), "{err}");
        let waited = begun.elapsed() >= Duration::from_secs(2);
        assert_eq!(waited, typed == "(nothing)");
        let tables = |text: &str| -> Vec<String> {
            let lines = text.lines().filter(|l| !l.starts_with('#'));
            lines.map(str::to_owned).collect()
        };
        assert_eq!(tables(&d.out("iptables-save -c")), tables(&before));
    }
    let status = d.out("status");
    assert!(
        status.contains("changed since") && !status.contains("ON TRIAL"),
        "{status}"
    );
}

#[test]
fn the_daemon_owns_the_timer() {
    let d = daemon();
    let line = format!("--force --no-wait --timeout 2 {}", file(&d, "closed"));
    let (code, _, err) = apply(&d, &line, "");
    assert_eq!(code, Some(0), "{err}");
    assert_eq!(d.rules().len(), 2);
    assert!(d.out("status").contains("ON TRIAL"));
    for refused in [
        "save",
        "reload",
        &format!("apply --no-wait {}", file(&d, "rules.v4")),
    ] {
        let run = d.ask(refused);
        assert_eq!(run.status.code(), Some(1), "{refused}");
        assert!(String::from_utf8_lossy(&run.stderr).contains("tidegate confirm"));
    }
    eventually("the rules before do not come back", || {
        d.rules() == ["-A INPUT -i lo -j ACCEPT"]
    });
    assert_eq!(d.ask("confirm").status.code(), Some(1));
    apply(&d, &line, "");
    d.out("rollback");
    assert_eq!(d.rules(), ["-A INPUT -i lo -j ACCEPT"]);
    apply(&d, &line, "");
    d.out("confirm");
    std::thread::sleep(Duration::from_millis(2500));
    assert_eq!(d.rules().len(), 2);
}

#[test]
fn a_daemon_that_dies_in_a_trial_comes_back_with_the_rules_before() {
    let mut d = daemon();
    let line = format!("--force --no-wait --timeout 600 {}", file(&d, "closed"));
    assert_eq!(apply(&d, &line, "").0, Some(0));
    let recorded = d.path("running.v4");
    eventually("the rules on trial are not recorded", || {
        std::fs::read_to_string(&recorded).is_ok_and(|t| t.contains("INPUT DROP"))
    });
    d.kill();
    d.start();
    assert_eq!(d.rules(), ["-A INPUT -i lo -j ACCEPT"]);
    // Confirmed rules are those that come back.
    assert_eq!(apply(&d, &line, "").0, Some(0));
    d.out("confirm");
    d.kill();
    d.start();
    assert_eq!(d.rules().len(), 2);
}

#[test]
fn a_command_works_on_a_copy_that_is_tried_first() {
    let d = daemon();
    let script = "#!/bin/sh\niptables -P INPUT DROP && iptables -F INPUT\n";
    d.write("script", script);
    let run = |words: &[&str], typed: &str| {
        let mut command = Command::new(PROGRAM);
        command
            .args(words)
            .env("TIDEGATE_SOCKET", d.path("sock"))
            .env("SSH_CONNECTION", "127.0.0.9 40000 127.0.0.1 22")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let _ = child.stdin.take().unwrap().write_all(typed.as_bytes());
        said(&child.wait_with_output().unwrap())
    };
    let shell = format!("sh {}", file(&d, "script"));
    let (code, _, err) = run(&["apply", "-c", &shell], "y\n");
    assert_eq!(code, Some(3), "{err}");
    assert_eq!(d.rules(), ["-A INPUT -i lo -j ACCEPT"]);
    let written = file(&d, "written");
    let (code, _, err) = run(
        &[
            "apply",
            "-w",
            &written,
            "-t",
            "30",
            "-c",
            "iptables -A INPUT -p udp -j DROP",
        ],
        "y\n",
    );
    assert_eq!(code, Some(0), "{err}");
    assert_eq!(d.rules().len(), 2);
    let text = std::fs::read_to_string(written).unwrap();
    assert!(text.contains("-A INPUT -p udp -j DROP"), "{text}");
    let (code, _, err) = run(&["apply", "-c", "iptables -P NOWHERE DROP"], "y\n");
    assert_eq!(code, Some(1));
    assert!(err.contains("nothing was changed"), "{err}");
    assert_eq!(d.rules().len(), 2);
}

#[test]
fn management_addresses_of_the_configuration_must_reach_their_ports() {
    let mut d = Daemon::new();
    d.config = "[manage]\naddresses = [\"127.0.0.77\"]\nports = [2222]\n".to_owned();
    d.write("rules.v4", OPEN);
    d.write("closed", CLOSED);
    d.start();
    let run = d.ask(&format!("apply -n {}", file(&d, "closed")));
    let (code, _, err) = said(&run);
    assert_eq!(code, Some(3), "{err}");
    assert!(
        err.contains(
            "TG001 lockout: management address 127.0.0.77 → 127.0.0.77:2222 would be DROPPED"
        ),
        "{err}"
    );
    assert!(
        err.contains("-s 127.0.0.77/32 -p tcp -m tcp --dport 2222 -j ACCEPT"),
        "{err}"
    );
    assert_eq!(d.ask("apply /nowhere").status.code(), Some(1));
    d.out("down");
    // It is told so before it has ended.
    assert_eq!(d.ended().0, Some(0));
    assert_eq!(
        d.ask(&format!("apply {}", file(&d, "closed")))
            .status
            .code(),
        Some(4)
    );
}

/// The terminal is closed, or the command killed, before anything is confirmed.
#[test]
fn a_command_that_dies_confirms_nothing() {
    for signal in ["HUP", "KILL"] {
        let d = daemon();
        let line = format!("apply --force-lockout --timeout 3 {}", file(&d, "closed"));
        let mut child = d
            .command(&line)
            .env("SSH_CONNECTION", "127.0.0.9 40000 127.0.0.1 22")
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        eventually("the rules are not put on trial", || d.rules().len() == 2);
        let pid = child.id().to_string();
        let sent = Command::new("kill").args(["-s", signal, &pid]).status();
        assert!(sent.unwrap().success());
        assert!(!child.wait().unwrap().success());
        eventually("the rules before do not come back", || {
            d.rules() == ["-A INPUT -i lo -j ACCEPT"]
        });
    }
}
