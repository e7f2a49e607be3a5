//! `conntrack`: the connections and what is expected of them.
//!
//! The tool knows the table only as a [`Tracker`]. Options, messages and formats are
//! those of conntrack 1.4.7; where that version does something nobody can want (an
//! `-U` that fails without a family, an expectation whose ports get lost), it is done
//! right instead.

mod feed;
mod filter;
mod help;
mod load;
mod options;
mod parse;
mod print;
mod protocols;
mod run;
mod tuples;
mod values;
mod watch;

use std::fs;
use std::io::{self, Read};
use std::sync::Arc;
use std::sync::mpsc::sync_channel;

use tidegate_conntrack::{Conntrack, Time};
use tidegate_syntax::Failure;
use tidegate_xt::Names;

pub use feed::{Batch, Feed, Hub, QUEUE};

use super::{Prepared, Printed};
use options::Command;
use parse::Request;

/// Version of the tool that this one behaves as.
pub const VERSION: &str = "1.4.7";

/// Entries' places looked at between two packets while a table is listed.
const PIECE: u32 = 256;

/// Work on the table at a moment.
pub type TrackerWork = Box<dyn FnOnce(&mut Conntrack, Time) + Send>;

/// Where connections are tracked.
pub trait Tracker {
    /// Does work on the table between two packets; may return before it is done. The
    /// work is short; who lists a large table comes again for every piece.
    ///
    /// # Errors
    /// The table is out of reach.
    fn submit(&self, work: TrackerWork) -> Result<(), Failure>;

    /// Events from now on.
    ///
    /// # Errors
    /// There are none to be had.
    fn subscribe(&self) -> Result<Feed, Failure>;

    /// Who asks: the process id that events tell as the one who caused them.
    fn caller(&self) -> Option<u32> {
        None
    }
}

impl dyn Tracker + '_ {
    /// Does work on the table between two packets and waits for its result.
    ///
    /// # Errors
    /// The table is out of reach.
    pub fn with<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Conntrack, Time) -> T + Send + 'static,
    ) -> Result<T, Failure> {
        let (tell, told) = sync_channel(1);
        self.submit(Box::new(move |ct, now| {
            // The other end waits for it.
            let _ = tell.send(work(ct, now));
        }))?;
        told.recv()
            .map_err(|_| Failure::Plain("the connection table does not answer".to_owned()))
    }
}

/// Where output goes while it is made.
pub trait Sink {
    /// To standard output.
    ///
    /// # Errors
    /// Nobody reads any more.
    fn out(&mut self, text: &str) -> io::Result<()>;

    /// To standard error.
    ///
    /// # Errors
    /// Nobody reads any more.
    fn err(&mut self, text: &str) -> io::Result<()>;

    /// Whether to stop what has no end of its own.
    fn stopped(&self) -> bool;
}

/// Collects; what has no end is stopped at once.
impl Sink for Printed {
    fn out(&mut self, text: &str) -> io::Result<()> {
        self.out += text;
        Ok(())
    }

    fn err(&mut self, text: &str) -> io::Result<()> {
        self.err += text;
        Ok(())
    }

    fn stopped(&self) -> bool {
        true
    }
}

/// Why a command was not carried out, or not to its end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Refusal {
    before: String,
    text: String,
    status: u8,
}

impl Refusal {
    /// The command line is wrong.
    fn usage(text: impl Into<String>) -> Refusal {
        Refusal {
            before: String::new(),
            text: text.into(),
            status: 2,
        }
    }

    /// Something else is.
    fn other(text: impl Into<String>) -> Refusal {
        Refusal {
            status: 1,
            ..Refusal::usage(text)
        }
    }

    /// The same, with what was said before it.
    fn after(mut self, before: &str) -> Refusal {
        self.before.insert_str(0, before);
        self
    }

    /// What the tool prints.
    fn render(&self) -> String {
        const HINT: &str = "Try `conntrack -h' or 'conntrack --help' for more information.\n";
        let hint = if self.status == 2 { HINT } else { "" };
        let Refusal { before, text, .. } = self;
        format!("{before}conntrack v{VERSION} (conntrack-tools): {text}\n{hint}")
    }

    fn printed(&self) -> Printed {
        Printed {
            err: self.render(),
            status: self.status,
            ..Printed::default()
        }
    }
}

/// What is done where the command was typed: help, refusals, and reading the file of
/// `-R`.
pub(crate) fn prepare(words: &[&str], names: &dyn Names) -> Prepared {
    if let Some(file) = load::file(words) {
        return match read(file) {
            Some(text) => Prepared::Rules(text),
            None => {
                let why = format!("Failed to open file {file} for reading");
                Prepared::Done(Refusal::usage(why).printed())
            }
        };
    }
    let request = match Request::read(words, names) {
        Ok(request) => request,
        Err(refusal) => return Prepared::Done(refusal.printed()),
    };
    let out = match request.command {
        Command::Version => format!("conntrack v{VERSION} (conntrack-tools)\n"),
        Command::Help => help::text(request.proto),
        _ => return Prepared::Rules(String::new()),
    };
    Prepared::Done(Printed {
        out,
        ..Printed::default()
    })
}

/// Whether the command goes on until it is told to stop.
pub(crate) fn is_endless(words: &[&str], names: &dyn Names) -> bool {
    let request = Request::read(words, names);
    request.is_ok_and(|r| r.command == Command::Events)
}

fn read(file: &str) -> Option<String> {
    if file == "-" {
        let mut text = String::new();
        return io::stdin().read_to_string(&mut text).ok().map(|_| text);
    }
    fs::read_to_string(file).ok()
}

/// Does the work; the exit status. `input` is what [`prepare`] read.
pub(crate) fn run(
    words: &[&str],
    input: &str,
    tracker: &dyn Tracker,
    names: &dyn Names,
    sink: &mut dyn Sink,
) -> u8 {
    let done = if load::file(words).is_some() {
        load::all(input, tracker, names, sink)
    } else {
        Request::read(words, names).and_then(|request| {
            say(sink.err(&request.warnings))?;
            run::run(&Arc::new(request), tracker, sink, true)
        })
    };
    match done {
        Ok(status) => status,
        Err(refusal) => {
            // There is nobody left to tell when this fails too.
            let _ = sink.err(&refusal.render());
            refusal.status
        }
    }
}

/// Nobody reads: the work ends there.
fn say(written: io::Result<()>) -> Result<(), Refusal> {
    written.map_err(|e| Refusal::other(e.to_string()))
}

/// What a tracker that is out of reach means here.
fn unreachable(failure: &Failure) -> Refusal {
    let text = failure.render("conntrack", None);
    Refusal::other(text.trim_end())
}
