//! What packets cost in the engine alone, each figure beside a baseline measured in the same
//! run.
//!
//! `cargo bench -p tidegate-engine --bench packets -- [NAME]`: `NAME` measures only what has
//! that in its name.

mod established;
mod measure;
mod scale;
mod stateless;
mod surroundings;
mod traffic;

/// As in the program.
#[global_allocator]
static MEMORY: tidegate_sys::LargePages = tidegate_sys::LargePages;

fn main() -> anyhow::Result<()> {
    established::run()?;
    scale::run()?;
    stateless::run()
}
