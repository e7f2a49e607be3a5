//! Packets that hold bytes of what came out earlier, because somebody drew them.

use anyhow::{Context, Result};
use serde_json::Value;
use tidegate_wire::{Family, checksum, parse, proto};

use crate::described::{hex, to_hex};

/// The step with the bytes that its `subst` asks for, copied out of what came of the steps
/// before it; `None` where it asks for none.
pub(crate) fn copied(step: &Value, done: &[Value]) -> Result<Option<Value>> {
    let Some(list) = step.get("subst").and_then(Value::as_array) else {
        return Ok(None);
    };
    let mut bytes = hex(step.get("hex").and_then(Value::as_str).context("hex")?)?;
    for part in list {
        copy(&mut bytes, part, done)?;
    }
    if step.get("fix").and_then(Value::as_bool) == Some(true) {
        repair(&mut bytes);
    }
    let mut step = step.clone();
    step["hex"] = to_hex(&bytes).into();
    Ok(Some(step))
}

fn copy(bytes: &mut [u8], part: &Value, done: &[Value]) -> Result<()> {
    let number = |v: &Value, key: &str| v.get(key).and_then(Value::as_u64).map(|n| n as usize);
    let from = part.get("from").context("from")?;
    let list = from.get("list").and_then(Value::as_str).unwrap_or("out");
    let source = done
        .get(number(from, "step").context("step")?)
        .and_then(|s| {
            s.get(list)?
                .get(number(from, "n").unwrap_or(0))?
                .get("hex")?
                .as_str()
        })
        .context("nothing came out that could be copied")?;
    let source = hex(source)?;
    let (len, at) = (
        number(part, "len").context("len")?,
        number(from, "off").context("off")?,
    );
    let value = source.get(at..at + len).context("source too short")?;
    let add = part.get("add").and_then(Value::as_u64).unwrap_or(0);
    let sum = value
        .iter()
        .fold(0u64, |n, &b| n << 8 | u64::from(b))
        .wrapping_add(add);
    let to = number(part, "off").context("off")?;
    let place = bytes.get_mut(to..to + len).context("packet too short")?;
    place.copy_from_slice(sum.to_be_bytes().get(8 - len..).context("longer than 8")?);
    Ok(())
}

/// Computes the checksums of a TCP packet without options or extension headers anew.
fn repair(bytes: &mut [u8]) {
    let Ok(layout) = parse(bytes) else { return };
    if layout.family == Family::V4 {
        checksum::fix_ipv4(bytes);
    }
    if layout.proto != proto::TCP {
        return;
    }
    let (src, dst) = (layout.src(bytes), layout.dst(bytes));
    let Some(l4) = bytes.get_mut(usize::from(layout.l4)..layout.len as usize) else {
        return;
    };
    let pseudo = checksum::pseudo(layout.family, src, dst, proto::TCP, l4.len() as u32);
    if let Some(field) = l4.get_mut(16..18) {
        field.fill(0);
        let sum = checksum::finish(pseudo, l4);
        if let Some(field) = l4.get_mut(16..18) {
            field.copy_from_slice(&sum.to_be_bytes());
        }
    }
}
