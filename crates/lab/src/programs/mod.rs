//! The programs that scenarios run: servers and clients of everyday protocols.
//!
//! Each has a name that stands on the lab's search path, and is either a small program
//! built in here (one file each) or a script that calls the real one.

mod connect;
mod db;
mod dns;
mod ftp_client;
mod ftp_server;
mod log;
mod ping;
mod raw;
mod scan;
mod strange;
mod udp;
mod web;
mod words;

use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Result, bail};
use nix::unistd::getuid;

use crate::firewall::{find, script};
use crate::world::{BIN, PROGRAM};
use crate::{Programs, world};
use words::Words;

/// How long built-in programs, and the scripts for real ones, wait for an answer.
const PATIENCE: Duration = Duration::from_secs(2);

/// A program.
struct Program {
    name: &'static str,
    /// What it is called with.
    usage: &'static str,
    builtin: fn(&Words) -> Result<()>,
    real: Option<Real>,
}

/// The system's program of that kind.
struct Real {
    /// What must be installed.
    needs: &'static [&'static str],
    /// It insists on changing to users that a user namespace does not have.
    root: bool,
    /// A shell script, called with the program's arguments.
    script: &'static str,
}

macro_rules! real {
    ($file:literal, $root:literal, $($needs:literal),*) => {
        Some(Real {
            needs: &[$($needs),*],
            root: $root,
            script: include_str!(concat!("../real/", $file, ".sh")),
        })
    };
}

const ALL: &[Program] = &[
    Program {
        name: "tcp-server",
        usage: "PORT [--bind ADDRESS]",
        builtin: connect::serve,
        real: None,
    },
    Program {
        name: "tcp-connect",
        usage: "HOST PORT [--from ADDRESS] [--sport PORT] [--keep SECONDS]",
        builtin: connect::ask,
        real: None,
    },
    Program {
        name: "udp-server",
        usage: "PORT [--bind ADDRESS]",
        builtin: udp::serve,
        real: None,
    },
    Program {
        name: "udp-ask",
        usage: "HOST PORT [--from ADDRESS] [--sport PORT] [--count N]",
        builtin: udp::ask,
        real: None,
    },
    Program {
        name: "web-server",
        usage: "PORT",
        builtin: web::serve,
        real: real!("web-server", true, "nginx"),
    },
    Program {
        name: "web-get",
        usage: "URL",
        builtin: web::get,
        real: real!("web-get", false, "wget"),
    },
    Program {
        name: "dns-server",
        usage: "",
        builtin: dns::serve,
        real: real!("dns-server", true, "dnsmasq"),
    },
    Program {
        name: "dns-ask",
        usage: "SERVER NAME [--sport PORT]",
        builtin: dns::ask,
        real: real!("dns-ask", false, "dig"),
    },
    Program {
        name: "db-server",
        usage: "",
        builtin: db::serve,
        real: real!("db-server", true, "mariadbd", "mariadb-install-db"),
    },
    Program {
        name: "db-ask",
        usage: "HOST | --socket",
        builtin: db::ask,
        real: real!("db-ask", true, "mariadb", "mariadbd", "mariadb-install-db"),
    },
    Program {
        name: "ftp-server",
        usage: "[--port PORT] [--ports FIRST:LAST]",
        builtin: ftp_server::serve,
        real: real!("ftp-server", true, "vsftpd"),
    },
    Program {
        name: "ftp-client",
        usage: "HOST [--active] [--extended] [--port PORT] [--only login|announce|list|get|put] [--slow SECONDS]",
        builtin: ftp_client::transfer,
        real: real!("ftp-client", false, "lftp"),
    },
    Program {
        name: "ping",
        usage: "[-c COUNT] [-i SECONDS] [-W SECONDS] [-s BYTES] HOST",
        builtin: ping::ping,
        real: real!("ping", false, "ping"),
    },
    Program {
        name: "scan",
        usage: "HOST FIRST-LAST",
        builtin: scan::scan,
        real: real!("scan", false, "nmap"),
    },
    Program {
        name: "log-server",
        usage: "",
        builtin: log::serve,
        real: real!("log-server", false, "rsyslogd"),
    },
    Program {
        name: "strange",
        usage: "bad-checksum|out-of-window|no-connection HOST PORT",
        builtin: strange::send,
        real: None,
    },
];

/// Plays the built-in program that `words` name.
pub(crate) fn run(words: &[String]) -> ExitCode {
    let Some((name, rest)) = words.split_first() else {
        return ExitCode::from(2);
    };
    let Some(program) = ALL.iter().find(|p| p.name == name) else {
        eprintln!("there is no program {name}");
        return ExitCode::from(2);
    };
    let outcome = Words::read(rest).and_then(|words| (program.builtin)(&words));
    if let Err(error) = outcome {
        eprintln!("{name}: {error:#}");
        if error.is::<words::Usage>() {
            eprintln!("usage: {name} {}", program.usage);
            return ExitCode::from(2);
        }
        return ExitCode::FAILURE;
    }
    ExitCode::SUCCESS
}

/// Puts every program on the lab's search path.
///
/// # Errors
/// A real one was asked for and is not installed.
pub(crate) fn install(which: Programs) -> Result<()> {
    let own = std::env::current_exe()?;
    symlink(&own, Path::new(BIN).join("tidegate"))?;
    for program in ALL {
        let builtin = format!(
            "#!/bin/sh\nexec {} {PROGRAM} {} \"$@\"\n",
            own.display(),
            program.name
        );
        let text = match (which, &program.real) {
            (Programs::Builtin, _) | (_, None) => builtin,
            (Programs::Auto, Some(real)) if !real.usable() => builtin,
            (Programs::Real, Some(real)) if !real.usable() => {
                bail!("{} needs {} here", program.name, real.needs())
            }
            (_, Some(real)) => real.script.to_owned(),
        };
        script(program.name, &text)?;
    }
    Ok(())
}

/// Names and arguments of all programs, a line each.
pub(crate) fn usages() -> String {
    let lines = ALL.iter().map(|p| format!("  {} {}\n", p.name, p.usage));
    lines.collect()
}

impl Real {
    fn usable(&self) -> bool {
        let allowed = !self.root || !world::mapped();
        allowed && getuid().is_root() && self.needs.iter().all(|p| find(p).is_some())
    }

    fn needs(&self) -> String {
        let root = if self.root { " and root" } else { "" };
        self.needs.join(", ") + root
    }
}
