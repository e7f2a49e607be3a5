//! Speed of the program's parts and of the whole, each beside a baseline measured in
//! the same run. `cargo bench -p tidegate` runs this and the memory figures.

#[path = "../common/mod.rs"]
mod common;
mod measure;
mod packets;

fn main() -> anyhow::Result<()> {
    packets::run()
}
