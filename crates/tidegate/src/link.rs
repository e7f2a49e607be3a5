//! `tidegate link DIR`: the tools' names as symbolic links.

use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use anyhow::Context;

use tidegate_tools::Tool;

/// Arguments of `tidegate link`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Directory for the links; existing files stay.
    directory: PathBuf,
}

/// Makes the links.
pub(crate) fn run(args: &Args) -> anyhow::Result<()> {
    into(&args.directory)
}

/// Makes the links in `directory`, which must be there.
pub(crate) fn into(directory: &Path) -> anyhow::Result<()> {
    let program = std::env::current_exe().context("cannot find this program")?;
    for tool in Tool::ALL {
        let link = directory.join(tool.name());
        symlink(&program, &link).with_context(|| format!("cannot make {}", link.display()))?;
    }
    Ok(())
}
