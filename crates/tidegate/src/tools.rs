//! iptables' tools, as this program plays them: which one is meant, and where its rules
//! are.
//!
//! They work on a state file, named by `--offline FILE` anywhere on the command line
//! or by `TIDEGATE_STATE`; without one the running daemon is asked.

use std::ffi::OsString;
use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::flag;
use signal_hook::iterator::Signals;
use tidegate_daemon::control::{
    Call as Sent, Enough, Frame, Request, Unreachable, call, socket_path,
};
use tidegate_syntax::Failure;
use tidegate_tools::{FileStore, HostNames, Prepared, Printed, Tool};

/// What `tidegate --help` says about the tools.
pub(crate) const HELP: &str = "\
Tools: iptables, ip6tables, iptables-save, ip6tables-save, iptables-restore and
ip6tables-restore, as the first argument or by links with these names:
  tidegate --offline rules.state iptables -A INPUT -p tcp --dport 22 -j ACCEPT
They talk to the running firewall (its socket is TIDEGATE_SOCKET or
/run/tidegate/control.sock), or keep the ruleset in the file named by --offline FILE
or TIDEGATE_STATE.

Examples:
  tidegate replay --rules web.rules eth0.pcap
  tidegate replay --rules web.rules --explain 30 eth0.pcap
  tidegate host --out HOST.toml
  tidegate link ~/bin

Exit status: 0 done; 1 files are unreadable, damaged or refused; 2 the command line is
wrong. The tools exit as those of iptables do.";

/// A tool and its command line.
#[derive(Debug)]
pub(crate) struct Call {
    tool: Tool,
    words: Vec<OsString>,
    state: Option<PathBuf>,
}

impl Call {
    /// The tool that `words`, the program's name first, ask for.
    pub(crate) fn recognize(words: &[OsString]) -> Option<Self> {
        let (words, offline) = without_offline(words);
        let mut words = words.into_iter();
        let name = |word: Option<OsString>| word.as_deref().and_then(Tool::from_name);
        let tool = name(words.next()).or_else(|| name(words.next()))?;
        let state = offline.or_else(|| std::env::var_os("TIDEGATE_STATE"));
        Some(Call {
            tool,
            words: words.collect(),
            state: state.filter(|s| !s.is_empty()).map(PathBuf::from),
        })
    }

    /// Plays the tool.
    pub(crate) fn run(&self) -> ExitCode {
        if self.state.is_none() && self.tool.streams() {
            return self.stream();
        }
        let printed = self.play();
        finish(&printed.unwrap_or_else(|failure| self.tool.refuse(&failure)))
    }

    fn play(&self) -> Result<Printed, Failure> {
        let words = utf8(&self.words)?;
        let names = HostNames::default();
        let input = match self.tool.prepare(&words, &names) {
            Prepared::Done(printed) => return Ok(printed),
            Prepared::Rules(input) => input,
        };
        let printed = match &self.state {
            Some(path) => {
                let store = FileStore::new(path);
                self.tool.run(&words, &input, &store, &names)
            }
            None => self.ask(&words, input)?,
        };
        Ok(self.tool.finish(&words, printed))
    }

    /// Prints what the daemon sends as it comes.
    fn stream(&self) -> ExitCode {
        let sent =
            utf8(&self.words).map(
                |words| match self.tool.prepare(&words, &HostNames::default()) {
                    Prepared::Done(printed) => Err(printed),
                    Prepared::Rules(input) => Ok(self.request(&words, input)),
                },
            );
        let refuse = |failure: &Failure| finish(&self.tool.refuse(failure));
        match sent {
            Err(failure) => refuse(&failure),
            Ok(Err(printed)) => finish(&printed),
            Ok(Ok(request)) => match self.converse(&request) {
                Ok(status) => ExitCode::from(status),
                Err(e) => refuse(&self.unanswered(&e)),
            },
        }
    }

    /// Sends a request and prints the answer. What has no end ends in order at SIGINT
    /// and SIGTERM: the daemon is told that it is enough and sends the rest.
    fn converse(&self, request: &Request) -> Result<u8, Unreachable> {
        let call = Sent::new(&socket_path(), request)?;
        let words: Vec<&str> = request.words.iter().map(String::as_str).collect();
        if self.tool.is_endless(&words, &HostNames::default()) {
            let enough = call.enough().map_err(Unreachable::Broken)?;
            say_at_signal(enough).map_err(Unreachable::Broken)?;
        }
        call.answer(&mut crate::orders::print)
    }

    fn request(&self, words: &[&str], input: String) -> Request {
        Request {
            name: self.tool.name().to_owned(),
            words: words.iter().map(|&w| w.to_owned()).collect(),
            input,
        }
    }

    /// Lets the daemon do the work.
    fn ask(&self, words: &[&str], input: String) -> Result<Printed, Failure> {
        let request = self.request(words, input);
        let (mut out, mut err) = (Vec::new(), Vec::new());
        let mut take = |frame: &Frame| {
            match frame {
                Frame::Out(bytes) => out.extend_from_slice(bytes),
                Frame::Err(bytes) => err.extend_from_slice(bytes),
                _ => {}
            }
            Ok(())
        };
        let status = call(&socket_path(), &request, &mut take).map_err(|e| self.unanswered(&e))?;
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
        Ok(Printed {
            out: text(out),
            err: text(err),
            status,
        })
    }

    /// As the tools say it to those who are not root.
    fn forbidden(&self) -> Failure {
        let name = self.tool.name();
        if name.ends_with("-save") {
            let text = "Cannot initialize: Permission denied (you must be root)";
            return Failure::Other(text.to_owned());
        }
        let mut words = self.words.iter();
        let table = words
            .find(|w| *w == "-t" || *w == "--table")
            .and_then(|_| words.next());
        let table = table.map_or("filter".into(), |t| t.to_string_lossy());
        let base = name.trim_end_matches("-restore");
        Failure::Version(format!(
            "can't initialize {base} table `{table}': Permission denied (you must be root)"
        ))
    }

    fn unanswered(&self, e: &Unreachable) -> Failure {
        let why = match e {
            Unreachable::Forbidden => return self.forbidden(),
            Unreachable::NotRunning(_) | Unreachable::Broken(_) => e,
        };
        Failure::Resource(format!(
            "{}: {why}.\n\
             Start one with `tidegate up`, or name a state file to work on: --offline FILE,\n\
             or TIDEGATE_STATE=FILE.",
            self.tool.name()
        ))
    }
}

/// Says that it is enough at the first SIGINT or SIGTERM; the second one kills.
fn say_at_signal(enough: Enough) -> io::Result<()> {
    let asked = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM] {
        flag::register_conditional_default(signal, asked.clone())?;
        flag::register(signal, asked.clone())?;
    }
    let mut signals = Signals::new([SIGINT, SIGTERM])?;
    std::thread::Builder::new().spawn(move || {
        if signals.forever().next().is_some() {
            enough.say();
        }
    })?;
    Ok(())
}

fn utf8(words: &[OsString]) -> Result<Vec<&str>, Failure> {
    let texts = words.iter().map(|w| {
        w.to_str().ok_or_else(|| {
            Failure::Usage(format!("argument `{}' is not UTF-8", w.to_string_lossy()))
        })
    });
    texts.collect()
}

/// Takes `--offline FILE` or `--offline=FILE` out.
fn without_offline(words: &[OsString]) -> (Vec<OsString>, Option<OsString>) {
    let mut kept = Vec::with_capacity(words.len());
    let mut file = None;
    let mut words = words.iter();
    while let Some(word) = words.next() {
        let attached = word.to_str().and_then(|w| w.strip_prefix("--offline="));
        if let Some(name) = attached {
            file = Some(OsString::from(name));
        } else if word == "--offline" {
            file = words.next().cloned();
        } else {
            kept.push(word.clone());
        }
    }
    (kept, file)
}

/// Prints and says how to exit.
pub(crate) fn finish(printed: &Printed) -> ExitCode {
    let err = io::stderr().write_all(printed.err.as_bytes());
    let mut stdout = io::stdout().lock();
    let out = stdout
        .write_all(printed.out.as_bytes())
        .and_then(|()| stdout.flush());
    match (err, out) {
        (Ok(()), Ok(())) => ExitCode::from(printed.status),
        // Whoever reads has gone.
        _ => ExitCode::FAILURE,
    }
}
