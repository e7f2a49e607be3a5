//! One host of a lab: a network namespace with a name, and programs in it.

use std::fs::File;
use std::path::Path;
use std::thread;

use anyhow::{Context, Result, anyhow};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, setns, unshare};
use nix::unistd::sethostname;

use crate::rtnl;

/// What is set on every host: no waiting for duplicate addresses, no unasked-for
/// packets, every ICMP error sent, ping for everybody.
const SETTINGS: &[(&str, &str)] = &[
    ("net/ipv4/icmp_ratelimit", "0"),
    ("net/ipv4/icmp_msgs_per_sec", "100000"),
    ("net/ipv4/ping_group_range", "0 0"),
    ("net/ipv6/conf/all/accept_dad", "0"),
    ("net/ipv6/conf/default/accept_dad", "0"),
    ("net/ipv6/conf/all/router_solicitations", "0"),
    ("net/ipv6/conf/default/router_solicitations", "0"),
    (
        "net/ipv6/conf/default/mldv2_unsolicited_report_interval",
        "0",
    ),
];

/// What a router has besides.
const ROUTER: &[(&str, &str)] = &[
    ("net/ipv4/ip_forward", "1"),
    ("net/ipv6/conf/all/forwarding", "1"),
];

/// A host; it lasts as long as this or a process in it.
pub(crate) struct Host {
    pub(crate) name: String,
    net: File,
    uts: File,
}

impl Host {
    /// Makes a host that has nothing but `lo`.
    ///
    /// # Errors
    /// The kernel refuses the namespace or its settings.
    pub(crate) fn new(name: &str, forwards: bool) -> Result<Self> {
        let made = thread::scope(|scope| {
            let work = scope.spawn(|| -> Result<Host> {
                unshare(CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWUTS)
                    .context("cannot make a network namespace")?;
                sethostname(name)?;
                settle(forwards);
                rtnl::up("lo")?;
                show(name);
                Ok(Host {
                    name: name.to_owned(),
                    net: File::open("/proc/thread-self/ns/net")?,
                    uts: File::open("/proc/thread-self/ns/uts")?,
                })
            });
            work.join()
        });
        made.map_err(|_| anyhow!("making {name}: panicked"))?
    }

    /// Does `work` in this host: sockets and processes made there belong to it.
    ///
    /// # Errors
    /// Those of `work`; the host cannot be entered.
    pub(crate) fn inside<R: Send>(&self, work: impl FnOnce() -> Result<R> + Send) -> Result<R> {
        let done = thread::scope(|scope| {
            scope
                .spawn(|| {
                    setns(&self.net, CloneFlags::CLONE_NEWNET)?;
                    setns(&self.uts, CloneFlags::CLONE_NEWUTS)?;
                    work()
                })
                .join()
        });
        done.map_err(|_| anyhow!("{}: panicked", self.name))?
    }

    /// The network namespace.
    pub(crate) const fn net(&self) -> &File {
        &self.net
    }
}

/// Settings that this kernel does not have, or that are not ours, stay as they are.
fn settle(forwards: bool) {
    let more = if forwards { ROUTER } else { &[] };
    for (name, value) in SETTINGS.iter().chain(more) {
        let _ = std::fs::write(Path::new("/proc/sys").join(name), value);
    }
}

/// Lets `ip netns exec NAME` find the calling thread's namespace.
fn show(name: &str) {
    const NONE: Option<&str> = None;
    let place = Path::new("/run/netns").join(name);
    if File::create(&place).is_ok() {
        let own = Some("/proc/thread-self/ns/net");
        let _ = mount(own, &place, NONE, MsFlags::MS_BIND, NONE);
    }
}
