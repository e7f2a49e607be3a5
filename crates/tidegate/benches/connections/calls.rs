//! Single calls of the engine, one after the other, on the engine's own clock.

use anyhow::{Result, ensure};
use tidegate_engine::Disposition;
use tidegate_engine::conntrack::Sysctl;

use crate::stopwatch::{Calls, heads, row};
use crate::traffic::{HANDSHAKE, Traffic};
use crate::{CONNECTIONS, Receiver, hundred_rules};

/// A millisecond: how often the clock is looked at where nothing happens.
const TICK: u64 = 1_000_000;

/// Measures.
///
/// # Errors
/// A packet is not let through.
pub(crate) fn run(traffic: &Traffic) -> Result<()> {
    heads("Calls that packets wait for, a million connections");
    opening(traffic)?;
    established(traffic)
}

/// First packets, then a table that is full, then their expiry.
fn opening(traffic: &Traffic) -> Result<()> {
    let mut receiver = Receiver::new(&hundred_rules()?);
    let mut calls = Calls::default();
    for packet in traffic.packets(0).take(CONNECTIONS) {
        let disposition = calls.time(|| receiver.one(packet, 2_000))?;
        ensure!(disposition == Disposition::Sent, "{disposition:?}");
    }
    row("a packet that opens a connection", &calls);

    let collected = full(&mut receiver, traffic)?;
    row("while a full table is gone through", &collected);
    let mut expiry = Calls::default();
    pass_time(&mut receiver, &mut expiry, u64::MAX);
    row("timers, until all have run out unanswered", &expiry);
    ensure!(receiver.engine.conntrack().count() == 0, "some are left");
    Ok(())
}

/// Makes all connections ones that are not given up for others, asks for one more, and
/// lets the minute pass after which the table is gone through.
fn full(receiver: &mut Receiver, traffic: &Traffic) -> Result<Calls> {
    // Some last packet of a connection that is not there.
    let stranger = traffic.packets(0).next();
    let mut calls = Calls::default();
    receiver.engine.conntrack_mut().config_mut().max = CONNECTIONS as u32 / 2;
    let mut other = stranger.map_or(Vec::new(), |(p, _)| p.to_vec());
    // Another source port, and the checksum that goes with it.
    other[20] ^= 0x10;
    other[36] ^= 0x10;
    let mut ends = receiver.now + 130 * 1_000_000_000;
    while receiver.now < ends {
        let before = receiver.engine.conntrack().count();
        calls.time(|| receiver.one((&other, true), TICK * 10))?;
        if receiver.engine.conntrack().count() + 1000 < before {
            ends = ends.min(receiver.now + 1_000_000_000);
        }
    }
    receiver.engine.conntrack_mut().config_mut().max = CONNECTIONS as u32;
    Ok(calls)
}

/// Lets time pass as the datapath does without packets.
fn pass_time(receiver: &mut Receiver, calls: &mut Calls, until: u64) {
    while let Some(due) = receiver.engine.poll_timeout() {
        let now = due.max(receiver.now + 1_000);
        if now > until {
            break;
        }
        receiver.now = now;
        calls.time(|| receiver.engine.handle_timeout(now));
    }
}

/// Handshakes, data, five days.
fn established(traffic: &Traffic) -> Result<()> {
    let mut receiver = Receiver::new(&hundred_rules()?);
    receiver.establish(traffic)?;
    let mut calls = Calls::default();
    for packet in traffic.packets(CONNECTIONS * HANDSHAKE) {
        let disposition = calls.time(|| receiver.one(packet, 1_000))?;
        ensure!(disposition == Disposition::Sent, "{disposition:?}");
    }
    row("a packet of an established connection", &calls);

    let mut calls = Calls::default();
    let buckets = Sysctl::by_name("buckets");
    let ct = receiver.engine.conntrack_mut();
    calls.time(|| buckets.map(|b| b.write(ct, 2 * CONNECTIONS as u32)));
    let soon = receiver.now + 1_000_000_000;
    pass_time(&mut receiver, &mut calls, soon);
    row("another number of buckets", &calls);

    let mut calls = Calls::default();
    pass_time(&mut receiver, &mut calls, u64::MAX);
    row("timers, until all have run out after five days", &calls);
    ensure!(receiver.engine.conntrack().count() == 0, "some are left");
    Ok(())
}
