//! `tidegate completions`: what shells need to complete commands.
//!
//! The program's own commands are clap's business. For iptables and ip6tables a table of
//! words is made from the option tables, and a function looks into it: what may follow
//! depends on the matches and the target that are on the line already.

use std::fmt::Write as _;
use std::io::Write as _;

use anyhow::Result;
use clap_complete::Shell;
use tidegate_ir::TableKind;
use tidegate_syntax::long_options;
use tidegate_wire::Family;
use tidegate_xt::{ALL, Extension};

use crate::doc::{is_target, topic};

/// Arguments of `tidegate completions`.
#[derive(Debug, clap::Args)]
#[command(after_help = HELP)]
pub(crate) struct Args {
    /// The shell.
    shell: Shell,
}

/// What `tidegate completions --help` ends with.
const HELP: &str = "\
bash, zsh and fish learn the words of iptables and ip6tables as well.

Examples:
  tidegate completions bash > /etc/bash_completion.d/tidegate
  tidegate completions zsh > ~/.zsh/tidegate && echo 'source ~/.zsh/tidegate' >> ~/.zshrc
  tidegate completions fish > ~/.config/fish/completions/tidegate.fish

Exit status: 0 done; 2 the command line is wrong.";

const TOOLS: [(&str, Family); 2] = [("iptables", Family::V4), ("ip6tables", Family::V6)];

/// The function that bash calls, and zsh in bash's manner.
const BASH: &str = include_str!("completions/iptables.bash");

/// Prints the script.
///
/// # Errors
/// Output fails.
pub(crate) fn run(args: &Args, mut command: clap::Command) -> Result<()> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut command, "tidegate", &mut script);
    let tools = match args.shell {
        Shell::Bash => bash(),
        Shell::Zsh => format!("autoload -U +X bashcompinit && bashcompinit\n{}", bash()),
        Shell::Fish => fish(),
        _ => String::new(),
    };
    script.extend(tools.as_bytes());
    Ok(std::io::stdout().write_all(&script)?)
}

fn of(family: Family) -> impl Iterator<Item = &'static Extension> {
    ALL.iter()
        .copied()
        .filter(move |e| e.families.contains(family))
}

fn joined<'a>(words: impl Iterator<Item = &'a str>) -> String {
    words.collect::<Vec<_>>().join(" ")
}

fn options(ext: &Extension) -> String {
    let names = ext.options.iter().flat_map(tidegate_xt::Opt::names);
    names
        .map(|n| format!("--{n}"))
        .collect::<Vec<_>>()
        .join(" ")
}

/// The words, as a bash function that knows them, and [`BASH`].
fn bash() -> String {
    let mut text = String::from("\n_tidegate_words() {\n  case \"$1\" in\n");
    let mut row = |key: &str, words: &str| {
        let _ = writeln!(text, "    '{key}') echo '{words}' ;;");
    };
    let own: Vec<String> = long_options()
        .map(|(name, _)| format!("--{name}"))
        .collect();
    row("own", &own.join(" "));
    row("tables", &joined(TableKind::ALL.iter().map(|t| t.name())));
    for (tool, family) in TOOLS {
        for (kind, targets) in [("-m", false), ("-j", true)] {
            let all = || of(family).filter(|e| is_target(e) == targets);
            row(&format!("{tool} {kind}"), &joined(all().map(|e| e.name)));
            for ext in all().filter(|e| !e.options.is_empty()) {
                row(&format!("{tool} {kind} {}", ext.name), &options(ext));
            }
        }
    }
    text + "  esac\n}\n" + BASH
}

/// Words with their descriptions.
fn fish() -> String {
    let mut text = String::new();
    let quoted = |s: &str| format!("'{}'", s.replace('\\', "\\\\").replace('\'', "\\'"));
    for (tool, family) in TOOLS {
        for (name, letter) in long_options() {
            let short = match letter.is_ascii_alphabetic() {
                true => format!(" -s {letter}"),
                false => String::new(),
            };
            let _ = writeln!(text, "complete -c {tool} -l {name}{short}");
        }
        for (kind, targets) in [("m", false), ("j", true)] {
            for ext in of(family).filter(|e| is_target(e) == targets) {
                let about = topic(ext).map_or("", |t| t.about.as_str());
                let words = quoted(&format!("{}\t{about}", ext.name));
                let _ = writeln!(text, "complete -c {tool} -s {kind} -x -a {words}");
                for name in ext.options.iter().flat_map(tidegate_xt::Opt::names) {
                    let seen = quoted(&format!("contains -- {} (commandline -o)", ext.name));
                    let _ = writeln!(text, "complete -c {tool} -n {seen} -l {name}");
                }
            }
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    /// What bash offers after the words; the last one is being typed.
    fn offered(line: &[&str]) -> Option<Vec<String>> {
        let words: Vec<String> = line.iter().map(|w| format!("'{w}'")).collect();
        let script = format!(
            "{}\nCOMP_WORDS=({}); COMP_CWORD={}; _tidegate_iptables; echo \"${{COMPREPLY[@]}}\"",
            bash(),
            words.join(" "),
            line.len() - 1
        );
        let run = Command::new("bash")
            .args(["--norc", "-c", &script])
            .output();
        let Ok(run) = run else {
            eprintln!("SKIPPED: completion in bash: there is no bash");
            return None;
        };
        assert!(
            run.status.success(),
            "{}",
            String::from_utf8_lossy(&run.stderr)
        );
        let out = String::from_utf8(run.stdout).unwrap();
        Some(out.split_whitespace().map(str::to_owned).collect())
    }

    #[test]
    fn bash_completes_by_what_is_on_the_line() {
        for (line, expected) in [
            (
                &["iptables", "-A", "INPUT", "-m", "lim"][..],
                &["limit"][..],
            ),
            (&["iptables", "-m", "limit", "--limit-"], &["--limit-burst"]),
            (&["iptables", "-p", "tcp", "--tcp-f"], &["--tcp-flags"]),
            (&["iptables", "-j", "REJ"], &["REJECT"]),
            (&["iptables", "-j", "REJECT", "--rej"], &["--reject-with"]),
            (&["iptables", "-t", "n"], &["nat"]),
            (&["iptables", "--line"], &["--line-numbers"]),
            (&["iptables", "-m", "hl"], &[]),
            (&["ip6tables", "-m", "hl"], &["hl"]),
            (
                &["/usr/sbin/ip6tables", "-j", "REJECT", "--rej"],
                &["--reject-with"],
            ),
            (&["iptables", "-A", "INPUT", "--limit"], &[]),
        ] {
            if let Some(words) = offered(line) {
                assert_eq!(words, expected, "{line:?}");
            }
        }
    }

    #[test]
    fn fish_names_every_match_with_what_it_is_for() {
        let text = fish();
        assert!(text.contains("complete -c iptables -s m -x -a 'limit\tMatches only so often"));
        assert!(
            text.contains(
                "complete -c ip6tables -n 'contains -- LOG (commandline -o)' -l log-prefix"
            )
        );
        assert!(!text.contains("complete -c iptables -s m -x -a 'hl\t"));
    }
}
