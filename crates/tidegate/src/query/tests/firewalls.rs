//! Whole firewalls: what is open, and what is dead, as it was built in.

use super::*;
use crate::check::examine;
use crate::check::source::Source;

/// Lines of findings about rules that never match or do nothing, by code.
pub(super) fn dead(text: &str) -> Vec<(String, usize)> {
    let rules = rules(text);
    let source = Source::new("rules", text);
    let mut found: Vec<(String, usize)> = examine(&rules.0[0], &source)
        .into_iter()
        .filter(|f| ["TG010", "TG012", "TG014", "TG000"].contains(&f.code))
        .map(|f| {
            let line = f.place.as_ref().and_then(|p| source.line(p));
            (f.code.to_owned(), line.map_or(0, |l| l.number))
        })
        .collect();
    found.sort();
    found
}

/// The line that ends like this.
fn line(text: &str, rule: &str) -> usize {
    1 + text.lines().position(|l| l == rule).unwrap()
}

#[test]
fn a_home_router() {
    let text = include_str!("../../../../../scenarios/firewalls/home.rules");
    let host = Host::parse(
        "[host]\nforward = true\n\
         [[interface]]\nname = \"wan0\"\naddresses = [\"203.0.113.5/24\"]\n\
         [[interface]]\nname = \"lan0\"\naddresses = [\"192.168.1.1/24\"]\n\
         [[interface]]\nname = \"guest0\"\naddresses = [\"192.168.9.1/24\"]\n\
         [[route]]\nto = \"0.0.0.0/0\"\nvia = \"203.0.113.1\"\ndev = \"wan0\"\n",
    )
    .unwrap();
    let found = table(&rules(text), Some(&host));
    let from = |who: &str| -> Vec<&String> {
        let senders = |l: &String| l.split(" from ").last().is_some_and(|s| s.contains(who));
        found.iter().filter(|l| senders(l)).collect()
    };
    // From the provider's side: what is forwarded by name, and ping.
    let outside = from("wan0");
    assert_eq!(outside.len(), 4, "{outside:#?}");
    for (service, to) in [
        ("tcp/25565 to ", "192.168.1.20"),
        ("tcp/8443 to ", "192.168.1.30 port 443"),
        // Whoever is on the provider's link can name the server itself.
        ("tcp/443 to 192.168.1.30", ""),
        ("icmp ping to this host", ""),
    ] {
        let told = outside
            .iter()
            .any(|l| l.starts_with(service) && l.contains(to));
        assert!(told, "{service}{to}: {outside:#?}");
    }
    // WireGuard is translated, and forgotten in FORWARD.
    assert!(
        !found
            .iter()
            .any(|l| l.contains("51820") && l.contains("wan0")),
        "{found:#?}"
    );
    // Guests: the web, addresses, and names by way of the redirection.
    let guests = from("guest0");
    assert!(
        guests.iter().any(|l| l.starts_with("tcp/80,443 to ")),
        "{guests:#?}"
    );
    assert!(
        guests
            .iter()
            .any(|l| l.starts_with("udp/67,5353 to this host")),
        "{guests:#?}"
    );
    assert!(
        guests
            .iter()
            .any(|l| l.starts_with("udp/53 to 192.168.9.1 port 5353")),
        "{guests:#?}"
    );
    assert_eq!(guests.len(), 3, "{guests:#?}");
    assert!(dead(text).is_empty(), "{:?}", dead(text));
}

#[test]
fn a_web_server_with_containers() {
    let text = include_str!("../../../../../scenarios/firewalls/web.rules");
    let found = table(&rules(text), None);
    // The rule of INPUT against 5432 is gone around.
    for service in [
        "tcp/8080 to 172.17.0.2 port 80 (translated)",
        "tcp/5432 to 172.17.0.3 port 5432 (translated)",
        "tcp/80,443 to this host from",
        "tcp/22 to this host from 198.51.100.0/24",
    ] {
        assert!(
            found.iter().any(|l| l.starts_with(service)),
            "{service}: {found:#?}"
        );
    }
    let own = found.iter().filter(|l| l.contains("this host")).count();
    assert_eq!(own, 2, "{found:#?}");
    // With one bridge nothing goes from a bridge to another one.
    let other_bridge = line(text, "-A CONTAINERS-ISOLATION-2 -o cbr0 -j DROP");
    assert_eq!(dead(text), [("TG012".to_owned(), other_bridge)]);
}

#[test]
fn an_office_with_servers_and_a_tunnel() {
    let text = include_str!("../../../../../scenarios/firewalls/office.rules");
    let host = Host::parse(
        "[host]\nforward = true\n\
         [[interface]]\nname = \"inet0\"\naddresses = [\"203.0.113.5/24\", \"203.0.113.10/24\", \"203.0.113.11/24\", \"203.0.113.12/24\"]\n\
         [[interface]]\nname = \"dmz0\"\naddresses = [\"10.1.0.1/16\"]\n\
         [[interface]]\nname = \"lan0\"\naddresses = [\"10.2.0.1/16\"]\n\
         [[interface]]\nname = \"tun0\"\naddresses = [\"10.8.0.1/24\"]\n\
         [[route]]\nto = \"0.0.0.0/0\"\nvia = \"203.0.113.1\"\ndev = \"inet0\"\n",
    )
    .unwrap();
    let found = table(&rules(text), Some(&host));
    let has = |start: &str, end: &str| {
        let told = found
            .iter()
            .any(|l| l.starts_with(start) && l.contains(end));
        assert!(told, "{start} … {end}: {found:#?}");
    };
    has(
        "tcp/80,443 to 10.1.0.10 (translated from 203.0.113.10)",
        "inet0",
    );
    has(
        "tcp/25 to 10.1.0.11 (translated from 203.0.113.11)",
        "inet0",
    );
    has(
        "udp/53 to 10.1.0.12 (translated from 203.0.113.12)",
        "inet0",
    );
    has("udp/1194 to this host", "inet0");
    has("tcp/22 to this host", "tun0: 10.8.0.2");
    has("tcp/3389 to 10.2.0.0/16", "tun0");
    has("tcp/5432 to 10.2.5.1", "dmz0: 10.1.0.10");
    // Nobody outside gets further in, and what is behind the refusal is dead.
    assert!(
        !found
            .iter()
            .any(|l| l.contains("3389") && l.contains("inet0")),
        "{found:#?}"
    );
    assert!(!found.iter().any(|l| l.contains("8080")), "{found:#?}");
    let behind = line(
        text,
        "-A to_dmz -i lan0 -p tcp -m tcp --dport 8080 -j ACCEPT",
    );
    assert_eq!(dead(text), [("TG010".to_owned(), behind)]);
}

/// Three hundred rules as programs write them: a chain for each of ten networks. Every tenth
/// rule is shadowed by one before it, by several before it, or contradicts its chain.
#[test]
fn an_old_generated_one_with_three_hundred_rules() {
    let mut text =
        String::from("*filter\n:INPUT DROP [0:0]\n:FORWARD DROP [0:0]\n:OUTPUT ACCEPT [0:0]\n");
    for net in 0..10 {
        text += &format!(":net{net} - [0:0]\n");
    }
    text += "-A INPUT -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT\n";
    for net in 0..10 {
        text += &format!("-A INPUT -s 10.{net}.0.0/16 -j net{net}\n");
    }
    let mut expected = Vec::new();
    let mut open = Vec::new();
    for net in 0..10 {
        let mut add = |rule: &str| {
            text += &format!("-A net{net} {rule}\n");
            text.lines().count()
        };
        for i in 0..26 {
            let port = 1000 + net * 100 + i * 3;
            add(&format!(
                "-s 10.{net}.{i}.0/24 -p tcp -m tcp --dport {port}:{} -j ACCEPT",
                port + 1
            ));
            open.push((
                format!("tcp/{port}-{}", port + 1),
                format!("10.{net}.{i}.0/24"),
            ));
        }
        // By one alone, otherwise and alike.
        let port = 1000 + net * 100;
        let by_one = add(&format!(
            "-s 10.{net}.0.7/32 -p tcp -m tcp --dport {port} -j DROP"
        ));
        let alike = add(&format!(
            "-s 10.{net}.0.0/25 -p tcp -m tcp --dport {} -j ACCEPT",
            port + 1
        ));
        // By two together.
        add(&format!(
            "-s 10.{net}.64.0/19 -p udp -m udp --dport 53 -j DROP"
        ));
        add(&format!(
            "-s 10.{net}.96.0/19 -p udp -m udp --dport 53 -j DROP"
        ));
        let by_two = add(&format!(
            "-s 10.{net}.64.0/18 -p udp -m udp --dport 53 -j ACCEPT"
        ));
        // Of another network.
        let never = add(&format!(
            "-s 10.{}.0.0/16 -p tcp -m tcp --dport 22 -j ACCEPT",
            net + 100
        ));
        expected.extend([
            ("TG010".to_owned(), by_one),
            ("TG014".to_owned(), alike),
            ("TG010".to_owned(), by_two),
            ("TG012".to_owned(), never),
        ]);
    }
    text += "COMMIT\n";
    expected.sort();
    assert_eq!(dead(&text), expected);
    let found = table(&rules(&text), None);
    assert_eq!(found.len(), open.len(), "{found:#?}");
    for (service, network) in open {
        let line = format!("{service} to this host from {network}");
        assert!(found.contains(&line), "{line}: {found:#?}");
    }
}
