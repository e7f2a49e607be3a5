//! Commands that go to the daemon: `status`, `save`, `reload`, `down`.

use std::io::{self, Write};
use std::process::ExitCode;

use tidegate_daemon::control::{Frame, Request, Unreachable, call, socket_path};

/// Arguments of `tidegate status`.
#[derive(Debug, clap::Args)]
pub(crate) struct Status {
    /// As JSON.
    #[arg(long)]
    json: bool,
}

impl Status {
    /// The request.
    pub(crate) fn words(&self) -> Vec<String> {
        self.json.then(|| "--json".to_owned()).into_iter().collect()
    }
}

/// Sends an order and prints the answer.
pub(crate) fn send(name: &str, words: Vec<String>) -> ExitCode {
    let request = Request {
        name: name.to_owned(),
        words,
        input: String::new(),
    };
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
        Frame::Request(_) | Frame::Exit(_) => Ok(()),
    }
}
