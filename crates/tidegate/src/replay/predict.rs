//! Packets that the engine has sent, waiting to be seen in the capture.

use std::collections::{HashMap, VecDeque};
use std::hash::{DefaultHasher, Hash, Hasher};

use tidegate_engine::env::IfIndex;
use tidegate_wire::{Layout, be16, parse, proto, tcp::Tcp};

/// How many packets may be on their way out at once.
const MOST: usize = 4096;
/// How long a packet may take from one side of the host to the other.
const LONGEST_NS: u64 = 1_000_000_000;
/// Bytes kept from the transport header on: the longest TCP header, and 64 bytes behind
/// that of UDP.
const LOOKED_AT: usize = 72;

/// A packet that left.
#[derive(Debug)]
struct Sent {
    /// Number of the captured packet that caused it.
    of: u64,
    time_ns: u64,
    dev: IfIndex,
    layout: Layout,
    /// What [`identity`] and [`differences`] look at.
    head: Vec<u8>,
    /// [`identity`], once somebody asked.
    identity: Option<u64>,
}

/// What the engine sent and the capture has not shown yet.
///
/// Most captures show nothing leaving, so packets are only kept here, and sorted by
/// identity when the first one is asked for.
#[derive(Debug, Default)]
pub(super) struct Predictions {
    /// In the order they were sent.
    sent: VecDeque<Sent>,
    /// How many were sent before the first of those.
    gone: u64,
    /// How many of those have their number in `by_identity`.
    sorted: usize,
    /// Numbers of packets, counted from the beginning of the replay.
    by_identity: HashMap<u64, VecDeque<u64>>,
    /// Buffer for the next packet.
    spare: Vec<u8>,
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
        let Ok(layout) = parse(bytes) else {
            return;
        };
        self.forget(time_ns);
        let mut head = std::mem::take(&mut self.spare);
        head.clear();
        head.extend_from_slice(looked_at(bytes, &layout));
        self.sent.push_back(Sent {
            of,
            time_ns,
            dev,
            layout,
            head,
            identity: None,
        });
    }

    /// Whether a packet captured on its way out is one that was predicted.
    pub(super) fn take(&mut self, time_ns: u64, dev: IfIndex, bytes: &[u8]) -> Option<Seen> {
        self.forget(time_ns);
        if self.sent.is_empty() {
            return None;
        }
        self.sort();
        let layout = parse(bytes).ok()?;
        let head = looked_at(bytes, &layout);
        let identity = identity_of(head, &layout)?;
        let (sent, gone) = (&self.sent, self.gone);
        let nth = |number: &u64| sent.get(number.checked_sub(gone)? as usize);
        let waiting = self.by_identity.get_mut(&identity)?;
        let same = waiting
            .iter()
            .position(|n| nth(n).is_some_and(|s| s.dev == dev));
        let found = nth(&waiting.remove(same.unwrap_or(0))?)?;
        if waiting.is_empty() {
            self.by_identity.remove(&identity);
        }
        let mut differs = differences((&found.head, &found.layout), (head, &layout));
        if found.dev != dev {
            differs.insert(0, "interface");
        }
        Some(Seen {
            of: found.of,
            differs,
        })
    }

    /// Enters what was sent since the last time into `by_identity`.
    fn sort(&mut self) {
        let first = self.gone + self.sorted as u64;
        for (number, sent) in (first..).zip(self.sent.iter_mut().skip(self.sorted)) {
            sent.identity = identity_of(&sent.head, &sent.layout);
            if let Some(identity) = sent.identity {
                let waiting = self.by_identity.entry(identity).or_default();
                waiting.push_back(number);
            }
        }
        self.sorted = self.sent.len();
    }

    fn forget(&mut self, now: u64) {
        while let Some(oldest) = self.sent.front() {
            if self.sent.len() < MOST && now.saturating_sub(oldest.time_ns) <= LONGEST_NS {
                break;
            }
            if let Some(identity) = oldest.identity
                && let Some(waiting) = self.by_identity.get_mut(&identity)
            {
                if waiting.front() == Some(&self.gone) {
                    waiting.pop_front();
                }
                if waiting.is_empty() {
                    self.by_identity.remove(&identity);
                }
            }
            if let Some(oldest) = self.sent.pop_front() {
                self.spare = oldest.head;
            }
            self.gone += 1;
            self.sorted = self.sorted.saturating_sub(1);
        }
    }
}

/// The headers and a little more.
fn looked_at<'a>(bytes: &'a [u8], layout: &Layout) -> &'a [u8] {
    let whole = bytes.get(..layout.len as usize).unwrap_or(bytes);
    whole
        .get(..usize::from(layout.l4) + LOOKED_AT)
        .unwrap_or(whole)
}

/// A hash over what translation and forwarding leave alone.
pub(super) fn identity(bytes: &[u8]) -> Option<u64> {
    let layout = parse(bytes).ok()?;
    identity_of(looked_at(bytes, &layout), &layout)
}

fn identity_of(head: &[u8], layout: &Layout) -> Option<u64> {
    let l4 = layout.l4(head);
    let mut hash = DefaultHasher::new();
    (layout.proto, layout.len, layout.frag_off).hash(&mut hash);
    match layout.proto {
        _ if layout.frag_off != 0 => part(l4, 0).hash(&mut hash),
        proto::TCP => {
            let tcp = Tcp::new(l4)?;
            (tcp.seq(), tcp.ack(), tcp.flags(), tcp.window()).hash(&mut hash);
        }
        proto::UDP | proto::UDPLITE => part(l4, 8).hash(&mut hash),
        // Type and code, then what follows the identifier.
        proto::ICMP | proto::ICMPV6 => (be16(l4, 0), part(l4, 6)).hash(&mut hash),
        _ => part(l4, 0).hash(&mut hash),
    }
    Some(hash.finish())
}

/// Up to 64 bytes from `from` on.
fn part(l4: &[u8], from: usize) -> &[u8] {
    let rest = l4.get(from..).unwrap_or(&[]);
    rest.get(..64).unwrap_or(rest)
}

/// Names of the fields in which two packets of one identity differ. Checksums follow
/// from the rest; the identification of a packet that this host made is random.
fn differences(sent: (&[u8], &Layout), seen: (&[u8], &Layout)) -> Vec<&'static str> {
    let ((sent, a), (seen, b)) = (sent, seen);
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
            has_ports && ports(sent, a, 0) != ports(seen, b, 0),
        ),
        (
            "destination port",
            has_ports && ports(sent, a, 2) != ports(seen, b, 2),
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
        assert!(waiting.sent.len() <= MOST);
        let last = 3 * MOST as u64 - 1;
        let packet = |n: u64| udp(1, 63, &n.to_be_bytes());
        assert_eq!(waiting.take(0, IfIndex(3), &packet(1)), None);
        let seen = waiting.take(0, IfIndex(3), &packet(last));
        assert_eq!(seen.map(|s| s.of), Some(last));
        for n in 0..3 * MOST as u64 {
            waiting.add(n, 0, IfIndex(3), &packet(n));
            assert!(n % 7 != 0 || waiting.take(0, IfIndex(3), &packet(n)).is_some());
        }
        assert!(waiting.by_identity.len() <= MOST);
    }
}
