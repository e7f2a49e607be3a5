//! A router between two networks and what it counts.

use std::sync::Arc;

use tidegate_engine::conntrack::{SECOND, Time};
use tidegate_engine::env::{Env, IfIndex, Interface, Prefix, Route, RouteType, Settings};
use tidegate_engine::{
    Config, DropCounters, DropKind, Engine, Incoming, InvalidKind, Outcome, TrackWhen,
};
use tidegate_syntax::{lower, parse_rules};
use tidegate_wire::Family;
use tidegate_xt::NoNames;

use crate::packets::Ends;

/// Client and server, and the router's addresses towards them.
pub(crate) const CLIENT: u128 = 0x0a00_0002;
pub(crate) const SERVER: u128 = 0x0a00_0102;
pub(crate) const INSIDE: u128 = 0x0a00_0001;
pub(crate) const OUTSIDE: u128 = 0x0a00_0101;
pub(crate) const FORTH: Ends = Ends(Family::V4, CLIENT, SERVER);
pub(crate) const CLIENT6: u128 = 0xfd00 << 112 | 2;
pub(crate) const SERVER6: u128 = 0xfd00_0001 << 96 | 2;
pub(crate) const FORTH6: Ends = Ends(Family::V6, CLIENT6, SERVER6);

pub(crate) const ETH0: IfIndex = IfIndex(2);
pub(crate) const ETH1: IfIndex = IfIndex(3);
/// Without addresses.
pub(crate) const ETH2: IfIndex = IfIndex(4);

pub(crate) fn interface(index: IfIndex, name: &str, v4: u128, v6: u128) -> Interface {
    let prefix = |family, addr, len| Prefix { family, addr, len };
    let addresses = match v4 {
        0 => Vec::new(),
        _ => vec![prefix(Family::V4, v4, 24), prefix(Family::V6, v6, 64)],
    };
    Interface {
        index,
        name: name.to_owned(),
        addresses,
        group: 0,
        mtu: 1500,
        mac: None,
        loopback: false,
    }
}

/// The surroundings; 10.0.8.0/24 is behind `moving`.
pub(crate) fn env(settings: Settings, moving: IfIndex) -> Arc<Env> {
    let interfaces = vec![
        interface(ETH0, "eth0", INSIDE, 0xfd00 << 112 | 1),
        interface(ETH1, "eth1", OUTSIDE, 0xfd00_0001 << 96 | 1),
        interface(ETH2, "eth2", 0, 0),
    ];
    let route = |addr, dev| Route {
        to: Prefix {
            family: Family::V4,
            addr,
            len: 24,
        },
        table: 254,
        kind: RouteType::Unicast,
        dev: Some(dev),
        via: None,
        src: None,
        realm: 0,
        metric: 0,
    };
    let routes = [route(0x0a00_0800, moving)];
    Arc::new(Env::new(interfaces, &routes, &[], settings))
}

pub(crate) fn router() -> Settings {
    Settings {
        forward4: true,
        forward6: true,
        ..Settings::default()
    }
}

/// A router at work.
pub(crate) struct World {
    pub(crate) engine: Engine,
    pub(crate) now: Time,
}

impl World {
    pub(crate) fn new() -> Self {
        Self::with(&Config {
            track: TrackWhen::Always,
            ..Config::default()
        })
    }

    pub(crate) fn with(config: &Config) -> Self {
        World {
            engine: Engine::new(config.clone(), env(router(), ETH1)),
            now: 1_795_000_000 * SECOND,
        }
    }

    /// Loads IPv4 rules: a table's name, its user chains and its rules.
    pub(crate) fn rules(mut self, tables: &[(&str, &str)]) -> Self {
        let mut text = String::new();
        for (table, rules) in tables {
            text += &format!("*{table}\n{rules}\nCOMMIT\n");
        }
        let rules = parse_rules(&text, Family::V4, &NoNames).unwrap();
        self.engine.load(Arc::new(lower(&rules).unwrap().ruleset));
        self
    }

    /// A packet that comes in by an interface.
    pub(crate) fn receive(&mut self, dev: IfIndex, packet: &[u8]) -> Outcome {
        self.incoming(Incoming::on(dev), packet)
    }

    pub(crate) fn incoming(&mut self, incoming: Incoming, packet: &[u8]) -> Outcome {
        self.now += SECOND / 1000;
        let packet = packet.to_vec();
        self.engine.receive(self.now, incoming, packet, &mut ())
    }

    /// Counted since the start, by name.
    pub(crate) fn counted(&self) -> Vec<(&'static str, u64)> {
        let drops = self.engine.drops();
        let dropped = DropKind::ALL.iter().map(|&k| (k.name(), drops.dropped(k)));
        let invalid = InvalidKind::ALL
            .iter()
            .map(|&k| (k.name(), drops.invalid(k)));
        dropped.chain(invalid).filter(|c| c.1 > 0).collect()
    }

    pub(crate) fn counters(&self) -> &DropCounters {
        self.engine.drops()
    }
}
