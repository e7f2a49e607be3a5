//! Everyday mistakes, as people make them: each is found, at its place, with what shows it,
//! and what is advised takes it away.
#![allow(missing_docs, clippy::unwrap_used)]

mod common;
#[path = "../support/namespace.rs"]
mod namespace;
mod packets;
mod rules;
mod running;
#[path = "../support/daemon.rs"]
mod support;
