//! Every extension against its own cases and vectors, and the iptables test suite.

mod common;
mod errors;
mod kernel;
mod meaning;
mod random;

use tidegate_ir::{Hook, TableKind, Truth, eval};
use tidegate_wire::Family;
use tidegate_xt::{ALL, Case, Expect, Hit, find_match, help};

/// What is wrong with a case, if anything.
fn fault(family: Family, place: (TableKind, Hook), rule: &str, expect: Expect) -> Option<String> {
    let parsed = common::parse(family, place, rule);
    let wanted = match expect {
        Expect::Fail => return parsed.ok().map(|_| format!("accepted: {rule}")),
        Expect::Same => rule,
        Expect::Saved(form) => form,
    };
    let parsed = match parsed {
        Ok(parsed) => parsed,
        Err(e) => return Some(format!("refused: {rule}: {e:?}")),
    };
    let saved = common::save(&parsed, family);
    if saved != wanted {
        return Some(format!("{rule}\n  saved  {saved}\n  wanted {wanted}"));
    }
    match common::parse(family, place, &saved) {
        Ok(again) if again == parsed => None,
        Ok(_) => Some(format!("not the same rule when read again: {saved}")),
        Err(e) => Some(format!("cannot be read again: {saved}: {e:?}")),
    }
}

#[test]
fn cases_are_read_and_saved_as_written() {
    let all: Vec<&Case> = ALL.iter().flat_map(|e| e.cases).collect();
    assert!(all.len() > 300, "{}", all.len());
    let faults: Vec<_> = all
        .iter()
        .filter_map(|c| fault(c.family, c.place, c.rule, c.expect))
        .collect();
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

#[test]
fn vectors_match_as_in_the_kernel() {
    let mut faults = Vec::new();
    for v in ALL.iter().flat_map(|e| e.vectors) {
        let packet = common::Packet::new(v.packet, v.facts, Vec::new());
        let family = packet.family();
        // Where the kernel takes it.
        let hooks = [Hook::Prerouting, Hook::Output, Hook::Input];
        let parsed = hooks.map(|hook| common::parse(family, (TableKind::Mangle, hook), v.rule));
        let rule = parsed.into_iter().reduce(Result::or);
        let rule = rule
            .expect("hooks")
            .unwrap_or_else(|e| panic!("{}: {e:?}", v.rule));
        let (cond, steps) = common::condition(&rule, family);
        let mut packet = common::Packet::new(v.packet, v.facts, steps);
        let hit = match eval(&cond, &mut packet, &mut ()) {
            Truth::True => Hit::Yes,
            Truth::False => Hit::No,
            Truth::Hotdrop | Truth::HotdropTaken => Hit::Drop,
        };
        if hit != v.hit {
            faults.push(format!("{} on {}: {hit:?}", v.rule, v.packet));
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

#[test]
fn every_extension_is_proved_and_explained() {
    for ext in ALL {
        assert!(!ext.cases.is_empty(), "{} has no case", ext.name);
        let text = help(ext);
        // Of some options the tool's own help says nothing.
        for opt in ext.options.iter().filter(|o| !o.help.is_empty()) {
            assert!(
                text.contains(opt.name) || opt.help.is_empty(),
                "{}: --{} unexplained",
                ext.name,
                opt.name
            );
            assert!(ext.options.len() < 32);
        }
    }
}

/// A line of a `.t` file, if it is a rule.
fn suite_case(line: &'static str) -> Option<(&'static str, Expect)> {
    if line.starts_with(['#', ':', '*', '@']) || line.trim().is_empty() {
        return None;
    }
    let mut parts = line.split(';');
    let (rule, form, end) = (parts.next()?, parts.next()?, parts.next()?);
    let expect = match (form, end) {
        (_, "FAIL") => Expect::Fail,
        ("=", _) => Expect::Same,
        (form, _) => Expect::Saved(form),
    };
    Some((rule, expect))
}

fn suite(name: &str, text: &'static str) -> (usize, Vec<String>) {
    let families = match name.get(..6) {
        Some("libipt") => vec![Family::V4],
        Some("libip6") => vec![Family::V6],
        _ => vec![Family::V4, Family::V6],
    };
    let table = text.lines().find_map(|l| l.strip_prefix('*'));
    let table = TableKind::from_name(table.unwrap_or("filter")).expect("a table");
    let (mut count, mut faults) = (0, Vec::new());
    let mut hooks: Vec<Hook> = Vec::new();
    for line in text.lines() {
        if let Some(chains) = line.strip_prefix(':') {
            let named = |c: &str| Hook::ALL.into_iter().find(|h| h.chain_name() == c);
            hooks = chains.split(',').filter_map(named).collect();
        }
        let Some((rule, expect)) = suite_case(line) else {
            continue;
        };
        // `-i` belongs to the rule itself, not to an extension.
        if rule.contains("-i ") {
            continue;
        }
        for &hook in &hooks {
            for &family in &families {
                count += 1;
                let fault = fault(family, (table, hook), rule, expect);
                faults.extend(fault.map(|f| format!("{name}: {f}")));
            }
        }
    }
    (count, faults)
}

macro_rules! suite_files {
    ($($name:literal),* $(,)?) => {
        [$(($name, include_str!(concat!("iptables-t/", $name, ".t")))),*]
    };
}

#[test]
fn the_iptables_suite_holds() {
    let files = suite_files![
        "libip6t_DNAT",
        "libip6t_LOG",
        "libip6t_MASQUERADE",
        "libip6t_REJECT",
        "libip6t_conntrack",
        "libip6t_icmp6",
        "libipt_DNAT",
        "libipt_LOG",
        "libipt_MASQUERADE",
        "libipt_REJECT",
        "libipt_conntrack",
        "libipt_icmp",
        "libxt_CT",
        "libxt_MARK",
        "libxt_NOTRACK",
        "libxt_comment",
        "libxt_connmark",
        "libxt_conntrack",
        "libxt_hashlimit",
        "libxt_limit",
        "libxt_mark",
        "libxt_multiport",
        "libxt_owner",
        "libxt_standard",
        "libxt_state",
        "libxt_string",
        "libxt_tcp",
        "libxt_udp",
    ];
    let mut total = 0;
    let mut faults = Vec::new();
    for (name, text) in files {
        let (count, some) = suite(name, text);
        assert!(count > 0, "{name} has no rules");
        total += count;
        faults.extend(some);
    }
    assert!(
        faults.is_empty(),
        "{} of {total}:\n{}",
        faults.len(),
        faults.join("\n")
    );
}

#[test]
fn the_help_of_the_core_matches_is_the_tools() {
    let texts = [
        ("tcp", include_str!("help/tcp.txt")),
        ("conntrack", include_str!("help/conntrack.txt")),
        ("multiport", include_str!("help/multiport.txt")),
        ("limit", include_str!("help/limit.txt")),
        ("icmp", include_str!("help/icmp.txt")),
    ];
    for (name, text) in texts {
        let ext = find_match(name, Family::V4).expect(name);
        assert_eq!(help(ext), text);
    }
}
