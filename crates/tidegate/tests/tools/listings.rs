//! Listings with names, next to those of the real tool. Needs root.

use std::process::Command;

use crate::common::{Host, data, finish};

const VIEWS: [&str; 6] = [
    "-L",
    "-L -v",
    "-L -v -x --line-numbers",
    "-S -v",
    "-t nat -L",
    "-t nat -L POSTROUTING 1 -v",
];

#[test]
fn listings_with_names_equal_those_of_the_real_tool() {
    let rules = data("rules/router.rules");
    let host = Host::new();
    assert_eq!(host.feed(&["iptables-restore", "-c"], &rules).status, 0);
    let file = host.state().with_extension("rules");
    std::fs::write(&file, &rules).unwrap();
    let lock = tempfile::NamedTempFile::new().unwrap();
    for view in VIEWS {
        let script = format!(
            "iptables-legacy-restore -c {} && iptables-legacy {view}",
            file.display()
        );
        let output = Command::new("unshare")
            .args(["-n", "sh", "-c", &script])
            .env("XTABLES_LOCKFILE", lock.path())
            .output();
        let Some(real) = output.ok().map(finish).filter(|r| r.status == 0) else {
            eprintln!("SKIPPED: cannot run iptables-legacy in a network namespace");
            return;
        };
        assert_eq!(
            host.line(&format!("iptables {view}")).out,
            real.out,
            "{view}"
        );
    }
}
