//! What clients may ask for.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::io;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::mpsc::Sender;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use anyhow::{Context, Result, anyhow};
use jiff::Timestamp;
use tidegate_engine::Shared;
use tidegate_engine::conntrack::HelperPort;
use tidegate_logs::{Logs, drops_json, drops_text};
use tidegate_tools::lists;
use tidegate_tools::nfacct;
use tidegate_tools::sysctl::TableSettings;
use tidegate_tools::views::{self, IsLocal, View};
use tidegate_tools::{HostNames, Printed, Sink, Store, Tool, modules, sysctl, timeouts};
use tidegate_wire::Family;
use tidegate_xt::matches::nfacct as accounts;

use crate::apply::{self, Trials};
use crate::config::Config;
use crate::connection::{self, Which};
use crate::control::{Reply, Request};
use crate::files;
use crate::forecast::{Forecast, History};
use crate::locked;
use crate::offload::{self, Offloaded};
use crate::plane::Plane;
use crate::queue::{self, Readers};
use crate::rules::{FAMILIES, LiveRules};
use crate::service::Wake;
use crate::sets::{self, LiveSets};
use crate::status::{Chains, ForeignRules, RulesStatus, Status};
use crate::tracker::{ForClient, LiveTracker, users_of};
use crate::upgrade::Called;

/// What a client's request can reach.
pub(crate) struct Commands {
    pub(crate) config: Config,
    pub(crate) plane: Arc<dyn Plane>,
    pub(crate) rules: Arc<LiveRules>,
    pub(crate) trials: Arc<Trials>,
    pub(crate) tracker: LiveTracker,
    pub(crate) logs: Arc<Logs>,
    pub(crate) since: Timestamp,
    /// What an upgrade calls.
    pub(crate) called: Called,
    /// Upgrades that came to nothing.
    pub(crate) failed_upgrades: AtomicU32,
    /// Where each family's rules were read from.
    pub(crate) origin: Mutex<[Option<PathBuf>; 2]>,
    /// Whether rules have been changed since they were read.
    pub(crate) changed: Arc<[AtomicBool; 2]>,
    pub(crate) wake: Mutex<Sender<Wake>>,
    /// How many connections there were.
    pub(crate) history: Mutex<History>,
    /// Who reads queues.
    pub(crate) readers: Readers,
}

type Command = fn(&Commands, &Request) -> Result<Printed>;

/// Commands that are no tools.
const COMMANDS: &[(&str, Command)] = &[
    ("status", Commands::status),
    ("save", Commands::save),
    ("reload", Commands::reload),
    ("down", Commands::down),
    ("upgrade", Commands::upgrade),
    ("apply", Commands::apply),
    ("confirm", |c, _| {
        c.trials.confirm().map(|()| Printed::default())
    }),
    ("rollback", |c, _| {
        c.trials.rollback().map(|()| Printed::default())
    }),
    ("connection", Commands::connection),
    ("sysctl", Commands::sysctl),
    ("modprobe", Commands::modprobe),
    ("lsmod", Commands::lsmod),
    ("timeout", Commands::timeout),
    ("recent", Commands::recent),
    ("hashlimit", |c, request| c.list(request, lists::hashlimit)),
    ("idletimer", |c, request| c.list(request, lists::idletimer)),
    ("led", |c, request| c.list(request, lists::led)),
    ("synproxy", |c, _| {
        let counts = c.plane.with(|engine, _| engine.synproxy())?;
        Ok(Printed {
            out: counts.table(),
            ..Printed::default()
        })
    }),
    ("osf", Commands::osf),
    ("nfacct", Commands::nfacct),
    ("offload", Commands::offload),
    ("queue", Commands::queue),
];

impl Commands {
    /// Answers a request.
    ///
    /// # Errors
    /// The client does not take the answer.
    pub(crate) fn answer(&self, request: &Request, reply: &mut Reply<'_>) -> io::Result<u8> {
        let words: Vec<&str> = request.words.iter().map(String::as_str).collect();
        let tracker = self.tracker.of(reply.caller());
        if let Some(tool) = Tool::from_name(OsStr::new(&request.name)) {
            let store = ForClient {
                rules: &self.rules,
                tracker,
                sets: LiveSets(self.plane.clone()),
            };
            let names = self.names();
            let status = tool.run_to(&words, &request.input, &store, &names, reply);
            if tool.keeps_sets() {
                // Nobody listens any more when the daemon ends.
                let _ = locked(&self.wake).send(Wake::Changed);
            }
            return Ok(status);
        }
        if let Some(view) = View::by_name(&request.name) {
            let env = self.plane.with(|engine, _| engine.env().clone());
            let env = env.map_err(io::Error::other)?;
            let is_local: IsLocal = Arc::new(move |family, addr| env.is_local(family, addr));
            return Ok(views::run(view, &words, &tracker, &is_local, reply));
        }
        if request.name == "queue"
            && let Some((_, binding)) = request.words.split_first().filter(|(w, _)| *w == "bind")
        {
            let served = queue::serve(&self.plane, &self.readers, binding, reply);
            if let Err(e) = &served {
                reply.err(&format!("tidegate: {e:#}\n"))?;
            }
            return Ok(u8::from(served.is_err()));
        }
        let command = COMMANDS.iter().find(|c| c.0 == request.name);
        let done = match command {
            Some((_, command)) => command(self, request),
            None => Err(anyhow!("this daemon knows no command `{}`", request.name)),
        };
        let printed = done.unwrap_or_else(|e| Printed {
            err: format!("tidegate: {e:#}\n"),
            status: 1,
            ..Printed::default()
        });
        reply.err(&printed.err)?;
        reply.out(&printed.out)?;
        Ok(printed.status)
    }

    fn sysctl(&self, request: &Request) -> Result<Printed> {
        let words: Vec<&str> = request.words.iter().map(String::as_str).collect();
        let settings = TableSettings(&self.tracker);
        Ok(sysctl::run(&words, &request.input, &settings))
    }

    /// How many rules give connections each helper there is.
    fn users(&self) -> Result<impl Fn(&str) -> usize + Send + 'static> {
        let mut users: HashMap<&'static str, usize> = HashMap::new();
        for family in FAMILIES {
            let look = self.rules.with(family, false, &mut |rules| {
                for name in modules::helpers() {
                    *users.entry(name).or_default() += users_of(rules, "helper", name);
                }
                Ok(false)
            });
            look.map_err(|f| anyhow!(f.render("tidegate", None)))?;
        }
        Ok(move |name: &str| users.get(name).copied().unwrap_or(0))
    }

    fn modprobe(&self, request: &Request) -> Result<Printed> {
        let words: Vec<&str> = request.words.iter().map(String::as_str).collect();
        Ok(modules::modprobe(&self.tracker, &words, &self.users()?))
    }

    fn lsmod(&self, _: &Request) -> Result<Printed> {
        let users = self.users()?;
        self.plane
            .with(move |engine, _| modules::lsmod(engine.conntrack(), &users))
    }

    /// The host's names, with the policies that are in force.
    fn names(&self) -> HostNames {
        let policies = timeouts::policies(&self.tracker).unwrap_or_default();
        HostNames::with_timeouts(timeouts::known(policies.iter()))
    }

    /// How many rules name a timeout policy.
    fn timeout_users(&self, name: &str) -> usize {
        let mut users = 0;
        for family in FAMILIES {
            let look = self.rules.with(family, false, &mut |rules| {
                users += users_of(rules, "timeout", name);
                Ok(false)
            });
            // Who cannot look must not take away what may be in use.
            users += usize::from(look.is_err());
        }
        users
    }

    fn timeout(&self, request: &Request) -> Result<Printed> {
        let words: Vec<&str> = request.words.iter().map(String::as_str).collect();
        let done = timeouts::run(&words, &self.tracker, &|name| self.timeout_users(name));
        if done.status == 0 && timeouts::changes(&words) {
            let all = timeouts::policies(&self.tracker).map_err(|e| anyhow!(e))?;
            files::write_timeouts(&self.config, &all).context("in force, but not kept")?;
        }
        Ok(done)
    }

    fn recent(&self, request: &Request) -> Result<Printed> {
        let words = request.words.clone();
        self.plane.with(move |engine, now| {
            let words: Vec<&str> = words.iter().map(String::as_str).collect();
            lists::recent(engine.shared_mut(), &words, now)
        })
    }

    /// Shows tables that rules share.
    fn list(
        &self,
        request: &Request,
        show: fn(&Shared, &[&str], u64) -> Printed,
    ) -> Result<Printed> {
        let words = request.words.clone();
        self.plane.with(move |engine, now| {
            let words: Vec<&str> = words.iter().map(String::as_str).collect();
            show(engine.shared(), &words, now)
        })
    }

    fn osf(&self, request: &Request) -> Result<Printed> {
        let (words, input) = (request.words.clone(), request.input.clone());
        self.plane.with(move |engine, _| {
            let words: Vec<&str> = words.iter().map(String::as_str).collect();
            lists::osf(engine.shared_mut(), &words, &input)
        })
    }

    fn nfacct(&self, request: &Request) -> Result<Printed> {
        let (words, input) = (request.words.clone(), request.input.clone());
        self.plane.with(move |engine, now| {
            let words: Vec<&str> = words.iter().map(String::as_str).collect();
            let users = engine.users(accounts::KIND);
            let all = accounts::all(engine.shared_mut());
            let seconds = now / 1_000_000_000;
            all.map_or_else(Printed::default, |all| {
                nfacct::run(all, &words, &input, &users, seconds)
            })
        })
    }

    fn drops(&self, json: bool) -> Result<Printed> {
        let drops = self.plane.with(|engine, _| engine.drops().clone())?;
        let lost = self.plane.report().lost;
        let out = if json {
            let mut both = drops_json(&drops, &lost);
            both["logs"] = serde_json::to_value(self.logs.status())?;
            serde_json::to_string_pretty(&both)? + "\n"
        } else {
            drops_text(&drops, &lost) + &self.logs.status().text()
        };
        Ok(Printed {
            out,
            ..Printed::default()
        })
    }

    /// Remembers how many connections there are.
    pub(crate) fn look(&self) {
        let seen = self.plane.with(|engine, _| {
            let ct = engine.conntrack();
            (ct.count(), ct.stats().created)
        });
        // Without a datapath there is nothing to see.
        if let Ok((count, created)) = seen {
            locked(&self.history).look(Instant::now(), count, created);
        }
    }

    fn status(&self, request: &Request) -> Result<Printed> {
        let json = request.words.iter().any(|w| w == "--json");
        if request.words.iter().any(|w| w == "--drops") {
            return self.drops(json);
        }
        let drift = |family| files::drift(&self.config, &self.rules, family);
        let (connections, elsewhere, config, nat_exhausted) = self.plane.with(|engine, _| {
            let ct = engine.conntrack();
            let exhausted = ct.stats().nat_exhausted;
            (ct.count(), ct.elsewhere(), ct.config().clone(), exhausted)
        })?;
        let plane = self.plane.report();
        let offloaded = (plane.kind == "ebpf").then_some(Offloaded {
            connections: elsewhere,
            most: self.config.datapath.offloaded,
        });
        let origin = locked(&self.origin).clone();
        let rules = FAMILIES.into_iter().zip(origin).zip(&*self.changed);
        let rules = rules.map(|((family, file), changed)| {
            let name = match family {
                Family::V4 => "ipv4",
                Family::V6 => "ipv6",
            };
            RulesStatus {
                family: name,
                rules: self.rules.count(family),
                file,
                changed: changed.load(Ordering::Relaxed),
            }
        });
        let status = Status {
            pid: std::process::id(),
            since: self.since,
            failed_upgrades: self.failed_upgrades.load(Ordering::Relaxed),
            socket: self.config.control.socket.clone(),
            plane,
            offloaded,
            trial: self.trials.left().map(|d| d.as_secs_f64().ceil() as u32),
            staged: self.trials.seen()?,
            rules: rules.collect(),
            connections,
            connections_max: config.max,
            nat_exhausted,
            forecast: Forecast::make(&*self.plane, &locked(&self.history))?,
            helpers: config.helpers.iter().map(helper).collect(),
            chains: Chains::of(config.max, config.buckets),
            drift: FAMILIES.into_iter().filter_map(drift).collect(),
            foreign: ForeignRules::all(),
        };
        let out = if json {
            serde_json::to_string_pretty(&status)? + "\n"
        } else {
            status.text(Timestamp::now())
        };
        Ok(Printed {
            out,
            ..Printed::default()
        })
    }

    fn offload(&self, request: &Request) -> Result<Printed> {
        let which: Which = serde_json::from_str(&request.input)?;
        let report = self.plane.report();
        let place = offload::Place {
            programs: report.kind == "ebpf",
            guarded: report.guarded.into_iter().map(|g| g.name).collect(),
            most: self.config.datapath.offloaded,
        };
        let answer = self
            .plane
            .with(move |engine, _| offload::explain(engine, which, &place))?;
        let out = match request.words.iter().any(|w| w == "--json") {
            true => serde_json::to_string_pretty(&answer)? + "\n",
            false => answer.text(),
        };
        Ok(Printed {
            out,
            ..Printed::default()
        })
    }

    fn queue(&self, request: &Request) -> Result<Printed> {
        let words: Vec<&str> = request.words.iter().map(String::as_str).collect();
        match words[..] {
            ["list"] => self.readers.list(&*self.plane, false),
            ["list", "--json"] => self.readers.list(&*self.plane, true),
            _ => Err(anyhow!("queue: `list` or `bind`")),
        }
    }

    fn apply(&self, request: &Request) -> Result<Printed> {
        let order = serde_json::from_str(&request.input)?;
        apply::run(order, &self.config, &*self.plane, &self.trials)
    }

    fn connection(&self, request: &Request) -> Result<Printed> {
        let which = serde_json::from_str(&request.input)?;
        let connection = connection::look(which, &*self.plane, &self.rules)?;
        Ok(Printed {
            out: serde_json::to_string(&connection)?,
            ..Printed::default()
        })
    }

    fn save(&self, _: &Request) -> Result<Printed> {
        self.trials.none_running()?;
        let saved = files::save_all(&self.config, &self.rules)?;
        let line = |path: &PathBuf| format!("saved {}\n", path.display());
        Ok(Printed {
            out: saved.iter().map(line).collect(),
            ..Printed::default()
        })
    }

    fn reload(&self, _: &Request) -> Result<Printed> {
        self.read_files()?;
        Ok(Printed::default())
    }

    /// Reads the rules files again; both are good, or nothing changes.
    pub(crate) fn read_files(&self) -> Result<()> {
        self.trials.none_running()?;
        let names = self.names();
        let [v4, v6] = FAMILIES;
        sets::bring(&*self.plane, sets::read(&self.config.rules.sets)?)?;
        let (v4, from4) = files::from_file(&self.config, v4, &names)?;
        let (v6, from6) = files::from_file(&self.config, v6, &names)?;
        self.rules.install([v4, v6]).map_err(files::plain)?;
        *locked(&self.origin) = [from4, from6];
        self.changed
            .iter()
            .for_each(|c| c.store(false, Ordering::Relaxed));
        Ok(())
    }

    /// Returns before it is done: the answer would not come otherwise.
    fn upgrade(&self, _: &Request) -> Result<Printed> {
        self.trials.none_running()?;
        self.called.check()?;
        locked(&self.wake).send(Wake::Upgrade)?;
        Ok(Printed::default())
    }

    fn down(&self, _: &Request) -> Result<Printed> {
        locked(&self.wake).send(Wake::Stop)?;
        Ok(Printed::default())
    }
}

fn helper(port: &HelperPort) -> String {
    format!("{} on {}", port.kind.name(), port.port)
}
