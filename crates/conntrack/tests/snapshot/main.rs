//! Connections written down and put back.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod damage;
mod pieces;
mod relearn;
mod round_trip;
mod world;
