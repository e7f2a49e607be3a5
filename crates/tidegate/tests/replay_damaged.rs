//! Real captures with damaged copies of their packets between the packets: nothing panics,
//! and every packet of the capture meets the verdict that it meets without them.
#![allow(missing_docs, clippy::unwrap_used)]

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;
use tidegate_capture::{LinkType, Reader, Writer};

/// Damaged packets in all, unless `TIDEGATE_DAMAGED_PACKETS` says how many.
const DAMAGED: usize = 40_000;

/// What lets one connection's packets decide about another's: their verdicts may differ.
const SHARED: [&str; 9] = [
    "-m limit",
    "-m hashlimit",
    "-m recent",
    "-m connlimit",
    "-m quota",
    "-m statistic",
    "-j MASQUERADE",
    "-j SNAT",
    "-j DNAT",
];

/// A small generator (xorshift), so that a failure repeats.
struct Random(u64);

impl Random {
    fn below(&mut self, n: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 16) as usize % n.max(1)
    }
}

fn scenarios() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../scenarios")
}

/// Where the network header is in a frame.
fn header(link: LinkType) -> Option<usize> {
    match link {
        LinkType::Ethernet => Some(14),
        LinkType::LinuxSll => Some(16),
        LinkType::LinuxSll2 => Some(20),
        _ => None,
    }
}

/// The same frame from a host that says nothing else in the capture, some bits changed and
/// some bytes cut; half of them fit for the parser again.
fn damage(random: &mut Random, frame: &[u8], at: usize) -> Vec<u8> {
    let mut bytes = frame.to_vec();
    if bytes.len() > at + 8 {
        let cut = random.below(9).min(bytes.len() - at - 8);
        bytes.truncate(bytes.len() - cut);
    }
    for _ in 0..random.below(5) {
        let place = at + random.below(bytes.len() - at);
        bytes[place] ^= 1 << random.below(8);
    }
    let Some(packet) = bytes.get_mut(at..) else {
        return bytes;
    };
    let len = packet.len();
    match frame[at] >> 4 {
        4 if len >= 20 => {
            packet[0] = frame[at] & 0xf0 | packet[0] & 0x0f;
            packet[12..14].copy_from_slice(&[198, 18]);
            if random.below(2) == 0 {
                packet[2..4].copy_from_slice(&(len as u16).to_be_bytes());
                let header = (usize::from(packet[0] & 15) * 4).clamp(20, len);
                tidegate_wire::checksum::fix_ipv4(&mut packet[..header]);
            }
        }
        6 if len >= 40 => {
            packet[0] = frame[at] & 0xf0 | packet[0] & 0x0f;
            packet[8..12].copy_from_slice(&[0x20, 1, 0, 2]);
            if random.below(2) == 0 {
                packet[4..6].copy_from_slice(&((len - 40) as u16).to_be_bytes());
            }
        }
        _ => {}
    }
    bytes
}

/// Writes the capture with `copies` damaged packets after each of its own; the numbers of
/// its own, and how many were added. `None`: of a link that is not taken part.
fn mix(from: &Path, to: &Path, copies: usize, random: &mut Random) -> Option<(Vec<u64>, usize)> {
    let bytes = std::fs::read(from).unwrap();
    let mut reader = Reader::new("capture", &bytes[..]);
    let mut writer = Writer::new(File::create(to).unwrap(), "test").unwrap();
    let mut interfaces = Vec::new();
    let (mut own, mut number, mut seen) = (Vec::new(), 0, Vec::<Vec<u8>>::new());
    while let Some(frame) = reader.next_frame().unwrap() {
        let at = header(frame.interface.link)?;
        let known = interfaces.iter().find(|(id, _)| *id == frame.interface.id);
        let id = match known {
            Some(&(_, id)) => id,
            None => {
                let (name, link) = (frame.interface.name.as_deref(), frame.interface.link);
                let id = writer.add_interface(name, link).unwrap();
                interfaces.push((frame.interface.id, id));
                id
            }
        };
        let mut put = |data: &[u8]| {
            number += 1;
            let (len, flagged) = (data.len() as u32, frame.flagged);
            let written = writer.packet(id, frame.time_ns, flagged, data, len, "");
            written.unwrap();
            number
        };
        own.push(put(frame.data));
        if frame.data.len() > at {
            seen.push(frame.data.to_vec());
        }
        for _ in 0..copies {
            let original = &seen[random.below(seen.len())];
            put(&damage(random, original, at));
        }
    }
    let added = own.len() * copies;
    Some((own, added))
}

/// What a packet met.
fn verdicts(arguments: &[String], capture: &Path) -> Vec<(u64, Value)> {
    let run = Command::new(env!("CARGO_BIN_EXE_tidegate"))
        .args(["replay", "--json"])
        .args(arguments)
        .arg(capture)
        .current_dir(scenarios())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&run.stderr).into_owned();
    assert!(run.status.success(), "{}: {said}", capture.display());
    let lines = String::from_utf8(run.stdout).unwrap();
    let objects = lines.lines().map(|l| serde_json::from_str(l).unwrap());
    let of_packet = |o: Value| {
        let number = o.get("number")?.as_u64()?;
        Some((number, serde_json::json!([o["verdict"], o["hooks"]])))
    };
    objects.filter_map(of_packet).collect()
}

#[test]
fn damaged_packets_change_no_verdict_of_others() {
    let wanted = std::env::var("TIDEGATE_DAMAGED_PACKETS");
    let wanted: usize = wanted.map_or(DAMAGED, |n| n.parse().unwrap());
    let pairs = std::fs::read_to_string(scenarios().join("pairs.toml")).unwrap();
    let pairs: toml::Table = pairs.parse().unwrap();
    let pairs = pairs["pair"].as_array().unwrap();
    let directory = tempfile::tempdir().unwrap();
    let mut random = Random(0x5eed);
    let (mut added, mut compared) = (0, 0);
    for (n, pair) in pairs.iter().enumerate() {
        let of = |key: &str| pair.get(key).and_then(toml::Value::as_str);
        let rules = [("--rules", "rules4"), ("--rules6", "rules6")];
        let mut arguments = vec![
            "--host".to_owned(),
            format!("hosts/{}", of("host").unwrap()),
        ];
        let mut shared = false;
        for (option, key) in rules {
            if let Some(file) = of(key) {
                let file = format!("rules/{file}");
                let text = std::fs::read_to_string(scenarios().join(&file)).unwrap();
                shared |= SHARED.iter().any(|s| text.contains(s));
                arguments.extend([option.to_owned(), file]);
            }
        }
        let capture = scenarios().join("captures").join(of("capture").unwrap());
        let packets = verdicts(&arguments, &capture).len();
        let copies = (wanted / pairs.len()).div_ceil(packets);
        let mixed = directory.path().join(format!("{n}.pcapng"));
        let Some((own, more)) = mix(&capture, &mixed, copies, &mut random) else {
            continue;
        };
        added += more;
        // Their verdicts may depend on others: that nothing panics is all.
        let with = verdicts(&arguments, &mixed);
        assert_eq!(with.len(), own.len() + more, "{}", capture.display());
        if shared {
            continue;
        }
        let without = verdicts(&arguments, &capture);
        let with = with.into_iter().filter(|(n, _)| own.contains(n));
        for ((_, got), (number, verdict)) in with.zip(without) {
            compared += 1;
            assert_eq!(got, verdict, "{} packet {number}", capture.display());
        }
    }
    println!("{added} damaged packets between {compared} whose verdicts were compared");
    assert!(added > wanted / 2 && compared > 500);
}
