//! Command lines of the built-in programs.

use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::str::FromStr;

use anyhow::{Context, Result, bail};

/// Options that stand alone.
const SWITCHES: &[&str] = &["active", "extended", "socket", "n", "q"];

/// A command line is not what it should be.
#[derive(Debug)]
pub(super) struct Usage(String);

impl fmt::Display for Usage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Usage {}

/// A command line: `--name value`, `-x value`, switches, and plain words.
#[derive(Debug, Default)]
pub(super) struct Words {
    plain: Vec<String>,
    options: BTreeMap<String, String>,
}

impl Words {
    /// Sorts a command line.
    ///
    /// # Errors
    /// An option has no value.
    pub(super) fn read(words: &[String]) -> Result<Self> {
        let mut read = Words::default();
        let mut words = words.iter();
        while let Some(word) = words.next() {
            let Some(name) = word.strip_prefix('-') else {
                read.plain.push(word.clone());
                continue;
            };
            let name = name.strip_prefix('-').unwrap_or(name);
            let value = if SWITCHES.contains(&name) {
                String::new()
            } else {
                words
                    .next()
                    .cloned()
                    .ok_or_else(|| usage(word, "has no value"))?
            };
            read.options.insert(name.to_owned(), value);
        }
        Ok(read)
    }

    /// The plain word number `n`, called `what`.
    ///
    /// # Errors
    /// There is none.
    pub(super) fn word(&self, n: usize, what: &str) -> Result<&str> {
        let word = self.plain.get(n).map(String::as_str);
        word.ok_or_else(|| usage(what, "is missing"))
    }

    /// The port that is the plain word number `n`.
    ///
    /// # Errors
    /// It is no port.
    pub(super) fn port(&self, n: usize) -> Result<u16> {
        let word = self.word(n, "PORT")?;
        word.parse().map_err(|_| usage(word, "is no port"))
    }

    /// Whether a switch is there.
    pub(super) fn has(&self, name: &str) -> bool {
        self.options.contains_key(name)
    }

    /// An option's value as text.
    pub(super) fn text(&self, name: &str) -> Option<&str> {
        self.options.get(name).map(String::as_str)
    }

    /// An option's value.
    ///
    /// # Errors
    /// It is not of its kind.
    pub(super) fn get<T: FromStr>(&self, name: &str) -> Result<Option<T>> {
        let value = self.text(name).map(|text| {
            let value = text.parse();
            value.map_err(|_| usage(&format!("-{name} {text}"), "is not understood"))
        });
        value.transpose()
    }
}

fn usage(what: &str, problem: &str) -> anyhow::Error {
    Usage(format!("{what} {problem}")).into()
}

/// The address of a host, by number or name.
///
/// # Errors
/// There is none.
pub(super) fn resolve(host: &str, port: u16) -> Result<SocketAddr> {
    let mut found = (host, port)
        .to_socket_addrs()
        .with_context(|| host.to_owned())?;
    match found.next() {
        Some(address) => Ok(address),
        None => bail!("{host}: no address"),
    }
}

/// The unspecified address of `like`'s family.
pub(super) const fn any(like: IpAddr) -> IpAddr {
    match like {
        IpAddr::V4(_) => IpAddr::V4(std::net::Ipv4Addr::UNSPECIFIED),
        IpAddr::V6(_) => IpAddr::V6(std::net::Ipv6Addr::UNSPECIFIED),
    }
}

/// Says "timed out" where the C library's text for an expired socket option would be
/// "Resource temporarily unavailable".
pub(super) fn waited(error: std::io::Error) -> std::io::Error {
    use std::io::ErrorKind::{TimedOut, WouldBlock};
    match error.kind() {
        WouldBlock | TimedOut => std::io::Error::new(TimedOut, "timed out"),
        _ => error,
    }
}
