//! Packets of both families through an engine with rules of every kind.

use std::sync::{Arc, LazyLock};

use tidegate_engine::env::{Env, IfIndex, Interface, Prefix, Settings};
use tidegate_engine::{
    Config, Counter, Engine, Incoming, LinkHeader, Outcome, Output, Role, Trace, TraceEvent,
};
use tidegate_ir::{RuleId, Ruleset};
use tidegate_wire::{Family, checksum, proto};
use tidegate_xt::NoNames;

use crate::input::Input;
use crate::packets::{
    Ends, ICMP_CHECK, Segment, TCP_CHECK, UDP_CHECK, checksum_holds, packet, tcp, udp, well_formed,
};

const SECOND: u64 = 1_000_000_000;
const MAX_FRAGMENT_BYTES: usize = 4096;
const MAX_CONNECTIONS: u32 = 12;
const FAMILIES: [Family; 2] = [Family::V4, Family::V6];

/// Rules of both families; the text is one file per family.
static RULES: LazyLock<[Arc<Ruleset>; 2]> = LazyLock::new(|| {
    let texts = [include_str!("rules4.txt"), include_str!("rules6.txt")];
    [0, 1].map(|i| {
        let parsed = tidegate_syntax::parse_rules(texts[i], FAMILIES[i], &NoNames)
            .unwrap_or_else(|e| panic!("{e}"));
        let lowered = tidegate_syntax::lower(&parsed).unwrap_or_else(|e| panic!("{e:?}"));
        Arc::new(lowered.ruleset)
    })
});

static ENV: LazyLock<Arc<Env>> = LazyLock::new(|| {
    let net4 = |addr: u128, len| Prefix {
        family: Family::V4,
        addr,
        len,
    };
    let net6 = |subnet: u128| Prefix {
        family: Family::V6,
        addr: 0xfd << 120 | subnet << 80 | 1,
        len: 64,
    };
    let interface = |n: u32, mtu| Interface {
        index: IfIndex(n + 2),
        name: format!("eth{n}"),
        addresses: vec![
            net4(0x0a00_0001 | u128::from(n) << 8, 24),
            net6(u128::from(n)),
        ],
        group: 0,
        mtu,
        mac: None,
        loopback: false,
    };
    let settings = Settings {
        forward4: true,
        forward6: true,
        ..Settings::default()
    };
    let interfaces = vec![interface(0, 1500), interface(1, 1280)];
    Arc::new(Env::new(interfaces, &[], &[], settings))
});

/// Addresses that packets have: hosts at both sides, the firewall, strangers, groups.
const HOSTS4: [u128; 8] = [
    0x0a00_0002,
    0x0a00_0102,
    0x0a00_0001,
    0x0a00_0101,
    0x0a00_0003,
    0x7f00_0001,
    0x0a00_00ff,
    0x0808_0808,
];
const PORTS: [u16; 8] = [21, 22, 80, 3000, 53, 20, 8080, 65535];

/// Nothing that comes in makes the engine panic, leak, exceed its limits or let go of
/// a damaged packet; counters never go back. Watching it changes nothing.
pub fn engine(data: &[u8]) {
    let mut input = Input::new(data);
    let mut world = World::new();
    while !input.is_empty() {
        world.step(&mut input);
    }
    world.empties();
}

/// Wants to hear of every test, so that none is skipped.
struct Curious;

impl Trace for Curious {
    const ACTIVE: bool = true;
    const TESTS: bool = true;
    fn event(&mut self, _: TraceEvent<'_>) {}
}

struct World {
    engine: Engine,
    /// Sees the same packets and tests every rule on each.
    curious: Engine,
    now: u64,
    /// The packet before, for repetitions, embedding and answers.
    last: Vec<u8>,
    counters: [Vec<Counter>; 2],
}

impl World {
    fn new() -> World {
        let mut config = Config {
            seed: 1,
            ..Config::default()
        };
        config.conntrack.max = MAX_CONNECTIONS;
        config.conntrack.buckets = 8;
        config.conntrack.expect_max = 4;
        config.conntrack.acct = true;
        config.conntrack.events = true;
        config.defrag.max_bytes = MAX_FRAGMENT_BYTES;
        let [engine, curious] = [0, 1].map(|_| {
            let mut engine = Engine::new(config.clone(), ENV.clone());
            for rules in &*RULES {
                engine.load(rules.clone());
            }
            engine
        });
        let counters = [0, 1].map(|i| vec![Counter::default(); RULES[i].rule_ids as usize]);
        World {
            engine,
            curious,
            now: 1_000_000 * SECOND,
            last: Vec::new(),
            counters,
        }
    }

    /// One packet, a pause or a change.
    fn step(&mut self, input: &mut Input<'_>) {
        let op = input.byte();
        if op & 0x0f == 0x0f {
            self.now += u64::from(input.half()) * SECOND / 4;
            self.engine.handle_timeout(self.now);
            self.curious.handle_timeout(self.now);
            return self.bounded();
        }
        if op & 0x0f == 0x0e {
            self.change(op >> 4);
            return self.bounded();
        }
        let mut bytes = self.packet(op & 0x0f, input);
        if op & 0x80 != 0 {
            damage(&mut bytes, input);
        }
        self.last.clone_from(&bytes);
        let whole = checksum_holds(&bytes);
        let way = op >> 4 & 7;
        let outcome = decide(&mut self.engine, self.now, way, bytes.clone(), &mut ());
        let watched = decide(&mut self.curious, self.now, way, bytes, &mut Curious);
        assert_eq!(outcome.disposition, watched.disposition);
        assert_eq!(outcome.outputs, watched.outputs);
        for output in &outcome.outputs {
            check_output(output, whole);
        }
        self.bounded();
    }

    /// What a user does in between: flush connections or load a family's rules again.
    fn change(&mut self, what: u8) {
        let family = usize::from(what & 1);
        for engine in [&mut self.engine, &mut self.curious] {
            if what & 2 != 0 {
                engine.conntrack_mut().flush();
            } else {
                engine.load(RULES[family].clone());
                self.counters[family].fill(Counter::default());
            }
        }
    }

    fn packet(&self, kind: u8, input: &mut Input<'_>) -> Vec<u8> {
        let family = if kind & 1 == 0 {
            Family::V4
        } else {
            Family::V6
        };
        match kind >> 1 {
            0 => {
                let len = usize::from(input.byte());
                input.take(len).to_vec()
            }
            1 => {
                let ends = ends(family, input);
                packet(ends, proto::TCP, segment(input), Some(TCP_CHECK))
            }
            2 => {
                let ends = ends(family, input);
                let ports = (input.pick(&PORTS), input.pick(&PORTS));
                let data = vec![0x41; usize::from(input.byte()) * 8];
                packet(ends, proto::UDP, udp(ports, &data), Some(UDP_CHECK))
            }
            3 => icmp(ends(family, input), input, &self.last),
            4 => self.fragment(input),
            5 => self.answer(),
            _ => self.last.clone(),
        }
    }

    /// A piece of the packet before: `at` and `len` in units of eight bytes. The next
    /// piece wants the same packet, so this one does not become the last.
    fn fragment(&self, input: &mut Input<'_>) -> Vec<u8> {
        let (at, len, flags) = (
            usize::from(input.byte()),
            usize::from(input.byte()),
            input.byte(),
        );
        cut(at, len, flags, &self.last).unwrap_or_default()
    }

    /// The packet before with its ends exchanged.
    fn answer(&self) -> Vec<u8> {
        answer(&self.last).unwrap_or_default()
    }

    fn bounded(&mut self) {
        let ct = self.engine.conntrack_mut();
        let _ = (ct.events(), ct.expect_events());
        let hidden = ct.stats().clash_resolve as usize;
        let (count, listed) = (ct.count() as usize, ct.iter().count());
        assert!(
            listed <= count && count <= listed + hidden,
            "{count} counted, {listed} listed"
        );
        assert!(count <= MAX_CONNECTIONS as usize);
        assert!(ct.expectations().count() <= 4);
        assert!(self.engine.fragment_bytes() <= MAX_FRAGMENT_BYTES);
        for (family, counters) in FAMILIES.into_iter().zip(&mut self.counters) {
            for (id, old) in (0..).zip(counters) {
                let new = self.engine.counter(family, RuleId(id));
                assert!(new.packets >= old.packets && new.bytes >= old.bytes);
                let watched = self.curious.counter(family, RuleId(id));
                assert_eq!((new.packets, new.bytes), (watched.packets, watched.bytes));
                *old = new;
            }
        }
    }

    /// Long after the last packet nothing is left.
    fn empties(&mut self) {
        self.engine.handle_timeout(self.now + 40 * 86_400 * SECOND);
        assert_eq!(self.engine.conntrack().count(), 0, "connections leak");
        assert_eq!(self.engine.conntrack().expectations().count(), 0);
        assert_eq!(self.engine.fragment_bytes(), 0, "fragments leak");
        assert_eq!(self.engine.poll_timeout(), None, "a timer is left");
    }
}

/// Sends or receives a packet.
fn decide(
    engine: &mut Engine,
    now: u64,
    way: u8,
    bytes: Vec<u8>,
    trace: &mut impl Trace,
) -> Outcome {
    if way < 2 {
        return engine.send(now, bytes, u32::from(way) * 7, trace);
    }
    let incoming = Incoming {
        link: LinkHeader::new(&[way; 14]),
        to_host: way != 7,
        ..Incoming::on(IfIndex(u32::from(way & 1) + 2))
    };
    engine.receive(now, incoming, bytes, trace)
}

/// What left is well-formed, fits its link, and its transport checksum is right when
/// the packet that caused it had a right one or when the firewall made it.
fn check_output(output: &Output, whole: Option<bool>) {
    match output {
        Output::Transmit {
            dev, bytes, role, ..
        } => {
            let layout = well_formed(bytes);
            let mtu = ENV.interface(*dev).expect("a known interface").mtu;
            assert!(layout.len <= mtu, "{} bytes on a link of {mtu}", layout.len);
            let must = matches!(role, Role::Emitted | Role::Copy) || whole == Some(true);
            if must && let Some(holds) = checksum_holds(bytes) {
                assert!(holds, "checksum {bytes:02x?}");
            }
        }
        Output::Deliver { bytes, .. } => {
            let layout = well_formed(bytes);
            assert!(layout.family == Family::V6 || !layout.is_fragment());
            if whole == Some(true)
                && let Some(holds) = checksum_holds(bytes)
            {
                assert!(holds, "checksum {bytes:02x?}");
            }
        }
        Output::Log { level, line, .. } => {
            assert!(*level <= 7 && !line.contains('\n'), "{line:?}");
        }
        Output::Nflog(copy) => {
            assert!(copy.bytes.len() <= copy.len as usize);
        }
    }
}

fn host(family: Family, input: &mut Input<'_>) -> u128 {
    let v4 = input.pick(&HOSTS4);
    match family {
        Family::V4 => v4,
        Family::V6 if v4 >> 24 == 10 => 0xfd << 120 | (v4 >> 8 & 0xff) << 80 | v4 & 0xff,
        Family::V6 => 0x2001 << 112 | v4,
    }
}

fn ends(family: Family, input: &mut Input<'_>) -> Ends {
    let (src, dst) = (host(family, input), host(family, input));
    Ends { family, src, dst }
}

/// Sequence numbers stay small so that segments can belong together.
fn segment(input: &mut Input<'_>) -> Vec<u8> {
    let ports = (input.pick(&PORTS), input.pick(&PORTS));
    let (seq, ack) = (u32::from(input.byte()), u32::from(input.byte()));
    let flags = input.byte();
    let options = usize::from(input.byte() & 0x3f);
    let options = input.take(options);
    let len = usize::from(input.byte());
    tcp(Segment {
        ports,
        seq,
        ack,
        flags,
        options,
        data: input.take(len),
    })
}

/// An echo, or an error about the packet before.
fn icmp(ends: Ends, input: &mut Input<'_>, last: &[u8]) -> Vec<u8> {
    let (kind, code) = (input.byte(), input.byte());
    let mut l4 = vec![kind, code, 0, 0, 0, input.byte(), 5, 0];
    let quoted = usize::from(input.byte()) * 2;
    l4.extend(last.iter().take(quoted));
    let protocol = match ends.family {
        Family::V4 => proto::ICMP,
        Family::V6 => proto::ICMPV6,
    };
    packet(ends, protocol, l4, Some(ICMP_CHECK))
}

/// Bytes `at * 8 ..` of what `whole` carries, as a fragment; flag 1: more follow.
fn cut(at: usize, len: usize, flags: u8, whole: &[u8]) -> Option<Vec<u8>> {
    let layout = tidegate_wire::parse(whole).ok()?;
    if layout.is_fragment() {
        return None;
    }
    let header = usize::from(layout.l4);
    let carried = whole.get(header..layout.len as usize)?;
    let piece = carried.get(at * 8..)?;
    let piece = &piece[..piece.len().min(len * 8)];
    let more = u16::from(flags & 1);
    let mut bytes = whole.get(..header)?.to_vec();
    match layout.family {
        Family::V4 => {
            let total = (header + piece.len()) as u16;
            bytes[2..4].copy_from_slice(&total.to_be_bytes());
            let word = at as u16 | more << 13 | u16::from(flags & 2) << 13;
            bytes[6..8].copy_from_slice(&word.to_be_bytes());
            checksum::fix_ipv4(&mut bytes);
        }
        Family::V6 => {
            let total = (header - 40 + 8 + piece.len()) as u16;
            bytes[4..6].copy_from_slice(&total.to_be_bytes());
            *bytes.get_mut(usize::from(layout.proto_at))? = proto::FRAGMENT;
            let word = (at as u16) << 3 | more;
            bytes.extend([layout.proto, 0]);
            bytes.extend(word.to_be_bytes());
            bytes.extend([0, 0, 0, flags >> 4]);
        }
    }
    bytes.extend(piece);
    Some(bytes)
}

fn answer(last: &[u8]) -> Option<Vec<u8>> {
    let layout = tidegate_wire::parse(last).ok()?;
    let mut bytes = last.to_vec();
    let (at, width) = match layout.family {
        Family::V4 => (12, 4),
        Family::V6 => (8, 16),
    };
    bytes[at..at + 2 * width].rotate_left(width);
    if matches!(layout.proto, proto::TCP | proto::UDP) {
        let l4 = usize::from(layout.l4);
        bytes.get_mut(l4..l4 + 4)?.rotate_left(2);
    }
    Some(bytes)
}

/// Overwrites a few bytes; an odd count repairs the IPv4 header checksum afterwards.
fn damage(bytes: &mut [u8], input: &mut Input<'_>) {
    let count = input.byte();
    for _ in 0..count & 7 {
        let (at, value) = (usize::from(input.byte()), input.byte());
        if let Some(byte) = bytes.get_mut(at) {
            *byte = value;
        }
    }
    if count & 1 != 0 && bytes.first().is_some_and(|b| b >> 4 == 4) {
        checksum::fix_ipv4(bytes);
    }
}
