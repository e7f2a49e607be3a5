//! The processes that hold a lab, and the namespaces they live in.
//!
//! Three processes, each started by the one before and gone with it:
//!
//! 1. the command the user typed; it prints what it is told;
//! 2. `world` leaves the user's namespaces: for an ordinary user into a user namespace of
//!    its own, and into mount, network, process and host name namespaces;
//! 3. `init` is the first process of the new process namespace. When it ends, however it
//!    ends, the kernel ends everything in the namespace, and with the last process the
//!    network namespaces and all they hold are gone.
//!
//! Nothing of a lab has a name outside: its files are on a tmpfs over `/run` that only
//! the lab's mount namespace has.

use std::ffi::OsString;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, ExitCode, ExitStatus};

use anyhow::{Context, Result, bail};
use nix::errno::Errno;
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nix::sys::prctl::set_pdeathsig;
use nix::sys::signal::Signal;
use nix::unistd::{getgid, getuid};

use crate::Job;

/// First word of the command lines that processes 2 and 3 are started with.
const STAGE: &str = "lab-stage";
/// First word of the command lines that start a built-in program.
pub(crate) const PROGRAM: &str = "lab-program";
/// First word of the command lines that do something on another host.
pub(crate) const ON: &str = "lab-on";
/// Directory of the lab's own files, on the private tmpfs.
pub(crate) const HOME: &str = "/run/lab";
/// Directory of the programs that a lab adds to the search path.
pub(crate) const BIN: &str = "/run/lab/bin";

/// What this program does when it is started by a lab instead of a user: `words` is its
/// command line with its name first. `None` when it was not.
#[must_use]
pub fn hidden(words: &[OsString]) -> Option<ExitCode> {
    let mut texts = words.iter().skip(1).map(|w| w.to_string_lossy());
    let outcome = match texts.next()?.as_ref() {
        PROGRAM => {
            let rest: Vec<String> = texts.map(String::from).collect();
            return Some(crate::programs::run(&rest));
        }
        ON => {
            let host = texts.next()?;
            let rest: Vec<String> = texts.map(String::from).collect();
            crate::prompt::on(&host, &rest)
        }
        STAGE => {
            let stage = texts.next()?;
            let parent = texts.next()?;
            let job = texts.next()?;
            play(&stage, &parent, &job)
        }
        _ => return None,
    };
    Some(outcome.unwrap_or_else(|error| {
        eprintln!("tidegate lab: {error:#}");
        ExitCode::FAILURE
    }))
}

fn play(stage: &str, parent: &str, job: &str) -> Result<ExitCode> {
    end_with(parent)?;
    match stage {
        "world" => world(job),
        "init" => {
            prepare()?;
            crate::run_inside(&serde_json::from_str(job)?)
        }
        _ => bail!("there is no stage {stage}"),
    }
}

/// The command that starts a lab for `job`.
pub(crate) fn command(job: &Job) -> Result<Command> {
    next("world", &serde_json::to_string(job)?)
}

fn next(stage: &str, job: &str) -> Result<Command> {
    let program = std::env::current_exe().context("cannot find this program")?;
    let mut command = Command::new(program);
    command
        .arg0("tidegate")
        .args([STAGE, stage, &own_pid()?, job]);
    Ok(command)
}

/// This process's number as `/proc` has it, which may be that of an outer namespace.
fn own_pid() -> Result<String> {
    let link = std::fs::read_link("/proc/self").context("/proc/self")?;
    Ok(link.to_string_lossy().into_owned())
}

/// Ends this process when its parent ends, also if it has ended already.
fn end_with(parent: &str) -> Result<()> {
    set_pdeathsig(Signal::SIGKILL)?;
    let status = std::fs::read_to_string("/proc/self/status")?;
    let mut lines = status.lines();
    let now = lines.find_map(|l| l.strip_prefix("PPid:")).map(str::trim);
    if now != Some(parent) {
        bail!("the process that started this one is gone");
    }
    Ok(())
}

fn world(job: &str) -> Result<ExitCode> {
    leave()?;
    Ok(exit_code(next("init", job)?.status()?))
}

/// A child's exit status as one's own.
pub(crate) fn exit_code(status: ExitStatus) -> ExitCode {
    let code = status.code().and_then(|c| u8::try_from(c).ok());
    ExitCode::from(code.unwrap_or(1))
}

/// Leaves the user's namespaces; who is not root becomes root of a user namespace.
fn leave() -> Result<()> {
    let rest = CloneFlags::CLONE_NEWNS
        | CloneFlags::CLONE_NEWPID
        | CloneFlags::CLONE_NEWNET
        | CloneFlags::CLONE_NEWUTS
        | CloneFlags::CLONE_NEWIPC;
    let (user, group) = (getuid(), getgid());
    if user.is_root() {
        match unshare(rest) {
            Err(Errno::EPERM) => {}
            other => return other.context("cannot make namespaces"),
        }
    }
    unshare(rest | CloneFlags::CLONE_NEWUSER).context(
        "this system does not let users make namespaces (look at user.max_user_namespaces, \
         kernel.unprivileged_userns_clone and kernel.apparmor_restrict_unprivileged_userns); \
         a lab can still be started as root",
    )?;
    std::fs::write("/proc/self/setgroups", "deny")?;
    std::fs::write("/proc/self/uid_map", format!("0 {user} 1"))?;
    std::fs::write("/proc/self/gid_map", format!("0 {group} 1"))?;
    Ok(())
}

/// Gives the lab its own `/proc` and `/run`.
fn prepare() -> Result<()> {
    const NONE: Option<&str> = None;
    mount(NONE, "/", NONE, MsFlags::MS_REC | MsFlags::MS_PRIVATE, NONE)
        .context("cannot make mounts private")?;
    // Refused in containers that hide parts of /proc: theirs will do.
    let _ = mount(Some("proc"), "/proc", Some("proc"), MsFlags::empty(), NONE);
    mount(
        Some("tmpfs"),
        "/run",
        Some("tmpfs"),
        MsFlags::MS_NOSUID,
        Some("mode=755"),
    )
    .context("cannot mount a tmpfs over /run")?;
    for dir in [HOME, BIN, "/run/netns", "/run/lock"] {
        std::fs::create_dir_all(dir).with_context(|| dir.to_owned())?;
    }
    Ok(())
}

/// Puts the file `from` over `to` for the lab alone, if there is such a file.
pub(crate) fn cover(from: &Path, to: &str) {
    const NONE: Option<&str> = None;
    let _ = mount(Some(from), to, NONE, MsFlags::MS_BIND, NONE);
}

/// Whether this is a user namespace in which not every user exists.
pub(crate) fn mapped() -> bool {
    let map = std::fs::read_to_string("/proc/self/uid_map").unwrap_or_default();
    let everybody = map.split_whitespace().nth(2) == Some("4294967295");
    !everybody
}
