//! The steps of a case.

use std::collections::HashMap;
use std::sync::Arc;

use anyhow::{Context, Result, anyhow, bail, ensure};
use serde_json::{Map, Value, json};
use tidegate_engine::conntrack::{SECOND, Time};
use tidegate_engine::env::RouteType;
use tidegate_engine::{Device, Disposition, DropReason, Engine, Incoming, Outcome, Output, Role};
use tidegate_tools::{ipset, nfacct};
use tidegate_wire::Family;
use tidegate_xt::matches::{nfacct as accounts, osf_prints};

use crate::copied::copied;
use crate::rules::Rules;
use crate::{report, world};

struct Router {
    engine: Engine,
    now: Time,
    /// Of both families.
    rules: [Rules; 2],
}

const FAMILIES: [(Family, &str, &str); 2] =
    [(Family::V4, "rules4", "4"), (Family::V6, "rules6", "6")];

/// Runs `case` and reports what the oracle reports.
pub(crate) fn run(case: &Value) -> Result<Value> {
    let mut router = Router {
        engine: world::build(case)?,
        // Seconds since 1970, where the date matters.
        now: case.get("epoch").and_then(Value::as_u64).unwrap_or(1_000) * SECOND,
        rules: FAMILIES.map(|(family, ..)| Rules::empty(family)),
    };
    sets(case, &mut router)?;
    for words in case
        .get("nfacct")
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
    {
        let words = words.as_array().context("nfacct")?;
        let words: Vec<&str> = words.iter().filter_map(Value::as_str).collect();
        if let Some(all) = accounts::all(router.engine.shared_mut()) {
            let words = [&["add"], words.as_slice()].concat();
            nfacct::run(all, &words, "", &HashMap::new(), 0);
        }
    }
    if let Some(text) = case.get("osf").and_then(Value::as_str)
        && let Some(all) = osf_prints::all(router.engine.shared_mut())
    {
        all.change(text, false)
            .map_err(|why| anyhow!("osf: {why}"))?;
    }
    for (family, key, _) in FAMILIES {
        let text = case.get(key).and_then(Value::as_str).unwrap_or("");
        if !text.is_empty() {
            let status = router.restore(family, text, false)?;
            ensure!(status == 0, "{key}: refused with status {status}");
        }
    }
    let packets = case
        .get("packets")
        .and_then(Value::as_array)
        .context("no packets")?;
    let steps = router.steps(packets)?;
    let mut counters = Map::new();
    for (i, (family, _, key)) in FAMILIES.iter().enumerate() {
        let origin = &router.rules[i].origin;
        if !origin.is_empty() {
            let list = report::counters(&router.engine, *family, origin);
            counters.insert((*key).to_owned(), list);
        }
    }
    let mut result = json!({
        "steps": steps,
        "counters": counters,
        "conntrack": report::connections(router.engine.conntrack(), router.now),
    });
    let expect = report::expectations(router.engine.conntrack(), router.now);
    if !expect.is_empty() {
        result["expect"] = expect.into();
    }
    Ok(result)
}

/// The sets that rules look into: `ipset restore` text.
fn sets(case: &Value, router: &mut Router) -> Result<()> {
    let Some(text) = case.get("ipset").and_then(Value::as_str) else {
        return Ok(());
    };
    // As it is given to ipset: what exists already is no error.
    let read = ipset::read_all(text, router.now).map_err(|why| anyhow!("ipset: {why}"))?;
    if let Some(sets) = tidegate_xt::sets::all(router.engine.shared_mut()) {
        *sets = read;
    }
    Ok(())
}

impl Router {
    fn restore(&mut self, family: Family, text: &str, noflush: bool) -> Result<u8> {
        self.rules[slot(family)].restore(&mut self.engine, text, noflush)
    }

    fn steps(&mut self, packets: &[Value]) -> Result<Vec<Value>> {
        let mut done: Vec<Value> = Vec::new();
        let mut clock: Option<f64> = None;
        let mut behind = 0.0;
        for (i, step) in packets.iter().enumerate() {
            let listed;
            let step = match step.as_array() {
                Some(a) => {
                    listed = json!({"t": a.first(), "in": a.get(1), "hex": a.get(2)});
                    &listed
                }
                None => step,
            };
            if let Some(op) = step.get("op").and_then(Value::as_str) {
                let mut r = self.op(op, step)?;
                r["i"] = i.into();
                let events = self.events();
                if !events.is_empty() {
                    r["events"] = events.into();
                }
                done.push(r);
                continue;
            }
            if let Some(t) = step.get("t").and_then(Value::as_f64) {
                if let Some(before) = clock
                    && t > before
                {
                    behind += t - before;
                    if behind >= 1.0 {
                        self.warp(behind as u64);
                        self.events();
                        behind -= behind.trunc();
                    }
                }
                clock = Some(t);
            }
            let written = copied(step, &done)?;
            let mut r = self.packet(written.as_ref().unwrap_or(step))?;
            r["i"] = i.into();
            done.push(r);
        }
        Ok(done)
    }

    /// Ages connections and expectations only, as the oracle does over ctnetlink.
    fn warp(&mut self, seconds: u64) {
        self.engine.conntrack_mut().age(self.now, seconds);
    }

    /// What has happened to connections and expectations since it was last asked for.
    fn events(&mut self) -> Vec<Value> {
        let conntrack = self.engine.conntrack_mut();
        let mut events: Vec<Value> = conntrack.events().iter().map(report::event).collect();
        events.extend(conntrack.expect_events().iter().map(report::expect_event));
        events
    }

    fn op(&mut self, op: &str, step: &Value) -> Result<Value> {
        match op {
            "warp" => self.warp(step.get("sec").and_then(Value::as_u64).unwrap_or(0)),
            "sleep" => {
                self.now += step.get("ms").and_then(Value::as_u64).unwrap_or(0) * 1_000_000;
                self.engine.handle_timeout(self.now);
            }
            "restore" => {
                let text = step.get("text").and_then(Value::as_str).context("text")?;
                let noflush = step.get("noflush").and_then(Value::as_bool);
                let rc = self.restore(family_of(step), text, noflush.unwrap_or(false))?;
                return Ok(json!({"op": op, "rc": rc}));
            }
            "iptables" => {
                let words = step.get("args").and_then(Value::as_array).context("args")?;
                let words: Vec<&str> = words.iter().filter_map(Value::as_str).collect();
                let rules = &mut self.rules[slot(family_of(step))];
                let rc = rules.command(&mut self.engine, &words)?;
                return Ok(json!({"op": op, "rc": rc}));
            }
            "ct_dump" => {
                let conntrack = self.engine.conntrack();
                return Ok(json!({
                    "op": op,
                    "conntrack": report::connections(conntrack, self.now),
                    "expect": report::expectations(conntrack, self.now),
                }));
            }
            "ct_flush" => self.engine.conntrack_mut().flush(),
            "sysctl" => {
                for (key, value) in step.get("set").and_then(Value::as_object).context("set")? {
                    let n = value.as_u64().context("sysctl value")? as u32;
                    let config = self.engine.conntrack_mut().config_mut();
                    world::set_sysctl(config, key, n)?;
                }
            }
            other => bail!("op {other} is not for this runner"),
        }
        Ok(json!({"op": op}))
    }

    fn packet(&mut self, step: &Value) -> Result<Value> {
        let input = step
            .get("in")
            .and_then(Value::as_str)
            .context("in")?
            .to_owned();
        let bytes = hex(step.get("hex").and_then(Value::as_str).context("hex")?)?;
        self.now += 1000;
        let fragment = is_fragment(&bytes);
        let mark = step.get("mark").and_then(Value::as_u64).unwrap_or(0) as u32;
        if input == "local" && self.too_long_to_send(&bytes, mark) {
            return Ok(json!({"in": input, "verdict": "drop", "errno": "EMSGSIZE"}));
        }
        let ethertype = step.get("ethertype").and_then(Value::as_u64);
        let outcome = self.inject(&input, ethertype, bytes, mark, step.get("as"))?;
        self.engine.handle_timeout(self.now);
        let events = self.events();
        let mut r = self.describe(&input, &outcome, fragment);
        if !events.is_empty() {
            r["events"] = events.into();
        }
        Ok(r)
    }

    /// A raw socket refuses what its route's link cannot take (`raw_send_hdrinc`).
    fn too_long_to_send(&self, bytes: &[u8], mark: u32) -> bool {
        let env = self.engine.env();
        let dev = tidegate_wire::parse(bytes).ok().and_then(|l| {
            let route = env.route(l.family, l.dst(bytes), l.src(bytes), mark)?;
            match route.kind {
                RouteType::Local => Some(env.loopback()),
                _ => route.dev,
            }
        });
        dev.and_then(|dev| env.interface(dev))
            .is_some_and(|i| bytes.len() > i.mtu as usize)
    }

    fn inject(
        &mut self,
        input: &str,
        ethertype: Option<u64>,
        bytes: Vec<u8>,
        mark: u32,
        whose: Option<&Value>,
    ) -> Result<Outcome> {
        if input == "local" {
            let sender = Some(Arc::new(world::somebody(whose)));
            return Ok(self.engine.send_as(self.now, bytes, mark, sender, &mut ()));
        }
        let dev = self
            .engine
            .env()
            .interface_named(input)
            .context("unknown interface")?
            .index;
        let mut incoming = Incoming::on(dev);
        incoming.family = match ethertype {
            Some(0x0800) => Some(Family::V4),
            Some(0x86dd) => Some(Family::V6),
            _ => None,
        };
        Ok(self.engine.receive(self.now, incoming, bytes, &mut ()))
    }

    fn describe(&self, input: &str, outcome: &Outcome, fragment: bool) -> Value {
        let env = self.engine.env();
        let name = |dev| env.interface(dev).map_or("?", |i| i.name.as_str());
        let mut out: Vec<(usize, Value)> = Vec::new();
        let mut local = Vec::new();
        let mut log: Vec<Value> = Vec::new();
        let mut log_lines: Vec<String> = Vec::new();
        let mut left = false;
        let mut verdict = if fragment { "none" } else { "drop" };
        for o in &outcome.outputs {
            match o {
                Output::Transmit {
                    dev, bytes, role, ..
                } => {
                    // The oracle takes what first leaves for what was sent; a copy of what a
                    // raw socket sends has the output device for its input.
                    let role_name = match role {
                        Role::Forwarded | Role::Copy => {
                            left = true;
                            "fwd"
                        }
                        Role::Own if !left => {
                            left = true;
                            "self"
                        }
                        Role::Own | Role::Emitted => "emit",
                    };
                    match role_name {
                        "fwd" => verdict = "forward",
                        "self" if verdict != "forward" => verdict = "output",
                        _ => {}
                    }
                    let order = env
                        .interfaces()
                        .iter()
                        .position(|i| i.index == *dev)
                        .unwrap_or(0);
                    let v = json!({"dev": name(*dev), "role": role_name, "hex": to_hex(bytes)});
                    out.push((order, v));
                }
                Output::Deliver {
                    dev, bytes, mark, ..
                } => {
                    let mut v = json!({"dev": name(*dev), "hex": to_hex(bytes)});
                    if *mark != 0 {
                        v["mark"] = (*mark).into();
                    }
                    local.push(v);
                }
                // Helpers log where LOG is silent.
                Output::Log {
                    prefix,
                    input,
                    output,
                    ..
                } if prefix.starts_with("nf_ct_") => {
                    let (input, output) = (input.map(name), output.map(name));
                    log.push(json!({"prefix": prefix, "hook": 0, "in": input, "out": output}));
                }
                Output::Log { line, .. } => log_lines.push(line.clone()),
                Output::Nflog(copy) => {
                    let dev = |d: &Option<Device>| d.as_ref().map(|d| d.name.clone());
                    log.push(json!({
                        "group": copy.group, "prefix": copy.prefix, "hook": copy.hook as u8,
                        "in": dev(&copy.input), "out": dev(&copy.output),
                        "hex": to_hex(&copy.bytes), "mark": copy.mark,
                    }));
                }
            }
        }
        if !local.is_empty() && !matches!(verdict, "forward" | "output") {
            verdict = "local";
        }
        out.sort_by_key(|(order, _)| *order);
        let mut r = json!({"in": input, "verdict": verdict});
        if !out.is_empty() {
            r["out"] = out.into_iter().map(|(_, v)| v).collect();
        }
        if !local.is_empty() {
            r["local"] = local.into();
        }
        if !log.is_empty() {
            r["log"] = log.into();
        }
        if !log_lines.is_empty() {
            r["log_lines"] = log_lines.into();
        }
        if input == "local"
            && let Some(errno) = errno(outcome)
        {
            r["errno"] = errno.into();
        }
        r["reason"] = format!("{:?}", outcome.disposition).into();
        r
    }
}

fn slot(family: Family) -> usize {
    usize::from(family == Family::V6)
}

fn family_of(step: &Value) -> Family {
    match step.get("family").and_then(Value::as_u64) {
        Some(6) => Family::V6,
        _ => Family::V4,
    }
}

/// What the sending socket gets.
fn errno(outcome: &Outcome) -> Option<&'static str> {
    if outcome.looped {
        return None;
    }
    match outcome.disposition {
        Disposition::Sent | Disposition::Delivered | Disposition::Held => None,
        Disposition::Dropped(DropReason::NoRoute) => Some("ENETUNREACH"),
        Disposition::Dropped(DropReason::TooBig) => Some("EMSGSIZE"),
        Disposition::Dropped(DropReason::Martian) => Some("EINVAL"),
        Disposition::Dropped(DropReason::Queue(_) | DropReason::SynProxy) => None,
        Disposition::Dropped(_) => Some("EPERM"),
    }
}

fn is_fragment(bytes: &[u8]) -> bool {
    tidegate_wire::parse(bytes).is_ok_and(|l| l.is_fragment() || l.frag_hdr != 0)
}

/// Bytes from hexadecimal text.
pub(crate) fn hex(text: &str) -> Result<Vec<u8>> {
    let digit = |c: &u8| {
        char::from(*c)
            .to_digit(16)
            .context("not a hexadecimal digit")
    };
    text.as_bytes()
        .chunks(2)
        .map(|pair| {
            let [high, low] = pair else {
                bail!("odd number of hexadecimal digits")
            };
            Ok((digit(high)? << 4 | digit(low)?) as u8)
        })
        .collect()
}

/// Hexadecimal text.
pub(crate) fn to_hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}
