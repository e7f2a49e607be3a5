//! Memory of a million connections, everything counted: entries, hash slots, timers.
//! A hash table that knows no more than both tuples stands beside it.

#[path = "../../engine/benches/packets/traffic.rs"]
#[allow(dead_code, reason = "shared with other figures")]
mod traffic;

use std::collections::HashMap;

use allocation_counter::measure;
use anyhow::{Result, ensure};
use tidegate_engine::conntrack::{Config, Conntrack, Dir, InHook, Manip, Tracked, Tuple};
use tidegate_wire::parse;
use traffic::{HANDSHAKE, Traffic};

const CONNECTIONS: usize = 1_000_000;

fn main() -> Result<()> {
    let traffic = Traffic::new(CONNECTIONS, CONNECTIONS * HANDSHAKE, 0);
    let tuples = bytes(|| tuples_only(&traffic))?;
    println!("\nMemory of {CONNECTIONS} established TCP connections");
    println!("{:<52} {:>16} {:>8}", "", "bytes/connection", "ratio");
    let row = |name, bytes: f64| println!("{name:<52} {bytes:>16.1} {:>8.2}", bytes / tuples);
    row("both tuples in a std HashMap", tuples);
    row("connection tracking", bytes(|| tracked(&traffic, false))?);
    row(
        "the same with nat bindings",
        bytes(|| tracked(&traffic, true))?,
    );
    Ok(())
}

/// Bytes a connection of what `make` made.
fn bytes<T>(make: impl FnOnce() -> Result<T>) -> Result<f64> {
    let mut made = None;
    let counted = measure(|| made = Some(make()));
    made.transpose()?;
    Ok(counted.bytes_current as f64 / CONNECTIONS as f64)
}

fn tuples_only(traffic: &Traffic) -> Result<HashMap<Tuple, u32>> {
    let mut map = HashMap::new();
    for (n, (packet, _)) in traffic.packets(0).take(2 * CONNECTIONS).enumerate() {
        let layout = parse(packet).ok();
        let tuple = layout.and_then(|l| Tuple::from_packet(packet, &l));
        map.extend(tuple.map(|t| (t, n as u32)));
    }
    ensure!(map.len() == 2 * CONNECTIONS, "{} tuples", map.len());
    Ok(map)
}

fn tracked(traffic: &Traffic, nat: bool) -> Result<Conntrack> {
    let mut ct = Conntrack::new(Config {
        max: 0,
        buckets: CONNECTIONS as u32,
        ..Config::default()
    });
    let mut now = 1_700_000_000_000_000_000;
    for (packet, _) in traffic.packets(0) {
        now += 1_000;
        let Ok(layout) = parse(packet) else { continue };
        let tracked = ct.handle_packet(now, packet, &layout, InHook::Prerouting, None);
        let Tracked::Ct(mut attached) = tracked else {
            anyhow::bail!("{tracked:?}")
        };
        if nat && attached.dir == Dir::Original {
            for manip in [Manip::Dst, Manip::Src] {
                let _ = ct.nat_null_binding(attached.id, manip);
            }
        }
        if let Err(why) = ct.confirm(now, &mut attached) {
            anyhow::bail!("{why:?}");
        }
    }
    ensure!(
        ct.count() as usize == CONNECTIONS,
        "{} connections",
        ct.count()
    );
    Ok(ct)
}
