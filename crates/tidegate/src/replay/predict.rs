//! Packets that the engine has sent, waiting to be seen in the capture.

use std::collections::{HashMap, VecDeque};
use std::hash::{DefaultHasher, Hash, Hasher};

use tidegate_engine::env::IfIndex;
use tidegate_wire::{Layout, be16, parse, proto, tcp::Tcp};

/// How many packets may be on their way out at once.
const MOST: usize = 4096;
/// How long a packet may take from one side of the host to the other.
const LONGEST_NS: u64 = 1_000_000_000;

/// A packet that left.
#[derive(Debug)]
struct Sent {
    /// Number of the captured packet that caused it.
    of: u64,
    time_ns: u64,
    dev: IfIndex,
    bytes: Vec<u8>,
}

/// What the engine sent and the capture has not shown yet.
#[derive(Debug, Default)]
pub(super) struct Predictions {
    by_identity: HashMap<u64, VecDeque<Sent>>,
    /// Identities in the order they came in, with their time.
    order: VecDeque<(u64, u64)>,
}

/// A captured packet that was predicted.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Seen {
    /// Number of the packet that caused it.
    pub(super) of: u64,
    /// Fields that differ.
    pub(super) differs: Vec<&'static str>,
}

impl Predictions {
    /// Remembers a packet that the engine sent because of captured packet `of`.
    pub(super) fn add(&mut self, of: u64, time_ns: u64, dev: IfIndex, bytes: &[u8]) {
        let Some(identity) = identity(bytes) else {
            return;
        };
        self.forget(time_ns);
        self.order.push_back((identity, time_ns));
        self.by_identity
            .entry(identity)
            .or_default()
            .push_back(Sent {
                of,
                time_ns,
                dev,
                bytes: bytes.to_vec(),
            });
    }

    /// Whether a packet captured on its way out is one that was predicted.
    pub(super) fn take(&mut self, time_ns: u64, dev: IfIndex, bytes: &[u8]) -> Option<Seen> {
        self.forget(time_ns);
        if self.order.is_empty() {
            return None;
        }
        let identity = identity(bytes)?;
        let waiting = self.by_identity.get_mut(&identity)?;
        let at = waiting.iter().position(|s| s.dev == dev).unwrap_or(0);
        let sent = waiting.remove(at)?;
        if waiting.is_empty() {
            self.by_identity.remove(&identity);
        }
        let mut differs = differences(&sent.bytes, bytes);
        if sent.dev != dev {
            differs.insert(0, "interface");
        }
        Some(Seen {
            of: sent.of,
            differs,
        })
    }

    fn forget(&mut self, now: u64) {
        while let Some(&(identity, time)) = self.order.front() {
            if self.order.len() < MOST && now.saturating_sub(time) <= LONGEST_NS {
                break;
            }
            self.order.pop_front();
            if let Some(waiting) = self.by_identity.get_mut(&identity) {
                if waiting.front().is_some_and(|s| s.time_ns <= time) {
                    waiting.pop_front();
                }
                if waiting.is_empty() {
                    self.by_identity.remove(&identity);
                }
            }
        }
    }
}

/// A hash over what translation and forwarding leave alone.
pub(super) fn identity(bytes: &[u8]) -> Option<u64> {
    let layout = parse(bytes).ok()?;
    let l4 = layout.l4(bytes.get(..layout.len as usize)?);
    let mut hash = DefaultHasher::new();
    (layout.proto, layout.len, layout.frag_off).hash(&mut hash);
    match layout.proto {
        _ if layout.frag_off != 0 => head(l4, 0).hash(&mut hash),
        proto::TCP => {
            let tcp = Tcp::new(l4)?;
            (tcp.seq(), tcp.ack(), tcp.flags(), tcp.window()).hash(&mut hash);
        }
        proto::UDP | proto::UDPLITE => head(l4, 8).hash(&mut hash),
        // Type and code, then what follows the identifier.
        proto::ICMP | proto::ICMPV6 => (be16(l4, 0), head(l4, 6)).hash(&mut hash),
        _ => head(l4, 0).hash(&mut hash),
    }
    Some(hash.finish())
}

/// Up to 64 bytes from `from` on.
fn head(l4: &[u8], from: usize) -> &[u8] {
    let rest = l4.get(from..).unwrap_or(&[]);
    rest.get(..64).unwrap_or(rest)
}

/// Names of the fields in which two packets of one identity differ. Checksums follow
/// from the rest; the identification of a packet that this host made is random.
fn differences(sent: &[u8], seen: &[u8]) -> Vec<&'static str> {
    let (Ok(a), Ok(b)) = (parse(sent), parse(seen)) else {
        return vec!["header"];
    };
    let ports = |bytes: &[u8], l: &Layout, at| be16(l.l4(bytes), at);
    let has_ports = a.has_l4() && matches!(a.proto, proto::TCP | proto::UDP | proto::UDPLITE);
    let checks = [
        ("family", a.family != b.family),
        ("source", a.src(sent) != b.src(seen)),
        ("destination", a.dst(sent) != b.dst(seen)),
        ("ttl", a.ttl(sent) != b.ttl(seen)),
        ("tos", sent.get(1) != seen.get(1)),
        (
            "source port",
            has_ports && ports(sent, &a, 0) != ports(seen, &b, 0),
        ),
        (
            "destination port",
            has_ports && ports(sent, &a, 2) != ports(seen, &b, 2),
        ),
    ];
    let named = checks.into_iter().filter(|c| c.1).map(|c| c.0);
    named.collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use tidegate_wire::checksum;

    fn udp(src: u8, ttl: u8, payload: &[u8]) -> Vec<u8> {
        let len = (28 + payload.len()) as u8;
        let mut p = vec![0x45, 0, 0, len, 0, 1, 0, 0, ttl, 17, 0, 0];
        p.extend([10, 0, 0, src, 10, 0, 1, 2, 0, 99, 0, 53, 0, len - 20, 0, 0]);
        p.extend(payload);
        checksum::fix_ipv4(&mut p);
        p
    }

    #[test]
    fn a_forwarded_packet_is_recognised_and_only_once() {
        let mut waiting = Predictions::default();
        waiting.add(7, 1000, IfIndex(3), &udp(1, 63, b"hello"));
        let seen = waiting.take(2000, IfIndex(3), &udp(1, 63, b"hello"));
        assert_eq!(
            seen,
            Some(Seen {
                of: 7,
                differs: vec![]
            })
        );
        assert_eq!(waiting.take(2000, IfIndex(3), &udp(1, 63, b"hello")), None);
    }

    #[test]
    fn what_was_done_differently_is_named() {
        let mut waiting = Predictions::default();
        waiting.add(7, 1000, IfIndex(3), &udp(1, 63, b"hello"));
        let seen = waiting
            .take(2000, IfIndex(4), &udp(2, 64, b"hello"))
            .unwrap();
        assert_eq!(seen.differs, ["interface", "source", "ttl"]);
        waiting.add(8, 1000, IfIndex(3), &udp(1, 63, b"hello"));
        assert_eq!(waiting.take(2000, IfIndex(3), &udp(1, 63, b"other")), None);
    }

    #[test]
    fn predictions_grow_old_and_are_limited() {
        let mut waiting = Predictions::default();
        waiting.add(1, 0, IfIndex(3), &udp(1, 63, b"a"));
        assert_eq!(
            waiting.take(2 * LONGEST_NS, IfIndex(3), &udp(1, 63, b"a")),
            None
        );
        for n in 0..3 * MOST as u64 {
            waiting.add(n, 0, IfIndex(3), &udp(1, 63, &n.to_be_bytes()));
        }
        assert!(waiting.order.len() <= MOST);
        assert!(waiting.by_identity.len() <= MOST);
    }
}
