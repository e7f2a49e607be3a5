//! The running firewall: the rules in force, the control socket, what outlives the
//! process, and what it says about itself.
#![forbid(unsafe_code)]

mod commands;
pub mod config;
pub mod control;
mod files;
pub mod plane;
mod rules;
mod service;
mod status;

use std::sync::{Mutex, MutexGuard, PoisonError};

pub use config::Config;
pub use plane::Plane;
pub use rules::LiveRules;
pub use service::{StartPlane, run};

/// A lock whose holder may have failed: what it guards is changed last, as a whole.
fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
