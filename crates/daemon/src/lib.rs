//! The running firewall: the rules in force, the control socket, what outlives the
//! process, and what it says about itself.
#![forbid(unsafe_code)]

mod adopt;
pub mod apply;
mod bindings;
mod commands;
pub mod config;
pub mod connection;
mod connections;
pub mod control;
mod files;
mod forecast;
mod offload;
pub mod plane;
pub mod queue;
mod rules;
mod service;
mod sets;
pub mod sockets;
mod status;
mod tracker;
mod upgrade;
mod userspace;

use std::sync::{Mutex, MutexGuard, PoisonError};

pub use config::Config;
pub use connections::ConnectionFile;
pub use plane::Plane;
pub use rules::LiveRules;
pub use service::{StartPlane, run};
pub use userspace::Userspace;

/// Gives an engine's settings seeds and a hash key that nobody can foresee.
///
/// # Errors
/// The kernel gives no randomness.
pub fn seed(settings: &mut tidegate_engine::Config) -> std::io::Result<()> {
    settings.seed = unforeseen()?;
    settings.conntrack.seed = unforeseen()?;
    tidegate_sys::random(&mut settings.conntrack.hash_key)
}

/// A random number.
fn unforeseen() -> std::io::Result<u64> {
    let mut bytes = [0; 8];
    tidegate_sys::random(&mut bytes)?;
    Ok(u64::from_ne_bytes(bytes))
}

/// A lock whose holder may have failed: what it guards is changed last, as a whole.
fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
