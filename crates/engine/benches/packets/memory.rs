//! What is in memory.

use std::fs::read_to_string;

/// Bytes that lines of a file of the kernel's say, all together, which writes them in KiB.
fn bytes(file: &str, names: &[&str]) -> Option<usize> {
    let text = read_to_string(file).ok()?;
    let value = |name: &&str| {
        let line = text.lines().find_map(|l| l.strip_prefix(*name))?;
        line.split_whitespace().next()?.parse::<usize>().ok()
    };
    let all: Option<usize> = names.iter().map(value).sum();
    Some(all? << 10)
}

/// Bytes of this process that are in memory.
pub(crate) fn resident() -> Option<usize> {
    bytes("/proc/self/smaps_rollup", &["Rss:"])
}

/// Bytes that the kernel has for itself and cannot get back: what rules, connections and
/// programs lie in, and what everything else on the machine makes it hold.
#[allow(dead_code, reason = "asked where the kernel is measured")]
pub(crate) fn kernel() -> Option<usize> {
    bytes("/proc/meminfo", &["SUnreclaim:", "VmallocUsed:", "Percpu:"])
}
