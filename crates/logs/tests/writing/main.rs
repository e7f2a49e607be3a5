//! What comes out at the targets.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod captures;
mod common;
mod lines;
mod programs;
mod trouble;
