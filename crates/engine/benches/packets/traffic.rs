//! TCP connections between many clients and one server, as a capture of established
//! traffic shows them: handshakes, then data and acknowledgements in both directions,
//! connection after connection in turn, which is the hardest order for caches.

use tidegate_wire::tcp::flags::{ACK, PSH, SYN};
use tidegate_wire::{Family, checksum, proto};

/// The server: 10.9.0.1, port 443.
pub(crate) const SERVER: u32 = 0x0a09_0001;
const PORT: u16 = 443;
/// What one of the hundred rules lets in.
const UDP_PORT: u16 = 10_002;
/// Packets that open one connection, and with which its entry is as it stays.
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
    /// None yet.
    pub(crate) const fn none() -> Self {
        Traffic {
            bytes: Vec::new(),
            ends: Vec::new(),
        }
    }

    /// One packet more.
    pub(crate) fn push(&mut self, packet: &[u8], client: bool) {
        self.bytes.extend_from_slice(packet);
        self.ends.push((self.bytes.len(), client));
    }

    /// How many there are.
    pub(crate) const fn len(&self) -> usize {
        self.ends.len()
    }

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
        for connection in drawn(connections, packets) {
            if let Some((step, sent)) = known.get_mut(connection) {
                made.packet(connection as u32, *step, 0, sent);
                *step += 1;
            }
        }
        made
    }

    /// The same with UDP datagrams of 18 bytes, which client and server send in turn.
    pub(crate) fn datagrams(connections: usize, packets: usize) -> Self {
        let mut made = Traffic::none();
        let mut steps = vec![0; connections];
        for connection in drawn(connections, packets) {
            let client = steps[connection] % 2 == 0;
            steps[connection] += 1;
            let (from, to) = ends(connection as u32, client, UDP_PORT);
            let mut packet = [0; 46];
            packet[..12].copy_from_slice(&[0x45, 0, 0, 46, 0, 0, 0x40, 0, 64, proto::UDP, 0, 0]);
            packet[12..16].copy_from_slice(&from.0.to_be_bytes());
            packet[16..20].copy_from_slice(&to.0.to_be_bytes());
            packet[20..22].copy_from_slice(&from.1.to_be_bytes());
            packet[22..24].copy_from_slice(&to.1.to_be_bytes());
            packet[25] = 26;
            checksum::fix_ipv4(&mut packet);
            let (src, dst) = (u128::from(from.0), u128::from(to.0));
            let pseudo = checksum::pseudo(Family::V4, src, dst, proto::UDP, 26);
            let check = checksum::finish(pseudo, &packet[20..]);
            packet[26..28].copy_from_slice(&check.to_be_bytes());
            made.push(&packet, client);
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
        let (from, to) = ends(connection, from_client, PORT);
        let segment = Segment {
            from,
            to,
            flags,
            seq,
            ack,
        };
        segment.write(&mut self.bytes, (0..payload as usize).map(|i| i as u8));
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

/// Connections whose packet is next: all in turn, [`HANDSHAKE`] times, then random ones.
fn drawn(connections: usize, packets: usize) -> impl Iterator<Item = usize> {
    let in_turn = (0..connections * HANDSHAKE).map(move |n| n % connections);
    let mut state = 1u64;
    let any = std::iter::repeat_with(move || {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as usize % connections
    });
    in_turn.chain(any.take(packets))
}

/// From whom to whom: clients are 10.0.0.2 and up, three ports each.
fn ends(connection: u32, from_client: bool, port: u16) -> ((u32, u16), (u32, u16)) {
    let client = (
        0x0a00_0002 + connection / 3,
        40_000 + (connection % 3) as u16,
    );
    let server = (SERVER, port);
    if from_client {
        (client, server)
    } else {
        (server, client)
    }
}

/// A TCP packet's header, as Linux sends it: addresses and ports, flags and numbers.
pub(crate) struct Segment {
    pub(crate) from: (u32, u16),
    pub(crate) to: (u32, u16),
    pub(crate) flags: u8,
    pub(crate) seq: u32,
    pub(crate) ack: u32,
}

impl Segment {
    /// Writes the packet with right checksums behind what is there.
    pub(crate) fn write(&self, bytes: &mut Vec<u8>, payload: impl ExactSizeIterator<Item = u8>) {
        let options: &[u8] = if self.flags & SYN != 0 {
            &SYN_OPTIONS
        } else {
            &OPTIONS
        };
        let l4_len = 20 + options.len() + payload.len();
        let at = bytes.len();
        bytes.extend([0x45, 0]);
        bytes.extend(((20 + l4_len) as u16).to_be_bytes());
        bytes.extend([0, 0, 0x40, 0, 64, proto::TCP, 0, 0]);
        for (addr, _) in [self.from, self.to] {
            bytes.extend(addr.to_be_bytes());
        }
        for (_, port) in [self.from, self.to] {
            bytes.extend(port.to_be_bytes());
        }
        bytes.extend(self.seq.to_be_bytes());
        bytes.extend(self.ack.to_be_bytes());
        let words = (20 + options.len()) as u8 / 4;
        bytes.extend([words << 4, self.flags, 0x20, 0, 0, 0, 0, 0]);
        bytes.extend(options);
        bytes.extend(payload);
        let packet = &mut bytes[at..];
        checksum::fix_ipv4(packet);
        let (src, dst) = (u128::from(self.from.0), u128::from(self.to.0));
        let pseudo = checksum::pseudo(Family::V4, src, dst, proto::TCP, l4_len as u32);
        let check = checksum::finish(pseudo, &packet[20..]);
        packet[36..38].copy_from_slice(&check.to_be_bytes());
    }
}
