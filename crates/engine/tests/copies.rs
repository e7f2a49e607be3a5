//! Where copies that TEE makes go.

mod common;

use std::sync::Arc;

use tidegate_engine::env::{
    Env, IfIndex, Interface, Prefix, Route, RouteType, Settings, TABLE_MAIN,
};
use tidegate_engine::{Config, Engine, Incoming, Output, Role};
use tidegate_wire::{Family, checksum};

use common::{interface, lowered};

const OUT: IfIndex = IfIndex(3);

/// 10.0.0.1/24 on eth0 (2), 10.0.1.1/24 on eth1 (3), everything else by 10.0.1.2 if `default`.
fn env(default: bool) -> Env {
    let interfaces: Vec<Interface> = vec![
        interface(2, "eth0", 0x0a00_0001, 24),
        interface(3, "eth1", 0x0a00_0101, 24),
    ];
    let route = Route {
        to: Prefix {
            family: Family::V4,
            addr: 0,
            len: 0,
        },
        table: TABLE_MAIN,
        kind: RouteType::Unicast,
        dev: Some(OUT),
        via: Some(0x0a00_0102),
        src: None,
        realm: 0,
        metric: 0,
    };
    let settings = Settings {
        forward4: true,
        ..Settings::default()
    };
    Env::new(interfaces, &[route][..usize::from(default)], &[], settings)
}

/// Interface and next hop of the copy of a datagram to this host.
fn copied(rule: &str, default: bool) -> Option<(IfIndex, u128)> {
    let mut packet = vec![
        0x45, 0, 0, 28, 0, 1, 0, 0, 64, 17, 0, 0, 10, 0, 0, 2, 10, 0, 0, 1, 0x10, 0, 0, 53, 0, 8,
        0, 0,
    ];
    checksum::fix_ipv4(&mut packet);
    let mut engine = Engine::new(Config::default(), Arc::new(env(default)));
    let rules = format!("*mangle\n-A PREROUTING -j TEE {rule}\nCOMMIT\n");
    engine.load(lowered(&rules, Family::V4));
    let outcome = engine.receive(0, Incoming::on(IfIndex(2)), packet, &mut ());
    outcome.outputs.iter().find_map(|output| match output {
        Output::Transmit {
            dev,
            next_hop,
            role: Role::Copy,
            ..
        } => Some((*dev, *next_hop)),
        _ => None,
    })
}

/// As `ip route get GATEWAY oif eth1` says.
#[test]
fn a_copy_takes_the_way_to_its_gateway_out_of_the_link_that_the_rule_names() {
    let gateway = 0x0a00_0009;
    let near = Some((IfIndex(2), gateway));
    assert_eq!(copied("--gateway 10.0.0.9", true), near);
    assert_eq!(copied("--gateway 10.0.0.9 --oif eth0", true), near);
    let by_default = Some((OUT, 0x0a00_0102));
    assert_eq!(copied("--gateway 10.0.0.9 --oif eth1", true), by_default);
    let on_link = Some((OUT, gateway));
    assert_eq!(copied("--gateway 10.0.0.9 --oif eth1", false), on_link);
}
