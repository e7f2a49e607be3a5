//! What the tools say when something is wrong, and how they exit.

use tidegate_xt::{Error, Status};

use crate::VERSION;

/// Why a command was refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Failure {
    /// The command line is wrong: text after name and version, hint at the help,
    /// exit 2.
    Usage(String),
    /// The same without name and version; an empty text prints the hint alone.
    Bare(String),
    /// Name, version and text, and a note on upgrading; exit 3.
    Version(String),
    /// Name, version and text; exit 1.
    Other(String),
    /// Name and text; exit 1.
    Plain(String),
    /// An answer as the kernel gives it; name and text, exit 1. A restore names the
    /// line instead.
    Kernel(&'static str),
    /// Chains that call each other in a circle (`ELOOP`), which is named below the
    /// kernel's answer.
    Circle(String),
    /// Text alone; exit 4: try again later.
    Resource(String),
}

impl From<Error> for Failure {
    fn from(e: Error) -> Self {
        match e.status {
            Status::Other => Failure::Other(e.text),
            Status::Parameter => Failure::Usage(e.text),
        }
    }
}

impl Failure {
    /// A wrong command line.
    #[must_use]
    pub fn usage(text: impl Into<String>) -> Self {
        Failure::Usage(text.into())
    }

    /// A table that does not exist.
    pub(crate) fn no_table(tool: &str, name: &str) -> Self {
        Failure::Version(format!(
            "can't initialize {tool} table `{name}': Table does not exist (do you need to insmod?)"
        ))
    }

    /// Exit status.
    #[must_use]
    pub const fn status(&self) -> u8 {
        match self {
            Failure::Other(_) | Failure::Plain(_) | Failure::Kernel(_) | Failure::Circle(_) => 1,
            Failure::Usage(_) | Failure::Bare(_) => 2,
            Failure::Version(_) => 3,
            Failure::Resource(_) => 4,
        }
    }

    /// The whole error output of the tool `name`. `line` is the line of a restored
    /// file, if that is what is wrong.
    #[must_use]
    pub fn render(&self, name: &str, line: Option<u32>) -> String {
        let at = line.map_or_else(String::new, |n| format!("Error occurred at line: {n}\n"));
        let hint = format!("Try `{name} -h' or '{name} --help' for more information.\n");
        match self {
            Failure::Usage(text) => format!("{name} v{VERSION} (legacy): {text}\n{at}{hint}"),
            Failure::Bare(text) if text.is_empty() => hint,
            Failure::Bare(text) => format!("{text}\n{at}{hint}"),
            Failure::Version(text) => format!(
                "{name} v{VERSION} (legacy): {text}\n{at}Perhaps {} or your kernel needs to be upgraded.\n",
                name.trim_end_matches("-restore")
            ),
            Failure::Other(text) => format!("{name} v{VERSION} (legacy): {text}\n"),
            Failure::Plain(text) => format!("{name}: {text}\n"),
            Failure::Kernel(text) => match line {
                Some(n) => format!("{name}: line {n} failed\n"),
                None => format!("{name}: {text}\n"),
            },
            Failure::Circle(chains) => format!(
                "{}Chains jump in a circle: {chains}\n",
                reply::LOOP.render(name, line)
            ),
            Failure::Resource(text) => format!("{text}\n"),
        }
    }
}

/// Answers of the kernel and of the code that edits its tables.
pub mod reply {
    use super::Failure;

    /// No such chain.
    pub const NO_CHAIN: Failure = Failure::Kernel("No chain/target/match by that name.");
    /// No such rule.
    pub const BAD_RULE: Failure =
        Failure::Kernel("Bad rule (does a matching rule exist in that chain?).");
    /// `-I` beyond the end.
    pub const INSERT_INDEX: Failure = Failure::Kernel("Index of insertion too big.");
    /// `-R` beyond the end.
    pub const REPLACE_INDEX: Failure = Failure::Kernel("Index of replacement too big.");
    /// `-D` beyond the end.
    pub const DELETE_INDEX: Failure = Failure::Kernel("Index of deletion too big.");
    /// `-Z` beyond the end.
    pub const ZERO_INDEX: Failure = Failure::Kernel("Index of counter too big.");
    /// `-N` of an existing chain.
    pub const CHAIN_EXISTS: Failure = Failure::Kernel("Chain already exists.");
    /// `-E` to an existing chain.
    pub const FILE_EXISTS: Failure = Failure::Kernel("File exists.");
    /// `-X` of a chain with rules.
    pub const NOT_EMPTY: Failure = Failure::Kernel("Directory not empty.");
    /// `-X` of a chain that rules jump to.
    pub const REFERENCED: Failure = Failure::Kernel("Too many links.");
    /// A rule the kernel does not accept there, or `-X` of a built-in chain.
    pub const INVALID: Failure =
        Failure::Kernel("Invalid argument. Run `dmesg' for more information.");
    /// `-P` of a chain that is not built in.
    pub const BAD_BUILTIN: Failure = Failure::Kernel("Bad built-in chain name.");
    /// `-P` with something else than ACCEPT or DROP.
    pub const BAD_POLICY: Failure =
        Failure::Kernel("Bad policy name. Run `dmesg' for more information.");
    /// Chains that call each other in a circle.
    pub(crate) const LOOP: Failure = Failure::Kernel("Too many levels of symbolic links.");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn renders_like_the_tools() {
        let f = Failure::usage("no command specified");
        assert_eq!(
            f.render("iptables", None),
            "iptables v1.8.13 (legacy): no command specified\n\
             Try `iptables -h' or 'iptables --help' for more information.\n"
        );
        assert_eq!(
            Failure::Bare("Bad argument `x'".into()).render("iptables-restore", Some(2)),
            "Bad argument `x'\nError occurred at line: 2\n\
             Try `iptables-restore -h' or 'iptables-restore --help' for more information.\n"
        );
        assert_eq!(
            reply::NO_CHAIN.render("iptables-restore", Some(7)),
            "iptables-restore: line 7 failed\n"
        );
    }
}
