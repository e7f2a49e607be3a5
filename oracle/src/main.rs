//! Runs the kernel oracle's cases on the engine, or with `--datapath userspace|tcx|xdp` on
//! the interfaces of a router in a network namespace: JSON cases on standard input, one a
//! line; JSON results on standard output, one a line, in the same order and form.

mod alone;
mod copied;
mod described;
mod live;
mod machine;
mod report;
mod rules;
mod sequence;
mod world;

use std::io::{BufRead, Write};

use anyhow::{Result, bail};
use serde_json::{Value, json};

use alone::Alone;
use live::Routers;

fn main() -> Result<()> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let mut routers = match words.as_slice() {
        [] => None,
        ["--datapath", name] => Some(Routers::new(live::options(name)?)),
        _ => bail!("usage: tidegate-oracle [--datapath userspace|tcx|xdp] < CASES > RESULTS"),
    };
    let mut out = std::io::stdout().lock();
    for line in std::io::stdin().lock().lines() {
        let line = line?;
        if line.trim().is_empty() {
            continue;
        }
        let result = run(&line, routers.as_mut());
        writeln!(out, "{result}")?;
        out.flush()?;
    }
    if let Some(routers) = routers {
        eprintln!("{}", routers.summary());
    }
    Ok(())
}

fn run(line: &str, routers: Option<&mut Routers>) -> Value {
    let case: Value = match serde_json::from_str(line) {
        Ok(case) => case,
        Err(e) => return json!({"ok": false, "error": e.to_string()}),
    };
    let name = case.get("name").cloned().unwrap_or_default();
    let done = match routers {
        Some(routers) => routers.with(&case, |live| sequence::run(live, &case)),
        None => Alone::new(&case).and_then(|mut alone| sequence::run(&mut alone, &case)),
    };
    match done {
        Ok(mut result) => {
            result["name"] = name;
            result["ok"] = true.into();
            result
        }
        Err(e) => json!({"name": name, "ok": false, "error": format!("{e:#}")}),
    }
}
