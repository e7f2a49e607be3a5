//! `tidegate release`: opens what a killed firewall has left closed.

use anyhow::{Context, Result};

/// What `tidegate release --help` ends with.
const HELP: &str = "\
A firewall that is killed leaves its interfaces closed, or opens them: see `tidegate up
--on-crash`. This opens them. The next `tidegate up` takes over closed interfaces as they
are, without an open moment; it needs no release. A running firewall is stopped with
`tidegate down`.

Exit status: 0 everything passes; 1 not, and why.";

/// Arguments of `tidegate release`.
#[derive(Debug, clap::Args)]
#[command(after_help = HELP)]
pub(crate) struct Args {
    /// Wait until standard input ends; do nothing if a byte came before.
    #[arg(long, hide = true)]
    when_orphaned: bool,
}

/// Opens the interfaces of this network namespace.
///
/// # Errors
/// No permission, or a firewall is running here.
pub(crate) fn run(args: &Args) -> Result<()> {
    if args.when_orphaned {
        tidegate_datapath::watch().context("opening the interfaces after a crash")?;
        return Ok(());
    }
    match tidegate_datapath::release()? {
        0 => println!("no interface was closed"),
        1 => println!("1 interface is open again"),
        n => println!("{n} interfaces are open again"),
    }
    Ok(())
}
