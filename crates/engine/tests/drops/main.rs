//! Every reason for which packets go no further or are INVALID, brought about by packets.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod dropped;
mod invalid;
mod masquerade;
mod packets;
mod world;
