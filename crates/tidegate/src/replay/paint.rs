//! Colours, for people at a terminal only.

use std::fmt;
use std::io::IsTerminal;

/// What a piece of text means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Tone {
    /// Passed, held.
    Good,
    /// Dropped, failed.
    Bad,
    /// Between.
    Doubtful,
    /// A heading.
    Strong,
    /// Less important.
    Faint,
}

/// Paints text, or leaves it alone.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Paint(bool);

impl Paint {
    /// Colours when standard output is a terminal and `NO_COLOR` is not set.
    pub(crate) fn for_stdout() -> Self {
        let refused = std::env::var_os("NO_COLOR").is_some_and(|v| !v.is_empty());
        Paint(!refused && std::io::stdout().is_terminal())
    }

    /// `text` in the colour of `tone`.
    pub(crate) const fn text<T: fmt::Display>(self, tone: Tone, text: T) -> Painted<T> {
        Painted {
            code: if self.0 { Some(tone.code()) } else { None },
            text,
        }
    }
}

impl Tone {
    const fn code(self) -> &'static str {
        match self {
            Tone::Good => "32",
            Tone::Bad => "31",
            Tone::Doubtful => "33",
            Tone::Strong => "1",
            Tone::Faint => "2",
        }
    }
}

/// Text with its colour.
pub(crate) struct Painted<T> {
    code: Option<&'static str>,
    text: T,
}

impl<T: fmt::Display> fmt::Display for Painted<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.code {
            Some(code) => {
                write!(f, "\x1b[{code}m")?;
                self.text.fmt(f)?;
                f.write_str("\x1b[0m")
            }
            None => self.text.fmt(f),
        }
    }
}
