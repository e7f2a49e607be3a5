//! Connections that outlive the process: writing the table in pieces, reading it back.
//!
//! # Format, version 1
//!
//! Numbers are little-endian, addresses in network order. The file is a header, records,
//! and an end record, after which nothing follows.
//!
//! | header | bytes | |
//! |---|---|---|
//! | magic | 8 | `TGCONNS\n` |
//! | version | 4 | 1 |
//! | written | 8 | nanoseconds since 1970 |
//! | reserved | 8 | 0 |
//! | checksum | 4 | CRC-32C of the 28 bytes before |
//!
//! | record | bytes | |
//! |---|---|---|
//! | kind | 1 | 1 connection, 2 expectation, 3 end; of the connection before it: 4 timeout policy, 5 SYN proxy, 6 what its helper remembers, 7 older corrections of sequence numbers |
//! | length | 2 | of the body |
//! | body | | see `record.rs`, `helped.rs` and `older.rs`; a policy's is its name, a SYN proxy's the three numbers of [`Proxied`](crate::synproxy::Proxied), 4 bytes each, the end's is the number of connections and of expectations, 4 bytes each |
//! | checksum | 4 | CRC-32C of kind, length and body |
//!
//! Times are differences to the moment of writing, so that they mean something to another
//! clock. A file is read as a whole before anything is restored: what is damaged anywhere
//! restores nothing ([`Damage`]).

mod bytes;
mod helped;
mod older;
mod record;
mod restore;

use alloc::collections::BTreeSet;
use alloc::vec::Vec;
use core::fmt;

use crate::tuple::Dir;
use crate::{Conntrack, EntryId, Time};
use bytes::{In, put};
use helped::Memory;
use record::Stored;
pub use restore::Restored;
pub(crate) use restore::relearnt;
use tidegate_wire::crc32c;

const MAGIC: &[u8; 8] = b"TGCONNS\n";
const VERSION: u32 = 1;
const HEADER: usize = 32;

const CONNECTION: u8 = 1;
const EXPECTATION: u8 = 2;
const END: u8 = 3;
const POLICY: u8 = 4;
const PROXIED: u8 = 5;
const HELPED: u8 = 6;
const OLDER: u8 = 7;

/// Writes a table in pieces, between which packets may pass: every entry is written whole,
/// as it was in its piece; one that comes or goes meanwhile may be in or not.
#[derive(Debug)]
pub struct Writer {
    /// The moment that times are relative to.
    base: Time,
    /// The next place in the table.
    next: u32,
    connections: u32,
    expectations: u32,
    done: bool,
}

impl Writer {
    /// Begins a snapshot at `now`, which is `wall` nanoseconds after 1970, with a header in
    /// `out`.
    #[must_use]
    pub fn new(now: Time, wall: u64, out: &mut Vec<u8>) -> Writer {
        let start = out.len();
        out.extend_from_slice(MAGIC);
        put::u32(out, VERSION);
        put::u64(out, wall);
        put::u64(out, 0);
        let check = crc32c::checksum(&[out.get(start..).unwrap_or(&[])]);
        put::u32(out, check);
        Writer {
            base: now,
            next: 0,
            connections: 0,
            expectations: 0,
            done: false,
        }
    }

    /// Appends what is in the next `places` places of the table, used or not; `true` when
    /// the snapshot is complete. What has run out is left out.
    pub fn step(&mut self, table: &Conntrack, places: u32, out: &mut Vec<u8>) -> bool {
        if self.done {
            return true;
        }
        let all = table.slab.slots();
        let end = self.next.saturating_add(places.max(1)).min(all);
        for index in self.next..end {
            if let Some((id, _)) = table.slab.at(index) {
                self.add(table, id, out);
            }
        }
        self.next = end;
        if end < all {
            return false;
        }
        for expectation in table.expectations.by_age() {
            framed(out, EXPECTATION, |out| {
                record::expectation(out, expectation, self.base);
            });
            self.expectations += 1;
        }
        self.end(out);
        true
    }

    /// Appends one connection, if it is still there and has not run out: for a snapshot of
    /// chosen ones.
    pub fn add(&mut self, table: &Conntrack, id: EntryId, out: &mut Vec<u8>) {
        if let Some(entry) = table.entry(id).filter(|e| record::lasts(e, self.base)) {
            framed(out, CONNECTION, |out| {
                record::connection(out, id, entry, self.base);
            });
            self.connections += 1;
            if let Some(proxied) = entry.proxied() {
                framed(out, PROXIED, |out| {
                    put::u32(out, proxied.isn);
                    put::u32(out, proxied.stamp);
                    put::u32(out, proxied.ahead);
                });
            }
            let policy = entry.extra.as_ref().and_then(|x| x.policy);
            if let Some(policy) = policy.and_then(|id| table.config.policies.get(id)) {
                framed(out, POLICY, |out| {
                    out.extend_from_slice(policy.name.as_bytes());
                });
            }
            if let Some(&state) = entry.helper_state().filter(|s| helped::has(s)) {
                let tunnel = table.has_tunnel(id);
                framed(out, HELPED, |out| {
                    helped::write(out, &Memory { state, tunnel })
                });
            }
            for (dir, way) in entry
                .seqadj()
                .iter()
                .flat_map(|s| Dir::BOTH.into_iter().zip(&s.dirs))
            {
                if !way.older().is_empty() {
                    framed(out, OLDER, |out| older::write(out, dir, way.older()));
                }
            }
        }
    }

    /// Completes a snapshot of chosen connections.
    pub fn end(&mut self, out: &mut Vec<u8>) {
        framed(out, END, |out| {
            put::u32(out, self.connections);
            put::u32(out, self.expectations);
        });
        self.done = true;
    }

    /// Connections written so far.
    #[must_use]
    pub fn connections(&self) -> u32 {
        self.connections
    }
}

/// A record around what `body` appends.
fn framed(out: &mut Vec<u8>, kind: u8, body: impl FnOnce(&mut Vec<u8>)) {
    let start = out.len();
    out.extend_from_slice(&[kind, 0, 0]);
    body(out);
    let len = (out.len() - start - 3) as u16;
    if let Some(field) = out.get_mut(start + 1..start + 3) {
        field.copy_from_slice(&len.to_le_bytes());
    }
    let check = crc32c::checksum(&[out.get(start..).unwrap_or(&[])]);
    put::u32(out, check);
}

/// Why bytes are no snapshot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Damage {
    /// They do not begin as one.
    NotOne,
    /// They are of a version that is not known here.
    Version(u32),
    /// They end early.
    Short,
    /// A checksum is wrong: that of the header (0) or of the record of that number.
    Checksum(u32),
    /// A record says something that cannot be.
    Absurd {
        /// Which record, counted from 1.
        record: u32,
        /// What.
        what: &'static str,
    },
    /// The end counts other records than there are.
    Count,
    /// Something follows the end.
    Trailing,
}

impl fmt::Display for Damage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Damage::NotOne => f.write_str("not a record of connections"),
            Damage::Version(n) => write!(f, "version {n} is not known"),
            Damage::Short => f.write_str("ends early"),
            Damage::Checksum(0) => f.write_str("damaged header"),
            Damage::Checksum(n) => write!(f, "record {n} is damaged"),
            Damage::Absurd { record, what } => write!(f, "record {record}: impossible {what}"),
            Damage::Count => f.write_str("records are missing"),
            Damage::Trailing => f.write_str("something follows the end"),
        }
    }
}

impl core::error::Error for Damage {}

/// A snapshot that has been read and found sound.
#[derive(Debug)]
pub struct Snapshot<'a> {
    /// The records, the end included.
    records: &'a [u8],
    written: u64,
    connections: u32,
    expectations: u32,
    /// Connections that others refer to.
    masters: BTreeSet<u64>,
}

impl<'a> Snapshot<'a> {
    /// Reads all of `bytes`.
    ///
    /// # Errors
    /// Anything in them is damaged.
    pub fn open(bytes: &'a [u8]) -> Result<Snapshot<'a>, Damage> {
        let (header, records) = bytes.split_at_checked(HEADER).ok_or(match bytes {
            b if b.starts_with(MAGIC) => Damage::Short,
            _ => Damage::NotOne,
        })?;
        let mut snapshot = Snapshot {
            records,
            written: written(header)?,
            connections: 0,
            expectations: 0,
            masters: BTreeSet::new(),
        };
        snapshot.check()?;
        Ok(snapshot)
    }

    fn check(&mut self) -> Result<(), Damage> {
        let mut records = Records::of(self.records, false);
        loop {
            match records.next()? {
                Stored::Connection(c) => {
                    self.connections += 1;
                    self.masters.extend(c.master);
                }
                Stored::Expectation(e) => {
                    self.expectations += 1;
                    self.masters.insert(e.master);
                }
                Stored::Policy(_) | Stored::Proxied(_) | Stored::Helped(_) | Stored::Older(_) => {}
                Stored::End { counts } if counts != [self.connections, self.expectations] => {
                    return Err(Damage::Count);
                }
                Stored::End { .. } if !records.rest.is_empty() => return Err(Damage::Trailing),
                Stored::End { .. } => return Ok(()),
            }
        }
    }

    /// When it was written, in nanoseconds since 1970.
    #[must_use]
    pub fn written(&self) -> u64 {
        self.written
    }

    /// Connections in it.
    #[must_use]
    pub fn connections(&self) -> u32 {
        self.connections
    }

    /// Expectations in it.
    #[must_use]
    pub fn expectations(&self) -> u32 {
        self.expectations
    }
}

fn written(header: &[u8]) -> Result<u64, Damage> {
    let mut fields = In::new(header);
    if fields.take(MAGIC.len()) != Some(MAGIC) {
        return Err(Damage::NotOne);
    }
    let version = fields.u32().ok_or(Damage::Short)?;
    let wall = fields.u64().ok_or(Damage::Short)?;
    let reserved = fields.u64().ok_or(Damage::Short)?;
    let check = fields.u32().ok_or(Damage::Short)?;
    if check != crc32c::checksum(&[header.get(..HEADER - 4).unwrap_or(&[])]) {
        return Err(Damage::Checksum(0));
    }
    if version != VERSION || reserved != 0 {
        return Err(Damage::Version(version));
    }
    Ok(wall)
}

/// The records of a snapshot, one after the other.
struct Records<'a> {
    rest: &'a [u8],
    number: u32,
    /// Whether checksums have been looked at before.
    checked: bool,
}

impl<'a> Records<'a> {
    fn of(records: &'a [u8], checked: bool) -> Self {
        Records {
            rest: records,
            number: 0,
            checked,
        }
    }

    fn next(&mut self) -> Result<Stored, Damage> {
        self.number += 1;
        let record = self.number;
        let mut fields = In::new(self.rest);
        let kind = fields.u8().ok_or(Damage::Short)?;
        let len = usize::from(fields.u16().ok_or(Damage::Short)?);
        let body = fields.take(len).ok_or(Damage::Short)?;
        let check = fields.u32().ok_or(Damage::Short)?;
        let (summed, _) = self.rest.split_at_checked(3 + len).ok_or(Damage::Short)?;
        if !self.checked && check != crc32c::checksum(&[summed]) {
            return Err(Damage::Checksum(record));
        }
        self.rest = fields.rest();
        record::read(kind, body).map_err(|what| Damage::Absurd { record, what })
    }
}
