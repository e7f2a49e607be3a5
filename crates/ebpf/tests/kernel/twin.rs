//! One connection twice: in the tracker, and in the kernel's tables.

use tidegate_conntrack::config::Config;
use tidegate_conntrack::{
    Attached, Conntrack, CtInfo, Dir, EntryId, Family, InHook, Manip, NatHook, NatRange, SECOND,
    Status, Time, Tracked, Tuple,
};
use tidegate_ebpf::fast::known;
use tidegate_ebpf::layout::{
    GATE, GLOBAL, Goes, Hook, PATH, SPILLED, Slot, Way, gate, global, hop, key, mix, path,
    tcp_state, windows,
};
use tidegate_wire::{checksum, parse};

use crate::fast::{BUCKETS, Fast, Front, SECRETS, XDP};

/// Loopback, which packets of a test run come by.
const DEV: u32 = 1;
pub(crate) const PLACE: u32 = 3;
pub(crate) const MTU: u32 = 1500;
/// The next hop: where its addresses are, and what they are.
pub(crate) const HOP: u32 = 5;
const HOP_TO: [u8; 6] = [2, 0, 0, 0, 1, 0x99];
const HOP_FROM: [u8; 6] = [2, 0, 0, 0, 1, 1];
/// Loopback's.
const OWN: [u8; 6] = [0; 6];
/// What XDP writes before a frame.
const NOTE: usize = 24;
const NOW: Time = 1_795_227_335 * SECOND;

/// Addresses and ports: client, server, and the client's as the server sees them.
#[derive(Clone, Copy)]
pub(crate) struct Ends {
    pub(crate) client: (u128, u16),
    pub(crate) server: (u128, u16),
    pub(crate) outside: Option<(u128, u16)>,
}

pub(crate) struct Twin {
    pub(crate) ct: Conntrack,
    pub(crate) fast: Fast,
    pub(crate) id: EntryId,
    pub(crate) now: Time,
    pub(crate) sent_on: u64,
    pub(crate) left: u64,
}

/// The packet as the tracker lets it out, and its entry; `None`: INVALID or dropped.
fn track(
    (ct, front): (&mut Conntrack, Front),
    now: Time,
    packet: &[u8],
    ends: &Ends,
) -> Option<(Attached, Vec<u8>)> {
    let layout = parse(packet).ok()?;
    let hook = match front.hook {
        Hook::Ingress => InHook::Prerouting,
        Hook::Egress => InHook::Output,
    };
    let tracked = ct.handle_packet(now, packet, &layout, hook, None);
    let Tracked::Ct(mut attached) = tracked else {
        return None;
    };
    if attached.info == CtInfo::New {
        ct.nat_null_binding(attached.id, Manip::Dst).unwrap();
        match ends.outside {
            None => ct.nat_null_binding(attached.id, Manip::Src).unwrap(),
            Some((addr, port)) => {
                let range = NatRange {
                    ports: Some((port, port)),
                    ..NatRange::address(addr)
                };
                ct.nat_setup(attached.id, Manip::Src, &range).unwrap();
            }
        }
    }
    let mut out = packet.to_vec();
    for hook in [NatHook::Prerouting, NatHook::Postrouting] {
        let layout = parse(&out).unwrap();
        ct.nat_translate(&attached, hook, &mut out, &layout)
            .unwrap();
    }
    match layout.family {
        _ if front.own => {}
        Family::V4 => {
            out[8] -= 1;
            checksum::fix_ipv4(&mut out);
        }
        Family::V6 => out[7] -= 1,
    }
    ct.confirm(now, &mut attached).unwrap();
    Some((attached, out))
}

/// An Ethernet frame for loopback's address.
pub(crate) fn frame(packet: &[u8]) -> Vec<u8> {
    let mut frame = vec![0; 12];
    frame[11] = 9;
    frame.extend(if packet[0] >> 4 == 6 {
        [0x86, 0xdd]
    } else {
        [8, 0]
    });
    frame.extend_from_slice(packet);
    frame
}

impl Twin {
    /// A connection that `opening` packets have made.
    pub(crate) fn new(front: Front, opening: &[Vec<u8>], ends: &Ends) -> Self {
        let mut ct = Conntrack::new(Config {
            acct: true,
            ..Config::default()
        });
        let mut id = None;
        for packet in opening {
            let (attached, _) =
                track((&mut ct, front), NOW, packet, ends).expect("an opening is valid");
            id = Some(attached.id);
        }
        let mut twin = Twin {
            ct,
            fast: Fast::load(front),
            id: id.unwrap(),
            now: NOW,
            sent_on: 0,
            left: 0,
        };
        twin.fast.set_globals(globals(1));
        let [first, second] = hop::words(HOP_TO, HOP_FROM);
        twin.fast.set_hop(HOP, [first, second, 0]);
        for dir in Dir::BOTH {
            let tuple = *twin.ct.entry(twin.id).unwrap().tuple(dir);
            let slot = Slot {
                place: PLACE,
                dir,
                mix: mix(&SECRETS.hash, &key(DEV, front.hook, &tuple)),
            };
            twin.fast.set_flow(&slot, dir == Dir::Reply);
        }
        twin.give();
        twin
    }

    /// Lets two-way traffic last long enough to make a stream of datagrams.
    pub(crate) fn assure(&mut self) {
        self.now += 3 * SECOND;
    }

    /// Both directions' ways out.
    pub(crate) fn ways(&self) -> [Option<Way>; 2] {
        let tuples = self.ct.entry(self.id).unwrap().tuples;
        let way = |before: Tuple, after: Tuple| {
            Some(Way {
                goes: if self.fast.front.own {
                    Goes::On
                } else {
                    Goes::Out {
                        dev: 1,
                        next_hop: 1,
                        mtu: MTU,
                    }
                },
                before,
                after: after.inverse().unwrap(),
                tos: None,
                hop: (!self.fast.front.own).then_some(HOP),
                early: Some(OWN),
            })
        };
        [way(tuples[0], tuples[1]), way(tuples[1], tuples[0])]
    }

    /// Lets the kernel have the connection as the tracker knows it.
    pub(crate) fn give(&mut self) {
        let entry = self.ct.entry(self.id).unwrap();
        let tcp = entry.tcp().copied().unwrap_or_default();
        self.fast.set_connection(PLACE, windows(&tcp));
        let mut gate = self.fast.gate(PLACE);
        let ways = self.ways();
        for (dir, way) in Dir::BOTH.into_iter().zip(&ways) {
            set_path(
                &mut gate,
                (self.fast.front.hook, dir),
                way.as_ref().unwrap(),
            );
        }
        gate[gate::DONE] = gate[gate::SENT];
        gate[gate::EPOCH] = 1;
        for dir in Dir::BOTH {
            let counters = entry.counters.as_ref().expect("accounting is on")[dir as usize];
            gate[gate::COUNTS + 2 * dir as usize] = counters.packets;
            gate[gate::COUNTS + 2 * dir as usize + 1] = counters.bytes;
        }
        self.fast.set_gate(PLACE, gate);
    }

    /// Sends a packet both ways. What the kernel sends on must come out of the tracker's
    /// hands as the same bytes and with the same state; what it leaves must leave the
    /// kernel's state as it was.
    pub(crate) fn send(&mut self, packet: &[u8], ends: &Ends) -> bool {
        let before = self.fast.connection(PLACE);
        let gate_before = self.fast.gate(PLACE);
        let (answer, out) = self.fast.run(&frame(packet));
        let tracked = track((&mut self.ct, self.fast.front), self.now, packet, ends);
        let gate = self.fast.gate(PLACE);
        if answer == self.fast.front.sent_on {
            self.sent_on += 1;
            let (attached, expected) = tracked.expect("INVALID, but sent on");
            assert_eq!(attached.id, self.id);
            assert_eq!(hex(&out[14..]), hex(&expected), "of {}", hex(packet));
            if self.fast.front.own {
                assert_eq!(out[..12], frame(packet)[..12]);
            } else {
                assert_eq!(out[..12], [HOP_TO, HOP_FROM].concat());
            }
            let entry = self.ct.entry(self.id).unwrap();
            if let Some(tcp) = entry.tcp() {
                let kernels = tcp_state(&self.fast.connection(PLACE), tcp);
                assert_eq!(kernels, *tcp, "after {}", hex(packet));
            }
            for dir in Dir::BOTH {
                let counters = entry.counters.as_ref().expect("accounting is on")[dir as usize];
                let at = gate::COUNTS + 2 * dir as usize;
                let counted = (gate[at], gate[at + 1]);
                assert_eq!(counted, (counters.packets, counters.bytes));
            }
            assert!(entry.status.has(Status::ASSURED));
            return true;
        }
        self.left += 1;
        assert_eq!(answer, self.fast.front.left);
        let counted = gate[gate::SENT] != gate_before[gate::SENT];
        self.left_as_it_came(&frame(packet), &out, counted);
        assert_eq!(self.fast.connection(PLACE), before);
        assert_eq!(gate[gate::COUNTS..], gate_before[gate::COUNTS..]);
        if self.ct.entry(self.id).is_some() {
            self.give();
        }
        false
    }
}

impl Twin {
    /// A frame that was left is as it came, but for the connection it was counted for.
    fn left_as_it_came(&self, came: &[u8], out: &[u8], counted: bool) {
        if self.fast.front == XDP {
            let note = if counted { NOTE } else { 0 };
            assert_eq!(out[note..], *came, "left as it came");
            if counted {
                let place = u32::from_ne_bytes(out[..4].try_into().unwrap());
                assert_eq!(place & 0x7fff_ffff, PLACE);
            }
            return;
        }
        // This host's own address.
        let own = match self.fast.front.hook {
            Hook::Ingress => 0..6,
            Hook::Egress => 6..12,
        };
        let mut rest = out[..came.len()].to_vec();
        rest[own.clone()].copy_from_slice(&came[own.clone()]);
        assert_eq!(rest, came, "left as it came");
        let address = out[own.clone()].try_into().unwrap();
        if counted {
            let (place, _) = known(&SECRETS, address).unwrap();
            assert_eq!(place, PLACE);
        } else {
            assert_eq!(address, came[own]);
        }
    }
}

/// Writes one direction's path.
pub(crate) fn set_path(gate: &mut [u64; GATE], (hook, dir): (Hook, Dir), way: &Way) {
    let path = path(&key(DEV, hook, &way.before), Some(way));
    let first = gate::PATHS + PATH / 2 * dir as usize;
    let (one, other) = path.split_at(PATH / 2);
    gate[first..first + PATH / 2].copy_from_slice(one);
    let second = first + gate::REST;
    gate[second..second + PATH / 2].copy_from_slice(other);
}

pub(crate) fn globals(epoch: u64) -> [u64; GLOBAL] {
    let mut globals = [0; GLOBAL];
    globals[global::EPOCH] = epoch;
    globals[global::VERIFY] = 1;
    globals[global::LAST_BUCKET] = u64::from(BUCKETS - 1) | SPILLED;
    globals
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

/// A gate's words that say that the kernel has the connection.
pub(crate) fn is_open(gate: &[u64; GATE]) -> bool {
    gate[gate::SENT] == gate[gate::DONE]
}
