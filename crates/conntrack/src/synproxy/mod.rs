//! What connections that a SYN proxy opened remember (`nf_synproxy`), and its cookies.
//!
//! The client was answered with a sequence number and, where it uses them, time stamps of
//! the proxy's. Those of the server differ by amounts that stay the same for the life of
//! the connection: the numbers by a [`SeqAdj`], the time stamps by what is kept here.

mod cookie;

pub use cookie::{Client, Cookies};

use crate::entry::{Entry, EntryId, Status, change};
use crate::seqadj::{SeqAdj, replace};
use crate::{Conntrack, Dir};
use tidegate_wire::be32;
use tidegate_wire::tcp::{Options, Tcp, option};

/// Length of the data of a time stamp option (RFC 7323 section 3.2).
const STAMPS: usize = 8;

/// What a connection that a SYN proxy opened remembers (`struct nf_conn_synproxy`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Proxied {
    /// The number that the client was answered with.
    pub isn: u32,
    /// The time stamp that the client was answered with.
    pub stamp: u32,
    /// How far the server's time stamps are ahead of those that the client sees.
    pub ahead: u32,
}

impl Proxied {
    /// Adjusts the time stamps of a segment that travels in `dir`, and its checksum
    /// (`synproxy_tstamp_adjust`); `false` when there is nothing to adjust.
    pub fn adjust(&self, dir: Dir, l4: &mut [u8]) -> bool {
        let Some(header) = Tcp::new(l4).filter(|_| self.ahead != 0) else {
            return false;
        };
        let stamps = |&(kind, _, data): &(u8, usize, &[u8])| {
            kind == option::TIMESTAMP && data.len() == STAMPS
        };
        let Some((_, at, _)) = Options::new(header.options()).find(stamps) else {
            return false;
        };
        // Behind kind and length: the sender's time, then the time that it answers.
        let (at, by) = match dir {
            Dir::Reply => (20 + at + 2, self.ahead.wrapping_neg()),
            Dir::Original => (20 + at + 6, self.ahead),
        };
        be32(l4, at).is_some_and(|old| replace(l4, at, old.wrapping_add(by)))
    }
}

impl Entry {
    /// What it remembers if a SYN proxy opened it.
    #[inline]
    #[must_use]
    pub fn proxied(&self) -> Option<&Proxied> {
        self.extra.as_ref()?.proxied.as_ref()
    }
}

impl Conntrack {
    /// What the connection remembers of its SYN proxy, for changing, which is reported.
    pub fn proxied_mut(&mut self, id: EntryId) -> Option<&mut Proxied> {
        let entry = self.slab.get_mut(id)?;
        let proxied = entry.extra.as_mut()?.proxied.as_mut()?;
        entry.pending |= change::PROXIED;
        Some(proxied)
    }

    /// Has `offset`, and nothing else, added to all sequence numbers of one direction
    /// (`nf_ct_seqadj_init`, which does nothing about an earlier offset if this one is 0).
    pub fn shift_sequence(&mut self, id: EntryId, dir: Dir, offset: i32) {
        if let Some(entry) = self.slab.get_mut(id)
            && (offset != 0 || entry.seqadj().is_some())
        {
            entry.status.set(Status::SEQ_ADJUST);
            let adj = entry.extra_mut().seqadj.get_or_insert_with(SeqAdj::default);
            adj.shift(dir, offset);
        }
    }

    /// The cookies of SYN proxies.
    #[must_use]
    pub fn cookies(&self) -> &Cookies {
        &self.cookies
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test over segments of its own")]

    use super::*;
    use alloc::vec::Vec;
    use tidegate_wire::checksum;

    /// An ACK with time stamps, whose option does not begin on an even byte.
    fn segment(value: u32, echo: u32) -> Vec<u8> {
        let mut l4 = [0u8; 20].to_vec();
        l4[12] = 8 << 4;
        l4[13] = 0x10;
        l4.extend_from_slice(&[1, option::TIMESTAMP, 10]);
        l4.extend_from_slice(&value.to_be_bytes());
        l4.extend_from_slice(&echo.to_be_bytes());
        l4.extend_from_slice(&[0]);
        l4[16..18].fill(0);
        let sum = checksum::finish(0, &l4);
        l4[16..18].copy_from_slice(&sum.to_be_bytes());
        l4
    }

    #[test]
    fn the_client_sees_the_proxys_clock_and_the_server_its_own() {
        let proxied = Proxied {
            ahead: 1_000_000,
            ..Proxied::default()
        };
        let mut from_server = segment(1_000_500, 77);
        assert!(proxied.adjust(Dir::Reply, &mut from_server));
        assert_eq!(from_server, segment(500, 77));
        let mut from_client = segment(77, 500);
        assert!(proxied.adjust(Dir::Original, &mut from_client));
        assert_eq!(from_client, segment(77, 1_000_500));
    }

    #[test]
    fn without_stamps_or_difference_nothing_changes() {
        let same = Proxied::default();
        assert!(!same.adjust(Dir::Reply, &mut segment(1, 2)));
        let proxied = Proxied {
            ahead: 5,
            ..Proxied::default()
        };
        let mut bare = segment(1, 2)[..20].to_vec();
        bare[12] = 5 << 4;
        assert!(!proxied.adjust(Dir::Reply, &mut bare));
        assert!(!proxied.adjust(Dir::Reply, &mut []));
    }
}
