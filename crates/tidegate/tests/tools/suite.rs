//! The rule tests of iptables (`*.t`) through the whole program.
//!
//! `RULE;SAVED;OUTCOME`: append, look into the dump, delete.

use std::fs;
use std::path::Path;

use crate::common::{Host, without_dates};

struct Line<'a> {
    number: usize,
    table: &'a str,
    chains: Vec<&'a str>,
    rule: &'a str,
    saved: &'a str,
    outcome: &'a str,
}

fn lines(text: &str) -> Vec<Line<'_>> {
    let (mut chains, mut table, mut out) = (Vec::new(), "filter", Vec::new());
    for (i, line) in text.lines().enumerate() {
        if let Some(list) = line.strip_prefix(':') {
            chains = list.split(',').collect();
        } else if let Some(name) = line.strip_prefix('*') {
            table = name;
        } else if !line.is_empty() && !line.starts_with(['#', '@', '%']) {
            let mut fields: Vec<&str> = line.split(';').collect();
            // Lines that hold for the legacy tools and not for others, or not for them.
            if fields.get(3) == Some(&"NFT") {
                fields[2] = match (fields.get(4), fields[2]) {
                    (Some(other), _) => other,
                    (None, "OK") => "FAIL",
                    (None, _) => "OK",
                };
            }
            out.push(Line {
                number: i + 1,
                table,
                chains: chains.clone(),
                rule: fields[0],
                saved: if fields[1] == "=" {
                    fields[0]
                } else {
                    fields[1]
                },
                outcome: fields[2],
            });
        }
    }
    out
}

fn check(host: &Host, tool: &str, line: &Line<'_>, chain: &str) -> Result<(), String> {
    let place = format!("{chain} -t {}", line.table);
    let run = host.line(&format!("{tool} -A {place} {}", line.rule));
    if line.outcome == "FAIL" {
        return match run.status {
            1 | 2 => Ok(()),
            _ => Err(format!("should be refused: {run:?}")),
        };
    }
    if run.status != 0 {
        return Err(run.err);
    }
    let dump = host.line(&format!("{tool}-save -t {}", line.table)).out;
    let want = format!("-A {chain} {}", line.saved);
    if dump.lines().any(|l| l == want.trim_end()) != (line.outcome == "OK") {
        return Err(format!("want {want}, got {}", without_dates(&dump)));
    }
    let rule = line.rule.replace("-c 2,3 ", "");
    let run = host.line(&format!("{tool} -D {place} {rule}"));
    if run.status != 0 {
        return Err(format!("cannot delete: {}", run.err));
    }
    Ok(())
}

#[test]
fn the_rule_tests_of_iptables_pass() {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("../xt/tests/extensions/iptables-t");
    let mut files: Vec<_> = fs::read_dir(directory)
        .unwrap()
        .flatten()
        .map(|f| f.path())
        .collect();
    files.sort();
    let (mut tests, mut wrong) = (0, Vec::new());
    for file in files {
        let name = file.file_name().unwrap().to_string_lossy().into_owned();
        let tools: &[&str] = match name.split('_').next() {
            Some("libxt" | "iptables.t") => &["iptables", "ip6tables"],
            Some("libip6t") => &["ip6tables"],
            _ => &["iptables"],
        };
        let text = fs::read_to_string(&file).unwrap();
        for tool in tools {
            let host = Host::new();
            for line in lines(&text) {
                for chain in &line.chains {
                    tests += 1;
                    if let Err(why) = check(&host, tool, &line, chain) {
                        wrong.push(format!("{name}:{} {tool} {chain}: {why}", line.number));
                    }
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(tests >= 900, "{tests}");
}
