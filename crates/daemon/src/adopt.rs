//! Connections of this host's own sockets that are open when the daemon starts.
//!
//! Rules that let only known connections pass must not cut them, so they enter the table
//! as if they had been seen from their beginning. What their ends have sent is not known:
//! the next segments teach their windows, as with a connection in a record.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};

use tidegate_engine::conntrack::by_hand::{ByHandError, GivenState, NewEntry};
use tidegate_engine::conntrack::entry::TcpConn;
use tidegate_engine::conntrack::{Conntrack, Status, Time, Tuple, Zone};
use tidegate_tools::Tracker;
use tidegate_wire::{Family, proto};

use crate::config::{Adopt, State};
use crate::sockets::{self, ESTABLISHED, LISTEN, Socket};
use crate::tracker::LiveTracker;

/// What a socket's state (`net/tcp_states.h`) says about its connection; nothing before its
/// handshake is through, nor once it is over.
const STATES: &[(u8, TcpConn)] = &[
    (ESTABLISHED, TcpConn::Established),
    // It has sent a FIN; that has been acknowledged; both ends have sent one.
    (4, TcpConn::FinWait),
    (5, TcpConn::CloseWait),
    (11, TcpConn::LastAck),
    // The far end has sent a FIN; so has it since.
    (8, TcpConn::CloseWait),
    (9, TcpConn::LastAck),
];

/// A connection that a socket is one end of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Open {
    /// From who opened it.
    original: Tuple,
    /// `None` for UDP.
    state: Option<TcpConn>,
}

/// Takes over the connections of this host's sockets that no record knows, if it is asked
/// for; a daemon without them is better than none.
pub(crate) fn open_sockets(settings: &State, tracker: &LiveTracker) {
    if settings.adopt == Adopt::None {
        return;
    }
    let mut found = connections(&sockets::tcp(), proto::TCP);
    found.extend(connections(&sockets::udp(), proto::UDP));
    let mark = settings.adopted_mark;
    let adopted = (tracker as &dyn Tracker).with(move |ct, now| adopt(ct, now, &found, mark));
    match adopted {
        Ok((0, 0)) => {}
        Ok((adopted, 0)) => tracing::info!("{adopted} connections of sockets are adopted"),
        Ok((adopted, left)) => {
            tracing::warn!("{adopted} connections of sockets are adopted, {left} found no room");
        }
        Err(_) => tracing::error!("connections of sockets are not adopted"),
    }
}

/// The connections that these sockets are ends of, each once.
fn connections(all: &[Socket], protocol: u8) -> Vec<Open> {
    let takes = |s: &&Socket| match protocol {
        proto::TCP => s.state == LISTEN,
        _ => s.remote.port() == 0,
    };
    let served: BTreeSet<u16> = all.iter().filter(takes).map(|s| s.local.port()).collect();
    let mut known = BTreeSet::new();
    let open = all.iter().filter_map(|s| {
        let state = match protocol {
            proto::TCP => Some(STATES.iter().find(|known| known.0 == s.state)?.1),
            _ if s.remote.port() == 0 => return None,
            _ => None,
        };
        // It was opened to this host if something here takes what comes to the port.
        let (from, to) = match served.contains(&s.local.port()) {
            true => (s.remote, s.local),
            false => (s.local, s.remote),
        };
        // Both ends of a connection within this host are sockets of it.
        let fresh = known.insert((from, to)) && !known.contains(&(to, from));
        fresh.then_some(Open {
            original: tuple(from, to, protocol)?,
            state,
        })
    });
    open.collect()
}

fn tuple(from: SocketAddr, to: SocketAddr, proto: u8) -> Option<Tuple> {
    let (family, src, dst) = match (from.ip(), to.ip()) {
        (IpAddr::V4(src), IpAddr::V4(dst)) => {
            (Family::V4, src.to_bits().into(), dst.to_bits().into())
        }
        (IpAddr::V6(src), IpAddr::V6(dst)) => (Family::V6, src.to_bits(), dst.to_bits()),
        _ => return None,
    };
    Some(Tuple {
        src,
        dst,
        src_id: from.port(),
        dst_id: to.port(),
        family,
        proto,
    })
}

/// Puts them into the table; how many there were, and for how many there was no room.
fn adopt(ct: &mut Conntrack, now: Time, found: &[Open], mark: u32) -> (u32, u32) {
    let (mut adopted, mut left) = (0, 0);
    for open in found {
        let timeouts = &ct.config().timeouts;
        let timeout = match open.state {
            Some(state) => timeouts.tcp[state as usize],
            None => timeouts.udp[1],
        };
        let Some(reply) = open.original.inverse() else {
            continue;
        };
        let entry = NewEntry {
            tuples: [open.original, reply],
            zone: Zone::default(),
            timeout,
            status: Status::SEEN_REPLY | Status::ASSURED,
            mark,
            state: open.state.map(GivenState::Tcp),
            nat: [None; 2],
            helper: None,
            labels: 0,
        };
        match ct.create_by_hand(now, &entry) {
            Ok(_) => adopted += 1,
            Err(ByHandError::Full) => left += 1,
            // A record knows it, perhaps translated.
            Err(_) => {}
        }
    }
    (adopted, left)
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream, UdpSocket};

    use tidegate_engine::conntrack::{Config, SECOND};

    use super::*;

    fn of(from: SocketAddr, to: SocketAddr, protocol: u8) -> Tuple {
        tuple(from, to, protocol).unwrap()
    }

    /// Whoever is asked, the connection goes from the client to who listens, and is there
    /// once.
    #[test]
    fn own_connections_are_found_from_their_beginning() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (server, _) = listener.accept().unwrap();
        let [from, to] = [&client, &server].map(|s| s.local_addr().unwrap());
        let found = connections(&sockets::tcp(), proto::TCP);
        let own: Vec<_> = found
            .iter()
            .filter(|o| [o.original.src_id, o.original.dst_id].contains(&from.port()))
            .collect();
        let wanted = Open {
            original: of(from, to, proto::TCP),
            state: Some(TcpConn::Established),
        };
        assert_eq!(own, [&wanted]);
    }

    #[test]
    fn a_connected_datagram_socket_has_a_connection() {
        let far = UdpSocket::bind("127.0.0.1:0").unwrap();
        let near = UdpSocket::bind("127.0.0.1:0").unwrap();
        near.connect(far.local_addr().unwrap()).unwrap();
        let found = connections(&sockets::udp(), proto::UDP);
        let [from, to] = [&near, &far].map(|s| s.local_addr().unwrap());
        let original = of(from, to, proto::UDP);
        assert!(found.contains(&Open {
            original,
            state: None
        }));
    }

    #[test]
    fn the_adopted_are_marked_and_the_known_left_alone() {
        let mut ct = Conntrack::new(Config {
            max: 2,
            ..Config::default()
        });
        let at = |text: &str| text.parse::<SocketAddr>().unwrap();
        let open = |from: &str| Open {
            original: of(at(from), at("192.0.2.1:22"), proto::TCP),
            state: Some(TcpConn::Established),
        };
        let all = [
            "198.51.100.7:1000",
            "198.51.100.7:1001",
            "198.51.100.7:1002",
        ]
        .map(open);
        assert_eq!(adopt(&mut ct, SECOND, &all[..1], 0), (1, 0));
        assert_eq!(adopt(&mut ct, SECOND, &all, 0x7), (1, 1));
        let marks: BTreeSet<u32> = ct.iter().map(|(_, e)| e.mark).collect();
        assert_eq!(marks, BTreeSet::from([0, 7]));
        let (_, first) = ct.iter().next().unwrap();
        let assured = Status::ASSURED | Status::SEEN_REPLY | Status::CONFIRMED;
        assert_eq!(first.status.0 & assured, assured);
        assert_eq!(first.remaining(SECOND), 432_000);
    }
}
