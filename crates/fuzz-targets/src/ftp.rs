//! An FTP control connection between two simple TCP ends, translated on its way.

use tidegate_conntrack::{Config, Dir, DropReason, HelperKind, HelperSettings, NatRange};
use tidegate_wire::{Family, proto, tcp::Tcp};

use crate::gate::Gate;
use crate::input::Input;
use crate::packets::{Ends, Segment, TCP_CHECK, packet, tcp, well_formed};

const SYN: u8 = 2;
const RST: u8 = 4;
const FIN: u8 = 1;
const PSH: u8 = 8;
const ACK: u8 = 16;
const CONTROL_PORT: u16 = 21;
const CLIENT_PORT: u16 = 3000;
const MAX_ENTRIES: u32 = 6;
const MAX_EXPECTED: u32 = 3;

/// Addresses as each family has them: client, server, the address the server sees as
/// the client (SNAT), the address the client calls (DNAT).
const ADDRESSES: [(Family, [u128; 4]); 2] = [
    (
        Family::V4,
        [0x0a00_0002, 0x0a00_0102, 0xac1f_fffe, 0xc0a8_0001],
    ),
    (
        Family::V6,
        [
            0xfd00_0000_0000_0000_0000_0000_0000_0002,
            0xfd00_0001_0000_0000_0000_0000_0000_0002,
            0xfd00_0001_0000_0000_1111_2222_3333_4444,
            0xfd00_0000_0000_0000_0000_0000_0000_0001,
        ],
    ),
];

/// One TCP end: what it numbers next, and what it waits for.
#[derive(Clone, Copy, Default)]
struct End {
    next: u32,
    wants: u32,
}

struct World {
    gate: Gate,
    family: Family,
    /// Client, server, client as the server sees it, server as the client sees it.
    addr: [u128; 4],
    ends: [End; 2],
    /// Nothing was done so far that may upset a tracker: every segment must come
    /// through to where its receiver waits for it.
    orderly: bool,
}

/// The helper reads any lines in any order. What comes out are well-formed packets
/// with right checksums, tables stay within their limits, and as long as nobody
/// misbehaves both ends see one unbroken stream.
pub fn ftp(data: &[u8]) {
    let mut input = Input::new(data);
    let mut world = World::new(&mut input);
    world.handshake();
    while !input.is_empty() {
        world.step(&mut input);
        world.gate.bounded();
    }
    world.gate.end();
}

impl World {
    fn new(input: &mut Input<'_>) -> World {
        let options = input.byte();
        let (family, [client, server, seen, called]) = ADDRESSES[usize::from(options & 1)];
        let [snat, dnat] = [options & 2 != 0, options & 4 != 0];
        let range = |addr: u128| NatRange {
            ports: (options & 0x10 != 0).then_some((3000, 3001)),
            ..NatRange::address(addr)
        };
        let config = Config {
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
        };
        let mut gate = Gate::new(config);
        gate.helper = Some(HelperKind::Ftp);
        gate.snat = snat.then(|| range(seen));
        gate.dnat = dnat.then(|| NatRange::address(server));
        World {
            gate,
            family,
            addr: [
                client,
                server,
                if snat { seen } else { client },
                if dnat { called } else { server },
            ],
            ends: [0, 1].map(|_| End {
                next: input.word(),
                wants: 0,
            }),
            orderly: true,
        }
    }

    fn handshake(&mut self) {
        for (dir, flags) in [
            (Dir::Original, SYN),
            (Dir::Reply, SYN | ACK),
            (Dir::Original, ACK),
        ] {
            self.send(dir, flags, &[], &[], 0);
        }
    }

    /// One decision: a segment, time, or a data connection.
    fn step(&mut self, input: &mut Input<'_>) {
        let op = input.byte();
        let dir = if op & 1 == 0 {
            Dir::Original
        } else {
            Dir::Reply
        };
        match op >> 1 & 15 {
            0..=8 => {
                let len = usize::from(input.byte());
                self.send(dir, PSH | ACK, &[], input.take(len), 0);
            }
            9 => self.send(dir, ACK, &[], &[], 0),
            10 => {
                self.orderly = false;
                let (flags, back) = (input.byte(), input.byte());
                let len = usize::from(input.byte());
                self.send(dir, flags, &[], input.take(len), i32::from(back as i8));
            }
            11 => {
                let options = input.take(40);
                self.orderly = false;
                self.send(dir, ACK, options, &[], 0);
            }
            12 => {
                self.orderly = false;
                self.gate.wait(input.half());
            }
            13 => {
                self.orderly = false;
                self.send(
                    dir,
                    input.pick(&[FIN | ACK, RST, RST | ACK, SYN, SYN | ACK]),
                    &[],
                    &[],
                    0,
                );
            }
            _ => self.open_expected(),
        }
    }

    /// A segment from one end in the addresses that end knows; `back` moves its
    /// sequence number.
    fn send(&mut self, dir: Dir, flags: u8, options: &[u8], data: &[u8], back: i32) {
        let [client, server, seen, called] = self.addr;
        // A translated source port may differ from the client's own.
        let port = self.client_port();
        let (src, dst, ports) = match dir {
            Dir::Original => (client, called, (CLIENT_PORT, CONTROL_PORT)),
            Dir::Reply => (server, seen, (CONTROL_PORT, port)),
        };
        let end = self.ends[dir as usize];
        let l4 = tcp(Segment {
            ports,
            seq: end.next.wrapping_add_signed(back),
            ack: if flags & ACK == 0 { 0 } else { end.wants },
            flags,
            options,
            data,
        });
        let ends = Ends {
            family: self.family,
            src,
            dst,
        };
        let passed = self
            .gate
            .pass(packet(ends, proto::TCP, l4, Some(TCP_CHECK)));
        let length = data.len() as u32 + u32::from(flags & SYN != 0) + u32::from(flags & FIN != 0);
        match passed {
            Ok(bytes) => self.arrive(dir, &bytes, length),
            // A line the helper refuses never arrives; the sender may say something else.
            Err(Some(
                DropReason::Helper(_) | DropReason::HelperPort(_) | DropReason::HelperSilent,
            )) => {}
            Err(other) => assert!(!self.orderly, "lost: {other:?}"),
        }
    }

    fn client_port(&self) -> u16 {
        let control =
            self.gate.ct.iter().find(|(_, e)| {
                e.tuple(Dir::Original).dst_id == CONTROL_PORT && e.master().is_none()
            });
        control.map_or(CLIENT_PORT, |(_, e)| e.tuple(Dir::Reply).dst_id)
    }

    fn arrive(&mut self, dir: Dir, bytes: &[u8], sent: u32) {
        let layout = well_formed(bytes);
        let segment = Tcp::new(layout.l4(bytes)).expect("a TCP segment stays one");
        let own = &mut self.ends[dir as usize];
        own.next = own.next.wrapping_add(sent);
        let orderly = self.orderly;
        let flags = segment.flags();
        let other = &mut self.ends[dir.other() as usize];
        if orderly && flags & SYN == 0 {
            assert_eq!(segment.seq(), other.wants, "a gap in the stream");
        }
        if orderly && flags & ACK != 0 {
            assert_eq!(segment.ack(), other.next, "acknowledges what was not sent");
        }
        let length = segment.payload().len() as u32 + u32::from(flags & (SYN | FIN) != 0);
        other.wants = segment.seq().wrapping_add(length);
    }

    /// The data connection that was announced last, in the addresses its opener knows.
    fn open_expected(&mut self) {
        let Some(tuple) = self.gate.ct.expectations().last().map(|e| e.tuple) else {
            return;
        };
        let l4 = tcp(Segment {
            ports: (20, tuple.dst_id),
            seq: 1,
            flags: SYN,
            ..Segment::default()
        });
        let ends = Ends {
            family: self.family,
            src: tuple.src,
            dst: tuple.dst,
        };
        let passed = self
            .gate
            .pass(packet(ends, proto::TCP, l4, Some(TCP_CHECK)));
        let opened = tidegate_conntrack::Tuple {
            src_id: 20,
            ..tuple
        };
        let child = self
            .gate
            .ct
            .find(&opened, Default::default())
            .and_then(|(id, _)| self.gate.ct.entry(id))
            .is_some_and(|e| e.master().is_some());
        if let Ok(bytes) = passed
            && child
            && !self.gate.ct.config().helper.ftp_loose
        {
            let [client, server, ..] = self.addr;
            let owner = if tuple.src == server { client } else { server };
            let dst = well_formed(&bytes).dst(&bytes);
            assert_eq!(dst, owner, "the data connection goes astray");
        }
    }
}
