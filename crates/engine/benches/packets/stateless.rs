//! Packets that no connection helps: let in by the last of many rules, or by none.

use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Result, ensure};
use tidegate_engine::{Config, Disposition, Engine, Incoming};
use tidegate_ir::Ruleset;
use tidegate_wire::{checksum, proto};

use crate::measure::{Group, timed};
use crate::surroundings::{INSIDE, load, router};
use crate::traffic::SERVER;

const PACKETS: usize = 200_000;
/// Rules before the last one.
const SIZES: [(u32, &str); 4] = [
    (0, "1 rule"),
    (99, "100 rules"),
    (9_999, "10,000 rules"),
    (99_999, "100,000 rules"),
];
/// The port that the last rule lets in, and one that no rule names.
const PORTS: [u16; 2] = [443, 9];

/// Hosts, networks and ports, none of which the traffic meets; the server's port last.
fn rules(count: u32) -> String {
    let mut text = "*filter\n:FORWARD DROP [0:0]\n".to_owned();
    for n in 0..count {
        let (high, low, port) = (n / 200 % 250, n % 200, 10_000 + n % 50_000);
        // Writing to a String cannot fail.
        let _ = match n % 4 {
            0 => writeln!(text, "-A FORWARD -s 172.{high}.{low}.0/24 -j DROP"),
            1 => writeln!(
                text,
                "-A FORWARD -d 10.7.{high}.{low}/32 -p udp -m udp --dport 53 -j ACCEPT"
            ),
            2 => writeln!(
                text,
                "-A FORWARD -i in0 -p udp -m udp --dport {port} -j ACCEPT"
            ),
            _ => writeln!(
                text,
                "-A FORWARD -p udp -m multiport --dports 69,123,{port} -j DROP"
            ),
        };
    }
    text.push_str("-A FORWARD -d 10.9.0.1/32 -p udp -m udp --dport 443 -j ACCEPT\nCOMMIT\n");
    text
}

/// Datagrams of 28 bytes from random clients.
fn datagrams(port: u16) -> Vec<[u8; 28]> {
    let mut state = 1u64;
    let mut datagram = |_| {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        let client = 0x0a00_0002 + (state >> 33) as u32 % 0xfff0;
        let mut bytes = [0; 28];
        bytes[..12].copy_from_slice(&[0x45, 0, 0, 28, 0, 0, 0, 0, 64, proto::UDP, 0, 0]);
        bytes[12..16].copy_from_slice(&client.to_be_bytes());
        bytes[16..20].copy_from_slice(&SERVER.to_be_bytes());
        bytes[20..22].copy_from_slice(&(1024 + (state >> 50) as u16).to_be_bytes());
        bytes[22..24].copy_from_slice(&port.to_be_bytes());
        bytes[25] = 8;
        checksum::fix_ipv4(&mut bytes);
        bytes
    };
    (0..PACKETS).map(&mut datagram).collect()
}

fn pass(packets: &[[u8; 28]], sent: bool, rules: &Arc<Ruleset>) -> Result<Duration> {
    let mut engine = Engine::new(Config::default(), router());
    engine.load(rules.clone());
    let mut buffer = Vec::new();
    let run = || {
        for packet in packets {
            buffer.clear();
            buffer.extend_from_slice(packet);
            let bytes = std::mem::take(&mut buffer);
            let outcome = engine.receive(1_000_000_000, Incoming::on(INSIDE), bytes, &mut ());
            let fate = outcome.disposition;
            ensure!((fate == Disposition::Sent) == sent, "{fate:?}");
            buffer = engine.recycle(outcome.outputs).unwrap_or_default();
        }
        Ok(())
    };
    Ok(timed(run)?.0)
}

/// Measures both.
///
/// # Errors
/// A ruleset cannot be read, or a packet does not go where it should.
pub(crate) fn run() -> Result<()> {
    let rulesets = SIZES.iter().map(|(count, _)| load(&rules(*count)));
    let rulesets = rulesets.collect::<Result<Vec<_>>>()?;
    let [let_in, dropped] = PORTS.map(datagrams);
    for (title, packets, sent) in [
        (
            "Stateless UDP from random clients, let in by the last rule",
            &let_in,
            true,
        ),
        (
            "Stateless UDP from random clients, dropped by the policy",
            &dropped,
            false,
        ),
    ] {
        let named = SIZES.iter().map(|s| s.1).zip(&rulesets);
        Group {
            title: title.to_owned(),
            unit: ("packet", PACKETS),
            rounds: 5,
            subjects: named
                .map(|(name, rules)| -> (&str, crate::measure::Subject<'_>) {
                    (name, Box::new(move || pass(packets, sent, rules)))
                })
                .collect(),
        }
        .run()?;
    }
    Ok(())
}
