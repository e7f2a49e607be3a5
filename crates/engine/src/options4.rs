//! IPv4 options (`__ip_options_compile`, `ip_forward_options`; RFC 791 3.1).
//!
//! A received packet's options are read after the routing decision. Record route and
//! timestamp get their entry then; the address in it is put right when the packet is
//! forwarded.

use tidegate_wire::{Family, checksum, put};

use crate::env::{Env, RouteType};
use crate::packet::Packet;

const END: u8 = 0;
const NOOP: u8 = 1;
const RECORD_ROUTE: u8 = 7;
const TIMESTAMP: u8 = 68;
const SECURITY_LABEL: u8 = 134;
const LOOSE_SOURCE_ROUTE: u8 = 131;
const STRICT_SOURCE_ROUTE: u8 = 137;
const ROUTER_ALERT: u8 = 148;

/// What the options of a packet ask for. Offsets count from the IP header.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Options {
    /// Where record route is.
    record: Option<u8>,
    /// Its last entry is for the outgoing address.
    record_address: bool,
    /// Where the timestamp option is.
    stamp: Option<u8>,
    /// Its last entry has the outgoing address before the time.
    stamp_address: bool,
    source_route: bool,
    label: bool,
    /// The header was changed and its checksum is not right yet.
    changed: bool,
}

impl Options {
    /// The packet names the routers it wants to go through.
    pub(crate) fn source_routed(&self) -> bool {
        self.source_route
    }
}

/// What reading options needs to know of the router.
pub(crate) struct Here<'e> {
    pub(crate) env: &'e Env,
    /// This host's address as far as the packet is concerned (`fib_compute_spec_dst`).
    pub(crate) address: u32,
    /// Milliseconds since midnight UT.
    pub(crate) clock: u32,
}

/// One option: its bytes in the header.
struct Item<'h> {
    bytes: &'h mut [u8],
    at: usize,
}

impl Item<'_> {
    /// Fails with the offset of byte `n` of this option unless `fine`.
    fn require(&self, fine: bool, n: usize) -> Result<(), usize> {
        if fine { Ok(()) } else { Err(self.at + n) }
    }

    fn len(&self) -> usize {
        self.bytes.len()
    }

    fn byte(&self, n: usize) -> usize {
        self.bytes.get(n).map_or(0, |&b| usize::from(b))
    }

    fn advance(&mut self, n: u8) {
        if let Some(pointer) = self.bytes.get_mut(2) {
            *pointer = pointer.saturating_add(n);
        }
    }
}

/// Reads the options in `header` (a whole IPv4 header) and makes this router's entries.
///
/// # Errors
/// The offset of the byte that is wrong, for a parameter problem.
pub(crate) fn compile(header: &mut [u8], here: &Here<'_>) -> Result<Options, usize> {
    let mut options = Options::default();
    let mut at = 20;
    while at < header.len() {
        match header[at] {
            END => {
                let rest = &mut header[at + 1..];
                options.changed |= rest.iter().any(|&b| b != END);
                rest.fill(END);
                break;
            }
            NOOP => {
                at += 1;
                continue;
            }
            _ => {}
        }
        let len = usize::from(*header.get(at + 1).ok_or(at)?);
        if len < 2 {
            return Err(at);
        }
        let bytes = header.get_mut(at..at + len).ok_or(at)?;
        one(&mut options, Item { bytes, at }, here)?;
        at += len;
    }
    Ok(options)
}

fn one(options: &mut Options, item: Item<'_>, here: &Here<'_>) -> Result<(), usize> {
    match item.byte(0) as u8 {
        LOOSE_SOURCE_ROUTE | STRICT_SOURCE_ROUTE => {
            item.require(item.len() >= 3, 1)?;
            item.require(item.byte(2) >= 4, 2)?;
            item.require(!options.source_route, 0)?;
            options.source_route = true;
            Ok(())
        }
        RECORD_ROUTE => record(options, item, here),
        TIMESTAMP => stamp(options, item, here),
        ROUTER_ALERT => item.require(item.len() >= 4, 1),
        SECURITY_LABEL => {
            item.require(!options.label, 0)?;
            options.label = true;
            label(&item)
        }
        _ => Ok(()),
    }
}

/// Record route: the pointer names the next free entry, counted from one.
fn record(options: &mut Options, mut item: Item<'_>, here: &Here<'_>) -> Result<(), usize> {
    item.require(options.record.is_none(), 0)?;
    item.require(item.len() >= 3, 1)?;
    let pointer = item.byte(2);
    item.require(pointer >= 4, 2)?;
    if pointer <= item.len() {
        item.require(pointer + 3 <= item.len(), 2)?;
        put(item.bytes, pointer - 1, &here.address.to_be_bytes());
        item.advance(4);
        options.record_address = true;
        options.changed = true;
    }
    options.record = Some(item.at as u8);
    Ok(())
}

/// Timestamp: times alone (0), addresses and times (1), times for given addresses (3).
fn stamp(options: &mut Options, mut item: Item<'_>, here: &Here<'_>) -> Result<(), usize> {
    item.require(options.stamp.is_none(), 0)?;
    item.require(item.len() >= 4, 1)?;
    let pointer = item.byte(2);
    item.require(pointer >= 5, 2)?;
    let (overflow, kind) = (item.byte(3) >> 4, item.byte(3) & 0xf);
    if pointer <= item.len() {
        item.require(pointer + 3 <= item.len(), 2)?;
        make_entry(options, &mut item, here, kind)?;
    } else if kind != 3 {
        item.require(overflow < 15, 3)?;
        put(item.bytes, 3, &[(kind | (overflow + 1) << 4) as u8]);
        options.changed = true;
    }
    options.stamp = Some(item.at as u8);
    Ok(())
}

fn make_entry(
    options: &mut Options,
    item: &mut Item<'_>,
    here: &Here<'_>,
    kind: usize,
) -> Result<(), usize> {
    let entry = item.byte(2) - 1;
    let (time_at, size) = match kind {
        0 => (entry, 4),
        1 | 3 => {
            item.require(entry + 8 <= item.len(), 2)?;
            (entry + 4, 8)
        }
        _ => return Ok(()),
    };
    match kind {
        1 => {
            put(item.bytes, entry, &here.address.to_be_bytes());
            options.stamp_address = true;
        }
        3 => {
            let given = tidegate_wire::be32(item.bytes, entry).unwrap_or(0);
            let kind = here.env.address_type(Family::V4, u128::from(given), None);
            if kind == RouteType::Unicast {
                return Ok(());
            }
        }
        _ => {}
    }
    put(item.bytes, time_at, &here.clock.to_be_bytes());
    item.advance(size);
    options.changed = true;
    Ok(())
}

/// `cipso_v4_validate` where no domain of interpretation is configured: the option's
/// own length, then the domain.
fn label(item: &Item<'_>) -> Result<(), usize> {
    item.require(item.len() >= 8, 1)?;
    Err(item.at + 2)
}

/// Puts the outgoing address into the entries made on arrival and repairs the header
/// checksum (`ip_forward_options`).
pub(crate) fn forward(packet: &mut Packet, env: &Env) {
    let options = std::mem::take(&mut packet.options);
    if !options.changed {
        return;
    }
    let address = source_towards(env, packet.dst(), packet.src(), packet.mark);
    if let Some(address) = address {
        let entries = [
            options
                .record
                .filter(|_| options.record_address)
                .zip(Some(5)),
            options.stamp.filter(|_| options.stamp_address).zip(Some(9)),
        ];
        for (option, back) in entries.into_iter().flatten() {
            let option = usize::from(option);
            let pointer = packet.bytes.get(option + 2).copied().unwrap_or(0);
            let entry = (option + usize::from(pointer)).saturating_sub(back);
            put(&mut packet.bytes, entry, &(address as u32).to_be_bytes());
        }
    }
    let header = usize::from(packet.layout.l4);
    if let Some(header) = packet.bytes.get_mut(..header) {
        checksum::fix_ipv4(header);
    }
    packet.options = Options {
        changed: false,
        ..options
    };
}

/// The address this host uses towards `to` (`fib_result_prefsrc`).
pub(crate) fn source_towards(env: &Env, to: u128, from: u128, mark: u32) -> Option<u128> {
    let route = env.route(Family::V4, to, from, mark)?;
    match route.kind {
        RouteType::Local => Some(to),
        _ => route
            .src
            .or_else(|| env.select_address(Family::V4, route.dev?, route.via.unwrap_or(to))),
    }
}
