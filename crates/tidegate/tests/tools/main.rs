//! The iptables tools as a user runs them.

mod common;
mod errors;
mod kernel;
mod offline;
mod round_trip;
mod samples;
mod suite;
