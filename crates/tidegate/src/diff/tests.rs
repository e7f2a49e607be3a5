//! Rulesets of which it is known what differs.

mod random;

use super::*;

fn load(text: &str) -> Loaded {
    Loaded::parse(text, "rules", Family::V4).unwrap()
}

fn filter(rules: &str) -> Loaded {
    load(&format!(
        "*filter\n:INPUT DROP [0:0]\n:FORWARD DROP [0:0]\n:OUTPUT ACCEPT [0:0]\n{rules}COMMIT\n"
    ))
}

fn diff(a: &str, b: &str) -> Comparison {
    compare(&filter(a), &filter(b), None)
}

fn same(found: &Comparison) {
    let nothing = found.differences.is_empty() && found.unknown.is_empty();
    assert!(nothing, "{found:#?}");
}

/// What has changed, a line each.
fn told(found: &Comparison) -> Vec<String> {
    let all = found.differences.iter();
    let mut told: Vec<String> = all.map(|d| format!("{}: {}", d.path, d.what)).collect();
    told.sort();
    told
}

#[test]
fn the_same_in_other_words_is_the_same() {
    let one = "-A INPUT -p tcp -m tcp --dport 20:23 -j ACCEPT\n";
    let other = "-A INPUT -p tcp -m tcp --dport 20:21 -j ACCEPT\n\
        -A INPUT -p udp -j DROP\n-A INPUT -p tcp -m tcp --dport 22:23 -j ACCEPT\n";
    same(&diff(one, other));
    same(&diff(one, one));
}

#[test]
fn chains_may_have_other_names_or_none() {
    let load = |name: &str| {
        load(&format!(
            "*filter\n:INPUT DROP [0:0]\n:{name} - [0:0]\n-A INPUT -p tcp -j {name}\n\
             -A {name} -s 192.0.2.0/24 -j RETURN\n-A {name} -p tcp -m tcp --dport 22 -j ACCEPT\nCOMMIT\n"
        ))
    };
    same(&compare(&load("one"), &load("other"), None));
    let inlined = filter("-A INPUT ! -s 192.0.2.0/24 -p tcp -m tcp --dport 22 -j ACCEPT\n");
    let with = load("one");
    let found = compare(&with, &inlined, None);
    // A table with FORWARD and OUTPUT that accept or drop is another one.
    let input: Vec<String> = told(&found)
        .into_iter()
        .filter(|t| t.contains("to this host"))
        .collect();
    assert!(input.is_empty(), "{found:#?}");
}

/// Rules that are written alike are not alike when their sets are not.
#[test]
fn sets_are_compared_too() {
    let with = |text: &str, members: &[&str]| {
        let add = |m: &&str| format!("add admins {m}\n");
        let sets: String = members.iter().map(add).collect();
        load(&format!(
            "*filter\n:INPUT DROP [0:0]\n:FORWARD DROP [0:0]\n:OUTPUT ACCEPT [0:0]\n{text}COMMIT\n\
             # tidegate-state ipset 0\ncreate admins hash:net family inet \n{sets}"
        ))
    };
    let rule = "-A INPUT -p tcp -m tcp --dport 22 -m set --match-set admins src -j ACCEPT\n";
    let before = with(rule, &["192.0.2.0/24"]);
    same(&compare(&before, &with(rule, &["192.0.2.0/24"]), None));
    let found = compare(
        &before,
        &with(rule, &["192.0.2.0/24", "198.51.100.9"]),
        None,
    );
    assert_eq!(told(&found), ["to this host: newly accepted"]);
    let example = &found.differences[0];
    assert!(example.tried && example.certain, "{example:?}");
    assert!(example.example.contains("198.51.100.9"), "{example:?}");
    // The same networks in other words.
    same(&compare(
        &before,
        &with(rule, &["192.0.2.0/25", "192.0.2.128/25"]),
        None,
    ));
    let plain = "-A INPUT -s 192.0.2.0/24 -p tcp -m tcp --dport 22 -j ACCEPT\n";
    same(&compare(&before, &filter(plain), None));
    // What rules change is not known, and not the same if it was not the same before.
    let knock = format!("{rule}-A INPUT -p tcp -m tcp --dport 7000 -j SET --add-set admins src\n");
    same(&compare(&with(&knock, &[]), &with(&knock, &[]), None));
    let found = compare(&with(&knock, &[]), &with(&knock, &["198.51.100.9"]), None);
    assert!(!found.is_same());
}

#[test]
fn disjoint_rules_may_change_places() {
    let a = "-A INPUT -p tcp -m tcp --dport 22 -j ACCEPT\n-A INPUT -p udp -m udp --dport 53 -j REJECT\n";
    let b = "-A INPUT -p udp -m udp --dport 53 -j REJECT\n-A INPUT -p tcp -m tcp --dport 22 -j ACCEPT\n";
    same(&diff(a, b));
    let a = "-A INPUT -s 192.0.2.7/32 -j DROP\n-A INPUT -p tcp -m tcp --dport 22 -j ACCEPT\n";
    let b = "-A INPUT -p tcp -m tcp --dport 22 -j ACCEPT\n-A INPUT -s 192.0.2.7/32 -j DROP\n";
    let found = diff(a, b);
    assert_eq!(told(&found), ["to this host: newly accepted"]);
    let example = &found.differences[0];
    assert!(example.tried && example.certain, "{example:?}");
    assert!(
        example.example.contains("192.0.2.7") && example.example.contains(":22"),
        "{example:?}"
    );
    assert!(example.rules[0].contains("INPUT 1") && example.rules[1].contains("INPUT 1"));
}

#[test]
fn what_changes_is_told_with_an_example_and_the_rules() {
    let found = diff(
        "-A INPUT -p tcp -m tcp --dport 22 -j ACCEPT\n",
        "-A INPUT -p tcp -m tcp --dport 23 -j ACCEPT\n",
    );
    assert_eq!(
        told(&found),
        [
            "to this host: newly accepted",
            "to this host: newly dropped"
        ]
    );
    let of = |what| found.differences.iter().find(|d| d.what == what).unwrap();
    let (come, gone) = (of("newly accepted"), of("newly dropped"));
    assert!(
        come.example.contains(":23") && gone.example.contains(":22"),
        "{found:?}"
    );
    assert!(come.tried && gone.tried, "{found:?}");
    assert_eq!(come.rules[0], "filter -P INPUT DROP");
}

#[test]
fn another_answer_is_a_difference() {
    let found = diff(
        "-A INPUT -p tcp -j REJECT --reject-with tcp-reset\n",
        "-A INPUT -p tcp -j REJECT --reject-with icmp-port-unreachable\n",
    );
    assert_eq!(told(&found), ["to this host: rejected differently"]);
    assert!(found.differences[0].tried);
}

/// What one table does about packets that another lets pass or not is put together.
#[test]
fn marks_and_tables_are_one_question() {
    let load = |mangle: &str, input: &str| {
        load(&format!(
            "*mangle\n:PREROUTING ACCEPT [0:0]\n{mangle}COMMIT\n\
             *filter\n:INPUT DROP [0:0]\n:FORWARD DROP [0:0]\n:OUTPUT ACCEPT [0:0]\n{input}COMMIT\n"
        ))
    };
    let marked = load(
        "-A PREROUTING -s 10.0.0.0/8 -j MARK --set-xmark 0x1/0xffffffff\n",
        "-A INPUT -m mark --mark 0x1 -j ACCEPT\n",
    );
    let other = load(
        "-A PREROUTING -s 10.0.0.0/9 -j MARK --set-xmark 0x1/0xffffffff\n\
         -A PREROUTING -s 10.128.0.0/9 -j MARK --set-xmark 0x1/0xffffffff\n",
        "-A INPUT -m mark ! --mark 0x1 -j DROP\n-A INPUT -j ACCEPT\n",
    );
    same(&compare(&marked, &other, None));
    let less = load(
        "-A PREROUTING -s 10.0.0.0/9 -j MARK --set-xmark 0x1/0xffffffff\n",
        "-A INPUT -m mark --mark 0x1 -j ACCEPT\n",
    );
    let found = compare(&marked, &less, None);
    assert!(
        told(&found).contains(&"to this host: newly dropped".to_owned()),
        "{found:?}"
    );
    // Dropped in mangle or in filter: it is all the same.
    let early = load(
        "-A PREROUTING -p tcp -m tcp --dport 23 -j DROP\n",
        "-A INPUT -p tcp -j ACCEPT\n",
    );
    let late = load(
        "",
        "-A INPUT -p tcp -m tcp --dport 23 -j DROP\n-A INPUT -p tcp -j ACCEPT\n",
    );
    let found = compare(&early, &late, None);
    let here: Vec<String> = told(&found)
        .into_iter()
        .filter(|t| t.contains("to this"))
        .collect();
    assert!(here.is_empty(), "{found:?}");
}

#[test]
fn translations_are_compared_and_followed() {
    let load = |to: &str, forward: &str| {
        load(&format!(
            "*nat\n:PREROUTING ACCEPT [0:0]\n-A PREROUTING -p tcp -m tcp --dport 80 -j DNAT --to-destination {to}\n\
             COMMIT\n*filter\n:INPUT ACCEPT [0:0]\n:FORWARD DROP [0:0]\n:OUTPUT ACCEPT [0:0]\n\
             -A FORWARD -d {forward}/32 -p tcp -m tcp --dport 80 -j ACCEPT\nCOMMIT\n"
        ))
    };
    let found = compare(
        &load("10.0.0.5", "10.0.0.5"),
        &load("10.0.0.6", "10.0.0.6"),
        None,
    );
    let all = told(&found);
    assert!(
        all.contains(&"through this host: translated differently".to_owned()),
        "{found:#?}"
    );
    let found = compare(
        &load("10.0.0.5", "10.0.0.5"),
        &load("10.0.0.6", "10.0.0.5"),
        None,
    );
    let all = told(&found);
    assert!(
        all.contains(&"through this host: newly dropped".to_owned()),
        "{found:#?}"
    );
}

#[test]
fn exemptions_from_tracking_are_seen() {
    let load = |rule: &str| load(&format!("*raw\n:PREROUTING ACCEPT [0:0]\n{rule}COMMIT\n"));
    let (none, some) = (load(""), load("-A PREROUTING -p udp -j NOTRACK\n"));
    let found = compare(&none, &some, None);
    let what = "tracked, marked or rewritten differently";
    assert!(told(&found).iter().any(|t| t.contains(what)), "{found:?}");
    same(&compare(&some, &some, None));
}

/// The same test at the same place is the same; another one may come out otherwise.
#[test]
fn state_kept_by_rules_is_the_same_where_it_is_written_the_same() {
    let limit = "-A INPUT -p icmp -m limit --limit 1/sec -j ACCEPT\n";
    let tcp = "-A INPUT -p tcp -m tcp --dport 22 -j ACCEPT\n";
    same(&diff(&format!("{limit}{tcp}"), &format!("{tcp}{limit}")));
    let found = diff(limit, &limit.replace("1/sec", "2/sec"));
    assert!(!found.differences.is_empty(), "{found:?}");
    assert!(found.differences.iter().all(|d| !d.certain), "{found:?}");
    // Fewer packets come to it: it lets others pass than before.
    let found = diff(limit, &format!("-A INPUT -s 192.0.2.0/24 -j DROP\n{limit}"));
    assert!(!found.unknown.is_empty(), "{found:?}");
    same(&diff(limit, limit));
}

#[test]
fn copies_and_queues_are_differences() {
    let tee = "-A PREROUTING -p udp -j TEE --gateway 192.0.2.9\n";
    let load = |rules: &str| {
        load(&format!(
            "*mangle\n:PREROUTING ACCEPT [0:0]\n{rules}COMMIT\n"
        ))
    };
    let found = compare(&load(""), &load(tee), None);
    assert!(!found.differences.is_empty(), "{found:?}");
}

/// A rule that stands there twice takes nothing the second time, unless packets have changed
/// meanwhile.
#[test]
fn what_stands_there_twice_is_the_same_as_once() {
    let ssh = "-A INPUT -p tcp -m tcp --dport 22 -j ACCEPT\n";
    let other = "-A INPUT -s 10.0.0.0/8 -j DROP\n";
    same(&diff(
        &format!("{ssh}{other}"),
        &format!("{ssh}{other}{ssh}{other}"),
    ));
    let load = |last: &str| {
        load(&format!(
            "*mangle\n:PREROUTING ACCEPT [0:0]\n\
             -A PREROUTING -m mark --mark 0x1 -j DROP\n\
             -A PREROUTING -p tcp -j MARK --set-xmark 0x1/0xffffffff\n{last}COMMIT\n"
        ))
    };
    let again = "-A PREROUTING -m mark --mark 0x1 -j DROP\n";
    let found = compare(&load(""), &load(again), None);
    assert!(
        found.differences.iter().any(|d| d.what == "newly dropped"),
        "{found:?}"
    );
}

/// Rules that have changed places are looked at where both are met: that some other rule stands there
/// twice does not hide it.
#[test]
fn rules_that_change_places_are_seen_beside_repeated_ones() {
    let (log, drop) = (
        "-A INPUT -p tcp -m limit --limit 1/sec -j ACCEPT\n",
        "-A INPUT -p tcp -m tcp --dport 23 -j DROP\n",
    );
    let found = diff(&format!("{log}{drop}{log}"), &format!("{drop}{log}{log}"));
    assert!(!found.is_same(), "{found:?}");
}

/// Rules that ask for some of source, destination, protocol and port each, so that many meet.
fn thousand(seed: u64) -> Vec<String> {
    use crate::query::tests::world::Random;
    let mut r = Random(seed);
    r.below(7);
    let network = |r: &mut Random| {
        let len = r.of(&[32, 32, 24, 24, 16]);
        let address = r.below(1 << 32) as u32 & u32::MAX << (32 - len);
        format!("{}/{len}", std::net::Ipv4Addr::from(address))
    };
    let rule = |_| {
        let mut text = "-A INPUT".to_owned();
        if r.below(10) < 6 {
            text += &format!(" -s {}", network(&mut r));
        }
        if r.below(10) < 4 {
            text += &format!(" -d {}", network(&mut r));
        }
        let proto = r.of(&["tcp", "tcp", "udp"]);
        text += &match r.below(3) {
            // About everything from or to somewhere.
            0 if text.len() > "-A INPUT".len() => format!(" -p {proto}"),
            _ => format!(" -p {proto} -m {proto} --dport {}", 1 + r.below(65_000)),
        };
        format!("{text} -j {}\n", r.of(&["ACCEPT", "DROP"]))
    };
    (0..1_000).map(rule).collect()
}

/// A thousand rules: another order of those that do not meet is the same, which is proved; a change
/// of one is found; and where all are others, it ends with differences and says that there are more.
#[test]
fn a_thousand_rules_are_compared_within_bounds() {
    let rules = thousand(1);
    // Rules for one protocol and port change places with those for another one.
    let mut moved = rules.clone();
    let port = |rule: &String| {
        rule.split(" --dport ")
            .nth(1)
            .map(|p| p.split(' ').next().unwrap_or("").to_owned())
    };
    for at in 0..moved.len() - 1 {
        let ports = (port(&moved[at]), port(&moved[at + 1]));
        if at % 3 == 0 && ports.0.is_some() && ports.1.is_some() && ports.0 != ports.1 {
            moved.swap(at, at + 1);
        }
    }
    assert_ne!(rules, moved);
    same(&diff(&rules.concat(), &moved.concat()));
    let mut one = rules.clone();
    one[500] = "-A INPUT -s 192.0.2.7/32 -p tcp -m tcp --dport 4711 -j ACCEPT\n".to_owned();
    let found = diff(&rules.concat(), &one.concat());
    let all = &found.differences;
    assert!(
        found.unknown.is_empty() && all.iter().any(|d| d.example.contains("192.0.2.7")),
        "{found:#?}"
    );
    let found = diff(&rules.concat(), &thousand(2).concat());
    let told = |what| found.differences.iter().any(|d| d.what == what && d.tried);
    assert!(
        told("newly accepted") && told("newly dropped"),
        "{found:#?}"
    );
    // What there is beyond the first differences is not told one by one.
    assert!(!found.more.is_empty(), "{found:#?}");
}

/// A packet that goes another way than before is told of there.
#[test]
fn what_goes_another_way_is_told() {
    use crate::query::tests::world::World;
    let load = |nat: &str| {
        load(&format!(
            "*nat\n:PREROUTING ACCEPT [0:0]\n{nat}COMMIT\n\
             *filter\n:INPUT DROP [0:0]\n:FORWARD DROP [0:0]\n:OUTPUT ACCEPT [0:0]\n\
             -A FORWARD -j REJECT --reject-with icmp-port-unreachable\nCOMMIT\n"
        ))
    };
    let to = "-A PREROUTING -d 203.0.113.5/32 -p tcp -j DNAT --to-destination 192.168.1.20\n";
    let host = World::of(0).host;
    let found = compare(&load(to), &load(""), Some(&host));
    assert!(
        told(&found).contains(&"to this host: newly dropped".to_owned()),
        "{found:#?}"
    );
}

/// What is stopped before routing is told of on the way that it took, and there alone.
#[test]
fn what_is_stopped_before_routing_goes_no_other_way() {
    use crate::query::tests::world::World;
    let open = "*filter\n:INPUT ACCEPT [0:0]\n:FORWARD ACCEPT [0:0]\nCOMMIT\n";
    let raw = "*raw\n:PREROUTING ACCEPT [0:0]\n\
               -A PREROUTING -d 203.0.113.5/32 -p tcp --dport 8080 -j DROP\nCOMMIT\n";
    let host = World::of(0).host;
    let found = compare(&load(open), &load(&format!("{raw}{open}")), Some(&host));
    assert_eq!(told(&found), ["to this host: newly dropped"], "{found:#?}");
    let found = compare(&load(&format!("{raw}{open}")), &load(open), Some(&host));
    assert_eq!(told(&found), ["to this host: newly accepted"], "{found:#?}");
}

/// A rule that no packet gets to changes nothing, wherever it stands.
#[test]
fn rules_that_nobody_gets_to_are_no_difference() {
    let with = |source: &str| {
        load(&format!(
            "*filter\n:INPUT ACCEPT [0:0]\n:uncalled - [0:0]\n\
             -A INPUT -p tcp --dport 22 -j ACCEPT\n-A INPUT -j DROP\n\
             -A INPUT -s {source} -j ACCEPT\n-A uncalled -s {source} -j DROP\nCOMMIT\n"
        ))
    };
    let [a, b] = ["192.0.2.1", "192.0.2.2"].map(with);
    same(&compare(&a, &b, None));
}
