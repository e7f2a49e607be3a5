//! `tidegate apply`: new rules that cannot lock anybody out.

use std::collections::BTreeSet;
use std::fs;
use std::io::{self, BufRead, Write};
use std::path::{Path, PathBuf};
use std::process::{self, ExitCode};
use std::sync::mpsc::{Sender, channel};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use tidegate_daemon::apply::{ON_TRIAL, Order, Session, StageStep};
use tidegate_daemon::config::Config;
use tidegate_daemon::control::{Request, Unreachable, call, socket_path};
use tidegate_syntax::save;
use tidegate_tools::{FileStore, Store, replace};
use tidegate_wire::Family;

use crate::orders;

/// What `tidegate apply --help` ends with.
const HELP: &str = "\
The new rules are tried first: the next packets of the session that the command is given
over (SSH_CONNECTION, or the sshd that the terminal belongs to), a fresh connection like
it, and connections from the addresses in [manage] of the configuration. Whoever would be
locked out is named with the rule that does it and one that helps, and nothing changes.

What is applied is on trial: unless it is confirmed in time, here or by `tidegate confirm`
elsewhere, the daemon brings back the rules, with their counters, that were in force
before; also when the terminal, this command or the daemon itself dies meanwhile.
`tidegate rollback` does so at once.

A COMMAND (-c) finds iptables, ip6tables and their save and restore tools first on its
PATH; they work on a copy of the rules, which is then tried and applied as a file is.

Examples:
  tidegate apply new.rules
  tidegate apply --timeout 60 --write /etc/iptables/rules.v4 new.rules
  tidegate apply --command ./firewall.sh
  tidegate apply --dry-run new.rules
  tidegate apply --staged new.rules && sleep 3600 && tidegate apply --show
  tidegate apply --promote

Exit status: 0 applied and confirmed, or there was nothing to change; 1 the rules cannot
be read, or something else went wrong; 2 the command line is wrong; 3 somebody would be
locked out, nothing was changed; 4 no daemon answers; 255 not confirmed, the rules before
are back.";

/// Exit status: the rules before are back.
const ROLLED_BACK: u8 = 255;
/// Exit status: no daemon answers.
const NO_DAEMON: u8 = 4;

/// Arguments of `tidegate apply`.
#[derive(Debug, clap::Args)]
#[command(after_help = HELP)]
pub(crate) struct Args {
    /// Rules as iptables-save writes them; without any, the configured files.
    #[arg(value_name = "FILE")]
    file: Option<PathBuf>,
    /// IPv6 rules as ip6tables-save writes them.
    #[arg(long, value_name = "FILE")]
    rules6: Option<PathBuf>,
    /// FILE holds IPv6 rules.
    #[arg(short = '6', long, conflicts_with_all = ["rules6", "command"])]
    ipv6: bool,
    /// FILE is a command that changes the rules.
    #[arg(short, long, requires = "file")]
    command: bool,
    /// Seconds until the rules before come back.
    #[arg(short, long, value_name = "SECONDS", default_value_t = 10,
        value_parser = clap::value_parser!(u32).range(1..=86_400))]
    timeout: u32,
    /// Write the rules here once they are confirmed.
    #[arg(short, long, value_name = "FILE")]
    write: Option<PathBuf>,
    /// Only say what would change, and who would be locked out.
    #[arg(short = 'n', long)]
    dry_run: bool,
    /// Apply the rules even if they lock somebody out.
    #[arg(long, alias = "force")]
    force_lockout: bool,
    /// Put the rules beside those in force: packets meet them too, without effect.
    #[arg(long, conflicts_with_all = ["timeout", "write", "dry_run", "force_lockout", "no_wait"])]
    staged: bool,
    /// Say what the rules on stage would have done otherwise.
    #[arg(long, conflicts_with_all = ["file", "staged", "promote", "discard"])]
    show: bool,
    /// Put the rules on stage in force, on trial as any others.
    #[arg(long, conflicts_with_all = ["file", "staged", "discard"])]
    promote: bool,
    /// Take the rules on stage away.
    #[arg(long, conflicts_with_all = ["file", "staged"])]
    discard: bool,
    /// Do not ask: the rules wait for `tidegate confirm`.
    #[arg(long)]
    no_wait: bool,
    /// Another connection that must live, as in SSH_CONNECTION: CLIENT PORT SERVER PORT.
    #[arg(long, value_name = "ENDS", value_parser = session)]
    session: Vec<Session>,
    /// Configuration file with the rules files' names [default: the usual one].
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// The findings as JSON.
    #[arg(long)]
    json: bool,
}

fn session(text: &str) -> Result<Session> {
    let wanted = "CLIENT PORT SERVER PORT, as in `203.0.113.7 51514 10.0.0.5 22`";
    Session::from_ssh(text).ok_or_else(|| anyhow!("{wanted}"))
}

/// Runs the command.
///
/// # Errors
/// The rules cannot be read, or are not written after they were confirmed.
pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    let order = match args.order() {
        Ok(order) => order,
        Err(e) => match e.downcast_ref::<Unreachable>() {
            Some(e) => return Ok(unreachable(e)),
            None => return Err(e),
        },
    };
    let seconds = order.seconds;
    match ask("apply", serde_json::to_string(&order)?) {
        Err(e) => Ok(unreachable(&e)),
        Ok(ON_TRIAL) if args.no_wait => {
            eprintln!("Confirm with `tidegate confirm`, or take back with `tidegate rollback`.");
            Ok(ExitCode::SUCCESS)
        }
        Ok(ON_TRIAL) => args.conclude(Duration::from_secs(seconds.into())),
        Ok(status) => Ok(ExitCode::from(status)),
    }
}

impl Args {
    fn order(&self) -> Result<Order> {
        let stage = self.stage();
        let [v4, v6] = match stage {
            None | Some(StageStep::Put) => self.texts()?,
            Some(_) => [None, None],
        };
        let mut sessions: BTreeSet<Session> = self.session.iter().copied().collect();
        sessions.extend(Session::behind(process::id()));
        Ok(Order {
            v4,
            v6,
            sessions: sessions.into_iter().collect(),
            seconds: self.timeout,
            force: self.force_lockout,
            dry_run: self.dry_run,
            json: self.json,
            stage,
        })
    }

    const fn stage(&self) -> Option<StageStep> {
        match (self.staged, self.show, self.promote, self.discard) {
            (true, ..) => Some(StageStep::Put),
            (_, true, ..) => Some(StageStep::Show),
            (_, _, true, _) => Some(StageStep::Promote),
            (_, _, _, true) => Some(StageStep::Discard),
            _ => None,
        }
    }

    /// The new rules of both families.
    fn texts(&self) -> Result<[Option<String>; 2]> {
        let Some(file) = &self.file else {
            return self.configured();
        };
        if self.command {
            return changed_by(&file.to_string_lossy());
        }
        let text = Some(read(file)?);
        let other = self.rules6.as_deref().map(read).transpose()?;
        Ok(if self.ipv6 {
            [None, text]
        } else {
            [text, other]
        })
    }

    fn configured(&self) -> Result<[Option<String>; 2]> {
        let rules = Config::read(self.config.as_deref())?.rules;
        let v6 = self.rules6.as_ref().unwrap_or(&rules.v6);
        let found = [&rules.v4, v6].map(|path| path.exists().then(|| read(path)).transpose());
        let [v4, v6] = found;
        let texts = [v4?, v6?];
        if texts == [None, None] {
            bail!(
                "neither {} nor {} is there: name a FILE",
                rules.v4.display(),
                rules.v6.display()
            );
        }
        Ok(texts)
    }

    /// Asks whoever sits there.
    fn conclude(&self, time: Duration) -> Result<ExitCode> {
        eprint!("Can you establish NEW connections to the machine? (y/N) ");
        let answer = answer(time)?;
        let yes =
            matches!(&answer, Answer::Line(line) if line.trim_start().starts_with(['y', 'Y']));
        if yes {
            let status = ask("confirm", String::new());
            if matches!(status, Ok(0)) {
                eprintln!("Confirmed.");
                self.written()?;
                return Ok(ExitCode::SUCCESS);
            }
            return Ok(status.map_or_else(|e| unreachable(&e), |_| ExitCode::from(ROLLED_BACK)));
        }
        eprintln!();
        if let Answer::None = answer {
            eprintln!("No answer.");
        }
        // The daemon may have been faster, and says so.
        quietly("rollback");
        eprintln!("The rules before are back.");
        Ok(ExitCode::from(ROLLED_BACK))
    }

    fn written(&self) -> Result<()> {
        let Some(path) = &self.write else {
            return Ok(());
        };
        let tool = if self.ipv6 {
            "ip6tables-save"
        } else {
            "iptables-save"
        };
        let text = orders::output_of(tool, &["-c"])?;
        replace(path, text.as_bytes()).with_context(|| path.display().to_string())
    }
}

fn read(path: &Path) -> Result<String> {
    let text = if path == Path::new("-") {
        io::read_to_string(io::stdin())
    } else {
        fs::read_to_string(path)
    };
    text.with_context(|| path.display().to_string())
}

/// What somebody says.
enum Answer {
    Line(String),
    /// Asked to stop, or nobody is there.
    Stop,
    /// Time is up.
    None,
}

fn answer(time: Duration) -> Result<Answer> {
    let (say, heard) = channel();
    let signalled: Sender<Answer> = say.clone();
    let mut signals = Signals::new([SIGHUP, SIGINT, SIGTERM])?;
    std::thread::spawn(move || {
        if signals.forever().next().is_some() {
            let _ = signalled.send(Answer::Stop);
        }
    });
    std::thread::spawn(move || {
        let mut line = String::new();
        let read = io::stdin().lock().read_line(&mut line);
        let _ = say.send(match read {
            Ok(1..) => Answer::Line(line),
            Ok(0) | Err(_) => Answer::Stop,
        });
    });
    Ok(heard.recv_timeout(time).unwrap_or(Answer::None))
}

/// Rules after a command has worked on a copy of those in force.
fn changed_by(command: &str) -> Result<[Option<String>; 2]> {
    let directory = tempfile::tempdir()?;
    let state = directory.path().join("state");
    let mut text = String::new();
    for (heading, tool) in [("ipv4", "iptables-save"), ("ipv6", "ip6tables-save")] {
        text += &format!(
            "# tidegate-state {heading}\n{}",
            orders::output_of(tool, &["-c"])?
        );
    }
    fs::write(&state, text)?;
    let tools = directory.path().join("bin");
    fs::create_dir(&tools)?;
    crate::link::into(&tools)?;
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut first = tools.into_os_string();
    first.push(":");
    first.push(path);
    let status = process::Command::new("/bin/sh")
        .args(["-c", command])
        .env("PATH", first)
        .env("TIDEGATE_STATE", &state)
        .status()
        .with_context(|| command.to_owned())?;
    if !status.success() {
        bail!("`{command}` failed ({status}); nothing was changed");
    }
    let store = FileStore::new(&state);
    let after = |family| -> Result<Option<String>> {
        let mut text = String::new();
        let look = store.with(family, false, &mut |rules| {
            text = save::plain(rules);
            Ok(false)
        });
        look.map_err(|f| anyhow!(f.render("tidegate", None)))?;
        Ok(Some(text))
    };
    Ok([after(Family::V4)?, after(Family::V6)?])
}

/// Sends an order to the daemon and prints what it says; its exit status.
fn ask(name: &str, input: String) -> Result<u8, Unreachable> {
    let request = Request {
        name: name.to_owned(),
        words: Vec::new(),
        input,
    };
    call(&socket_path(), &request, &mut orders::print)
}

fn quietly(name: &str) {
    let request = Request {
        name: name.to_owned(),
        ..Request::default()
    };
    let _ = call(&socket_path(), &request, &mut |_| Ok(()));
}

fn unreachable(e: &Unreachable) -> ExitCode {
    let _ = writeln!(io::stderr(), "tidegate: {}", orders::explain(e));
    ExitCode::from(NO_DAEMON)
}
