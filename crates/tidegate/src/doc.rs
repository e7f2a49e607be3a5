//! `tidegate doc`: what matches and targets are for, their options, and a rule that uses
//! them.
//!
//! What is said comes from two places: the extension itself (`tidegate_xt`: options,
//! families, tables) and `doc/guide.toml` (what it is for, an example).

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::Write as _;
use std::path::Path;
use std::sync::LazyLock;

use anyhow::{Context, Result, anyhow, bail};
use serde::Deserialize;
use serde_json::{Value, json};
use tidegate_ir::Hook;
use tidegate_syntax::{Printer, Reader, Ruleset, Table, save, words};
use tidegate_tools::Tool;
use tidegate_wire::Family;
use tidegate_xt::{ALL, Extension, Families, Lower, NoNames};

/// Arguments of `tidegate doc`.
#[derive(Debug, clap::Args)]
#[command(after_help = HELP)]
pub(crate) struct Args {
    /// A match or target; without one, all of them with a line each.
    name: Option<String>,
    /// Print for programs.
    #[arg(long)]
    json: bool,
}

/// What `tidegate doc --help` ends with.
const HELP: &str = "\
Matches have small letters, targets capitals: `doc mark' is -m mark, `doc MARK' is
-j MARK. Every example has been tried.

Examples:
  tidegate doc
  tidegate doc hashlimit
  tidegate doc --json CT

Exit status: 0 done; 1 there is no such match or target; 2 the command line is wrong.";

/// What the guide says about one name.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Topic {
    /// What it is for, in a sentence.
    pub(crate) about: String,
    /// A command that uses it.
    pub(crate) example: String,
    /// What that command achieves.
    pub(crate) why: String,
}

static GUIDE: LazyLock<BTreeMap<String, Topic>> = LazyLock::new(|| {
    // The guide is part of the program, and a test reads it.
    toml::from_str(include_str!("doc/guide.toml")).unwrap_or_default()
});

/// What the guide says about an extension.
pub(crate) fn topic(ext: &Extension) -> Option<&'static Topic> {
    GUIDE.get(ext.name)
}

/// Prints what is asked for.
///
/// # Errors
/// There is no such match or target; output fails.
pub(crate) fn run(args: &Args) -> Result<()> {
    let found = match &args.name {
        Some(name) => named(name)?,
        None => ALL.to_vec(),
    };
    let text = match (args.json, &args.name) {
        (true, _) => {
            let all: Vec<Value> = found.iter().map(|e| as_json(e)).collect();
            format!("{:#}\n", Value::Array(all))
        }
        (false, None) => index(),
        (false, Some(_)) => {
            let pages: Vec<String> = found.iter().map(|e| page(e)).collect();
            pages.join("\n")
        }
    };
    Ok(std::io::stdout().write_all(text.as_bytes())?)
}

/// The extensions of that name: as it is written, or else in whatever letters.
fn named(name: &str) -> Result<Vec<&'static Extension>> {
    let all = |test: &dyn Fn(&str) -> bool| -> Vec<&'static Extension> {
        ALL.iter().copied().filter(|e| test(e.name)).collect()
    };
    let mut found = all(&|n| n == name);
    if found.is_empty() {
        found = all(&|n| n.eq_ignore_ascii_case(name));
    }
    if !found.is_empty() {
        return Ok(found);
    }
    let near = all(&|n| n.to_lowercase().contains(&name.to_lowercase()));
    let near: Vec<&str> = near.iter().map(|e| e.name).collect();
    match near.as_slice() {
        [] => bail!("there is no match or target `{name}'; `tidegate doc' lists all"),
        near => bail!(
            "there is no match or target `{name}'; did you mean {}?",
            near.join(" or ")
        ),
    }
}

pub(crate) const fn is_target(ext: &Extension) -> bool {
    matches!(ext.lower, Lower::Target(_))
}

/// All names with a line each.
fn index() -> String {
    let mut text = String::new();
    for (title, targets) in [("Matches (-m)", false), ("Targets (-j)", true)] {
        let _ = writeln!(text, "{title}");
        let mut last = "";
        for ext in ALL.iter().filter(|e| is_target(e) == targets) {
            if ext.name != last {
                let about = topic(ext).map_or("", |t| t.about.as_str());
                let _ = writeln!(text, "  {:<13} {about}", ext.name);
            }
            last = ext.name;
        }
        text.push('\n');
    }
    text + "`tidegate doc NAME' says more.\n"
}

/// Words about where an extension may be used, as `(what, where)`.
pub(crate) fn places(ext: &Extension) -> Vec<(&'static str, String)> {
    let families = match ext.families {
        Families::Both => "iptables, ip6tables",
        Families::Only(Family::V4) => "iptables",
        Families::Only(Family::V6) => "ip6tables",
    };
    let mut places = vec![("tools", families.to_owned())];
    let mut add = |what, list: Vec<&str>| {
        if !list.is_empty() {
            places.push((what, list.join(", ")));
        }
    };
    add(
        "tables",
        ext.legal.tables.iter().map(|t| t.name()).collect(),
    );
    let hooks: &[Hook] = ext.legal.hooks;
    add("chains", hooks.iter().map(|h| h.chain_name()).collect());
    let known = |&p: &u8| tidegate_xt::names::known_protocol_name(p);
    add(
        "with -p",
        ext.legal.protos.iter().filter_map(known).collect(),
    );
    places
}

/// Everything about one extension.
fn page(ext: &Extension) -> String {
    let flag = if is_target(ext) { "-j" } else { "-m" };
    let mut text = format!("{flag} {}\n", ext.name);
    if let Some(topic) = topic(ext) {
        let _ = writeln!(text, "  {}", topic.about);
    }
    text.push('\n');
    for (what, list) in places(ext) {
        let _ = writeln!(text, "{what:<8} {list}");
    }
    if !ext.options.is_empty() {
        let _ = write!(text, "\n{}", tidegate_xt::help(ext));
    }
    if let Some(topic) = topic(ext) {
        let _ = write!(text, "\nExample:\n  {}\n  {}\n", topic.example, topic.why);
        if let Ok(saved) = saved(&topic.example) {
            let _ = writeln!(text, "Saved as:\n  {saved}");
        }
    }
    text
}

fn as_json(ext: &Extension) -> Value {
    let options: Vec<Value> = ext
        .options
        .iter()
        .map(|o| {
            json!({
                "name": o.name,
                "other_names": o.aliases,
                "arguments": o.arity(),
                "invertible": o.invertible,
                "mandatory": o.mandatory,
                "help": o.help.trim(),
            })
        })
        .collect();
    let topic = topic(ext);
    let places: BTreeMap<_, _> = places(ext).into_iter().collect();
    json!({
        "name": ext.name,
        "kind": if is_target(ext) { "target" } else { "match" },
        "about": topic.map(|t| &t.about),
        "places": places,
        "options": options,
        "example": topic.map(|t| &t.example),
        "why": topic.map(|t| &t.why),
        "saved": topic.and_then(|t| saved(&t.example).ok()),
    })
}

/// The rule that a command line of `iptables` or `ip6tables` makes, as it is saved.
///
/// # Errors
/// The tool refuses it.
fn saved(command: &str) -> Result<String> {
    let words = words::split(command);
    let (tool, words) = words.split_first().context("an empty command")?;
    let tool = Tool::from_name(Path::new(tool.as_ref()).as_os_str()).context("not a tool")?;
    let words: Vec<&str> = words.iter().map(AsRef::as_ref).collect();
    let (family, names) = (tool.family(), &NoNames);
    let refused = |f: tidegate_syntax::Failure| anyhow!(f.render(tool.name(), None));
    let reader = Reader {
        family,
        tool: tool.name(),
        names,
        restoring: None,
    };
    let call = reader.read(&words).map_err(refused)?;
    let mut rules = Ruleset::empty(family);
    tidegate_syntax::run(&mut rules, call, &Printer { family, names }).map_err(refused)?;
    let chains = rules.tables.iter().flat_map(Table::chains);
    let line = chains.flat_map(|c| {
        let one = |r: &tidegate_syntax::Rule| save::rule(&c.name, &r.spec, family, None);
        c.rules.iter().map(one).collect::<Vec<_>>()
    });
    line.last().context("no rule")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every extension is described, and its example makes a rule that uses it.
    #[test]
    fn every_extension_has_an_example_that_works() {
        let guide: BTreeMap<String, Topic> =
            toml::from_str(include_str!("doc/guide.toml")).unwrap();
        for ext in ALL {
            let topic = guide.get(ext.name);
            let topic = topic.unwrap_or_else(|| panic!("{} is not in the guide", ext.name));
            let saved = saved(&topic.example).unwrap_or_else(|e| panic!("{}: {e}", ext.name));
            let flag = if is_target(ext) { "-j" } else { "-m" };
            assert!(
                format!("{saved} ").contains(&format!(" {flag} {} ", ext.name)),
                "{}: {saved}",
                ext.name
            );
        }
    }

    #[test]
    fn names_are_found_in_whatever_letters() {
        let names = |n| named(n).map(|all| all.iter().map(|e| e.name).collect::<Vec<_>>());
        assert_eq!(names("mark").unwrap(), ["mark"]);
        assert_eq!(names("Mark").unwrap(), ["mark", "MARK"]);
        let said = names("rak").unwrap_err().to_string();
        assert!(said.contains("`tidegate doc' lists all"), "{said}");
        let said = names("multi").unwrap_err().to_string();
        assert!(said.contains("did you mean multiport"), "{said}");
    }

    #[test]
    fn a_page_says_where_options_and_an_example() {
        let text = page(named("CT").unwrap()[0]);
        for piece in [
            "-j CT\n",
            "tables   raw\n",
            " --notrack",
            "Example:\n  iptables -t raw",
            "Saved as:\n  -A PREROUTING -p tcp -m tcp --dport 21 -j CT --helper ftp\n",
        ] {
            assert!(text.contains(piece), "{piece:?} in {text}");
        }
    }
}
