//! Settings of the kernel that a guarded interface needs, restored at the end.
//!
//! Loopback must take in packets from and to this host's own addresses that it does not
//! remember having sent, none longer than our devices carry. Other interfaces must take
//! in a copy of what this host itself sends to everybody or to a group.

use std::fs;

use anyhow::{Context, Result};

use super::links::{self, Device, Framing};

/// What must be on, below `/proc/sys/net/ipv4/conf/DEVICE`: for all, and for loopback.
const SETTINGS: [&str; 2] = ["accept_local", "route_localnet"];

/// Loopback's usual MTU is one more than our devices carry.
const USUAL_MTU: u32 = 65536;
/// The bit that says that it was so.
const MTU_BIT: u16 = 1 << SETTINGS.len();

fn path(device: &Device, setting: &str) -> String {
    format!("/proc/sys/net/ipv4/conf/{}/{setting}", device.name)
}

/// Turns on what `device` needs. Returns what was changed, one bit each, for [`restore`].
///
/// # Errors
/// Loopback's settings cannot be turned on. Of other interfaces nothing depends on them
/// but hearing oneself.
pub(super) fn prepare(device: &Device) -> Result<u16> {
    let loopback = device.framing == Some(Framing::Loopback);
    let mut changed = 0;
    if loopback && device.mtu == USUAL_MTU {
        links::set_mtu(device.index, links::MTU).context("loopback's MTU")?;
        changed |= MTU_BIT;
    }
    let wanted = if loopback { SETTINGS.len() } else { 1 };
    for (bit, setting) in SETTINGS.iter().take(wanted).enumerate() {
        let path = path(device, setting);
        if fs::read_to_string(&path).is_ok_and(|on| on.trim() != "0") {
            continue;
        }
        match fs::write(&path, "1") {
            Ok(()) => changed |= 1 << bit,
            Err(e) if loopback => {
                return Err(e).with_context(|| format!("{path} cannot be turned on"));
            }
            Err(_) => {}
        }
    }
    Ok(changed)
}

/// Undoes what [`prepare`] changed on `device`. What is read-only again, or gone with its
/// namespace, cannot be helped.
pub(super) fn restore(device: &Device, changed: u16) {
    if changed & MTU_BIT != 0 {
        let _ = links::set_mtu(device.index, USUAL_MTU);
    }
    for (bit, setting) in SETTINGS.iter().enumerate() {
        if changed & 1 << bit != 0 {
            let _ = fs::write(path(device, setting), "0");
        }
    }
}
