//! `tidegate upgrade`: waits until the daemon has been succeeded.

use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use serde::Deserialize;

use crate::orders::output_of;

/// Longest wait for the successor: rules may be many.
const PATIENCE: Duration = Duration::from_secs(120);
const STEP: Duration = Duration::from_millis(50);

/// Asks for it.
///
/// # Errors
/// The daemon refuses or does not come back.
pub(crate) fn run() -> Result<()> {
    let before = daemon()?;
    output_of("upgrade", &[])?;
    let begun = Instant::now();
    // In between nobody answers.
    while begun.elapsed() < PATIENCE {
        match daemon() {
            Ok(now) if now.since != before.since => return Ok(()),
            Ok(now) if now.failed_upgrades != before.failed_upgrades => {
                bail!("the daemon goes on as it was: its log says why")
            }
            Ok(_) | Err(_) => {}
        }
        sleep(STEP);
    }
    bail!("no daemon answers since")
}

/// Which daemon is up.
#[derive(Deserialize)]
struct Daemon {
    since: String,
    /// One of an earlier version does not say.
    #[serde(default)]
    failed_upgrades: u32,
}

fn daemon() -> Result<Daemon> {
    Ok(serde_json::from_str(&output_of("status", &["--json"])?)?)
}
