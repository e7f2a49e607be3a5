//! The Tidegate program.
//!
//! Called as `iptables`, `ip6tables` or one of their `-save` and `-restore` tools, by
//! its own name or as its first argument, it behaves as that tool; see [`tools`].
//! Everything else is a command of its own.
#![forbid(unsafe_code)]

mod apply;
mod check;
mod completions;
mod course;
mod diff;
mod doc;
mod expect;
mod explain;
mod given;
mod host;
mod import;
mod lab;
mod link;
mod manual;
mod orders;
mod packets;
mod query;
mod queue;
mod release;
mod replay;
mod tools;
mod up;
mod upgrade;
mod whole;

use std::process::ExitCode;

use clap::{CommandFactory, Parser, Subcommand};

/// Large tables in large pages.
#[global_allocator]
static MEMORY: tidegate_sys::LargePages = tidegate_sys::LargePages;

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
    /// Put expectations written in files to rules.
    Test(expect::Args),
    /// Decide captured packets by old and by new rules and say what differs.
    Whatif(replay::whatif::Args),
    /// Try new rules, put them in force, and take them back unless confirmed.
    Apply(apply::Args),
    /// Keep the rules that are on trial.
    Confirm,
    /// Bring back the rules from before those on trial.
    Rollback,
    /// Stop the running firewall; packets go their own ways again.
    Down,
    /// Have the running firewall become the program that is installed now; with `--datapath ebpf`
    /// what it forwards goes on meanwhile.
    Upgrade,
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
    /// Timeout policies for `-j CT --timeout`, in the words of nfct: `timeout list`.
    #[command(alias = "nfct")]
    Timeout(orders::Words),
    /// Show or change the lists of `-m recent`: NAME, and `+ADDRESS`, `-ADDRESS` or `/`.
    Recent(orders::Words),
    /// Show the tables of `-m hashlimit`.
    Hashlimit(orders::Words),
    /// Show the timers of `-j IDLETIMER` and the seconds they have left.
    Idletimer(orders::Words),
    /// Show the lights of `-j LED`.
    Led(orders::Words),
    /// Show what `-j SYNPROXY` did, as /proc/net/stat/synproxy.
    Synproxy,
    /// Show the fingerprints of systems for `-m osf`, add those of a file (`-f pf.os`), or take them out (`-d -f pf.os`), as nfnl_osf(8).
    #[command(alias = "nfnl_osf")]
    Osf(orders::Words),
    /// Show or change the named counters of `-m nfacct`, as nfacct(8).
    Nfacct(orders::Words),
    /// Read the queues of `-j NFQUEUE` and decide their packets.
    Queue(queue::Args),
    /// Say what a match or target is for, with its options and an example.
    Doc(doc::Args),
    /// Print a script that lets a shell complete commands, iptables' among them.
    Completions(completions::Args),
    /// Write manual pages into a directory.
    Man(manual::Args),
    /// Describe the running host for `replay --host`.
    Host(host::Args),
    /// Read rules that other programs made, and say what was understood.
    Import(import::Args),
    /// Try a firewall in a small network that vanishes afterwards.
    Lab(lab::Args),
    /// Make links to this program under the tools' names in a directory.
    Link(link::Args),
    /// Look for mistakes in rules.
    Check(check::Args),
    /// Say which packets two rulesets treat differently.
    Diff(diff::Args),
    /// Ask which packets reach a rule, who can connect where, and what is open to whom.
    Query(query::Args),
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
        Command::Test(args) => expect::run(&args),
        Command::Whatif(args) => replay::whatif::run(&args),
        Command::Apply(args) => apply::run(&args),
        Command::Confirm => return orders::send("confirm", Vec::new()),
        Command::Rollback => return orders::send("rollback", Vec::new()),
        Command::Down => return orders::send("down", Vec::new()),
        Command::Upgrade => upgrade::run().map(done),
        Command::Release(args) => release::run(&args).map(done),
        Command::Sysctl(words) => return words.sysctl(),
        Command::Modprobe(words) => return words.send("modprobe"),
        Command::Lsmod => return orders::send("lsmod", Vec::new()),
        Command::Modinfo(words) => return words.modinfo(),
        Command::Ct(words) => return words.send("ct"),
        Command::Nat(words) => return words.send("nat"),
        Command::Timeout(words) => return words.send("timeout"),
        Command::Recent(words) => return words.send("recent"),
        Command::Hashlimit(words) => return words.send("hashlimit"),
        Command::Idletimer(words) => return words.send("idletimer"),
        Command::Led(words) => return words.send("led"),
        Command::Synproxy => return orders::send("synproxy", Vec::new()),
        Command::Osf(words) => return words.osf(),
        Command::Nfacct(words) => return words.nfacct(),
        Command::Queue(args) => queue::run(args),
        Command::Doc(args) => doc::run(&args).map(done),
        Command::Completions(args) => completions::run(&args, Cli::command()).map(done),
        Command::Man(args) => manual::run(&args, Cli::command()).map(done),
        Command::Host(args) => host::run(&args).map(done),
        Command::Import(args) => import::run(&args),
        Command::Lab(args) => lab::run(&args),
        Command::Link(args) => link::run(&args).map(done),
        Command::Check(args) => check::run(&args),
        Command::Diff(args) => diff::run(&args),
        Command::Query(args) => query::run(&args),
        Command::Explain(args) if args.offload => explain::offload(&args),
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
