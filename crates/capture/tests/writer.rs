//! What we write is read back, by us and by tshark.
#![allow(missing_docs, clippy::unwrap_used)]

use std::process::Command;

use tidegate_capture::{Direction, LinkType, Reader, WriteError, Writer};

/// Ethernet, IPv4, UDP 10.0.0.2:4000 > 10.0.1.2:53; header checksum by RFC 1071.
const PACKET: [u8; 43] = [
    2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 8, 0, 0x45, 0, 0, 0x1d, 0, 1, 0, 0, 0x40, 0x11, 0x65, 0xcc,
    10, 0, 0, 2, 10, 0, 1, 2, 0x0f, 0xa0, 0, 0x35, 0, 9, 0x6a, 0x03, 0x71,
];

fn write() -> Vec<u8> {
    let mut out = Vec::new();
    let mut writer = Writer::new(&mut out, "tidegate").unwrap();
    let eth = writer
        .add_interface(Some("eth0"), LinkType::Ethernet)
        .unwrap();
    let raw = writer.add_interface(None, LinkType::Raw).unwrap();
    let comment = "DROP by filter INPUT 3 – «端口»";
    writer
        .packet(
            eth,
            1_700_000_000_123_456_789,
            Direction::In,
            &PACKET,
            43,
            comment,
        )
        .unwrap();
    writer
        .packet(
            raw,
            1_700_000_001_000_000_000,
            Direction::Unknown,
            &PACKET[14..],
            100,
            "",
        )
        .unwrap();
    assert!(matches!(
        writer.packet(2, 0, Direction::In, &[], 0, ""),
        Err(WriteError::NoInterface(2))
    ));
    writer.flush().unwrap();
    out
}

#[test]
fn our_reader_reads_it() {
    let file = write();
    let mut reader = Reader::new("x", &file[..]);
    let first = reader.next_frame().unwrap().unwrap();
    assert_eq!(first.interface.name.as_deref(), Some("eth0"));
    assert_eq!(first.time_ns, 1_700_000_000_123_456_789);
    assert_eq!(
        (first.data, first.direction()),
        (&PACKET[..], Direction::In)
    );
    assert!(!first.is_truncated());
    let second = reader.next_frame().unwrap().unwrap();
    assert_eq!(second.interface.link, LinkType::Raw);
    assert!(second.is_truncated());
    assert_eq!(second.ip(), Some(&PACKET[14..]));
    assert!(reader.next_frame().unwrap().is_none());
}

#[test]
fn a_comment_too_long_for_its_field_is_cut_between_characters() {
    let mut out = Vec::new();
    let mut writer = Writer::new(&mut out, "x").unwrap();
    let id = writer.add_interface(None, LinkType::Raw).unwrap();
    let long = "é".repeat(40_000);
    writer
        .packet(id, 0, Direction::Unknown, &[], 0, &long)
        .unwrap();
    let text = String::from_utf8_lossy(&out).into_owned();
    assert_eq!(text.matches('é').count(), 32_767);
    let mut reader = Reader::new("x", &out[..]);
    assert!(reader.next_frame().unwrap().is_some());
}

#[test]
fn tshark_reads_it() {
    if Command::new("tshark").arg("--version").output().is_err() {
        eprintln!("tshark is not installed: not compared");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("out.pcapng");
    std::fs::write(&path, write()).unwrap();
    let fields = [
        "frame.time_epoch",
        "frame.interface_name",
        "frame.packet_flags_direction",
        "ip.src",
        "udp.dstport",
        "frame.comment",
    ];
    let mut command = Command::new("tshark");
    command.arg("-r").arg(&path).args(["-T", "fields"]);
    for field in fields {
        command.args(["-e", field]);
    }
    let run = command.output().unwrap();
    assert!(
        run.status.success(),
        "{}",
        String::from_utf8_lossy(&run.stderr)
    );
    let text = String::from_utf8(run.stdout).unwrap();
    let rows: Vec<Vec<&str>> = text.lines().map(|l| l.split('\t').collect()).collect();
    assert_eq!(rows.len(), 2);
    assert_eq!(rows[0][0], "1700000000.123456789");
    assert_eq!(rows[0][1], "eth0");
    assert!(matches!(rows[0][2], "1" | "0x00000001"), "{}", rows[0][2]);
    assert_eq!(
        &rows[0][3..],
        ["10.0.0.2", "53", "DROP by filter INPUT 3 – «端口»"]
    );
    assert_eq!(rows[1][3], "10.0.0.2");
}
