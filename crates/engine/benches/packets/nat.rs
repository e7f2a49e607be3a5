//! Translated connections beside the same ones without.

use anyhow::{Result, ensure};
use tidegate_engine::conntrack::AHEAD;

use crate::established::{Memory, engine, opening};
use crate::measure::{Group, Subject};
use crate::random::Random;
use crate::receiver::Loaded;
use crate::recorder::{Recorder, conversations};
use crate::surroundings::{Established, many};
use crate::traffic::{HANDSHAKE, SERVER, Traffic};

/// As many as one address has ports for, with some to spare.
const CONNECTIONS: usize = 30_000;
const PACKETS: usize = 400_000;

const REAL: (u32, u16) = (SERVER, 443);
/// An address that only a rule makes somebody's.
const PUBLIC: (u32, u16) = (0x0a09_00c8, 8443);

const MASQUERADE: &str = "-A POSTROUTING -o eth1 -j MASQUERADE";
const DNAT: &str = "-A PREROUTING -d 10.9.0.200/32 -p tcp -m tcp --dport 8443 -j DNAT --to-destination 10.9.0.1:443";

/// Rules of the nat table.
struct Case {
    name: &'static str,
    rules: &'static [&'static str],
    /// What clients call the server.
    called: (u32, u16),
}

const CASES: [Case; 6] = [
    Case {
        name: "no nat table",
        rules: &[],
        called: REAL,
    },
    Case {
        name: "a nat table that translates others",
        rules: &["-A POSTROUTING -o eth9 -j MASQUERADE"],
        called: REAL,
    },
    Case {
        name: "SNAT",
        rules: &["-A POSTROUTING -o eth1 -j SNAT --to-source 10.9.0.253"],
        called: REAL,
    },
    Case {
        name: "MASQUERADE",
        rules: &[MASQUERADE],
        called: REAL,
    },
    Case {
        name: "DNAT",
        rules: &[DNAT],
        called: PUBLIC,
    },
    Case {
        name: "DNAT and MASQUERADE",
        rules: &[DNAT, MASQUERADE],
        called: PUBLIC,
    },
];

/// A case made ready.
struct Load {
    name: &'static str,
    rules: Loaded,
    traffic: Traffic,
}

impl Load {
    fn new(case: &Case) -> Result<Self> {
        let mut text = many(98, Established::Last);
        if !case.rules.is_empty() {
            text += &format!("*nat\n{}\nCOMMIT\n", case.rules.join("\n"));
        }
        let rules = Loaded::new(&text)?;
        Ok(Load {
            name: case.name,
            traffic: record(case, &rules)?,
            rules,
        })
    }
}

/// Handshakes in turn, then data and acknowledgements of random connections.
fn record(case: &Case, rules: &Loaded) -> Result<Traffic> {
    let mut recorder = Recorder::new(rules, CONNECTIONS);
    let mut all = conversations(CONNECTIONS, case.called, REAL);
    for step in 0..HANDSHAKE {
        for one in &mut all {
            one.shake(&mut recorder, step)?;
        }
    }
    let hidden = all.iter().all(|c| c.server.peer.0 != c.client.own.0);
    let source = case.rules.iter().any(|r| r.contains("-o eth1"));
    ensure!(
        hidden == source,
        "{}: the server sees the clients: {}",
        case.name,
        !hidden
    );
    let random = &mut Random(11);
    let mut steps = vec![0; CONNECTIONS];
    for _ in 0..PACKETS {
        let at = random.below(CONNECTIONS as u64) as usize;
        let (client, len) = [(true, 100), (false, 600), (true, 0)][steps[at] % 3];
        steps[at] += 1;
        all[at].say(&mut recorder, client, &[0x55; 600][..len])?;
    }
    Ok(recorder.tape)
}

/// Measures established connections and first packets.
///
/// # Errors
/// A packet is not let through or not translated.
pub(crate) fn run() -> Result<()> {
    let loads = CASES.iter().map(Load::new).collect::<Result<Vec<_>>>()?;
    for (how, batch) in [("one at a time", 1), ("in batches", AHEAD)] {
        let established = |load: &'_ Load| {
            let handshakes = CONNECTIONS * HANDSHAKE;
            engine(&load.traffic, handshakes, &load.rules, batch)
        };
        let first = |load: &'_ Load| {
            let memory = Memory::New;
            opening(&load.traffic, CONNECTIONS, &load.rules, batch, memory)
        };
        Group {
            title: format!(
                "NAT: established TCP, random ones of {CONNECTIONS} connections, 100 rules, {how}"
            ),
            unit: "packet",
            rounds: 5,
            subjects: loads
                .iter()
                .map(|load| Subject::new(load.name, move || established(load)))
                .collect(),
        }
        .run()?;
        Group {
            title: format!("NAT: first packets of {CONNECTIONS} connections, 100 rules, {how}"),
            unit: "packet",
            rounds: 5,
            subjects: loads
                .iter()
                .map(|load| Subject::new(load.name, move || first(load)))
                .collect(),
        }
        .run()?;
    }
    Ok(())
}
