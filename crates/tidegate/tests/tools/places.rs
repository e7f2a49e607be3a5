//! Where the kernel accepts a rule: by table, by the hooks that lead to it, and no
//! chains in circles. The last command of each case is in question.

use std::process::Command;

use crate::common::{Host, finish};

/// Commands after `iptables`, and the last one's exit status (Linux 6.18).
const CASES: &[(&[&str], i32)] = &[
    (&["-t nat -A PREROUTING -j MASQUERADE"], 1),
    (&["-t nat -A POSTROUTING -j MASQUERADE"], 0),
    // Nothing leads to the chain, so far.
    (&["-t nat -N u", "-t nat -A u -j MASQUERADE"], 0),
    (
        &[
            "-t nat -N u",
            "-t nat -A u -j MASQUERADE",
            "-t nat -A PREROUTING -j u",
        ],
        1,
    ),
    (
        &[
            "-t nat -N u",
            "-t nat -A u -j MASQUERADE",
            "-t nat -A POSTROUTING -j u",
        ],
        0,
    ),
    (
        &[
            "-t nat -N u",
            "-t nat -N v",
            "-t nat -A u -j v",
            "-t nat -A POSTROUTING -j u",
            "-t nat -A OUTPUT -s 1.1.1.1 -g u",
            "-t nat -A v -j SNAT --to-source 10.0.0.1",
        ],
        1,
    ),
    // Behind an unconditional verdict nothing is reached.
    (
        &[
            "-t nat -A PREROUTING -j ACCEPT",
            "-t nat -A PREROUTING -j MASQUERADE",
        ],
        0,
    ),
    (
        &[
            "-t nat -A PREROUTING -i lo -j ACCEPT",
            "-t nat -A PREROUTING -j MASQUERADE",
        ],
        1,
    ),
    (&["-A INPUT -j SNAT --to-source 10.0.0.1"], 1),
    (&["-t nat -A OUTPUT -j DNAT --to-destination 10.0.0.1"], 0),
    (
        &["-t nat -A POSTROUTING -j DNAT --to-destination 10.0.0.1"],
        1,
    ),
    (&["-t mangle -A INPUT -j REJECT"], 1),
    (&["-A INPUT -p udp -j REJECT --reject-with tcp-reset"], 1),
    (&["-t nat -A PREROUTING -j TCPMSS --set-mss 1400"], 1),
    (&["-A FORWARD -j TTL --ttl-set 5"], 1),
    (&["-A INPUT -j NOTRACK"], 1),
    (&["-t raw -A OUTPUT -j NOTRACK"], 0),
    (&["-A INPUT -j INPUT"], 1),
    (&["-N a", "-A a -j a"], 0),
    (&["-N a", "-A INPUT -j a", "-A a -j a"], 1),
    (
        &["-N a", "-N b", "-A a -j b", "-A b -g a", "-A INPUT -g a"],
        1,
    ),
    (
        &[
            "-N a",
            "-N b",
            "-A a -j b",
            "-A a -j b",
            "-A INPUT -j a",
            "-A OUTPUT -j b",
        ],
        0,
    ),
    (&["-N a", "-A a -j ACCEPT", "-A a -j a", "-A INPUT -j a"], 0),
    (&["-N a", "-A INPUT -j a", "-E a b", "-X b"], 1),
    (&["-N a", "-A INPUT -j a", "-F", "-X a"], 0),
];

#[test]
fn rules_are_accepted_where_the_kernel_accepts_them() {
    for (commands, status) in CASES {
        let host = Host::new();
        let mut last = 0;
        for command in *commands {
            last = host.line(&format!("iptables {command}")).status;
        }
        assert_eq!(last, *status, "{commands:?}");
    }
}

/// Needs root.
#[test]
fn the_kernel_says_the_same() {
    let probe = Command::new("unshare")
        .args(["-n", "iptables-legacy", "-L"])
        .output();
    if !probe.is_ok_and(|p| p.status.success()) {
        eprintln!("SKIPPED: cannot run iptables-legacy in a network namespace");
        return;
    }
    for (commands, status) in CASES {
        let lines = commands.iter().map(|c| format!("iptables-legacy {c}\n"));
        let lock = tempfile::NamedTempFile::new().unwrap();
        let output = Command::new("unshare")
            .args(["-n", "sh", "-c", &lines.collect::<String>()])
            .env("XTABLES_LOCKFILE", lock.path())
            .output();
        let run = finish(output.unwrap());
        assert_eq!(run.status, *status, "{commands:?}: {}", run.err);
    }
}
