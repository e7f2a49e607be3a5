//! What may be configured: the `[log]` section of the daemon's file.

use std::net::SocketAddr;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// Where logs go and how much of them. An empty path switches its target off.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Name that lines carry, `kernel` by default: programs that read firewall logs look
    /// for lines of the kernel.
    pub tag: String,
    /// This host's name in lines that need one; empty for the host's own.
    pub hostname: String,
    /// Datagram socket of the local syslog, `/dev/log` by default.
    pub syslog: PathBuf,
    /// Datagram socket of the journal in its native protocol; off by default, since the
    /// journal reads `/dev/log` too. Usually `/run/systemd/journal/socket`.
    pub journal: PathBuf,
    /// Syslogs on other hosts.
    pub remote: Vec<Remote>,
    /// A file of lines.
    pub file: LogFile,
    /// Captures of NFLOG.
    pub nflog: Captures,
    /// Most lines.
    pub limit: Limit,
    /// What may wait to be written.
    pub queue: Queue,
}

impl Default for Config {
    fn default() -> Self {
        Config {
            tag: "kernel".to_owned(),
            hostname: String::new(),
            syslog: PathBuf::from("/dev/log"),
            journal: PathBuf::new(),
            remote: Vec::new(),
            file: LogFile::default(),
            nflog: Captures::default(),
            limit: Limit {
                per_second: 100,
                burst: 1000,
            },
            queue: Queue::default(),
        }
    }
}

/// A syslog on another host, over UDP. Its packets meet the rules like any others: a
/// rule that logs them makes more of them, up to the limit.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Remote {
    /// Address and port, `192.0.2.1:514`.
    pub address: SocketAddr,
    /// How lines are framed.
    #[serde(default)]
    pub format: Format,
}

/// How a syslog message looks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// `<4>Nov 25 10:00:00 host kernel: …`, in local time.
    #[default]
    Rfc3164,
    /// `<4>1 2026-11-25T10:00:00.000000Z host kernel - - - …`.
    Rfc5424,
}

/// A file of lines as a syslog writes them.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct LogFile {
    /// The file; none by default. Older ones are `FILE.1`, `FILE.2` and so on.
    pub path: PathBuf,
    /// Bytes after which a new file begins.
    pub size: u64,
    /// Older files kept.
    pub keep: u32,
}

impl Default for LogFile {
    fn default() -> Self {
        LogFile {
            path: PathBuf::new(),
            size: 16 << 20,
            keep: 4,
        }
    }
}

/// Capture files: `nflog-GROUP.pcapng`, older ones `nflog-GROUP.1.pcapng` and so on.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Captures {
    /// Directory, `/var/log/tidegate` by default.
    pub directory: PathBuf,
    /// Bytes after which a new file begins.
    pub size: u64,
    /// Older files kept of a group.
    pub keep: u32,
    /// Most groups that get files; packets of others are lost.
    pub groups: usize,
    /// Most packets, all groups together.
    pub limit: Limit,
}

impl Default for Captures {
    fn default() -> Self {
        Captures {
            directory: PathBuf::from("/var/log/tidegate"),
            size: 16 << 20,
            keep: 4,
            groups: 64,
            limit: Limit {
                per_second: 5000,
                burst: 10_000,
            },
        }
    }
}

/// So many in the long run, and so many at once after a quiet time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Limit {
    /// In the long run; 0 is unlimited.
    pub per_second: u32,
    /// At once; at least 1.
    pub burst: u32,
}

/// What may wait to be written; what comes on top is lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Queue {
    /// Lines and packets.
    pub messages: usize,
    /// Their bytes.
    pub bytes: usize,
}

impl Default for Queue {
    fn default() -> Self {
        Queue {
            messages: 8192,
            bytes: 16 << 20,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_section_may_say_anything_or_nothing() {
        let nothing: Config = toml::from_str("").unwrap();
        assert_eq!(nothing, Config::default());
        let text = r#"
            syslog = ""
            journal = "/run/systemd/journal/socket"
            limit = { per_second = 0, burst = 1 }
            [file]
            path = "/var/log/firewall.log"
            keep = 9
            [[remote]]
            address = "[2001:db8::1]:514"
            format = "rfc5424"
        "#;
        let some: Config = toml::from_str(text).unwrap();
        assert_eq!(some.syslog, PathBuf::new());
        assert_eq!((some.file.keep, some.file.size), (9, 16 << 20));
        assert_eq!(some.remote[0].format, Format::Rfc5424);
        let again: Config = toml::from_str(&toml::to_string(&some).unwrap()).unwrap();
        assert_eq!(again, some);
        assert!(toml::from_str::<Config>("sylog = \"x\"").is_err());
    }
}
