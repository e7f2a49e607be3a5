//! The files of rules in the tree, and packets of the values that they name.

use std::fs;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use tidegate_host::Host;
use tidegate_wire::proto;

use super::world::Random;
use crate::given::Given;
use crate::packets::Described;
use crate::replay::rules::Rules;

/// Files of IPv4 rules.
pub(crate) fn files() -> Vec<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut all = Vec::new();
    below(&root.join("../../scenarios"), &mut all);
    below(&root.join("tests/data"), &mut all);
    all.sort();
    all
}

fn below(dir: &Path, all: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        if path.is_dir() {
            below(&path, all);
        } else if name.ends_with(".rules") && !name.contains("v6") || name.ends_with(".v4") {
            all.push(path);
        }
    }
}

/// A file's text, its rules, and a host that they may be for; sets that are beside it are put to
/// them. `None` where sets are missing.
pub(crate) fn read(path: &Path, r: &mut Random) -> Option<(String, Rules, Host)> {
    let text = fs::read_to_string(path).unwrap();
    let given = Given {
        rules: Some(path.to_owned()),
        ..Given::default()
    };
    let mut rules = given.written().unwrap();
    if let Ok(sets) = fs::read_to_string(path.with_extension("sets")) {
        rules.0[0].set(&sets, "sets").unwrap();
    }
    let rules = rules.complete().ok()?;
    let named = Named::by(&text);
    let first: Vec<Described> = (0..6).map(|_| named.packet(r)).collect();
    let (host, _) = given.host(&rules, &first).unwrap();
    Some((text, rules, host))
}

/// What a file names.
pub(crate) struct Named {
    hosts: Vec<IpAddr>,
    ports: Vec<u16>,
    links: Vec<String>,
}

impl Named {
    pub(crate) fn by(text: &str) -> Self {
        let words: Vec<&str> = text.split([' ', '\n', ',', ':', '-', '/']).collect();
        let mut hosts: Vec<IpAddr> = words.iter().filter_map(|w| w.parse().ok()).collect();
        hosts.retain(|a| a.is_ipv4() && !a.is_unspecified());
        hosts.push(IpAddr::from([198, 51, 100, 7]));
        let mut ports: Vec<u16> = words.iter().filter_map(|w| w.parse().ok()).collect();
        ports.extend([22, 80, 443, 40_000]);
        let all: Vec<&str> = text.split_whitespace().collect();
        let pairs = all.windows(2).filter(|pair| pair[0] == "-i");
        let mut links: Vec<String> = pairs.map(|pair| pair[1].replace('+', "0")).collect();
        links.extend(["eth0".to_owned(), "eth1".to_owned()]);
        Named {
            hosts,
            ports,
            links,
        }
    }

    /// A packet of these values and their neighbours.
    pub(crate) fn packet(&self, r: &mut Random) -> Described {
        let near = |r: &mut Random, host: IpAddr| match host {
            IpAddr::V4(a) => {
                IpAddr::from((u32::from(a).wrapping_add(r.below(3) as u32)).to_be_bytes())
            }
            other => other,
        };
        let protocol = r.of(&[proto::TCP, proto::TCP, proto::UDP, proto::ICMP]);
        let (src, dst) = (r.of(&self.hosts), r.of(&self.hosts));
        let mut packet = Described::new(protocol, near(r, src), near(r, dst));
        (packet.sport, packet.dport) = (r.of(&self.ports), r.of(&self.ports));
        packet.input = Some(self.links[r.below(self.links.len() as u64) as usize].clone());
        packet
    }
}
