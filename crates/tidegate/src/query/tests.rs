//! Questions with known answers, and what answers say against what the engine does.

mod firewalls;
mod published;
pub(crate) mod random;
mod sets;
pub(crate) mod tree;
pub(crate) mod world;

use tidegate_host::Host;
use tidegate_wire::Family;

use super::*;

/// Rules of IPv4.
fn rules(text: &str) -> Rules {
    Rules(vec![Loaded::parse(text, "rules", Family::V4).unwrap()])
}

fn filter(text: &str) -> Rules {
    rules(&format!(
        "*filter\n:INPUT DROP [0:0]\n:FORWARD DROP [0:0]\n:OUTPUT ACCEPT [0:0]\n{text}COMMIT\n"
    ))
}

/// Everything that is open, a line each: service, to whom, from whom.
fn table(rules: &Rules, host: Option<&Host>) -> Vec<String> {
    let loaded = &rules.0[0];
    let mut asked = Asked::new(rules, loaded, host, Vec::new());
    let mut lines = Vec::new();
    for protocol in asked.protocols() {
        for row in asked.rows(&Question {
            protocol,
            origin: Origin::Received,
            only: Vec::new(),
            from: Vec::new(),
            after: None,
        }) {
            assert!(row.unknown.is_none(), "{row:?}");
            lines.push(format!(
                "{} to {} from {}",
                row.service(),
                row.to(),
                row.from()
            ));
        }
    }
    lines
}

fn reached(rules: &Rules, place: &[&str]) -> (bool, Option<String>) {
    let words: Vec<String> = place.iter().map(|w| (*w).to_owned()).collect();
    let common = Common {
        given: Given::default(),
        family: None,
        json: false,
    };
    reach::matched(&common, rules, &words).unwrap()
}

const STATES: &str = "-A INPUT -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT\n";

#[test]
fn a_service_matrix_says_who_can_reach_what() {
    let rules = filter(
        "-A INPUT -i lo -j ACCEPT\n\
         -A INPUT -p tcp -m multiport --dports 22,80 -j ACCEPT\n\
         -A INPUT -i eth1 -s 10.0.0.0/8 -p udp -m udp --dport 53 -j ACCEPT\n\
         -A INPUT ! -s 192.0.2.0/24 -p tcp -m tcp --dport 25 -j ACCEPT\n",
    );
    assert_eq!(
        table(&rules, None),
        [
            "tcp/22,80 to this host from anywhere",
            "tcp/25 to this host from anywhere but 192.0.2.0/24",
            "udp/53 to this host from eth1: 10.0.0.0/8",
        ]
    );
}

/// What nobody lets back is not open: a server that may not send.
#[test]
fn a_service_without_answers_is_closed() {
    let closed = |output: &str| {
        let text = format!(
            "*filter\n:INPUT DROP [0:0]\n:FORWARD DROP [0:0]\n:OUTPUT DROP [0:0]\n\
             -A INPUT -p tcp -m tcp --dport 22 -j ACCEPT\n{output}COMMIT\n"
        );
        table(&rules(&text), None)
    };
    assert!(closed("").is_empty());
    let stateful = "-A OUTPUT -m conntrack --ctstate ESTABLISHED -j ACCEPT\n";
    let open = ["tcp/22 to this host from anywhere"];
    assert_eq!(closed(stateful), open);
    assert_eq!(
        closed("-A OUTPUT -p tcp -m tcp --sport 22 -j ACCEPT\n"),
        open
    );
    assert!(closed("-A OUTPUT -p tcp -m tcp --sport 23 -j ACCEPT\n").is_empty());
    // The client's port is in the answer, and chosen by the client.
    assert_eq!(
        closed("-A OUTPUT -p tcp -m tcp --dport 1024:65535 -j ACCEPT\n"),
        ["tcp/22 to this host from anywhere (source port 1024-65535)"]
    );
}

/// Whose answers nobody tracks never gets beyond the first packet as far as tracking knows:
/// what follows of TCP is INVALID and goes without translation.
#[test]
fn untracked_answers_open_nothing() {
    let raw = |rule: &str| {
        rules(&format!(
            "*raw\n:PREROUTING ACCEPT [0:0]\n:OUTPUT ACCEPT [0:0]\n{rule}COMMIT\n\
             *filter\n:INPUT DROP [0:0]\n:FORWARD DROP [0:0]\n:OUTPUT ACCEPT [0:0]\n\
             -A INPUT -m conntrack --ctstate INVALID -j DROP\n\
             -A INPUT -p tcp -m tcp --dport 22 -j ACCEPT\n\
             -A INPUT -p udp -m udp --dport 53 -j ACCEPT\nCOMMIT\n"
        ))
    };
    let udp = "udp/53 to this host from anywhere";
    assert_eq!(
        table(&raw(""), None),
        ["tcp/22 to this host from anywhere", udp]
    );
    assert_eq!(table(&raw("-A OUTPUT -j CT --notrack\n"), None), [udp]);
}

/// An answer may mark the connection, and further packets then meet other rules.
#[test]
fn marks_of_answers_are_followed() {
    let marking = |answers: &str| {
        rules(&format!(
            "*mangle\n:PREROUTING ACCEPT [0:0]\n:INPUT ACCEPT [0:0]\n:OUTPUT ACCEPT [0:0]\n\
             -A OUTPUT -p tcp -m tcp --sport {answers} -j CONNMARK --set-xmark 0x1/0xffffffff\nCOMMIT\n\
             *filter\n:INPUT DROP [0:0]\n:FORWARD DROP [0:0]\n:OUTPUT ACCEPT [0:0]\n\
             -A INPUT -m connmark --mark 0x1 -j DROP\n\
             -A INPUT -p tcp -m tcp --dport 22 -j ACCEPT\nCOMMIT\n"
        ))
    };
    assert_eq!(table(&marking("22"), None), [] as [&str; 0]);
    assert_eq!(
        table(&marking("23"), None),
        ["tcp/22 to this host from anywhere"]
    );
}

#[test]
fn translation_is_followed_to_its_target() {
    let text = "*nat\n:PREROUTING ACCEPT [0:0]\n\
        -A PREROUTING -i eth0 -p tcp -m tcp --dport 8080 -j DNAT --to-destination 10.0.0.5:80\n\
        -A PREROUTING -i eth0 -p tcp -m tcp --dport 2222 -j REDIRECT --to-ports 22\nCOMMIT\n\
        *filter\n:INPUT DROP [0:0]\n:FORWARD DROP [0:0]\n:OUTPUT ACCEPT [0:0]\n\
        -A INPUT -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT\n\
        -A INPUT -p tcp -m tcp --dport 22 -j ACCEPT\n\
        -A FORWARD -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT\n\
        -A FORWARD -d 10.0.0.5/32 -p tcp -m tcp --dport 80 -j ACCEPT\nCOMMIT\n";
    let found = table(&rules(text), None);
    let has = |line: &str| assert!(found.iter().any(|l| l == line), "{line}: {found:?}");
    has("tcp/8080 to 10.0.0.5 port 80 (translated) from eth0: anywhere");
    has("tcp/2222 to some address port 22 (translated) from eth0: anywhere");
    has("tcp/22 to this host from anywhere");
    has("tcp/80 to 10.0.0.5 from anywhere");
    assert_eq!(found.len(), 4, "{found:?}");
}

#[test]
fn rules_that_nothing_reaches_are_told_from_those_that_something_does() {
    let rules = filter(&format!(
        "{STATES}-A INPUT -p tcp -j ACCEPT\n-A INPUT -p tcp -m tcp --dport 22 -j ACCEPT\n\
         -A INPUT -p udp -m udp --dport 53 -j ACCEPT\n"
    ));
    assert!(!reached(&rules, &["INPUT:3"]).0);
    let (matched, example) = reached(&rules, &["filter", "INPUT:4"]);
    assert!(matched && example.is_some_and(|e| e.contains("udp") && e.contains(":53")));
    // The second packet of every connection.
    assert!(reached(&rules, &["INPUT:1"]).1.is_some());
    assert!(reached(&rules, &["INPUT:policy"]).1.is_some());
}

#[test]
fn a_limit_makes_no_difference_to_who_can_connect_at_all() {
    let rules = filter(&format!(
        "{STATES}-A INPUT -p tcp -m tcp --dport 22 -m limit --limit 1/hour --limit-burst 1 -j ACCEPT\n"
    ));
    assert_eq!(table(&rules, None), ["tcp/22 to this host from anywhere"]);
}

#[test]
fn what_depends_on_more_than_packets_is_unknown() {
    let rules = filter(&format!(
        "{STATES}-A INPUT -p tcp -m tcp --dport 22 -m recent --name knocked --rcheck -j ACCEPT\n"
    ));
    let mut asked = Asked::new(&rules, &rules.0[0], None, Vec::new());
    let rows = asked.rows(&Question {
        protocol: proto::TCP,
        origin: Origin::Received,
        only: Vec::new(),
        from: Vec::new(),
        after: None,
    });
    assert_eq!(rows.len(), 1);
    let why = rows[0].unknown.clone().unwrap();
    assert!(
        why.contains("filter INPUT 2") && why.contains("recent"),
        "{why}"
    );
}

#[test]
fn marks_are_followed_from_table_to_table() {
    let text = "*mangle\n:PREROUTING ACCEPT [0:0]\n\
        -A PREROUTING -s 10.0.0.0/8 -j MARK --set-xmark 0x10/0xf0\n\
        -A PREROUTING -m mark --mark 0x10/0xf0 -j CONNMARK --save-mark --nfmask 0xffffffff --ctmask 0xffffffff\n\
        COMMIT\n*filter\n:INPUT DROP [0:0]\n:FORWARD DROP [0:0]\n:OUTPUT DROP [0:0]\n\
        -A INPUT -p tcp -m tcp --dport 22 -m mark --mark 0x10/0xf0 -j ACCEPT\n\
        -A OUTPUT -m connmark --mark 0x10 -j ACCEPT\nCOMMIT\n";
    assert_eq!(
        table(&rules(text), None),
        ["tcp/22 to this host from 10.0.0.0/8"]
    );
}
