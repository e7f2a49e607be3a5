//! A connection with a helper through a gate: its ends, and what NAT makes of them.

use tidegate_conntrack::{Config, Dir, HelperKind, HelperSettings, NatRange};
use tidegate_wire::Family;

use crate::gate::Gate;

pub(crate) const FIN: u8 = 1;
pub(crate) const SYN: u8 = 2;
pub(crate) const RST: u8 = 4;
pub(crate) const PSH: u8 = 8;
pub(crate) const ACK: u8 = 16;
pub(crate) const CLIENT_PORT: u16 = 3000;

/// Client, server, the client as the server sees it (SNAT), the server as the client
/// calls it (DNAT), and the client's network's broadcast address.
const ADDRESSES: [(Family, [u128; 5]); 2] = [
    (
        Family::V4,
        [
            0x0a00_0002,
            0x0a00_0102,
            0xac1f_fffe,
            0xc0a8_0001,
            0x0a00_00ff,
        ],
    ),
    (
        Family::V6,
        [
            0xfd00_0000_0000_0000_0000_0000_0000_0002,
            0xfd00_0001_0000_0000_0000_0000_0000_0002,
            0xfd00_0001_0000_0000_1111_2222_3333_4444,
            0xfd00_0000_0000_0000_0000_0000_0000_0001,
            0xff02_0000_0000_0000_0000_0000_0000_0001,
        ],
    ),
];

/// The ends of a connection.
pub(crate) struct Way {
    pub(crate) family: Family,
    /// Client, server, client as the server sees it, server as the client sees it.
    pub(crate) addr: [u128; 4],
    /// Everybody in the client's network.
    pub(crate) everyone: u128,
    /// Nothing is translated.
    pub(crate) plain: bool,
}

impl Way {
    /// A way and its gate, whose tables have at most so many entries and expectations.
    /// Bits of `options`: 1 IPv6, 2 SNAT, 4 DNAT, 8 FTP's `loose`, 16 SNAT to few ports.
    pub(crate) fn new(options: u8, kind: HelperKind, (max, expect_max): (u32, u32)) -> (Way, Gate) {
        let (family, [client, server, seen, called, everyone]) =
            ADDRESSES[usize::from(options & 1)];
        let [snat, dnat] = [options & 2 != 0, options & 4 != 0];
        let mut gate = Gate::new(Config {
            max,
            buckets: 16,
            expect_max,
            events: true,
            acct: true,
            helper: HelperSettings {
                ftp_loose: options & 8 != 0,
                ..HelperSettings::default()
            },
            ..Config::default()
        });
        gate.helper = Some(kind);
        gate.snat = snat.then(|| NatRange {
            ports: (options & 0x10 != 0).then_some((3000, 3001)),
            ..NatRange::address(seen)
        });
        gate.dnat = dnat.then(|| NatRange::address(server));
        let way = Way {
            family,
            addr: [
                client,
                server,
                if snat { seen } else { client },
                if dnat { called } else { server },
            ],
            everyone,
            plain: !snat && !dnat,
        };
        (way, gate)
    }

    /// Source, destination and ports of a packet, in the addresses its sender knows.
    pub(crate) fn ends(
        &self,
        gate: &Gate,
        dir: Dir,
        (protocol, service): (u8, u16),
    ) -> (u128, u128, (u16, u16)) {
        let [client, server, seen, called] = self.addr;
        match dir {
            Dir::Original => (client, called, (CLIENT_PORT, service)),
            Dir::Reply => {
                let port = client_port(gate, protocol, service);
                (server, seen, (service, port))
            }
        }
    }
}

/// The client's port as the server sees it: translated, it may differ from its own.
fn client_port(gate: &Gate, protocol: u8, service: u16) -> u16 {
    let mut entries = gate.ct.iter();
    let found = entries.find(|(_, e)| {
        let own = e.tuple(Dir::Original);
        own.dst_id == service && own.proto == protocol && e.master().is_none()
    });
    found.map_or(CLIENT_PORT, |(_, e)| e.tuple(Dir::Reply).dst_id)
}
