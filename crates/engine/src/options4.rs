//! IPv4 options (`__ip_options_compile`, `ip_forward_options`; RFC 791 3.1).
//!
//! A received packet's options are read after the routing decision. Record route and
//! timestamp get their entry then; the recorded address is put right when the packet is
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
    /// Its last entry has the time.
    stamp_time: bool,
    source_route: bool,
    /// Where the security label is.
    label: Option<u8>,
    /// Milliseconds since midnight UT when the packet arrived.
    clock: u32,
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
pub(crate) fn compile(
    header: &mut [u8],
    options: &mut Options,
    here: &Here<'_>,
) -> Result<(), usize> {
    options.clock = here.clock;
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
        one(options, Item { bytes, at }, here)?;
        at += len;
    }
    Ok(())
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
            item.require(options.label.is_none(), 0)?;
            options.label = Some(item.at as u8);
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
            if is_elsewhere(here.env, given) {
                return Ok(());
            }
        }
        _ => {}
    }
    put(item.bytes, time_at, &here.clock.to_be_bytes());
    item.advance(size);
    options.stamp_time = true;
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
    let entry = options.record.filter(|_| options.record_address);
    if let Some((address, option)) = address.zip(entry) {
        let option = usize::from(option);
        let pointer = packet.bytes.get(option + 2).copied().unwrap_or(0);
        let entry = (option + usize::from(pointer)).saturating_sub(5);
        put(&mut packet.bytes, entry, &(address as u32).to_be_bytes());
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

/// The options of an ICMP error about `packet` that leaves with `address` as its source:
/// record route, timestamp and label go back with one more entry
/// (`__ip_options_echo`, `ip_options_build`; RFC 1122 3.2.2.6). `None` when an entry has
/// no room: then no error is sent.
pub(crate) fn echo(packet: &Packet, env: &Env, address: u32) -> Option<Vec<u8>> {
    let options = &packet.options;
    let mut out = Vec::new();
    if let Some(at) = options.record {
        let mut option = copy(packet, at)?;
        if options.record_address {
            append(&mut option, &[address])?;
        }
        out.extend(option);
    }
    if let Some(at) = options.stamp {
        let mut option = copy(packet, at)?;
        stamp_again(&mut option, options, env, address)?;
        out.extend(option);
    }
    if let Some(at) = options.label {
        out.extend(copy(packet, at)?);
    }
    out.resize(out.len().next_multiple_of(4), END);
    Some(out)
}

fn copy(packet: &Packet, at: u8) -> Option<Vec<u8>> {
    let at = usize::from(at);
    let len = usize::from(*packet.bytes.get(at + 1)?);
    packet.bytes.get(at..at + len).map(<[u8]>::to_vec)
}

fn stamp_again(option: &mut [u8], options: &Options, env: &Env, address: u32) -> Option<()> {
    let kind = option.get(3)? & 0xf;
    match kind {
        1 if options.stamp_address => append(option, &[address, options.clock]),
        3 if options.stamp_time => {
            let entry = usize::from(*option.get(2)?).saturating_sub(1);
            let given = tidegate_wire::be32(option, entry);
            let room = entry + 8 <= option.len();
            match given.filter(|_| room) {
                Some(a) if !is_elsewhere(env, a) => append(option, &[a, options.clock]),
                _ => Some(()),
            }
        }
        _ if options.stamp_time => append(option, &[options.clock]),
        _ => Some(()),
    }
}

/// Writes words where the option's pointer says and moves it on; a full option stays.
fn append(option: &mut [u8], words: &[u32]) -> Option<()> {
    let pointer = usize::from(*option.get(2)?);
    if pointer > option.len() {
        return Some(());
    }
    let mut at = pointer.checked_sub(1)?;
    for word in words {
        put(option, at, &word.to_be_bytes()).then_some(())?;
        at += 4;
    }
    put(option, 2, &[(at + 1) as u8]).then_some(())
}

fn is_elsewhere(env: &Env, address: u32) -> bool {
    env.address_type(Family::V4, u128::from(address), None) == RouteType::Unicast
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::env::Settings;

    fn header(options: &[u8]) -> Vec<u8> {
        let mut h = vec![0; 20];
        h[0] = 0x40 | (5 + options.len() / 4) as u8;
        h.extend_from_slice(options);
        h
    }

    fn read(options: &[u8]) -> (Result<(), usize>, Options, Vec<u8>) {
        let env = Env::new(Vec::new(), &[], &[], Settings::default());
        let here = Here {
            env: &env,
            address: 0x0a00_0001,
            clock: 0x0102_0304,
        };
        let mut header = header(options);
        let mut found = Options::default();
        let result = compile(&mut header, &mut found, &here);
        (result, found, header[20..].to_vec())
    }

    #[test]
    fn record_route_and_timestamp_get_an_entry() {
        let (ok, found, bytes) = read(&[7, 7, 4, 0, 0, 0, 0, 0]);
        assert!(ok.is_ok() && found.record == Some(20) && found.changed);
        assert_eq!(bytes, [7, 7, 8, 10, 0, 0, 1, 0]);
        let (ok, _, bytes) = read(&[68, 12, 5, 1, 0, 0, 0, 0, 0, 0, 0, 0]);
        assert!(ok.is_ok());
        assert_eq!(bytes, [68, 12, 13, 1, 10, 0, 0, 1, 1, 2, 3, 4]);
        let (ok, found, bytes) = read(&[68, 4, 5, 0]);
        assert!(ok.is_ok() && found.changed);
        assert_eq!(bytes, [68, 4, 5, 0x10]);
    }

    #[test]
    fn what_is_wrong_is_pointed_at() {
        for (options, at) in [
            ([7, 0, 4, 0], 20),
            ([1, 68, 1, 0], 21),
            ([7, 40, 4, 0], 20),
            ([7, 3, 3, 0], 22),
            ([7, 4, 4, 0], 22),
            ([131, 2, 4, 0], 21),
            ([68, 4, 4, 0], 22),
            ([68, 4, 5, 0xf0], 23),
            ([148, 3, 0, 0], 21),
            ([134, 4, 0, 0], 21),
            ([1, 1, 1, 7], 23),
        ] {
            assert_eq!(read(&options).0, Err(at), "{options:?}");
        }
        assert_eq!(read(&[200, 4, 0, 0]).0, Ok(()));
        assert!(read(&[131, 3, 4, 0]).1.source_routed());
    }

    #[test]
    fn nothing_counts_behind_the_end() {
        let (ok, found, bytes) = read(&[0, 7, 40, 4]);
        assert!(ok.is_ok() && found.changed);
        assert_eq!(bytes, [0; 4]);
    }
}
