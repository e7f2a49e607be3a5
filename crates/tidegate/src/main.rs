//! The Tidegate program.
//!
//! Called as `iptables`, `ip6tables` or one of their `-save` and `-restore` tools, by
//! its own name or as its first argument, it behaves as that tool; see [`tools`].
//! Everything else is a command of its own.
#![forbid(unsafe_code)]

mod host;
mod link;
mod replay;
mod tools;

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
    /// Describe the running host for `replay --host`.
    Host(host::Args),
    /// Make links to this program under the tools' names in a directory.
    Link(link::Args),
    /// Decide every packet of captures by rules.
    Replay(replay::Args),
}

fn main() -> ExitCode {
    let words: Vec<_> = std::env::args_os().collect();
    if let Some(call) = tools::Call::recognize(&words) {
        return call.run();
    }
    let outcome = match Cli::parse().command {
        Command::Host(args) => host::run(&args),
        Command::Link(args) => link::run(&args),
        Command::Replay(args) => replay::run(&args),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("tidegate: {error:#}");
            ExitCode::FAILURE
        }
    }
}
