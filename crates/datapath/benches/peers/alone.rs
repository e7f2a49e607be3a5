//! The engine alone, with the rules and the packets that the kernel's firewalls get.

use std::sync::Arc;

use rustix::time::{ClockId, clock_gettime};
use tidegate_engine::conntrack::{AHEAD, SECOND};
use tidegate_engine::env::{Env, IfIndex, Interface, Prefix, Route, RouteType, Settings};
use tidegate_engine::{Config, Disposition, Engine, Incoming};
use tidegate_syntax::{lower, parse_rules};
use tidegate_wire::Family;
use tidegate_xt::NoNames;

use crate::place::{Case, stream};

const INSIDE: IfIndex = IfIndex(2);
const OUTSIDE: IfIndex = IfIndex(3);
/// Packets that come in turn: more than caches near the core hold.
const PACKETS: u32 = 1 << 16;

pub(crate) struct Alone {
    engine: Engine,
    packets: Vec<Vec<u8>>,
    now: u64,
    /// Where the next packet is.
    at: usize,
    drops: bool,
}

impl Alone {
    /// An engine that has the case's rules, and its flows established.
    pub(crate) fn new(case: &Case) -> Self {
        let mut engine = Engine::new(Config::default(), surroundings());
        let rules = parse_rules(&case.rules(), Family::V4, &NoNames).unwrap();
        engine.load(Arc::new(lower(&rules).unwrap().ruleset));
        drop(rules);
        let forth = stream(case);
        let flows = case.flows.min(PACKETS);
        let mut alone = Alone {
            engine,
            packets: (0..flows).map(|n| forth.packet(n)).collect(),
            now: 1_700_000_000 * SECOND,
            at: 0,
            drops: case.flood,
        };
        if !case.stateless && !case.flood {
            alone.open(case, flows);
        }
        alone
    }

    /// Questions, answers, and after some time both once more.
    fn open(&mut self, case: &Case, flows: u32) {
        let back = stream(case).answers();
        for _ in 0..2 {
            self.now += 3 * SECOND;
            for n in 0..flows {
                for (dev, packet) in [
                    (INSIDE, self.packets[n as usize].clone()),
                    (OUTSIDE, back.packet(n)),
                ] {
                    let incoming = Incoming::on(dev);
                    let done = self.engine.receive(self.now, incoming, packet, &mut ());
                    assert_eq!(done.disposition, Disposition::Sent);
                }
            }
        }
    }

    /// Nanoseconds a packet, in batches as the datapath makes them.
    pub(crate) fn measure(&mut self, packets: u32) -> f64 {
        let mut spare: Vec<_> = (0..AHEAD).map(|_| Vec::with_capacity(64)).collect();
        let mut batch = Vec::with_capacity(AHEAD);
        let began = clock_gettime(ClockId::ThreadCPUTime);
        for _ in 0..packets as usize / AHEAD {
            for mut buffer in spare.drain(..) {
                buffer.clear();
                buffer.extend_from_slice(&self.packets[self.at]);
                self.at = (self.at + 1) % self.packets.len();
                batch.push(buffer);
            }
            self.engine.foresee(batch.iter().map(Vec::as_slice));
            for packet in batch.drain(..) {
                self.now += 1_000;
                let incoming = Incoming::on(INSIDE);
                let done = self.engine.receive(self.now, incoming, packet, &mut ());
                assert_eq!(done.disposition == Disposition::Sent, !self.drops);
                spare.push(self.engine.recycle(done.outputs).unwrap_or_default());
            }
        }
        let took = clock_gettime(ClockId::ThreadCPUTime) - began;
        (took.tv_sec as f64 * 1e9 + took.tv_nsec as f64) / f64::from(packets)
    }
}

/// The bench's router.
fn surroundings() -> Arc<Env> {
    let prefix = |addr: u32, len| Prefix {
        family: Family::V4,
        addr: u128::from(addr),
        len,
    };
    let interface = |index, name: &str, addr| Interface {
        index,
        name: name.to_owned(),
        addresses: vec![prefix(addr, 24)],
        group: 0,
        mtu: 1500,
        mac: None,
        loopback: false,
    };
    let route = |to, dev, via| Route {
        to,
        table: 254,
        kind: RouteType::Unicast,
        dev: Some(dev),
        via: Some(via),
        src: None,
        realm: 0,
        metric: 0,
    };
    let routes = [
        route(prefix(0x0a40_0000, 10), INSIDE, 0x0a00_0003),
        route(prefix(0x0a02_0000, 16), OUTSIDE, 0x0a01_0003),
    ];
    let interfaces = vec![
        interface(INSIDE, "eth0", 0x0a00_0001),
        interface(OUTSIDE, "eth1", 0x0a01_0001),
    ];
    let settings = Settings {
        forward4: true,
        ..Settings::default()
    };
    Arc::new(Env::new(interfaces, &routes, &[], settings))
}
