//! Connections of a running daemon as its clients see them: `conntrack`, the views,
//! settings, helper modules, drops and logs.
#![allow(missing_docs, clippy::unwrap_used)]

#[path = "../support/daemon.rs"]
mod support;

mod busy;
mod events;
mod live;
mod logs;
mod modules;
mod settings;
mod slow;
mod status;
mod suite;
mod timeouts;
mod tool;
mod views;

use std::process::Output;

/// What a run printed to standard error.
fn err(run: &Output) -> String {
    String::from_utf8(run.stderr.clone()).unwrap()
}

/// What a run printed to standard output.
fn out(run: &Output) -> String {
    String::from_utf8(run.stdout.clone()).unwrap()
}
