//! Wrong command lines and wrong files: what real tools answered.

use crate::common::{Host, data, lacks_extension};

/// The state in which every wrong command line was given.
const PREPARED: [&str; 7] = [
    "iptables -N user1",
    "iptables -N user2",
    "iptables -A user2 -j ACCEPT",
    "iptables -N ref",
    "iptables -A INPUT -j ref",
    "iptables -A INPUT -p tcp --dport 22 -j ACCEPT",
    "iptables -A FORWARD -j ACCEPT",
];

#[test]
fn wrong_command_lines_are_answered_as_by_iptables() {
    let host = Host::new();
    host.lines(&PREPARED);
    let before = host.text();
    let (mut checked, mut lacking, mut wrong) = (0, 0, Vec::new());
    for row in data("errors.tsv").lines().filter(|l| !l.starts_with('#')) {
        let [line, status, err] = row.split('\t').collect::<Vec<_>>()[..] else {
            panic!("{row}");
        };
        let err = err.replace("\\n", "\n");
        let run = host.line(line);
        if lacks_extension(&run.err) && !lacks_extension(&err) {
            lacking += 1;
            continue;
        }
        checked += 1;
        if (run.status.to_string().as_str(), run.err.trim()) != (status, err.trim()) {
            wrong.push(format!("{line}\n  want {status} {err:?}\n  got  {run:?}"));
        }
        if run.status != 0 && host.text() != before {
            wrong.push(format!("{line}: changed the state"));
        }
        host.set_text(&before);
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(
        checked >= 130,
        "{checked} checked, {lacking} without their extension"
    );
}

#[test]
fn broken_files_are_refused_as_by_iptables_restore_and_change_nothing() {
    let host = Host::new();
    host.lines(&PREPARED);
    let before = host.text();
    let mut wrong = Vec::new();
    let all = data("broken_files.txt");
    let cases: Vec<&str> = all.split("%% ").skip(1).collect();
    for case in &cases {
        let (status, rest) = case.split_once('\n').unwrap();
        let (err, file) = rest.split_once("%<\n").unwrap();
        let run = host.feed(&["iptables-restore", "-c"], file);
        if (run.status.to_string().as_str(), run.err.as_str()) != (status, err) {
            wrong.push(format!("{file}\n  want {status} {err:?}\n  got  {run:?}"));
        }
        if host.text() != before {
            wrong.push(format!("{file}: changed the state"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(cases.len() >= 30, "{}", cases.len());
}
