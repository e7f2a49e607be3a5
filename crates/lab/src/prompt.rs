//! A shell in a lab.

use std::fs::File;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, ExitCode, ExitStatus};

use anyhow::{Context, Result, anyhow};
use nix::sched::{CloneFlags, setns};

use crate::firewall::{find, script};
use crate::runner::Lab;
use crate::scenario::{Scenario, Server};
use crate::shell::environment;
use crate::world::{HOME, ON};
use crate::{Options, programs};

/// Servers of a lab that no scenario was named for: host, command line, port.
const SERVERS: &[(&str, &str, &str)] = &[
    ("server", "tcp-server 22", "22/tcp"),
    ("server", "web-server 80", "80/tcp"),
    ("server", "ftp-server --ports 5000:5100", "21/tcp"),
    ("outside", "web-server 80", "80/tcp"),
    ("outside", "dns-server", "53/udp"),
];

/// Makes a lab and lets the user type.
///
/// # Errors
/// Something of the lab cannot be had, or there is no shell.
pub(crate) fn open(name: Option<&str>, on: Option<&str>, options: &Options) -> Result<ExitStatus> {
    let scenario = name.map(Scenario::named).transpose()?;
    let (topology, servers) = scenario.map_or_else(usual, |s| (s.topology, s.servers));
    let lab = Lab::new(&topology, &servers, options)?;
    let own = std::env::current_exe()?;
    script(
        "on",
        &format!("#!/bin/sh\nexec {} {ON} \"$@\"\n", own.display()),
    )?;
    let text = about(&lab, &servers);
    script("lab-help", &format!("#!/bin/sh\ncat <<\\END\n{text}END\n"))?;
    print!("{text}");
    let host = lab.hosts.host(on.unwrap_or(&lab.topology.firewall))?;
    let mut command = interactive()?;
    host.inside(|| command.status().context("cannot run a shell"))
}

fn usual() -> (String, Vec<Server>) {
    let servers = SERVERS.iter().map(|(on, run, port)| Server {
        on: (*on).to_owned(),
        run: (*run).to_owned(),
        port: (*port).to_owned(),
    });
    ("host".to_owned(), servers.collect())
}

/// What is where.
fn about(lab: &Lab, servers: &[Server]) -> String {
    let mut text = format!("\n{}\n\nServers:\n", lab.topology.about);
    for server in servers {
        text += &format!("  {}: {} ({})\n", server.on, server.run, server.port);
    }
    text += &format!(
        "\n{} guards the host `{}': iptables and its like work on its rules.\n\
         `on HOST COMMAND' runs a command on another host, `on HOST bash' a shell there.\n\
         Clients and servers to try, besides those of your system:\n{}\
         `lab-help' says all this again; `exit' ends the lab and leaves nothing behind.\n\n",
        lab.who,
        lab.topology.firewall,
        programs::usages()
    );
    text
}

/// The shell, with the host's name in its prompt.
fn interactive() -> Result<Command> {
    let file = Path::new(HOME).join("shellrc");
    std::fs::write(&file, "PS1='\\h\\$ '\n")?;
    let mut command = match find("bash") {
        Some(bash) => {
            let mut command = Command::new(bash);
            command
                .arg("--noprofile")
                .arg("--rcfile")
                .arg(&file)
                .arg("-i");
            command
        }
        None => {
            let mut command = Command::new("/bin/sh");
            command.arg("-i").env("ENV", &file);
            command
        }
    };
    environment(&mut command);
    Ok(command)
}

/// Runs a command on another host, from a shell in the lab.
///
/// # Errors
/// There is no such host, or no such command.
pub(crate) fn on(host: &str, words: &[String]) -> Result<ExitCode> {
    let (program, rest) = words.split_first().context("usage: on HOST COMMAND")?;
    let place = Path::new("/run/netns").join(host);
    let net = File::open(place).map_err(|_| anyhow!("there is no host {host}"))?;
    setns(&net, CloneFlags::CLONE_NEWNET)?;
    let error = Command::new(program).args(rest).exec();
    Err(error).with_context(|| program.clone())
}
