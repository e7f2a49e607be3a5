//! An engine by itself: packets are handed to it, and its clock stands still between them.

use std::sync::Arc;

use anyhow::{Context, Result};
use serde_json::{Value, json};
use tidegate_engine::conntrack::{SECOND, Time};
use tidegate_engine::env::RouteType;
use tidegate_engine::{Engine, Incoming, Outcome};
use tidegate_wire::Family;

use crate::described::{describe, hex, is_fragment};
use crate::machine::{Machine, noted};
use crate::world;

pub(crate) struct Alone {
    engine: Engine,
    now: Time,
}

impl Alone {
    pub(crate) fn new(case: &Value) -> Result<Self> {
        Ok(Alone {
            engine: world::build(case)?,
            // Seconds since 1970, where the date matters.
            now: case.get("epoch").and_then(Value::as_u64).unwrap_or(1_000) * SECOND,
        })
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
}

impl Machine for Alone {
    fn with<R: Send + 'static>(
        &mut self,
        work: impl FnOnce(&mut Engine, Time) -> R + Send + 'static,
    ) -> Result<R> {
        Ok(work(&mut self.engine, self.now))
    }

    fn packet(&mut self, step: &Value) -> Result<Value> {
        let input = step.get("in").and_then(Value::as_str).context("in")?;
        let bytes = hex(step.get("hex").and_then(Value::as_str).context("hex")?)?;
        self.now += 1000;
        let fragment = is_fragment(&bytes);
        let mark = step.get("mark").and_then(Value::as_u64).unwrap_or(0) as u32;
        if input == "local" && self.too_long_to_send(&bytes, mark) {
            return Ok(json!({"in": input, "verdict": "drop", "errno": "EMSGSIZE"}));
        }
        let ethertype = step.get("ethertype").and_then(Value::as_u64);
        let outcome = self.inject(input, ethertype, bytes, mark, step.get("as"))?;
        self.engine.handle_timeout(self.now);
        let events = self.events()?;
        let mut r = describe(self.engine.env(), input, &outcome, fragment);
        if !events.is_empty() {
            r["events"] = events.into();
        }
        Ok(r)
    }

    fn events(&mut self) -> Result<Vec<Value>> {
        Ok(noted(&mut self.engine))
    }

    fn sleep(&mut self, milliseconds: u64) -> Result<()> {
        self.now += milliseconds * 1_000_000;
        self.engine.handle_timeout(self.now);
        Ok(())
    }
}
