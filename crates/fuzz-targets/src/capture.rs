//! Any bytes as a capture file.

use std::io::Read;

use tidegate_capture::{Direction, LinkType, NetworkPacket, Payload, Reader, Writer};

/// What one packet of a capture says.
#[derive(Debug, PartialEq)]
struct Seen {
    time_ns: u64,
    direction: Direction,
    link: LinkType,
    data: Vec<u8>,
    original_len: u32,
}

/// The reader ends, keeps to its limits and does not care in what pieces the bytes
/// come; what it read can be written and read again.
pub fn capture(data: &[u8]) {
    let (whole, failed) = read(data);
    let pieces = read(Pieces { data, next: 1 });
    assert_eq!((&whole, failed), (&pieces.0, pieces.1));
    let written = write(&whole);
    let (again, failed) = read(written.as_slice());
    assert!(!failed, "our own capture is refused");
    assert_eq!(whole, again);
}

/// Gives one byte, then two, and so on up to sixteen, then one again.
struct Pieces<'a> {
    data: &'a [u8],
    next: usize,
}

impl Read for Pieces<'_> {
    fn read(&mut self, buf: &mut [u8]) -> std::io::Result<usize> {
        let n = self.next.min(buf.len());
        self.next = self.next % 16 + 1;
        self.data.read(&mut buf[..n])
    }
}

/// All packets, and whether the capture ended in an error.
fn read(input: impl Read) -> (Vec<Seen>, bool) {
    let mut reader = Reader::new("fuzz", input);
    let mut seen = Vec::new();
    loop {
        match reader.next_frame() {
            Ok(None) => return (seen, false),
            Err(error) => {
                assert_eq!(error.packet, seen.len() as u64 + 1);
                assert!(!error.to_string().is_empty());
                assert!(matches!(reader.next_frame(), Ok(None)), "read on");
                return (seen, true);
            }
            Ok(Some(frame)) => {
                assert_eq!(frame.number, seen.len() as u64 + 1);
                assert!(frame.data.len() <= tidegate_capture::MAX_PACKET as usize);
                inside(&frame.network_packet(), frame.data);
                seen.push(Seen {
                    time_ns: frame.time_ns,
                    direction: frame.flagged,
                    link: frame.interface.link,
                    data: frame.data.to_vec(),
                    original_len: frame.original_len,
                });
            }
        }
    }
}

fn inside(packet: &NetworkPacket<'_>, frame: &[u8]) {
    if let Payload::Ip(bytes) = packet.payload {
        assert!(frame.ends_with(bytes));
        let _ = tidegate_wire::parse(bytes);
    }
}

fn write(packets: &[Seen]) -> Vec<u8> {
    let mut out = Vec::new();
    let mut writer = Writer::new(&mut out, "fuzz").expect("memory takes everything");
    let mut links: Vec<LinkType> = Vec::new();
    for p in packets {
        let known = links.iter().position(|l| *l == p.link);
        let id = known.unwrap_or_else(|| {
            writer
                .add_interface(Some("eth0"), p.link)
                .expect("memory takes everything");
            links.push(p.link);
            links.len() - 1
        });
        writer
            .packet(
                id as u32,
                p.time_ns,
                p.direction,
                &p.data,
                p.original_len,
                "why",
            )
            .expect("what was read can be written");
    }
    out
}
