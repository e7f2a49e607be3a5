//! FTP control connections: with the helper, which reads every line, and with addresses in them
//! that are translated, so that lines change their length.

use std::net::Ipv4Addr;

use anyhow::{Result, ensure};

use crate::established::engine;
use crate::measure::{Group, Subject};
use crate::random::Random;
use crate::receiver::Loaded;
use crate::recorder::{Conversation, Recorder, conversations};
use crate::traffic::{HANDSHAKE, SERVER, Traffic};

const CONNECTIONS: usize = 1_000;
/// A line, its answer, and an acknowledgement each.
const EXCHANGES: usize = 60_000;

const REAL: (u32, u16) = (SERVER, 21);
/// An address that only a rule makes somebody's.
const PUBLIC: (u32, u16) = (0x0a09_00c8, 21);

const FILTER: &str = "*filter\n:FORWARD DROP [0:0]\n\
    -A FORWARD -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT\n\
    -A FORWARD -d 10.9.0.1/32 -p tcp -m tcp --dport 21 -j ACCEPT\nCOMMIT\n";
const HELPER: &str = "*raw\n-A PREROUTING -p tcp -m tcp --dport 21 -j CT --helper ftp\nCOMMIT\n";
const NAT: &str = "*nat\n\
    -A PREROUTING -d 10.9.0.200/32 -p tcp -m tcp --dport 21 -j DNAT --to-destination 10.9.0.1\n\
    -A POSTROUTING -o eth1 -j MASQUERADE\nCOMMIT\n";

const CASES: [(&str, &[&str], (u32, u16)); 4] = [
    ("no helper", &[FILTER], REAL),
    ("helper", &[FILTER, HELPER], REAL),
    ("no helper, DNAT and MASQUERADE", &[FILTER, NAT], PUBLIC),
    (
        "helper, DNAT and MASQUERADE",
        &[FILTER, HELPER, NAT],
        PUBLIC,
    ),
];

/// What a client says and what the server answers; `port` is where data shall go.
fn exchange(kind: usize, one: &Conversation, port: u16) -> (String, String) {
    let commas = |addr: u32| Ipv4Addr::from(addr).to_string().replace('.', ",");
    let (high, low) = (port >> 8, port & 255);
    let (client, server) = (one.client.own.0, one.server.own.0);
    let (line, answer) = match kind {
        0 => (
            format!("PORT {},{high},{low}", commas(client)),
            "200 PORT command successful.".to_owned(),
        ),
        1 => (
            format!("EPRT |1|{}|{port}|", Ipv4Addr::from(client)),
            "200 EPRT command successful.".to_owned(),
        ),
        2 => (
            "PASV".to_owned(),
            format!(
                "227 Entering Passive Mode ({},{high},{low}).",
                commas(server)
            ),
        ),
        3 => (
            "EPSV".to_owned(),
            format!("229 Entering Extended Passive Mode (|||{port}|)"),
        ),
        _ => ("NOOP".to_owned(), "200 NOOP ok.".to_owned()),
    };
    (line + "\r\n", answer + "\r\n")
}

/// Connections whose exchanges announce an address now and then: one of so many.
fn record(rules: &Loaded, called: (u32, u16), one_of: u64) -> Result<Traffic> {
    let mut recorder = Recorder::new(rules, CONNECTIONS);
    let mut all = conversations(CONNECTIONS, called, REAL);
    for step in 0..HANDSHAKE {
        for one in &mut all {
            one.shake(&mut recorder, step)?;
        }
    }
    let random = &mut Random(13);
    for _ in 0..EXCHANGES {
        let one = &mut all[random.below(CONNECTIONS as u64) as usize];
        let announces = random.below(one_of) == 0;
        let kind = if announces { random.below(4) } else { 4 };
        let port = 20_000 + random.below(40_000) as u16;
        let (line, answer) = exchange(kind as usize, one, port);
        one.say(&mut recorder, true, line.as_bytes())?;
        one.say(&mut recorder, false, answer.as_bytes())?;
        one.say(&mut recorder, true, &[])?;
    }
    Ok(recorder.tape)
}

/// Measures lines that announce addresses now and then, and always.
///
/// # Errors
/// A packet is not let through.
pub(crate) fn run() -> Result<()> {
    for one_of in [8, 1] {
        let made = CASES.iter().map(|&(name, tables, called)| {
            let rules = Loaded::new(&tables.concat())?;
            let traffic = record(&rules, called, one_of)?;
            ensure!(
                traffic.len() == HANDSHAKE * CONNECTIONS + 3 * EXCHANGES,
                "{name}"
            );
            Ok((name, rules, traffic))
        });
        let made = made.collect::<Result<Vec<_>>>()?;
        let handshakes = CONNECTIONS * HANDSHAKE;
        Group {
            title: format!(
                "FTP control, {CONNECTIONS} connections, one exchange of {one_of} announces an address"
            ),
            unit: "packet",
            rounds: 5,
            subjects: made.iter().map(|(name, rules, traffic)| Subject::new(*name, move || engine(traffic, handshakes, rules, 1))).collect(),
        }
        .run()?;
    }
    Ok(())
}
