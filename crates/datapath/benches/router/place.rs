//! A router between an inside and an outside, and who guards it.

use rustix::thread::{CpuSet, sched_setaffinity};
use tidegate_datapath::{Fate, Options, Ring};

use crate::net::{Guard, Host, filter};

/// Where the sender is, and where the router is: a core each.
pub(crate) const SENDER: usize = 0;
pub(crate) const ROUTER: usize = 1;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Firewall {
    None,
    /// One of Debian's two, by the name of its restore.
    Iptables(&'static str),
    Tidegate(Ring),
    /// With programs in front, in traffic control or before the kernel.
    Fast(Ring),
    /// With programs that leave everything to the daemon: there is a raw table.
    Kept,
}

impl Firewall {
    pub(crate) const ALL: [Firewall; 8] = [
        Firewall::None,
        Firewall::Iptables("iptables-legacy-restore"),
        Firewall::Iptables("iptables-nft-restore"),
        Firewall::Tidegate(Ring::Packet),
        Firewall::Tidegate(Ring::Xdp),
        Firewall::Kept,
        Firewall::Fast(Ring::Packet),
        Firewall::Fast(Ring::Xdp),
    ];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Firewall::None => "kernel alone",
            Firewall::Iptables(restore) => restore.trim_end_matches("-restore"),
            Firewall::Tidegate(Ring::Packet) => "tidegate, packet rings",
            Firewall::Tidegate(Ring::Xdp) => "tidegate, AF_XDP",
            Firewall::Kept => "tidegate, TCX, nothing left to the kernel",
            Firewall::Fast(Ring::Packet) => "tidegate, TCX",
            Firewall::Fast(Ring::Xdp) => "tidegate, XDP",
        }
    }
}

/// In each chain a hundred rules of which established packets meet the first and new ones the
/// last.
fn rules() -> String {
    let mut all = Vec::new();
    for chain in ["FORWARD", "INPUT"] {
        all.push(format!(
            "-A {chain} -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT"
        ));
        all.extend((1..99).map(|i| {
            format!(
                "-A {chain} -s 192.0.2.{i}/32 -p tcp -m tcp --dport {} -j DROP",
                1000 + i
            )
        }));
        all.push(format!("-A {chain} -m conntrack --ctstate NEW -j ACCEPT"));
    }
    let lines: Vec<&str> = all.iter().map(String::as_str).collect();
    filter(&lines)
}

/// All that the datapath does it does on the router's core.
fn guard(router: &Host, fast: bool, ring: Ring, more: &str) -> Result<Guard, String> {
    pin(Some(ROUTER));
    let options = Options {
        fast,
        ring,
        ..Options::default()
    };
    let guard = router.guard_with(options, &(rules() + more), &filter(&[]));
    pin(None);
    let notes = guard.datapath.report().notes;
    match notes.into_iter().find(|n| n.contains("XDP")) {
        Some(why) => Err(why),
        None => Ok(guard),
    }
}

/// Inside 10.0.0.2 behind the router's `eth0` (.1), outside 10.1.0.2 behind its `eth1`.
pub(crate) struct Place {
    pub(crate) inside: Host,
    pub(crate) router: Host,
    pub(crate) outside: Host,
    pub(crate) guard: Option<Guard>,
}

/// The router's addresses on both links.
pub(crate) const ROUTER_MACS: [[u8; 6]; 2] = [[2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 1, 1]];
/// Somebody outside, and inside, who is not there: packets for them end at the link.
pub(crate) const GHOST_OUT: [u8; 4] = [10, 1, 0, 3];

impl Place {
    pub(crate) fn new(firewall: Firewall) -> Result<Self, String> {
        let (inside, router, outside) = (Host::new(), Host::new(), Host::new());
        inside.link("eth0", &router, "eth0");
        outside.link("eth0", &router, "eth1");
        router.sh("
            sysctl -qw net.ipv4.ip_forward=1
            ip link set eth0 address 02:00:00:00:00:01
            ip link set eth1 address 02:00:00:00:01:01
            ip addr add 10.0.0.1/24 dev eth0; ip addr add 10.1.0.1/24 dev eth1
            ip neigh add 10.1.0.3 lladdr 02:00:00:00:01:99 dev eth1 nud permanent
            ip neigh add 10.0.0.3 lladdr 02:00:00:00:00:99 dev eth0 nud permanent
        ");
        inside.sh("ip addr add 10.0.0.2/24 dev eth0; ip route add default via 10.0.0.1");
        outside.sh("ip addr add 10.1.0.2/24 dev eth0; ip route add default via 10.1.0.1");
        // Takes what is redirected to it, as cards do.
        if firewall == Firewall::Fast(Ring::Xdp) {
            for host in [&inside, &outside] {
                host.sh("ethtool -K eth0 gro on");
            }
        }
        if let Firewall::Iptables(restore) = firewall {
            let file = tempfile::NamedTempFile::new().unwrap();
            std::fs::write(file.path(), rules()).unwrap();
            let lock = tempfile::NamedTempFile::new().unwrap();
            router.try_sh(&format!(
                "XTABLES_LOCKFILE={} {restore} {}",
                lock.path().display(),
                file.path().display()
            ))?;
        }
        let guard = match firewall {
            Firewall::Tidegate(ring) => Some(guard(&router, false, ring, "")?),
            Firewall::Fast(ring) => Some(guard(&router, true, ring, "")?),
            Firewall::Kept => {
                let raw = "*raw\nCOMMIT\n";
                Some(guard(&router, true, Ring::Packet, raw)?)
            }
            Firewall::None | Firewall::Iptables(_) => None,
        };
        let place = Place {
            inside,
            router,
            outside,
            guard,
        };
        // What the kernel forwards it forwards on the router's core.
        if place.guard.is_none() {
            place.steer(1 << ROUTER);
        }
        Ok(place)
    }

    /// Has what the router receives handled by some cores; by those that it comes by with 0.
    pub(crate) fn steer(&self, cores: u32) {
        let steer = format!(
            "
            mount -t sysfs none /sys
            for dev in eth0 eth1; do
                echo {cores:x} > /sys/class/net/$dev/queues/rx-0/rps_cpus
            done
        "
        );
        self.router.sh(&format!("unshare -m sh -ec '{steer}'"));
    }

    /// Does something, and says how many in a hundred packets that programs have seen meanwhile
    /// they have let go from this host's sockets; 0 without programs.
    pub(crate) fn kernels_share<R>(&self, work: impl FnOnce() -> R) -> (R, f64) {
        let look = || {
            let fates = self.guard.as_ref().map(|g| g.datapath.report().fates);
            fates
                .into_iter()
                .flatten()
                .fold([0; 2], |[sent, all], (fate, n)| {
                    [sent + if fate == Fate::Sent { n } else { 0 }, all + n]
                })
        };
        let before = look();
        let done = work();
        let after = look();
        let [sent, all] = [0, 1].map(|i| after[i] - before[i]);
        (done, 100.0 * sent as f64 / all.max(1) as f64)
    }

    pub(crate) fn end(self) {
        if let Some(guard) = self.guard {
            for name in ["eth0", "eth1"] {
                let traffic = guard.traffic(name);
                if env_says("VERBOSE") {
                    eprintln!("{name}: {traffic:?}");
                }
            }
            guard.datapath.stop().unwrap();
        }
        drop(self.router);
    }
}

fn env_says(name: &str) -> bool {
    std::env::var_os(name).is_some()
}

/// Keeps the calling thread, and those it starts, on one core.
pub(crate) fn pin(core: Option<usize>) {
    let mut set = CpuSet::new();
    for cpu in 0..CpuSet::MAX_CPU.min(64) {
        if core.is_none_or(|c| c == cpu) {
            set.set(cpu);
        }
    }
    // On a machine with one core everything is there.
    let _ = sched_setaffinity(None, &set);
}
