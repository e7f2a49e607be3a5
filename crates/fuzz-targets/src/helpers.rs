//! A connection of any helper, translated on its way or not, and what it announces.

use tidegate_conntrack::{Dir, DropReason, HelperKind};
use tidegate_wire::{proto, tcp::Tcp};

use crate::gate::Gate;
use crate::input::Input;
use crate::packets::{Ends, Segment, TCP_CHECK, UDP_CHECK, packet, tcp, udp, well_formed};
use crate::way::{ACK, FIN, PSH, RST, SYN, Way};

/// Most entries and expectations.
const MOST: (u32, u32) = (12, 3);
/// Where a helper without a port of its own is tried.
const SOME_PORT: u16 = 1721;

/// The connection between two ends.
struct World {
    gate: Gate,
    way: Way,
    kind: HelperKind,
    protocol: u8,
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
        let (mut way, gate) = Way::new(options, kind, MOST);
        if !kind.serves(way.family, protocol) {
            return None;
        }
        // Queries by broadcast are not translated.
        if options & 0x20 != 0 && way.plain {
            way.addr[1] = way.everyone;
            way.addr[3] = way.everyone;
        }
        Some(World {
            gate,
            way,
            kind,
            protocol,
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
        let (src, dst, ports) = self
            .way
            .ends(&self.gate, dir, (self.protocol, self.service()));
        let ends = Ends {
            family: self.way.family,
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

    fn service(&self) -> u16 {
        match self.kind.port() {
            0 => SOME_PORT,
            port => port,
        }
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
            family: self.way.family,
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
        let [client, _, seen, _] = self.way.addr;
        let ends = Ends {
            family: self.way.family,
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
