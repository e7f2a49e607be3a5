//! `tidegate explain --offload`: whether programs in the kernel answer for a connection's
//! packets, and why not.

use std::fmt::Write;
use std::net::SocketAddr;

use serde::Serialize;
use tidegate_engine::conntrack::elsewhere::Unsettled;
use tidegate_engine::conntrack::{Dir, EntryId, Tuple};
use tidegate_engine::{Engine, Goes, Unplanned, Withheld};
use tidegate_host::address;
use tidegate_wire::proto;

use crate::connection::Which;

/// What the datapath says about itself.
#[derive(Clone, Debug)]
pub(crate) struct Place {
    /// There are programs.
    pub(crate) programs: bool,
    /// Names of guarded interfaces.
    pub(crate) guarded: Vec<String>,
    /// Most connections that programs have at a time.
    pub(crate) most: u32,
}

/// How many connections programs have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Offloaded {
    /// At the moment.
    pub(crate) connections: usize,
    /// At most.
    pub(crate) most: u32,
}

/// The answer.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Answer {
    /// The packet that was asked about.
    flow: String,
    /// Both directions of its connection; none when there is no such connection.
    directions: Vec<Direction>,
    /// Why nothing can be said.
    reason: Option<Reason>,
}

#[derive(Debug, PartialEq, Eq, Serialize)]
struct Direction {
    direction: &'static str,
    flow: String,
    offloaded: bool,
    reason: Option<Reason>,
}

/// A word for programs, and a sentence.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
struct Reason {
    code: &'static str,
    text: String,
}

impl Reason {
    fn new(code: &'static str, text: impl Into<String>) -> Self {
        let text = text.into();
        Reason { code, text }
    }
}

/// Looks at a connection.
pub(crate) fn explain(engine: &Engine, which: Which, place: &Place) -> Answer {
    let asked = match which {
        Which::Id(number) => format!("connection {number}"),
        Which::Ends(ends) => words_of(&ends.tuple()),
    };
    let Some(id) = which.find(engine.conntrack()) else {
        let text = "no such connection is tracked (tidegate ct list)";
        return Answer {
            flow: asked,
            directions: Vec::new(),
            reason: Some(Reason::new("no-connection", text)),
        };
    };
    let entry = engine.conntrack().entry(id);
    let direction = |dir: Dir| {
        let reason = why_not(engine, id, dir, place);
        Direction {
            direction: match dir {
                Dir::Original => "original",
                Dir::Reply => "reply",
            },
            flow: entry.map_or_else(String::new, |e| words_of(e.tuple(dir))),
            offloaded: reason.is_none(),
            reason,
        }
    };
    Answer {
        flow: asked,
        directions: Dir::BOTH.map(direction).into(),
        reason: None,
    }
}

fn why_not(engine: &Engine, id: EntryId, dir: Dir, place: &Place) -> Option<Reason> {
    if !place.programs {
        let text = "there are no programs: it takes the datapath \"ebpf\" (tidegate status)";
        return Some(Reason::new("no-programs", text));
    }
    let offer = match engine.offer_of(id, dir) {
        Ok(offer) => offer,
        Err(why) => return Some(withheld(why)),
    };
    let out = match offer.goes {
        Goes::Out { dev, .. } => dev,
        Goes::Local | Goes::AsSent => offer.comes.dev(),
    };
    for dev in [offer.comes.dev(), out] {
        let interface = engine.env().interfaces().iter().find(|i| i.index == dev);
        let name = interface.map_or("", |i| i.name.as_str());
        if !place.guarded.iter().any(|g| g == name) {
            let text = format!("interface {name} is not guarded");
            return Some(Reason::new("unguarded", text));
        }
    }
    if engine.conntrack().is_elsewhere(id) {
        return None;
    }
    if engine.conntrack().elsewhere() >= place.most as usize {
        let text = format!(
            "the kernel's table is full: {} connections (offloaded, in the configuration)",
            place.most
        );
        return Some(Reason::new("full", text));
    }
    let text = "it can be: its next packets hand it over, when there is a place and none of them \
                is on its way through the daemon";
    Some(Reason::new("ready", text))
}

fn withheld(why: Withheld) -> Reason {
    match why {
        Withheld::Connection(why) => connection(why),
        Withheld::Unplanned(why) => unplanned(why),
        Withheld::Raw => Reason::new(
            "raw",
            "there are rules in table raw, which sees every packet",
        ),
        Withheld::Residue(field) => Reason::new(
            "field",
            format!(
                "a rule that its packets meet looks at {}, which differs from packet to packet",
                field.row().name
            ),
        ),
        Withheld::Marked => Reason::new(
            "mark",
            "its packets bear a mark when they reach this host's own sockets",
        ),
        Withheld::NoWay => Reason::new(
            "no-way",
            "its packets are neither forwarded nor for an address of this host",
        ),
    }
}

fn connection(why: Unsettled) -> Reason {
    let (code, text) = match why {
        Unsettled::Gone => ("gone", "its connection is no more"),
        Unsettled::Protocol => ("protocol", "only TCP and UDP can be left to the kernel"),
        Unsettled::Ending => ("ending", "its connection is about to end"),
        Unsettled::Helper => ("helper", "a helper reads its connection"),
        Unsettled::Proxied => ("synproxy", "SYNPROXY has opened its connection"),
        Unsettled::Adjusted => (
            "adjusted",
            "sequence numbers of its connection are adjusted",
        ),
        Unsettled::Zone => ("zone", "its connection is in a zone"),
        Unsettled::Unanswered => ("unanswered", "nothing has come back"),
        Unsettled::Handshake => ("handshake", "its TCP connection is opening or closing"),
        Unsettled::Young => (
            "young",
            "its connection is not assured: for UDP, answers beyond two seconds",
        ),
    };
    Reason::new(code, text)
}

fn unplanned(why: Unplanned) -> Reason {
    let (code, text) = match why {
        Unplanned::Unseen => (
            "unseen",
            "no whole packet has come since rules, routes or addresses last changed",
        ),
        Unplanned::Stateful => (
            "stateful",
            "a rule that its packets meet keeps state (limit, recent, quota, a set and so on)",
        ),
        Unplanned::Changing(field) => {
            let name = field.row().name;
            let text = format!("a rule that its packets meet looks at {name}");
            return Reason::new("field", text);
        }
        Unplanned::Effect => (
            "effect",
            "a rule does something with each of its packets (LOG, TOS, CONNMARK and so on)",
        ),
        Unplanned::Dropped => ("dropped", "rules drop its packets"),
        Unplanned::Many => ("many", "its packets meet too many rules or tests"),
        Unplanned::Watched => ("watched", "its packets are traced, or rules are on stage"),
        Unplanned::Rerouted => ("rerouted", "its packets are routed a second time"),
    };
    Reason::new(code, text)
}

/// As `tidegate explain` reads it.
fn words_of(tuple: &Tuple) -> String {
    let protocol = match tuple.proto {
        proto::TCP => "tcp".to_owned(),
        proto::UDP => "udp".to_owned(),
        other => other.to_string(),
    };
    let end = |addr, port| SocketAddr::new(address(tuple.family, addr), port);
    let (src, dst) = (tuple.src, tuple.dst);
    let (src, dst) = (end(src, tuple.src_id), end(dst, tuple.dst_id));
    format!("{protocol} {src} > {dst}")
}

impl Answer {
    /// For people.
    pub(crate) fn text(&self) -> String {
        let mut text = String::new();
        if let Some(reason) = &self.reason {
            let _ = writeln!(text, "{}\n  comes up: {}", self.flow, reason.text);
        }
        for side in &self.directions {
            let _ = match &side.reason {
                None => writeln!(text, "{}\n  left to the kernel", side.flow),
                Some(why) => writeln!(text, "{}\n  comes up: {}", side.flow, why.text),
            };
        }
        text
    }
}

#[cfg(test)]
mod tests;
