//! Any bytes as a record of connections.

use tidegate_conntrack::format::{Columns, conntrack_line, expect_line, proc_line};
use tidegate_conntrack::snapshot::{Snapshot, Writer};
use tidegate_conntrack::{Config, Conntrack, Dir, InHook, SECOND, Time};
use tidegate_wire::{crc32c, proto};

use crate::input::Input;
use crate::packets::{Ends, Segment, TCP_CHECK, packet, tcp, well_formed};

const NOW: Time = 1_000_000 * SECOND;
const MAX_ENTRIES: u32 = 20;
const MAX_EXPECTED: u32 = 5;

/// The reader ends; what it accepts is a table that keeps its limits, can be listed,
/// written and read again, goes on with packets and runs empty.
///
/// The first byte says whether the rest is a file as it is, or kinds and bodies of
/// records, around which headers and checksums are put.
pub fn snapshot(data: &[u8]) {
    let mut input = Input::new(data);
    let gap = match input.byte() {
        0 => return examine(input.take(usize::MAX), 0),
        n => u64::from(n) * SECOND,
    };
    examine(&framed(&mut input), gap);
}

/// A file whose checksums fit.
fn framed(input: &mut Input<'_>) -> Vec<u8> {
    let mut file = b"TGCONNS\n\x01\0\0\0".to_vec();
    file.extend([0; 16]);
    let check = crc32c::checksum(&[&file]);
    file.extend(check.to_le_bytes());
    let mut counts = [0u32; 2];
    while !input.is_empty() {
        let kind = input.byte();
        let len = usize::from(input.half());
        record(&mut file, kind, input.take(len));
        if let Some(count) = counts.get_mut(usize::from(kind).wrapping_sub(1)) {
            *count += 1;
        }
    }
    record(&mut file, 3, &counts.map(u32::to_le_bytes).concat());
    file
}

fn record(file: &mut Vec<u8>, kind: u8, body: &[u8]) {
    let start = file.len();
    file.push(kind);
    file.extend((body.len() as u16).to_le_bytes());
    file.extend(body);
    let check = crc32c::checksum(&[&file[start..]]);
    file.extend(check.to_le_bytes());
}

fn examine(file: &[u8], gap: u64) {
    let snapshot = match Snapshot::open(file) {
        Ok(snapshot) => snapshot,
        Err(damage) => {
            assert!(!damage.to_string().is_empty());
            return;
        }
    };
    let mut ct = Conntrack::new(Config {
        max: MAX_ENTRIES,
        buckets: 16,
        expect_max: MAX_EXPECTED,
        ..Config::default()
    });
    let wall = snapshot.written().saturating_add(gap);
    let report = ct.restore(NOW, wall, &snapshot);
    let restored = report.connections + report.expectations;
    let left = report.expired + report.full + report.taken + report.orphaned;
    let there = u64::from(snapshot.connections()) + u64::from(snapshot.expectations());
    assert_eq!(u64::from(restored) + u64::from(left), there);
    bounded(&ct);
    assert_eq!(ct.count(), report.connections);
    assert_eq!(ct.expectations().count() as u32, report.expectations);
    list(&ct);
    let again = write(&ct);
    let copy = Snapshot::open(&again).expect("what was written can be read");
    assert_eq!(copy.connections(), report.connections);
    go_on(&mut ct);
    ct.handle_timeout(NOW + (u64::from(u32::MAX) + 20 * 86_400) * SECOND);
    assert_eq!(ct.count(), 0, "an entry outlives its timeout");
    assert_eq!(ct.expectations().count(), 0);
    assert_eq!(ct.poll_timeout(), None);
}

fn bounded(ct: &Conntrack) {
    assert!(ct.count() <= MAX_ENTRIES);
    assert_eq!(ct.count() as usize, ct.iter().count());
    assert!(ct.expectations().count() <= MAX_EXPECTED as usize);
}

fn list(ct: &Conntrack) {
    for (id, entry) in ct.iter() {
        assert!(!proc_line(entry, NOW).is_empty());
        assert!(!conntrack_line(id, entry, NOW, Columns::default()).is_empty());
        let (found, _) = ct
            .find(entry.tuple(Dir::Original), entry.zone)
            .expect("found");
        assert_eq!(found, id, "two entries with one tuple");
    }
    for e in ct.expectations() {
        let master = ct.entry(e.master).expect("a master");
        assert!(!expect_line(e, Some(master.tuple(Dir::Original)), NOW).is_empty());
    }
}

fn write(ct: &Conntrack) -> Vec<u8> {
    let mut out = Vec::new();
    let mut writer = Writer::new(NOW, NOW, &mut out);
    while !writer.step(ct, 7, &mut out) {}
    out
}

/// A segment in each direction of every TCP connection, and somebody who connects to
/// whatever is expected.
fn go_on(ct: &mut Conntrack) {
    let entries = ct.iter().map(|(_, e)| e);
    let mut tuples: Vec<_> = entries.flat_map(|e| e.tuples).collect();
    tuples.extend(ct.expectations().map(|e| e.tuple));
    for tuple in tuples.into_iter().filter(|t| t.proto == proto::TCP) {
        let l4 = tcp(Segment {
            ports: (tuple.src_id, tuple.dst_id),
            seq: 1,
            ack: 1,
            flags: 16,
            ..Segment::default()
        });
        let ends = Ends {
            family: tuple.family,
            src: tuple.src,
            dst: tuple.dst,
        };
        let mut bytes = packet(ends, proto::TCP, l4, Some(TCP_CHECK));
        pass(ct, &mut bytes);
        bounded(ct);
    }
}

fn pass(ct: &mut Conntrack, bytes: &mut Vec<u8>) {
    let layout = well_formed(bytes);
    let tracked = ct.handle_packet(NOW, bytes, &layout, InHook::Prerouting, None);
    let tidegate_conntrack::Tracked::Ct(mut at) = tracked else {
        return;
    };
    let outcome = ct
        .help(NOW, &at, bytes, &layout)
        .and_then(|_| ct.confirm(NOW, &mut at));
    if outcome.is_err() {
        ct.release(at.id);
    }
}
