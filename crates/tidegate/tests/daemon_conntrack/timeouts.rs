//! `tidegate timeout`, `-j CT --timeout`, and labels on connections of a live datapath.

use crate::err;
use crate::live::played;
use crate::support::Daemon;

const ADD: &str = "timeout add dns inet udp unreplied 5 replied 50";
const RULE: &str = "iptables -t raw -A PREROUTING -p udp --dport 53 -j CT --timeout dns";

/// Answers of iptables-legacy and nfct on Linux 6.18.
#[test]
fn rules_name_policies_that_exist_and_keep_them() {
    let mut d = Daemon::new();
    d.start();
    let refused = |d: &Daemon, line: &str, text: &str| {
        let run = d.ask(line);
        assert_eq!(run.status.code(), Some(1), "{line}");
        assert_eq!(err(&run).lines().next(), Some(text), "{line}");
    };
    refused(&d, RULE, "iptables: No chain/target/match by that name.");
    d.out(ADD);
    d.out("nfct add timeout six inet6 tcp close 3");
    d.out(RULE);
    let invalid = "iptables: Invalid argument. Run `dmesg' for more information.";
    for protocol in ["tcp", "udplite"] {
        let line = RULE.replace("udp --dport 53", protocol);
        refused(&d, &line, invalid);
    }
    let busy = "nfct v1.4.7: netlink error: Device or resource busy";
    refused(&d, "timeout delete dns", busy);
    refused(&d, ADD, busy);

    // They are there again before the rules are.
    d.out("save");
    d.out("down");
    assert_eq!(d.ended().0, Some(0));
    d.start();
    let rule = "-A PREROUTING -p udp -m udp --dport 53 -j CT --timeout dns";
    assert_eq!(d.rules(), [rule]);
    let listed = d.out("timeout list");
    assert!(
        listed.starts_with(".dns = {\n\t.l3proto = 2,\n\t.l4proto = 17,\n"),
        "{listed}"
    );
    assert!(listed.contains("\n.six = {\n"), "{listed}");
    d.out("timeout flush");
    d.out("iptables -t raw -F");
    d.out("timeout delete dns");
    assert_eq!(d.out("timeout list"), "");
    refused(&d, RULE, "iptables: No chain/target/match by that name.");
}

const LIVE: &str = r#"
tidegate timeout add short inet icmp timeout 7
tidegate iptables -t raw -A PREROUTING -p icmp -j CT --timeout short
tidegate iptables -A INPUT -p icmp -m connlabel --label 9 --set
tidegate iptables -A OUTPUT -p icmp -m connlabel --label 9
tidegate iptables -A OUTPUT -p icmp -m connlabel ! --label 9 -j DROP
on_client ping -c 1 -W 5 10.7.0.2 >ping
tidegate conntrack -L -p icmp >listed
grep -q 'icmp     1 [67] src=10.7.0.1' listed
tidegate iptables -vnL OUTPUT >rules
grep -q '^ *1 .*connlabel 9' rules
"#;

#[test]
fn a_live_connection_gets_both() {
    let directory = tempfile::tempdir().unwrap();
    played(directory.path(), "", LIVE);
}
