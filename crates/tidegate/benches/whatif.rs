//! How long `tidegate whatif` takes for a capture of a gigabyte, which it makes first:
//! `cargo bench -p tidegate --bench whatif`.
//!
//! Connections of 22 datagrams each way in turn to six ports; the new rules leave out one.
#![allow(missing_docs, clippy::unwrap_used)]

use std::fs::File;
use std::io::BufWriter;
use std::process::Command;
use std::time::Instant;

use tidegate_capture::{Direction, LinkType, Writer};
use tidegate_wire::{checksum, proto};

const CONNECTIONS: u32 = 80_000;
const DATAGRAMS: u32 = 22;
/// Bytes of one, from the IP header on.
const LENGTH: u16 = 560;
const SERVER: u32 = 0xc000_0201;
const PORTS: [u16; 6] = [53, 123, 443, 500, 1194, 51820];

fn datagram(connection: u32, back: bool, port: u16) -> Vec<u8> {
    let mut ends = [0x0a00_0000 | connection, SERVER].map(u32::to_be_bytes);
    let mut ports = [40_000, port].map(u16::to_be_bytes);
    if back {
        ends.reverse();
        ports.reverse();
    }
    let mut bytes = vec![0x45, 0, 0, 0, 0, 1, 0, 0, 64, proto::UDP, 0, 0];
    bytes[2..4].copy_from_slice(&LENGTH.to_be_bytes());
    bytes.extend(ends.concat());
    checksum::fix_ipv4(&mut bytes);
    bytes.extend(ports.concat());
    bytes.extend((LENGTH - 20).to_be_bytes());
    bytes.resize(LENGTH.into(), 0);
    bytes
}

fn rules(ports: &[u16]) -> String {
    let rule = |port: &u16| format!("-A INPUT -p udp -m udp --dport {port} -j ACCEPT\n");
    let open: String = ports.iter().map(rule).collect();
    format!(
        "*filter\n:INPUT DROP [0:0]\n:OUTPUT ACCEPT [0:0]\n\
         -A INPUT -m conntrack --ctstate ESTABLISHED -j ACCEPT\n{open}COMMIT\n"
    )
}

fn main() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    std::fs::write(path("old"), rules(&PORTS)).unwrap();
    std::fs::write(path("new"), rules(&PORTS[1..])).unwrap();
    let file = BufWriter::new(File::create(path("capture")).unwrap());
    let mut capture = Writer::new(file, "whatif bench").unwrap();
    let link = capture.add_interface(Some("eth0"), LinkType::Raw).unwrap();
    for n in 0..CONNECTIONS * DATAGRAMS {
        // A hundred connections at a time.
        let (batch, at) = (n / (100 * DATAGRAMS), n % (100 * DATAGRAMS));
        let connection = batch * 100 + at % 100;
        let back = at / 100 % 2 == 1;
        let bytes = datagram(connection, back, PORTS[connection as usize % PORTS.len()]);
        let time = 1_795_000_000_000_000_000 + u64::from(n) * 10_000;
        let length = u32::from(LENGTH);
        capture
            .packet(link, time, Direction::Unknown, &bytes, length, "")
            .unwrap();
    }
    capture.flush().unwrap();
    let size = std::fs::metadata(path("capture")).unwrap().len() as f64;
    let begun = Instant::now();
    let run = Command::new(env!("CARGO_BIN_EXE_tidegate"))
        .args(["whatif", "--old"])
        .arg(path("old"))
        .arg("--rules")
        .args([path("new"), path("capture")])
        .output()
        .unwrap();
    let took = begun.elapsed().as_secs_f64();
    let said = String::from_utf8_lossy(&run.stdout);
    assert!(run.status.success(), "{said}");
    println!(
        "{said}{CONNECTIONS} connections, {:.2} GB: {took:.2} s, {:.0} MB/s",
        size / 1e9,
        size / 1e6 / took
    );
}
