//! Reassembly before connection tracking (`nf_defrag_ipv4`, `nf_defrag_ipv6`).
//!
//! A duplicate fragment is dropped, an overlapping one takes the whole packet with
//! it (RFC 5722; IPv4 alike since Linux 4.20). Memory and time are bounded.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use tidegate_conntrack::Time;
use tidegate_wire::{Family, be16, be32, checksum, proto, put};

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

#[derive(Debug)]
struct Piece {
    data: Vec<u8>,
}

#[derive(Debug)]
struct Queue {
    /// Pieces by byte offset.
    pieces: BTreeMap<u32, Piece>,
    /// Header of the first fragment, up to the fragmented part.
    head: Option<Vec<u8>>,
    /// Total payload bytes, known once the last fragment is there.
    total: Option<u32>,
    have: u32,
    largest: u32,
    largest_df: u32,
    bytes: usize,
    deadline: Time,
    ecn: u8,
    mark: u32,
}

/// Fragments that wait for the rest of their packets.
#[derive(Debug, Default)]
pub(crate) struct Defrag {
    queues: HashMap<Key, Queue>,
    deadlines: BTreeSet<(Time, Key)>,
    bytes: usize,
}

/// What became of a fragment.
pub(crate) enum Defragged {
    /// Kept.
    Held,
    /// Completed this packet (with the shape of its fragments inside).
    Whole(Box<Packet>),
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
        self.bytes -= queue.bytes;
        Some(queue)
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
        if self.bytes + fragment.data.len() > limits.max_bytes {
            return Defragged::Refused(FragmentError::Memory);
        }
        let key = fragment.key;
        let queue = self.queues.entry(key).or_insert_with(|| {
            let deadline = now.saturating_add(limits.timeout(key.family));
            self.deadlines.insert((deadline, key));
            Queue::new(deadline)
        });
        let added = fragment.data.len();
        match queue.insert(fragment, packet) {
            Ok(()) => {
                queue.bytes += added;
                self.bytes += added;
            }
            Err(FragmentError::Overlap) => {
                self.remove(&key);
                return Defragged::Refused(FragmentError::Overlap);
            }
            Err(other) => {
                if queue.pieces.is_empty() {
                    self.remove(&key);
                }
                return Defragged::Refused(other);
            }
        }
        if !queue.complete() {
            return Defragged::Held;
        }
        match self.remove(&key).and_then(|q| q.join(key.family, packet)) {
            Some(whole) => Defragged::Whole(Box::new(whole)),
            None => Defragged::Refused(FragmentError::Shape),
        }
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
        let l = &p.layout;
        let (start, id, proto, head) = match p.family() {
            Family::V4 => {
                let start = usize::from(l.l4);
                (
                    start,
                    u32::from(be16(&p.bytes, 4)?),
                    l.proto,
                    p.bytes.get(..start)?.to_vec(),
                )
            }
            Family::V6 => {
                let at = usize::from(l.frag_hdr);
                let head = unfragmentable6(&p.bytes, at)?;
                (at + 8, be32(&p.bytes, at + 4)?, 0, head)
            }
        };
        let data = p.bytes.get(start..)?.to_vec();
        let offset = u32::from(l.frag_off) * 8;
        if l.more_frags && (data.is_empty() || data.len() % 8 != 0) {
            return None;
        }
        if offset as usize + data.len() + head.len()
            > 65535 + usize::from(p.family() == Family::V6) * 40
        {
            return None;
        }
        let key = Key {
            family: p.family(),
            src: p.src(),
            dst: p.dst(),
            id,
            proto,
            user,
        };
        Some(Fragment {
            key,
            offset,
            more: l.more_frags,
            head,
            data,
            dont_frag: l.dont_frag,
        })
    }
}

/// The headers before the fragment header, with the chain closed over the gap.
fn unfragmentable6(bytes: &[u8], frag_hdr: usize) -> Option<Vec<u8>> {
    let mut head = bytes.get(..frag_hdr)?.to_vec();
    let next = *bytes.get(frag_hdr)?;
    let mut named_at = 6;
    let mut at = 40;
    while at < frag_hdr {
        let len = usize::from(*head.get(at + 1)?);
        named_at = at;
        at += (len + 1) * 8;
    }
    *head.get_mut(named_at)? = next;
    Some(head)
}

impl Queue {
    fn new(deadline: Time) -> Self {
        Queue {
            pieces: BTreeMap::new(),
            head: None,
            total: None,
            have: 0,
            largest: 0,
            largest_df: 0,
            bytes: 0,
            deadline,
            ecn: 0,
            mark: 0,
        }
    }

    fn insert(&mut self, f: Fragment, packet: &Packet) -> Result<(), FragmentError> {
        let end = f.offset + f.data.len() as u32;
        if !f.more {
            let beyond = self
                .pieces
                .iter()
                .next_back()
                .is_some_and(|(at, p)| at + p.data.len() as u32 > end);
            if self.total.is_some_and(|t| t != end) || beyond {
                return Err(FragmentError::Overlap);
            }
        } else if self.total.is_some_and(|t| end > t) {
            return Err(FragmentError::Overlap);
        }
        if let Some((at, piece)) = self.pieces.range(..=f.offset).next_back() {
            let piece_end = at + piece.data.len() as u32;
            if piece_end > f.offset {
                let inside = *at <= f.offset && end <= piece_end;
                return Err(if inside {
                    FragmentError::Duplicate
                } else {
                    FragmentError::Overlap
                });
            }
        }
        if let Some((at, _)) = self.pieces.range(f.offset..).next()
            && *at < end
        {
            return Err(FragmentError::Overlap);
        }
        if f.data.is_empty() {
            return Err(FragmentError::Shape);
        }
        if !f.more {
            self.total = Some(end);
        }
        let size = packet.layout.len;
        self.largest = self.largest.max(size);
        if f.dont_frag {
            self.largest_df = self.largest_df.max(size);
        }
        self.ecn |= 1 << (packet.tos() & 3);
        self.have += f.data.len() as u32;
        if f.offset == 0 {
            self.head = Some(f.head);
            self.mark = packet.mark;
        }
        self.pieces.insert(f.offset, Piece { data: f.data });
        Ok(())
    }

    fn complete(&self) -> bool {
        self.head.is_some() && self.total == Some(self.have)
    }

    /// Puts the packet together; `last` is the fragment that completed it and lends
    /// its metadata.
    fn join(self, family: Family, last: &Packet) -> Option<Packet> {
        let mut bytes = self.head?;
        let head_len = bytes.len();
        let sizes: Vec<u16> = self.pieces.values().map(|p| p.data.len() as u16).collect();
        for piece in self.pieces.values() {
            bytes.extend_from_slice(&piece.data);
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
                let ecn = ecn_of(self.ecn)?;
                let tos = bytes[1] | ecn;
                put(&mut bytes, 1, &[tos]);
                checksum::fix_ipv4(&mut bytes);
            }
            Family::V6 => {
                let payload = u16::try_from(bytes.len() - 40).ok()?;
                put(&mut bytes, 4, &payload.to_be_bytes());
            }
        }
        debug_assert!(head_len >= 20);
        let mut whole = Packet::new(bytes).ok()?;
        whole.mark = last.mark;
        whole.tracking = last.tracking.clone();
        whole.in_dev = last.in_dev;
        whole.out_dev = last.out_dev;
        whole.in_name = last.in_name;
        whole.out_name = last.out_name;
        whole.link = last.link;
        whole.to_host = last.to_host;
        whole.fragments = Some(Fragments {
            sizes,
            largest: self.largest,
        });
        Some(whole)
    }
}

/// RFC 3168 5.3: congestion experienced in one fragment counts for the packet; a mix
/// of ECN-capable and not is refused (`ip_frag_ecn_table`). `seen` has one bit per
/// code point.
fn ecn_of(seen: u8) -> Option<u8> {
    let (not, ect1, ect0, ce) = (seen & 1, seen >> 1 & 1, seen >> 2 & 1, seen >> 3 & 1);
    match (not, ce) {
        (1, 1) => None,
        (0, 1) if ect0 | ect1 != 0 => Some(3),
        _ => Some(0),
    }
}

/// Whether reassembly takes the packet. IPv6 fragments that are whole packets ("atomic
/// fragments") lose their fragment header too; a first IPv6 fragment that cuts the
/// transport header short goes on as it is (RFC 8200 4.5, `ipv6frag_thdr_truncated`).
pub(crate) fn takes(packet: &Packet) -> bool {
    let layout = &packet.layout;
    match packet.family() {
        Family::V4 => layout.is_fragment(),
        Family::V6 => layout.frag_hdr != 0 && (layout.frag_off != 0 || header_complete6(packet)),
    }
}

fn header_complete6(packet: &Packet) -> bool {
    let needed = match packet.layout.proto {
        proto::TCP => 20,
        proto::UDP | proto::ICMPV6 => 8,
        _ => 1,
    };
    packet.layout.broken_chain || packet.l4().len() >= needed
}
