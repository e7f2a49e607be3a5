//! What clients may ask for.

use std::ffi::OsStr;
use std::io;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::Sender;
use std::sync::{Arc, Mutex};

use anyhow::Result;
use jiff::Timestamp;
use tidegate_engine::conntrack::HelperPort;
use tidegate_tools::{HostNames, Printed, Tool};
use tidegate_wire::Family;

use crate::config::Config;
use crate::control::{Reply, Request};
use crate::files;
use crate::locked;
use crate::plane::Plane;
use crate::rules::{FAMILIES, LiveRules};
use crate::service::Wake;
use crate::status::{RulesStatus, Status};

/// What a client's request can reach.
pub(crate) struct Commands {
    pub(crate) config: Config,
    pub(crate) plane: Arc<dyn Plane>,
    pub(crate) rules: Arc<LiveRules>,
    pub(crate) since: Timestamp,
    /// Where each family's rules were read from.
    pub(crate) origin: Mutex<[Option<PathBuf>; 2]>,
    /// Whether rules have been changed since they were read.
    pub(crate) changed: Arc<[AtomicBool; 2]>,
    pub(crate) wake: Mutex<Sender<Wake>>,
}

type Command = fn(&Commands, &Request) -> Result<Printed>;

/// Commands that are no tools.
const COMMANDS: &[(&str, Command)] = &[
    ("status", Commands::status),
    ("save", Commands::save),
    ("reload", Commands::reload),
    ("down", Commands::down),
];

impl Commands {
    /// Answers a request.
    ///
    /// # Errors
    /// The client does not take the answer.
    pub(crate) fn answer(&self, request: &Request, reply: &mut Reply<'_>) -> io::Result<u8> {
        let printed = self.printed(request);
        reply.err(&printed.err)?;
        reply.out(&printed.out)?;
        Ok(printed.status)
    }

    fn printed(&self, request: &Request) -> Printed {
        if let Some(tool) = Tool::from_name(OsStr::new(&request.name)) {
            let words: Vec<&str> = request.words.iter().map(String::as_str).collect();
            let names = HostNames::default();
            return tool.run(&words, &request.input, &*self.rules, &names);
        }
        let command = COMMANDS.iter().find(|c| c.0 == request.name);
        let done = match command {
            Some((_, command)) => command(self, request),
            None => Err(anyhow::anyhow!(
                "this daemon knows no command `{}`",
                request.name
            )),
        };
        done.unwrap_or_else(|e| Printed {
            err: format!("tidegate: {e:#}\n"),
            status: 1,
            ..Printed::default()
        })
    }

    fn status(&self, request: &Request) -> Result<Printed> {
        let (connections, connections_max, helpers) = self.plane.with(|engine, _| {
            let ct = engine.conntrack();
            (ct.count(), ct.config().max, ct.config().helpers.clone())
        })?;
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
            socket: self.config.control.socket.clone(),
            plane: self.plane.report(),
            rules: rules.collect(),
            connections,
            connections_max,
            helpers: helpers.iter().map(helper).collect(),
        };
        let json = request.words.iter().any(|w| w == "--json");
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

    fn save(&self, _: &Request) -> Result<Printed> {
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
        let [v4, v6] = FAMILIES;
        let read = [
            files::from_file(&self.config, v4)?,
            files::from_file(&self.config, v6)?,
        ];
        let mut origin = locked(&self.origin);
        for ((rules, file), origin) in read.into_iter().zip(origin.iter_mut()) {
            let failed = |f: tidegate_syntax::Failure| anyhow::anyhow!(f.render("tidegate", None));
            self.rules.install(rules).map_err(failed)?;
            *origin = file;
        }
        self.changed
            .iter()
            .for_each(|c| c.store(false, Ordering::Relaxed));
        Ok(())
    }

    fn down(&self, _: &Request) -> Result<Printed> {
        locked(&self.wake).send(Wake::Stop)?;
        Ok(Printed::default())
    }
}

fn helper(port: &HelperPort) -> String {
    format!("{} on {}", port.kind.name(), port.port)
}
