//! Asking the kernel which socket waits for a packet (`sock_diag(7)`, `inet_diag`).

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, UdpSocket};

use netlink_sys::{Socket, SocketAddr};
use tidegate_engine::SocketEnds;
use tidegate_wire::{Family, proto};

/// `NETLINK_SOCK_DIAG`
const SOCK_DIAG: isize = 4;
/// `SOCK_DIAG_BY_FAMILY`
const BY_FAMILY: u16 = 20;
/// `NLM_F_REQUEST`
const REQUEST: u16 = 1;
/// `MSG_DONTWAIT`: the answer is there when the question has been sent.
const AT_ONCE: i32 = 0x40;

/// Bytes of a message's header, of the question (`inet_diag_req_v2`), of the answer before
/// its attributes (`inet_diag_msg`).
const HEADER: usize = 16;
const QUESTION: usize = 56;
const ANSWER: usize = 72;

/// `INET_DIAG_MARK`, `INET_DIAG_CLASS_ID`, `INET_DIAG_CGROUP_ID`, `INET_DIAG_SOCKOPT`, and
/// the bit of `IP_TRANSPARENT` in the latter.
const MARK: u16 = 15;
const CLASS: u16 = 17;
const CGROUP: u16 = 21;
const OPTIONS: u16 = 22;
/// With `INET_DIAG_TCLASS` the class is told, which has no bit of its own.
const TELL_CLASS: u8 = 1 << 5;
const TRANSPARENT: u8 = 1 << 5;
/// `TCP_LISTEN`, and what a UDP socket without a peer is in (`TCP_CLOSE`).
const UNCONNECTED: [u8; 2] = [10, 7];
/// `TCP_SYN_RECV`, as which the kernel shows what is half open.
const SYN_RECEIVED: u8 = 3;

/// A socket as the kernel describes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Found {
    /// Bound to no address.
    pub wildcard: bool,
    /// It has a peer.
    pub connected: bool,
    /// The kernel has answered for it, and waits for the last segment of the handshake.
    pub half_open: bool,
    /// User that opened it.
    pub uid: u32,
    /// Its number in `/proc/PID/fd`; 0 where no program has it.
    pub inode: u32,
    /// `IP_TRANSPARENT`
    pub transparent: bool,
    /// `net_cls.classid`; the socket's priority where it has none.
    pub class: u32,
    /// Number of its control group (version 2); 0 where the kernel does not tell.
    pub cgroup: u64,
    /// `SO_MARK`; 0 without `CAP_NET_ADMIN`.
    pub mark: u32,
}

/// Asks in the network namespace that it was made in.
pub struct Diag {
    socket: Socket,
    buffer: Vec<u8>,
}

impl std::fmt::Debug for Diag {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Diag").finish_non_exhaustive()
    }
}

impl Diag {
    /// For the calling thread's network namespace.
    ///
    /// # Errors
    /// The kernel has no `sock_diag`.
    pub fn new() -> io::Result<Self> {
        let mut socket = Socket::new(SOCK_DIAG)?;
        socket.bind_auto()?;
        socket.connect(&SocketAddr::new(0, 0))?;
        Ok(Diag {
            socket,
            buffer: Vec::with_capacity(4096),
        })
    }

    /// The TCP or UDP socket that a packet between these ends is given to, if there is one.
    ///
    /// # Errors
    /// The netlink socket's.
    pub fn receiver(&mut self, ends: &SocketEnds) -> io::Result<Option<Found>> {
        if !matches!(ends.proto, proto::TCP | proto::UDP) {
            return Ok(None);
        }
        let found = self.ask(ends)?;
        // Of a connection that is being opened the kernel does not tell its listener's
        // options. One for an address that is not this host's has a transparent one.
        match found {
            Some(found) if found.half_open => {
                let transparent = is_foreign(ends.local.0, ends.family) || {
                    let anybody = SocketEnds {
                        remote: (0, 0),
                        ..*ends
                    };
                    self.ask(&anybody)?
                        .is_some_and(|listener| listener.transparent)
                };
                Ok(Some(Found {
                    transparent,
                    ..found
                }))
            }
            found => Ok(found),
        }
    }

    fn ask(&mut self, ends: &SocketEnds) -> io::Result<Option<Found>> {
        self.socket.send(&question(ends), 0)?;
        self.buffer.clear();
        self.socket.recv(&mut self.buffer, AT_ONCE)?;
        Ok(answer(&self.buffer))
    }
}

/// Whether a plain socket cannot have the address.
fn is_foreign(address: u128, family: Family) -> bool {
    let address: IpAddr = match family {
        Family::V4 => Ipv4Addr::from(address as u32).into(),
        Family::V6 => Ipv6Addr::from(address).into(),
    };
    let bound = UdpSocket::bind((address, 0));
    bound.is_err_and(|e| e.kind() == io::ErrorKind::AddrNotAvailable)
}

/// `AF_INET`, `AF_INET6`
const fn address_family(family: Family) -> u8 {
    match family {
        Family::V4 => 2,
        Family::V6 => 10,
    }
}

fn put(out: &mut [u8], at: usize, bytes: &[u8]) {
    out[at..at + bytes.len()].copy_from_slice(bytes);
}

fn question(ends: &SocketEnds) -> [u8; HEADER + QUESTION] {
    let mut out = [0; HEADER + QUESTION];
    put(&mut out, 0, &((HEADER + QUESTION) as u32).to_ne_bytes());
    put(&mut out, 4, &BY_FAMILY.to_ne_bytes());
    put(&mut out, 6, &REQUEST.to_ne_bytes());
    let family = address_family(ends.family);
    put(&mut out, 16, &[family, ends.proto, TELL_CLASS]);
    // Sockets in any state.
    put(&mut out, 20, &u32::MAX.to_ne_bytes());
    // UDP's look-up takes the ends in the packet's order (`udp_dump_one`).
    let (first, second) = match ends.proto {
        proto::UDP => (ends.remote, ends.local),
        _ => (ends.local, ends.remote),
    };
    put(&mut out, 24, &first.1.to_be_bytes());
    put(&mut out, 26, &second.1.to_be_bytes());
    for (at, address) in [(28, first.0), (44, second.0)] {
        match ends.family {
            Family::V4 => put(&mut out, at, &(address as u32).to_be_bytes()),
            Family::V6 => put(&mut out, at, &address.to_be_bytes()),
        }
    }
    let dev = ends.dev.map_or(0, |dev| dev.0);
    put(&mut out, 60, &dev.to_ne_bytes());
    // Whatever its cookie.
    put(&mut out, 64, &[0xff; 8]);
    out
}

/// `None` where the kernel says that there is none.
fn answer(bytes: &[u8]) -> Option<Found> {
    let word = |at: usize| Some(u32::from_ne_bytes(*bytes.get(at..)?.first_chunk()?));
    let short = |at: usize| Some(u16::from_ne_bytes(*bytes.get(at..)?.first_chunk()?));
    if short(4)? != BY_FAMILY {
        return None;
    }
    let own = bytes.get(HEADER + 8..HEADER + 24)?;
    let mut found = Found {
        wildcard: own.iter().all(|&b| b == 0),
        connected: !UNCONNECTED.contains(bytes.get(HEADER + 1)?),
        half_open: bytes.get(HEADER + 1) == Some(&SYN_RECEIVED),
        uid: word(HEADER + 64)?,
        inode: word(HEADER + 68)?,
        transparent: false,
        class: 0,
        cgroup: 0,
        mark: 0,
    };
    let end = (word(0)? as usize).min(bytes.len());
    let mut at = HEADER + ANSWER;
    while at + 4 <= end {
        let (len, kind) = (usize::from(short(at)?), short(at + 2)?);
        match kind {
            MARK => found.mark = word(at + 4)?,
            CLASS => found.class = word(at + 4)?,
            CGROUP => found.cgroup = u64::from_ne_bytes(*bytes.get(at + 4..)?.first_chunk()?),
            OPTIONS => found.transparent = bytes.get(at + 4)? & TRANSPARENT != 0,
            _ => {}
        }
        at += len.max(4).next_multiple_of(4);
    }
    Some(found)
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;
    use std::thread;
    use std::time::Duration;

    use super::*;

    const LOOPBACK: u128 = 0x7f00_0001;

    fn ask(protocol: u8, local: u16, remote: u16) -> Option<Found> {
        let ends = SocketEnds {
            family: Family::V4,
            proto: protocol,
            local: (LOOPBACK, local),
            remote: (LOOPBACK, remote),
            dev: None,
        };
        Diag::new().unwrap().receiver(&ends).unwrap()
    }

    #[test]
    fn own_sockets_are_found_as_they_are() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let found = ask(proto::TCP, port, 1).unwrap();
        assert!(!found.wildcard && !found.connected && !found.transparent);
        let any = UdpSocket::bind("0.0.0.0:0").unwrap();
        let port = any.local_addr().unwrap().port();
        let found = ask(proto::UDP, port, 9).unwrap();
        assert!(found.wildcard && !found.connected);
        any.connect("127.0.0.1:9").unwrap();
        let found = ask(proto::UDP, port, 9).unwrap();
        assert!(found.connected);
        assert_eq!(ask(proto::UDP, port, 10), None);
        drop(any);
        // A program that another test starts has the socket too, from its fork to its exec.
        let gone = (0..500).any(|_| {
            thread::sleep(Duration::from_millis(10));
            ask(proto::UDP, port, 9).is_none()
        });
        assert!(gone);
    }

    #[test]
    fn what_is_no_answer_is_none() {
        assert_eq!(answer(&[]), None);
        assert_eq!(answer(&[0; 100]), None);
        let mut cut = vec![0; HEADER + 40];
        cut[4..6].copy_from_slice(&BY_FAMILY.to_ne_bytes());
        assert_eq!(answer(&cut), None);
    }
}
