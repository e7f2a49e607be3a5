//! Rules that look into sets.

use super::*;

const SETS: &str = "# tidegate-state ipset 0\n\
    create admins hash:net family inet \n\
    add admins 192.0.2.0/24\nadd admins 192.0.2.128/25 nomatch\nadd admins 198.51.100.7\n\
    create doors hash:ip,port family inet \n\
    add doors 203.0.113.5,tcp:443\nadd doors 203.0.113.5,udp:443\nadd doors 203.0.113.6,tcp:25\n\
    create ports bitmap:port range 1-1023\nadd ports 53\nadd ports 123\n";

const RULES: &str = "-A INPUT -p tcp -m tcp --dport 22 -m set --match-set admins src -j ACCEPT\n\
    -A INPUT -m set --match-set doors dst,dst -j ACCEPT\n\
    -A INPUT -p udp -m set --match-set ports dst -j ACCEPT\n";

fn with(text: &str, sets: &str) -> Rules {
    rules(&format!(
        "*filter\n:INPUT DROP [0:0]\n:FORWARD DROP [0:0]\n:OUTPUT ACCEPT [0:0]\n{text}COMMIT\n{sets}"
    ))
}

#[test]
fn answers_are_about_the_members_that_sets_have() {
    assert_eq!(
        table(&with(RULES, SETS), None),
        [
            "tcp/22 to this host from 192.0.2.0/25, 198.51.100.7",
            "tcp/25 to this host as 203.0.113.6 from anywhere",
            "tcp/443 to this host as 203.0.113.5 from anywhere",
            "udp/53,123 to this host from anywhere",
            "udp/443 to this host as 203.0.113.5 from anywhere",
        ]
    );
}

/// Members that rules put in and take out may be any.
#[test]
fn sets_that_rules_change_are_not_known() {
    let knocks = "-A INPUT -p tcp -m tcp --dport 7000 -j SET --add-set admins src\n";
    let changed = with(&format!("{knocks}{RULES}"), SETS);
    let found = services(&changed);
    let door = found.iter().find(|(row, _)| row.starts_with("tcp/22 "));
    assert_eq!(door.unwrap().0, "tcp/22 to this host from anywhere");
    assert!(
        found
            .iter()
            .any(|(row, _)| row.starts_with("tcp/25 to this host as 203.0.113.6"))
    );
}

/// Where a set is missing, answers say what depends on it.
#[test]
fn a_set_that_is_missing_is_one_of_unknown_members() {
    let first = RULES.lines().next().unwrap();
    let rules = with(&format!("{first}\n"), "");
    let found = services(&rules);
    let [(row, Some(why))] = &found[..] else {
        panic!("{found:?}");
    };
    assert_eq!(row, "tcp/22 to this host from anywhere");
    assert!(why.contains("--match-set admins src"), "{why}");
    assert!(rules.complete().is_err());
}

/// Everything that is or may be open to this host, and what is unknown about it.
fn services(rules: &Rules) -> Vec<(String, Option<String>)> {
    let mut asked = Asked::new(rules, &rules.0[0], None, Vec::new());
    let mut lines = Vec::new();
    for protocol in asked.protocols() {
        let question = Question {
            protocol,
            origin: Origin::Received,
            only: Vec::new(),
            from: Vec::new(),
            after: None,
        };
        for row in asked.rows(&question) {
            let text = format!("{} to {} from {}", row.service(), row.to(), row.from());
            lines.push((text, row.unknown));
        }
    }
    lines
}
