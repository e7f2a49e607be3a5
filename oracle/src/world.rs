//! A case's router: interfaces, routes and settings from JSON to an engine.

use std::net::IpAddr;
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use serde_json::Value;
use tidegate_engine::env::{
    Env, IfIndex, Interface, PolicyRule, Prefix, Route, RouteType, RpFilter, Settings, TABLE_MAIN,
};
use tidegate_engine::{Config, Engine, Listed, Owner, Socket, SocketList, TrackWhen, conntrack};
use tidegate_wire::{Family, proto};

/// An engine for the case, without rules.
pub(crate) fn build(case: &Value) -> Result<Engine> {
    let env = environment(case)?;
    let mut config = Config {
        seed: 1,
        ..Config::default()
    };
    config.conntrack.acct = true;
    config.conntrack.events = true;
    config.conntrack.seed = 7;
    if case
        .get("conntrack")
        .and_then(Value::as_str)
        .unwrap_or("on")
        == "on"
    {
        config.track = TrackWhen::Always;
    }
    sysctls(case, &mut config.conntrack)?;
    let mut engine = Engine::new(config, Arc::new(env));
    engine.set_sockets(Some(Box::new(sockets(case)?)));
    engine.set_cpu(case.get("cpu").and_then(Value::as_u64).unwrap_or(0) as u32);
    Ok(engine)
}

fn sysctls(case: &Value, config: &mut conntrack::Config) -> Result<()> {
    let Some(list) = case.get("sysctls").and_then(Value::as_object) else {
        return Ok(());
    };
    for (key, value) in list {
        let n = value
            .as_u64()
            .or_else(|| value.as_str().and_then(|s| s.parse().ok()));
        set_sysctl(config, key, n.context("sysctl value")? as u32)?;
    }
    Ok(())
}

/// Sets a conntrack sysctl; those of the routing code that do not matter here are
/// ignored.
pub(crate) fn set_sysctl(config: &mut conntrack::Config, key: &str, n: u32) -> Result<()> {
    let Some(name) = key.strip_prefix("net.netfilter.nf_conntrack_") else {
        return Ok(());
    };
    if !config.set_sysctl(name, n) {
        bail!("unknown sysctl {key}");
    }
    Ok(())
}

fn environment(case: &Value) -> Result<Env> {
    let default = serde_json::json!([
        {"name": "eth0", "addrs": ["10.0.0.1/24", "fd00:0::1/64"]},
        {"name": "eth1", "addrs": ["10.0.1.1/24", "fd00:1::1/64"]}
    ]);
    let list = case
        .get("interfaces")
        .filter(|v| !v.is_null())
        .unwrap_or(&default);
    let mut interfaces = Vec::new();
    for (i, v) in list.as_array().context("interfaces")?.iter().enumerate() {
        interfaces.push(interface(i, v)?);
    }
    let mut routes = Vec::new();
    for line in strings(case, "routes") {
        routes.push(route(line, &interfaces)?);
    }
    let mut rules = Vec::new();
    for line in strings(case, "ip") {
        ip_line(line, &interfaces, &mut routes, &mut rules)?;
    }
    let mut settings = Settings {
        forward4: true,
        forward6: true,
        ..Settings::default()
    };
    if let Some(s) = case.get("sysctls").and_then(Value::as_object) {
        let on = |key: &str| {
            s.get(key)
                .map(|v| v.as_str() != Some("0") && v.as_u64() != Some(0))
        };
        settings.forward4 = on("net.ipv4.ip_forward").unwrap_or(true);
        settings.forward6 = on("net.ipv6.conf.all.forwarding").unwrap_or(true);
        settings.route_localnet = on("net.ipv4.conf.all.route_localnet").unwrap_or(false);
        let filter = s.get("net.ipv4.conf.all.rp_filter").and_then(Value::as_u64);
        settings.rp_filter =
            RpFilter::from_number(filter.unwrap_or(0) as u32).context("rp_filter")?;
    }
    Ok(Env::new(interfaces, &routes, &rules, settings))
}

fn strings<'v>(case: &'v Value, key: &str) -> impl Iterator<Item = &'v str> {
    case.get(key)
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
}

fn interface(i: usize, v: &Value) -> Result<Interface> {
    let name = v
        .get("name")
        .and_then(Value::as_str)
        .context("interface name")?;
    let mut addresses = Vec::new();
    for a in strings(v, "addrs") {
        addresses.push(prefix(a)?);
    }
    // Every IPv6 interface has a link-local address; the oracle's have none
    // (addr_gen_mode 1).
    Ok(Interface {
        index: IfIndex(i as u32 + 2),
        name: name.to_owned(),
        addresses,
        group: v.get("group").and_then(Value::as_u64).unwrap_or(0) as u32,
        mtu: v.get("mtu").and_then(Value::as_u64).unwrap_or(1500) as u32,
        mac: None,
        loopback: false,
    })
}

fn prefix(text: &str) -> Result<Prefix> {
    let (addr, len) = text.split_once('/').unwrap_or((text, ""));
    let (family, addr, width) = match addr.parse()? {
        IpAddr::V4(a) => (Family::V4, u128::from(u32::from(a)), 32),
        IpAddr::V6(a) => (Family::V6, u128::from(a), 128),
    };
    Ok(Prefix {
        family,
        addr,
        len: if len.is_empty() { width } else { len.parse()? },
    })
}

/// `[KIND] TO [via A] [dev D] [table N] [src A]` as ip(8) takes it.
fn route(line: &str, interfaces: &[Interface]) -> Result<Route> {
    let mut words = line.split_whitespace().peekable();
    let kind = match words.peek() {
        Some(&"blackhole") => RouteType::Blackhole,
        Some(&"unreachable") => RouteType::Unreachable,
        Some(&"prohibit") => RouteType::Prohibit,
        Some(&"throw") => RouteType::Throw,
        Some(&"local") => RouteType::Local,
        _ => RouteType::Unicast,
    };
    if kind != RouteType::Unicast {
        words.next();
    }
    let to = words.next().context("route destination")?;
    let mut route = Route {
        to: Prefix {
            family: Family::V4,
            addr: 0,
            len: 0,
        },
        table: TABLE_MAIN,
        kind,
        dev: None,
        via: None,
        src: None,
        realm: 0,
        metric: 0,
    };
    while let Some(key) = words.next() {
        let value = words.next().context("route value")?;
        match key {
            "via" => route.via = Some(prefix(value)?.addr),
            "dev" => route.dev = interfaces.iter().find(|i| i.name == value).map(|i| i.index),
            "table" => route.table = value.parse()?,
            "src" => route.src = Some(prefix(value)?.addr),
            "metric" => route.metric = value.parse()?,
            "realm" => route.realm = realms(value)?,
            other => bail!("route: {other}"),
        }
    }
    let via6 = line.split_whitespace().any(|w| w.contains(':'));
    if to == "default" {
        route.to.family = if via6 { Family::V6 } else { Family::V4 };
    } else {
        route.to = prefix(to)?;
    }
    if route.dev.is_none()
        && let Some(via) = route.via
    {
        route.dev = interfaces
            .iter()
            .find(|i| {
                i.addresses
                    .iter()
                    .any(|a| a.family == route.to.family && a.contains(via))
            })
            .map(|i| i.index);
    }
    Ok(route)
}

/// `[SOURCE/]DESTINATION`, by number.
fn realms(text: &str) -> Result<u32> {
    let (src, dst) = text.split_once('/').unwrap_or(("0", text));
    Ok(src.parse::<u32>()? << 16 | dst.parse::<u32>()?)
}

/// The sockets of a case.
fn sockets(case: &Value) -> Result<SocketList> {
    let list = case.get("sockets").and_then(Value::as_array);
    let one = |v: &Value| {
        let text = |key| v.get(key).and_then(Value::as_str);
        let flag = |key| v.get(key).and_then(Value::as_bool);
        let bound = prefix(text("addr").context("socket address")?)?;
        let wildcard = bound.addr == 0;
        let dual = wildcard && bound.family == Family::V6 && flag("only") == Some(false);
        let end = |peer: &Value| {
            let addr = prefix(peer.get(0).and_then(Value::as_str)?).ok()?.addr;
            Some((addr, peer.get(1).and_then(Value::as_u64)? as u16))
        };
        let remote = v.get("peer").and_then(end);
        let port = v.get("port").and_then(Value::as_u64);
        Ok(Listed {
            family: (!dual).then_some(bound.family),
            proto: match text("proto") {
                Some("tcp") => proto::TCP,
                _ => proto::UDP,
            },
            local: ((!wildcard).then_some(bound.addr), port.map(|p| p as u16)),
            remote,
            socket: Arc::new(Socket {
                transparent: flag("transparent") == Some(true),
                wildcard,
                connected: remote.is_some(),
                mark: v.get("mark").and_then(Value::as_u64).unwrap_or(0) as u32,
                ..somebody(v.get("as"))
            }),
        })
    };
    let all: Result<Vec<Listed>> = list.into_iter().flatten().map(one).collect();
    Ok(SocketList::new(all?))
}

/// A socket of whom a case names; else of root.
pub(crate) fn somebody(who: Option<&Value>) -> Socket {
    let number = |key| who?.get(key)?.as_u64().map(|n| n as u32);
    let groups = who.and_then(|w| w.get("groups")?.as_array());
    let groups = groups.map_or_else(
        || vec![0],
        |all| {
            all.iter()
                .filter_map(|g| Some(g.as_u64()? as u32))
                .collect()
        },
    );
    let mut socket = Socket::of(Some(Owner {
        uid: number("uid").unwrap_or(0),
        gid: number("gid").unwrap_or(0),
        groups,
    }));
    if let Some(path) = who.and_then(|w| w.get("cgroup")?.as_str()) {
        path.clone_into(&mut socket.cgroup);
    }
    socket
}

fn ip_line(
    line: &str,
    interfaces: &[Interface],
    routes: &mut Vec<Route>,
    rules: &mut Vec<PolicyRule>,
) -> Result<()> {
    let words: Vec<&str> = line.split_whitespace().collect();
    match words.as_slice() {
        ["route", "add" | "replace", rest @ ..] => routes.push(route(&rest.join(" "), interfaces)?),
        ["rule", "add", rest @ ..] => rules.push(rule(Family::V4, rest, rules.len() as u32)?),
        ["-6", "rule", "add", rest @ ..] => {
            rules.push(rule(Family::V6, rest, rules.len() as u32)?);
        }
        _ => bail!("ip {line}"),
    }
    Ok(())
}

/// `fwmark N table N [priority N]`; without a priority, before the rules added so far.
fn rule(family: Family, words: &[&str], added: u32) -> Result<PolicyRule> {
    let mut rule = PolicyRule {
        family,
        priority: 32765 - added,
        fwmark: None,
        from: None,
        table: TABLE_MAIN,
    };
    for pair in words.chunks(2) {
        match pair {
            ["fwmark", mark] => rule.fwmark = Some((mark.parse()?, u32::MAX)),
            ["table" | "lookup", table] => rule.table = table.parse()?,
            ["priority" | "pref", n] => rule.priority = n.parse()?,
            _ => bail!("ip rule: {pair:?}"),
        }
    }
    Ok(rule)
}
