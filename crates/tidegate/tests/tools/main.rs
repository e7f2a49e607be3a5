//! The iptables tools as a user runs them.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;
mod errors;
mod files;
mod kernel;
mod listings;
mod offline;
mod places;
mod round_trip;
mod samples;
mod suite;
