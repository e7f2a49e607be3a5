//! What packets, and changes of single rules, cost in the engine alone, each figure beside a
//! baseline measured in the same run.
//!
//! `cargo bench -p tidegate-engine --bench packets -- [--plots=DIR] [--rounds=N] [NAME]`:
//! `--plots` draws pictures into a directory; `--rounds` measures at most so often; `NAME`
//! measures only tables that have that in their title or a line. Packets are copied into buffers
//! while no clock runs, as a network card would. Memory is what the process has
//! resident at the end of the measurement more than before the engine was made.

mod buffers;
mod cores;
mod edits;
mod established;
mod ftp;
#[allow(dead_code, reason = "shared with the bench `classifier`")]
#[path = "../classifier/traffic.rs"]
mod headers;
mod hurt;
mod linear;
mod measure;
mod memory;
mod nat;
mod plot;
#[allow(dead_code, reason = "shared with the bench `classifier`")]
#[path = "../classifier/random.rs"]
mod random;
mod receiver;
mod recorder;
mod scale;
#[path = "../classifier/sets.rs"]
mod sets;
mod stateless;
mod surroundings;
mod traffic;

/// As in the program.
#[global_allocator]
static MEMORY: tidegate_sys::LargePages = tidegate_sys::LargePages;

fn main() -> anyhow::Result<()> {
    let plots = std::env::args().find_map(|a| Some(a.strip_prefix("--plots=")?.into()));
    let plots: Option<std::path::PathBuf> = plots;
    if let Some(dir) = &plots {
        std::fs::create_dir_all(dir)?;
    }
    established::run()?;
    scale::run(plots.as_deref())?;
    cores::run(plots.as_deref())?;
    stateless::run(plots.as_deref())?;
    hurt::run()?;
    nat::run()?;
    ftp::run()?;
    edits::run()
}
