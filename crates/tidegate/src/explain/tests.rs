use super::*;

fn rules(text: &str) -> Rules {
    Rules(vec![
        crate::replay::rules::Loaded::parse(text, "rules", Family::V4).unwrap(),
    ])
}

fn ask(text: &str, packets: &[&str], course: bool) -> (Answer, Option<Remedy>) {
    let rules = rules(text);
    let packets: Vec<Described> = packets.iter().map(|p| p.parse().unwrap()).collect();
    let (host, _) = Given {
        rules: Some("rules".into()),
        ..Given::default()
    }
    .host(&rules, &packets)
    .unwrap();
    let question = Question {
        packets: &packets,
        course,
        host: &host,
    };
    let answer = question.ask(&rules, Paint::for_stdout()).unwrap();
    let remedy = question.remedy(&rules, &answer).unwrap();
    (answer, remedy)
}

fn commands(remedy: Option<Remedy>) -> Vec<String> {
    match remedy {
        Some(Remedy::Rules(commands)) => commands,
        Some(Remedy::None(why)) => vec![why],
        None => Vec::new(),
    }
}

const CLOSED: &str = "*filter\n:INPUT DROP [0:0]\n:FORWARD DROP [0:0]\n:OUTPUT ACCEPT [0:0]\n\
    -A INPUT -p tcp -m tcp --dport 22 -j ACCEPT\nCOMMIT\n";

#[test]
fn a_refused_packet_gets_the_smallest_rule() {
    let (answer, remedy) = ask(
        CLOSED,
        &["tcp 192.0.2.7:40000 > 203.0.113.5:23 in eth0"],
        false,
    );
    assert_eq!(answer.refused, Some(0));
    let steps = answer.packets[0].json["steps"].to_string();
    assert!(
        steps.contains("destination port is 23, wanted 22"),
        "{steps}"
    );
    // Nothing here tracks connections yet, so the packet has no state to name.
    let found = commands(remedy);
    assert_eq!(found.len(), 1, "{found:?}");
    assert!(found[0].starts_with("iptables -A INPUT -s 192.0.2.7 -d 203.0.113.5"));
    assert!(found[0].contains("-i eth0 -p tcp --dport 23"));
}

#[test]
fn an_open_port_passes() {
    let (answer, remedy) = ask(
        CLOSED,
        &["tcp 192.0.2.7:40000 > 203.0.113.5:22 in eth0"],
        false,
    );
    assert_eq!(answer.refused, None);
    assert!(remedy.is_none());
    assert_eq!(answer.packets[0].json["rule"]["number"], 1);
}

#[test]
fn a_rule_before_the_refusal_is_inserted_not_appended() {
    let text = "*filter\n:INPUT ACCEPT [0:0]\n:FORWARD ACCEPT [0:0]\n:OUTPUT ACCEPT [0:0]\n\
        -A INPUT -p udp -j ACCEPT\n-A INPUT -m conntrack --ctstate NEW -j REJECT\nCOMMIT\n";
    let (_, remedy) = ask(
        text,
        &["tcp 192.0.2.7:40000 > 203.0.113.5:80 in eth0"],
        false,
    );
    let found = commands(remedy);
    assert!(found[0].starts_with("iptables -I INPUT 2 "), "{found:?}");
    assert!(
        found[0].ends_with("-m conntrack --ctstate NEW -j ACCEPT"),
        "{found:?}"
    );
}

/// Replies die without an ESTABLISHED rule: the remedy is that rule.
#[test]
fn replies_that_no_rule_lets_in() {
    let (answer, remedy) = ask(
        "*filter\n:INPUT DROP [0:0]\n:FORWARD DROP [0:0]\n:OUTPUT ACCEPT [0:0]\n\
         -A INPUT -m conntrack --ctstate INVALID -j DROP\nCOMMIT\n",
        &["udp 203.0.113.5:40000 > 1.1.1.1:53 out eth0"],
        true,
    );
    assert_eq!(answer.refused, Some(1));
    assert_eq!(answer.packets[1].json["ctstate"], "ESTABLISHED");
    assert_eq!(
        commands(remedy),
        ["iptables -A INPUT -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT"]
    );
}

/// A server on the client's own link answers past the firewall.
#[test]
fn hairpin_translation_is_seen() {
    let text = "*nat\n:PREROUTING ACCEPT [0:0]\n:INPUT ACCEPT [0:0]\n:OUTPUT ACCEPT [0:0]\n\
        :POSTROUTING ACCEPT [0:0]\n\
        -A PREROUTING -d 203.0.113.42/32 -p tcp -m tcp --dport 80 -j DNAT --to-destination 192.168.0.10\n\
        COMMIT\n";
    let rules = rules(text);
    let host = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(
        host.path(),
        "[host]\nforward = true\n[[interface]]\nname = \"lan0\"\naddresses = [\"192.168.0.1/24\"]\n\
         [[interface]]\nname = \"wan0\"\naddresses = [\"203.0.113.42/24\"]\n",
    )
    .unwrap();
    let host = tidegate_host::Host::read(host.path()).unwrap();
    let packets = ["tcp 192.168.0.50:40000 > 203.0.113.42:80 in lan0"
        .parse()
        .unwrap()];
    let question = Question {
        packets: &packets,
        course: true,
        host: &host,
    };
    let answer = question.ask(&rules, Paint::for_stdout()).unwrap();
    let note = answer.findings[0].to_string();
    assert!(note.contains("TG070"), "{note}");
    assert!(note.contains("-s 192.168.0.0/24 -d 192.168.0.10 -p tcp --dport 80 -j MASQUERADE"));
}

#[test]
fn a_whole_connection_passes_through_translation() {
    let text = "*nat\n:PREROUTING ACCEPT [0:0]\n:INPUT ACCEPT [0:0]\n:OUTPUT ACCEPT [0:0]\n\
        :POSTROUTING ACCEPT [0:0]\n-A POSTROUTING -o wan0 -j MASQUERADE\nCOMMIT\n";
    let (answer, _) = ask(
        text,
        &["tcp 10.0.0.2:40000 > 198.51.100.9:443 in lan0 out wan0"],
        true,
    );
    assert_eq!(answer.refused, None);
    assert_eq!(answer.packets.len(), 9);
    let states: Vec<_> = answer
        .packets
        .iter()
        .map(|p| p.json["ctstate"].clone())
        .collect();
    assert_eq!(states[0], "NEW");
    assert!(states[1..].iter().all(|s| s == "ESTABLISHED"), "{states:?}");
    assert!(answer.packets.iter().all(|p| p.json["verdict"] == "ACCEPT"));
}

/// The first packet of an association is one that the tracker takes.
#[test]
fn an_association_in_words_is_new() {
    for words in ["", " bytes 16"] {
        let (answer, _) = ask(
            "*filter\n:INPUT DROP [0:0]\n-A INPUT -m conntrack --ctstate NEW -j ACCEPT\nCOMMIT\n",
            &[&format!("sctp 192.0.2.7:1 > 203.0.113.5:22 in eth0{words}")],
            false,
        );
        assert_eq!(answer.packets[0].json["ctstate"], "NEW", "{words}");
    }
}

/// A packet that no rule refuses may be stopped all the same.
#[test]
fn a_packet_from_nowhere_is_stopped() {
    let (answer, _) = ask(
        "*filter\n:INPUT ACCEPT [0:0]\nCOMMIT\n",
        &["tcp 127.0.0.1:4000 > 203.0.113.5:22 in eth0"],
        false,
    );
    assert_eq!((answer.refused, answer.stopped), (None, true));
}
