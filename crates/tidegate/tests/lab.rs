//! Every live scenario, played in a lab.
//!
//! The ordinary tests need neither root nor anything installed but the kernel's iptables
//! for the runs that compare with it; the ignored ones need root and Debian's programs.
#![allow(missing_docs, clippy::unwrap_used)]

use std::process::Command;

/// Says why a scenario cannot be played here, if it cannot.
fn obstacle(said: &str) -> Option<&'static str> {
    const KNOWN: [(&str, &str); 3] = [
        ("does not let users make namespaces", "namespaces"),
        ("needs Debian's iptables", "iptables-legacy"),
        (
            "the kernel's iptables does not work here",
            "the kernel's iptables",
        ),
    ];
    let mut known = KNOWN.into_iter();
    known.find_map(|(text, needed)| said.contains(text).then_some(needed))
}

fn play(name: &str, arguments: &[&str]) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tidegate"));
    let run = command
        .args(["lab", name])
        .args(arguments)
        .output()
        .unwrap();
    let said = format!(
        "{}{}",
        String::from_utf8_lossy(&run.stdout),
        String::from_utf8_lossy(&run.stderr)
    );
    if let Some(needed) = obstacle(&said) {
        eprintln!("SKIPPED: {name} {arguments:?}: needs {needed}");
        return;
    }
    assert!(run.status.success(), "{said}");
}

macro_rules! scenarios {
    ($($name:ident)*) => {
        const NAMES: &[&str] = &[$(stringify!($name)),*];

        mod kernel_builtin {
            $(#[test] fn $name() {
                super::play(stringify!($name), &["--firewall", "kernel", "--programs", "builtin"]);
            })*
        }

        mod kernel_real {
            $(#[test] #[ignore = "needs root and Debian's programs"] fn $name() {
                super::play(stringify!($name), &["--firewall", "kernel", "--programs", "real"]);
            })*
        }
    };
}

scenarios! { a1 a2 a3 a4 a5 a6 a7 a8 a9 a10 b1 b2 b3 b4 }

#[test]
fn every_scenario_is_tested() {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tidegate"));
    let run = command.args(["lab", "list"]).output().unwrap();
    let text = String::from_utf8(run.stdout).unwrap();
    let listed: Vec<_> = text
        .lines()
        .filter_map(|l| l.split(' ').next())
        .map(str::to_lowercase)
        .collect();
    assert_eq!(listed, NAMES);
}
