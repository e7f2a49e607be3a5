//! Listings in every combination of flags, next to those of the real tool. Needs root.

use std::process::Command;

use crate::common::{Host, data, finish};

/// Flags of a listing; every set of them is tried.
const FLAGS: [&str; 4] = ["-n", "-v", "-x", "--line-numbers"];

/// What is listed.
const PLACES: [&str; 8] = [
    "-L",
    "-L INPUT",
    "-L INPUT 2",
    "-L FORWARD 999",
    "-t nat -L",
    "-t nat -L POSTROUTING 1",
    "-t mangle -L",
    "-t raw -L",
];

/// Further commands, in this order.
const OTHERS: [&str; 23] = [
    "-S",
    "-S -v",
    "-S INPUT",
    "-S INPUT 2 -v",
    "-t nat -S POSTROUTING",
    "-L -Z -v -n",
    "-L -v -n -x",
    "-t nat -L POSTROUTING -Z -v",
    "-t nat -Z POSTROUTING 1",
    "-t nat -L -v -x",
    "-Z",
    "-S -v -Z",
    "-Z INPUT -v",
    "-Z INPUT 2 -v",
    "-L INPUT 99 -Z -v",
    "-L NOSUCH -n",
    "-N extra -v",
    "-X extra -v",
    "-F INPUT -v",
    "-P INPUT ACCEPT -v",
    "-F -v",
    "-X -v",
    "-L -v",
];

/// Between the answers to two commands.
const MARK: &str = "=====";

fn views() -> Vec<String> {
    let mut views = Vec::new();
    for place in PLACES {
        for set in 0..1 << FLAGS.len() {
            let flags = (0..FLAGS.len()).filter(|i| set & (1 << i) != 0);
            let words: Vec<&str> = flags.map(|i| FLAGS[i]).collect();
            views.push(format!("{place} {}", words.join(" ")));
        }
    }
    views.extend(OTHERS.map(str::to_owned));
    views
}

/// Versions 1.8.9 and 1.8.10 print protocols as numbers under `-n`: the others' words in
/// their place, and one blank between columns.
fn with_names(listing: &str) -> Vec<Vec<String>> {
    let named = |word: &str| {
        match word {
            "0" => "all",
            "1" => "icmp",
            "6" => "tcp",
            "17" => "udp",
            other => other,
        }
        .to_owned()
    };
    let row = |line: &str| {
        let mut words: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
        if let Some(opt) = words
            .iter()
            .position(|w| w == "--" || w == "-f" || w == "!f")
            && let Some(protocol) = opt.checked_sub(1)
        {
            words[protocol] = named(&words[protocol]);
        }
        words
    };
    listing.lines().map(row).collect()
}

#[test]
fn listings_equal_those_of_the_real_tool() {
    let rules = data("rules/router.rules");
    let host = Host::new();
    assert_eq!(host.feed(&["iptables-restore", "-c"], &rules).status, 0);
    let file = host.state().with_extension("rules");
    std::fs::write(&file, &rules).unwrap();
    let lock = tempfile::NamedTempFile::new().unwrap();
    let views = views();
    let commands = views
        .iter()
        .map(|view| format!("iptables-legacy {view} 2>&1; echo \"{MARK}$?\"\n"));
    let script = format!(
        "iptables-legacy-restore -c {} || exit 99\n{}",
        file.display(),
        commands.collect::<String>()
    );
    let output = Command::new("unshare")
        .args(["-n", "sh", "-c", &script])
        .env("XTABLES_LOCKFILE", lock.path())
        .output();
    let Some(real) = output.ok().map(finish).filter(|r| r.status == 0) else {
        eprintln!("SKIPPED: cannot run iptables-legacy in a network namespace");
        return;
    };
    let mut answers = real.out.split(MARK);
    let mut theirs = answers.next().unwrap().to_owned();
    for view in &views {
        let (status, next) = answers.next().unwrap().split_once('\n').unwrap();
        let ours = host.line(&format!("iptables {view}"));
        let out = ours.out + &ours.err;
        assert_eq!(ours.status.to_string(), status, "{view}");
        if view.contains("-n") {
            assert_eq!(with_names(&out), with_names(&theirs), "{view}");
        } else {
            assert_eq!(out, theirs, "{view}");
        }
        next.clone_into(&mut theirs);
    }
}
