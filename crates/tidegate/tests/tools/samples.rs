//! A long ruleset, rule by rule, and what iptables 1.8.13 printed for it.

use std::collections::BTreeMap;

use crate::common::{Host, data, lacks_extension};

/// Rules that the real tool took, per table and chain: whether this one has their
/// extensions.
type Known = BTreeMap<(String, String), Vec<bool>>;

/// Applies the sample rules one by one.
fn apply(host: &Host, tool: &str, file: &str) -> Known {
    host.lines(&[
        &format!("{tool} -P FORWARD DROP"),
        &format!("{tool} -N mychain"),
    ]);
    let mut known = Known::new();
    for line in data(file).lines().filter(|l| !l.starts_with('#')) {
        let [table, chain, rule] = line.splitn(3, '|').collect::<Vec<_>>()[..] else {
            panic!("{line}");
        };
        let run = host.line(&format!("{tool} -t {table} -A {chain} {rule}"));
        if rule.contains("-o ! wg+") {
            assert_eq!(run.status, 2, "`!` after the option is refused");
            continue;
        }
        let lacking = lacks_extension(&run.err);
        assert!(run.status == 0 || lacking, "{rule}: {}", run.err);
        let key = (table.to_owned(), chain.to_owned());
        known.entry(key).or_default().push(!lacking);
    }
    known
}

/// Lines of a dump that belong to rules the tool has; headings always do.
fn keep_dump(dump: &str, table: Option<&str>, known: &Known) -> Vec<String> {
    let mut table = table.unwrap_or("").to_owned();
    let mut seen: BTreeMap<(String, String), usize> = BTreeMap::new();
    let mut kept = Vec::new();
    for line in dump.lines().filter(|l| !l.starts_with('#')) {
        if let Some(name) = line.strip_prefix('*') {
            name.clone_into(&mut table);
        }
        if let Some((_, rest)) = line.split_once("-A ") {
            let chain = rest.split(' ').next().unwrap_or("");
            let key = (table.clone(), chain.to_owned());
            let index = seen.entry(key.clone()).or_default();
            *index += 1;
            if !known[&key][*index - 1] {
                continue;
            }
        }
        kept.push(line.to_owned());
    }
    kept
}

/// The same for a listing of one table; rule numbers are cut off.
fn keep_listing(listing: &str, table: &str, numbers: bool, known: &Known) -> Vec<String> {
    let mut kept = Vec::new();
    let mut rules: &[bool] = &[];
    let mut row = 0;
    for line in listing.lines() {
        if let Some(rest) = line.strip_prefix("Chain ") {
            let chain = rest.split(' ').next().unwrap_or("");
            let found = known.get(&(table.to_owned(), chain.to_owned()));
            rules = found.map_or(&[], Vec::as_slice);
            row = 0;
        }
        let heading = line.is_empty() || line.starts_with("Chain ") || line.contains("prot opt");
        if heading {
            kept.push(line.to_owned());
            continue;
        }
        row += 1;
        if rules[row - 1] {
            kept.push(line[if numbers { 5 } else { 0 }..].to_owned());
        }
    }
    kept
}

/// Rules that are known, as [`Known`] of our own output.
fn ours(known: &Known) -> Known {
    let only = |list: &Vec<bool>| list.iter().copied().filter(|&k| k).collect();
    known.iter().map(|(k, v)| (k.clone(), only(v))).collect()
}

fn compare(host: &Host, line: &str, file: &str, table: Option<&str>, known: &Known) -> usize {
    let run = host.line(line);
    assert_eq!(run.status, 0, "{line}: {}", run.err);
    let want = data(&format!("samples/{file}"));
    let (got, want) = if line.contains(" -L") {
        let numbers = line.contains("--line-numbers");
        let table = table.unwrap_or("filter");
        (
            keep_listing(&run.out, table, numbers, &ours(known)),
            keep_listing(&want, table, numbers, known),
        )
    } else {
        (
            keep_dump(&run.out, table, &ours(known)),
            keep_dump(&want, table, known),
        )
    };
    for (g, w) in got.iter().zip(&want) {
        assert_eq!(g, w, "{line}");
    }
    assert_eq!(got.len(), want.len(), "{line}");
    want.len()
}

#[test]
fn ipv4_rules_print_as_by_iptables() {
    let host = Host::new();
    host.lines(&["ipset create myset hash:ip"]);
    let known = apply(&host, "iptables", "samples/rules_v4.txt");
    let mut lines = 0;
    for (line, file, table) in [
        ("iptables-save", "v4.save.txt", None),
        ("iptables-save -c", "v4.save_c.txt", None),
        ("iptables -S", "v4.filter.S.txt", Some("filter")),
        ("iptables -L -n", "v4.filter.L_n.txt", Some("filter")),
        ("iptables -L -nvx", "v4.filter.L_nvx.txt", Some("filter")),
        (
            "iptables -L -n -v --line-numbers",
            "v4.filter.L_n_v_linenumbers.txt",
            Some("filter"),
        ),
        ("iptables -t nat -S", "v4.nat.S.txt", Some("nat")),
        (
            "iptables -t nat -L -n -v --line-numbers",
            "v4.nat.L_n_v_linenumbers.txt",
            Some("nat"),
        ),
    ] {
        lines += compare(&host, line, file, table, &known);
    }
    assert!(lines >= 400, "{lines}");
}

#[test]
fn ipv6_rules_print_as_by_ip6tables() {
    let host = Host::new();
    let known = apply(&host, "ip6tables", "samples/rules_v6.txt");
    host.lines(&["ip6tables -t raw -F"]);
    let mut lines = 0;
    for (line, file, table) in [
        ("ip6tables-save", "v6.save.txt", None),
        ("ip6tables -S", "v6.filter.S.txt", Some("filter")),
        (
            "ip6tables -L -n -v --line-numbers",
            "v6.filter.L_n_v_linenumbers.txt",
            Some("filter"),
        ),
    ] {
        lines += compare(&host, line, file, table, &known);
    }
    assert!(lines >= 60, "{lines}");
}

/// The sample holds the help of one extension after the other, each behind the tool's own.
#[test]
fn help_prints_as_by_iptables() {
    let host = Host::new();
    let samples = data("samples/help_matches.txt");
    let general = host.run(&["iptables", "-h"]).out;
    let icmp = host.run(&["iptables", "-p", "icmp", "-h"]).out;
    assert_eq!(
        icmp.strip_prefix(&format!("{general}\n")),
        Some(&*data("samples/help_icmp.txt"))
    );
    let helps = ["tcp", "conntrack", "multiport", "limit"].map(|name| {
        let run = host.run(&["iptables", "-m", name, "-h"]);
        assert_eq!((run.status, run.err.as_str()), (0, ""));
        run.out
    });
    assert_eq!(helps.concat(), samples);
}

/// A session on chains without rules; counters that need letters behind them.
#[test]
fn empty_chains_print_as_by_iptables() {
    let host = Host::new();
    let rules = data("samples/empty_save.txt").replace(
        ":INPUT ACCEPT [0:0]\n:FORWARD DROP [0:0]\n:OUTPUT ACCEPT [0:0]",
        COUNTED,
    );
    assert_eq!(host.feed(&["iptables-restore", "-c"], &rules).status, 0);
    let mut commands = 0;
    for step in data("samples/empty.txt").split("$ ").skip(1) {
        let (line, rest) = step.split_once('\n').unwrap();
        let (want, _) = rest.split_once("[rc=0]").unwrap();
        let run = host.line(line);
        assert_eq!((run.status, run.out.as_str()), (0, want), "{line}");
        commands += 1;
    }
    assert_eq!(commands, 13);
    // The session ends with everything zeroed; the tables' rules are another table's.
    let zeroed = data("samples/empty_save.txt");
    let ours = host.run(&["iptables-save", "-c"]).out;
    let plain = |text: &str| -> Vec<String> {
        let tables = text.split_inclusive("COMMIT\n").map(|table| {
            let lines = table.lines().filter(|l| !l.starts_with('#'));
            lines.map(|l| l.replace("[0:0] -A", "-A") + "\n").collect()
        });
        let mut tables: Vec<String> = tables.collect();
        tables.sort();
        tables
    };
    assert_eq!(plain(&ours), plain(&zeroed));
}

/// Policies of the session, with what they had counted.
const COUNTED: &str = ":INPUT ACCEPT [99999:99999]
:FORWARD DROP [100000:100000]
:OUTPUT ACCEPT [123456789012345:9999999999999999]";
