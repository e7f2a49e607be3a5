//! The command line: options, a command and its words.

use super::Fault;

/// What is to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verb {
    Create,
    Add,
    Del,
    Test,
    Destroy,
    List,
    Save,
    Restore,
    Flush,
    Rename,
    Swap,
    Help,
    Version,
    Quit,
}

impl Verb {
    /// Whether it may change sets.
    pub(crate) fn changes(self) -> bool {
        !matches!(self, Verb::Test | Verb::List | Verb::Save)
    }
}

/// A command: its names, and how many words it needs and takes at most.
struct Row {
    verb: Verb,
    name: &'static str,
    letter: &'static str,
    least: usize,
    most: usize,
}

const fn row(
    verb: Verb,
    name: &'static str,
    letter: &'static str,
    least: usize,
    most: usize,
) -> Row {
    Row {
        verb,
        name,
        letter,
        least,
        most,
    }
}

const ANY: usize = usize::MAX;

const VERBS: [Row; 14] = [
    row(Verb::Create, "create", "N", 2, ANY),
    row(Verb::Add, "add", "A", 2, ANY),
    row(Verb::Del, "del", "D", 2, ANY),
    row(Verb::Test, "test", "T", 2, ANY),
    row(Verb::Destroy, "destroy", "X", 0, 1),
    row(Verb::List, "list", "L", 0, 1),
    row(Verb::Save, "save", "S", 0, 1),
    row(Verb::Restore, "restore", "R", 0, 0),
    row(Verb::Flush, "flush", "F", 0, 1),
    row(Verb::Rename, "rename", "E", 2, 2),
    row(Verb::Swap, "swap", "W", 2, 2),
    row(Verb::Help, "help", "H", 0, 1),
    row(Verb::Version, "version", "V", 0, 0),
    row(Verb::Quit, "quit", "q", 0, 0),
];

/// How sets are listed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    Plain,
    Save,
    Xml,
}

/// A command line.
#[derive(Clone, Debug)]
pub(crate) struct Call<'a> {
    pub(crate) verb: Verb,
    pub(crate) args: Vec<&'a str>,
    pub(crate) exist: bool,
    pub(crate) quiet: bool,
    /// Names only.
    pub(crate) names: bool,
    /// Headers only.
    pub(crate) terse: bool,
    pub(crate) mode: Option<Mode>,
    pub(crate) file: Option<&'a str>,
}

impl<'a> Call<'a> {
    /// Reads the words after the tool's name; `restoring` those of a line of a restore.
    pub(crate) fn read(words: &[&'a str], restoring: bool) -> Result<Self, Fault> {
        let mut call = Call {
            verb: Verb::List,
            args: Vec::new(),
            exist: false,
            quiet: false,
            names: false,
            terse: false,
            mode: None,
            file: None,
        };
        let mut rest = Vec::new();
        let mut words = words.iter().copied();
        while let Some(word) = words.next() {
            if !call.option(word, &mut words)? {
                rest.push(word);
            }
        }
        let Some((&name, args)) = rest.split_first() else {
            return Err(Fault::usage("No command specified."));
        };
        let Some(found) = VERBS.iter().find(|row| row.is(name)) else {
            return Err(Fault::usage(format!(
                "No command specified: unknown argument {name}"
            )));
        };
        if restoring && matches!(found.verb, Verb::Restore | Verb::Help | Verb::Version) {
            return Err(Fault::usage(format!(
                "Command `{}' is invalid in restore mode.",
                found.name
            )));
        }
        found.check(args)?;
        call.verb = found.verb;
        call.args = args.to_vec();
        Ok(call)
    }

    /// Whether the word is an option; its value is taken from `words`.
    fn option(
        &mut self,
        word: &str,
        words: &mut dyn Iterator<Item = &'a str>,
    ) -> Result<bool, Fault> {
        let mut value = || {
            words
                .next()
                .ok_or_else(|| Fault::usage(format!("Missing mandatory argument to option {word}")))
        };
        // A dash more or less does not matter.
        let name = word.strip_prefix("--").or_else(|| word.strip_prefix('-'));
        match name.unwrap_or("") {
            "!" | "exist" => self.exist = true,
            "q" | "quiet" => self.quiet = true,
            "n" | "name" => self.names = true,
            "t" | "terse" => self.terse = true,
            // Listings are sorted and without names of hosts, whatever is asked.
            "s" | "sorted" | "r" | "resolve" => {}
            "f" | "file" => self.file = Some(value()?),
            "o" | "output" => {
                self.mode = Some(match value()? {
                    "plain" => Mode::Plain,
                    "save" => Mode::Save,
                    "xml" => Mode::Xml,
                    other => {
                        return Err(Fault::syntax(format!("unknown output mode '{other}'")));
                    }
                });
            }
            _ => return Ok(false),
        }
        Ok(true)
    }
}

impl Row {
    /// A name of it: the whole, its start, or a letter.
    fn is(&self, word: &str) -> bool {
        if let Some(word) = word.strip_prefix("--") {
            return !word.is_empty() && word == self.name;
        }
        match word.strip_prefix('-') {
            Some(letter) => letter == self.letter || self.verb == Verb::Version && letter == "v",
            None => !word.is_empty() && self.name.starts_with(word),
        }
    }

    fn check(&self, args: &[&str]) -> Result<(), Fault> {
        if args.len() < self.least {
            let which = ["mandatory", "second mandatory"][args.len().min(1)];
            return Err(Fault::usage(format!(
                "Missing {which} argument to command {}",
                self.name
            )));
        }
        match args.get(self.most) {
            Some(more) => Err(Fault::usage(format!("Unknown argument {more}"))),
            None => Ok(()),
        }
    }
}

/// Cuts a line into words; double quotes hold them together.
pub(crate) fn split(text: &str) -> Result<Vec<String>, Fault> {
    let mut words = Vec::new();
    let mut rest = text.trim_start();
    while !rest.is_empty() {
        let (word, after) = match rest.strip_prefix('"') {
            Some(quoted) => quoted
                .split_once('"')
                .ok_or_else(|| Fault::usage("Missing close quote"))?,
            None => rest.split_once(char::is_whitespace).unwrap_or((rest, "")),
        };
        words.push(word.to_owned());
        rest = after.trim_start();
    }
    Ok(words)
}

/// What `ipset help` says before it comes to a type.
pub(crate) const HELP: &str = "\
Usage: ipset [options] COMMAND

Commands:
create SETNAME TYPENAME [type-specific-options]
add SETNAME ENTRY
del SETNAME ENTRY
test SETNAME ENTRY
destroy [SETNAME]
list [SETNAME]
save [SETNAME]
restore
flush [SETNAME]
rename FROM-SETNAME TO-SETNAME
swap FROM-SETNAME TO-SETNAME
help [TYPENAME]
version

Options:
-o plain|save|xml   How sets are listed
-s                  Members sorted (they always are)
-q                  No warnings
-!, -exist          Take what exists already, or does not exist any more
-n                  Names alone
-t                  Names and headers alone
-f FILE             Read from (restore) or write to (list, save) a file
";
