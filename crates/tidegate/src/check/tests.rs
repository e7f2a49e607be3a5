mod random;

use super::*;

fn found(text: &str, family: Family) -> Vec<Finding> {
    let source = Source::new("rules", text);
    let loaded = Loaded::parse(text, "rules", family).unwrap();
    examine(&loaded, &source)
}

fn codes(text: &str) -> Vec<&'static str> {
    found(text, Family::V4).iter().map(|f| f.code).collect()
}

/// The examples of the documentation have what they are examples of, and a remedy.
#[test]
fn every_lint_has_an_example_that_shows_it() {
    for lint in LINTS.iter().filter(|l| !l.example.rules.is_empty()) {
        let family = if lint.example.v6 {
            Family::V6
        } else {
            Family::V4
        };
        let found = found(lint.example.rules, family);
        let of = found.iter().find(|f| f.code == lint.code);
        let codes: Vec<_> = found.iter().map(|f| (f.code, &f.text)).collect();
        let of = of.unwrap_or_else(|| panic!("{}: {codes:?}", lint.code));
        assert!(!of.help.is_empty(), "{}: no remedy", lint.code);
        let source = Source::new("rules", lint.example.rules);
        let text = of.render(&source, &Renderer::plain());
        assert!(text.contains(lint.code), "{text}");
    }
}

#[test]
fn the_documentation_is_what_is_printed() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/lints.md");
    let written = fs::read_to_string(path).unwrap_or_default();
    assert_eq!(
        written,
        list(),
        "write it anew: tidegate check --list > docs/lints.md"
    );
}

/// A ruleset as it should be.
const GOOD: &str = "*filter\n:INPUT DROP [0:0]\n:FORWARD DROP [0:0]\n:OUTPUT ACCEPT [0:0]\n\
    -A INPUT -i lo -j ACCEPT\n\
    -A INPUT -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT\n\
    -A INPUT -m conntrack --ctstate INVALID -j DROP\n\
    -A INPUT -p icmp -j ACCEPT\n\
    -A INPUT -p tcp -m tcp --dport 22 -m conntrack --ctstate NEW -j ACCEPT\n\
    -A INPUT -m limit --limit 5/min -j LOG\nCOMMIT\n";

#[test]
fn good_rules_have_no_findings() {
    let found = found(GOOD, Family::V4);
    assert!(found.is_empty(), "{found:?}");
}

#[test]
fn shadowing_by_several_rules_together_is_found_and_named() {
    let text = "*filter\n:INPUT ACCEPT [0:0]\n\
        -A INPUT -p tcp -m tcp --dport 0:1000 -j ACCEPT\n\
        -A INPUT -p tcp -m tcp --dport 1001:65535 -j ACCEPT\n\
        -A INPUT -s 10.0.0.0/8 -p tcp -m tcp --dport 900:1100 -j DROP\nCOMMIT\n";
    let found = found(text, Family::V4);
    let dead = found.iter().find(|f| f.code == "TG010").unwrap();
    let numbers: Vec<u32> = dead.others.iter().map(|o| o.0.number).collect();
    assert_eq!(numbers, [1, 2]);
    // One port less, and some packet gets through.
    assert!(!codes(&text.replace("0:1000", "0:999")).contains(&"TG010"));
}

/// serverfault 766198: bans that do not stop new logins.
#[test]
fn state_tells_that_bans_come_too_late() {
    let lint = lints::lint("TG011").unwrap();
    let found = found(lint.example.rules, Family::V4);
    let late = found.iter().find(|f| f.code == "TG011").unwrap();
    assert!(
        late.text.contains("only by INVALID and UNTRACKED"),
        "{}",
        late.text
    );
    let by: Vec<_> = late
        .others
        .iter()
        .map(|o| (o.0.number, o.1.as_str()))
        .collect();
    assert!(
        by.contains(&(2, "takes NEW packets")) && by.contains(&(1, "takes RELATED packets")),
        "{by:?}"
    );
    assert!(late.help[0].contains("-I INPUT 1 -p tcp -m tcp --dport 22 -j fail2ban-ssh"));
}

#[test]
fn findings_can_be_allowed() {
    let text =
        "*filter\n:INPUT ACCEPT [0:0]\n# tidegate: allow(TG124)\n-A INPUT -p tcp -j LOG\nCOMMIT\n";
    assert_eq!(codes(text), [] as [&str; 0]);
    assert_eq!(codes(&text.replace("allow(", "deny(")), ["TG124"]);
}

#[test]
fn safe_moves_are_proved_and_unsafe_ones_are_not_promised() {
    let lint = lints::lint("TG022").unwrap();
    let safe = found(lint.example.rules, Family::V4);
    let safe = safe.iter().find(|f| f.code == "TG022").unwrap();
    assert!(safe.notes[0].contains("proved"));
    let blocks = lint
        .example
        .rules
        .replace("--dport 25 -j ACCEPT", "--dport 25 -j DROP");
    let unsafe_one = found(&blocks, Family::V4);
    let unsafe_one = unsafe_one.iter().find(|f| f.code == "TG022").unwrap();
    assert!(
        unsafe_one.notes[0].contains("would change what rules 3"),
        "{:?}",
        unsafe_one.notes
    );
}

#[test]
fn a_helper_that_no_connection_gets() {
    let lint = lints::lint("TG043").unwrap();
    let raw = |helper: &str| {
        let given =
            format!("*raw\n-A PREROUTING -p tcp --dport 2121 -j CT --helper {helper}\nCOMMIT\n");
        codes(&(given + lint.example.rules)).contains(&"TG043")
    };
    assert!(raw("sane"));
    assert!(!raw("ftp"));
    for (rule, wanted) in [
        ("--helper ftp-2121", true),
        ("! --helper ftp", false),
        ("--helper \"\"", false),
    ] {
        let text = lint.example.rules.replace("--helper ftp", rule);
        assert_eq!(codes(&text).contains(&"TG043"), wanted, "{rule}");
    }
}

/// A state rule too early: it takes what later rules are for, and nothing of the states
/// they mean is left for them.
#[test]
fn a_state_rule_too_early_hides_what_follows() {
    let text = "*filter\n:INPUT DROP [0:0]\n-A INPUT -i lo -j ACCEPT\n\
        -A INPUT -m state --state NEW,RELATED,ESTABLISHED -j ACCEPT\n\
        -A INPUT -s 198.51.100.0/24 -p tcp -m tcp --dport 22 -j DROP\nCOMMIT\n";
    let found = found(text, Family::V4);
    let hidden: Vec<_> = found
        .iter()
        .filter(|f| matches!(f.code, "TG010" | "TG011" | "TG014"))
        .collect();
    assert_eq!(hidden.len(), 1, "{found:?}");
    assert_eq!(hidden[0].place.as_ref().map(|p| p.number), Some(3));
    assert!(
        hidden[0].others.iter().any(|o| o.0.number == 2),
        "{hidden:?}"
    );
}

/// A unix socket is no interface: rules about loopback do not concern who comes by it.
#[test]
fn unix_sockets_go_around_rules_about_loopback() {
    let with = |rule: &str, family| {
        let text = format!("*filter\n:INPUT ACCEPT [0:0]\n:OUTPUT ACCEPT [0:0]\n{rule}\nCOMMIT\n");
        let found = found(&text, family);
        found.iter().any(|f| f.code == "TG023")
    };
    for rule in [
        "-A INPUT -i lo -p tcp -m tcp --dport 5432 -j DROP",
        "-A INPUT -s 127.0.0.0/8 -p tcp -m tcp --dport 6379 -j REJECT",
        "-A OUTPUT -o lo -p tcp -m multiport --dports 3306,33060 -j DROP",
    ] {
        assert!(with(rule, Family::V4), "{rule}");
    }
    let v6 = "-A OUTPUT -d ::1/128 -p tcp -m tcp --dport 3306 -j REJECT";
    assert!(with(v6, Family::V6));
    for rule in [
        // From elsewhere too; let in; no such service; everything; nothing gets there.
        "-A INPUT -p tcp -m tcp --dport 5432 -j DROP",
        "-A INPUT ! -i lo -p tcp -m tcp --dport 5432 -j DROP",
        "-A INPUT -i lo -p tcp -m tcp --dport 5432 -j ACCEPT",
        "-A INPUT -i lo -p udp -m udp --dport 5432 -j DROP",
        "-A INPUT -i lo -p tcp -m tcp --dport 8080 -j DROP",
        "-A INPUT -i lo -p tcp -m tcp --dport 1024:65535 -j DROP",
        "-A INPUT -i lo -j ACCEPT\n-A INPUT -i lo -p tcp -m tcp --dport 5432 -j DROP",
    ] {
        assert!(!with(rule, Family::V4), "{rule}");
    }
}

#[test]
fn ipv6_left_open_beside_ipv4_is_found() {
    let load = |text: &str, family| Loaded::parse(text, "rules", family).unwrap();
    let open = "*filter\n:INPUT ACCEPT [0:0]\nCOMMIT\n";
    let pair = [load(GOOD, Family::V4), load(open, Family::V6)];
    assert_eq!(parity(&pair, &[]).map(|f| f.code), Some("TG080"));
    let closed = "*filter\n:INPUT DROP [0:0]\n-A INPUT -p ipv6-icmp -j ACCEPT\nCOMMIT\n";
    let pair = [load(GOOD, Family::V4), load(closed, Family::V6)];
    assert!(parity(&pair, &[]).is_none());
}

#[test]
fn refused_files_say_what_to_do() {
    for (rule, code) in [
        ("-A INPUT -p tcp --dport 21 -j CT --helper ftp", "TG041"),
        ("-A INPUT -j NOTRACK", "TG041"),
        ("-A INPUT -p udp -m tcp --dport 53 -j ACCEPT", "TG125"),
        ("-A INPUT --dport 53 -j ACCEPT", "TG125"),
    ] {
        let text = format!("*filter\n:INPUT ACCEPT [0:0]\n{rule}\nCOMMIT\n");
        let refused = parse_rules(&text, Family::V4, &HostNames::default()).unwrap_err();
        let source = Source::new("rules", &text);
        let said = refused::json(&source, &refused, Family::V4);
        assert_eq!(said["code"], code, "{rule}: {said}");
    }
}

#[test]
fn refused_files_are_blamed_by_line_and_column() {
    for (rule, column, what) in [
        ("-A INPUT -s 1.2.3.4 --bogus 3 -j DROP", 21, "--bogus"),
        ("-A INPUT -p tcp --dport 70000 -j DROP", 25, "70000"),
        ("-A INPUT -j NOSUCH", 13, "NOSUCH"),
        ("-A INPUT -s 300.1.1.1 -j DROP", 13, "300.1.1.1"),
        // A word, and not a part of another.
        ("-A INPUT -s 10.0.0.1 -p tcp --dport t -j DROP", 37, "t"),
        (
            "-A INPUT -m comment --comment \u{e9}\u{e9} --bogus 3 -j DROP",
            34,
            "--bogus",
        ),
    ] {
        let text = format!("*filter\n:INPUT ACCEPT [0:0]\n{rule}\nCOMMIT\n");
        let refused = parse_rules(&text, Family::V4, &HostNames::default()).unwrap_err();
        let said = refused::json(&Source::new("rules", &text), &refused, Family::V4);
        assert_eq!(
            (said["line"].as_u64(), said["column"].as_u64()),
            (Some(3), Some(column))
        );
        assert!(said["error"].as_str().unwrap().contains(what), "{said}");
    }
    let text = "*filter\n:a - [0:0]\n:b - [0:0]\n-A INPUT -j a\n-A a -j b\n-A b -j a\nCOMMIT\n";
    let refused = parse_rules(text, Family::V4, &HostNames::default()).unwrap_err();
    let said = refused::json(&Source::new("rules", text), &refused, Family::V4);
    assert_eq!(said["error"], "chains jump in a circle: a -> b -> a");
}

/// Every rule of thousands is different: nothing is reported, in seconds.
#[test]
fn many_rules_take_little_time() {
    let mut text = String::from(
        "*filter\n:INPUT DROP [0:0]\n-A INPUT -i lo -j ACCEPT\n\
        -A INPUT -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT\n",
    );
    for i in 0..3000u32 {
        text += &format!(
            "-A INPUT -s 10.{}.{}.0/24 -p tcp -m tcp --dport {} -j ACCEPT\n",
            i / 250,
            i % 250,
            1000 + i % 77
        );
    }
    text += "-A INPUT -s 10.0.1.7/32 -p tcp -m tcp --dport 1001 -j DROP\nCOMMIT\n";
    let found = found(&text, Family::V4);
    let codes: Vec<_> = found.iter().map(|f| f.code).collect();
    assert_eq!(codes, ["TG010"]);
}

/// What a rule's conditions ask for may be missing although there is a connection.
#[test]
fn a_field_that_few_connections_have_takes_nothing_from_the_others() {
    let text = "*filter\n:INPUT ACCEPT [0:0]\n-A INPUT -m helper --helper \"\" -j ACCEPT\n\
        -A INPUT -p tcp -m tcp --dport 22 -m conntrack --ctstate NEW -j ACCEPT\nCOMMIT\n";
    let codes = codes(text);
    assert!(
        !codes.contains(&"TG014") && !codes.contains(&"TG010"),
        "{codes:?}"
    );
}

/// What a target changes in the packet, later rules see.
#[test]
fn rules_behind_a_change_of_the_packet_are_alive() {
    let text = "*mangle\n:FORWARD ACCEPT [0:0]\n\
        -A FORWARD -p tcp -m tcp ! --tcp-option 8 -j ACCEPT\n\
        -A FORWARD -p tcp -j TCPOPTSTRIP --strip-options 8\n\
        -A FORWARD -p tcp -m tcp ! --tcp-option 8 -j DROP\nCOMMIT\n";
    let codes = codes(text);
    assert!(
        !codes
            .iter()
            .any(|c| matches!(*c, "TG010" | "TG012" | "TG014")),
        "{codes:?}"
    );
}

/// A translation is not an ACCEPT.
#[test]
fn an_exception_behind_a_translation_is_not_redundant() {
    let text = "*nat\n:PREROUTING ACCEPT [0:0]\n\
        -A PREROUTING -p tcp -m tcp --dport 80 -j DNAT --to-destination 10.0.0.2\n\
        -A PREROUTING -s 192.0.2.1/32 -p tcp -m tcp --dport 80 -j ACCEPT\nCOMMIT\n";
    let codes = codes(text);
    assert!(
        codes.contains(&"TG010") && !codes.contains(&"TG014"),
        "{codes:?}"
    );
}

/// Rules are said to take all only if the named ones do.
#[test]
fn many_takers_are_not_said_to_be_alike() {
    let mut text =
        String::from("*filter\n:INPUT DROP [0:0]\n-A INPUT -p tcp -m tcp --dport 1 -j DROP\n");
    for port in 2..=7 {
        text += &format!("-A INPUT -p tcp -m tcp --dport {port} -j ACCEPT\n");
    }
    text += "-A INPUT -p tcp -m tcp --dport 1:7 -j ACCEPT\nCOMMIT\n";
    let found = found(&text, Family::V4);
    let dead = found.iter().find(|f| f.code == "TG010").unwrap();
    assert!(
        dead.text.contains("earlier rules, among them"),
        "{}",
        dead.text
    );
}

#[test]
fn rules_behind_one_that_does_the_same_are_redundant() {
    let text = "*filter\n:INPUT ACCEPT [0:0]\n-A INPUT -j DROP\n-A INPUT -p tcp -j DROP\n\
        -A INPUT -p udp -j ACCEPT\nCOMMIT\n";
    let found = found(text, Family::V4);
    let of = |code| found.iter().filter(|f| f.code == code).count();
    assert_eq!((of("TG014"), of("TG010")), (1, 1), "{found:?}");
}

/// What stands in the right table is not told to go there.
#[test]
fn a_helper_that_does_not_exist_is_no_matter_of_the_table() {
    let text = "*raw\n-A PREROUTING -p tcp --dport 21 -j CT --helper nosuch\nCOMMIT\n";
    let source = Source::new("rules", text);
    let refused = parse_rules(text, Family::V4, &HostNames::default()).unwrap_err();
    let said = refused::json(&source, &refused, Family::V4);
    assert_eq!(said["code"], Value::Null, "{said}");
    let text = text.replace("*raw", "*mangle");
    let source = Source::new("rules", &text);
    let refused = parse_rules(&text, Family::V4, &HostNames::default()).unwrap_err();
    assert_eq!(
        refused::json(&source, &refused, Family::V4)["code"],
        "TG041"
    );
}

/// Rules that tell far too much apart for all packets at once: which senders and which receivers are
/// allowed has nothing to do with each other.
fn tangled(count: u32) -> String {
    let mut text = String::from("*filter\n:INPUT DROP [0:0]\n");
    let mut mixed = 12_345u32;
    for i in 0..count {
        mixed = mixed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        let [a, b, c, _] = mixed.to_be_bytes();
        text += &match i % 3 {
            0 => format!("-A INPUT -s {a}.{b}.{c}.0/24 -j DROP\n"),
            1 => format!("-A INPUT -d {a}.{b}.{c}.0/24 -p tcp -j REJECT\n"),
            _ => format!(
                "-A INPUT -p udp -m udp --sport {} -j DROP\n",
                1024 + mixed % 50_000
            ),
        };
    }
    text
}

/// Habits are found where tables are too large to be followed whole.
#[test]
fn large_tables_do_not_silence_habits() {
    let text = tangled(6000)
        + "-A INPUT -p tcp -m tcp --dport 22 -j ACCEPT\n\
           -A INPUT -i eth0 -p tcp -m tcp --sport 80 -j ACCEPT\n\
           -A INPUT -p tcp -m multiport ! --dports 80,443 -j DROP\nCOMMIT\n";
    let loaded = Loaded::parse(&text, "rules", Family::V4).unwrap();
    assert!(
        !Subject::new(&loaded).whole.knows(TableKind::Filter),
        "no large table"
    );
    let found = found(&text, Family::V4);
    let codes: Vec<&str> = found.iter().map(|f| f.code).collect();
    for code in ["TG020", "TG021", "TG064", "TG071", "TG122"] {
        assert!(codes.contains(&code), "{code}: {codes:?}");
    }
    assert!(!codes.contains(&"TG000"), "{codes:?}");
}

/// What several rules take of a rule in a large table is said with the rules that do.
#[test]
fn rules_together_are_named_in_large_tables() {
    let text = tangled(6000)
        + "-A INPUT -p tcp -m tcp --dport 1:1000 -j ACCEPT\n\
           -A INPUT -p tcp -m tcp --dport 900:2000 -j ACCEPT\n\
           -A INPUT -p tcp -m tcp --dport 500:1500 -j DROP\nCOMMIT\n";
    let found = found(&text, Family::V4);
    let dead: Vec<_> = found.iter().filter(|f| f.code == "TG010").collect();
    let dead = dead
        .iter()
        .find(|f| f.place.as_ref().is_some_and(|p| p.number == 6003));
    let by: Vec<u32> = dead.unwrap().others.iter().map(|o| o.0.number).collect();
    assert_eq!(by, [6001, 6002]);
}

/// Where the work is not enough, what is left out is named with the reason, and it ends.
#[test]
fn what_is_left_out_is_named() {
    // Only packets get past these whose source, read backwards, is their destination: a set without
    // a small diagram.
    let mut text = String::from("*filter\n:INPUT DROP [0:0]\n");
    for bit in 0..24 {
        let [src, dst] = [bit, 23 - bit].map(|bit| std::net::Ipv4Addr::from(1u32 << bit));
        text += &format!("-A INPUT -s {src}/{src} -d 0.0.0.0/{dst} -j DROP\n");
        text += &format!("-A INPUT -s 0.0.0.0/{src} -d {dst}/{dst} -j DROP\n");
    }
    for port in 1..=40 {
        text += &format!(
            "-A INPUT -p tcp -m iprange --src-range 10.0.0.1-10.255.255.254 \
             --dst-range 11.0.0.2-11.255.255.253 -m tcp --dport {port} -j ACCEPT\n"
        );
    }
    text += "COMMIT\n";
    let start = std::time::Instant::now();
    let found = found(&text, Family::V4);
    let unknown: Vec<_> = found.iter().filter(|f| f.code == "TG000").collect();
    assert!(!unknown.is_empty(), "nothing was left out");
    for finding in &unknown {
        assert!(finding.text.contains("unknown: "), "{finding:?}");
    }
    // Generous: the work is bounded by steps, and machines are slow at times.
    assert!(start.elapsed().as_secs() < 120, "{:?}", start.elapsed());
}
