//! A packet meets the table (`nf_conntrack_in`).

use crate::conntrack::{InHook, Template, Tracked};
use crate::create::{NoEntry, verifies};
use crate::entry::{Attached, CtInfo, Entry, EntryId, Status, change};
use crate::event::EventKind;
use crate::reason::InvalidReason;
use crate::tracker::{self, Packet, Verdict};
use crate::tuple::{Dir, Tuple};
use crate::{Conntrack, SECOND, Time};
use tidegate_wire::{Family, Layout, proto};

impl Conntrack {
    /// Classifies a packet and updates its entry; a packet that opens a connection gets
    /// an unconfirmed entry that must be confirmed or released.
    ///
    /// Packets that already have an entry (loopback, second pass) must not come here.
    pub fn handle_packet(
        &mut self,
        now: Time,
        pkt: &[u8],
        layout: &Layout,
        hook: InHook,
        template: Option<&Template>,
    ) -> Tracked {
        self.note = None;
        if !self.dying.is_empty() {
            self.reap();
        }
        self.handle_timeout(now);
        let template = template.copied().unwrap_or_default();
        let l4 = pkt
            .get(usize::from(layout.l4)..layout.len as usize)
            .unwrap_or(&[]);
        let no_next = layout.family == Family::V6 && layout.proto == proto::NONE;
        if !layout.has_l4() || no_next || l4.is_empty() && layout.l4 as u32 > layout.len {
            return self.invalid(InvalidReason::NoL4Header);
        }
        let packet = Packet {
            now,
            pkt,
            layout,
            l4,
            verify: verifies(self, hook),
        };
        if let Some(tracked) = self.icmp_first(&packet, &template) {
            if matches!(tracked, Tracked::Invalid(_)) {
                self.stats.error += 1;
            }
            return tracked;
        }
        let (src, dst) = (layout.src(pkt), layout.dst(pkt));
        match Tuple::from_parts(layout.family, layout.proto, src, dst, l4) {
            Some(mut tuple) => {
                self.gre_keys.complete(&mut tuple, l4);
                self.track(&packet, &tuple, &template)
            }
            None => self.invalid(InvalidReason::NoTuple),
        }
    }

    fn invalid(&mut self, reason: InvalidReason) -> Tracked {
        self.stats.invalid += 1;
        Tracked::Invalid(reason)
    }

    /// Finds or makes the entry and lets its tracker judge. A tracker that gives up an
    /// old entry for a new connection asks once more; the new entry never does.
    fn track(&mut self, packet: &Packet<'_>, tuple: &Tuple, template: &Template) -> Tracked {
        loop {
            let attached = match self.resolve_normal(packet, tuple, template) {
                Ok(attached) => attached,
                Err(NoEntry::Invalid(reason)) => return self.invalid(reason),
                Err(NoEntry::Drop(reason)) => return Tracked::Drop(reason),
            };
            if let Some(tracked) = self.judge(packet, attached) {
                return tracked;
            }
        }
    }

    /// Entry and relation of a packet (`resolve_normal_ct`).
    fn resolve_normal(
        &mut self,
        packet: &Packet<'_>,
        tuple: &Tuple,
        template: &Template,
    ) -> Result<Attached, NoEntry> {
        let hash = self.hash_of(packet.pkt, tuple, template.zone);
        let found = self.find_alive(packet.now, tuple, template.zone, hash);
        let Some((id, dir, status)) = found else {
            return self.create(packet.now, tuple, hash, template);
        };
        let info = match dir {
            Dir::Reply => CtInfo::EstablishedReply,
            Dir::Original if status.has(Status::SEEN_REPLY) => CtInfo::Established,
            Dir::Original if status.has(Status::EXPECTED) => CtInfo::Related,
            Dir::Original => CtInfo::New,
        };
        Ok(Attached { id, dir, info })
    }

    /// Runs the tracker and applies its verdict; `None` means classify again.
    fn judge(&mut self, packet: &Packet<'_>, attached: Attached) -> Option<Tracked> {
        let id = attached.id;
        self.recall(id);
        let Some((entry, armed)) = self.slab.get_timed(id) else {
            return Some(self.invalid(InvalidReason::NoTuple));
        };
        let verdict = tracker::track(&self.config, &mut self.note, entry, packet, attached.dir);
        match verdict {
            Verdict::Refresh(seconds) => {
                refresh(entry, packet, attached.dir, seconds);
                note_reply(entry, attached.info);
                if entry.timeout < armed {
                    self.check_timer(packet.now, id.index);
                }
                return Some(Tracked::Ct(attached));
            }
            Verdict::Keep => {}
            Verdict::Die => {
                entry.count_one(attached.dir, packet.layout.len);
                self.delete(id);
            }
            Verdict::Repeat => {
                self.delete(id);
                return None;
            }
            Verdict::Invalid(reason) => {
                self.check_timer(packet.now, id.index);
                self.release(id);
                return Some(self.invalid(reason));
            }
        }
        self.check_timer(packet.now, id.index);
        if let Some(entry) = self.slab.get_mut(id) {
            note_reply(entry, attached.info);
        }
        Some(Tracked::Ct(attached))
    }

    /// Reports pending changes of an entry whose packet will not reach the last hook.
    pub fn deliver(&mut self, id: EntryId) {
        if self.slab.get(id).is_some_and(Entry::confirmed) {
            self.report(id, EventKind::Update);
        }
    }
}

/// The first accepted packet of the reply direction sets SEEN_REPLY.
#[inline]
fn note_reply(entry: &mut Entry, info: CtInfo) {
    if info == CtInfo::EstablishedReply && entry.status.set(Status::SEEN_REPLY) {
        entry.pending |= change::REPLY;
    }
}

/// Sets the timer and counts the packet (`nf_ct_refresh_acct`).
#[inline]
fn refresh(entry: &mut Entry, packet: &Packet<'_>, dir: Dir, seconds: u32) {
    if !entry.status.has(Status::FIXED_TIMEOUT) {
        let life = Time::from(seconds) * SECOND;
        entry.timeout = if entry.confirmed() {
            packet.now.saturating_add(life)
        } else {
            life
        };
    }
    entry.count_one(dir, packet.layout.len);
}
