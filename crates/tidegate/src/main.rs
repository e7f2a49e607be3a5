//! The Tidegate program.
//!
//! Called as `iptables`, `ip6tables` or one of their `-save` and `-restore` tools, by
//! its own name or as its first argument, it behaves as that tool; see [`tools`].
//! Everything else is a command of its own.
#![forbid(unsafe_code)]

mod check;
mod course;
mod diff;
mod explain;
mod given;
mod host;
mod lab;
mod link;
mod orders;
mod packets;
mod release;
mod replay;
mod tools;
mod up;
mod whole;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// A stateful firewall with the language of iptables.
#[derive(Debug, Parser)]
#[command(version, after_help = tools::HELP)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

/// Commands of the program itself.
#[derive(Debug, Subcommand)]
enum Command {
    /// Run the firewall in the foreground.
    Up(up::Args),
    /// Say what the running firewall enforces, and what not.
    Status(orders::Status),
    /// Write the rules in force to the rules files that are read at start.
    Save,
    /// Read the rules files again.
    Reload,
    /// Stop the running firewall; packets go their own ways again.
    Down,
    /// Let packets pass again after the firewall has been killed.
    Release(release::Args),
    /// Show or set connection tracking's settings by their kernel names, as sysctl(8).
    Sysctl(orders::Words),
    /// Load or unload (-r) a helper by its module's name.
    Modprobe(orders::Words),
    /// List loaded helpers.
    Lsmod,
    /// Describe a helper.
    Modinfo(orders::Words),
    /// Connections as operators of eBPF datapaths list them: `ct list`.
    Ct(orders::Words),
    /// Translations in the same way: `nat list`.
    Nat(orders::Words),
    /// Describe the running host for `replay --host`.
    Host(host::Args),
    /// Try a firewall in a small network that vanishes afterwards.
    Lab(lab::Args),
    /// Make links to this program under the tools' names in a directory.
    Link(link::Args),
    /// Look for mistakes in rules.
    Check(check::Args),
    /// Say which packets two rulesets treat differently.
    Diff(diff::Args),
    /// Say what the rules do to a packet described in words, and why.
    Explain(explain::Args),
    /// Decide every packet of captures by rules.
    Replay(replay::Args),
}

fn main() -> ExitCode {
    let words: Vec<_> = std::env::args_os().collect();
    if let Some(code) = tidegate_lab::hidden(&words) {
        return code;
    }
    if let Some(call) = tools::Call::recognize(&words) {
        return call.run();
    }
    let done = |()| ExitCode::SUCCESS;
    let outcome = match Cli::parse().command {
        Command::Up(args) => up::run(&args).map(done),
        Command::Status(args) => return orders::send("status", args.words()),
        Command::Save => return orders::send("save", Vec::new()),
        Command::Reload => return orders::send("reload", Vec::new()),
        Command::Down => return orders::send("down", Vec::new()),
        Command::Release(args) => release::run(&args).map(done),
        Command::Sysctl(words) => return words.sysctl(),
        Command::Modprobe(words) => return words.send("modprobe"),
        Command::Lsmod => return orders::send("lsmod", Vec::new()),
        Command::Modinfo(words) => return words.modinfo(),
        Command::Ct(words) => return words.send("ct"),
        Command::Nat(words) => return words.send("nat"),
        Command::Host(args) => host::run(&args).map(done),
        Command::Lab(args) => lab::run(&args),
        Command::Link(args) => link::run(&args).map(done),
        Command::Check(args) => check::run(&args),
        Command::Diff(args) => diff::run(&args),
        Command::Explain(args) => explain::run(&args).map(done),
        Command::Replay(args) => replay::run(&args).map(done),
    };
    match outcome {
        Ok(code) => code,
        Err(error) => {
            eprintln!("tidegate: {error:#}");
            ExitCode::FAILURE
        }
    }
}
