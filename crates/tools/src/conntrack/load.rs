//! `-R`: commands from a file.

use std::sync::Arc;

use tidegate_xt::Names;

use super::options::{Command, Main, vocabulary};
use super::parse::Request;
use super::{Refusal, Sink, Tracker, run, say};

/// Longest line in bytes, and most words of one.
const LINE: usize = 10_240;
const WORDS: usize = 255;

/// The file that a command line asks to load; `-R` comes first there.
pub(super) fn file<'a>(words: &[&'a str]) -> Option<&'a str> {
    match words {
        ["-R" | "--load-file", file, ..] => Some(file),
        _ => None,
    }
}

/// Reads all lines, then carries them out until one fails.
pub(super) fn all(
    text: &str,
    tracker: &dyn Tracker,
    names: &dyn Names,
    sink: &mut dyn Sink,
) -> Result<u8, Refusal> {
    let mut requests = Vec::new();
    for line in text.lines() {
        if let Some(request) = read(line, names)? {
            say(sink.err(&request.warnings))?;
            requests.push(Arc::new(request));
        }
    }
    for request in &requests {
        run::run(request, tracker, sink, false)?;
    }
    Ok(0)
}

fn read(line: &str, names: &dyn Names) -> Result<Option<Request>, Refusal> {
    let line = line.trim();
    if line.is_empty() || line.starts_with('#') {
        return Ok(None);
    }
    if line.len() > LINE {
        return Err(Refusal::usage("Parameter too long!"));
    }
    let line = line.strip_prefix("conntrack ").unwrap_or(line);
    let words: Vec<String> = words(line);
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    if words.len() > WORDS {
        return Err(Refusal::usage("too many arguments"));
    }
    let request = Request::read(&words, names)?;
    let fits = match request.command {
        Command::Create | Command::Add | Command::Update | Command::Delete | Command::Flush => true,
        Command::List
        | Command::Get
        | Command::Events
        | Command::Count
        | Command::Stats
        | Command::Version
        | Command::Help => false,
    };
    if fits {
        return Ok(Some(request));
    }
    let row = vocabulary().find(|r| r.0 == Main::Do(request.command));
    let letter = row
        .and_then(|r| r.1)
        .filter(|_| request.command != Command::Help);
    let name = match letter {
        Some(letter) => format!("-{letter}"),
        None => "unknown".to_owned(),
    };
    Err(Refusal::usage(format!(
        "Cannot use command `{name}' with --load-file"
    )))
}

/// Words between blanks; quotes keep blanks together.
fn words(line: &str) -> Vec<String> {
    let (mut words, mut word, mut quote) = (Vec::new(), None::<String>, None);
    for c in line.chars() {
        match (quote, c) {
            (Some(q), c) if c == q => quote = None,
            (None, '"' | '\'') => {
                quote = Some(c);
                word.get_or_insert_default();
            }
            (None, c) if c.is_ascii_whitespace() => words.extend(word.take()),
            (_, c) => word.get_or_insert_default().push(c),
        }
    }
    words.extend(word);
    words
}
