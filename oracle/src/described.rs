//! What became of a packet, in the form the kernel oracle prints.

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};
use tidegate_engine::env::Env;
use tidegate_engine::{Device, Disposition, DropReason, Outcome, Output, Role};

/// The step of a packet that came by `input`, as the oracle writes it.
pub(crate) fn describe(env: &Env, input: &str, outcome: &Outcome, fragment: bool) -> Value {
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

/// What the sending socket gets.
fn errno(outcome: &Outcome) -> Option<&'static str> {
    if outcome.looped {
        return None;
    }
    match outcome.disposition {
        Disposition::Sent | Disposition::Delivered | Disposition::Held | Disposition::Queued => {
            None
        }
        Disposition::Dropped(DropReason::NoRoute) => Some("ENETUNREACH"),
        Disposition::Dropped(DropReason::TooBig) => Some("EMSGSIZE"),
        Disposition::Dropped(DropReason::Martian) => Some("EINVAL"),
        Disposition::Dropped(DropReason::Queue(_) | DropReason::SynProxy) => None,
        Disposition::Dropped(_) => Some("EPERM"),
    }
}

/// Whether a packet is a fragment, or a whole one with a fragment header.
pub(crate) fn is_fragment(bytes: &[u8]) -> bool {
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
