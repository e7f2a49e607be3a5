//! Would somebody be locked out? Packets of connections that must live, through the rules
//! to come.

use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::{Result, anyhow};
use tidegate_engine::conntrack::snapshot::{Snapshot, Writer};
use tidegate_engine::conntrack::{Time, Zone};
use tidegate_engine::env::{Env, IfIndex};
use tidegate_engine::{Config, Disposition, DropKind, DropReason, Engine, Incoming, Output};
use tidegate_host::number;
use tidegate_ir::{RuleId, TableKind};
use tidegate_sets::Sets;
use tidegate_syntax::{RuleOrigin, Ruleset, Sockets, lower_knowing};
use tidegate_wire::{Family, tcp::flags};
use tidegate_xt::sets::all;

use crate::sets;

use super::packets::{DATA, Segment, ends, ends_of, tuple};
use super::remedy::Remedy;
use super::session::Session;
use super::witness::Witness;

/// Port that a fresh connection comes from.
const FRESH_PORT: u16 = 61_000;
/// First sequence numbers of client and server.
const FIRST: [u32; 2] = [1_000, 50_000];

/// Why a connection must live.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Somebody gives the order over it.
    Session {
        /// Connection tracking knows it.
        known: bool,
    },
    /// One like it, opened again.
    Fresh,
    /// From an address that the configuration names.
    Manage,
}

/// A packet of a connection: whether the client sends it, and its flags.
type Step = (bool, u8);

const IN_THE_MIDDLE: &[Step] = &[(true, DATA), (false, DATA)];
const FROM_THE_START: &[Step] = &[
    (true, flags::SYN),
    (false, flags::SYN | flags::ACK),
    (true, flags::ACK),
    (true, DATA),
    (false, DATA),
];

/// A connection that must live.
#[derive(Clone, Copy, Debug)]
pub(super) struct Wanted {
    pub(super) kind: Kind,
    /// The client, and the server as the client addresses it.
    pub(super) client: SocketAddr,
    pub(super) server: SocketAddr,
}

/// What the rules to come run in: surroundings, settings and connections as they are.
#[derive(Clone, Debug)]
pub(super) struct Ground {
    pub(super) settings: Config,
    pub(super) env: Arc<Env>,
    pub(super) now: Time,
    /// The sessions' connections.
    snapshot: Vec<u8>,
    /// What rules may look into.
    sets: Sets,
}

impl Ground {
    /// Takes it down between two packets, with what must live: the sessions, fresh
    /// connections like them, and those from `manage`, addresses with ports of this host.
    pub(super) fn take(
        engine: &Engine,
        now: Time,
        sessions: &[Session],
        manage: &[(std::net::IpAddr, u16)],
    ) -> (Self, Vec<Wanted>) {
        let mut snapshot = Vec::new();
        let mut writer = Writer::new(now, now, &mut snapshot);
        let mut wanted = Vec::new();
        let ct = engine.conntrack();
        for session in sessions {
            // The socket has the addresses after translation: the server's packets find
            // the connection.
            let found = ct.find(&tuple(session.server, session.client), Zone::default());
            let entry = found.and_then(|(id, dir)| Some((id, dir, ct.entry(id)?)));
            let (mut client, mut server) = (session.client, session.server);
            if let Some((id, dir, entry)) = entry {
                writer.add(ct, id, &mut snapshot);
                (client, server) = ends_of(entry.tuple(dir.other()));
            }
            let known = entry.is_some();
            wanted.push(Wanted {
                kind: Kind::Session { known },
                client,
                server,
            });
            wanted.push(Wanted {
                kind: Kind::Fresh,
                client: SocketAddr::new(client.ip(), FRESH_PORT),
                server,
            });
        }
        writer.end(&mut snapshot);
        for &(from, port) in manage {
            if let Some(to) = address_towards(engine.env(), from) {
                wanted.push(Wanted {
                    kind: Kind::Manage,
                    client: SocketAddr::new(from, FRESH_PORT),
                    server: SocketAddr::new(to, port),
                });
            }
        }
        let ground = Ground {
            settings: Config {
                conntrack: ct.config().clone(),
                ..Config::default()
            },
            env: engine.env().clone(),
            now,
            snapshot,
            sets: sets::copy(engine),
        };
        (ground, wanted)
    }

    /// The same, with connections tracked when `track` says.
    pub(super) fn tracking(mut self, track: tidegate_engine::TrackWhen) -> Self {
        self.settings.track = track;
        self
    }
}

/// The address of this host that somebody at `from` talks to.
fn address_towards(env: &Env, from: std::net::IpAddr) -> Option<std::net::IpAddr> {
    let (family, addr) = number(from);
    if env.is_local(family, addr) {
        return Some(from);
    }
    let dev = env.route(family, addr, 0, 0)?.dev?;
    let own = env.select_address(family, dev, addr)?;
    Some(tidegate_host::address(family, own))
}

/// Rules made ready for trying.
pub(super) struct Candidate {
    family: Family,
    pub(super) lowered: Arc<tidegate_ir::Ruleset>,
    origin: Vec<RuleOrigin>,
}

impl Candidate {
    pub(super) fn new(source: &Ruleset) -> Result<Self> {
        let lowered =
            lower_knowing(source, Sockets::All).map_err(|f| anyhow!(f.render("tidegate", None)))?;
        Ok(Candidate {
            family: source.family,
            lowered: Arc::new(lowered.ruleset),
            origin: lowered.origin,
        })
    }
}

/// Why a connection would not live.
#[derive(Clone, Debug)]
pub(super) struct Stopped {
    pub(super) wanted: Wanted,
    /// Whether the packet that is stopped comes from the client.
    pub(super) from_client: bool,
    /// DROPPED, REJECTED, or what else.
    pub(super) verdict: &'static str,
    /// What stops it.
    pub(super) by: String,
    /// A rule in its way that would let it pass.
    pub(super) remedy: Option<Remedy>,
}

/// Tries what must live; returns what would not, with remedies of which it is known that
/// all of them together help.
pub(super) fn check(
    ground: &Ground,
    rules: &[Ruleset; 2],
    wanted: &[Wanted],
) -> Result<Vec<Stopped>> {
    let mut stopped = try_all(ground, rules, wanted)?;
    let mut mended = rules.clone();
    let mut offered: Vec<Remedy> = Vec::new();
    let mut ill = stopped.clone();
    // A packet may be stopped once in every table, and so may the answer.
    for _ in 0..12 {
        let remedies: Vec<Remedy> = ill.iter().filter_map(|s| s.remedy.clone()).collect();
        let Some(next) = remedies.into_iter().find(|r| !offered.contains(r)) else {
            break;
        };
        if !next.add_to(&mut mended) {
            break;
        }
        offered.push(next);
        ill = try_all(ground, &mended, wanted)?;
        if ill.is_empty() {
            break;
        }
    }
    if !ill.is_empty() {
        offered.clear();
    }
    for s in &mut stopped {
        s.remedy = s.remedy.take().filter(|r| offered.contains(r));
    }
    // What came up only behind the first remedy goes with the first who needs it.
    for remedy in offered {
        if !stopped.iter().any(|s| s.remedy.as_ref() == Some(&remedy))
            && let Some(first) = stopped.iter_mut().find(|s| s.remedy.is_some())
            && let Some(r) = &mut first.remedy
        {
            r.also.push(remedy);
        }
    }
    Ok(stopped)
}

pub(super) fn try_all(
    ground: &Ground,
    rules: &[Ruleset; 2],
    wanted: &[Wanted],
) -> Result<Vec<Stopped>> {
    let [v4, v6] = rules;
    let candidates = [Candidate::new(v4)?, Candidate::new(v6)?];
    let tried = wanted.iter().filter_map(|w| w.stopped(ground, &candidates));
    Ok(tried.collect())
}

impl Wanted {
    /// What stops the connection, if anything does.
    fn stopped(&self, ground: &Ground, candidates: &[Candidate; 2]) -> Option<Stopped> {
        let mut engine = Engine::new(ground.settings.clone(), ground.env.clone());
        if let Some(sets) = all(engine.shared_mut()) {
            *sets = ground.sets.clone();
        }
        for candidate in candidates {
            engine.load(candidate.lowered.clone());
        }
        let session = matches!(self.kind, Kind::Session { .. });
        if let Some(snapshot) = Snapshot::open(&ground.snapshot).ok().filter(|_| session) {
            engine.restore(ground.now, ground.now, &snapshot);
        }
        let dev = self.arrives_at(&ground.env);
        let steps = if session {
            IN_THE_MIDDLE
        } else {
            FROM_THE_START
        };
        let mut seq = FIRST;
        // As the client has them, then as the server's socket has them.
        let mut ends = [(self.client, self.server); 2];
        for &(from_client, flags) in steps {
            let (me, peer) = if from_client { (0, 1) } else { (1, 0) };
            let (client, server) = ends[me];
            let (from, to) = if from_client {
                (client, server)
            } else {
                (server, client)
            };
            let acked = flags & flags::ACK != 0;
            let segment = Segment {
                from,
                to,
                flags,
                seq: seq[me],
                ack: if acked { seq[peer] } else { 0 },
            };
            seq[me] += u32::from(flags & (flags::SYN | flags::PSH) != 0);
            let (bytes, mut witness) = (segment.bytes(), Witness::default());
            let outcome = match dev.filter(|_| from_client) {
                Some(dev) => engine.receive(ground.now, Incoming::on(dev), bytes, &mut witness),
                None => engine.send(ground.now, bytes, 0, &mut witness),
            };
            let arrived = match outcome.disposition {
                Disposition::Delivered => true,
                Disposition::Sent => !from_client && dev.is_some(),
                Disposition::Dropped(_) | Disposition::Held | Disposition::Queued => false,
            };
            if !arrived {
                let of = &candidates[usize::from(self.client.is_ipv6())];
                return Some(self.describe(from_client, outcome.disposition, &witness, of));
            }
            if from_client {
                ends[1] = delivered(&outcome.outputs).unwrap_or(ends[1]);
            }
        }
        None
    }

    /// The interface that the client's packets come in by; `None` for a client on this host.
    pub(super) fn arrives_at(&self, env: &Env) -> Option<IfIndex> {
        let (family, client) = number(self.client.ip());
        let (_, server) = number(self.server.ip());
        if env.is_local(family, client) {
            return None;
        }
        let routed = env.route(family, client, server, 0).and_then(|r| r.dev);
        // Link-local addresses are on every link: the one with the server's address.
        let has =
            |i: &&tidegate_engine::env::Interface| i.addresses.iter().any(|a| a.addr == server);
        routed.or_else(|| env.interfaces().iter().find(has).map(|i| i.index))
    }

    fn describe(
        &self,
        from_client: bool,
        disposition: Disposition,
        witness: &Witness,
        candidate: &Candidate,
    ) -> Stopped {
        let rule = rule_of(&disposition).and_then(|id| candidate.origin.get(id.0 as usize));
        let verdict = match disposition {
            Disposition::Dropped(DropReason::Reject(_)) => "REJECTED",
            Disposition::Dropped(_) | Disposition::Held | Disposition::Queued => "DROPPED",
            Disposition::Sent | Disposition::Delivered => "SENT ELSEWHERE",
        };
        let by = match (rule, disposition) {
            (Some(origin), _) => by_rule(origin, witness.examined),
            (None, Disposition::Dropped(reason)) => {
                format!("because: {}", DropKind::from(&reason).what())
            }
            (None, _) => "because it is translated or routed to another host".to_owned(),
        };
        let remedy = rule.and_then(|_| remedy(from_client, witness, candidate.family));
        Stopped {
            wanted: *self,
            from_client,
            verdict,
            by,
            remedy,
        }
    }
}

/// A rule that would have let the packet pass where it was stopped. Nothing is dropped in
/// table nat.
fn remedy(from_client: bool, witness: &Witness, family: Family) -> Option<Remedy> {
    let (table, hook) = witness.table.filter(|t| t.0 != TableKind::Nat)?;
    let (from, to) = ends(&witness.bytes)?;
    // Where the policy decides, behind all rules.
    let at = witness.base_at.filter(|_| !witness.at_policy);
    Some(Remedy {
        family,
        table,
        chain: hook.chain_name(),
        before: at.map(|at| at + 1),
        spec: if from_client {
            format!(
                "-s {} -p tcp -m tcp --dport {} -j ACCEPT",
                host(from),
                to.port()
            )
        } else {
            format!(
                "-d {} -p tcp -m tcp --sport {} -j ACCEPT",
                host(to),
                from.port()
            )
        },
        also: Vec::new(),
    })
}

/// An address as rules name one host.
fn host(end: SocketAddr) -> String {
    format!("{}/{}", end.ip(), if end.is_ipv4() { 32 } else { 128 })
}

fn delivered(outputs: &[Output]) -> Option<(SocketAddr, SocketAddr)> {
    outputs.iter().find_map(|o| match o {
        Output::Deliver { bytes, .. } => ends(bytes),
        Output::Transmit { .. } | Output::Log { .. } | Output::Nflog(_) => None,
    })
}

const fn rule_of(disposition: &Disposition) -> Option<RuleId> {
    match disposition {
        Disposition::Dropped(
            DropReason::Rule(id)
            | DropReason::Reject(id)
            | DropReason::Policy(id)
            | DropReason::Hotdrop(id)
            | DropReason::Target(id),
        ) => Some(*id),
        _ => None,
    }
}

fn by_rule(origin: &RuleOrigin, examined: u32) -> String {
    let table = match origin.table {
        TableKind::Filter => String::new(),
        other => format!(" in table {}", other.name()),
    };
    let chain = &origin.chain;
    match origin.number {
        0 => format!("by the {chain} policy{table} (no rule matched; {examined} examined)"),
        n => format!("by rule {n} of {chain}{table} (`{}`)", origin.text),
    }
}

/// The family's place in pairs.
pub(super) const fn index(family: Family) -> usize {
    match family {
        Family::V4 => 0,
        Family::V6 => 1,
    }
}
