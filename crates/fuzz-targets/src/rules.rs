//! Any text as a rules file, or as command lines.

use tidegate_syntax::{
    Chain, Printer, Reader, Ruleset, Spec, lower, parse_rules, run, save, words,
};
use tidegate_wire::Family;
use tidegate_xt::NoNames;

/// Most command lines of one input: each may copy the ruleset.
const MAX_LINES: usize = 40;

/// A rules file that is read prints as a file that is read as the same rules, and can
/// be listed and lowered.
pub fn rules(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    for family in [Family::V4, Family::V6] {
        match parse_rules(&text, family, &NoNames) {
            Ok(rules) => {
                stays_itself(&rules);
                list(&rules);
            }
            Err(refused) => assert!(!refused.render("iptables-restore").is_empty()),
        }
    }
}

/// The same holds for the rules that command lines make, one after another; a file may
/// stand before them.
pub fn commands(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let (file, lines) = match text.rfind("COMMIT\n") {
        Some(at) => text.split_at(at + "COMMIT\n".len()),
        None => ("", &*text),
    };
    for family in [Family::V4, Family::V6] {
        let start = parse_rules(file, family, &NoNames);
        command_lines(start.unwrap_or_else(|_| Ruleset::empty(family)), lines);
    }
}

fn stays_itself(rules: &Ruleset) {
    let saved = save::plain(rules);
    let again = match parse_rules(&saved, rules.family, &NoNames) {
        Ok(again) => again,
        Err(e) => panic!("what was saved is refused: {e}\n{saved}"),
    };
    assert_eq!(save::plain(&again), saved, "saved, read and saved again");
    for (a, b) in rules.tables.iter().zip(&again.tables) {
        for (a, b) in a.chains().zip(b.chains()) {
            let specs = |c: &Chain| -> Vec<_> {
                let specs = c.rules.iter().map(|r| r.spec.clone());
                specs.filter(|s| !is_rounded(s, rules.family)).collect()
            };
            assert_eq!(specs(a), specs(b), "the rules changed\n{saved}");
        }
    }
    if let Ok(lowered) = lower(rules) {
        assert_eq!(lowered.ruleset.rule_ids as usize, lowered.origin.len());
    }
}

/// Whether the rule has a rate, which iptables may print rounded: what is read again is then
/// another one, of the same text.
fn is_rounded(spec: &Spec, family: Family) -> bool {
    let text = save::rule("", spec, family, None);
    text.contains("--limit ") || text.contains("--hashlimit-")
}

/// Every table listed as `-L -n -v --line-numbers` does.
fn list(rules: &Ruleset) {
    for table in &rules.tables {
        let mut copy = rules.clone();
        let name = table.kind.name();
        execute(&mut copy, &["-t", name, "-L", "-n", "-v", "--line-numbers"])
            .expect("what was read can be listed");
    }
}

/// Carries out one command line; `None` when it is refused.
fn execute(rules: &mut Ruleset, args: &[&str]) -> Option<String> {
    let family = rules.family;
    let reader = Reader {
        family,
        tool: "iptables",
        names: &NoNames,
        restoring: None,
    };
    let printer = Printer {
        family,
        names: &NoNames,
    };
    let refused = |f: tidegate_syntax::Failure| assert!(!f.render("iptables", None).is_empty());
    let call = reader.read(args).map_err(refused).ok()?;
    run(rules, call, &printer).map_err(refused).ok()
}

/// A refused command changes nothing; what the others made must stay itself.
fn command_lines(mut rules: Ruleset, text: &str) {
    for line in text.lines().take(MAX_LINES) {
        let cut = words::split(line);
        let args: Vec<&str> = cut.iter().map(AsRef::as_ref).collect();
        let mut tried = rules.clone();
        if execute(&mut tried, &args).is_some() {
            rules = tried;
        }
    }
    stays_itself(&rules);
}
