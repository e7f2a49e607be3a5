//! The datapath on live packets: every test makes hosts in network namespaces of its own
//! and guards one of them. Needs `ip`, `tc` and `ping`, and either root or
//! `unshare -Urn`, which [`user::as_an_ordinary_user`] tries.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod busy;
mod early;
mod fast;
#[allow(dead_code, reason = "shared with the bench")]
#[path = "../../benches/forward/frames.rs"]
mod frames;
mod handing;
mod heirs;
mod inside;
mod life;
mod limits;
mod links;
mod local;
mod net;
mod owners;
mod paths;
mod queues;
mod ring;
mod router;
mod rules;
mod senders;
mod stops;
mod talk;
mod upgrade;
mod user;
mod xdp;
