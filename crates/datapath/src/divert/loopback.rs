//! What loopback needs: the kernel must take in packets from and to its own addresses
//! that it does not remember having sent, and none may be longer than our devices carry.

use std::fs;

use anyhow::{Context, Result};

use super::links::{self, Device};

/// Settings of loopback that must be on while it is guarded.
const SETTINGS: [&str; 2] = [
    "/proc/sys/net/ipv4/conf/lo/route_localnet",
    "/proc/sys/net/ipv4/conf/lo/accept_local",
];

/// Nothing to restore.
const NOTHING: u16 = 0;

/// Loopback's usual MTU is one more than our devices carry.
const USUAL_MTU: u32 = 65536;
/// The bit that says that it was so.
const MTU_BIT: u16 = 1 << SETTINGS.len();

/// Turns the settings on. Returns what was changed, one bit each, for [`restore`].
///
/// # Errors
/// `/proc/sys` cannot be written and a setting is off.
pub(super) fn prepare(device: &Device) -> Result<u16> {
    let mut were_off = NOTHING;
    if device.mtu == USUAL_MTU {
        links::set_mtu(device.index, links::MTU).context("loopback's MTU")?;
        were_off |= MTU_BIT;
    }
    for (bit, path) in SETTINGS.iter().enumerate() {
        if fs::read_to_string(path).is_ok_and(|on| on.trim() != "0") {
            continue;
        }
        fs::write(path, "1").with_context(|| format!("{path} cannot be turned on"))?;
        were_off |= 1 << bit;
    }
    Ok(were_off)
}

/// Undoes what [`prepare`] changed on loopback, device `index`. What is read-only again,
/// or gone with its namespace, cannot be helped.
pub(super) fn restore(index: u32, were_off: u16) {
    if were_off & MTU_BIT != 0 {
        let _ = links::set_mtu(index, USUAL_MTU);
    }
    for (bit, path) in SETTINGS.iter().enumerate() {
        if were_off & 1 << bit != 0 {
            let _ = fs::write(path, "0");
        }
    }
}
