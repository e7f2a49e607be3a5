//! The daemon with programs in the kernel on a live host with sockets of its own. Needs the
//! machine's root, `ip`, `unshare`, `nsenter`, vsftpd and iptables-legacy; every test has hosts in
//! network namespaces of its own. As busy machines leave programs little, the tests run by themselves
//! (`TIDEGATE_FAST_TESTS`), one after the other.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "../../../datapath/tests/live/busy.rs"]
mod busy;
mod ftp;
mod guarded;
#[allow(dead_code, reason = "shared with the datapath's tests")]
#[path = "../../../datapath/tests/live/host.rs"]
mod host;
mod load;
mod upgrade;
