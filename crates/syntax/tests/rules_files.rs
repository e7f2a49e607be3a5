//! Rules files: read, print, lower.

use tidegate_ir::{Hook, TableKind, Verdict};
use tidegate_syntax::{Ruleset, lower, parse_rules, save};
use tidegate_wire::Family;
use tidegate_xt::NoNames;

fn parse(text: &str) -> Ruleset {
    parse_rules(text, Family::V4, &NoNames).unwrap_or_else(|e| panic!("{e}"))
}

const SMALL: &str = "\
*nat
:PREROUTING ACCEPT [0:0]
:INPUT ACCEPT [0:0]
:OUTPUT ACCEPT [0:0]
:POSTROUTING ACCEPT [5:320]
COMMIT
*filter
:INPUT DROP [1:60]
:FORWARD ACCEPT [0:0]
:OUTPUT ACCEPT [0:0]
:ssh - [0:0]
:unused - [0:0]
[7:420] -A INPUT -i lo -j ACCEPT
[3:180] -A INPUT ! -s 10.0.0.0/255.0.255.0 -i eth+ ! -p udp ! -f -g ssh
[0:0] -A INPUT -p tcp -m tcp --dport 22 -m comment --comment \"a \\\"b\\\" c\" -j ssh
[0:0] -A ssh -j ACCEPT
[0:0] -A ssh -j LOG --log-prefix \"never \"
[0:0] -A unused -j unused
COMMIT
";

#[test]
fn a_file_prints_as_it_was() {
    assert_eq!(save::plain(&parse(SMALL)), SMALL);
}

#[test]
fn lowering_numbers_every_rule_and_policy() {
    let lowered = lower(&parse(SMALL)).unwrap();
    assert_eq!(lowered.ruleset.rule_ids as usize, lowered.origin.len());
    for (_, chain, rule) in lowered.ruleset.rules() {
        let origin = &lowered.origin[rule.id.0 as usize];
        assert_eq!(origin.chain, chain.name);
    }
    let filter = lowered.ruleset.table(TableKind::Filter).unwrap();
    let input = filter
        .chain(filter.base_chain(Hook::Input).unwrap())
        .unwrap();
    let policy = &lowered.origin[input.base.unwrap().policy_id.0 as usize];
    assert_eq!((policy.number, policy.text.as_str()), (0, "-P INPUT DROP"));
    let goto = &lowered.origin[input.rules[1].id.0 as usize];
    assert_eq!(goto.number, 2);
    assert_eq!(
        goto.text,
        "-A INPUT ! -s 10.0.0.0/255.0.255.0 -i eth+ ! -p udp ! -f -g ssh"
    );
    let Verdict::Goto(ssh) = input.rules[1].verdict else {
        panic!("{:?}", input.rules[1])
    };
    let ssh = filter.chain(ssh).unwrap();
    assert_eq!((ssh.name.as_str(), ssh.rules.len()), ("ssh", 1));
    let unused = filter.chains.iter().find(|c| c.name == "unused").unwrap();
    assert!(unused.rules.is_empty(), "nothing reaches it");
}

#[test]
fn a_loop_that_packets_reach_is_refused_with_the_line_of_the_commit() {
    let text = "*filter\n:a - [0:0]\n:b - [0:0]\n-A INPUT -j a\n-A a -j b\n-A b -g a\nCOMMIT\n";
    let refused =
        parse_rules(&text.replace("\n-A", "\n[0:0] -A"), Family::V4, &NoNames).unwrap_err();
    assert_eq!(
        refused.render("iptables-restore"),
        "iptables-restore: line 7 failed\nChains jump in a circle: a -> b -> a\n"
    );
}

#[test]
fn a_long_chain_of_chains_is_no_problem() {
    let mut text = "*filter\n".to_owned();
    let n = 20_000;
    for i in 0..n {
        text += &format!(":c{i:05} - [0:0]\n");
    }
    text += "-A INPUT -j c00000\n";
    for i in 1..n {
        text += &format!("-A c{:05} -j c{i:05}\n", i - 1);
    }
    text += "COMMIT\n";
    let lowered = lower(&parse(&text)).unwrap();
    assert_eq!(lowered.ruleset.rules().count(), n);
}
