//! `tidegate host`: a description of the running host.

use std::fs;
use std::io::Write;
use std::path::PathBuf;

use anyhow::{Context, Result};

/// Arguments of `tidegate host`.
#[derive(Debug, clap::Args)]
#[command(after_help = HELP)]
pub(crate) struct Args {
    /// Write here instead of to standard output.
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
}

/// What `tidegate host --help` ends with.
const HELP: &str = "\
Interfaces, addresses, routes, policy-routing rules and sysctls of this process's
network namespace are described; what the description cannot say is in comments.

Examples:
  tidegate host --out HOST.toml
  ip netns exec web tidegate host
  tidegate replay --rules web.rules --host HOST.toml eth0.pcap
  tidegate replay --rules web.rules --host live eth0.pcap

Exit status: 0 done; 1 the kernel does not tell, or FILE cannot be written; 2 the
command line is wrong.";

/// Describes the running host.
///
/// # Errors
/// The kernel does not tell, or output fails.
pub(crate) fn run(args: &Args) -> Result<()> {
    let text = tidegate_host::describe_running()?;
    match &args.out {
        Some(path) => fs::write(path, text).with_context(|| path.display().to_string()),
        None => Ok(std::io::stdout().write_all(text.as_bytes())?),
    }
}
