//! A SYN scan: which ports are open, closed, or silent.

use std::collections::BTreeMap;
use std::io::{ErrorKind, Read};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use tidegate_wire::{be16, proto, tcp};

use super::PATIENCE;
use super::raw::{ACK, Raw, SYN, Segment};
use super::words::Words;

/// How often a silent port is asked.
const ROUNDS: u16 = 2;
/// First source port; round N uses the one N above.
const SOURCE: u16 = 61_000;
/// Pause between packets, so that no queue overflows.
const PAUSE: Duration = Duration::from_micros(200);
const RST: u8 = 4;

/// `scan`: prints a line for each port that answered and one for the others.
pub(super) fn scan(words: &Words) -> Result<()> {
    let mut raw = Raw::to(words.word(0, "HOST")?)?;
    let (first, last) = words
        .word(1, "FIRST-LAST")?
        .split_once('-')
        .context("FIRST-LAST")?;
    let (first, last): (u16, u16) = (first.parse()?, last.parse()?);
    let mut found = BTreeMap::new();
    for round in 0..ROUNDS {
        let sport = SOURCE + round;
        let silent: Vec<u16> = (first..=last).filter(|p| !found.contains_key(p)).collect();
        for dport in silent {
            raw.send(Segment {
                sport,
                dport,
                seq: 0x1234_5678,
                ack: 0,
                flags: SYN,
                damaged: false,
            })?;
            std::thread::sleep(PAUSE);
        }
        listen(&mut raw, sport, &mut found)?;
    }
    for (port, state) in &found {
        println!("{port} {state}");
    }
    println!(
        "others filtered: {}",
        usize::from(last - first) + 1 - found.len()
    );
    Ok(())
}

fn listen(raw: &mut Raw, own: u16, found: &mut BTreeMap<u16, &'static str>) -> Result<()> {
    let end = Instant::now() + PATIENCE / u32::from(ROUNDS);
    let mut buffer = [0; 2048];
    loop {
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(());
        }
        raw.socket.set_read_timeout(Some(left))?;
        let len = match raw.socket.read(&mut buffer) {
            Ok(len) => len,
            Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                return Ok(());
            }
            Err(e) => return Err(e.into()),
        };
        let packet = buffer.get(..len).unwrap_or_default();
        let Ok(layout) = tidegate_wire::parse(packet) else {
            continue;
        };
        let from = layout.src(packet) == u128::from(u32::from(raw.to));
        let l4 = layout.l4(packet);
        let Some(segment) = tcp::Tcp::new(l4).filter(|_| from && layout.proto == proto::TCP) else {
            continue;
        };
        if be16(l4, 2) != Some(own) {
            continue;
        }
        let flags = segment.flags();
        if flags & RST != 0 {
            found.insert(segment.sport(), "closed");
        } else if flags & (SYN | ACK) == SYN | ACK {
            found.insert(segment.sport(), "open");
        }
    }
}
