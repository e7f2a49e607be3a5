//! Mistakes that are in the rules: what `tidegate check` says about them.

use crate::common::{Desk, caught, one};

/// A filter table with these rules; INPUT drops.
fn closed(rules: &str) -> String {
    format!(
        "*filter\n:INPUT DROP [0:0]\n:FORWARD DROP [0:0]\n:OUTPUT ACCEPT [0:0]\n{rules}COMMIT\n"
    )
}

/// The beginning of every good INPUT chain.
const START: &str =
    "-A INPUT -i lo -j ACCEPT\n-A INPUT -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT\n";

#[test]
fn flushing_a_chain_whose_policy_is_drop() {
    let desk = Desk::new(&closed(&format!(
        "{START}-A INPUT -p tcp --dport 22 -j ACCEPT\n"
    )));
    desk.follow("iptables -F INPUT");
    let says = ["policy DROP and no rules", "your own session included"];
    caught(&desk, "TG003", "INPUT 0", &says);
}

#[test]
fn a_rule_appended_after_the_final_reject() {
    let desk = Desk::new(&closed(&format!("{START}-A INPUT -j REJECT\n")));
    desk.follow("iptables -A INPUT -p tcp --dport 443 -j ACCEPT");
    let says = ["can never match", "rule 3 takes", "-I INPUT 3"];
    caught(&desk, "TG010", "INPUT 4", &says);
}

/// Server Fault 766198: new logins never get to the bans.
#[test]
fn bans_behind_the_rule_that_accepts_new_logins() {
    let desk = Desk::new(
        "*filter\n:INPUT DROP [0:0]\n:fail2ban-ssh - [0:0]\n-A INPUT -i lo -j ACCEPT\n\
         -A INPUT -m conntrack --ctstate RELATED -j ACCEPT\n\
         -A INPUT -p tcp -m tcp --dport 22 -m conntrack --ctstate NEW,ESTABLISHED -j ACCEPT\n\
         -A INPUT -p udp -m conntrack --ctstate ESTABLISHED -j ACCEPT\n\
         -A INPUT -p tcp -m tcp --dport 22 -j fail2ban-ssh\n\
         -A fail2ban-ssh -s 192.0.2.1/32 -j DROP\nCOMMIT\n",
    );
    let says = [
        "only by INVALID and UNTRACKED",
        "takes NEW packets",
        "takes RELATED packets",
    ];
    caught(&desk, "TG011", "INPUT 5", &says);
}

#[test]
fn loopback_forgotten() {
    let desk = Desk::new(&closed(
        "-A INPUT -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT\n-A INPUT -p tcp -m tcp --dport 22 -j ACCEPT\n",
    ));
    caught(&desk, "TG020", "INPUT 0", &["over lo", "databases"]);
    // Where the rules are for this host, who is hit is named.
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let desk = Desk::new(&closed("-A INPUT -p tcp -m tcp --dport 22 -j ACCEPT\n"));
    let out = desk.shell("tidegate check v4 --host live --json").stdout;
    let at = format!("{}/tcp", listener.local_addr().unwrap());
    assert!(String::from_utf8_lossy(&out).contains(&at), "{at}");
}

#[test]
fn answers_forgotten() {
    let desk = Desk::new(&closed(
        "-A INPUT -i lo -j ACCEPT\n-A INPUT -p tcp -m tcp --dport 22 -j ACCEPT\n",
    ));
    caught(
        &desk,
        "TG021",
        "INPUT 0",
        &["no ESTABLISHED packets", "DNS"],
    );
}

#[test]
fn path_mtu_discovery_forgotten() {
    let desk = Desk::new(&closed(
        "-A INPUT -i lo -j ACCEPT\n-A INPUT -m conntrack --ctstate ESTABLISHED -j ACCEPT\n",
    ));
    caught(&desk, "TG071", "INPUT 0", &["fragmentation needed", "hang"]);
}

/// 974 of 1000 packets at rule 7: 100 x 7 + 26 x policy; the counters say what it costs.
#[test]
fn the_state_rule_far_behind() {
    let ports: String = [22, 25, 80, 110, 143]
        .iter()
        .map(|p| format!("[0:0] -A INPUT -p tcp -m tcp --dport {p} -j ACCEPT\n"))
        .collect();
    let desk = Desk::new(&format!(
        "*filter\n:INPUT DROP [26:1000]\n[0:0] -A INPUT -i lo -j ACCEPT\n{ports}\
         [974:99999] -A INPUT -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT\nCOMMIT\n"
    ));
    let says = [
        "after 6 other rules",
        "97.4 % of the packets",
        "cuts 7.0 rules tried per packet to 1.2",
        "is safe",
        "(proved)",
    ];
    caught(&desk, "TG022", "INPUT 7", &says);
}

#[test]
fn ftp_without_its_helper() {
    let desk = Desk::new(&closed(&format!(
        "{START}-A INPUT -p tcp -m tcp --dport 21 -j ACCEPT\n"
    )));
    caught(
        &desk,
        "TG040",
        "INPUT 3",
        &["no rule assigns the ftp helper"],
    );
}

#[test]
fn a_target_in_the_wrong_table() {
    for (rule, table) in [
        (
            "-A PREROUTING -p tcp --dport 21 -j CT --helper ftp",
            "mangle",
        ),
        ("-A INPUT -p udp --dport 53 -j NOTRACK", "filter"),
    ] {
        let desk = Desk::new(&format!("*{table}\n{rule}\nCOMMIT\n"));
        let found = one(&desk.check(), "TG041");
        assert_eq!(found.place, "line 2", "{found:?}");
        assert!(
            found
                .remedy
                .starts_with("iptables -t raw -A PREROUTING -p "),
            "{found:?}"
        );
        desk.write("v4", &format!("*{table}\nCOMMIT\n"));
        desk.follow(&found.remedy);
        assert!(!desk.check().iter().any(|f| f.code == "TG041"));
        assert!(desk.text("v4").contains("*raw\n"), "{}", desk.text("v4"));
    }
}

#[test]
fn related_that_opens_more_than_was_meant() {
    let desk = Desk::new(&format!(
        "*raw\n-A PREROUTING -p tcp -m tcp --dport 21 -j CT --helper ftp\nCOMMIT\n{}",
        closed(&format!(
            "{START}-A INPUT -p tcp -m tcp --dport 21 -j ACCEPT\n"
        ))
    ));
    let says = [
        "all that is RELATED",
        "conntrack -L expect",
        "-m helper --helper ftp",
    ];
    caught(&desk, "TG042", "INPUT 2", &says);
    // What is needed still comes in.
    assert!(
        !desk.check().iter().any(|f| f.code == "TG071"),
        "{:?}",
        desk.check()
    );
}

#[test]
fn notrack_in_one_direction() {
    let desk = Desk::new("*raw\n-A PREROUTING -p tcp -m tcp --dport 1234 -j NOTRACK\nCOMMIT\n");
    caught(
        &desk,
        "TG052",
        "PREROUTING 1",
        &["exempts one direction only"],
    );
}

#[test]
fn a_translation_that_notrack_hides_packets_from() {
    let desk = Desk::new(
        "*raw\n-A PREROUTING -p tcp -m tcp --dport 1234 -j NOTRACK\n-A OUTPUT -p tcp -m tcp --sport 1234 -j NOTRACK\nCOMMIT\n\
         *nat\n-A PREROUTING -p udp -m udp --dport 53 -j DNAT --to-destination 10.0.0.3\n\
         -A PREROUTING -p tcp -m tcp --dport 1234 -j DNAT --to-destination 10.0.0.2\nCOMMIT\n",
    );
    let says = [
        "can never translate",
        "UNTRACKED",
        "exempts them from tracking",
    ];
    caught(&desk, "TG053", "PREROUTING 2", &says);
}

#[test]
fn ipv6_forgotten() {
    let desk = Desk::new(&closed(&format!(
        "{START}-A INPUT -p tcp -m tcp --dport 22 -j ACCEPT\n"
    )))
    .and6("*filter\n:INPUT ACCEPT [0:0]\nCOMMIT\n");
    let listener = std::net::TcpListener::bind("[::]:0");
    if let Ok(listener) = &listener {
        let run = desk.shell("tidegate check v4 --rules6 v6 --host live --json");
        let at = format!("{}/tcp", listener.local_addr().unwrap());
        assert!(String::from_utf8_lossy(&run.stdout).contains(&at), "{at}");
    }
    caught(&desk, "TG080", "", &["what listens on :: is open"]);
    // Closed as IPv4 is: the service stays, and neighbour discovery works.
    let after = desk.text("v6");
    assert!(
        after.contains("-p tcp -m tcp --dport 22 -j ACCEPT"),
        "{after}"
    );
    assert!(!desk.check().iter().any(|f| f.code == "TG081"));
}

#[test]
fn neighbour_discovery_forgotten() {
    let desk = Desk::new(&closed(START)).and6(&closed(START));
    caught(
        &desk,
        "TG081",
        "INPUT 0",
        &["neighbour solicitation (135)", "the link stops working"],
    );
}

#[test]
fn a_published_port_goes_around_the_hosts_rules() {
    let desk = Desk::new(&format!(
        "*nat\n:DOCKER - [0:0]\n-A PREROUTING -m addrtype --dst-type LOCAL -j DOCKER\n\
         -A DOCKER ! -i docker0 -p tcp -m tcp --dport 8080 -j DNAT --to-destination 172.17.0.4:3000\nCOMMIT\n{}",
        closed(&format!(
            "{START}-A INPUT -p tcp -m tcp --dport 8080 -j DROP\n"
        ))
    ));
    let says = [
        "DOCKER 1",
        "go through FORWARD",
        "DOCKER-USER",
        "--ctorigdstport 8080",
    ];
    caught(&desk, "TG090", "INPUT 3", &says);
}

#[test]
fn a_limit_as_if_it_were_a_cap() {
    let desk = Desk::new(
        "*filter\n:INPUT ACCEPT [0:0]\n-A INPUT -p icmp -m icmp --icmp-type 8 -m limit --limit 1/second -j ACCEPT\nCOMMIT\n",
    );
    caught(
        &desk,
        "TG120",
        "INPUT 1",
        &["what exceeds the limit is accepted"],
    );
}

#[test]
fn hours_that_are_not_this_hosts() {
    let rules = closed(&format!(
        "{START}-A INPUT -p tcp -m tcp --dport 22 -m time --timestart 08:00 --timestop 18:00 -j ACCEPT\n"
    ));
    // No summer time there.
    let desk = Desk::new(&rules).living_in("Asia/Tokyo");
    let says = [
        "means 08:00:00 to 18:00:00 UTC, which is 17:00:00 to 03:00:00 Asia/Tokyo",
        "--timestart 23:00:00 --timestop 09:00:00",
    ];
    if !desk.check().iter().any(|f| f.code == "TG121") {
        eprintln!("SKIPPED: this host has no time zones");
        return;
    }
    caught(&desk, "TG121", "INPUT 3", &says);
    assert!(!Desk::new(&rules).check().iter().any(|f| f.code == "TG121"));
}

/// Server Fault 795234: answers have the client's port.
#[test]
fn excluded_ports_that_answers_have_too() {
    let desk = Desk::new(
        "*filter\n:INPUT ACCEPT [0:0]\n-A INPUT -p tcp -m multiport ! --dports 80,443 -j DROP\nCOMMIT\n",
    );
    caught(
        &desk,
        "TG122",
        "INPUT 1",
        &["matches answers too", "the client's"],
    );
}

#[test]
fn log_without_a_limit() {
    let desk = Desk::new(&closed(&format!("{START}-A INPUT -j LOG\n")));
    caught(&desk, "TG124", "INPUT 3", &["logs every packet"]);
}

/// Server Fault 759927.
#[test]
fn a_match_without_its_protocol() {
    for (rule, remedy) in [
        (
            "-A INPUT -p udp -m tcp --dport 53 -j ACCEPT",
            "iptables -A INPUT -p udp -m udp --dport 53 -j ACCEPT",
        ),
        (
            "-A INPUT --dport 53 -j ACCEPT",
            "iptables -A INPUT -p tcp --dport 53 -j ACCEPT",
        ),
    ] {
        let desk = Desk::new(&format!("*filter\n{rule}\nCOMMIT\n"));
        let found = one(&desk.check(), "TG125");
        assert_eq!(
            (found.place.as_str(), found.remedy.as_str()),
            ("line 2", remedy)
        );
        desk.write("v4", "");
        desk.follow(remedy);
        assert!(!desk.check().iter().any(|f| f.code == "TG125"));
    }
}
