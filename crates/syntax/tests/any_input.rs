//! Whatever is typed: no panic, and what is accepted prints as something that means
//! the same.

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;
use tidegate_syntax::{Command, Reader, lower, parse_rules, save};
use tidegate_wire::Family;
use tidegate_xt::NoNames;

const WORDS: &[&str] = &[
    "-A",
    "-I",
    "-D",
    "-R",
    "-C",
    "-L",
    "-S",
    "-N",
    "-P",
    "-E",
    "-X",
    "-Z",
    "-F",
    "-t",
    "nat",
    "INPUT",
    "FORWARD",
    "mine",
    "-s",
    "-d",
    "-i",
    "-o",
    "-p",
    "-f",
    "-m",
    "-j",
    "-g",
    "-c",
    "-n",
    "-v",
    "-x",
    "!",
    "1",
    "0",
    "-1",
    "1,2",
    "10.0.0.0/8",
    "10.0.0.0/255.0.255.0",
    "1.2.3.4,5.6.7.8",
    "::1",
    "fe80::/10",
    "tcp",
    "udp",
    "icmp",
    "all",
    "47",
    "eth0",
    "eth+",
    "+",
    "conntrack",
    "limit",
    "multiport",
    "comment",
    "--dport",
    "--sports",
    "22",
    "22:80",
    ":",
    "--syn",
    "--tcp-flags",
    "SYN,ACK",
    "--ctstate",
    "NEW",
    "--limit",
    "5/sec",
    "--comment",
    "two words",
    "\"",
    "\\",
    "--",
    "-",
    "",
    "ACCEPT",
    "DROP",
    "LOG",
    "NFLOG",
    "--nflog-range",
    "--nflog-prefix",
    "SNAT",
    "--to-source",
    "1.1.1.1:5-6",
    "REJECT",
    "--reject-with",
    "tcp-reset",
    "--log-prefix",
    "é",
    "--d",
    "--s=1",
];

/// Options with good arguments; blanks separate the words.
const PHRASES: &[&str] = &[
    "-s 10.0.0.0/8",
    "! -d 10.0.0.0/255.0.255.0",
    "-s 1.2.3.4,5.6.7.8",
    "-s ::1",
    "! -i eth+",
    "-o wg0",
    "-i et\"h",
    "-p tcp",
    "! -p udp",
    "-p 47",
    "! -f",
    "-m tcp ! --dport 22:80",
    "-m multiport --sports 1,2,30:40",
    "-m conntrack --ctstate NEW,RELATED",
    "-m limit --limit 5/min",
    "-m comment --comment it's",
    "-m comment --comment \\\"",
    "-c 5 6",
    "-j LOG --log-prefix é\\",
    "-j ACCEPT",
    "-j REJECT --reject-with tcp-reset",
    "-g mine",
    "-j mine",
    "-j mi\"ne",
    "-g \"",
];

fn line() -> impl Strategy<Value = Vec<String>> {
    let split = |phrase: &str| phrase.split(' ').map(str::to_owned).collect::<Vec<_>>();
    let piece = prop_oneof![
        20 => select(PHRASES).prop_map(split),
        3 => select(WORDS).prop_map(|w| vec![w.to_owned()]),
        1 => "\\PC{0,12}".prop_map(|w| vec![w]),
    ];
    (any::<bool>(), vec(piece, 0..6)).prop_map(move |(append, mut pieces)| {
        if append {
            pieces.insert(0, split("-A FORWARD"));
        }
        pieces.concat()
    })
}

fn family() -> impl Strategy<Value = Family> {
    select(vec![Family::V4, Family::V6])
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4000))]

    #[test]
    fn what_is_accepted_prints_as_the_same_rule(words in line(), family in family()) {
        let reader = Reader { family, tool: "iptables", names: &NoNames, restoring: None };
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        let Ok(call) = reader.read(&words) else { return Ok(()) };
        let Command::Rules { rules, .. } = call.command else { return Ok(()) };
        for spec in rules {
            let text = save::rule("FORWARD", &spec, family, None);
            let cut = tidegate_syntax::words::split(&text);
            let cut: Vec<&str> = cut.iter().map(AsRef::as_ref).collect();
            let again = reader.read(&cut);
            let Ok(Command::Rules { rules: again, .. }) = again.map(|c| c.command) else {
                return Err(TestCaseError::fail(text.clone()));
            };
            prop_assert_eq!(again, vec![spec]);
        }
    }

    #[test]
    fn any_file_is_read_or_refused(lines in vec(line(), 0..6), family in family()) {
        let mut text = "*filter\n:mine - [0:0]\n".to_owned();
        for words in lines {
            text += &words.join(" ");
            text.push('\n');
        }
        text += "COMMIT\n";
        if let Ok(rules) = parse_rules(&text, family, &NoNames) {
            let once = save::plain(&rules);
            let again = parse_rules(&once, family, &NoNames);
            prop_assert_eq!(again.map(|r| save::plain(&r)), Ok(once));
            let lowered = lower(&rules);
            prop_assert!(lowered.is_ok());
        }
    }

    #[test]
    fn any_text_is_read_or_refused(text in "(\\*filter\n)?[-:*#A-Z \\[\\]\"\\\\\n]{0,80}(COMMIT\n)?") {
        let _ = parse_rules(&text, Family::V4, &NoNames);
    }
}
