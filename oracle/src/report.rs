//! Connections, expectations and counters in the form the kernel oracle prints.

use std::net::{Ipv4Addr, Ipv6Addr};

use serde_json::{Map, Value, json};
use tidegate_engine::Engine;
use tidegate_engine::conntrack::entry::change;
use tidegate_engine::conntrack::{
    Conntrack, Dir, Entry, Event, EventKind, ExpectEvent, Expectation, ProtoState, Status, Time,
    Tuple,
};
use tidegate_ir::{Policy, RuleId, Ruleset, TableKind};
use tidegate_syntax::RuleOrigin;
use tidegate_wire::{Family, proto};

const STATUS: [&str; 14] = [
    "EXPECTED",
    "SEEN_REPLY",
    "ASSURED",
    "CONFIRMED",
    "SRC_NAT",
    "DST_NAT",
    "SEQ_ADJUST",
    "SRC_NAT_DONE",
    "DST_NAT_DONE",
    "DYING",
    "FIXED_TIMEOUT",
    "TEMPLATE",
    "UNTRACKED",
    "HELPER",
];

fn protocol(number: u8) -> String {
    match number {
        1 => "icmp".to_owned(),
        2 => "igmp".to_owned(),
        6 => "tcp".to_owned(),
        17 => "udp".to_owned(),
        33 => "dccp".to_owned(),
        47 => "gre".to_owned(),
        50 => "esp".to_owned(),
        58 => "icmpv6".to_owned(),
        132 => "sctp".to_owned(),
        136 => "udplite".to_owned(),
        n => n.to_string(),
    }
}

fn address(family: Family, a: u128) -> String {
    match family {
        Family::V4 => Ipv4Addr::from(a as u32).to_string(),
        Family::V6 => Ipv6Addr::from(a).to_string(),
    }
}

fn tuple(t: &Tuple) -> Value {
    let mut o = Map::new();
    o.insert("src".into(), address(t.family, t.src).into());
    o.insert("dst".into(), address(t.family, t.dst).into());
    o.insert("proto".into(), protocol(t.proto).into());
    match t.proto {
        proto::ICMP | proto::ICMPV6 => {
            o.insert("id".into(), t.src_id.into());
            o.insert("type".into(), (t.dst_id >> 8).into());
            o.insert("code".into(), (t.dst_id & 0xff).into());
        }
        proto::TCP | proto::UDP | proto::SCTP | proto::UDPLITE | proto::GRE => {
            o.insert("sport".into(), t.src_id.into());
            o.insert("dport".into(), t.dst_id.into());
        }
        _ => {}
    }
    Value::Object(o)
}

fn status(bits: u32) -> Vec<&'static str> {
    STATUS
        .iter()
        .enumerate()
        .filter(|(i, _)| bits >> i & 1 == 1)
        .map(|(_, n)| *n)
        .collect()
}

/// Name of the state, for protocols whose tracker has them.
fn state_name(e: &Entry) -> Option<&'static str> {
    match &e.proto {
        ProtoState::Tcp(tcp) => Some(tcp.state.name()),
        ProtoState::Sctp(sctp) => Some(sctp.state.name()),
        ProtoState::Stateless | ProtoState::Udp { .. } | ProtoState::Gre { .. } => None,
    }
}

/// One entry as the oracle reads it over ctnetlink.
fn entry(e: &Entry, now: Time) -> Value {
    let orig = e.tuple(Dir::Original);
    let mut o = Map::new();
    o.insert("family".into(), family_name(orig.family).into());
    o.insert("orig".into(), tuple(orig));
    o.insert("reply".into(), tuple(e.tuple(Dir::Reply)));
    o.insert("status".into(), status(e.status.0).into());
    if e.mark != 0 {
        o.insert("mark".into(), e.mark.into());
    }
    if e.labels() != 0 {
        let bytes = e.labels().to_le_bytes();
        let hex: String = bytes.iter().map(|b| format!("{b:02x}")).collect();
        o.insert("labels".into(), hex.into());
    }
    o.insert("timeout".into(), e.remaining(now).into());
    if let Some(name) = state_name(e) {
        o.insert("state".into(), name.into());
    }
    if let ProtoState::Tcp(tcp) = &e.proto {
        let side = |f: fn(&tidegate_engine::conntrack::TcpSide) -> u8| {
            json!([f(&tcp.seen[0]), f(&tcp.seen[1])])
        };
        o.insert(
            "tcp".into(),
            json!({"wscale": side(|s| s.scale), "flags": side(|s| s.flags)}),
        );
    }
    let counters = e.counters.as_deref().copied().unwrap_or_default();
    let count = |d: usize| json!([counters[d].packets, counters[d].bytes]);
    o.insert(
        "counters".into(),
        json!({"orig": count(0), "reply": count(1)}),
    );
    if let Some(h) = e.helper {
        o.insert("helper".into(), h.name().into());
    }
    if let Some(master) = e.master() {
        o.insert("master".into(), tuple(&master.tuple));
    }
    if e.proxied().is_some() {
        o.insert("synproxy".into(), true.into());
    }
    if let Some(adj) = e.seqadj() {
        let dir = |d: Dir| {
            let a = adj.dirs[d as usize];
            json!({"pos": a.correction_pos, "before": a.offset_before, "after": a.offset_after})
        };
        if e.status.has(Status::SEQ_ADJUST) {
            o.insert(
                "seqadj".into(),
                json!({"orig": dir(Dir::Original), "reply": dir(Dir::Reply)}),
            );
        }
    }
    zone(&mut o, e);
    Value::Object(o)
}

/// A zone for both directions is the entry's; one for a direction is its tuple's.
fn zone(o: &mut Map<String, Value>, e: &Entry) {
    use tidegate_engine::conntrack::Zone;
    if e.zone.id == 0 {
        return;
    }
    let id: Value = e.zone.id.into();
    match e.zone.dirs {
        Zone::BOTH => {
            o.insert("zone".into(), id);
        }
        dirs => {
            let side = if dirs == Zone::ORIG { "orig" } else { "reply" };
            if let Some(Value::Object(t)) = o.get_mut(side) {
                t.insert("zone".into(), id);
            }
        }
    }
}

fn family_name(family: Family) -> &'static str {
    match family {
        Family::V4 => "ipv4",
        Family::V6 => "ipv6",
    }
}

/// All connections, in the oracle's order.
pub(crate) fn connections(ct: &Conntrack, now: Time) -> Vec<Value> {
    let mut list: Vec<Value> = ct
        .iter()
        .filter(|(_, e)| !e.expired(now))
        .map(|(_, e)| entry(e, now))
        .collect();
    list.sort_by_cached_key(|e| format!("{}{}", e["orig"], e["zone"]));
    list
}

fn mask_address(family: Family, mask: u128) -> String {
    address(family, mask)
}

fn mask_tuple(e: &Expectation) -> Value {
    let all: u128 = match e.tuple.family {
        Family::V4 => 0xffff_ffff,
        Family::V6 => u128::MAX,
    };
    json!({
        "src": mask_address(e.tuple.family, e.mask_src),
        "dst": mask_address(e.tuple.family, all),
        "proto": protocol(e.tuple.proto),
        "sport": e.mask_src_id,
        "dport": 0xffff,
    })
}

/// What NAT remembers of an expectation: where it was announced to lead.
fn saved(ct: &Conntrack, e: &Expectation) -> Value {
    // The kernel gives it the protocol of the connection that announced it.
    let master = ct.entry(e.master).map(|m| m.tuple(Dir::Original).proto);
    let of = |a| address(e.tuple.family, a);
    let kept = json!({
        "src": of(e.saved_addr),
        "dst": of(0),
        "proto": protocol(master.unwrap_or(e.tuple.proto)),
        "sport": e.saved_id,
        "dport": 0,
    });
    json!({"dir": e.dir as u8, "tuple": kept})
}

/// All expectations.
pub(crate) fn expectations(ct: &Conntrack, now: Time) -> Vec<Value> {
    let mut list: Vec<Value> = ct
        .expectations()
        .map(|e| {
            let mut o = Map::new();
            if let Some(master) = ct.entry(e.master) {
                o.insert("master".into(), tuple(master.tuple(Dir::Original)));
            }
            o.insert("tuple".into(), tuple(&e.tuple));
            o.insert("mask".into(), mask_tuple(e));
            o.insert(
                "timeout".into(),
                (e.timeout.saturating_sub(now) / 1_000_000_000).into(),
            );
            if let Some(h) = e.helper {
                o.insert("helper".into(), h.name().into());
            }
            o.insert("flags".into(), e.flags.into());
            o.insert("class".into(), e.class.into());
            if e.saved_addr != 0 || e.saved_id != 0 {
                o.insert("nat".into(), saved(ct, e));
            }
            Value::Object(o)
        })
        .collect();
    list.sort_by_cached_key(ToString::to_string);
    list
}

/// An expectation event as the oracle prints it.
pub(crate) fn expect_event(e: &ExpectEvent) -> Value {
    let kind = if e.kind == EventKind::New {
        "EXP_NEW"
    } else {
        "EXP_DESTROY"
    };
    json!({"ev": kind, "tuple": tuple(&e.expectation.tuple), "mask": mask_tuple(&e.expectation)})
}

/// An event as the oracle prints it.
pub(crate) fn event(e: &Event) -> Value {
    let kind = match e.kind {
        EventKind::New => "NEW",
        EventKind::Update => "UPDATE",
        EventKind::Destroy => "DESTROY",
    };
    let shows_state = e.kind != EventKind::Update || e.changes & change::PROTOINFO != 0;
    json!({"ev": kind, "text": text(&e.entry, e.kind, shows_state)})
}

fn tuple_text(t: &Tuple) -> String {
    let mut s = format!(
        "src={} dst={}",
        address(t.family, t.src),
        address(t.family, t.dst)
    );
    match t.proto {
        proto::ICMP | proto::ICMPV6 => {
            s += &format!(
                " type={} code={} id={}",
                t.dst_id >> 8,
                t.dst_id & 0xff,
                t.src_id
            );
        }
        proto::TCP | proto::UDP | proto::SCTP | proto::UDPLITE | proto::GRE => {
            s += &format!(" sport={} dport={}", t.src_id, t.dst_id);
        }
        _ => {}
    }
    s
}

fn text(e: &Entry, kind: EventKind, shows_state: bool) -> String {
    let orig = e.tuple(Dir::Original);
    let mut s = protocol(orig.proto);
    if let Some(name) = state_name(e).filter(|_| shows_state) {
        s = format!("{s} {name}");
    }
    s = format!("{s} {}", tuple_text(orig));
    if !e.status.has(Status::SEEN_REPLY) {
        s += " [UNREPLIED]";
    }
    s = format!("{s} {}", tuple_text(e.tuple(Dir::Reply)));
    if e.status.has(Status::ASSURED) {
        s += " [ASSURED]";
    }
    if e.mark != 0 {
        s += &format!(" mark={}", e.mark);
    }
    if let Some(h) = e.helper.filter(|_| kind != EventKind::Destroy) {
        s += &format!(" helper={}", h.name());
    }
    if e.zone.id != 0 && e.zone.dirs == tidegate_engine::conntrack::Zone::BOTH {
        s += &format!(" zone={}", e.zone.id);
    }
    s
}

/// Counters of all tables of a family, every rule of the source in its place.
pub(crate) fn counters(engine: &Engine, family: Family, origin: &[RuleOrigin]) -> Value {
    let rules = engine.rules(family);
    let mut tables = Map::new();
    for table in TableKind::ALL
        .into_iter()
        .filter_map(|kind| rules.table(kind))
    {
        let empty = || json!({"policy": "-", "pc": null, "rules": []});
        let chains: Map<String, Value> = table
            .chains
            .iter()
            .map(|c| (c.name.clone(), empty()))
            .collect();
        tables.insert(table.kind.name().to_owned(), Value::Object(chains));
    }
    for (i, place) in origin.iter().enumerate() {
        let c = engine.counter(family, RuleId(i as u32));
        let count = json!([c.packets, c.bytes]);
        let Some(chain) = tables
            .get_mut(place.table.name())
            .and_then(|t| t.get_mut(&place.chain))
        else {
            continue;
        };
        if place.number > 0 {
            if let Some(list) = chain["rules"].as_array_mut() {
                list.push(count);
            }
        } else if let Some(policy) = policy(rules, place) {
            chain["policy"] = policy.into();
            chain["pc"] = count;
        }
    }
    Value::Object(tables)
}

fn policy(rules: &Ruleset, place: &RuleOrigin) -> Option<&'static str> {
    let table = rules.table(place.table)?;
    let base = table.chains.iter().find(|c| c.name == place.chain)?.base?;
    Some(match base.policy {
        Policy::Accept => "ACCEPT",
        Policy::Drop => "DROP",
    })
}
