//! Sockets of this network namespace by `/proc/net`, and whose they are.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// States as `/proc/net/tcp` numbers them (`net/tcp_states.h`); a UDP socket without a
/// peer is in that of a closed one.
pub(crate) const ESTABLISHED: u8 = 1;
const CLOSE: u8 = 7;
pub(crate) const LISTEN: u8 = 10;
/// Processes whose open files are looked at.
const MOST_PROCESSES: usize = 20_000;

/// A socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Socket {
    /// The end on this host.
    pub local: SocketAddr,
    /// The far end, unspecified where there is none.
    pub remote: SocketAddr,
    /// Its number in `/proc`.
    pub inode: u64,
    /// Its state as `/proc` numbers it (`net/tcp_states.h`).
    pub(crate) state: u8,
}

/// A socket that takes what comes to its port.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Listener {
    /// `tcp` or `udp`.
    pub proto: &'static str,
    /// Where it listens.
    pub at: SocketAddr,
    /// Name of the program, where this user may know it.
    pub program: Option<String>,
}

impl std::fmt::Display for Listener {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.at, self.proto)?;
        match &self.program {
            Some(program) => write!(f, " {program}"),
            None => Ok(()),
        }
    }
}

/// TCP sockets of both families.
pub(crate) fn tcp() -> Vec<Socket> {
    read(&["/proc/self/net/tcp", "/proc/self/net/tcp6"])
}

fn read(files: &[&str]) -> Vec<Socket> {
    let texts = files
        .iter()
        .map(|f| fs::read_to_string(f).unwrap_or_default());
    let parse =
        |text: String| -> Vec<Socket> { text.lines().skip(1).filter_map(Socket::parse).collect() };
    texts.flat_map(parse).collect()
}

/// Established TCP connections; with `accepted` only those that came to a port on which
/// this host listens.
#[must_use]
pub fn established(accepted: bool) -> Vec<Socket> {
    let all = tcp();
    let listening: BTreeSet<u16> = all
        .iter()
        .filter(|s| s.state == LISTEN)
        .map(|s| s.local.port())
        .collect();
    let wanted =
        |s: &Socket| s.state == ESTABLISHED && (!accepted || listening.contains(&s.local.port()));
    all.into_iter().filter(wanted).collect()
}

/// UDP sockets of both families.
pub(crate) fn udp() -> Vec<Socket> {
    read(&["/proc/self/net/udp", "/proc/self/net/udp6"])
}

/// Who listens, with the programs' names.
#[must_use]
pub fn listeners() -> Vec<Listener> {
    let tcp = tcp().into_iter().filter(|s| s.state == LISTEN);
    let udp = udp().into_iter().filter(|s| s.state == CLOSE);
    let found: Vec<_> = tcp
        .map(|s| ("tcp", s))
        .chain(udp.map(|s| ("udp", s)))
        .collect();
    let programs = programs(&found.iter().map(|f| f.1.inode).collect());
    let all: BTreeSet<Listener> = found
        .into_iter()
        .map(|(proto, s)| Listener {
            proto,
            at: s.local,
            program: programs.get(&s.inode).cloned(),
        })
        .collect();
    all.into_iter().collect()
}

/// Names of the programs that have these sockets open.
fn programs(wanted: &BTreeSet<u64>) -> BTreeMap<u64, String> {
    let mut found = BTreeMap::new();
    let Ok(all) = fs::read_dir("/proc") else {
        return found;
    };
    let numbers = all
        .flatten()
        .filter_map(|e| e.file_name().to_str()?.parse().ok());
    for pid in numbers.take(MOST_PROCESSES) {
        let own: Vec<u64> = open_sockets(pid).intersection(wanted).copied().collect();
        if let Ok(name) = fs::read_to_string(format!("/proc/{pid}/comm"))
            && !own.is_empty()
        {
            let name = name.trim_end();
            found.extend(own.into_iter().map(|inode| (inode, name.to_owned())));
        }
    }
    found
}

/// The sockets that process `pid` has open, as far as this user may know.
pub(crate) fn open_sockets(pid: u32) -> BTreeSet<u64> {
    let Ok(files) = fs::read_dir(format!("/proc/{pid}/fd")) else {
        return BTreeSet::new();
    };
    let inode = |file: fs::DirEntry| -> Option<u64> {
        let link = fs::read_link(file.path()).ok()?;
        let name = link.to_str()?.strip_prefix("socket:[")?;
        name.strip_suffix(']')?.parse().ok()
    };
    files.flatten().filter_map(inode).collect()
}

impl Socket {
    /// Reads a line of `/proc/net/tcp` and its like.
    fn parse(line: &str) -> Option<Self> {
        let words: Vec<&str> = line.split_whitespace().collect();
        Some(Socket {
            local: end(words.get(1)?)?,
            remote: end(words.get(2)?)?,
            state: u8::from_str_radix(words.get(3)?, 16).ok()?,
            inode: words.get(9)?.parse().ok()?,
        })
    }
}

/// `0100007F:0016`: words of the address in the machine's byte order, then the port.
fn end(text: &str) -> Option<SocketAddr> {
    let (addr, port) = text.split_once(':')?;
    let word = |at: usize| {
        let word = u32::from_str_radix(addr.get(at * 8..at * 8 + 8)?, 16).ok()?;
        Some(word.to_ne_bytes())
    };
    let addr = match addr.len() {
        8 => IpAddr::V4(Ipv4Addr::from(word(0)?)),
        32 => {
            let mut bytes = [0; 16];
            for (at, four) in bytes.chunks_mut(4).enumerate() {
                four.copy_from_slice(&word(at)?);
            }
            IpAddr::V6(Ipv6Addr::from(bytes)).to_canonical()
        }
        _ => return None,
    };
    Some(SocketAddr::new(addr, u16::from_str_radix(port, 16).ok()?))
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream, UdpSocket};

    use super::*;

    /// This process accepted a connection: it is found among its sockets, and so is who
    /// listens.
    #[test]
    fn own_sockets_are_found() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (server, _) = listener.accept().unwrap();
        let own = open_sockets(std::process::id());
        let accepted = established(true);
        let found = accepted
            .iter()
            .find(|s| s.local == server.local_addr().unwrap());
        let found = found.unwrap();
        assert_eq!(found.remote, client.local_addr().unwrap());
        assert!(own.contains(&found.inode));
        let udp = UdpSocket::bind("[::1]:0").unwrap();
        for (proto, at) in [
            ("tcp", listener.local_addr().unwrap()),
            ("udp", udp.local_addr().unwrap()),
        ] {
            let all = listeners();
            let one = all.iter().find(|l| l.proto == proto && l.at == at).unwrap();
            assert!(one.program.is_some(), "{one}");
        }
    }
}
