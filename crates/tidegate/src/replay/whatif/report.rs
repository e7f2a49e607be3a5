//! What a comparison of two rulesets on captured packets says.

use std::fmt::Write;

use anyhow::Result;
use serde::Serialize;

use super::{Both, Change, Group, MOST_CONNECTIONS};

/// The answer.
#[derive(Debug, Serialize)]
pub(super) struct Report {
    packets: u64,
    bytes: u64,
    connections: usize,
    /// There were more connections than are told apart.
    connections_incomplete: bool,
    /// Connections, packets and bytes that would be treated otherwise.
    otherwise: Sum,
    changes: Vec<Line>,
}

#[derive(Debug, Default, Serialize)]
struct Sum {
    connections: u64,
    packets: u64,
    bytes: u64,
}

/// What has one cause.
#[derive(Debug, Serialize)]
struct Line {
    change: &'static str,
    #[serde(flatten)]
    sum: Sum,
    old_rule: Option<Place>,
    new_rule: Option<Place>,
    first: Example,
}

/// A rule.
#[derive(Debug, Serialize)]
struct Place {
    table: &'static str,
    chain: String,
    /// 0 for the policy.
    number: u32,
    text: String,
}

/// The first packet of a cause.
#[derive(Debug, Serialize)]
struct Example {
    packet: u64,
    seconds: f64,
    text: String,
}

impl Change {
    const fn text(self) -> &'static str {
        match self {
            Change::Dropped => "would be DROPPED",
            Change::Rejected => "would be REJECTED",
            Change::Allowed => "would be ALLOWED",
            Change::Stopped => "would be stopped otherwise",
            Change::Translated => "would leave with other addresses or ports, or elsewhere",
        }
    }

    const fn name(self) -> &'static str {
        match self {
            Change::Dropped => "dropped",
            Change::Rejected => "rejected",
            Change::Allowed => "allowed",
            Change::Stopped => "stopped-otherwise",
            Change::Translated => "translated",
        }
    }

    fn by_name(name: &str) -> &'static str {
        let all = [
            Change::Dropped,
            Change::Rejected,
            Change::Allowed,
            Change::Stopped,
            Change::Translated,
        ];
        all.into_iter()
            .find(|c| c.name() == name)
            .map_or("", Change::text)
    }
}

impl Report {
    pub(super) fn new(both: &Both) -> Self {
        let found = &both.found;
        let mut groups: Vec<&Group> = found.groups.iter().collect();
        groups.sort_by_key(|g| (std::cmp::Reverse((g.connections, g.packets)), g.first.0));
        let mut otherwise = Sum::default();
        for g in &groups {
            otherwise.connections += g.connections;
            otherwise.packets += g.packets;
            otherwise.bytes += g.bytes;
        }
        Report {
            packets: found.packets,
            bytes: found.bytes,
            connections: found.connections.len(),
            connections_incomplete: found.more,
            otherwise,
            changes: groups.into_iter().map(|g| Line::new(both, g)).collect(),
        }
    }

    pub(super) fn json(&self) -> Result<String> {
        Ok(serde_json::to_string_pretty(self)?)
    }

    pub(super) fn text(&self) -> String {
        let mut text = String::new();
        let more = match self.connections_incomplete {
            true => format!(" (only {MOST_CONNECTIONS} are told apart)"),
            false => String::new(),
        };
        let _ = writeln!(
            text,
            "{} of {} connections{more} would be treated otherwise: {} of {} packets, {} of {} bytes",
            self.otherwise.connections,
            self.connections,
            self.otherwise.packets,
            self.packets,
            self.otherwise.bytes,
            self.bytes
        );
        for line in &self.changes {
            let _ = write!(text, "\n{}", line.text());
        }
        text
    }
}

impl Line {
    fn new(both: &Both, group: &Group) -> Self {
        let (change, family, old, new) = group.cause;
        let place = |session: &super::Session, id: Option<super::RuleId>| {
            let origin = session.rules.origin(family, id?)?;
            Some(Place {
                table: origin.table.name(),
                chain: origin.chain.clone(),
                number: origin.number,
                text: origin.text.clone(),
            })
        };
        let (packet, since, brief) = group.first;
        Line {
            change: change.name(),
            sum: Sum {
                connections: group.connections,
                packets: group.packets,
                bytes: group.bytes,
            },
            old_rule: place(&both.old, old),
            new_rule: place(&both.new, new),
            first: Example {
                packet,
                seconds: since as f64 / 1e9,
                text: brief.map_or_else(|| "unreadable".to_owned(), |b| b.to_string()),
            },
        }
    }

    fn text(&self) -> String {
        let mut text = format!(
            "{} connections, {} packets, {} bytes {}\n",
            self.sum.connections,
            self.sum.packets,
            self.sum.bytes,
            Change::by_name(self.change)
        );
        for (name, place) in [("new", &self.new_rule), ("old", &self.old_rule)] {
            let _ = match place {
                Some(p) => writeln!(
                    text,
                    "  {name}    {} {} {}  {}",
                    p.table, p.chain, p.number, p.text
                ),
                None => writeln!(text, "  {name}    no rule decides"),
            };
        }
        let first = &self.first;
        let _ = writeln!(
            text,
            "  first  packet {} at {:.6} s: {}",
            first.packet, first.seconds, first.text
        );
        text
    }
}
