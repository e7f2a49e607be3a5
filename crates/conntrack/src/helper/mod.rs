//! Helpers: connections that announce others in their payload.

pub mod ftp;

use crate::entry::{Attached, CtInfo, EntryId, HelperKind, Status};
use crate::expect::{ExpectError, ExpectPolicy, Expectation, OnMatch};
use crate::nat::mangle::replace_payload;
use crate::reason::DropReason;
use crate::seqadj::SeqAdj;
use crate::tuple::{Dir, Tuple};
use crate::{Conntrack, Time};
use alloc::boxed::Box;
use alloc::vec::Vec;
use ftp::{Found, FtpState, Scan};
use tidegate_wire::tcp::Tcp;
use tidegate_wire::{Layout, proto};

/// Expectations an FTP control connection may have, and their life.
const FTP_POLICY: ExpectPolicy = ExpectPolicy {
    max: 1,
    timeout: 300,
};
/// Ports tried besides the announced one (`nf_nat_exp_find_port`).
const PORT_ATTEMPTS: u16 = 128;

impl Conntrack {
    /// The last hook before [`Conntrack::confirm`]: the connection's helper reads the
    /// packet, then sequence numbers are adjusted (`nf_confirm`). `true` when the packet
    /// changed; its length may have changed too, so the caller parses it again.
    ///
    /// ICMP errors are left alone, whose bytes the kernel takes for sequence numbers.
    ///
    /// # Errors
    /// The helper refuses the packet, or its TCP options are malformed.
    pub fn help(
        &mut self,
        now: Time,
        attached: &Attached,
        pkt: &mut Vec<u8>,
        layout: &Layout,
    ) -> Result<bool, DropReason> {
        let needed = self
            .entry(attached.id)
            .is_some_and(|e| e.status.has(Status::SEQ_ADJUST));
        let mut changed = self.help_looped(now, attached, pkt, layout)?;
        if needed && self.concerns(attached, layout) {
            changed |= self.adjust(attached, pkt, layout)?;
        }
        Ok(changed)
    }

    /// The same for a packet that came in through the loopback interface: its numbers
    /// were adjusted on its way out.
    ///
    /// # Errors
    /// The helper refuses the packet.
    pub fn help_looped(
        &mut self,
        now: Time,
        attached: &Attached,
        pkt: &mut Vec<u8>,
        layout: &Layout,
    ) -> Result<bool, DropReason> {
        match self.entry(attached.id).and_then(|e| e.helper) {
            Some(HelperKind::Ftp) if self.concerns(attached, layout) => {
                self.help_ftp(now, attached, pkt, layout)
            }
            Some(HelperKind::Ftp) | None => Ok(false),
        }
    }

    /// Whether the packet is part of its connection, not an error about it.
    fn concerns(&self, attached: &Attached, layout: &Layout) -> bool {
        let entry = self.entry(attached.id);
        layout.has_l4() && entry.is_some_and(|e| e.tuple(Dir::Original).proto == layout.proto)
    }

    fn adjust(
        &mut self,
        attached: &Attached,
        pkt: &mut [u8],
        layout: &Layout,
    ) -> Result<bool, DropReason> {
        let Some(adj) = self.entry(attached.id).and_then(|e| e.seqadj.as_deref()) else {
            return Ok(false);
        };
        let segment = pkt.get_mut(usize::from(layout.l4)..).unwrap_or_default();
        adj.adjust(attached.dir, segment).map_err(|_| {
            self.stats.drop += 1;
            DropReason::SeqAdjust
        })
    }

    /// The FTP helper (`help` of `nf_conntrack_ftp`).
    fn help_ftp(
        &mut self,
        now: Time,
        attached: &Attached,
        pkt: &mut Vec<u8>,
        layout: &Layout,
    ) -> Result<bool, DropReason> {
        let dir = attached.dir;
        if !matches!(
            attached.info,
            CtInfo::Established | CtInfo::EstablishedReply
        ) || layout.proto != proto::TCP
        {
            return Ok(false);
        }
        let l4 = pkt.get(usize::from(layout.l4)..layout.len as usize);
        let Some(tcp) = l4.and_then(Tcp::new) else {
            return Ok(false);
        };
        let (seq, payload) = (tcp.seq(), tcp.payload());
        let Some(&last) = payload.last() else {
            return Ok(false);
        };
        let end = seq.wrapping_add(payload.len() as u32);
        let Some(entry) = self.slab.get_mut(attached.id) else {
            return Ok(false);
        };
        let sender = *entry.tuple(dir);
        let state = entry.ftp.get_or_insert_with(Box::<FtpState>::default);
        let mut changed = false;
        if state.starts_line(dir, seq) {
            match ftp::scan(dir, sender.family, sender.src, payload) {
                Scan::None => {}
                Scan::Partial(why) => return Err(DropReason::Helper(why)),
                Scan::Found(found) => {
                    changed = self.announce(now, attached, &found, seq, pkt, layout)?;
                }
            }
        }
        if last == b'\n'
            && let Some(state) = self.slab.get_mut(attached.id).and_then(|e| e.ftp.as_mut())
        {
            state.line_ended(dir, end);
        }
        Ok(changed)
    }

    /// Expects the announced connection and, when the control connection is translated,
    /// announces the outside address instead.
    fn announce(
        &mut self,
        now: Time,
        attached: &Attached,
        found: &Found,
        seq: u32,
        pkt: &mut Vec<u8>,
        layout: &Layout,
    ) -> Result<bool, DropReason> {
        let dir = attached.dir;
        let Some(entry) = self.entry(attached.id) else {
            return Ok(false);
        };
        let (sender, peer) = (*entry.tuple(dir), *entry.tuple(dir.other()));
        let third_party = found.addr != { sender.src };
        if third_party && !self.config.ftp_loose {
            return Ok(false);
        }
        let translated = entry.status.has(Status::NAT_MASK);
        let dst = if third_party { found.addr } else { peer.dst };
        let mut expected = expectation(attached.id, entry.zone.id, &peer, dst, found.port);
        if !translated {
            return match self.expect(now, expected, FTP_POLICY) {
                Ok(()) => Ok(false),
                Err(_) => Err(DropReason::Helper("cannot add expectation")),
            };
        }
        expected.on_match = OnMatch::FollowMaster;
        expected.dir = dir.other();
        expected.saved_id = found.port;
        let port = self
            .expect_on_some_port(now, expected)
            .ok_or(DropReason::Helper("all ports in use"))?;
        let text = ftp::replacement(found.command, sender.family, peer.dst, port);
        let range = found.at..found.at + found.len;
        let diff = replace_payload(pkt, layout, range, text.as_bytes()).ok_or_else(|| {
            self.forget_expectations(attached.id);
            DropReason::Helper("cannot mangle packet")
        })?;
        self.register_resize(attached, seq, diff);
        Ok(true)
    }

    /// Expects on the announced port, or when that one overlaps another expectation, on
    /// some port above it (`nf_nat_exp_find_port`).
    fn expect_on_some_port(&mut self, now: Time, expected: Expectation) -> Option<u16> {
        let first = { expected.tuple.dst_id };
        let above = u16::MAX - first;
        let mut port = first;
        for left in (0..=above.min(PORT_ATTEMPTS)).rev() {
            let mut attempt = expected.clone();
            attempt.tuple.dst_id = port;
            match self.expect(now, attempt, FTP_POLICY) {
                Ok(()) => return Some(port),
                Err(ExpectError::Busy) if left > 0 => {
                    port = first + self.rng.below(u32::from(above)) as u16;
                }
                Err(_) => return None,
            }
        }
        None
    }

    /// Remembers that the segment at `seq` changed its length (`nf_ct_seqadj_set`).
    fn register_resize(&mut self, attached: &Attached, seq: u32, diff: i32) {
        if let Some(entry) = self.slab.get_mut(attached.id)
            && diff != 0
        {
            entry.status.set(Status::SEQ_ADJUST);
            let adj = entry.seqadj.get_or_insert_with(Box::<SeqAdj>::default);
            adj.register(attached.dir, seq, diff);
        }
    }
}

/// A connection from the host of `peer` to `dst` and `port`, from any port.
fn expectation(master: EntryId, zone: u16, peer: &Tuple, dst: u128, port: u16) -> Expectation {
    Expectation {
        tuple: Tuple {
            src: peer.src,
            dst,
            src_id: 0,
            dst_id: port,
            family: peer.family,
            proto: proto::TCP,
        },
        mask_src: u128::MAX,
        mask_src_id: 0,
        master,
        zone,
        class: 0,
        flags: 0,
        helper: Some(HelperKind::Ftp),
        assign_helper: None,
        on_match: OnMatch::Plain,
        dir: Dir::Original,
        saved_addr: 0,
        saved_id: 0,
        timeout: 0,
    }
}
