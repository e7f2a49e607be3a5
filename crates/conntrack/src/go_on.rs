//! The short way of a packet that brings a connection under way nothing new but data or an
//! acknowledgement, as most packets do.
//!
//! All in one place, without a call where there need not be one: what [`handle_packet`] would
//! do for such a packet, and nothing of what it may have to do for others.
//!
//! [`handle_packet`]: Conntrack::handle_packet

use crate::conntrack::InHook;
use crate::create::verifies;
use crate::entry::{Attached, CtInfo};
use crate::tracker::{self, Packet};
use crate::tuple::Dir;
use crate::{Conntrack, SECOND, Time};
use tidegate_wire::{Layout, proto};

impl Conntrack {
    /// Tracks a received packet that is whole and has no template, if that takes but little.
    /// `None`, and no connection has changed, when [`Conntrack::handle_packet`] has to be asked.
    /// `told`: [`Conntrack::layout_of`] has told this packet's layout, and was asked for no other
    /// since.
    #[inline]
    pub fn go_on(
        &mut self,
        now: Time,
        (pkt, layout): (&[u8], &Layout),
        told: bool,
    ) -> Option<Attached> {
        if !matches!(layout.proto, proto::TCP | proto::UDP) || !self.has_kept_up(now) {
            return None;
        }
        let l4 = pkt.get(usize::from(layout.l4)..layout.len as usize)?;
        let packet = Packet {
            now,
            pkt,
            layout,
            l4,
            verify: verifies(self, InHook::Prerouting),
        };
        let at = (&self.table, &mut self.slab);
        let (id, dir, entry, armed) = self.ahead.entry_of(at, (pkt, layout), told)?;
        if entry.is_elsewhere() {
            return None;
        }
        let seconds = tracker::go_on(&self.config, entry, &packet, dir)?;
        entry.timeout = now.saturating_add(Time::from(seconds) * SECOND);
        entry.count_one(dir, layout.len);
        if entry.timeout < armed {
            self.check_timer(now, id.index);
        }
        self.note = None;
        let info = match dir {
            Dir::Reply => CtInfo::EstablishedReply,
            Dir::Original => CtInfo::Established,
        };
        Some(Attached { id, dir, info })
    }

    /// Whether there is nothing left to be done before a packet of this moment: no entry has
    /// run out.
    #[inline]
    fn has_kept_up(&mut self, now: Time) -> bool {
        self.clock = self.clock.max(now);
        self.dying.is_empty() && self.wheel.rests(now) && self.rests(now)
    }
}
