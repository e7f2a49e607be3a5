//! `tidegate man`: manual pages, from the commands' own help and the option tables.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result};
use roff::{Roff, bold, italic, roman};
use tidegate_xt::{ALL, Arg, Extension, Opt};

use crate::doc::{is_target, places, topic};

/// Arguments of `tidegate man`.
#[derive(Debug, clap::Args)]
#[command(after_help = HELP)]
pub(crate) struct Args {
    /// Directory for the pages; made if it is not there.
    directory: PathBuf,
}

/// What `tidegate man --help` ends with.
const HELP: &str = "\
Pages are tidegate(1), one for each command such as tidegate-up(1), and
tidegate-extensions(8) with all matches and targets.

Examples:
  tidegate man /usr/local/share/man
  tidegate man /tmp/pages && man -l /tmp/pages/man8/tidegate-extensions.8

Exit status: 0 done; 1 a page cannot be written; 2 the command line is wrong.";

const EXTENSIONS: &str = "tidegate-extensions";

/// Writes the pages.
///
/// # Errors
/// A page cannot be written.
pub(crate) fn run(args: &Args, command: clap::Command) -> Result<()> {
    let place = |section: &str| -> Result<PathBuf> {
        let dir = args.directory.join(section);
        fs::create_dir_all(&dir).with_context(|| dir.display().to_string())?;
        Ok(dir)
    };
    let commands = place("man1")?;
    clap_mangen::generate_to(command, &commands).with_context(|| commands.display().to_string())?;
    let file = place("man8")?.join(format!("{EXTENSIONS}.8"));
    fs::write(&file, extensions()).with_context(|| file.display().to_string())
}

/// The page of all matches and targets.
fn extensions() -> String {
    let mut page = Roff::new();
    page.control("TH", [EXTENSIONS, "8"]);
    page.control("SH", ["NAME"]);
    page.text([roman(format!(
        "{EXTENSIONS} - matches and targets of iptables and ip6tables"
    ))]);
    for (title, targets) in [("MATCHES", false), ("TARGETS", true)] {
        page.control("SH", [title]);
        for ext in ALL.iter().filter(|e| is_target(e) == targets) {
            describe(&mut page, ext);
        }
    }
    page.to_roff()
}

fn describe(page: &mut Roff, ext: &Extension) {
    page.control("SS", [ext.name]);
    let topic = topic(ext);
    if let Some(topic) = topic {
        page.text([roman(topic.about.as_str())]);
    }
    for (what, list) in places(ext) {
        page.control("br", []);
        page.text([roman(format!("{what}: {list}"))]);
    }
    for opt in ext.options {
        page.control("TP", []);
        page.text(synopsis(opt));
        page.text([roman(explanation(opt))]);
    }
    if let Some(topic) = topic {
        page.control("PP", []);
        page.text([bold(topic.example.as_str())]);
        page.control("br", []);
        page.text([roman(topic.why.as_str())]);
    }
}

/// `[!] --name VALUE`
fn synopsis(opt: &Opt) -> Vec<roff::Inline> {
    let mut pieces = Vec::new();
    if opt.invertible {
        pieces.push(roman("[!] "));
    }
    let names: Vec<String> = opt.names().map(|n| format!("--{n}")).collect();
    pieces.push(bold(names.join(", ")));
    if opt.arity() > 0 {
        pieces.push(italic(format!(" {}", value(&opt.arg, opt.arity()))));
    }
    pieces
}

fn value(arg: &Arg, arity: usize) -> String {
    match arg {
        Arg::Flag => String::new(),
        Arg::Int { min, max, .. } => format!("NUMBER ({min} to {max})"),
        Arg::IntRange { max } => format!("NUMBER[:NUMBER] (up to {max})"),
        Arg::Mark => "VALUE[/MASK]".to_owned(),
        Arg::Text { max, .. } => format!("TEXT (up to {max} bytes)"),
        Arg::Name { max } => format!("NAME (up to {max} bytes)"),
        Arg::PortRange => "PORT[:PORT]".to_owned(),
        Arg::OneOf(words) => words.list.iter().map(|w| w.0).collect::<Vec<_>>().join("|"),
        Arg::SetOf(words) => {
            let words: Vec<&str> = words.list.iter().map(|w| w.0).collect();
            format!("LIST of {}", words.join(", "))
        }
        Arg::Network => "ADDRESS[/MASK]".to_owned(),
        Arg::SyslogLevel => "LEVEL".to_owned(),
        Arg::Special { .. } => vec!["VALUE"; arity].join(" "),
    }
}

/// The help text without the option's own name, on one line.
fn explanation(opt: &Opt) -> String {
    let words: Vec<&str> = opt.help.split_whitespace().collect();
    let text = opt.help.trim_start().trim_start_matches("[!]").trim_start();
    // Columns of a help text are apart by tabs or several blanks.
    let apart = text.find('\t').into_iter().chain(text.find("  ")).min();
    match apart {
        Some(at) => text[at..].split_whitespace().collect::<Vec<_>>().join(" "),
        None => words.join(" "),
    }
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use clap::CommandFactory;

    use super::*;

    #[test]
    fn pages_are_written_and_read_without_complaint() {
        let dir = tempfile::tempdir().unwrap();
        let args = Args {
            directory: dir.path().join("man"),
        };
        run(&args, crate::Cli::command()).unwrap();
        let page = dir.path().join("man/man8/tidegate-extensions.8");
        let text = fs::read_to_string(&page).unwrap();
        for piece in [
            "limit\\-burst",
            "PREROUTING",
            "Lets the packet through",
            "LIST of new, related",
        ] {
            assert!(text.contains(piece), "{piece}");
        }
        for name in ["tidegate", "tidegate-up", "tidegate-replay"] {
            assert!(
                dir.path().join(format!("man/man1/{name}.1")).exists(),
                "{name}"
            );
        }
        let read = Command::new("man")
            .args(["--warnings", "-E", "UTF-8", "-l"])
            .arg(&page)
            .output();
        match read {
            Ok(out) if out.status.success() => {
                // Long words do not fill a line; that is a matter of looks.
                let said = String::from_utf8_lossy(&out.stderr);
                let mut said = said.lines().filter(|l| !l.contains("adjust line"));
                assert_eq!(said.next(), None);
                let shown = String::from_utf8_lossy(&out.stdout);
                assert!(shown.contains("MATCHES"), "{shown}");
            }
            _ => eprintln!("SKIPPED: reading the page with man: there is none"),
        }
    }
}
