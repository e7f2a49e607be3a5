//! The programs in the kernel: through its verifier, and run there on packets of our own
//! (`BPF_PROG_TEST_RUN`), which meet no interface. Needs root; says so when it is not.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod fast;
mod make;
mod packets;
mod twin;
