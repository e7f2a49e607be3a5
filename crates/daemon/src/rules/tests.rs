//! Rules edited by the tools while an engine runs them.

use std::sync::Arc;

use tidegate_engine::env::{Env, IfIndex, Settings};
use tidegate_engine::{Config, Engine};
use tidegate_tools::{HostNames, Printed, Tool};

use super::*;
use crate::plane::{Ears, Idle};

struct Fixture {
    rules: LiveRules,
    plane: Arc<dyn Plane>,
}

fn ears() -> Ears {
    let quiet = tidegate_logs::Config {
        syslog: "".into(),
        ..tidegate_logs::Config::default()
    };
    Ears {
        logs: tidegate_logs::Logs::start(quiet).unwrap().handle(),
        events: Arc::default(),
    }
}

fn fixture() -> Fixture {
    let env = Env::new(Vec::new(), &[], &[], Settings::default());
    let engine = Engine::new(Config::default(), Arc::new(env));
    let plane: Arc<dyn Plane> = Arc::new(Idle::start(engine, ears()).unwrap());
    Fixture {
        rules: LiveRules::new(plane.clone(), TrackWhen::Needed, Box::new(|_| ())),
        plane,
    }
}

impl Fixture {
    fn tool(&self, name: &str, line: &str, input: &str) -> Printed {
        let tool = Tool::from_name(name.as_ref()).unwrap();
        let words: Vec<&str> = line.split_whitespace().collect();
        tool.run(&words, input, &self.rules, &HostNames::default())
    }

    fn iptables(&self, line: &str) {
        let printed = self.tool("iptables", line, "");
        assert_eq!((printed.err.as_str(), printed.status), ("", 0), "{line}");
    }

    /// UDP packets from 192.0.2.1 to 127.0.0.1 by way of loopback's INPUT.
    fn packets(&self, count: usize, port: u16) {
        let [high, low] = port.to_be_bytes();
        let mut packet = vec![
            0x45, 0, 0, 28, 0, 0, 0, 0, 64, 17, 0, 0, 127, 0, 0, 1, 127, 0, 0, 1, 0x30, 0x39, high,
            low, 0, 8, 0, 0,
        ];
        let sum: u32 = packet[..20]
            .chunks(2)
            .map(|w| u32::from(u16::from_be_bytes([w[0], w[1]])))
            .sum();
        let sum = !(((sum & 0xffff) + (sum >> 16)) as u16);
        packet[10..12].copy_from_slice(&sum.to_be_bytes());
        let sent = self.plane.with(move |engine, now| {
            for _ in 0..count {
                engine.send(now, packet.clone(), 0, &mut ());
            }
            engine.env().interface(IfIndex(1)).is_some()
        });
        assert!(sent.unwrap());
    }

    fn saved(&self) -> Vec<String> {
        let text = self.tool("iptables-save", "-c -t filter", "").out;
        let kept = text.lines().filter(|l| !l.starts_with('#'));
        kept.map(str::to_owned).collect()
    }
}

#[test]
fn counters_of_rules_that_stay_go_on() {
    let f = fixture();
    f.iptables("-A INPUT -p udp --dport 1 -j ACCEPT");
    f.iptables("-A INPUT -p udp --dport 2 -j DROP");
    f.packets(3, 1);
    f.packets(2, 2);
    f.iptables("-I INPUT -p udp --dport 9 -j DROP");
    f.packets(1, 2);
    f.iptables("-D INPUT -p udp --dport 1 -j ACCEPT");
    f.packets(4, 2);
    assert_eq!(
        f.saved(),
        [
            "*filter",
            ":INPUT ACCEPT [0:0]",
            ":FORWARD ACCEPT [0:0]",
            ":OUTPUT ACCEPT [10:280]",
            "[0:0] -A INPUT -p udp -m udp --dport 9 -j DROP",
            "[7:196] -A INPUT -p udp -m udp --dport 2 -j DROP",
            "COMMIT",
        ]
    );
}

#[test]
fn zeroed_and_replaced_rules_count_from_nothing() {
    let f = fixture();
    f.iptables("-A INPUT -p udp --dport 1 -j ACCEPT");
    f.iptables("-A INPUT -p udp --dport 2 -j DROP");
    f.packets(3, 1);
    f.packets(2, 2);
    f.iptables("-Z INPUT 2");
    f.iptables("-R INPUT 1 -p udp --dport 1 -j DROP");
    let rules = &f.saved()[4..6];
    assert_eq!(
        rules,
        [
            "[0:0] -A INPUT -p udp -m udp --dport 1 -j DROP",
            "[0:0] -A INPUT -p udp -m udp --dport 2 -j DROP"
        ]
    );
}

#[test]
fn packets_between_look_and_change_are_counted() {
    let f = fixture();
    f.iptables("-A INPUT -p udp --dport 1 -j ACCEPT");
    let mut passed = 0;
    f.rules
        .with(Family::V4, true, &mut |_| {
            f.packets(5, 1);
            passed += 5;
            Ok(true)
        })
        .unwrap();
    assert_eq!(
        f.saved()[4],
        "[5:140] -A INPUT -p udp -m udp --dport 1 -j ACCEPT"
    );
}

#[test]
fn a_refused_restore_changes_nothing() {
    let f = fixture();
    f.iptables("-A INPUT -p udp --dport 1 -j ACCEPT");
    f.packets(2, 1);
    let before = f.saved();
    let refused = f.tool(
        "iptables-restore",
        "",
        "*filter\n:INPUT DROP [0:0]\n-A INPUT -j NOWHERE\nCOMMIT\n",
    );
    assert_ne!(refused.status, 0);
    assert!(refused.err.contains("line: 3"), "{}", refused.err);
    assert_eq!(f.saved(), before);
    f.packets(1, 1);
    assert_eq!(
        f.saved()[4],
        "[3:84] -A INPUT -p udp -m udp --dport 1 -j ACCEPT"
    );
}

#[test]
fn a_limit_goes_on_while_other_tables_change_and_starts_anew_with_its_own() {
    let f = fixture();
    f.iptables("-A INPUT -m limit --limit 1/hour --limit-burst 3 -j ACCEPT");
    f.iptables("-A INPUT -j DROP");
    f.packets(3, 7);
    f.iptables("-t mangle -A INPUT -j MARK --set-mark 1");
    f.packets(2, 7);
    let dropped = |f: &Fixture| f.saved()[5].clone();
    assert_eq!(dropped(&f), "[2:56] -A INPUT -j DROP");
    f.iptables("-A INPUT -p tcp -j ACCEPT");
    f.packets(4, 7);
    assert_eq!(dropped(&f), "[3:84] -A INPUT -j DROP");
}

#[test]
fn a_hundred_callers_lose_nothing() {
    let f = fixture();
    thread::scope(|scope| {
        for caller in 0..100 {
            let f = &f;
            scope.spawn(move || f.iptables(&format!("-A INPUT -s 10.0.0.{caller} -j DROP")));
        }
    });
    assert_eq!(f.rules.count(Family::V4), 100);
}

/// A reload takes both families' files or none.
#[test]
fn rulesets_are_installed_together_or_not_at_all() {
    let plane = fixture().plane;
    let daemon = Fixture {
        rules: LiveRules::new(plane.clone(), TrackWhen::Never, Box::new(|_| ())),
        plane,
    };
    let read = |family, text: &str| {
        tidegate_syntax::parse_rules(text, family, &HostNames::default()).unwrap()
    };
    let good = read(Family::V4, "*filter\n:INPUT DROP [0:0]\nCOMMIT\n");
    let tracks = "*filter\n-A INPUT -m state --state NEW -j ACCEPT\nCOMMIT\n";
    let refused = daemon.rules.install([good, read(Family::V6, tracks)]);
    assert!(refused.is_err());
    assert!(daemon.saved().contains(&":INPUT ACCEPT [0:0]".to_owned()));
}

/// Where the engine keeps the rules in force, and how many counters it has.
fn at_work(f: &Fixture) -> (usize, u32) {
    let seen = f.plane.with(|engine, _| {
        let rules = engine.rules(Family::V4);
        (Arc::as_ptr(rules) as usize, rules.rule_ids)
    });
    seen.unwrap()
}

#[test]
fn single_rules_change_in_their_place() {
    let f = fixture();
    f.iptables("-A INPUT -p udp --dport 1 -j ACCEPT");
    f.iptables("-A INPUT -p udp --dport 2 -j ACCEPT");
    f.packets(1, 1);
    let (place, ids) = at_work(&f);
    f.iptables("-A INPUT -p udp --dport 4 -j DROP");
    f.iptables("-I INPUT 2 -p udp --dport 3 -c 5 140 -j ACCEPT");
    f.packets(2, 3);
    f.packets(3, 4);
    f.iptables("-R INPUT 3 -p udp --dport 6 -j ACCEPT");
    f.iptables("-D INPUT -p udp --dport 1 -j ACCEPT");
    f.packets(4, 6);
    f.packets(1, 1);
    // Two more at a time than at first; of those taken out one was used again, the other
    // after it waits.
    assert_eq!(at_work(&f), (place, ids + 3));
    let rules = [
        "[7:196] -A INPUT -p udp -m udp --dport 3 -j ACCEPT",
        "[4:112] -A INPUT -p udp -m udp --dport 6 -j ACCEPT",
        "[3:84] -A INPUT -p udp -m udp --dport 4 -j DROP",
    ];
    assert_eq!(f.saved()[4..7], rules);
    assert_eq!(f.saved()[1], ":INPUT ACCEPT [1:28]");
    // A chain is made: the whole is loaded anew, and nothing is lost.
    f.iptables("-N other");
    assert_eq!(f.saved()[5..8], rules);
    f.packets(1, 6);
    assert_eq!(
        f.saved()[6],
        "[5:140] -A INPUT -p udp -m udp --dport 6 -j ACCEPT"
    );
}

/// What one command changes depends on more than its rule: such changes are made whole.
#[test]
fn what_ends_a_chain_or_calls_another_is_loaded_whole() {
    let f = fixture();
    f.iptables("-A INPUT -p udp --dport 1 -j ACCEPT");
    f.iptables("-A INPUT -p udp --dport 2 -j ACCEPT");
    f.iptables("-I INPUT 2 -j DROP");
    f.packets(1, 2);
    f.iptables("-D INPUT 2");
    f.packets(2, 2);
    f.iptables("-N other");
    f.iptables("-A other -p udp --dport 2 -j DROP");
    f.iptables("-I INPUT -j other");
    f.packets(3, 2);
    f.iptables("-A other -p udp --dport 1 -j DROP");
    f.packets(4, 1);
    f.iptables("-D INPUT 1");
    f.packets(5, 1);
    assert_eq!(
        f.saved()[5..9],
        [
            "[5:140] -A INPUT -p udp -m udp --dport 1 -j ACCEPT",
            "[2:56] -A INPUT -p udp -m udp --dport 2 -j ACCEPT",
            "[3:84] -A other -p udp -m udp --dport 2 -j DROP",
            "[4:112] -A other -p udp -m udp --dport 1 -j DROP",
        ]
    );
}

/// Commands in any order, good and bad, make the rules that a restore of the outcome
/// makes: they print the same and count the same packets.
#[test]
fn edited_rules_are_those_of_a_restore() {
    let pick = |seed: &mut u64, of: &[&str]| {
        *seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        of[(*seed >> 33) as usize % of.len()].to_owned()
    };
    for start in 0..40 {
        let mut seed = start;
        let edited = fixture();
        edited.iptables("-N other");
        for _ in 0..40 {
            let chain = pick(&mut seed, &["INPUT", "INPUT", "other"]);
            let rule =
                match pick(&mut seed, &["udp", "udp", "udp", "all", "call", "limit"]).as_str() {
                    "all" => String::new(),
                    "call" => "-j other".to_owned(),
                    "limit" => "-m limit --limit 1000/sec -j ACCEPT".to_owned(),
                    _ => "-p udp --dport ".to_owned() + &pick(&mut seed, &["1", "2", "3"]),
                };
            let target = pick(&mut seed, &[" -j ACCEPT", " -j DROP", "", ""]);
            let rule = if rule.contains("-j") {
                rule
            } else {
                rule + &target
            };
            let number = pick(&mut seed, &["1", "2", "3", "9"]);
            let line = match pick(&mut seed, &["A", "A", "I", "In", "R", "D", "Dn", "C"]).as_str() {
                "A" => format!("-A {chain} {rule}"),
                "I" => format!("-I {chain} {rule}"),
                "In" => format!("-I {chain} {number} {rule}"),
                "R" => format!("-R {chain} {number} {rule}"),
                "D" => format!("-D {chain} {rule}"),
                "Dn" => format!("-D {chain} {number}"),
                _ => format!("-C {chain} {rule}"),
            };
            let before = edited.saved();
            let done = edited.tool("iptables", &line, "");
            if done.status != 0 {
                assert_eq!(edited.saved(), before, "{line}: {}", done.err);
            }
        }
        edited.iptables("-Z");
        let restored = fixture();
        let text = edited.saved().join("\n") + "\n";
        let done = restored.tool("iptables-restore", "-c", &text);
        assert_eq!((done.err.as_str(), done.status), ("", 0), "{text}");
        for port in 1..=4 {
            edited.packets(1, port);
            restored.packets(1, port);
        }
        assert_eq!(edited.saved(), restored.saved());
    }
}

/// What let the only connection in: hook, number and text, whether that is gone, and the
/// number of the same words now.
fn passed(f: &Fixture) -> Vec<(String, u32, String, bool, Option<u32>)> {
    let origin = f.plane.with(|engine, now| {
        let (id, _) = engine.conntrack().iter().next()?;
        engine.origin(id, now)
    });
    let origin = origin.unwrap().unwrap();
    let told = f
        .rules
        .unchanging()
        .passed(Family::V4, &origin.passages)
        .into_iter();
    told.map(|p| {
        let rule = p.rule.unwrap();
        (p.hook, rule.number, rule.text, p.gone.is_some(), p.again)
    })
    .collect()
}

/// A policy that has been changed is another one, though its counter goes on; so is a rule in
/// the place of another.
#[test]
fn what_let_a_connection_in_is_told_as_it_was() {
    let f = fixture();
    f.iptables("-A INPUT -m conntrack --ctstate INVALID -j DROP");
    f.iptables("-A OUTPUT -p udp --dport 5 -j ACCEPT");
    f.packets(1, 5);
    let told = |input: (&str, bool, Option<u32>), output: (u32, &str, bool, Option<u32>)| {
        vec![
            (
                "OUTPUT".to_owned(),
                output.0,
                output.1.to_owned(),
                output.2,
                output.3,
            ),
            ("INPUT".to_owned(), 0, input.0.to_owned(), input.1, input.2),
        ]
    };
    let rule = "-A OUTPUT -p udp -m udp --dport 5 -j ACCEPT";
    let accept = "-P INPUT ACCEPT";
    assert_eq!(
        passed(&f),
        told((accept, false, None), (1, rule, false, None))
    );
    f.iptables("-P INPUT DROP");
    assert_eq!(
        passed(&f),
        told((accept, true, None), (1, rule, false, None))
    );
    f.iptables("-I OUTPUT -p tcp -j ACCEPT");
    assert_eq!(
        passed(&f),
        told((accept, true, None), (2, rule, false, None))
    );
    f.iptables("-R OUTPUT 2 -p udp --dport 6 -j ACCEPT");
    assert_eq!(
        passed(&f),
        told((accept, true, None), (2, rule, true, None))
    );
    f.iptables("-A OUTPUT -p udp --dport 5 -j ACCEPT");
    f.iptables("-P INPUT ACCEPT");
    assert_eq!(
        passed(&f),
        told((accept, true, Some(0)), (2, rule, true, Some(3)))
    );
}
