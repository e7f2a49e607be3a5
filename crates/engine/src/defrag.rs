//! Reassembly before connection tracking (`nf_defrag_ipv4`, `nf_defrag_ipv6`).
//!
//! A duplicate fragment is dropped, an overlapping one takes the whole packet with
//! it (RFC 5722; IPv4 alike since Linux 4.20). A fragment that contradicts the length
//! known so far does so in IPv4 only. Memory and time are bounded: where memory is full, the packet
//! that has waited longest makes room, so that a flood of lone fragments costs honest ones nothing.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use tidegate_conntrack::Time;
use tidegate_wire::{Family, be16, be32, checksum, put};

use crate::chain6;
use crate::outcome::FragmentError;
use crate::packet::{Fragments, Packet};

/// Limits of reassembly.
#[derive(Clone, Copy, Debug)]
pub struct DefragLimits {
    /// Bytes of fragments held in all (`ipfrag_high_thresh`, `nf_conntrack_frag6_high_thresh`).
    pub max_bytes: usize,
    /// Nanoseconds after which an incomplete IPv4 packet is given up (`ipfrag_time`).
    pub timeout4: Time,
    /// The same for IPv6 (`nf_conntrack_frag6_timeout`).
    pub timeout6: Time,
}

impl Default for DefragLimits {
    fn default() -> Self {
        DefragLimits {
            max_bytes: 4 << 20,
            timeout4: 30_000_000_000,
            timeout6: 60_000_000_000,
        }
    }
}

impl DefragLimits {
    fn timeout(&self, family: Family) -> Time {
        match family {
            Family::V4 => self.timeout4,
            Family::V6 => self.timeout6,
        }
    }
}

/// Who puts a packet together; fragments for different users never meet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum User {
    /// Connection tracking of received packets.
    Prerouting,
    /// Connection tracking of locally sent packets.
    Output,
    /// Delivery to a local socket.
    Delivery,
}

/// What identifies the packet a fragment belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Key {
    family: Family,
    src: u128,
    dst: u128,
    id: u32,
    proto: u8,
    user: User,
}

/// What a waiting packet costs before any of its fragments is kept, in bytes.
const QUEUE_COST: usize = 256;

#[derive(Debug)]
struct Queue {
    /// Data by byte offset.
    pieces: BTreeMap<u32, Vec<u8>>,
    /// Pieces without gaps that came one after the other, start to end.
    runs: BTreeMap<u32, u32>,
    /// Header of the first fragment, up to the fragmented part.
    head: Option<Vec<u8>>,
    /// The furthest end known; final once the last fragment has been seen.
    len: u32,
    last_seen: bool,
    have: u32,
    largest: u32,
    largest_df: u32,
    bytes: usize,
    deadline: Time,
    /// Place in [`Defrag::ages`].
    age: u64,
    ecn: u8,
}

/// Fragments that wait for the rest of their packets.
#[derive(Debug, Default)]
pub(crate) struct Defrag {
    queues: HashMap<Key, Queue>,
    deadlines: BTreeSet<(Time, Key)>,
    /// In the order in which they began to wait.
    ages: BTreeMap<u64, Key>,
    begun: u64,
    bytes: usize,
}

/// What became of a fragment.
pub(crate) enum Defragged {
    /// Kept.
    Held,
    /// Completed this packet (with the shape of its fragments inside).
    Whole(Box<Packet>),
    /// Not for reassembly: goes on as it is.
    Passed,
    /// Refused.
    Refused(FragmentError),
}

impl Defrag {
    /// Time of the next expiry.
    pub(crate) fn poll_timeout(&self) -> Option<Time> {
        self.deadlines.first().map(|k| k.0)
    }

    /// Bytes held.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Gives up packets whose time has come.
    pub(crate) fn handle_timeout(&mut self, now: Time) {
        while let Some(&(at, key)) = self.deadlines.first()
            && at <= now
        {
            self.remove(&key);
        }
    }

    fn remove(&mut self, key: &Key) -> Option<Queue> {
        let queue = self.queues.remove(key)?;
        self.deadlines.remove(&(queue.deadline, *key));
        self.ages.remove(&queue.age);
        self.bytes -= queue.bytes;
        Some(queue)
    }

    /// Gives up the packets that have waited longest until `wanted` bytes more fit below
    /// `most`; `false` when they never would. The packet of `key` stays.
    fn make_room(&mut self, key: &Key, wanted: usize, most: usize) -> bool {
        let own = self.queues.get(key).map_or(0, |q| q.bytes);
        if own + wanted > most {
            return false;
        }
        while self.bytes + wanted > most {
            let Some(oldest) = self.ages.values().find(|k| *k != key).copied() else {
                return false;
            };
            self.remove(&oldest);
        }
        true
    }

    /// Takes a fragment. `user` separates hooks and zones.
    pub(crate) fn take(
        &mut self,
        packet: &Packet,
        user: User,
        now: Time,
        limits: &DefragLimits,
    ) -> Defragged {
        self.handle_timeout(now);
        let Some(fragment) = Fragment::of(packet, user) else {
            return Defragged::Refused(FragmentError::Shape);
        };
        let key = fragment.key;
        if key.family == Family::V6 {
            if fragment.end() > 65535 {
                return Defragged::Refused(FragmentError::Shape);
            }
            if fragment.more && fragment.end() % 8 != 0 {
                self.remove(&key);
                return Defragged::Passed;
            }
        }
        let cost = fragment.data.len();
        if !self.make_room(&key, cost + QUEUE_COST, limits.max_bytes) {
            return Defragged::Refused(FragmentError::Memory);
        }
        let queue = self.queues.entry(key).or_insert_with(|| {
            let deadline = now.saturating_add(limits.timeout(key.family));
            self.begun += 1;
            self.deadlines.insert((deadline, key));
            self.ages.insert(self.begun, key);
            self.bytes += QUEUE_COST;
            Queue::new(deadline, self.begun)
        });
        if let Err(error) = queue.insert(fragment, packet) {
            if takes_queue_along(key.family, error) {
                self.remove(&key);
            }
            return Defragged::Refused(error);
        }
        queue.bytes += cost;
        self.bytes += cost;
        if !queue.complete() {
            return Defragged::Held;
        }
        match self.remove(&key).and_then(|q| q.join(key.family, packet)) {
            Some(whole) => Defragged::Whole(Box::new(whole)),
            None => Defragged::Refused(FragmentError::Shape),
        }
    }
}

/// Whether a refused fragment discards those already there (`discard_qp` of
/// `ip_frag_queue`, `insert_error` of `nf_ct_frag6_queue`).
fn takes_queue_along(family: Family, error: FragmentError) -> bool {
    match family {
        Family::V4 => error != FragmentError::Duplicate,
        Family::V6 => error == FragmentError::Overlap,
    }
}

/// One fragment, read from a packet.
struct Fragment {
    key: Key,
    offset: u32,
    more: bool,
    /// Header bytes before the fragmented part (IPv6: without the fragment header).
    head: Vec<u8>,
    data: Vec<u8>,
    dont_frag: bool,
}

impl Fragment {
    fn of(p: &Packet, user: User) -> Option<Fragment> {
        let mut fragment = match p.family() {
            Family::V4 => Fragment::of4(p, user),
            Family::V6 => Fragment::of6(p, user),
        }?;
        // IPv4 fragments that more follow count in eights; the rest is cut off.
        if fragment.key.family == Family::V4 && fragment.more {
            let whole = fragment.data.len() & !7;
            fragment.data.truncate(whole);
        }
        Some(fragment)
    }

    fn of4(p: &Packet, user: User) -> Option<Fragment> {
        let (head, data) = p.bytes.split_at_checked(usize::from(p.layout.l4))?;
        Some(Fragment {
            key: Key::of(p, user, u32::from(be16(&p.bytes, 4)?), p.layout.proto),
            offset: u32::from(p.layout.frag_off) * 8,
            more: p.layout.more_frags,
            head: head.to_vec(),
            data: data.to_vec(),
            dont_frag: p.layout.dont_frag,
        })
    }

    fn of6(p: &Packet, user: User) -> Option<Fragment> {
        let found = chain6::fragment_header(&p.bytes)?;
        let data = p.bytes.get(found.at + 8..)?.to_vec();
        let position = be16(&p.bytes, found.at + 2)?;
        let mut head = p.bytes.get(..found.at)?.to_vec();
        *head.get_mut(found.named_at)? = *p.bytes.get(found.at)?;
        Some(Fragment {
            key: Key::of(p, user, be32(&p.bytes, found.at + 4)?, 0),
            offset: u32::from(position & !7),
            more: position & 1 != 0,
            head,
            data,
            dont_frag: true,
        })
    }

    fn end(&self) -> u32 {
        self.offset + self.data.len() as u32
    }
}

impl Key {
    fn of(p: &Packet, user: User, id: u32, proto: u8) -> Key {
        Key {
            family: p.family(),
            src: p.src(),
            dst: p.dst(),
            id,
            proto,
            user,
        }
    }
}

impl Queue {
    fn new(deadline: Time, age: u64) -> Self {
        Queue {
            pieces: BTreeMap::new(),
            runs: BTreeMap::new(),
            head: None,
            len: 0,
            last_seen: false,
            have: 0,
            largest: 0,
            largest_df: 0,
            bytes: QUEUE_COST,
            deadline,
            age,
            ecn: 0,
        }
    }

    /// `ip_frag_queue`, `nf_ct_frag6_queue`
    fn insert(&mut self, f: Fragment, packet: &Packet) -> Result<(), FragmentError> {
        let end = f.end();
        self.measure(end, f.more)?;
        if f.data.is_empty() {
            return Err(FragmentError::Shape);
        }
        self.place(f.offset, end)?;
        let size = (f.head.len() + f.data.len()) as u32;
        self.largest = self.largest.max(match f.key.family {
            Family::V4 => size,
            Family::V6 => packet.layout.len,
        });
        if f.dont_frag {
            self.largest_df = self.largest_df.max(size);
        }
        self.ecn |= 1 << (packet.tos() & 3);
        self.have += f.data.len() as u32;
        if f.offset == 0 {
            self.head = Some(f.head);
        }
        self.pieces.insert(f.offset, f.data);
        Ok(())
    }

    /// What a fragment that ends at `end` says about the packet's length.
    fn measure(&mut self, end: u32, more: bool) -> Result<(), FragmentError> {
        let contradiction = if more {
            self.last_seen && end > self.len
        } else {
            end < self.len || (self.last_seen && end != self.len)
        };
        if contradiction {
            return Err(FragmentError::Shape);
        }
        self.len = self.len.max(end);
        self.last_seen |= !more;
        Ok(())
    }

    /// Finds room for a fragment (`inet_frag_queue_insert`): one that lies inside what
    /// came without gaps is a duplicate.
    fn place(&mut self, offset: u32, end: u32) -> Result<(), FragmentError> {
        let tail = self.runs.last_entry();
        let tail_end = tail.as_ref().map_or(0, |t| *t.get());
        if let Some(mut tail) = tail
            && tail_end == offset
        {
            *tail.get_mut() = end;
            return Ok(());
        }
        if let Some((&start, &run_end)) = self.runs.range(..end).next_back()
            && run_end > offset
        {
            let inside = start <= offset && end <= run_end;
            return Err(if inside {
                FragmentError::Duplicate
            } else {
                FragmentError::Overlap
            });
        }
        self.runs.insert(offset, end);
        Ok(())
    }

    fn complete(&self) -> bool {
        self.head.is_some() && self.last_seen && self.len == self.have
    }

    /// Puts the packet together; `last` is the fragment that completed it and lends
    /// its metadata.
    fn join(self, family: Family, last: &Packet) -> Option<Packet> {
        let mut bytes = self.head?;
        let ecn = ecn_of(self.ecn)?;
        let sizes: Vec<u16> = self.pieces.values().map(|p| p.len() as u16).collect();
        for piece in self.pieces.values() {
            bytes.extend_from_slice(piece);
        }
        match family {
            Family::V4 => {
                if bytes.len() > 65535 {
                    return None;
                }
                let dont_frag = self.largest_df == self.largest;
                let total = bytes.len() as u16;
                put(&mut bytes, 2, &total.to_be_bytes());
                put(&mut bytes, 6, &[if dont_frag { 0x40 } else { 0 }, 0]);
                let tos = bytes[1] | ecn;
                put(&mut bytes, 1, &[tos]);
                checksum::fix_ipv4(&mut bytes);
            }
            Family::V6 => {
                let payload = u16::try_from(bytes.len() - 40).ok()?;
                put(&mut bytes, 4, &payload.to_be_bytes());
                bytes[1] |= ecn << 4;
            }
        }
        let mut whole = Packet::new(bytes).ok()?;
        whole.mark = last.mark;
        whole.tracking = last.tracking.clone();
        whole.in_dev = last.in_dev;
        whole.out_dev = last.out_dev;
        whole.in_name = last.in_name;
        whole.out_name = last.out_name;
        whole.link = last.link;
        whole.to_host = last.to_host;
        whole.as_sent = last.as_sent;
        whole.fragments = Some(Fragments {
            sizes,
            largest: self.largest,
            dont_frag: family == Family::V4 && self.largest_df == self.largest,
            delivered: false,
        });
        Some(whole)
    }
}

/// RFC 3168 5.3: congestion experienced in one fragment counts for the packet; a mix
/// of ECN-capable and not is refused (`ip_frag_ecn_table`). `seen` has one bit per
/// code point.
fn ecn_of(seen: u8) -> Option<u8> {
    let (not, capable, ce) = (seen & 1, seen & 0b0110, seen & 0b1000);
    match (not, capable, ce) {
        (1, 0, 0) => Some(0),
        (1, _, _) => None,
        (_, 1.., 0b1000) => Some(3),
        _ => Some(0),
    }
}

/// Whether reassembly takes the packet. IPv6 fragments that are whole packets ("atomic
/// fragments") lose their fragment header too; a first IPv6 fragment that cuts the
/// transport header short goes on as it is (`nf_ct_frag6_gather`).
pub(crate) fn takes(packet: &Packet) -> bool {
    let layout = &packet.layout;
    match packet.family() {
        Family::V4 => layout.is_fragment(),
        Family::V6 => {
            (layout.proto_at != 6 || layout.broken_chain)
                && be16(&packet.bytes, 4) != Some(0)
                && chain6::fragment_header(&packet.bytes)
                    .is_some_and(|found| !chain6::transport_truncated(&packet.bytes, found.at))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An IPv4 fragment of a UDP packet at byte `offset`.
    fn piece(offset: u16, len: usize, more: bool) -> Packet {
        let mut bytes = vec![
            0x45, 0, 0, 0, 0, 1, 0, 0, 64, 17, 0, 0, 10, 0, 0, 2, 10, 0, 1, 2,
        ];
        let total = (20 + len) as u16;
        put(&mut bytes, 2, &total.to_be_bytes());
        let position = (offset / 8) | if more { 0x2000 } else { 0 };
        put(&mut bytes, 6, &position.to_be_bytes());
        bytes.resize(20 + len, b'x');
        checksum::fix_ipv4(&mut bytes);
        Packet::new(bytes).unwrap()
    }

    fn feed(defrag: &mut Defrag, packet: &Packet) -> Defragged {
        defrag.take(packet, User::Prerouting, 0, &DefragLimits::default())
    }

    #[test]
    fn ipv4_cuts_the_odd_end_off_a_fragment_that_more_follow() {
        let mut d = Defrag::default();
        assert!(matches!(feed(&mut d, &piece(0, 12, true)), Defragged::Held));
        match feed(&mut d, &piece(8, 12, false)) {
            Defragged::Whole(p) => assert_eq!(p.bytes.len(), 20 + 8 + 12),
            _ => panic!("not put together"),
        }
        assert_eq!(d.bytes(), 0);
    }

    #[test]
    fn an_end_before_data_already_there_discards_the_packet() {
        let mut d = Defrag::default();
        assert!(matches!(feed(&mut d, &piece(0, 32, true)), Defragged::Held));
        let shorter = feed(&mut d, &piece(24, 4, false));
        assert!(matches!(shorter, Defragged::Refused(FragmentError::Shape)));
        assert_eq!(d.bytes(), 0);
    }

    #[test]
    fn what_repeats_a_gapless_run_is_a_duplicate() {
        let mut d = Defrag::default();
        for (offset, more) in [(0, true), (8, true)] {
            assert!(matches!(
                feed(&mut d, &piece(offset, 8, more)),
                Defragged::Held
            ));
        }
        let again = feed(&mut d, &piece(0, 16, true));
        assert!(matches!(
            again,
            Defragged::Refused(FragmentError::Duplicate)
        ));
        assert!(matches!(
            feed(&mut d, &piece(16, 8, false)),
            Defragged::Whole(_)
        ));
    }

    /// A fragment of another source's packet, alone.
    fn lone(n: u32) -> Packet {
        let mut bytes = piece(0, 1480, true).bytes;
        put(&mut bytes, 12, &(0xc000_0000 | n).to_be_bytes());
        checksum::fix_ipv4(&mut bytes);
        Packet::new(bytes).unwrap()
    }

    /// Linux 6.18 lets none of 50 through once 1,676 lone ones wait.
    #[test]
    fn honest_fragments_get_through_a_flood_of_lone_ones() {
        let mut d = Defrag::default();
        let most = DefragLimits::default().max_bytes;
        let (mut sent, mut whole) = (0, 0);
        let mut flood = |d: &mut Defrag, count: u32| {
            for n in sent..sent + count {
                assert!(matches!(feed(d, &lone(n)), Defragged::Held));
                assert!(d.bytes() <= most);
            }
            sent += count;
        };
        flood(&mut d, 3000);
        for _ in 0..50 {
            feed(&mut d, &piece(0, 1480, true));
            flood(&mut d, 600);
            let done = feed(&mut d, &piece(1480, 100, false));
            whole += u32::from(matches!(done, Defragged::Whole(_)));
        }
        assert_eq!(whole, 50);
        d.handle_timeout(u64::MAX);
        assert_eq!((d.bytes(), d.ages.len(), d.deadlines.len()), (0, 0, 0));
    }

    /// What grows beyond all memory goes, and takes nothing along.
    #[test]
    fn a_packet_larger_than_memory_is_refused() {
        let mut d = Defrag::default();
        let limits = DefragLimits {
            max_bytes: 2200,
            ..DefragLimits::default()
        };
        let mut take = |p: &Packet| d.take(p, User::Prerouting, 0, &limits);
        assert!(matches!(take(&lone(1)), Defragged::Held));
        let refused = take(&piece(0, 2000, true));
        assert!(matches!(refused, Defragged::Refused(FragmentError::Memory)));
        assert!(matches!(take(&lone(1)), Defragged::Refused(_)));
        assert!(matches!(take(&piece(0, 800, true)), Defragged::Held));
        assert!(matches!(take(&piece(800, 800, true)), Defragged::Held));
        let refused = take(&piece(1600, 800, true));
        assert!(matches!(refused, Defragged::Refused(FragmentError::Memory)));
    }

    #[test]
    fn a_mix_of_ecn_capable_and_not_is_refused() {
        let bit = |point: u8| 1 << point;
        assert_eq!(ecn_of(bit(0)), Some(0));
        assert_eq!(ecn_of(bit(0) | bit(1)), None);
        assert_eq!(ecn_of(bit(0) | bit(3)), None);
        assert_eq!(ecn_of(bit(2) | bit(3)), Some(3));
        assert_eq!(ecn_of(bit(1) | bit(2)), Some(0));
    }
}
