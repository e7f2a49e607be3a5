//! The same work on more and more cores: engines with flows of their own, a thread each.

use std::path::Path;
use std::sync::Barrier;
use std::thread;
use std::time::Duration;

use anyhow::{Result, anyhow};
use tidegate_engine::conntrack::AHEAD;

use crate::measure::{Group, Meter, Subject, Took};
use crate::plot::{Line, Picture};
use crate::receiver::{Loaded, Receiver};
use crate::surroundings::{Established, many, router_of};
use crate::traffic::{HANDSHAKE, Traffic};

/// Of each engine.
const CONNECTIONS: usize = 10_000;
const PACKETS: usize = 500_000;

/// Measures with one engine and with as many as there are cores; a picture goes to `plots`.
///
/// # Errors
/// A packet is not let through, or the picture cannot be written.
pub(crate) fn run(plots: Option<&Path>) -> Result<()> {
    let cores = thread::available_parallelism()?.get();
    let traffic = &Traffic::random(CONNECTIONS, PACKETS);
    let rules = &Loaded::new(&many(98, Established::Last))?;
    let opening = CONNECTIONS * HANDSHAKE;
    // Processor time of the packets alone; all threads begin with them at once.
    let one =
        move |together: &Barrier, done: &Barrier, meter: &Meter| -> Result<(Duration, usize)> {
            let mut receiver = Receiver::new(rules, router_of(8), CONNECTIONS, AHEAD);
            let opened = receiver.all(traffic.packets(0).take(opening));
            together.wait();
            let took = receiver.all(traffic.packets(opening));
            // Nobody ends before all memory is there.
            done.wait();
            let held = meter.held();
            done.wait();
            opened?;
            Ok((took?, held?))
        };
    let all = move |engines: usize| {
        let (together, done) = (&Barrier::new(engines), &Barrier::new(engines));
        let meter = &Meter::new()?;
        let each = thread::scope(|scope| {
            let threads: Vec<_> = (0..engines)
                .map(|_| scope.spawn(move || one(together, done, meter)))
                .collect();
            let ends = threads.into_iter().map(thread::ScopedJoinHandle::join);
            ends.map(|end| end.map_err(|_| anyhow!("a thread failed"))?)
                .collect::<Result<Vec<_>>>()
        })?;
        // What all take together in the time of the slowest.
        let slowest = each.iter().map(|e| e.0).max().unwrap_or_default();
        Ok(Took {
            bytes: each.iter().map(|e| e.1 + rules.bytes).max(),
            ..Took::new(slowest, engines * PACKETS)
        })
    };
    let subjects =
        (1..=cores).map(|n| Subject::new(format!("engines, a core each: {n}"), move || all(n)));
    let group = Group {
        title: format!("Engines with {CONNECTIONS} connections of their own, in batches"),
        unit: "packet",
        rounds: 5,
        subjects: subjects.collect(),
    };
    let ns = group.run()?;
    let Some(dir) = plots.filter(|_| !ns.is_empty()) else {
        return Ok(());
    };
    let rates = (1..).zip(ns.iter().map(|ns| 1e3 / ns));
    let rates: Vec<(usize, f64)> = rates.collect();
    let per_core = ns.first().map_or(0.0, |ns| 1e3 / ns);
    let lines = [
        Line {
            name: "as many times one core's".to_owned(),
            points: (1..=cores).map(|n| (n, per_core * n as f64)).collect(),
        },
        Line {
            name: "all engines together".to_owned(),
            points: rates,
        },
    ];
    Picture {
        title: "Established TCP, engines with 10,000 connections each: packets a second",
        across: "cores",
        unit: "millions a second",
        one_by_one: true,
    }
    .write(&dir.join("rate-by-cores.svg"), &lines)
}
