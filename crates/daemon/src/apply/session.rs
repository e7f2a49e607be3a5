//! Whose terminal it is: the TCP connection over which somebody gives orders.

use std::collections::BTreeSet;
use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use serde::{Deserialize, Serialize};

/// Most ancestors of a process that are asked.
const GENERATIONS: usize = 32;

/// A TCP connection to this host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Session {
    /// The far end.
    pub client: SocketAddr,
    /// The end on this host.
    pub server: SocketAddr,
}

impl Session {
    /// From the value of `SSH_CONNECTION`: the client's address and port, the server's
    /// address and port.
    #[must_use]
    pub fn from_ssh(value: &str) -> Option<Self> {
        let words: Vec<&str> = value.split_whitespace().collect();
        let &[client, client_port, server, server_port] = words.as_slice() else {
            return None;
        };
        let end = |addr: &str, port: &str| {
            // A scope names an interface of the host that says so.
            let addr = addr.split('%').next()?;
            let addr = addr.parse::<IpAddr>().ok()?.to_canonical();
            Some(SocketAddr::new(addr, port.parse().ok()?))
        };
        Some(Session {
            client: end(client, client_port)?,
            server: end(server, server_port)?,
        })
    }

    /// The connections behind process `pid`: what `SSH_CONNECTION` says in its own or an
    /// ancestor's environment, and the established TCP connections of its ancestors, such
    /// as the sshd that its terminal belongs to. What this user may not see is left out.
    #[must_use]
    pub fn behind(pid: u32) -> Vec<Self> {
        let mut found = BTreeSet::new();
        let sockets = Sockets::read();
        let mut at = Some(pid);
        for generation in 0..GENERATIONS {
            let Some(pid) = at.filter(|&p| p > 1) else {
                break;
            };
            found.extend(environment(pid));
            // The process itself may be a client of anything.
            if generation > 0 {
                found.extend(sockets.of(pid));
            }
            at = parent(pid);
        }
        found.into_iter().collect()
    }
}

fn environment(pid: u32) -> Option<Session> {
    let all = fs::read(format!("/proc/{pid}/environ")).ok()?;
    let mut variables = all.split(|&b| b == 0);
    let value = variables.find_map(|v| v.strip_prefix(b"SSH_CONNECTION="))?;
    Session::from_ssh(std::str::from_utf8(value).ok()?)
}

fn parent(pid: u32) -> Option<u32> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name in brackets may hold anything.
    let (_, rest) = stat.rsplit_once(')')?;
    rest.split_whitespace().nth(1)?.parse().ok()
}

/// The established connections that this host accepted, by the number of their socket.
struct Sockets(Vec<(u64, Session)>);

impl Sockets {
    fn read() -> Self {
        let mut all = Vec::new();
        let mut listening = BTreeSet::new();
        for file in ["/proc/self/net/tcp", "/proc/self/net/tcp6"] {
            let text = fs::read_to_string(file).unwrap_or_default();
            for line in text.lines().skip(1).filter_map(Line::read) {
                match line.state {
                    LISTEN => _ = listening.insert(line.local.port()),
                    ESTABLISHED => all.push(line),
                    _ => {}
                }
            }
        }
        let accepted = all.iter().filter(|l| listening.contains(&l.local.port()));
        let session = |l: &Line| {
            let (client, server) = (l.remote, l.local);
            (l.inode, Session { client, server })
        };
        Sockets(accepted.map(session).collect())
    }

    fn of(&self, pid: u32) -> Vec<Session> {
        let Ok(files) = fs::read_dir(format!("/proc/{pid}/fd")) else {
            return Vec::new();
        };
        let inode = |file: fs::DirEntry| -> Option<u64> {
            let link = fs::read_link(file.path()).ok()?;
            let name = link.to_str()?.strip_prefix("socket:[")?;
            name.strip_suffix(']')?.parse().ok()
        };
        let open: BTreeSet<u64> = files.flatten().filter_map(inode).collect();
        let own = self.0.iter().filter(|s| open.contains(&s.0));
        own.map(|s| s.1).collect()
    }
}

/// States as `/proc/net/tcp` numbers them (`net/tcp_states.h`).
const ESTABLISHED: u8 = 1;
const LISTEN: u8 = 10;

/// A line of `/proc/net/tcp` or `tcp6`.
struct Line {
    local: SocketAddr,
    remote: SocketAddr,
    state: u8,
    inode: u64,
}

impl Line {
    fn read(line: &str) -> Option<Self> {
        let words: Vec<&str> = line.split_whitespace().collect();
        Some(Line {
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
    use std::net::{TcpListener, TcpStream};

    use super::*;

    #[test]
    fn ssh_connection_names_both_ends() {
        let session = Session::from_ssh("203.0.113.7 51514 10.0.0.5 22").unwrap();
        assert_eq!(session.client, "203.0.113.7:51514".parse().unwrap());
        assert_eq!(session.server, "10.0.0.5:22".parse().unwrap());
        let v6 = Session::from_ssh("fe80::1%eth0 51514 fe80::2%eth0 22").unwrap();
        assert_eq!(v6.client, "[fe80::1]:51514".parse().unwrap());
        for wrong in ["", "203.0.113.7 51514 10.0.0.5", "a 1 b 2", "::1 x ::1 22"] {
            assert_eq!(Session::from_ssh(wrong), None, "{wrong}");
        }
    }

    /// This process accepted a connection: it is found among the sockets of the process.
    #[test]
    fn an_accepted_connection_is_found_by_its_socket() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (server, _) = listener.accept().unwrap();
        let wanted = Session {
            client: client.local_addr().unwrap(),
            server: server.local_addr().unwrap(),
        };
        assert!(Sockets::read().of(std::process::id()).contains(&wanted));
    }
}
