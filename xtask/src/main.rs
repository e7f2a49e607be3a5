//! `cargo run -p xtask -- check`: the walls between crates, and the rules about files.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use anyhow::{Context, Result, bail};
use serde_json::Value;

/// Which workspace crates a crate may depend on. A crate that is not listed is an
/// error, so that a new crate gets its place here first.
const MAY_USE: &[(&str, &[&str])] = &[
    ("tidegate-wire", &[]),
    ("tidegate-ir", &["tidegate-wire"]),
    ("tidegate-sets", &["tidegate-wire"]),
    (
        "tidegate-xt",
        &["tidegate-ir", "tidegate-sets", "tidegate-wire"],
    ),
    (
        "tidegate-syntax",
        &["tidegate-xt", "tidegate-ir", "tidegate-wire"],
    ),
    ("tidegate-conntrack", &["tidegate-wire"]),
    (
        "tidegate-engine",
        &["tidegate-wire", "tidegate-ir", "tidegate-conntrack"],
    ),
    ("tidegate-analysis", &["tidegate-wire", "tidegate-ir"]),
    ("tidegate-capture", &["tidegate-wire"]),
    ("tidegate-host", &["tidegate-wire", "tidegate-engine"]),
    ("tidegate-sys", &[]),
    (
        "tidegate-ebpf",
        &["tidegate-wire", "tidegate-ir", "tidegate-conntrack"],
    ),
    (
        "tidegate-datapath",
        &[
            "tidegate-wire",
            "tidegate-ebpf",
            "tidegate-engine",
            "tidegate-host",
            "tidegate-sys",
        ],
    ),
    ("tidegate-logs", &["tidegate-engine", "tidegate-capture"]),
    (
        "tidegate-tools",
        &[
            "tidegate-wire",
            "tidegate-conntrack",
            "tidegate-ir",
            "tidegate-xt",
            "tidegate-sets",
            "tidegate-syntax",
        ],
    ),
    (
        "tidegate-daemon",
        &[
            "tidegate-sys",
            "tidegate-datapath",
            "tidegate-wire",
            "tidegate-ir",
            "tidegate-xt",
            "tidegate-sets",
            "tidegate-syntax",
            "tidegate-engine",
            "tidegate-host",
            "tidegate-logs",
            "tidegate-tools",
        ],
    ),
    (
        "tidegate",
        &[
            "tidegate-analysis",
            "tidegate-daemon",
            "tidegate-datapath",
            "tidegate-host",
            "tidegate-lab",
            "tidegate-sys",
            "tidegate-tools",
            "tidegate-wire",
            "tidegate-ir",
            "tidegate-xt",
            "tidegate-sets",
            "tidegate-syntax",
            "tidegate-conntrack",
            "tidegate-engine",
            "tidegate-capture",
        ],
    ),
    (
        "tidegate-oracle",
        &[
            "tidegate-datapath",
            "tidegate-sys",
            "tidegate-wire",
            "tidegate-ir",
            "tidegate-xt",
            "tidegate-sets",
            "tidegate-syntax",
            "tidegate-tools",
            "tidegate-engine",
        ],
    ),
    (
        "tidegate-fuzz-targets",
        &[
            "tidegate-wire",
            "tidegate-ir",
            "tidegate-xt",
            "tidegate-sets",
            "tidegate-syntax",
            "tidegate-conntrack",
            "tidegate-tools",
            "tidegate-engine",
            "tidegate-capture",
        ],
    ),
    ("tidegate-lab", &["tidegate-wire", "tidegate-capture"]),
    ("xtask", &[]),
];

/// Crates that must build without the standard library.
const NO_STD: &[&str] = &["wire", "ir", "conntrack"];

/// Longest source file, tests included.
const MAX_LINES: usize = 800;

fn main() -> ExitCode {
    let outcome = match std::env::args().nth(1).as_deref() {
        Some("check") => check(),
        _ => {
            eprintln!("usage: cargo run -p xtask -- check");
            return ExitCode::from(2);
        }
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("xtask: {e:#}");
            ExitCode::FAILURE
        }
    }
}

fn check() -> Result<()> {
    let root = root()?;
    let mut faults = dependency_faults(&root)?;
    for name in NO_STD {
        let lib = root.join("crates").join(name).join("src/lib.rs");
        let text = std::fs::read_to_string(&lib).with_context(|| lib.display().to_string())?;
        if !text.contains("#![no_std]") {
            faults.push(format!("{}: must be #![no_std]", lib.display()));
        }
    }
    for file in sources(&root)? {
        let text = std::fs::read_to_string(&file)?;
        let lines = text.lines().count();
        if lines > MAX_LINES {
            faults.push(format!(
                "{}: {lines} lines, at most {MAX_LINES}",
                file.display()
            ));
        }
    }
    if faults.is_empty() {
        println!("xtask: dependency walls, no_std and file sizes are in order");
        return Ok(());
    }
    bail!("{}", faults.join("\n"))
}

fn root() -> Result<PathBuf> {
    let dir = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    Ok(dir.parent().context("no workspace")?.to_owned())
}

fn dependency_faults(root: &Path) -> Result<Vec<String>> {
    let out = Command::new("cargo")
        .args([
            "metadata",
            "--format-version",
            "1",
            "--no-deps",
            "--offline",
        ])
        .current_dir(root)
        .output()
        .context("cargo metadata")?;
    if !out.status.success() {
        bail!("cargo metadata: {}", String::from_utf8_lossy(&out.stderr));
    }
    let metadata: Value = serde_json::from_slice(&out.stdout)?;
    let packages = metadata["packages"].as_array().context("packages")?;
    let ours: BTreeSet<&str> = packages.iter().filter_map(|p| p["name"].as_str()).collect();
    let allowed: BTreeMap<&str, &[&str]> = MAY_USE.iter().copied().collect();
    let mut faults = Vec::new();
    for package in packages {
        let name = package["name"].as_str().context("name")?;
        let Some(allowed) = allowed.get(name) else {
            faults.push(format!("{name}: not in xtask's table of dependencies"));
            continue;
        };
        for dep in package["dependencies"].as_array().into_iter().flatten() {
            let dep_name = dep["name"].as_str().unwrap_or("");
            let for_tests = dep["kind"].as_str() == Some("dev");
            if ours.contains(dep_name) && !for_tests && !allowed.contains(&dep_name) {
                faults.push(format!("{name} must not use {dep_name}"));
            }
        }
    }
    Ok(faults)
}

fn sources(root: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    let mut open = vec![root.join("crates"), root.join("oracle"), root.join("xtask")];
    while let Some(dir) = open.pop() {
        for entry in std::fs::read_dir(&dir).with_context(|| dir.display().to_string())? {
            let path = entry?.path();
            let name = path.file_name().and_then(|n| n.to_str()).unwrap_or("");
            if path.is_dir() {
                if name != "target" && !name.starts_with('.') {
                    open.push(path);
                }
            } else if path.extension().is_some_and(|e| e == "rs") {
                found.push(path);
            }
        }
    }
    Ok(found)
}
