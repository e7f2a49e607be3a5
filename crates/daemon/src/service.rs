//! The life of the daemon: start, signals, records, stop.

use std::fs::{self, File, TryLockError};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use jiff::Timestamp;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use tidegate_engine::conntrack::Sysctl;
use tidegate_engine::conntrack::sysctl::Refused;
use tidegate_logs::Logs;
use tidegate_tools::sysctl::{Settings, TableSettings};
use tidegate_tools::{Tracker, modules};
use tidegate_xt::matches::osf_prints;

use crate::adopt;
use crate::apply::Trials;
use crate::commands::Commands;
use crate::config::{Config, Kind};
use crate::connections::ConnectionFile;
use crate::control::{Allowed, Answer, Server};
use crate::files;
use crate::plane::{Ears, Plane};
use crate::queue::Readers;
use crate::rules::{FAMILIES, LiveRules};
use crate::sets;
use crate::tracker::LiveTracker;
use crate::upgrade::{Called, upgrade};

/// What wakes the daemon's main thread.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wake {
    /// Rules have changed: they are to be recorded.
    Changed,
    /// Read the rules files again.
    Reload,
    /// End in order.
    Stop,
    /// Become the program that is installed now.
    Upgrade,
}

/// Makes the datapath.
pub type StartPlane = dyn Fn(&Config, Ears) -> Result<Arc<dyn Plane>>;

/// Runs the daemon until it is told to stop.
///
/// # Errors
/// It could not start: rules, socket, lock, datapath; or not end in order.
pub fn run(config: Config, start: &StartPlane) -> Result<()> {
    let directory = &config.state.directory;
    fs::create_dir_all(directory).with_context(|| directory.display().to_string())?;
    let _lock = lock(&config)?;
    let called = Called::now()?;
    let rules_at_start = files::at_start(&config)?;
    let allowed = Allowed::new(config.control.group.as_deref())?;
    let (wake, woken) = channel();
    watch_signals(wake.clone())?;
    let logs = Arc::new(Logs::start(config.log.clone())?);
    let ears = Ears {
        logs: logs.handle(),
        events: Arc::default(),
    };
    let plane = start(&config, ears.clone())?;
    let tracker = LiveTracker::new(plane.clone(), ears.events);
    let served = set_up(&config, &tracker).and_then(|()| {
        let parts = Parts {
            plane: plane.clone(),
            tracker,
            logs,
            called,
        };
        serve(&config, parts, rules_at_start, allowed, wake, &woken)
    });
    let stopped = plane.stop();
    served?;
    stopped?;
    files::forget_record(&config);
    tracing::info!("stopped");
    Ok(())
}

fn lock(config: &Config) -> Result<File> {
    let path = config.state.directory.join("lock");
    let file = File::create(&path).with_context(|| path.display().to_string())?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => bail!(
            "a daemon is running already with {}",
            config.state.directory.display()
        ),
        Err(TryLockError::Error(e)) => Err(e).with_context(|| path.display().to_string()),
    }
}

fn watch_signals(wake: Sender<Wake>) -> Result<()> {
    let mut signals = Signals::new([SIGTERM, SIGINT, SIGHUP])?;
    let thread = std::thread::Builder::new().name("signals".to_owned());
    thread.spawn(move || {
        for signal in signals.forever() {
            let what = if signal == SIGHUP {
                Wake::Reload
            } else {
                Wake::Stop
            };
            if wake.send(what).is_err() {
                return;
            }
        }
    })?;
    Ok(())
}

type AtStart = [(tidegate_syntax::Ruleset, Option<PathBuf>); 2];

/// Settings and helper modules of the configuration.
fn set_up(config: &Config, tracker: &LiveTracker) -> Result<()> {
    let settings = TableSettings(tracker);
    for (name, value) in &config.sysctl.0 {
        let Some(sysctl) = Sysctl::by_name(name).filter(|_| settings.read(name).is_some()) else {
            bail!("[sysctl]: no setting of connection tracking is called `{name}`");
        };
        let refused = |why: Refused| match why {
            Refused::ReadOnly => anyhow!("[sysctl]: {name} can only be read"),
            Refused::Invalid => {
                let (least, most) = sysctl.range();
                anyhow!("[sysctl]: {name} = {value}: it takes numbers from {least} to {most}")
            }
        };
        settings.write(name, &value.to_string()).map_err(refused)?;
    }
    let policies = files::read_timeouts(config)?;
    let nat = config.nat;
    let set = (tracker as &dyn Tracker).with(move |ct, _| {
        nat.set_up(ct);
        ct.config_mut().policies = policies;
    });
    set.map_err(files::plain)?;
    for line in &config.modules.load {
        let words: Vec<&str> = line.split_whitespace().collect();
        let loaded = modules::modprobe(tracker, &words, &|_| 0);
        if loaded.status != 0 {
            bail!("[modules]: `{line}`: {}", loaded.err.trim_end());
        }
    }
    Ok(())
}

/// What the daemon is made of.
struct Parts {
    plane: Arc<dyn Plane>,
    tracker: LiveTracker,
    logs: Arc<Logs>,
    called: Called,
}

fn serve(
    config: &Config,
    parts: Parts,
    at_start: AtStart,
    allowed: Allowed,
    wake: Sender<Wake>,
    woken: &Receiver<Wake>,
) -> Result<()> {
    let changed = Arc::new([AtomicBool::new(false), AtomicBool::new(false)]);
    let rules = {
        let (flag, wake) = (changed.clone(), Mutex::new(wake.clone()));
        let changed = move |family| {
            let at = FAMILIES.iter().position(|&f| f == family).unwrap_or(0);
            flag[at].store(true, Ordering::Relaxed);
            let _ = crate::locked(&wake).send(Wake::Changed);
        };
        Arc::new(LiveRules::new(
            parts.plane.clone(),
            config.datapath.track.into(),
            Box::new(changed),
        ))
    };
    let [(v4, from4), (v6, from6)] = at_start;
    sets::bring(&*parts.plane, files::sets_at_start(config)?)?;
    let prints = files::read_fingerprints(config)?;
    parts.plane.with(move |engine, _| {
        if let Some(all) = osf_prints::all(engine.shared_mut()) {
            *all = prints;
        }
    })?;
    rules.install([v4, v6]).map_err(files::plain)?;
    changed
        .iter()
        .for_each(|c| c.store(false, Ordering::Relaxed));
    let trials = Trials::new(config.clone(), rules.clone(), changed.clone());
    trials.record()?;
    files::forget_before(config);
    let mut connections = connections(config);
    restore(connections.as_ref(), &*parts.plane);
    if config.datapath.kind != Kind::None {
        adopt::open_sockets(&config.state, &parts.tracker);
    }
    parts.plane.guard()?;
    let commands = Arc::new(Commands {
        config: config.clone(),
        plane: parts.plane,
        tracker: parts.tracker,
        logs: parts.logs,
        called: parts.called,
        failed_upgrades: AtomicU32::new(0),
        trials: Arc::new(trials),
        rules,
        since: Timestamp::now(),
        origin: Mutex::new([from4, from6]),
        changed,
        wake: Mutex::new(wake),
        history: Mutex::default(),
        readers: Readers::default(),
    });
    let answering = commands.clone();
    let answer: Arc<Answer> = Arc::new(move |request, reply| answering.answer(request, reply));
    let listen = || Server::start(&config.control.socket, allowed.clone(), answer.clone());
    let mut server = listen()?;
    tracing::info!("up; control socket {}", config.control.socket.display());
    // Without systemd there is nobody to tell.
    let _ = sd_notify::notify(&[sd_notify::NotifyState::Ready]);
    while keep(config, &commands, &mut connections, woken) == Wake::Upgrade {
        // Nobody changes anything any more.
        drop(server);
        let why = upgrade(&commands, self::connections(config));
        tracing::error!("no upgrade: {why:#}");
        commands.failed_upgrades.fetch_add(1, Ordering::Relaxed);
        server = listen()?;
    }
    let _ = sd_notify::notify(&[sd_notify::NotifyState::Stopping]);
    if let Some(Err(e)) = connections.map(|mut file| file.write(&*commands.plane)) {
        tracing::error!("connections are not recorded: {e:#}");
    }
    drop(server);
    Ok(())
}

/// How often records are made.
fn every(config: &Config) -> Duration {
    Duration::from_secs(u64::from(config.state.every.max(1)))
}

/// The file for connections, if they are to outlive the daemon.
fn connections(config: &Config) -> Option<ConnectionFile> {
    let file = || ConnectionFile::new(&config.state.directory, every(config));
    config.state.connections.then(file)
}

/// Puts back connections; a daemon without them is better than none.
fn restore(file: Option<&ConnectionFile>, plane: &dyn Plane) {
    match file.map(|file| file.restore(plane)) {
        Some(Ok(Some(back))) => tracing::info!("{} connections are back", back.connections),
        Some(Err(e)) => tracing::error!("connections are not restored: {e:#}"),
        Some(Ok(None)) | None => {}
    }
}

/// Keeps records until it is time to stop, or for an upgrade.
fn keep(
    config: &Config,
    commands: &Commands,
    connections: &mut Option<ConnectionFile>,
    woken: &Receiver<Wake>,
) -> Wake {
    let every = every(config);
    let mut due = Instant::now();
    loop {
        let first = woken.recv_timeout(due.saturating_duration_since(Instant::now()));
        if first == Err(RecvTimeoutError::Disconnected) {
            return Wake::Stop;
        }
        // One record serves all changes that have come meanwhile.
        for wake in first.into_iter().chain(woken.try_iter()) {
            match wake {
                Wake::Stop | Wake::Upgrade => return wake,
                Wake::Reload => match commands.read_files() {
                    Ok(()) => tracing::info!("rules read again"),
                    Err(e) => tracing::error!("reload refused, the rules stay: {e:#}"),
                },
                Wake::Changed => {}
            }
        }
        commands.look();
        if let Err(e) = commands.trials.record() {
            tracing::error!("the rules in force are not recorded: {e:#}");
        }
        if let Some(file) = connections
            && let Err(e) = file.write_if_due(&*commands.plane)
        {
            tracing::error!("connections are not recorded: {e:#}");
        }
        due = Instant::now() + every;
    }
}
