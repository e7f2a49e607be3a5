//! The steps of a case.

use std::collections::HashMap;

use anyhow::{Context, Result, anyhow, bail, ensure};
use serde_json::{Map, Value, json};
use tidegate_engine::Engine;
use tidegate_tools::{ipset, nfacct};
use tidegate_wire::Family;
use tidegate_xt::matches::{nfacct as accounts, osf_prints};

use crate::copied::copied;
use crate::machine::Machine;
use crate::rules::Rules;
use crate::{report, world};

struct Router<'m, M> {
    machine: &'m mut M,
    /// Of both families.
    rules: [Rules; 2],
}

const FAMILIES: [(Family, &str, &str); 2] =
    [(Family::V4, "rules4", "4"), (Family::V6, "rules6", "6")];

/// Runs `case` and reports what the oracle reports.
pub(crate) fn run<M: Machine>(machine: &mut M, case: &Value) -> Result<Value> {
    let mut router = Router {
        machine,
        rules: FAMILIES.map(|(family, ..)| Rules::empty(family)),
    };
    router.tables(case)?;
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
    let mut result = router.state(true)?;
    result["steps"] = steps.into();
    Ok(result)
}

/// What rules look into, beside packets.
fn tables(
    engine: &mut Engine,
    now: u64,
    sets: Option<String>,
    nfacct: &Value,
    osf: Option<&str>,
) -> Result<()> {
    if let Some(text) = sets {
        // As it is given to ipset: what exists already is no error.
        let read = ipset::read_all(&text, now).map_err(|why| anyhow!("ipset: {why}"))?;
        if let Some(sets) = tidegate_xt::sets::all(engine.shared_mut()) {
            *sets = read;
        }
    }
    if let Some(all) = accounts::all(engine.shared_mut()) {
        // A router that serves several cases has none of those before.
        nfacct::run(all, &["flush"], "", &HashMap::new(), 0);
        for words in nfacct.as_array().into_iter().flatten() {
            let words = words.as_array().context("nfacct")?;
            let words = words.iter().filter_map(Value::as_str);
            let words: Vec<&str> = ["add"].into_iter().chain(words).collect();
            nfacct::run(all, &words, "", &HashMap::new(), 0);
        }
    }
    if let Some(text) = osf
        && let Some(all) = osf_prints::all(engine.shared_mut())
    {
        all.change(text, false)
            .map_err(|why| anyhow!("osf: {why}"))?;
    }
    Ok(())
}

impl<M: Machine> Router<'_, M> {
    fn tables(&mut self, case: &Value) -> Result<()> {
        let text = |key| case.get(key).and_then(Value::as_str).map(str::to_owned);
        let (sets, osf) = (text("ipset"), text("osf"));
        let nfacct = case.get("nfacct").cloned().unwrap_or_default();
        self.machine
            .with(move |engine, now| tables(engine, now, sets, &nfacct, osf.as_deref()))?
    }

    /// Counters, if wanted, connections and expectations.
    fn state(&mut self, counters: bool) -> Result<Value> {
        let origins = self.rules.each_ref().map(|rules| rules.origin.clone());
        self.machine.with(move |engine, now| {
            let mut result = json!({"conntrack": report::connections(engine.conntrack(), now)});
            let expect = report::expectations(engine.conntrack(), now);
            if !counters || !expect.is_empty() {
                result["expect"] = expect.into();
            }
            if counters {
                let families = FAMILIES.iter().zip(&origins);
                let counted = families.filter(|(_, origin)| !origin.is_empty());
                let lists = counted.map(|((family, _, key), origin)| {
                    let list = report::counters(engine, *family, origin);
                    ((*key).to_owned(), list)
                });
                result["counters"] = Value::Object(lists.collect::<Map<_, _>>());
            }
            result
        })
    }

    /// Changes the rules of a family, between two packets.
    fn change(
        &mut self,
        family: Family,
        work: impl FnOnce(&mut Rules, &mut Engine) -> Result<u8> + Send + 'static,
    ) -> Result<u8> {
        let rules = &mut self.rules[slot(family)];
        let mut taken = std::mem::replace(rules, Rules::empty(family));
        let (taken, status) = self.machine.with(move |engine, _| {
            let status = work(&mut taken, engine);
            (taken, status)
        })?;
        *rules = taken;
        status
    }

    fn restore(&mut self, family: Family, text: &str, noflush: bool) -> Result<u8> {
        let text = text.to_owned();
        self.change(family, move |rules, engine| {
            rules.restore(engine, &text, noflush)
        })
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
                let events = self.machine.events()?;
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
                        self.warp(behind as u64)?;
                        self.machine.events()?;
                        behind -= behind.trunc();
                    }
                }
                clock = Some(t);
            }
            let written = copied(step, &done)?;
            let mut r = self.machine.packet(written.as_ref().unwrap_or(step))?;
            r["i"] = i.into();
            done.push(r);
        }
        Ok(done)
    }

    /// Ages connections and expectations only, as the oracle does over ctnetlink.
    fn warp(&mut self, seconds: u64) -> Result<()> {
        self.machine
            .with(move |engine, now| engine.conntrack_mut().age(now, seconds))
    }

    fn op(&mut self, op: &str, step: &Value) -> Result<Value> {
        match op {
            "warp" => self.warp(step.get("sec").and_then(Value::as_u64).unwrap_or(0))?,
            "sleep" => {
                let milliseconds = step.get("ms").and_then(Value::as_u64);
                self.machine.sleep(milliseconds.unwrap_or(0))?;
            }
            "restore" => {
                let text = step.get("text").and_then(Value::as_str).context("text")?;
                let noflush = step.get("noflush").and_then(Value::as_bool);
                let rc = self.restore(family_of(step), text, noflush.unwrap_or(false))?;
                return Ok(json!({"op": op, "rc": rc}));
            }
            "iptables" => {
                let words = step.get("args").and_then(Value::as_array).context("args")?;
                let words: Vec<String> = words
                    .iter()
                    .filter_map(Value::as_str)
                    .map(str::to_owned)
                    .collect();
                let rc = self.change(family_of(step), move |rules, engine| {
                    let words: Vec<&str> = words.iter().map(String::as_str).collect();
                    rules.command(engine, &words)
                })?;
                return Ok(json!({"op": op, "rc": rc}));
            }
            "ct_dump" => {
                let mut state = self.state(false)?;
                state["op"] = op.into();
                return Ok(state);
            }
            "ct_flush" => self
                .machine
                .with(|engine, _| engine.conntrack_mut().flush())?,
            "sysctl" => {
                let set = step.get("set").and_then(Value::as_object).context("set")?;
                for (key, value) in set.clone() {
                    let n = value.as_u64().context("sysctl value")? as u32;
                    self.machine.with(move |engine, _| {
                        world::set_sysctl(engine.conntrack_mut().config_mut(), &key, n)
                    })??;
                }
            }
            other => bail!("op {other} is not for this runner"),
        }
        Ok(json!({"op": op}))
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
