//! Commands that go to the daemon.

use std::io::{self, Read, Write};
use std::process::ExitCode;

use tidegate_daemon::control::{Frame, Request, Unreachable, call, socket_path};
use tidegate_tools::{Prepared, modules, sysctl};

/// Arguments of `tidegate status`.
#[derive(Debug, clap::Args)]
pub(crate) struct Status {
    /// As JSON.
    #[arg(long)]
    json: bool,
    /// Dropped and INVALID packets by reason, and what became of log lines.
    #[arg(long)]
    drops: bool,
}

/// Arguments that the daemon reads itself.
#[derive(Debug, clap::Args)]
pub(crate) struct Words {
    /// As the tool of this name takes them.
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    words: Vec<String>,
}

impl Words {
    /// Sends them under a command's name.
    pub(crate) fn send(self, name: &str) -> ExitCode {
        send(name, self.words)
    }

    /// `sysctl`: files are read where the command was typed.
    pub(crate) fn sysctl(self) -> ExitCode {
        let words: Vec<&str> = self.words.iter().map(String::as_str).collect();
        match sysctl::prepare(&words) {
            Prepared::Done(printed) => crate::tools::finish(&printed),
            Prepared::Rules(input) => request(Request {
                name: "sysctl".to_owned(),
                words: self.words,
                input,
            }),
        }
    }

    /// `nfacct`: what `restore` reads comes from where the command was typed.
    pub(crate) fn nfacct(self) -> ExitCode {
        let mut input = String::new();
        if self.words.first().is_some_and(|word| word == "restore")
            && let Err(e) = io::stdin().read_to_string(&mut input)
        {
            eprintln!("nfacct: {e}");
            return ExitCode::FAILURE;
        }
        request(Request {
            name: "nfacct".to_owned(),
            words: self.words,
            input,
        })
    }

    /// `osf`: the file behind `-f` is read here.
    pub(crate) fn osf(self) -> ExitCode {
        let at = self.words.iter().position(|word| word == "-f");
        let file = at.and_then(|at| self.words.get(at + 1));
        let input = match file {
            Some(file) => std::fs::read_to_string(file).map_err(|e| format!("{file}: {e}")),
            None if self.words.is_empty() => Ok(String::new()),
            None => Err("osf takes -f FILE, and -d before it to take out".to_owned()),
        };
        match input {
            Ok(input) => request(Request {
                name: "osf".to_owned(),
                words: self.words,
                input,
            }),
            Err(why) => {
                eprintln!("tidegate: {why}");
                ExitCode::FAILURE
            }
        }
    }

    /// `modinfo`: needs no daemon.
    pub(crate) fn modinfo(self) -> ExitCode {
        let words: Vec<&str> = self.words.iter().map(String::as_str).collect();
        crate::tools::finish(&modules::modinfo(&words))
    }
}

impl Status {
    /// The request.
    pub(crate) fn words(&self) -> Vec<String> {
        let flags = [(self.json, "--json"), (self.drops, "--drops")];
        let given = flags.iter().filter(|f| f.0);
        given.map(|f| f.1.to_owned()).collect()
    }
}

/// Sends an order and prints the answer.
pub(crate) fn send(name: &str, words: Vec<String>) -> ExitCode {
    send_with(name, words, String::new())
}

/// The same with input.
pub(crate) fn send_with(name: &str, words: Vec<String>, input: String) -> ExitCode {
    request(Request {
        name: name.to_owned(),
        words,
        input,
    })
}

fn request(request: Request) -> ExitCode {
    match call(&socket_path(), &request, &mut print) {
        Ok(status) => ExitCode::from(status),
        Err(e) => {
            eprintln!("tidegate: {}", explain(&e));
            ExitCode::from(if matches!(e, Unreachable::NotRunning(_)) {
                3
            } else {
                1
            })
        }
    }
}

/// What the daemon prints for a command.
///
/// # Errors
/// It refuses, and says why; [`Unreachable`] where it does not answer.
pub(crate) fn output_of(name: &str, words: &[&str]) -> anyhow::Result<String> {
    answer(&Request {
        name: name.to_owned(),
        words: words.iter().map(|&w| w.to_owned()).collect(),
        input: String::new(),
    })
}

/// What the daemon answers to a command with this input.
///
/// # Errors
/// As [`output_of`].
pub(crate) fn ask(name: &str, input: String) -> anyhow::Result<String> {
    answer(&Request {
        name: name.to_owned(),
        words: Vec::new(),
        input,
    })
}

fn answer(request: &Request) -> anyhow::Result<String> {
    let (mut out, mut err) = (Vec::new(), Vec::new());
    let status = call(&socket_path(), request, &mut |frame| {
        match frame {
            Frame::Out(bytes) => out.extend_from_slice(bytes),
            Frame::Err(bytes) => err.extend_from_slice(bytes),
            _ => {}
        }
        Ok(())
    })?;
    match status {
        0 => Ok(String::from_utf8(out)?),
        _ => {
            let said = String::from_utf8_lossy(&err);
            let said = said.trim_end();
            anyhow::bail!("{}", said.strip_prefix("tidegate: ").unwrap_or(said))
        }
    }
}

/// What went wrong and what to do about it.
pub(crate) fn explain(e: &Unreachable) -> String {
    let socket = socket_path();
    let socket = socket.display();
    match e {
        Unreachable::NotRunning(why) => format!(
            "no daemon answers at {socket}: {why}\n\
             Start one with `tidegate up`, or name its socket: TIDEGATE_SOCKET=PATH."
        ),
        Unreachable::Forbidden => format!(
            "{socket}: Operation not permitted\n\
             Only root, the daemon's own user and its configured group may give orders."
        ),
        Unreachable::Broken(_) => e.to_string(),
    }
}

/// Writes a piece of an answer where it belongs.
pub(crate) fn print(frame: &Frame) -> io::Result<()> {
    match frame {
        Frame::Out(bytes) => {
            let mut out = io::stdout().lock();
            out.write_all(bytes)?;
            out.flush()
        }
        Frame::Err(bytes) => io::stderr().write_all(bytes),
        _ => Ok(()),
    }
}
