//! One tracked connection: which is meant, and what the running firewall knows of it.

use std::net::IpAddr;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};
use tidegate_engine::Engine;
use tidegate_engine::conntrack::snapshot::Writer;
use tidegate_engine::conntrack::{Conntrack, EntryId, Time, Tuple, Zone};
use tidegate_host::number;

use crate::plane::Plane;
use crate::rules::LiveRules;
pub use crate::rules::{Named, PassedBy};

/// Which connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Which {
    /// The one that listings give this number (`conntrack -L -o id`).
    Id(u32),
    /// The one whose packets, of either direction, have these ends.
    Ends(Ends),
}

/// Both ends of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ends {
    /// Protocol number.
    pub proto: u8,
    /// Sender.
    pub src: IpAddr,
    /// Receiver.
    pub dst: IpAddr,
    /// The sender's port, or what stands for it ([`Tuple::src_id`]).
    pub src_id: u16,
    /// The receiver's ([`Tuple::dst_id`]).
    pub dst_id: u16,
    /// Zone.
    pub zone: u16,
}

impl Which {
    /// Finds it.
    #[must_use]
    pub fn find(&self, ct: &Conntrack) -> Option<EntryId> {
        match self {
            Which::Id(number) => ct.by_number(*number),
            Which::Ends(ends) => {
                let found = ct.find(&ends.tuple(), Zone::both(ends.zone));
                found.map(|(id, _)| id)
            }
        }
    }
}

impl Ends {
    /// As the tracker knows them.
    pub(crate) fn tuple(&self) -> Tuple {
        let ((family, src), (_, dst)) = (number(self.src), number(self.dst));
        Tuple {
            src,
            dst,
            src_id: self.src_id,
            dst_id: self.dst_id,
            family,
            proto: self.proto,
        }
    }
}

/// What is known of a connection.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Connection {
    /// Its number in listings.
    pub id: u32,
    /// When it was looked at, in nanoseconds since 1970.
    pub now: Time,
    /// When it began, likewise, if that is known.
    pub since: Option<Time>,
    /// Whether that is exact (`nf_conntrack_timestamp`) and not the minute alone.
    pub exact: bool,
    /// What its first packet passed, in its order; `None` where nobody knows.
    pub passed: Option<Vec<PassedBy>>,
    /// The connection by itself, as [`tidegate_engine::conntrack::snapshot`] writes it.
    pub snapshot: Vec<u8>,
}

impl Connection {
    /// Takes it down as it is in `engine` at `now`, without what its first packet passed;
    /// `None` when there is none.
    #[must_use]
    pub fn take(engine: &Engine, now: Time, id: EntryId) -> Option<Self> {
        let ct = engine.conntrack();
        let entry = ct.entry(id)?;
        let mut snapshot = Vec::new();
        let mut writer = Writer::new(now, now, &mut snapshot);
        writer.add(ct, id, &mut snapshot);
        writer.end(&mut snapshot);
        Some(Connection {
            id: id.number(),
            now,
            since: entry.start(),
            exact: entry.start().is_some(),
            passed: None,
            snapshot,
        })
    }
}

/// What the running firewall knows of a connection.
///
/// # Errors
/// There is none; the datapath has stopped.
pub(crate) fn look(which: Which, plane: &dyn Plane, rules: &LiveRules) -> Result<Connection> {
    // The numbers of rules mean these rules.
    let rules = rules.unchanging();
    let found = plane.with(move |engine, now| {
        let id = which.find(engine.conntrack())?;
        let connection = Connection::take(engine, now, id)?;
        let family = engine.conntrack().entry(id)?.tuples[0].family;
        Some((connection, family, engine.origin(id, now)))
    })?;
    let (mut connection, family, origin) = found.context("no such connection is tracked")?;
    if let Some(origin) = origin {
        connection.since = connection.since.or(Some(origin.minute));
        connection.passed = Some(rules.passed(family, &origin.passages));
    }
    Ok(connection)
}
