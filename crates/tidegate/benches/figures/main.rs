//! Speed of the program's parts and of the whole, each beside a baseline measured in
//! the same run.
//!
//! `cargo bench -p tidegate --bench figures -- [--keep=DIR] [NAME]`: `--keep` leaves
//! capture, host and rules of the replay in a directory; `NAME` measures only what has
//! that in its name.

#[path = "../../../syntax/benches/common/file.rs"]
mod file;
mod measure;
mod packets;
mod replay;
mod rules;
mod scale;
mod stateless;
mod surroundings;
mod traffic;

use std::path::PathBuf;

fn main() -> anyhow::Result<()> {
    let temporary = tempfile::tempdir()?;
    let keep = std::env::args().find_map(|word| Some(word.strip_prefix("--keep=")?.into()));
    let dir: PathBuf = keep.unwrap_or_else(|| temporary.path().to_owned());
    packets::run()?;
    scale::run()?;
    stateless::run()?;
    replay::run(&dir)?;
    rules::run()
}
