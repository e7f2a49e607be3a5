//! What packets, and changes of single rules, cost in the engine alone, each figure beside a
//! baseline measured in the same run.
//!
//! `cargo bench -p tidegate-engine --bench packets -- [--plots=DIR] [NAME]`: `--plots` draws
//! pictures into a directory; `NAME` measures only what has that in its name.

mod edits;
mod established;
mod measure;
#[allow(dead_code, reason = "shared with the bench `peers`")]
mod plot;
mod scale;
mod stateless;
mod surroundings;
mod traffic;

/// As in the program.
#[global_allocator]
static MEMORY: tidegate_sys::LargePages = tidegate_sys::LargePages;

fn main() -> anyhow::Result<()> {
    let plots = std::env::args().find_map(|a| Some(a.strip_prefix("--plots=")?.into()));
    let plots: Option<std::path::PathBuf> = plots;
    established::run()?;
    scale::run(plots.as_deref())?;
    stateless::run()?;
    edits::run()
}
