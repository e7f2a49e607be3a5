//! What can be wrong with an extension's options, and what the kernel refuses.

use std::fmt;

/// A refusal by the command-line tool itself.
///
/// The tool prints `NAME vVERSION (legacy): TEXT`, after a [`Status::Parameter`]
/// error also its hint at `--help`, and exits with [`Status::code`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Error {
    /// Class of the error.
    pub status: Status,
    /// Text after the tool's name; may end in a newline of its own.
    pub text: String,
}

/// Exit classes of the tools.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// Something else went wrong: exit 1.
    Other,
    /// The command line is wrong: exit 2.
    Parameter,
}

impl Status {
    /// Exit status of the tool.
    #[must_use]
    pub const fn code(self) -> i32 {
        match self {
            Status::Other => 1,
            Status::Parameter => 2,
        }
    }
}

impl Error {
    /// A wrong command line (exit 2).
    #[must_use]
    pub fn parameter(text: impl Into<String>) -> Self {
        Error {
            status: Status::Parameter,
            text: text.into(),
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl std::error::Error for Error {}

/// Error numbers with which the kernel answers a table it does not accept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Errno {
    /// `EINVAL`.
    Invalid,
    /// `ENOENT`.
    NotFound,
    /// `ERANGE`.
    Range,
}

impl Errno {
    /// What the tool prints after its bare name (`iptables: …`), exit status 1.
    #[must_use]
    pub const fn message(self) -> &'static str {
        match self {
            Errno::Invalid => "Invalid argument. Run `dmesg' for more information.",
            Errno::NotFound => "No chain/target/match by that name.",
            Errno::Range => "Numerical result out of range.",
        }
    }
}

/// A rule that parses but that the kernel would not load.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// What the tool learns.
    pub errno: Errno,
    /// The reason in words (the kernel writes its own to its log).
    pub why: String,
}

impl Refusal {
    /// `EINVAL` for the given reason.
    #[must_use]
    pub fn invalid(why: impl Into<String>) -> Self {
        Refusal {
            errno: Errno::Invalid,
            why: why.into(),
        }
    }
}
