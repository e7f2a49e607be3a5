//! Runs the kernel oracle's cases on the engine: JSON cases on standard input, one a
//! line; JSON results on standard output, one a line, in the same order and form.

mod copied;
mod report;
mod rules;
mod sequence;
mod world;

use std::io::{BufRead, Write};

use serde_json::{Value, json};

fn main() -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    for line in std::io::stdin().lock().lines() {
        let line = line?;
        if line.trim().is_empty() {
            continue;
        }
        let result = run(&line);
        writeln!(out, "{result}")?;
        out.flush()?;
    }
    Ok(())
}

fn run(line: &str) -> Value {
    let case: Value = match serde_json::from_str(line) {
        Ok(case) => case,
        Err(e) => return json!({"ok": false, "error": e.to_string()}),
    };
    let name = case.get("name").cloned().unwrap_or_default();
    match sequence::run(&case) {
        Ok(mut result) => {
            result["name"] = name;
            result["ok"] = true.into();
            result
        }
        Err(e) => json!({"name": name, "ok": false, "error": format!("{e:#}")}),
    }
}
