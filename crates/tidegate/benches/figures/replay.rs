//! A capture of a million packets through `tidegate replay --summary`.

use std::fs::File;
use std::io::{BufReader, BufWriter};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use tidegate_capture::{Direction, LinkType, Payload, Reader, Writer};

use crate::measure::{Group, Subject, Took, timed};
use crate::surroundings::{Established, rules};
use crate::traffic::Traffic;

const CONNECTIONS: usize = 10_000;
const PACKETS: usize = 1_000_000;
/// Between two packets, in nanoseconds.
const PACE: u64 = 10_000;

/// The router of the rules, as `--host` reads it.
const HOST: &str = r#"[host]
forward = true
[[interface]]
name = "eth0"
addresses = ["10.0.0.1/16"]
[[interface]]
name = "eth1"
addresses = ["10.9.0.254/24"]
"#;

/// Measures in `dir`, where capture, host and rules stay.
///
/// # Errors
/// Files cannot be written, or the program refuses them.
pub(crate) fn run(dir: &Path) -> Result<()> {
    let capture = dir.join("established.pcapng");
    write(&capture)?;
    let host = dir.join("host.toml");
    std::fs::write(&host, HOST)?;
    let file = |name: &str, place| -> Result<PathBuf> {
        let path = dir.join(name);
        std::fs::write(&path, rules(place))?;
        Ok(path)
    };
    let first = file("first.rules", Established::First)?;
    let last = file("last.rules", Established::Last)?;
    Group {
        title: format!(
            "Capture of {PACKETS} packets, {CONNECTIONS} connections, received by a router"
        ),
        unit: "packet",
        rounds: 5,
        subjects: vec![
            Subject::new("capture read, nothing decided", || read(&capture)),
            Subject::new("replay --summary, 100 rules, ESTABLISHED first", || {
                replay(&host, &first, &capture)
            }),
            Subject::new("replay --summary, 100 rules, ESTABLISHED last", || {
                replay(&host, &last, &capture)
            }),
        ],
    }
    .run()?;
    Ok(())
}

/// Received packets only, as `tcpdump -i any -Q in` sees them.
fn write(path: &Path) -> Result<()> {
    let out = BufWriter::new(File::create(path)?);
    let mut writer = Writer::new(out, "tidegate bench")?;
    let inside = writer.add_interface(Some("eth0"), LinkType::Ethernet)?;
    let outside = writer.add_interface(Some("eth1"), LinkType::Ethernet)?;
    let mut frame = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 8, 0];
    let header = frame.len();
    let mut now = 1_700_000_000_000_000_000;
    for (packet, client) in Traffic::new(CONNECTIONS, PACKETS, 0).packets(0) {
        now += PACE;
        frame.truncate(header);
        frame.extend_from_slice(packet);
        let from = if client { inside } else { outside };
        let len = frame.len() as u32;
        writer.packet(from, now, Direction::In, &frame, len, "")?;
    }
    writer.flush()?;
    Ok(())
}

fn read(path: &Path) -> Result<Took> {
    let (time, packets) = timed(|| {
        let mut reader = Reader::new("bench", BufReader::new(File::open(path)?));
        let mut packets = 0;
        while let Some(frame) = reader.next_frame()? {
            packets += usize::from(matches!(frame.network_packet().payload, Payload::Ip(_)));
        }
        Ok(packets)
    })?;
    ensure!(packets == PACKETS, "{packets} packets");
    Ok(Took::new(time, PACKETS))
}

/// Processor time of the program, process start and reading the rules included.
fn replay(host: &Path, rules: &Path, capture: &Path) -> Result<Took> {
    let before = children()?;
    let status = Command::new(env!("CARGO_BIN_EXE_tidegate"))
        .args(["replay", "--summary", "--host"])
        .arg(host)
        .arg("--rules")
        .arg(rules)
        .arg(capture)
        .stdout(Stdio::null())
        .status()?;
    ensure!(status.success(), "{status}");
    Ok(Took::new(children()?.saturating_sub(before), PACKETS))
}

/// Processor time of finished children, in steps of ten milliseconds.
fn children() -> Result<Duration> {
    let stat = std::fs::read_to_string("/proc/self/stat")?;
    let fields = stat.rsplit(") ").next().context("stat")?;
    let ticks = fields.split(' ').skip(13).take(2);
    let ticks = ticks.map(str::parse::<u64>).sum::<Result<u64, _>>()?;
    Ok(Duration::from_millis(ticks * 10))
}
