//! An engine and its surroundings, for tests.
#![allow(dead_code, reason = "every test takes what it needs")]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::sync::Arc;

use tidegate_engine::env::{Env, IfIndex, Interface, Prefix, Settings};
use tidegate_engine::{Config, Engine};
use tidegate_ir::Ruleset;
use tidegate_syntax::{lower, parse_rules};
use tidegate_wire::Family;
use tidegate_xt::NoNames;

/// An interface with an IPv4 address.
pub(crate) fn interface(index: u32, name: &str, addr: u32, len: u8) -> Interface {
    Interface {
        index: IfIndex(index),
        name: name.to_owned(),
        addresses: vec![Prefix {
            family: Family::V4,
            addr: addr.into(),
            len,
        }],
        group: 0,
        mtu: 1500,
        mac: None,
        loopback: false,
    }
}

/// An engine between these interfaces that forwards IPv4.
pub(crate) fn router(config: Config, interfaces: Vec<Interface>) -> Engine {
    let settings = Settings {
        forward4: true,
        ..Settings::default()
    };
    Engine::new(config, Arc::new(Env::new(interfaces, &[], &[], settings)))
}

/// A router between 10.0.0.1/24 on eth0 (2) and 10.0.1.1/24 on eth1 (3) with these rules.
pub(crate) fn router_of_two(rules: &str) -> Engine {
    let interfaces = vec![
        interface(2, "eth0", 0x0a00_0001, 24),
        interface(3, "eth1", 0x0a00_0101, 24),
    ];
    let mut engine = router(Config::default(), interfaces);
    engine.load(lowered(rules, Family::V4));
    engine
}

/// Rules as the engine takes them.
pub(crate) fn lowered(text: &str, family: Family) -> Arc<Ruleset> {
    let parsed = parse_rules(text, family, &NoNames).unwrap();
    Arc::new(lower(&parsed).unwrap().ruleset)
}
