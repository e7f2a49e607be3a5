//! Packet filters of the kernel's own, in this network namespace.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::process::{Command, Stdio};

use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_NETFILTER};

/// Rules of the kernel in one table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Foreign {
    /// Which table, in words.
    pub table: String,
    /// How many rules; `None` where that is not known.
    pub rules: Option<usize>,
    /// The command that removes them.
    pub removal: String,
}

/// Sizes and kinds of netlink messages (uapi `netlink.h`, `nfnetlink.h`, `nf_tables.h`).
const HEADER: usize = 16;
const NF_HEADER: usize = 4;
const ATTRIBUTE: usize = 4;
const ERROR: u16 = 2;
const DONE: u16 = 3;
const REQUEST_DUMP: u16 = 0x301;
const NFTABLES: u16 = 10 << 8;
const NEW_RULE: u16 = 6;
const GET_RULE: u16 = 7;
/// `NFTA_RULE_TABLE`.
const RULE_TABLE: u16 = 1;
/// More than the kernel puts in one answer.
const ANSWER: usize = 1 << 16;
/// Answers of one list that are read.
const MOST_ANSWERS: usize = 10_000;

/// Names of `NFPROTO_*` as nft writes them.
const FAMILIES: [(u8, &str); 6] = [
    (1, "inet"),
    (2, "ip"),
    (3, "arp"),
    (5, "netdev"),
    (7, "bridge"),
    (10, "ip6"),
];

/// Rules of nftables (those that iptables-nft makes among them) and of iptables-legacy.
/// What this user may not see is left out.
#[must_use]
pub fn kernel_rules() -> Vec<Foreign> {
    let mut found = nftables().unwrap_or_default();
    found.extend(legacy("ip_tables_names", "iptables-legacy"));
    found.extend(legacy("ip6_tables_names", "ip6tables-legacy"));
    found
}

/// Tables of iptables-legacy, by those that exist and what its tool says about them.
fn legacy(names: &str, tool: &str) -> Vec<Foreign> {
    let names = fs::read_to_string(format!("/proc/net/{names}")).unwrap_or_default();
    let count = |table: &str| {
        let save = Command::new(format!("{tool}-save"))
            .args(["-t", table])
            .stdin(Stdio::null())
            .stderr(Stdio::null())
            .output()
            .ok()?;
        let text = String::from_utf8_lossy(&save.stdout).into_owned();
        save.status
            .success()
            .then(|| text.lines().filter(|l| l.starts_with("-A")).count())
    };
    let tables = names.lines().map(|table| Foreign {
        table: format!("{tool} table {table}"),
        rules: count(table),
        removal: format!("{tool} -t {table} -F"),
    });
    tables.filter(|f| f.rules != Some(0)).collect()
}

fn nftables() -> io::Result<Vec<Foreign>> {
    let mut socket = Socket::new(NETLINK_NETFILTER)?;
    socket.bind_auto()?;
    socket.connect(&SocketAddr::new(0, 0))?;
    let mut request = Vec::with_capacity(HEADER + NF_HEADER);
    request.extend(((HEADER + NF_HEADER) as u32).to_ne_bytes());
    request.extend((NFTABLES | GET_RULE).to_ne_bytes());
    request.extend(REQUEST_DUMP.to_ne_bytes());
    // Sequence number, port, and family, version and resource: any.
    request.extend([0; 12]);
    socket.send(&request, 0)?;
    let mut counts: BTreeMap<(u8, String), usize> = BTreeMap::new();
    let mut answer = Vec::with_capacity(ANSWER);
    for _ in 0..MOST_ANSWERS {
        answer.clear();
        socket.recv(&mut answer, 0)?;
        if !take(&answer, &mut counts) {
            break;
        }
    }
    let named = |family: u8| FAMILIES.iter().find(|f| f.0 == family).map_or("?", |f| f.1);
    let one = |((family, table), rules): ((u8, String), usize)| {
        let name = format!("{} {table}", named(family));
        Foreign {
            table: format!("nft table {name}"),
            rules: Some(rules),
            removal: format!("nft delete table {name}"),
        }
    };
    Ok(counts.into_iter().map(one).collect())
}

/// Counts the rules in an answer; whether more follows.
fn take(mut bytes: &[u8], counts: &mut BTreeMap<(u8, String), usize>) -> bool {
    if bytes.is_empty() {
        return false;
    }
    while let Some((len, kind)) = head(bytes) {
        let Some(message) = bytes.get(HEADER..len) else {
            return false;
        };
        match kind {
            ERROR | DONE => return false,
            k if k == NFTABLES | NEW_RULE => {
                if let Some(table) = message.get(NF_HEADER..).and_then(table) {
                    *counts.entry((message[0], table)).or_default() += 1;
                }
            }
            _ => {}
        }
        bytes = bytes.get(len.next_multiple_of(4)..).unwrap_or(&[]);
    }
    true
}

/// Length and kind of the message at the start.
fn head(bytes: &[u8]) -> Option<(usize, u16)> {
    let len = u32::from_ne_bytes(*bytes.first_chunk()?) as usize;
    let kind = u16::from_ne_bytes(bytes.get(4..6)?.try_into().ok()?);
    (len >= HEADER).then_some((len, kind))
}

/// The table's name among a rule's attributes.
fn table(mut attributes: &[u8]) -> Option<String> {
    loop {
        let len = usize::from(u16::from_ne_bytes(attributes.get(..2)?.try_into().ok()?));
        let kind = u16::from_ne_bytes(attributes.get(2..4)?.try_into().ok()?);
        let value = attributes.get(ATTRIBUTE..len)?;
        if kind == RULE_TABLE {
            let name = value.split(|&b| b == 0).next()?;
            return Some(String::from_utf8_lossy(name).into_owned());
        }
        attributes = attributes.get(len.next_multiple_of(4)..)?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_read_and_broken_ones_do_no_harm() {
        let mut rule = vec![2, 0, 0, 0];
        rule.extend([8, 0, 9, 0, 1, 2, 3, 4]);
        rule.extend([11, 0, 1, 0]);
        rule.extend(b"filter\0\0");
        let mut message = ((HEADER + rule.len()) as u32).to_ne_bytes().to_vec();
        message.extend((NFTABLES | NEW_RULE).to_ne_bytes());
        message.extend([0; 10]);
        message.extend(&rule);
        let two = [message.clone(), message.clone()].concat();
        let mut counts = BTreeMap::new();
        assert!(take(&two, &mut counts));
        assert_eq!(counts, BTreeMap::from([((2, "filter".to_owned()), 2)]));
        for cut in 0..message.len() {
            take(&message[..cut], &mut counts);
        }
        assert_eq!(counts.len(), 1);
    }
}
