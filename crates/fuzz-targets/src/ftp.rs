//! An FTP control connection between two simple TCP ends, translated on its way.

use tidegate_conntrack::{Dir, DropReason, HelperKind};
use tidegate_wire::{proto, tcp::Tcp};

use crate::gate::Gate;
use crate::input::Input;
use crate::packets::{Ends, Segment, TCP_CHECK, packet, tcp, well_formed};
use crate::way::{ACK, FIN, PSH, RST, SYN, Way};

/// Most entries and expectations.
const MOST: (u32, u32) = (6, 3);

/// One TCP end: what it numbers next, and what it waits for.
#[derive(Clone, Copy, Default)]
struct End {
    next: u32,
    wants: u32,
}

struct World {
    gate: Gate,
    way: Way,
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
        let (way, gate) = Way::new(input.byte(), HelperKind::Ftp, MOST);
        World {
            gate,
            way,
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
        let service = (proto::TCP, HelperKind::Ftp.port());
        let (src, dst, ports) = self.way.ends(&self.gate, dir, service);
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
            family: self.way.family,
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
            family: self.way.family,
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
            let [client, server, ..] = self.way.addr;
            let owner = if tuple.src == server { client } else { server };
            let dst = well_formed(&bytes).dst(&bytes);
            assert_eq!(dst, owner, "the data connection goes astray");
        }
    }
}
