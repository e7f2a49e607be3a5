//! `tidegate upgrade`: waits until the daemon has been succeeded.

use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::orders::output_of;

/// Longest wait for the successor: rules may be many.
const PATIENCE: Duration = Duration::from_secs(120);
const STEP: Duration = Duration::from_millis(50);

/// Asks for it.
///
/// # Errors
/// The daemon refuses or does not come back.
pub(crate) fn run() -> Result<()> {
    let before = since()?;
    output_of("upgrade", &[])?;
    let begun = Instant::now();
    // In between nobody answers; the same daemon does once it could not be succeeded.
    let mut silent = false;
    while begun.elapsed() < PATIENCE {
        match since() {
            Ok(now) if now != before => return Ok(()),
            Ok(_) if silent => bail!("the daemon goes on as it was: its log says why"),
            Ok(_) => {}
            Err(_) => silent = true,
        }
        sleep(STEP);
    }
    bail!("no daemon answers since")
}

/// Since when the daemon is up.
fn since() -> Result<String> {
    let status: serde_json::Value = serde_json::from_str(&output_of("status", &["--json"])?)?;
    let since = status.get("since").context("status without `since`")?;
    Ok(since.to_string())
}
