//! `ipset`: named sets, as ipset 7.17 shows and changes them.
//!
//! Where sets are kept is a [`SetStore`]'s affair. A `restore` changes everything or
//! nothing.

mod create;
mod line;
mod member;
mod place;
mod port;
mod print;

use std::collections::HashMap;
use std::fs;
use std::io::{self, Read};

use tidegate_sets::Sets;
use tidegate_syntax::Failure;
use tidegate_wire::Family;

use crate::names::FileNames;
use crate::{Prepared, Printed, Store};
use line::{Call, Verb};

pub use print::save_all;

/// How many rules name each set.
pub type Users = HashMap<String, usize>;

/// Work on sets at a time in nanoseconds.
pub type SetWork = Box<dyn FnOnce(&mut Sets, &Users, u64) -> Printed + Send>;

/// Where sets are kept.
pub trait SetStore {
    /// Runs work on the sets; with `change` what it does to them is kept.
    ///
    /// # Errors
    /// The sets cannot be had, or not be stored.
    fn with_sets(&self, change: bool, work: SetWork) -> Result<Printed, Failure>;
}

/// Why a rule of that family cannot look into a set, if it cannot.
#[must_use]
pub fn unusable(sets: Option<&Sets>, name: &str, family: Family) -> Option<Failure> {
    let Some(set) = sets.and_then(|sets| sets.get(name)) else {
        return Some(Failure::Usage(format!("Set {name} doesn't exist.\n")));
    };
    let other = match set.family.filter(|&f| f != family)? {
        Family::V4 => "IPv4",
        Family::V6 => "IPv6",
    };
    Some(Failure::Usage(format!(
        "The protocol family of set {name} is {other}, which is not applicable.\n"
    )))
}

/// Version of ipset that this one speaks like.
pub(crate) const NAME: &str = "ipset v7.17";

/// Why a command is not done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// The command line is wrong; exit 2 and a hint at the help.
    Usage(String),
    /// A value cannot be read, or the sets do not allow it; exit 1.
    Refused(String),
    /// What was asked is not so; exit 1, the text alone.
    No(String),
}

impl Fault {
    pub(crate) fn usage(text: impl Into<String>) -> Self {
        Fault::Usage(text.into())
    }

    pub(crate) fn syntax(text: impl std::fmt::Display) -> Self {
        Fault::Refused(format!("Syntax error: {text}"))
    }

    pub(crate) fn refused(text: impl Into<String>) -> Self {
        Fault::Refused(text.into())
    }

    /// As the tool prints it; `line` is that of a restore.
    fn printed(&self, line: Option<usize>, quiet: bool) -> Printed {
        let place = line.map_or(String::new(), |n| format!("Error in line {n}: "));
        let (err, status) = match self {
            Fault::Usage(text) => (
                format!("{NAME}: {text}\nTry `ipset help' for more information.\n"),
                2,
            ),
            Fault::Refused(text) => (format!("{NAME}: {place}{text}\n"), 1),
            Fault::No(text) => (format!("{text}\n"), 1),
        };
        Printed {
            err: if quiet { String::new() } else { err },
            status,
            ..Printed::default()
        }
    }
}

fn out(text: String) -> Printed {
    Printed {
        out: text,
        ..Printed::default()
    }
}

/// Help, refusals, and the text to restore.
pub(crate) fn prepare(words: &[&str]) -> Prepared {
    let call = match Call::read(words, false) {
        Ok(call) => call,
        Err(fault) => {
            let quiet = words.iter().any(|w| matches!(*w, "-q" | "-quiet"));
            return Prepared::Done(fault.printed(None, quiet));
        }
    };
    let input = match call.verb {
        Verb::Help => return Prepared::Done(help(&call)),
        Verb::Version => return Prepared::Done(out(format!("{NAME}, protocol version: 7\n"))),
        Verb::Quit => return Prepared::Done(Printed::default()),
        Verb::Restore => match call.file {
            Some(file) => fs::read_to_string(file),
            None => {
                let mut text = String::new();
                io::stdin().read_to_string(&mut text).map(|_| text)
            }
        },
        _ => Ok(String::new()),
    };
    match input {
        Ok(input) => Prepared::Rules(input),
        Err(e) => {
            let file = call.file.unwrap_or("standard input");
            let fault = Fault::refused(format!("Cannot open {file} for reading: {e}"));
            Prepared::Done(fault.printed(None, call.quiet))
        }
    }
}

fn help(call: &Call<'_>) -> Printed {
    let Some(&name) = call.args.first() else {
        return out(format!("{NAME}\n\n{}", line::HELP));
    };
    match create::usage(name) {
        Some(usage) => out(format!("{NAME}\n\n{}{usage}", line::HELP)),
        None => Fault::usage(format!("Unknown settype: `{name}'")).printed(None, call.quiet),
    }
}

/// Does the work.
pub(crate) fn run(words: &[&str], input: &str, store: &dyn Store) -> Result<Printed, Failure> {
    let Some(sets) = store.sets() else {
        let why = "ipset: there are no sets here";
        return Err(Failure::Resource(why.to_owned()));
    };
    let call = match Call::read(words, false) {
        Ok(call) => call,
        Err(fault) => return Ok(fault.printed(None, false)),
    };
    let words: Vec<String> = words.iter().map(|&w| w.to_owned()).collect();
    let input = input.to_owned();
    let work = move |sets: &mut Sets, users: &Users, now| {
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        work(&words, &input, sets, &Ctx { users, now })
    };
    sets.with_sets(call.verb.changes(), Box::new(work))
}

/// What a command needs beside the sets.
pub(crate) struct Ctx<'a> {
    pub(crate) users: &'a Users,
    pub(crate) now: u64,
}

impl Ctx<'_> {
    /// How many rules and sets name a set.
    pub(crate) fn references(&self, sets: &Sets, name: &str) -> usize {
        self.users.get(name).copied().unwrap_or(0) + sets.holders(name)
    }
}

fn work(words: &[&str], input: &str, sets: &mut Sets, ctx: &Ctx<'_>) -> Printed {
    let call = match Call::read(words, false) {
        Ok(call) => call,
        Err(fault) => return fault.printed(None, false),
    };
    let done = match call.verb {
        Verb::Restore => return restore(&call, input, sets, ctx),
        _ => place::run(&call, sets, ctx),
    };
    match done {
        Ok(done) if call.quiet => Printed {
            err: String::new(),
            ..done
        },
        Ok(done) => done,
        Err(fault) => fault.printed(None, call.quiet),
    }
}

/// Carries out the lines of a text, all of them or none.
fn restore(call: &Call<'_>, input: &str, sets: &mut Sets, ctx: &Ctx<'_>) -> Printed {
    let mut tried = sets.clone();
    let mut printed = Printed::default();
    for (number, text) in input.lines().enumerate() {
        let text = text.trim();
        if text.is_empty() || text.starts_with('#') || text == "COMMIT" {
            continue;
        }
        let words = match line::split(text) {
            Ok(words) => words,
            Err(fault) => return fault.printed(Some(number + 1), call.quiet),
        };
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        let done = Call::read(&words, true).and_then(|mut line| {
            line.exist |= call.exist;
            place::run(&line, &mut tried, ctx)
        });
        match done {
            Ok(done) => {
                printed.out += &done.out;
                printed.err += &done.err;
            }
            Err(fault) => return fault.printed(Some(number + 1), call.quiet),
        }
    }
    *sets = tried;
    printed
}

/// Writes what was printed to the file that `-f` names.
pub(crate) fn finish(words: &[&str], printed: Printed) -> Printed {
    let call = Call::read(words, false).ok();
    let call = call.filter(|c| matches!(c.verb, Verb::List | Verb::Save));
    let Some(file) = call.and_then(|c| c.file).filter(|_| printed.status == 0) else {
        return printed;
    };
    match fs::write(file, &printed.out) {
        Ok(()) => Printed::default(),
        Err(e) => {
            Fault::refused(format!("Cannot open {file} for writing: {e}")).printed(None, false)
        }
    }
}

/// Carries out the lines of a saved text on no sets, as `ipset restore -exist` does: how
/// files of sets are read.
///
/// # Errors
/// What is wrong, with the line.
pub fn read_all(text: &str, now: u64) -> Result<Sets, String> {
    let mut sets = Sets::default();
    let ctx = Ctx {
        users: &Users::new(),
        now,
    };
    let call = Call::read(&["restore", "-exist"], false);
    let call = call.map_err(|_| String::new())?;
    let done = restore(&call, text, &mut sets, &ctx);
    match done.status {
        0 => Ok(sets),
        _ => Err(done.err.trim_end().to_owned()),
    }
}

/// Names of hosts, services and protocols, as files have them.
pub(crate) fn names() -> FileNames {
    FileNames::default()
}

#[cfg(test)]
mod tests;
