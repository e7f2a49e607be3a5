//! A router or a server, and a hundred rules.

use std::fmt::Write as _;
use std::sync::Arc;

use anyhow::{Result, anyhow};
use tidegate_engine::env::{
    Env, IfIndex, Interface, Prefix, Route, RouteType, Settings, TABLE_MAIN,
};
use tidegate_ir::Ruleset;
use tidegate_syntax::{lower, parse_rules};
use tidegate_wire::Family;
use tidegate_xt::NoNames;

/// The interface towards the clients.
pub(crate) const INSIDE: IfIndex = IfIndex(2);
/// The interface towards the server.
pub(crate) const OUTSIDE: IfIndex = IfIndex(3);

/// Where the rule for established connections stands.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Established {
    First,
    Last,
}

const ESTABLISHED: &str = "-A FORWARD -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT\n";

/// A hundred rules in FORWARD as people write them: hosts, networks, ports, lists of
/// ports, interfaces. One lets new connections to the server in.
pub(crate) fn rules(place: Established) -> String {
    many(98, place)
}

/// The same with `count` of those rules.
pub(crate) fn many(count: u32, place: Established) -> String {
    let mut text =
        "*filter\n:INPUT ACCEPT [0:0]\n:FORWARD DROP [0:0]\n:OUTPUT ACCEPT [0:0]\n".to_owned();
    if place == Established::First {
        text.push_str(ESTABLISHED);
    }
    for n in 0..count {
        let (high, low, port) = (n / 200 % 250, n % 200, 10_000 + n % 50_000);
        // Writing to a String cannot fail.
        let _ = match n % 5 {
            0 => writeln!(text, "-A FORWARD -s 172.{high}.{low}.0/24 -j DROP"),
            1 => writeln!(
                text,
                "-A FORWARD -d 10.7.{high}.{low}/32 -p tcp -m tcp --dport 22 -j ACCEPT"
            ),
            2 => writeln!(
                text,
                "-A FORWARD -i eth0 -p udp -m udp --dport {port} -j ACCEPT"
            ),
            3 => writeln!(
                text,
                "-A FORWARD -p tcp -m tcp --dport {} -j REJECT --reject-with tcp-reset",
                500 + n % 8_000
            ),
            _ => writeln!(
                text,
                "-A FORWARD -p tcp -m multiport --dports 25,110,143,{} -j DROP",
                500 + n % 8_000
            ),
        };
    }
    text.push_str("-A FORWARD -d 10.9.0.1/32 -p tcp -m tcp --dport 443 -m conntrack --ctstate NEW -j ACCEPT\n");
    if place == Established::Last {
        text.push_str(ESTABLISHED);
    }
    text.push_str("COMMIT\n");
    text
}

/// Reads and lowers IPv4 rules.
///
/// # Errors
/// The text is no rules file.
pub(crate) fn load(text: &str) -> Result<Arc<Ruleset>> {
    let rules = parse_rules(text, Family::V4, &NoNames).map_err(|e| anyhow!("{e:?}"))?;
    let lowered = lower(&rules).map_err(|e| anyhow!("{e:?}"))?;
    Ok(Arc::new(lowered.ruleset))
}

/// A router between the clients and the server.
pub(crate) fn router() -> Arc<Env> {
    router_of(16)
}

/// The same with a network of this prefix length for the clients.
pub(crate) fn router_of(clients: u8) -> Arc<Env> {
    router_with(clients, &[])
}

/// The same where everything else is behind the server.
pub(crate) fn router_to_all() -> Arc<Env> {
    let everything = Route {
        to: Prefix {
            family: Family::V4,
            addr: 0,
            len: 0,
        },
        table: TABLE_MAIN,
        kind: RouteType::Unicast,
        dev: Some(OUTSIDE),
        via: Some(0x0a09_0001),
        src: None,
        realm: 0,
        metric: 0,
    };
    router_with(16, &[everything])
}

fn router_with(clients: u8, routes: &[Route]) -> Arc<Env> {
    let interface = |index, name: &str, addr: u128, len| Interface {
        index,
        name: name.to_owned(),
        addresses: vec![Prefix {
            family: Family::V4,
            addr,
            len,
        }],
        group: 0,
        mtu: 1500,
        mac: None,
        loopback: false,
    };
    let settings = Settings {
        forward4: true,
        ..Settings::default()
    };
    Arc::new(Env::new(
        vec![
            interface(INSIDE, "eth0", 0x0a00_0001, clients),
            interface(OUTSIDE, "eth1", 0x0a09_00fe, 24),
        ],
        routes,
        &[],
        settings,
    ))
}
