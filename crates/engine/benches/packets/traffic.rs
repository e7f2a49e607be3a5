//! TCP connections between many clients and one server, as a capture of established
//! traffic shows them: handshakes, then data and acknowledgements in both directions,
//! connection after connection in turn, which is the hardest order for caches.

use tidegate_wire::tcp::flags::{ACK, PSH, SYN};
use tidegate_wire::{Family, checksum, proto};

/// The server: 10.9.0.1, port 443.
pub(crate) const SERVER: u32 = 0x0a09_0001;
const PORT: u16 = 443;
/// Packets that open one connection.
pub(crate) const HANDSHAKE: usize = 3;

/// What follows the handshake, over and over: does the client send, and how much.
const CYCLE: [(bool, u32); 3] = [(true, 100), (false, 600), (true, 0)];

/// MSS, SACK permitted, time stamps, window scale, as Linux sends them.
const SYN_OPTIONS: [u8; 20] = [
    2, 4, 5, 0xb4, 4, 2, 8, 10, 0, 0, 0, 1, 0, 0, 0, 0, 1, 3, 3, 7,
];
/// Time stamps behind two paddings.
const OPTIONS: [u8; 12] = [1, 1, 8, 10, 0, 0, 0, 1, 0, 0, 0, 1];

/// Bytes each side has sent.
#[derive(Clone, Copy, Default)]
struct Sent {
    client: u32,
    server: u32,
}

/// Packets in one buffer.
pub(crate) struct Traffic {
    bytes: Vec<u8>,
    /// Where each packet ends, and whether the client sent it.
    ends: Vec<(usize, bool)>,
}

impl Traffic {
    /// `packets` packets of `connections` connections, handshakes included. `data` is
    /// added to the payload of packets that have one.
    pub(crate) fn new(connections: usize, packets: usize, data: u32) -> Self {
        let mut made = Traffic {
            bytes: Vec::new(),
            ends: Vec::with_capacity(packets),
        };
        let mut sent = vec![Sent::default(); connections];
        for n in 0..packets {
            let connection = n % connections;
            if let Some(sent) = sent.get_mut(connection) {
                made.packet(connection as u32, n / connections, data, sent);
            }
        }
        made
    }

    /// The handshakes of `connections` in turn, then `packets` more of random ones.
    pub(crate) fn random(connections: usize, packets: usize) -> Self {
        let mut made = Traffic {
            bytes: Vec::new(),
            ends: Vec::with_capacity(packets),
        };
        let mut known = vec![(0, Sent::default()); connections];
        let in_turn = (0..connections * HANDSHAKE).map(|n| n % connections);
        let mut state = 1u64;
        let any = std::iter::repeat_with(|| {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) as usize % connections
        });
        for connection in in_turn.chain(any.take(packets)) {
            if let Some((step, sent)) = known.get_mut(connection) {
                made.packet(connection as u32, *step, 0, sent);
                *step += 1;
            }
        }
        made
    }

    /// The `step`th packet of a connection.
    fn packet(&mut self, connection: u32, step: usize, data: u32, sent: &mut Sent) {
        let (from_client, flags, payload) = match step {
            0 => (true, SYN, 0),
            1 => (false, SYN | ACK, 0),
            2 => (true, ACK, 0),
            _ => match CYCLE[(step - HANDSHAKE) % CYCLE.len()] {
                (client, 0) => (client, ACK, 0),
                (client, len) => (client, ACK | PSH, len + data),
            },
        };
        // Initial sequence numbers differ from connection to connection.
        let first = connection.wrapping_mul(0x9e37_79b9);
        let client = first.wrapping_add(sent.client);
        let server = first.rotate_left(16).wrapping_add(sent.server);
        let (seq, ack) = if from_client {
            (client, server)
        } else {
            (server, client)
        };
        let counted = payload + u32::from(flags & SYN != 0);
        let place = if from_client {
            &mut sent.client
        } else {
            &mut sent.server
        };
        *place = place.wrapping_add(counted);
        let ack = if flags & ACK == 0 { 0 } else { ack };
        self.write(connection, from_client, flags, seq, ack, payload);
    }

    fn write(
        &mut self,
        connection: u32,
        from_client: bool,
        flags: u8,
        seq: u32,
        ack: u32,
        payload: u32,
    ) {
        let options: &[u8] = if flags & SYN != 0 {
            &SYN_OPTIONS
        } else {
            &OPTIONS
        };
        // 10.0.0.2 and up; three ports per client.
        let client = (
            0x0a00_0002 + connection / 3,
            40_000 + (connection % 3) as u16,
        );
        let server = (SERVER, PORT);
        let (from, to) = if from_client {
            (client, server)
        } else {
            (server, client)
        };
        let l4_len = 20 + options.len() + payload as usize;
        let at = self.bytes.len();
        let total = (20 + l4_len) as u16;
        self.bytes.extend([0x45, 0]);
        self.bytes.extend(total.to_be_bytes());
        self.bytes.extend([0, 0, 0x40, 0, 64, proto::TCP, 0, 0]);
        self.bytes.extend(from.0.to_be_bytes());
        self.bytes.extend(to.0.to_be_bytes());
        self.bytes.extend(from.1.to_be_bytes());
        self.bytes.extend(to.1.to_be_bytes());
        self.bytes.extend(seq.to_be_bytes());
        self.bytes.extend(ack.to_be_bytes());
        let words = (20 + options.len()) as u8 / 4;
        self.bytes.extend([words << 4, flags, 0x20, 0, 0, 0, 0, 0]);
        self.bytes.extend(options);
        self.bytes.extend((0..payload).map(|i| i as u8));
        let packet = &mut self.bytes[at..];
        checksum::fix_ipv4(packet);
        let (src, dst) = (u128::from(from.0), u128::from(to.0));
        let pseudo = checksum::pseudo(Family::V4, src, dst, proto::TCP, l4_len as u32);
        let check = checksum::finish(pseudo, &packet[20..]);
        packet[36..38].copy_from_slice(&check.to_be_bytes());
        self.ends.push((self.bytes.len(), from_client));
    }

    /// The packets from `from` on, with whether the client sent them.
    pub(crate) fn packets(&self, from: usize) -> impl Iterator<Item = (&[u8], bool)> {
        let mut start = match from.checked_sub(1).and_then(|last| self.ends.get(last)) {
            Some(last) => last.0,
            None => 0,
        };
        let ends = self.ends.get(from..).unwrap_or(&[]);
        ends.iter().map(move |&(end, client)| {
            let packet = &self.bytes[start..end];
            start = end;
            (packet, client)
        })
    }
}
