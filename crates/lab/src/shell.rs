//! Command lines in hosts.

use std::fs::File;
use std::io::Read;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;

use crate::host::Host;
use crate::world::{BIN, HOME};

/// Most bytes kept of what a command prints.
const MAX_OUTPUT: u64 = 1 << 20;

/// What came of a command line.
#[derive(Clone, Debug, Default)]
pub(crate) struct Run {
    /// Exit status; `None` if it had to be ended.
    pub(crate) status: Option<i32>,
    pub(crate) out: String,
    pub(crate) err: String,
    pub(crate) took: Duration,
}

/// The search path of a lab: its own programs first, administrators' tools included.
pub(crate) fn search_path() -> String {
    let outer = std::env::var("PATH").unwrap_or_default();
    format!("{BIN}:{outer}:/usr/local/sbin:/usr/sbin:/sbin:/usr/local/bin:/usr/bin:/bin")
}

/// The environment of commands.
pub(crate) fn environment(command: &mut Command) {
    command
        .env("PATH", search_path())
        .env("HOME", HOME)
        .env("LC_ALL", "C.UTF-8")
        .env_remove("TIDEGATE_STATE")
        .env_remove("TIDEGATE_SOCKET")
        .env_remove("http_proxy")
        .env_remove("ftp_proxy")
        .env_remove("all_proxy")
        .current_dir(HOME);
}

fn command(line: &str) -> Command {
    let mut command = Command::new("/bin/sh");
    environment(&mut command);
    command
        .arg("-c")
        .arg(line)
        .stdin(Stdio::null())
        .process_group(0);
    command
}

/// Types `line` in `host`; after `limit` it and its children are ended.
///
/// # Errors
/// There is no shell, or no room for what it prints.
pub(crate) fn run(host: &Host, line: &str, limit: Duration) -> Result<Run> {
    begin(host, line, limit)?.end()
}

/// A command line that is being run.
pub(crate) struct Running {
    child: Child,
    out: File,
    err: File,
    begin: Instant,
    limit: Duration,
}

/// Types `line` in `host`, to be waited for by [`Running::end`].
///
/// # Errors
/// Those of [`run`].
pub(crate) fn begin(host: &Host, line: &str, limit: Duration) -> Result<Running> {
    // Files instead of pipes: children that stay behind cannot hold the reader up.
    let (out, err) = (tempfile::tempfile_in(HOME)?, tempfile::tempfile_in(HOME)?);
    let begin = Instant::now();
    let child = host.inside(|| {
        let mut command = command(line);
        command.stdout(out.try_clone()?).stderr(err.try_clone()?);
        command
            .spawn()
            .with_context(|| format!("cannot run {line}"))
    })?;
    Ok(Running {
        child,
        out,
        err,
        begin,
        limit,
    })
}

impl Running {
    /// Waits for the end.
    ///
    /// # Errors
    /// What it printed cannot be read.
    pub(crate) fn end(mut self) -> Result<Run> {
        let status = wait(&mut self.child, self.begin + self.limit)?;
        Ok(Run {
            status,
            out: text(self.out)?,
            err: text(self.err)?,
            took: self.begin.elapsed(),
        })
    }
}

/// Starts `line` in `host`, to stay.
///
/// # Errors
/// There is no shell.
pub(crate) fn start(host: &Host, line: &str) -> Result<Child> {
    host.inside(|| {
        let mut command = command(line);
        let log = File::options()
            .create(true)
            .append(true)
            .open(format!("{HOME}/servers.log"))?;
        command.stdout(log.try_clone()?).stderr(log);
        command
            .spawn()
            .with_context(|| format!("cannot run {line}"))
    })
}

/// The exit status, or `None` if the child had to be ended.
fn wait(child: &mut Child, end: Instant) -> Result<Option<i32>> {
    loop {
        if let Some(status) = child.try_wait()? {
            // Ended by a signal counts as a failure, as the shell has it.
            return Ok(status.code().or_else(|| status.signal().map(|s| 128 + s)));
        }
        if Instant::now() >= end {
            let group = Pid::from_raw(i32::try_from(child.id())?);
            let _ = killpg(group, Signal::SIGKILL);
            child.wait()?;
            return Ok(None);
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn text(mut file: File) -> Result<String> {
    use std::io::Seek;
    let mut bytes = Vec::new();
    file.rewind()?;
    file.take(MAX_OUTPUT).read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}
