//! The configuration file.

mod sysctls;

use std::fs;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow};
use serde::{Deserialize, Serialize};
use tidegate_engine::TrackWhen;

use crate::control::{DEFAULT_SOCKET, own_socket};

pub use sysctls::Sysctls;

/// Where the file is unless told otherwise.
pub const DEFAULT_CONFIG: &str = "/etc/tidegate/tidegate.toml";

/// The file with every setting at its default, commented.
pub const SAMPLE: &str = include_str!("tidegate.toml");

/// What the daemon is told.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Rules files.
    pub rules: Rules,
    /// The control socket.
    pub control: Control,
    /// Who must never be locked out.
    pub manage: Manage,
    /// Where packets meet the rules.
    pub datapath: Datapath,
    /// What outlives the daemon.
    pub state: State,
    /// Translation for many hosts.
    pub nat: Nat,
    /// Settings by their kernel names.
    pub sysctl: Sysctls,
    /// Helper modules.
    pub modules: Modules,
    /// Where LOG and NFLOG write.
    pub log: tidegate_logs::Config,
}

/// `[rules]`
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Rules {
    /// IPv4 rules, read at start and written by `tidegate save`.
    pub v4: PathBuf,
    /// IPv6 rules.
    pub v6: PathBuf,
    /// Sets, as `ipset save` writes them. A reload makes those that are missing.
    pub sets: PathBuf,
    /// Whether a missing file is an error rather than an empty ruleset.
    pub required: bool,
    /// Which rules a start takes when the daemon before it did not end in order.
    pub after_crash: AfterCrash,
    /// Timeout policies that rules can name, read at start and written with every change.
    pub timeouts: PathBuf,
    /// Fingerprints of systems for `-m osf`, as `pf.os` has them; read at start.
    pub fingerprints: PathBuf,
}

/// Which rules come back after a crash.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum AfterCrash {
    /// Those that were in force.
    #[default]
    Running,
    /// Those of the files.
    Files,
}

impl Default for Rules {
    fn default() -> Self {
        Rules {
            v4: PathBuf::from("/etc/iptables/rules.v4"),
            v6: PathBuf::from("/etc/iptables/rules.v6"),
            sets: PathBuf::from("/etc/iptables/ipsets"),
            required: false,
            after_crash: AfterCrash::default(),
            timeouts: PathBuf::from(tidegate_tools::timeouts::FILE),
            fingerprints: PathBuf::from("/etc/tidegate/pf.os"),
        }
    }
}

/// `[control]`
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Control {
    /// Path of the socket.
    pub socket: PathBuf,
    /// A group whose members may give orders, beside root and the daemon's user.
    pub group: Option<String>,
}

impl Default for Control {
    fn default() -> Self {
        let own = own_socket().filter(|_| !nix::unistd::geteuid().is_root());
        Control {
            socket: own.unwrap_or_else(|| PathBuf::from(DEFAULT_SOCKET)),
            group: None,
        }
    }
}

/// `[manage]`
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Manage {
    /// Addresses from which this host is managed: `tidegate apply` refuses rules that
    /// stop their new connections.
    pub addresses: Vec<IpAddr>,
    /// TCP ports of this host that they must reach.
    pub ports: Vec<u16>,
}

impl Default for Manage {
    fn default() -> Self {
        Manage {
            addresses: Vec::new(),
            ports: vec![22],
        }
    }
}

/// `[datapath]`
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Datapath {
    /// Which one.
    pub kind: Kind,
    /// Interfaces to guard; none named: all there are and will be.
    pub interfaces: Vec<String>,
    /// What packets meet when the daemon dies.
    pub on_crash: OnCrash,
    /// When connections are tracked.
    pub track: Track,
    /// Whether packets come up to this process where the eBPF datapath is not to be had.
    pub fallback: bool,
    /// How received packets come up to this process.
    pub ring: Ring,
    /// Most connections that programs in the kernel have at a time, about 600 bytes each.
    pub offloaded: u32,
    /// Directory of a cgroup (version 2) whose processes hear at once of what rules drop;
    /// empty for the root of all, "none" for nobody.
    pub cgroup: String,
}

impl Default for Datapath {
    fn default() -> Self {
        Datapath {
            kind: Kind::default(),
            interfaces: Vec::new(),
            on_crash: OnCrash::default(),
            track: Track::default(),
            fallback: false,
            ring: Ring::default(),
            offloaded: tidegate_datapath::OFFLOADED,
            cgroup: String::new(),
        }
    }
}

/// A datapath.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// Packets come up to this process.
    #[default]
    Userspace,
    /// Programs in the kernel forward what the engine has decided; other packets come up.
    Ebpf,
    /// No packets.
    None,
}

/// How received packets come up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Ring {
    /// By packet sockets and their rings.
    #[default]
    Packet,
    /// By `AF_XDP` where an interface can have it; with the eBPF datapath, programs forward
    /// before the kernel looks at them.
    Xdp,
}

/// What packets meet when the daemon dies.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum OnCrash {
    /// Nothing passes until it is back.
    #[default]
    Closed,
    /// Everything passes.
    Open,
}

/// When connections are tracked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Track {
    /// As soon as a rule needs it, as in the kernel.
    #[default]
    Needed,
    /// Always.
    Always,
    /// Never: there is no table nat, and rules that need connections are refused.
    Never,
}

impl From<Track> for TrackWhen {
    fn from(track: Track) -> Self {
        match track {
            Track::Needed => TrackWhen::Needed,
            Track::Always => TrackWhen::Always,
            Track::Never => TrackWhen::Never,
        }
    }
}

/// `[state]`
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct State {
    /// Directory for what outlives the daemon.
    pub directory: PathBuf,
    /// Whether connections do.
    pub connections: bool,
    /// Seconds between two records of the connections.
    pub every: u32,
    /// Which connections that are open at a start, and that no record knows, are taken over.
    pub adopt: Adopt,
    /// Mark of those that are taken over so, by which rules can tell them; 0 for none.
    pub adopted_mark: u32,
}

/// Which connections a start takes over.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Adopt {
    /// Those of this host's own sockets.
    #[default]
    Sockets,
    /// None: the next packet of each is its first.
    None,
}

impl Default for State {
    fn default() -> Self {
        let socket = Control::default().socket;
        State {
            directory: socket.parent().unwrap_or(Path::new(".")).to_owned(),
            connections: true,
            every: 5,
            adopt: Adopt::default(),
            adopted_mark: 0,
        }
    }
}

/// `[nat]`
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Nat {
    /// Ports of the blocks in which inside hosts get their outside ports; 0 gives each
    /// connection a port of its own, as the kernel does.
    pub port_block: u16,
    /// Most blocks of a host at one outside address.
    pub blocks_per_host: u16,
    /// Which bindings are logged.
    pub log: BindingLog,
}

/// Which bindings are logged.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum BindingLog {
    /// None.
    #[default]
    None,
    /// Blocks of ports.
    Blocks,
    /// Translated connections.
    Connections,
}

impl Default for Nat {
    fn default() -> Self {
        Nat {
            port_block: 0,
            blocks_per_host: 4,
            log: BindingLog::default(),
        }
    }
}

/// `[modules]`
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Modules {
    /// Helpers to load at start, with their parameters: `nf_conntrack_ftp ports=21,2121`.
    pub load: Vec<String>,
}

impl Config {
    /// Reads a file; without a path the usual one, if it is there.
    ///
    /// # Errors
    /// The file cannot be read or says something impossible; file, line and key are
    /// named.
    pub fn read(path: Option<&Path>) -> Result<Self> {
        let usual = Path::new(DEFAULT_CONFIG);
        let path = match path {
            Some(path) => path,
            None if usual.exists() => usual,
            None => return Ok(Config::default()),
        };
        let text = fs::read_to_string(path).with_context(|| path.display().to_string())?;
        Self::parse(&text).with_context(|| path.display().to_string())
    }

    fn parse(text: &str) -> Result<Self> {
        toml::from_str(text).map_err(|e| anyhow!("{}", e.to_string().trim_end()))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    /// The sample with the comment signs taken off its settings.
    fn uncommented() -> String {
        let settings = SAMPLE
            .lines()
            .map(|line| line.strip_prefix("#:").unwrap_or(line));
        settings.collect::<Vec<_>>().join("\n")
    }

    #[test]
    fn the_sample_says_what_holds_without_it() {
        let root = Config {
            control: Control {
                socket: DEFAULT_SOCKET.into(),
                group: None,
            },
            state: State {
                directory: "/run/tidegate".into(),
                ..State::default()
            },
            ..Config::default()
        };
        assert_eq!(Config::parse(&uncommented()).unwrap(), root);
        assert_eq!(Config::parse(SAMPLE).unwrap(), Config::default());
    }

    /// Names of all settings below a table.
    fn names(table: &toml::Table) -> BTreeSet<String> {
        let mut all = BTreeSet::new();
        for (name, value) in table {
            match value {
                toml::Value::Table(below) => {
                    all.extend(names(below).iter().map(|n| format!("{name}.{n}")));
                }
                _ => {
                    all.insert(name.clone());
                }
            }
        }
        all
    }

    #[test]
    fn the_sample_has_every_setting() {
        let defaults = toml::Table::try_from(Config::default()).unwrap();
        let sample: toml::Table = toml::from_str(&uncommented()).unwrap();
        assert_eq!(names(&sample), names(&defaults));
    }

    #[test]
    fn mistakes_are_named_with_their_place() {
        for (text, wanted) in [
            ("[rules]\nv5 = \"x\"", "unknown field `v5`"),
            ("[rules]\nv5 = \"x\"", "line 2"),
            ("[datapath]\nkind = \"kernel\"", "unknown variant `kernel`"),
            ("[datapath]\non_crash = \"ajar\"", "line 2"),
            ("[state]\nevery = -1", "line 2"),
            ("[sysctl]\n\"net.x\" = \"1\"", "expected a whole number"),
            ("[sysctl]\nnet.x = true", "line 2"),
        ] {
            let error = format!("{:#}", Config::parse(text).unwrap_err());
            assert!(error.contains(wanted), "{text}: {error}");
        }
    }

    #[test]
    fn settings_have_names_with_dots_slashes_or_of_several_keys() {
        let config = Config::parse(
            "[sysctl]\n\"net.netfilter.a\" = 1\n\"net/netfilter/b\" = 2\nnet.netfilter.c = 3\n",
        );
        let sysctl = config.unwrap().sysctl.0;
        let wanted = [
            ("net.netfilter.a", 1),
            ("net.netfilter.b", 2),
            ("net.netfilter.c", 3),
        ];
        let wanted = wanted.map(|(name, value)| (name.to_owned(), value));
        assert!(sysctl.into_iter().eq(wanted));
    }
}
