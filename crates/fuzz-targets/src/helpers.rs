//! A connection of any helper, translated on its way or not, and what it announces.

use tidegate_conntrack::{Config, Dir, DropReason, HelperKind, HelperSettings, NatRange, Tuple};
use tidegate_wire::{Family, proto, tcp::Tcp};

use crate::gate::Gate;
use crate::input::Input;
use crate::packets::{Ends, Segment, TCP_CHECK, UDP_CHECK, packet, tcp, udp, well_formed};

const FIN: u8 = 1;
const SYN: u8 = 2;
const RST: u8 = 4;
const PSH: u8 = 8;
const ACK: u8 = 16;
const CLIENT_PORT: u16 = 3000;
const MAX_ENTRIES: u32 = 12;
const MAX_EXPECTED: u32 = 3;

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

/// The connection between two ends.
struct World {
    gate: Gate,
    family: Family,
    kind: HelperKind,
    protocol: u8,
    /// Client, server, client as the server sees it, server as the client sees it.
    addr: [u128; 4],
    /// Sequence numbers of the ends: what each sends next, and waits for.
    ends: [(u32, u32); 2],
}

/// A helper reads any payload in any order. What comes out are well-formed packets with
/// right checksums; whatever was announced, however it was cut or repeated, tables stay
/// within their limits and run empty, and nothing is expected from those who announced
/// nothing.
pub fn helpers(data: &[u8]) {
    let mut input = Input::new(data);
    let Some(mut world) = World::new(&mut input) else {
        return;
    };
    world.open();
    while !input.is_empty() {
        world.step(&mut input);
        world.gate.bounded();
    }
    world.gate.end();
}

impl World {
    fn new(input: &mut Input<'_>) -> Option<World> {
        let all: Vec<HelperKind> = HelperKind::all().collect();
        let kind = input.pick(&all);
        let protocol = input.pick(kind.protocols());
        let options = input.byte();
        let (family, [client, server, seen, called, everyone]) =
            ADDRESSES[usize::from(options & 1)];
        if !kind.serves(family, protocol) {
            return None;
        }
        let [snat, dnat] = [options & 2 != 0, options & 4 != 0];
        let mut gate = Gate::new(Config {
            max: MAX_ENTRIES,
            buckets: 16,
            expect_max: MAX_EXPECTED,
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
        // Queries by broadcast are not translated.
        let to_all = options & 0x20 != 0 && !snat && !dnat;
        Some(World {
            gate,
            family,
            kind,
            protocol,
            addr: [
                client,
                if to_all { everyone } else { server },
                if snat { seen } else { client },
                match (dnat, to_all) {
                    (true, _) => called,
                    (false, true) => everyone,
                    (false, false) => server,
                },
            ],
            ends: [(input.word(), 0), (input.word(), 0)],
        })
    }

    fn open(&mut self) {
        if self.protocol != proto::TCP {
            return;
        }
        self.send(Dir::Original, SYN, &[]);
        self.send(Dir::Reply, SYN | ACK, &[]);
        self.send(Dir::Original, ACK, &[]);
    }

    /// One decision: something is said, time passes, or somebody comes who was announced.
    fn step(&mut self, input: &mut Input<'_>) {
        let op = input.byte();
        let dir = [Dir::Original, Dir::Reply][usize::from(op & 1)];
        match op >> 1 & 15 {
            0..=9 => {
                let len = usize::from(input.byte());
                self.send(dir, PSH | ACK, input.take(len));
            }
            10 => {
                let back = i32::from(input.byte() as i8);
                self.ends[dir as usize].0 = self.ends[dir as usize].0.wrapping_add_signed(back);
            }
            11 => self.send(dir, input.pick(&[FIN | ACK, RST, SYN, SYN | ACK]), &[]),
            12 => self.gate.wait(input.half()),
            _ => {
                let len = usize::from(input.byte());
                self.come(op & 1 != 0, input.take(len));
            }
        }
    }

    /// Something from one end, in the addresses that end knows.
    fn send(&mut self, dir: Dir, flags: u8, data: &[u8]) {
        let [client, server, seen, called] = self.addr;
        let service = self.kind.port();
        let (src, dst, ports) = match dir {
            Dir::Original => (client, called, (CLIENT_PORT, service)),
            Dir::Reply => (server, seen, (service, self.client_port())),
        };
        let ends = Ends {
            family: self.family,
            src,
            dst,
        };
        let (seq, wants) = self.ends[dir as usize];
        let bytes = match self.protocol {
            proto::TCP => {
                let l4 = tcp(Segment {
                    ports,
                    seq,
                    ack: if flags & ACK == 0 { 0 } else { wants },
                    flags,
                    options: &[],
                    data,
                });
                packet(ends, proto::TCP, l4, Some(TCP_CHECK))
            }
            _ => packet(ends, proto::UDP, udp(ports, data), Some(UDP_CHECK)),
        };
        let passed = self.gate.pass(bytes);
        if self.protocol == proto::TCP
            && let Ok(bytes) = passed
        {
            let sent = data.len() as u32 + u32::from(flags & (SYN | FIN) != 0);
            self.arrived(dir, &bytes, sent);
        }
    }

    /// Both ends count on.
    fn arrived(&mut self, dir: Dir, bytes: &[u8], sent: u32) {
        let layout = well_formed(bytes);
        let segment = Tcp::new(layout.l4(bytes)).expect("a TCP segment stays one");
        let length = segment.payload().len() as u32 + u32::from(segment.flags() & (SYN | FIN) != 0);
        self.ends[dir as usize].0 = self.ends[dir as usize].0.wrapping_add(sent);
        self.ends[dir.other() as usize].1 = segment.seq().wrapping_add(length);
    }

    /// The client's port as the server sees it.
    fn client_port(&self) -> u16 {
        let service = self.kind.port();
        let own = |t: &Tuple| t.dst_id == service && t.proto == self.protocol;
        let mut entries = self.gate.ct.iter();
        let found = entries.find(|(_, e)| own(e.tuple(Dir::Original)) && e.master().is_none());
        found.map_or(CLIENT_PORT, |(_, e)| e.tuple(Dir::Reply).dst_id)
    }

    /// A connection that was announced, the last or the first, opens with some data; it has
    /// a master then, and a stranger's never has.
    fn come(&mut self, first: bool, data: &[u8]) {
        let expected = self.gate.ct.expectations();
        let tuple = match first {
            true => expected.map(|e| e.tuple).next(),
            false => expected.map(|e| e.tuple).last(),
        };
        let Some(tuple) = tuple else {
            return self.stranger();
        };
        let ends = Ends {
            family: self.family,
            src: tuple.src,
            dst: tuple.dst,
        };
        let port = if tuple.src_id == 0 { 20 } else { tuple.src_id };
        let ports = (port, tuple.dst_id);
        let bytes = match tuple.proto {
            proto::TCP => {
                let l4 = tcp(Segment {
                    ports,
                    seq: 1,
                    flags: SYN,
                    ..Segment::default()
                });
                packet(ends, proto::TCP, l4, Some(TCP_CHECK))
            }
            proto::UDP => packet(ends, proto::UDP, udp(ports, data), Some(UDP_CHECK)),
            // GRE of version 1, as PPTP has it, to the call that was announced.
            other => {
                let mut l4 = vec![0x30, 1, 0x88, 0x0b, 0, data.len() as u8];
                l4.extend({ tuple.dst_id }.to_be_bytes());
                l4.extend([0; 4]);
                l4.extend(data);
                packet(ends, other, l4, None)
            }
        };
        let _: Result<Vec<u8>, Option<DropReason>> = self.gate.pass(bytes);
    }

    /// Nothing is expected: whoever comes has no master.
    fn stranger(&mut self) {
        let [client, _, seen, _] = self.addr;
        let ends = Ends {
            family: self.family,
            src: client ^ 0x4000,
            dst: seen,
        };
        let helper = self.gate.helper.take();
        let bytes = packet(ends, proto::UDP, udp((20, 2000), b"x"), Some(UDP_CHECK));
        let _ = self.gate.pass(bytes);
        self.gate.helper = helper;
        let stranger = |e: &tidegate_conntrack::Entry| e.tuple(Dir::Original).src == ends.src;
        let mut entries = self.gate.ct.iter();
        assert!(!entries.any(|(_, e)| stranger(e) && e.master().is_some()));
    }
}
