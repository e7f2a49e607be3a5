//! The bodies of the fuzz targets: bytes in, a panic when something that must always
//! hold does not.
//!
//! `fuzz/` gives them to libFuzzer; the test of this crate gives them the committed
//! corpora, so that every input that once failed stays a regression test.
#![forbid(unsafe_code)]

mod capture;
mod engine;
mod ftp;
mod gate;
mod helpers;
mod input;
mod packets;
mod rules;
mod sets;
mod snapshot;
mod trackers;
mod way;
mod wire;

pub use capture::capture;
pub use engine::engine;
pub use ftp::ftp;
pub use helpers::helpers;
pub use rules::{commands, rules};
pub use sets::sets;
pub use snapshot::snapshot;
pub use trackers::trackers;
pub use wire::wire;

/// A target: fails by panicking.
pub type Target = fn(&[u8]);

/// All targets by name, as `fuzz/` and its corpora call them.
pub const TARGETS: [(&str, Target); 10] = [
    ("capture", capture),
    ("commands", commands),
    ("engine", engine),
    ("ftp", ftp),
    ("helpers", helpers),
    ("rules", rules),
    ("sets", sets),
    ("snapshot", snapshot),
    ("trackers", trackers),
    ("wire", wire),
];
