//! Whose terminal it is: the TCP connection over which somebody gives orders.

use std::collections::BTreeSet;
use std::fs;
use std::net::{IpAddr, SocketAddr};

use serde::{Deserialize, Serialize};

use crate::sockets::{self, Socket};

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
        let accepted = sockets::established(true);
        let mut at = Some(pid);
        for generation in 0..GENERATIONS {
            let Some(pid) = at.filter(|&p| p > 1) else {
                break;
            };
            found.extend(environment(pid));
            // The process itself may be a client of anything.
            if generation > 0 {
                found.extend(of(pid, &accepted));
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

/// The connections among `accepted` that process `pid` has open.
fn of(pid: u32, accepted: &[Socket]) -> impl Iterator<Item = Session> + '_ {
    let open = sockets::open_sockets(pid);
    let own = accepted.iter().filter(move |s| open.contains(&s.inode));
    own.map(|s| Session {
        client: s.remote,
        server: s.local,
    })
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
        let accepted = sockets::established(true);
        assert!(of(std::process::id(), &accepted).any(|s| s == wanted));
    }
}
