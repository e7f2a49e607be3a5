//! Masqueraded connections and the addresses they use, as Linux 6.18 was seen to treat them:
//! one goes with its own address and with its interface, and not with another address.

use std::sync::Arc;

use tidegate_engine::env::{Env, Interface};

use crate::world::{ETH0, ETH1, FORTH, INSIDE, OUTSIDE, World, interface, router};

/// The router with these addresses outside; without any, that interface is down.
fn env(outside: &[u128]) -> Arc<Env> {
    let one = |&addr| interface(ETH1, "eth1", addr, 0xfd00_0001 << 96 | 1);
    let mut all = outside.iter().map(one);
    let outside = all.next().map(|first| Interface {
        addresses: all.fold(first.addresses.clone(), |mut list, next| {
            list.extend(next.addresses);
            list
        }),
        ..first
    });
    let inside = interface(ETH0, "eth0", INSIDE, 0xfd00 << 112 | 1);
    let interfaces = [inside].into_iter().chain(outside).collect();
    Arc::new(Env::new(interfaces, &[], &[], router()))
}

#[test]
fn a_masqueraded_connection_goes_with_its_address_and_its_interface() {
    const OTHER: u128 = OUTSIDE + 8;
    let mut world = World::new().rules(&[("nat", "-A POSTROUTING -o eth1 -j MASQUERADE")]);
    let mut count = |outside: &[u128], port: u16| {
        world.engine.set_env(env(outside));
        if port > 0 {
            world.receive(ETH0, &FORTH.udp([port, 53], b"?"));
        }
        world.engine.conntrack().count()
    };
    assert_eq!(count(&[OUTSIDE, OTHER], 1000), 1);
    assert_eq!(count(&[OUTSIDE], 0), 1, "another address");
    assert_eq!(count(&[OUTSIDE, OTHER], 0), 1, "a new address");
    assert_eq!(count(&[OTHER], 0), 0, "its own address");
    assert_eq!(count(&[OTHER], 1001), 1);
    assert_eq!(count(&[], 0), 0, "the interface is down");
}
