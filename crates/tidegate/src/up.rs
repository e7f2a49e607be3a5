//! `tidegate up`: the firewall itself.

use std::io::IsTerminal;
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Result, bail};
use tidegate_daemon::Userspace;
use tidegate_daemon::config::{Config, Kind, OnCrash, SAMPLE};
use tidegate_daemon::plane::{Ears, Idle, Plane};
use tidegate_engine::Engine;
use tidegate_host::Host;

/// What `tidegate up --help` ends with.
const HELP: &str = "\
Runs in the foreground until SIGTERM, SIGINT or `tidegate down`; SIGHUP or `tidegate
reload` reads the rules files again. Under systemd use Type=notify. Flags win over the
configuration file, whose settings `--sample` explains.

Examples:
  tidegate up
  tidegate up --rules web.rules --interface eth0 --on-crash open
  tidegate up --sample > /etc/tidegate/tidegate.toml

Exit status: 0 stopped in order; 1 it could not start or not end in order, and says
why; 2 the command line is wrong.";

/// Arguments of `tidegate up`.
#[derive(Debug, clap::Args)]
#[command(after_help = HELP)]
pub(crate) struct Args {
    /// Configuration file [default: /etc/tidegate/tidegate.toml, if there is one].
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// IPv4 rules, as iptables-save writes them.
    #[arg(long, value_name = "FILE")]
    rules: Option<PathBuf>,
    /// IPv6 rules, as ip6tables-save writes them.
    #[arg(long, value_name = "FILE")]
    rules6: Option<PathBuf>,
    /// Control socket.
    #[arg(long, value_name = "PATH")]
    socket: Option<PathBuf>,
    /// Directory for what outlives the daemon.
    #[arg(long, value_name = "DIR")]
    state_dir: Option<PathBuf>,
    /// Guard this interface; without any, all.
    #[arg(long, value_name = "NAME")]
    interface: Vec<String>,
    /// Where packets meet the rules.
    #[arg(long, value_name = "KIND")]
    datapath: Option<DatapathArg>,
    /// What packets meet when the daemon dies.
    #[arg(long, value_name = "HOW")]
    on_crash: Option<OnCrashArg>,
    /// Print a commented configuration file and end.
    #[arg(long)]
    sample: bool,
}

#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum DatapathArg {
    /// Packets come up to this process.
    Userspace,
    /// Programs in the kernel forward what has been decided, other packets come up.
    Ebpf,
    /// Rules are kept, nothing is enforced.
    None,
}

#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum OnCrashArg {
    /// Nothing passes until the daemon is back.
    Closed,
    /// Everything passes.
    Open,
}

impl Args {
    fn config(&self) -> Result<Config> {
        let mut config = Config::read(self.config.as_deref())?;
        let given = [
            (&self.rules, &mut config.rules.v4),
            (&self.rules6, &mut config.rules.v6),
            (&self.socket, &mut config.control.socket),
            (&self.state_dir, &mut config.state.directory),
        ];
        for (flag, setting) in given {
            if let Some(path) = flag {
                setting.clone_from(path);
            }
        }
        if self.state_dir.is_none()
            && let Some(socket) = &self.socket
            && let Some(directory) = socket.parent()
        {
            directory.clone_into(&mut config.state.directory);
        }
        config.rules.required |= self.rules.is_some() && self.rules6.is_some();
        for path in [&self.rules, &self.rules6].into_iter().flatten() {
            if !path.exists() {
                bail!("{}: no such file", path.display());
            }
        }
        if !self.interface.is_empty() {
            config.datapath.interfaces.clone_from(&self.interface);
        }
        if let Some(kind) = self.datapath {
            config.datapath.kind = match kind {
                DatapathArg::Userspace => Kind::Userspace,
                DatapathArg::Ebpf => Kind::Ebpf,
                DatapathArg::None => Kind::None,
            };
        }
        if let Some(how) = self.on_crash {
            config.datapath.on_crash = match how {
                OnCrashArg::Closed => OnCrash::Closed,
                OnCrashArg::Open => OnCrash::Open,
            };
        }
        Ok(config)
    }
}

/// Runs the firewall.
///
/// # Errors
/// It could not start, or not end in order.
pub(crate) fn run(args: &Args) -> Result<()> {
    if args.sample {
        print!("{SAMPLE}");
        return Ok(());
    }
    let level = std::env::var("TIDEGATE_LOG").unwrap_or_else(|_| "info".to_owned());
    tracing_subscriber::fmt()
        .with_env_filter(level)
        .with_ansi(std::io::stderr().is_terminal())
        .with_writer(std::io::stderr)
        .with_target(false)
        .init();
    let config = args.config()?;
    tidegate_daemon::run(config, &start_plane)
}

/// Timers, entries and buckets looked at between two packets, so that none waits long.
const AT_ONCE: u32 = 256;

fn start_plane(config: &Config, ears: Ears) -> Result<Arc<dyn Plane>> {
    let (host, notes) = Host::running()?;
    for note in notes {
        tracing::debug!("{note}");
    }
    let mut settings = host.config;
    settings.track = config.datapath.track.into();
    settings.conntrack.at_once = AT_ONCE;
    tidegate_daemon::seed(&mut settings)?;
    match config.datapath.kind {
        Kind::None => {
            let engine = Engine::new(settings, Arc::new(host.env));
            Ok(Arc::new(Idle::start(engine, ears)?))
        }
        Kind::Userspace | Kind::Ebpf => Ok(Arc::new(Userspace::start(
            &config.datapath,
            settings,
            ears,
        )?)),
    }
}
