//! Damaged packets: nothing panics, nothing is lost or counted twice.
#![allow(clippy::unwrap_used, reason = "a test over packets of its own")]

use tidegate_conntrack::config::Config;
use tidegate_conntrack::{Conntrack, InHook, SECOND, Time, Tracked};

/// A small generator (xorshift), so that a failure repeats.
struct Random(u64);

impl Random {
    fn below(&mut self, n: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 16) as usize % n
    }
}

fn corpus() -> Vec<Vec<u8>> {
    let mut out = Vec::new();
    for file in ["tcp.txt", "misc.txt", "sctp.txt"] {
        let path = format!("{}/tests/corpus/{file}", env!("CARGO_MANIFEST_DIR"));
        let text = std::fs::read_to_string(path).unwrap();
        for hex in text.lines().filter_map(|l| l.strip_prefix("> ")) {
            out.push(
                (0..hex.len() / 2)
                    .map(|i| u8::from_str_radix(&hex[2 * i..2 * i + 2], 16).unwrap())
                    .collect(),
            );
        }
    }
    out
}

/// Some bytes changed, some cut, the lengths made to fit so that the parser agrees.
fn damage(random: &mut Random, pkt: &[u8]) -> Vec<u8> {
    let mut pkt = pkt.to_vec();
    pkt.truncate(pkt.len() - random.below(9).min(pkt.len() - 1));
    for _ in 0..random.below(4) {
        let at = random.below(pkt.len());
        pkt[at] ^= 1 << random.below(8);
    }
    let len = pkt.len();
    if pkt[0] >> 4 == 4 && len >= 20 {
        pkt[2..4].copy_from_slice(&(len as u16).to_be_bytes());
        tidegate_wire::checksum::fix_ipv4(&mut pkt);
    } else if len >= 40 {
        pkt[4..6].copy_from_slice(&((len - 40) as u16).to_be_bytes());
    }
    pkt
}

#[test]
fn damaged_packets_keep_the_books_balanced() {
    let corpus = corpus();
    let mut random = Random(0x5eed);
    let mut now: Time = SECOND;
    let mut ct = Conntrack::new(Config {
        max: 8,
        buckets: 512,
        events: true,
        acct: true,
        checksum: false,
        ..Config::default()
    });
    let mut seen = [0; 4];
    for _ in 0..200_000 {
        now += random.below(SECOND as usize) as Time;
        let whole = &corpus[random.below(corpus.len())];
        let pkt = damage(&mut random, whole);
        let Ok(layout) = tidegate_wire::parse(&pkt) else {
            continue;
        };
        match ct.handle_packet(now, &pkt, &layout, InHook::Prerouting, None) {
            Tracked::Ct(at) if random.below(10) == 0 => ct.release(at.id),
            Tracked::Ct(mut at) => {
                seen[0] += 1;
                // Only a clash is refused here, and none can happen.
                ct.confirm(now, &mut at).unwrap();
            }
            Tracked::Untracked => seen[1] += 1,
            Tracked::Invalid(reason) => {
                seen[2] += 1;
                assert!(!reason.to_string().is_empty());
            }
            Tracked::Drop(_) => seen[3] += 1,
        }
        assert_eq!(ct.count() as usize, ct.iter().count());
        assert!(ct.count() <= 8);
        let wake = ct.poll_timeout();
        assert!(
            wake.is_none_or(|at| at > now),
            "{wake:?} at {now}: {pkt:x?}"
        );
    }
    assert!(seen.iter().all(|&n| n > 0), "{seen:?}");
    let events = ct.events();
    let of = |kind| events.iter().filter(|e| e.kind == kind).count();
    use tidegate_conntrack::event::EventKind::{Destroy, New};
    assert_eq!(of(New), of(Destroy) + ct.count() as usize);
    ct.flush();
    // What a full table asked for is done within a minute.
    ct.handle_timeout(now + 60 * SECOND);
    assert_eq!((ct.count(), ct.iter().count()), (0, 0));
    assert_eq!(ct.poll_timeout(), None);
}
