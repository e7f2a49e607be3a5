//! Speed of the program as a whole, beside a baseline measured in the same run. The engine
//! alone: `cargo bench -p tidegate-engine --bench packets`.
//!
//! `cargo bench -p tidegate --bench figures -- [--keep=DIR] [NAME]`: `--keep` leaves
//! capture, host and rules of the replay in a directory; `NAME` measures only what has
//! that in its name.

#[path = "../../../syntax/benches/common/file.rs"]
mod file;
#[path = "../../../engine/benches/packets/measure.rs"]
mod measure;
#[path = "../../../engine/benches/packets/memory.rs"]
mod memory;
mod replay;
mod rules;
#[path = "../../../engine/benches/packets/surroundings.rs"]
#[allow(dead_code, reason = "shared with other figures")]
mod surroundings;
#[path = "../../../engine/benches/packets/traffic.rs"]
#[allow(dead_code, reason = "shared with other figures")]
mod traffic;

use std::path::PathBuf;

fn main() -> anyhow::Result<()> {
    let temporary = tempfile::tempdir()?;
    let keep = std::env::args().find_map(|word| Some(word.strip_prefix("--keep=")?.into()));
    let dir: PathBuf = keep.unwrap_or_else(|| temporary.path().to_owned());
    replay::run(&dir)?;
    rules::run()
}
