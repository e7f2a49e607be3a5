//! `sysctl`: settings by the names that the kernel gives them.
//!
//! What is printed and refused is as with procps' sysctl(8), down to its habit of
//! looking for files: a name that is none "cannot be found" below `/proc/sys`.

use std::fs;
use std::io::{self, Read};

use regex_lite::Regex;
use tidegate_conntrack::Sysctl;
use tidegate_conntrack::sysctl::{PREFIX, Refused, SYSCTLS, parse};
use tidegate_syntax::getopt::{Found, Item, Table, Takes, Words, resolve};

use super::{Prepared, Printed, Tracker};

/// Settings by name.
pub trait Settings {
    /// All names, in order.
    fn names(&self) -> Vec<String>;

    /// A value; `None` when nothing has this name.
    fn read(&self, name: &str) -> Option<String>;

    /// Sets a value.
    ///
    /// # Errors
    /// It is none for this setting, or the setting cannot be set.
    fn write(&self, name: &str, value: &str) -> Result<(), Refused>;
}

/// The settings of a table of connections.
#[expect(missing_debug_implementations, reason = "a tracker has no text")]
pub struct TableSettings<'a>(pub &'a dyn Tracker);

fn sysctl(name: &str) -> Option<&'static Sysctl> {
    name.strip_prefix(PREFIX).and_then(Sysctl::by_name)
}

impl Settings for TableSettings<'_> {
    fn names(&self) -> Vec<String> {
        SYSCTLS
            .iter()
            .map(|s| format!("{PREFIX}{}", s.name))
            .collect()
    }

    fn read(&self, name: &str) -> Option<String> {
        let sysctl = sysctl(name)?;
        let value = self.0.with(move |ct, _| sysctl.read(ct));
        value.ok().map(|v| v.to_string())
    }

    fn write(&self, name: &str, value: &str) -> Result<(), Refused> {
        let sysctl = sysctl(name).ok_or(Refused::Invalid)?;
        let value = parse(value)?;
        let written = self.0.with(move |ct, _| sysctl.write(ct, value));
        written.unwrap_or(Err(Refused::ReadOnly))
    }
}

/// What an option asks for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Opt {
    All,
    Names,
    Values,
    Binary,
    Ignore,
    Quiet,
    Write,
    Load,
    Pattern,
    DryRun,
    Help,
    Version,
    Nothing,
}

const OPTIONS: [(Opt, &str, &[&str], Takes); 13] = [
    (Opt::All, "aAX", &["all"], Takes::Nothing),
    (Opt::Names, "N", &["names"], Takes::Nothing),
    (Opt::Values, "n", &["values"], Takes::Nothing),
    (Opt::Binary, "b", &["binary"], Takes::Nothing),
    (Opt::Ignore, "e", &["ignore"], Takes::Nothing),
    (Opt::Quiet, "q", &["quiet"], Takes::Nothing),
    (Opt::Write, "w", &["write"], Takes::Nothing),
    (Opt::Load, "pf", &["load"], Takes::Attached),
    (Opt::Pattern, "r", &["pattern"], Takes::One),
    (Opt::DryRun, "", &["dry-run"], Takes::Nothing),
    (Opt::Help, "hd", &["help"], Takes::Nothing),
    (Opt::Version, "V", &["version"], Takes::Nothing),
    (Opt::Nothing, "ox", &["deprecated"], Takes::Nothing),
];

struct Lookup;

impl Table<Opt> for Lookup {
    fn short(&self, letter: char) -> Option<(Opt, Takes)> {
        let row = OPTIONS.iter().find(|r| r.1.contains(letter))?;
        Some((row.0, row.3))
    }

    fn long(&self, name: &str) -> Found<Opt> {
        let names = OPTIONS
            .iter()
            .flat_map(|r| r.2.iter().map(|n| (*n, r.0, r.3)));
        resolve(name, names)
    }
}

const USAGE: &str = "
Usage:
 sysctl [options] [variable[=value] ...]

Options:
  -a, --all            show all settings
  -b, --binary         values without names and newlines
  -e, --ignore         say nothing about names that are unknown
  -N, --names          names only
  -n, --values         values only
  -p, --load[=<file>]  set what a file says, /etc/sysctl.conf unless named
  -q, --quiet          do not show what was set
  -r, --pattern <re>   only settings that match, with -a and -p
  -w, --write          only set
      --dry-run        show what would be set

 -h, --help     show this help
 -V, --version  show the version

Settings are those of connection tracking: net.netfilter.nf_conntrack_*.
";

/// A command line, understood.
#[derive(Default)]
struct Asked<'a> {
    all: bool,
    names: bool,
    values: bool,
    binary: bool,
    ignore: bool,
    quiet: bool,
    write: bool,
    dry: bool,
    load: Option<&'a str>,
    pattern: Option<Regex>,
    operands: Vec<&'a str>,
}

/// The usual file.
const FILE: &str = "/etc/sysctl.conf";

impl<'a> Asked<'a> {
    /// Reads a command line; what is all there is to say to it otherwise.
    fn read(words: &'a [&'a str]) -> Result<Asked<'a>, Printed> {
        let mut asked = Asked::default();
        let mut walk = Words::new(words);
        loop {
            let (opt, arg) = match walk.next_item(&Lookup) {
                Item::End => break,
                Item::Word(word) => {
                    asked.operands.push(word);
                    continue;
                }
                Item::Option(opt, arg) => (opt, arg),
                Item::Missing(word) | Item::Unknown(word, _) => return Err(wrong(word)),
            };
            match opt {
                Opt::All => asked.all = true,
                Opt::Names => asked.names = true,
                Opt::Values => asked.values = true,
                Opt::Binary => (asked.values, asked.binary) = (true, true),
                Opt::Ignore => asked.ignore = true,
                Opt::Quiet => asked.quiet = true,
                Opt::Write => asked.write = true,
                Opt::DryRun => asked.dry = true,
                Opt::Load => asked.load = Some(arg.unwrap_or("")),
                Opt::Pattern => asked.pattern = Some(pattern(arg.unwrap_or(""))?),
                Opt::Help => return Err(said(USAGE, 0)),
                Opt::Version => {
                    let version = concat!("sysctl from tidegate ", env!("CARGO_PKG_VERSION"), "\n");
                    return Err(said(version, 0));
                }
                Opt::Nothing => {}
            }
        }
        while let Some(word) = walk.take_any() {
            asked.operands.push(word);
        }
        asked.check(words.is_empty())
    }

    fn check(mut self, bare: bool) -> Result<Self, Printed> {
        if bare {
            return Err(said(USAGE, 1));
        }
        if let Some(file) = self.load {
            // The file may be the next word.
            self.load = Some(match (file, self.operands.as_slice()) {
                ("", [first, ..]) => first,
                ("", []) => FILE,
                (file, _) => file,
            });
        } else if self.operands.is_empty() && !self.all {
            return Err(Printed {
                err: "sysctl: no variables specified\n\
                      Try `sysctl --help' for more information.\n"
                    .to_owned(),
                status: 1,
                ..Printed::default()
            });
        }
        Ok(self)
    }

    fn wants(&self, name: &str) -> bool {
        self.pattern.as_ref().is_none_or(|p| p.is_match(name))
    }
}

fn said(out: &str, status: u8) -> Printed {
    Printed {
        out: out.to_owned(),
        status,
        ..Printed::default()
    }
}

fn wrong(word: &str) -> Printed {
    let what = match word.strip_prefix("--") {
        Some(_) => format!("unrecognized option '{word}'"),
        None => format!("invalid option -- '{}'", word.chars().last().unwrap_or('?')),
    };
    Printed {
        err: format!("sysctl: {what}\n{USAGE}"),
        status: 1,
        ..Printed::default()
    }
}

fn pattern(text: &str) -> Result<Regex, Printed> {
    Regex::new(text).map_err(|e| Printed {
        err: format!("sysctl: {e}\n"),
        status: 1,
        ..Printed::default()
    })
}

/// What is done where the command was typed: help, refusals, and reading the file of
/// `-p`.
#[must_use]
pub fn prepare(words: &[&str]) -> Prepared {
    let asked = match Asked::read(words) {
        Ok(asked) => asked,
        Err(printed) => return Prepared::Done(printed),
    };
    let Some(file) = asked.load else {
        return Prepared::Rules(String::new());
    };
    let text = if file == "-" {
        let mut text = String::new();
        io::stdin().read_to_string(&mut text).map(|_| text)
    } else {
        fs::read_to_string(file)
    };
    match text {
        Ok(text) => Prepared::Rules(text),
        Err(e) => {
            let why = e.to_string();
            let why = why.split(" (os error").next().unwrap_or(&why);
            Prepared::Done(Printed {
                err: format!("sysctl: cannot open \"{file}\": {why}\n"),
                status: 1,
                ..Printed::default()
            })
        }
    }
}

/// Shows and sets. `input` is what [`prepare`] read.
#[must_use]
pub fn run(words: &[&str], input: &str, settings: &dyn Settings) -> Printed {
    let asked = match Asked::read(words) {
        Ok(asked) => asked,
        Err(printed) => return printed,
    };
    let mut job = Job {
        asked: &asked,
        settings,
        printed: Printed::default(),
    };
    match asked.load {
        Some(file) => job.load(file, input),
        None if asked.all => job.show_all(),
        None => job.operands(),
    }
    job.printed
}

/// A name with dots; slashes are taken for them.
fn dotted(name: &str) -> String {
    name.replace('/', ".")
}

struct Job<'a> {
    asked: &'a Asked<'a>,
    settings: &'a dyn Settings,
    printed: Printed,
}

impl Job<'_> {
    fn complain(&mut self, text: &str) {
        self.printed.err += &format!("sysctl: {text}\n");
        self.printed.status = 1;
    }

    fn show_all(&mut self) {
        for name in self.settings.names() {
            if self.asked.wants(&name) {
                self.show(&name);
            }
        }
    }

    fn operands(&mut self) {
        for (i, word) in self.asked.operands.iter().enumerate() {
            match word.split_once('=') {
                Some((name, value)) => self.set(name.trim(), value),
                None if self.asked.write => {
                    self.complain(&format!("command line({i}): invalid syntax, continuing..."));
                }
                None => self.show(word.trim()),
            }
        }
    }

    /// A setting, or all below a name that is a beginning of names.
    fn show(&mut self, name: &str) {
        let name = dotted(name);
        if let Some(value) = self.settings.read(&name) {
            self.print(&name, &value);
            return;
        }
        let inside = format!("{}.", name.trim_end_matches('.'));
        let names = self.settings.names();
        let below: Vec<&String> = names.iter().filter(|n| n.starts_with(&inside)).collect();
        if below.is_empty() {
            self.unknown(&name);
        }
        for name in below {
            if let Some(value) = self.settings.read(name) {
                self.print(name, &value);
            }
        }
    }

    fn unknown(&mut self, name: &str) {
        if !self.asked.ignore {
            let path = name.replace('.', "/");
            self.complain(&format!(
                "cannot stat /proc/sys/{path}: No such file or directory"
            ));
        }
    }

    fn print(&mut self, name: &str, value: &str) {
        let Asked {
            names,
            values,
            binary,
            ..
        } = *self.asked;
        self.printed.out += &match (names, values) {
            (true, _) => format!("{name}\n"),
            (_, true) if binary => value.to_owned(),
            (_, true) => format!("{value}\n"),
            (false, false) => format!("{name} = {value}\n"),
        };
    }

    fn set(&mut self, name: &str, value: &str) {
        let name = dotted(name.strip_prefix('-').unwrap_or(name));
        let value = value.trim();
        if self.settings.read(&name).is_none() {
            return self.unknown(&name);
        }
        if !self.asked.dry && self.settings.write(&name, value).is_err() {
            return self.complain(&format!("setting key \"{name}\": Invalid argument"));
        }
        if !self.asked.quiet {
            self.print(&name, value);
        }
    }

    /// The lines of a file: those that are none are named first, then the rest is done.
    fn load(&mut self, file: &str, text: &str) {
        let lines = (1..).zip(text.lines().map(str::trim));
        let lines = lines.filter(|(_, l)| !l.is_empty() && !l.starts_with(['#', ';']));
        let mut settings = Vec::new();
        for (number, line) in lines {
            match line.split_once('=') {
                Some((name, value)) => settings.push((name.trim(), value)),
                None => {
                    self.complain(&format!("{file}({number}): invalid syntax, continuing..."));
                }
            }
        }
        for (name, value) in settings {
            if self.asked.wants(&dotted(name)) {
                self.set(name, value);
            }
        }
    }
}
