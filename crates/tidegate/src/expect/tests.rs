use super::*;
use crate::replay::rules::Loaded;
use tidegate_wire::Family;

const RULES: &str = "*nat\n:PREROUTING ACCEPT [0:0]\n:INPUT ACCEPT [0:0]\n:OUTPUT ACCEPT [0:0]\n:POSTROUTING ACCEPT [0:0]\n\
    -A PREROUTING -p tcp -m tcp --dport 8080 -j DNAT --to-destination 172.17.0.4:3000\nCOMMIT\n\
    *filter\n:INPUT DROP [0:0]\n:FORWARD DROP [0:0]\n:OUTPUT ACCEPT [0:0]\n\
    -A INPUT -p tcp -m tcp --dport 22 -j ACCEPT\n\
    -A INPUT -p tcp -m tcp --dport 113 -j REJECT --reject-with tcp-reset\n\
    -A FORWARD -i eth0 -o docker0 -p tcp -m tcp --dport 3000 -j ACCEPT\nCOMMIT\n";

fn why(line: &str) -> Option<String> {
    let rules = Rules(vec![Loaded::parse(RULES, "rules", Family::V4).unwrap()]);
    let expectation = Expectation::read("x:1".to_owned(), line).unwrap();
    let given = Given {
        rules: Some("rules".into()),
        ..Given::default()
    };
    let (host, _) = given
        .host(&rules, std::slice::from_ref(&expectation.packet))
        .unwrap();
    expectation.check(&mut Runner::new(&host, &rules), &rules)
}

#[test]
fn what_is_so_is_met_and_what_is_not_is_told() {
    for line in [
        "allow tcp 192.0.2.7 > 203.0.113.5:22 in eth0 => by INPUT 1, state NEW",
        "allow connection tcp 192.0.2.7 > 203.0.113.5:22 in eth0",
        "drop tcp 192.0.2.7 > 203.0.113.5:23 in eth0 => by INPUT 0",
        "reject tcp 192.0.2.7 > 203.0.113.5:113 in eth0",
        "refuse tcp 192.0.2.7 > 203.0.113.5:113 in eth0",
        "allow tcp 192.0.2.7 > 203.0.113.5:8080 in eth0 => to 172.17.0.4:3000",
        // Answers of the container are dropped: no rule accepts ESTABLISHED in FORWARD.
        "drop connection tcp 192.0.2.7 > 203.0.113.5:8080 in eth0 => by FORWARD 0",
    ] {
        assert_eq!(why(line), None, "{line}");
    }
    for (line, wanted) in [
        (
            "drop tcp 192.0.2.7 > 203.0.113.5:22 in eth0",
            "ACCEPT by INPUT 1",
        ),
        (
            "allow tcp 192.0.2.7 > 203.0.113.5:23 in eth0",
            "DROP by INPUT 0",
        ),
        (
            "drop tcp 192.0.2.7 > 203.0.113.5:113 in eth0",
            "REJECT by INPUT 2",
        ),
        (
            "drop tcp 192.0.2.7 > 203.0.113.5:23 in eth0 => by INPUT 2",
            "not by INPUT 2",
        ),
        (
            "allow tcp 192.0.2.7 > 203.0.113.5:22 in eth0 => state INVALID",
            "its state is NEW",
        ),
        (
            "allow tcp 192.0.2.7 > 203.0.113.5:8080 in eth0 => to 10.0.0.1",
            "goes to 172.17.0.4:3000",
        ),
    ] {
        let told = why(line).unwrap_or_default();
        assert!(told.contains(wanted), "{line}: {told}");
    }
}

#[test]
fn lines_that_cannot_be_understood_are_refused() {
    for line in [
        "permit tcp 1.2.3.4 > 1.2.3.5:1",
        "allow",
        "allow tcp 1.2.3.4 > 1.2.3.5:1 => at noon",
    ] {
        assert!(Expectation::read("x:1".to_owned(), line).is_err(), "{line}");
    }
}
