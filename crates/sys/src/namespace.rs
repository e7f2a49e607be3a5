//! Network namespaces held by file descriptor.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::thread;

use rustix::thread::{LinkNameSpaceType, UnshareFlags, move_into_link_name_space};

/// The network namespace of the thread that opens it.
const OWN: &str = "/proc/thread-self/ns/net";

/// A network namespace; it lives at least as long as this.
#[derive(Debug)]
pub struct Namespace(OwnedFd);

impl Namespace {
    /// A new namespace that nothing is in yet but its loopback interface, down. The
    /// calling thread stays where it is.
    ///
    /// # Errors
    /// No permission (`CAP_SYS_ADMIN`), no `/proc`.
    pub fn new() -> io::Result<Self> {
        aside(|| {
            // SAFETY: only the network namespace of this thread, which ends here, is
            // unshared; file descriptors stay shared.
            unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWNET)? };
            Self::current()
        })
    }

    /// The calling thread's namespace.
    ///
    /// # Errors
    /// No `/proc`.
    pub fn current() -> io::Result<Self> {
        Ok(Namespace(File::open(OWN)?.into()))
    }

    /// Does `work` inside: sockets made there stay there.
    ///
    /// # Errors
    /// The namespace cannot be entered, or what `work` fails with.
    pub fn run<R: Send>(&self, work: impl FnOnce() -> io::Result<R> + Send) -> io::Result<R> {
        aside(|| {
            move_into_link_name_space(self.0.as_fd(), Some(LinkNameSpaceType::Network))?;
            work()
        })
    }
}

impl AsFd for Namespace {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Does `work` on a thread of its own, which takes its namespace with it when it ends.
fn aside<R: Send>(work: impl FnOnce() -> io::Result<R> + Send) -> io::Result<R> {
    thread::scope(|scope| {
        let other = thread::Builder::new().spawn_scoped(scope, work)?;
        other
            .join()
            .unwrap_or_else(|_| Err(io::Error::other("panic in another namespace")))
    })
}
