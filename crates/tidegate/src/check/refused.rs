//! Files that `iptables-restore` refuses, with what to do about it.

use std::ops::Range;

use annotate_snippets::{AnnotationKind, Group, Level, Renderer, Snippet};
use serde_json::{Value, json};
use tidegate_syntax::{Failure, Refused};
use tidegate_wire::Family;

use super::source::Source;

/// A mistake that is known by what a line has.
struct Known {
    code: &'static str,
    /// What is in the line.
    line: &'static str,
    /// What must not be in it.
    without: &'static str,
    what: &'static str,
    /// The command that does what was meant, from the rule behind its chain.
    help: fn(&str) -> String,
}

/// Of what only the table raw takes.
const NOT_IN_RAW: &str = "TG041";

const KNOWN: [Known; 4] = [
    Known {
        code: NOT_IN_RAW,
        line: "-j CT",
        without: "",
        what: "-j CT is valid in table raw only",
        help: in_raw,
    },
    Known {
        code: NOT_IN_RAW,
        line: "-j NOTRACK",
        without: "",
        what: "-j NOTRACK is valid in table raw only",
        help: in_raw,
    },
    Known {
        code: "TG125",
        line: "-m tcp",
        without: "-p tcp",
        what: "-m tcp needs -p tcp in the same rule",
        help: |rest| match rest.contains("-p udp") {
            true => format!("-A {}", rest.replace("-m tcp", "-m udp")),
            false => format!("-A {}", rest.replace("-m tcp", "-p tcp -m tcp")),
        },
    },
    Known {
        code: "TG125",
        line: "--dport",
        without: "-p ",
        what: "a port needs a protocol: -p tcp or -p udp",
        help: |rest| format!("-A {}", rest.replace("--dport", "-p tcp --dport")),
    },
];

/// The rule in the table raw.
fn in_raw(rest: &str) -> String {
    let (chain, spec) = rest.split_once(' ').unwrap_or((rest, ""));
    let chain = if chain == "OUTPUT" {
        chain
    } else {
        "PREROUTING"
    };
    format!("-t raw -A {chain} {spec}")
}

impl Known {
    /// A complete command instead of `line`.
    fn command(&self, line: &str, family: Family) -> Option<String> {
        let (_, rest) = line.split_once("-A ")?;
        let tool = match family {
            Family::V4 => "iptables",
            Family::V6 => "ip6tables",
        };
        Some(format!("{tool} {}", (self.help)(rest.trim())))
    }
}

/// Number and text of the line to blame. What the kernel refuses is refused at COMMIT:
/// then it is a rule of the table with a mistake that is known.
fn line<'s>(source: &'s Source, refused: &Refused) -> (usize, &'s str) {
    let lines: Vec<&str> = source.text.lines().collect();
    let at = (refused.line as usize).saturating_sub(1);
    let text = lines.get(at).copied().unwrap_or("");
    if text.trim() != "COMMIT" {
        return (at + 1, text);
    }
    let of_table = (0..at).rev().take_while(|i| !lines[*i].starts_with('*'));
    let blamed = of_table.filter(|i| known(source, i + 1).is_some()).last();
    blamed.map_or((at + 1, text), |i| (i + 1, lines[i]))
}

/// The known mistake of a line, counted from 1.
fn known(source: &Source, number: usize) -> Option<&'static Known> {
    let lines: Vec<&str> = source.text.lines().take(number).collect();
    let line = lines.last()?;
    let table = lines.iter().rev().find(|l| l.starts_with('*'));
    let is_raw = table.is_some_and(|l| l.trim() == "*raw");
    let has = |k: &&Known| {
        line.contains(k.line)
            && (k.without.is_empty() || !line.contains(k.without))
            && !(k.code == NOT_IN_RAW && is_raw)
    };
    KNOWN.iter().find(has)
}

/// Where in the line the word stands that the tool complains of; else all of the line.
fn place(text: &str, said: &str) -> Range<usize> {
    let quoted = [('`', '\''), ('"', '"'), ('\'', '\'')]
        .iter()
        .find_map(|(begin, end)| {
            let (_, rest) = said.split_once(*begin)?;
            let (word, _) = rest.split_once(*end)?;
            (!word.is_empty()).then_some(word)
        });
    quoted
        .and_then(|word| whole(text, word))
        .unwrap_or(0..text.len())
}

/// Where `word` stands by itself, and not within another.
fn whole(text: &str, word: &str) -> Option<Range<usize>> {
    let is_end = |c: Option<char>| c.is_none_or(|c| c.is_whitespace() || "\",=!".contains(c));
    let mut places = text.match_indices(word).map(|(at, w)| at..at + w.len());
    places.find(|place| {
        let (before, after) = (&text[..place.start], &text[place.end..]);
        is_end(before.chars().next_back()) && is_end(after.chars().next())
    })
}

fn said(refused: &Refused, family: Family) -> String {
    if let Failure::Circle(chains) = &refused.failure {
        return format!("chains jump in a circle: {chains}");
    }
    let tool = match family {
        Family::V4 => "iptables-restore",
        Family::V6 => "ip6tables-restore",
    };
    let text = refused.render(tool);
    text.lines().next().unwrap_or("refused").to_owned()
}

/// For programs.
pub(super) fn json(source: &Source, refused: &Refused, family: Family) -> Value {
    let (number, text) = line(source, refused);
    let known = known(source, number);
    let said = said(refused, family);
    json!({
        "error": said,
        "file": source.name,
        "line": number,
        "column": text[..place(text, &said).start].chars().count() + 1,
        "code": known.map(|k| k.code),
        "help": known.and_then(|k| k.command(text, family)),
    })
}

/// For people.
pub(super) fn text(
    source: &Source,
    refused: &Refused,
    family: Family,
    renderer: &Renderer,
) -> String {
    let (number, text) = line(source, refused);
    let said = said(refused, family);
    let known = known(source, number);
    let help = known.and_then(|k| k.command(text, family));
    let title = Level::ERROR.primary_title(known.map_or(said.as_str(), |k| k.what));
    let title = match known {
        Some(k) => title.id(k.code),
        None => title,
    };
    let mut group = Group::with_title(title).element(
        Snippet::source(text)
            .line_start(number)
            .path(source.name.as_str())
            .annotation(AnnotationKind::Primary.span(place(text, &said))),
    );
    if known.is_some() {
        group = group.element(Level::NOTE.message(said.as_str()));
        if let Some(help) = &help {
            group = group.element(Level::HELP.message(help.as_str()));
        }
    }
    format!("{}\n", renderer.render(&[group]))
}
