//! Every live scenario, played in a lab with Tidegate as the firewall and once more with
//! the kernel's, and labs themselves.
//!
//! The ordinary tests use the built-in programs and need no root; without the kernel's
//! iptables they play with Tidegate alone. The ignored ones play with Debian's programs,
//! as root.
#![allow(missing_docs, clippy::unwrap_used)]

use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

/// `nobody`, and a group of that number.
const NOBODY: u32 = 65_534;

fn tidegate() -> Command {
    Command::new(env!("CARGO_BIN_EXE_tidegate"))
}

fn text(output: &Output) -> String {
    let err = String::from_utf8_lossy(&output.stderr);
    format!("{}{err}", String::from_utf8_lossy(&output.stdout))
}

/// Whether labs cannot be had here; says so.
fn skipped(what: &str, said: &str) -> bool {
    let impossible = said.contains("does not let users make namespaces");
    if impossible {
        eprintln!("SKIPPED: {what}: no namespaces can be made here");
    }
    impossible
}

/// Whether the kernel's iptables can be compared with.
fn kernels_iptables() -> bool {
    let dirs = ["/usr/sbin", "/sbin", "/usr/local/sbin"];
    dirs.iter()
        .any(|d| Path::new(d).join("iptables-legacy").exists())
}

fn play(name: &str, programs: &str) {
    let mut command = tidegate();
    command.args(["lab", name, "--programs", programs]);
    if kernels_iptables() {
        command.arg("--compare");
    } else {
        eprintln!("SKIPPED: {name} with the kernel's firewall: needs iptables-legacy");
    }
    let output = command.output().unwrap();
    let said = text(&output);
    if !skipped(name, &said) {
        assert!(output.status.success(), "{said}");
    }
}

macro_rules! scenarios {
    ($($test:ident $name:literal)*) => {
        const NAMES: &[&str] = &[$($name),*];

        mod builtin {
            $(#[test] fn $test() { super::play($name, "builtin"); })*
        }

        mod real {
            $(
                #[test]
                #[ignore = "needs root and Debian's programs"]
                fn $test() { super::play($name, "real"); }
            )*
        }
    };
}

scenarios! {
    a1 "a1" a2 "a2" a3 "a3" a4 "a4" a5 "a5" a6 "a6" a7 "a7" a8 "a8" a9 "a9" a10 "a10"
    b1 "b1" b2 "b2" b3 "b3" b4 "b4" b5 "b5" b6 "b6" b6_masq "b6-masq" b6_dnat "b6-dnat"
    c1 "c1" c2 "c2" c3 "c3" c4 "c4" c5 "c5" c6 "c6" c7 "c7"
    d2 "d2" d3 "d3" d5 "d5" d6 "d6" d7 "d7" d8 "d8" d9 "d9" synproxy "synproxy" adopt "adopt" crash "crash"
}

#[test]
fn every_scenario_is_tested() {
    let output = tidegate().args(["lab", "list"]).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let names = text.lines().filter_map(|l| l.split(' ').next());
    let listed: Vec<_> = names.map(str::to_lowercase).collect();
    assert_eq!(listed, NAMES);
}

#[test]
fn an_ordinary_user_has_labs_too() {
    let dir = tempfile::tempdir().unwrap();
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let program = dir.path().join("tidegate");
    fs::copy(env!("CARGO_BIN_EXE_tidegate"), &program).unwrap();
    let mut command = Command::new(&program);
    command
        .args(["lab", "a1", "--firewall", "tidegate"])
        .current_dir("/");
    if fs::metadata("/proc/self/environ").is_ok() && own_uid() == "0" {
        command.uid(NOBODY).gid(NOBODY);
    }
    let output = command.output().unwrap();
    let said = text(&output);
    if !skipped("an ordinary user", &said) {
        assert!(output.status.success(), "{said}");
    }
}

fn own_uid() -> String {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|l| l.strip_prefix("Uid:")).unwrap();
    line.split_whitespace().next().unwrap().to_owned()
}

/// All processes below `parent`.
fn descendants(parent: u32) -> Vec<u32> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc").unwrap().flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|n| n.parse().ok()) else {
            continue;
        };
        let Ok(stat) = fs::read_to_string(entry.path().join("stat")) else {
            continue;
        };
        // After the name in parentheses: state, parent.
        let mut words = stat.rsplit(')').next().unwrap_or("").split_whitespace();
        if words.nth(1) == Some(&parent.to_string()) {
            found.push(pid);
            found.extend(descendants(pid));
        }
    }
    found
}

fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let end = Instant::now() + Duration::from_secs(20);
    while !holds() {
        assert!(Instant::now() < end, "{what}");
        sleep(Duration::from_millis(50));
    }
}

#[test]
fn nothing_is_left_of_a_lab_whose_user_is_killed() {
    let mut command = tidegate();
    command.args([
        "lab",
        "d5",
        "--firewall",
        "tidegate",
        "--programs",
        "builtin",
    ]);
    let mut lab = command.stdout(Stdio::piped()).spawn().unwrap();
    let id = lab.id();
    // The two processes that hold it, the daemon, and something of the scenario.
    eventually("the lab is not up", || {
        descendants(id).len() > 3 || lab.try_wait().unwrap().is_some()
    });
    if lab.try_wait().unwrap().is_some() {
        eprintln!("SKIPPED: the end of a lab: no lab can be made here");
        return;
    }
    let alive = descendants(id);
    lab.kill().unwrap();
    lab.wait().unwrap();
    eventually("processes are left", || {
        alive.iter().all(|pid| {
            let status = fs::read_to_string(format!("/proc/{pid}/cmdline"));
            status.is_err() || status.is_ok_and(|s| s.is_empty())
        })
    });
}

#[test]
fn what_a_lab_captured_can_be_replayed() {
    let dir = tempfile::tempdir().unwrap();
    let arguments = [
        "--firewall",
        "tidegate",
        "--programs",
        "builtin",
        "--capture",
    ];
    let mut command = tidegate();
    command.args(["lab", "a4"]).args(arguments).arg(dir.path());
    let said = text(&command.output().unwrap());
    if skipped("a capture", &said) {
        return;
    }
    let file = |extension: &str| dir.path().join(format!("a4-tidegate.{extension}"));
    let mut command = tidegate();
    command
        .args(["replay", "--summary", "--rules"])
        .arg(file("rules"));
    command.arg("--host").arg(file("toml")).arg(file("pcapng"));
    let summary = text(&command.output().unwrap());
    // The rule without its counters: that which let three clients in.
    let rule = "--src-range 192.168.114.100-192.168.114.150 -j ACCEPT";
    let counted = summary.lines().find(|l| l.contains(rule)).unwrap_or("");
    let listed = said.lines().rev().find(|l| l.contains(rule)).unwrap();
    let packets = listed.split_whitespace().next().unwrap();
    assert!(
        counted.starts_with(&format!("[{packets}:")),
        "{said}\n{summary}"
    );
}

#[test]
fn a_shell_in_a_lab() {
    let mut command = tidegate();
    command.args(["lab", "shell", "--programs", "builtin"]);
    command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut shell = command.spawn().unwrap();
    let typed = "iptables -A INPUT -p tcp --dport 22 -j DROP\n\
                 iptables -S INPUT\n\
                 on client web-get http://server/ && echo web answers\n\
                 on client tcp-connect 192.168.114.20 22 || echo ssh refused\n\
                 exit 7\n";
    shell
        .stdin
        .take()
        .unwrap()
        .write_all(typed.as_bytes())
        .unwrap();
    let output = shell.wait_with_output().unwrap();
    let said = text(&output);
    if skipped("a shell", &said) {
        return;
    }
    assert_eq!(output.status.code(), Some(7), "{said}");
    assert!(
        said.contains("-A INPUT -p tcp -m tcp --dport 22 -j DROP"),
        "{said}"
    );
    assert!(said.contains("web answers"), "{said}");
    assert!(said.contains("ssh refused"), "{said}");
}
