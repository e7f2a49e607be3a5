//! The `conntrack` tool over a table in this process.
#![allow(clippy::unwrap_used, reason = "tests over commands of their own")]

mod any_words;
mod events;
mod kernel;
mod local;
mod modules;
mod pieces;
mod samples;
mod suite;
mod sysctls;
mod views;
