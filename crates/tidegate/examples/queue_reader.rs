//! Decides the packets of a queue: drops UDP packets that say "no", gives the others a mark.
//!
//! `queue_reader 3` reads queue 3 of the running firewall, to which a rule such as
//! `iptables -A INPUT -p udp -j NFQUEUE --queue-num 3` sends packets.
#![allow(missing_docs)]

use anyhow::{Context, Result};
use tidegate_daemon::control::socket_path;
use tidegate_daemon::queue::{Binding, Order, Reader, Verdict};
use tidegate_wire::parse;

fn main() -> Result<()> {
    let queue = std::env::args().nth(1).context("which queue?")?.parse()?;
    let mut reader = Reader::bind(&socket_path(), &Binding::new(queue))?;
    while let Some(packet) = reader.next()? {
        let id = packet.about.id;
        let order = match payload(&packet.bytes) {
            Some(b"no") => Order::about(id, Verdict::Drop, None),
            _ => Order::about(id, Verdict::Accept, Some(7)),
        };
        reader.order(&order)?;
    }
    Ok(())
}

/// What a UDP packet carries.
fn payload(packet: &[u8]) -> Option<&[u8]> {
    let layout = parse(packet).ok()?;
    layout.l4(packet).get(8..)
}
