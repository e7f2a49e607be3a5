//! What a change of rules leaves behind: connections that tracking does not know and new
//! rules cut, and those that follow a translation which new rules do not make.

use std::collections::HashMap;
use std::fmt::Write;
use std::net::SocketAddr;

use anyhow::Result;
use tidegate_engine::conntrack::entry::Status;
use tidegate_engine::conntrack::{Dir, Zone};
use tidegate_engine::env::IfIndex;
use tidegate_engine::{Engine, Incoming};
use tidegate_syntax::Ruleset;
use tidegate_wire::proto;

use super::check::{Candidate, Ground, Kind, Wanted, try_all};
use super::packets::{ends, ends_of, first, tuple};
use super::witness::Witness;
use crate::sockets::Socket;

/// Unknown connections, and translations, that are tried.
const MOST: usize = 64;
/// Commands that are printed for one finding.
const TOLD: usize = 8;
/// Connections that are looked at for translations: a few milliseconds between two packets.
const LOOKED_AT: usize = 100_000;

/// Connections as they are when an order comes.
pub(super) struct Left {
    /// Accepted TCP connections that tracking does not know.
    unknown: Vec<Wanted>,
    translated: Vec<Translated>,
}

/// Connections with the same translated destination.
#[derive(Clone, Copy, Debug)]
struct Translated {
    proto: u8,
    /// One of their clients, the destination it asks for, and the one it gets.
    client: SocketAddr,
    asked: SocketAddr,
    gets: SocketAddr,
    count: usize,
}

impl Left {
    /// Looks between two packets.
    pub(super) fn take(engine: &Engine, sockets: &[Socket]) -> Self {
        let ct = engine.conntrack();
        let unknown = sockets
            .iter()
            .filter(|s| {
                ct.find(&tuple(s.local, s.remote), Zone::default())
                    .is_none()
            })
            .map(|s| Wanted {
                kind: Kind::Session { known: false },
                client: s.remote,
                server: s.local,
            });
        let mut by_target: HashMap<(u8, SocketAddr, SocketAddr), Translated> = HashMap::new();
        for (_, entry) in ct.iter().take(LOOKED_AT) {
            let original = entry.tuple(Dir::Original);
            let ported = matches!(original.proto, proto::TCP | proto::UDP);
            if !ported || !entry.status.has(Status::DST_NAT) {
                continue;
            }
            let (client, asked) = ends_of(original);
            let (gets, _) = ends_of(entry.tuple(Dir::Reply));
            let same = by_target.entry((original.proto, asked, gets));
            let same = same.or_insert(Translated {
                proto: original.proto,
                client,
                asked,
                gets,
                count: 0,
            });
            same.count += 1;
        }
        let mut translated: Vec<_> = by_target.into_values().collect();
        translated.sort_by_key(|t| (std::cmp::Reverse(t.count), t.asked, t.gets));
        translated.truncate(MOST);
        Left {
            unknown: unknown.take(MOST).collect(),
            translated,
        }
    }

    /// What is to be said about them under the rules to come.
    pub(super) fn notes(&self, ground: &Ground, rules: &[Ruleset; 2]) -> Result<Vec<String>> {
        let mut notes = Vec::new();
        let cut = try_all(ground, rules, &self.unknown)?;
        if let Some(example) = cut.first() {
            let mut text = format!(
                "TG002 {} TCP connections of this host are unknown to connection tracking: their next \
                 packets are NEW. {} would be cut, as {} \u{2192} {}: {} {}.\nDo: ",
                self.unknown.len(),
                cut.len(),
                example.wanted.client,
                example.wanted.server,
                example.verdict,
                example.by
            );
            let known = cut
                .iter()
                .map(|s| made_known(s.wanted.client, s.wanted.server));
            text += &known.take(TOLD).collect::<Vec<_>>().join(" && ");
            if cut.len() > TOLD {
                let _ = write!(text, "\nand {} more", cut.len() - TOLD);
            }
            notes.push(text);
        }
        let [v4, v6] = rules;
        let candidates = [Candidate::new(v4)?, Candidate::new(v6)?];
        let stale = self
            .translated
            .iter()
            .filter(|t| t.is_stale(ground, &candidates));
        notes.extend(stale.take(TOLD).map(Translated::note));
        Ok(notes)
    }
}

/// The command that makes a connection known.
fn made_known(client: SocketAddr, server: SocketAddr) -> String {
    let family = if client.is_ipv6() { " -f ipv6" } else { "" };
    format!(
        "conntrack -I{family} -p tcp -s {} -d {} --sport {} --dport {} --state ESTABLISHED -t 600 \
         -u SEEN_REPLY,ASSURED",
        client.ip(),
        server.ip(),
        client.port(),
        server.port()
    )
}

impl Translated {
    /// Whether the rules would send such a connection elsewhere.
    fn is_stale(&self, ground: &Ground, candidates: &[Candidate; 2]) -> bool {
        let mut engine = Engine::new(ground.settings.clone(), ground.env.clone());
        for candidate in candidates {
            engine.load(candidate.lowered.clone());
        }
        let opened = Wanted {
            kind: Kind::Fresh,
            client: self.client,
            server: self.asked,
        };
        let mut witness = Witness::default();
        let bytes = first(self.proto, self.client, self.asked);
        let (family, client) = tidegate_host::number(self.client.ip());
        match (
            opened.arrives_at(&ground.env),
            ground.env.is_local(family, client),
        ) {
            (_, true) => engine.send(ground.now, bytes, 0, &mut witness),
            (dev, false) => {
                let outside = || ground.env.interfaces().iter().find(|i| !i.loopback);
                let dev = dev.or_else(|| outside().map(|i| i.index));
                let dev = dev.unwrap_or(IfIndex(1));
                engine.receive(ground.now, Incoming::on(dev), bytes, &mut witness)
            }
        };
        ends(&witness.bytes).is_some_and(|(_, to)| to != self.gets)
    }

    fn note(&self) -> String {
        let name = if self.proto == proto::TCP {
            "tcp"
        } else {
            "udp"
        };
        let family = if self.asked.is_ipv6() { " -f ipv6" } else { "" };
        let (asked, gets) = (self.asked, self.gets);
        format!(
            "TG060 {} {name} connections to {asked} stay translated to {gets}, where the new rules do not send \
             them, for as long as they are in use.\n\
             Do: conntrack -D{family} -p {name} --orig-dst {} --orig-port-dst {} --reply-src {} --reply-port-src {}",
            self.count,
            asked.ip(),
            asked.port(),
            gets.ip(),
            gets.port()
        )
    }
}
