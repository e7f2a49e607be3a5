//! Helpers: connections that announce others in their payload.
//!
//! A helper is a file: what it reads is data, found by functions without state; what it
//! does with that goes through the few operations of `Helped`.

mod amanda;
mod broadcast;
pub mod ftp;
pub mod h323;
mod irc;
mod kind;
pub(crate) mod pptp;
mod sane;
pub mod sip;
pub mod snmp;
mod tftp;
mod ways;

use crate::entry::{Attached, CtInfo, Entry, EntryId, Status};
use crate::expect::{ExpectError, ExpectPolicy, Expectation, OnMatch};
use crate::nat::mangle::replace_payload;
use crate::reason::DropReason;
use crate::seqadj::SeqAdj;
use crate::tuple::{Dir, Tuple};
use crate::{Conntrack, SECOND, Time};
use alloc::vec::Vec;
use core::ops::Range;
use ftp::FtpState;
use h323::H323State;
use pptp::PptpState;
use sip::SipState;
use tidegate_wire::tcp::Tcp;
use tidegate_wire::{Family, Layout, be32, proto};

pub use kind::HelperKind;
pub use ways::{Way, Ways};

/// Ports tried besides the announced one (`nf_nat_exp_find_port`).
const PORT_ATTEMPTS: u16 = 128;
/// Length of a UDP header.
const UDP_HEADER: usize = 8;

const CANNOT_EXPECT: DropReason = DropReason::Helper("cannot add expectation");
const CANNOT_MANGLE: DropReason = DropReason::Helper("cannot mangle packet");
const PORTS_IN_USE: DropReason = DropReason::Helper("all ports in use");

/// What the parameters of helpers' modules set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HelperSettings {
    /// FTP: take announced third-party addresses literally (`loose`).
    pub ftp_loose: bool,
    /// IRC: most DCC connections expected at a time (`max_dcc_channels`).
    pub irc_max_dcc_channels: u8,
    /// IRC: how long they are expected, seconds (`dcc_timeout`).
    pub irc_dcc_timeout: u32,
    /// Amanda: life of the control connection after each reply, seconds (`master_timeout`).
    pub amanda_master_timeout: u32,
    /// NetBIOS: how long answers are expected, seconds (`timeout`).
    pub netbios_timeout: u32,
    /// SNMP: how long answers are expected, seconds (`timeout`).
    pub snmp_timeout: u32,
    /// SIP: life of a signalling connection after each packet, seconds (`sip_timeout`).
    pub sip_timeout: u32,
    /// SIP: calls come from the registrar only (`sip_direct_signalling`).
    pub sip_direct_signalling: bool,
    /// SIP: media go between the ends of the signalling only (`sip_direct_media`).
    pub sip_direct_media: bool,
    /// SIP: media whose address is reached over the interface of the signalling are left to
    /// themselves (`sip_external_media`).
    pub sip_external_media: bool,
    /// H.323: how long a registration lasts that does not say so, seconds
    /// (`default_rrq_ttl`).
    pub h323_default_rrq_ttl: u32,
    /// H.323: calls come from the gatekeeper only (`gkrouted_only`).
    pub h323_gkrouted_only: bool,
    /// H.323: forwarded calls that both parties reach by the same router are left to
    /// themselves (`callforward_filter`).
    pub h323_callforward_filter: bool,
}

impl Default for HelperSettings {
    fn default() -> HelperSettings {
        HelperSettings {
            ftp_loose: false,
            irc_max_dcc_channels: 8,
            irc_dcc_timeout: 300,
            amanda_master_timeout: 300,
            netbios_timeout: 3,
            snmp_timeout: 30,
            sip_timeout: 3600,
            sip_direct_signalling: true,
            sip_direct_media: true,
            sip_external_media: false,
            h323_default_rrq_ttl: 300,
            h323_gkrouted_only: true,
            h323_callforward_filter: true,
        }
    }
}

/// What the helper in charge of a connection remembers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum HelperState {
    /// Nothing.
    #[default]
    None,
    /// Where lines ended.
    Ftp(FtpState),
    /// SANE: the client has asked for an image, and the server has not answered.
    SaneAsked,
    /// PPTP: the session and its call.
    Pptp(PptpState),
    /// SIP: numbers of requests, and where answers go.
    Sip(SipState),
    /// H.323: ports that were translated, and what was asked for.
    H323(H323State),
}

impl HelperState {
    /// What the FTP helper remembers, if it is in charge.
    pub(crate) fn ftp(self) -> Option<FtpState> {
        match self {
            HelperState::Ftp(ftp) => Some(ftp),
            _ => None,
        }
    }
}

/// A packet that its connection's helper reads.
struct Helped<'a> {
    now: Time,
    attached: &'a Attached,
    layout: Layout,
    pkt: &'a mut Vec<u8>,
    kind: HelperKind,
    ways: Ways<'a>,
}

impl Helped<'_> {
    /// Whether the connection has been answered.
    fn established(&self) -> bool {
        let info = self.attached.info;
        matches!(info, CtInfo::Established | CtInfo::EstablishedReply)
    }

    fn dir(&self) -> Dir {
        self.attached.dir
    }

    /// Where the payload begins; `None` when the header is cut short.
    fn payload_at(&self) -> Option<usize> {
        let l4 = usize::from(self.layout.l4);
        let segment = self.pkt.get(l4..self.layout.len as usize)?;
        let header = match self.layout.proto {
            proto::TCP => Tcp::new(segment)?.header_len(),
            _ => UDP_HEADER,
        };
        segment.get(header..).map(|_| l4 + header)
    }

    /// The payload, if there is any.
    fn payload(&self) -> Option<&[u8]> {
        let payload = self.pkt.get(self.payload_at()?..self.layout.len as usize)?;
        (!payload.is_empty()).then_some(payload)
    }

    /// Sequence number of a TCP segment.
    fn seq(&self) -> u32 {
        let segment = self.pkt.get(usize::from(self.layout.l4)..);
        segment.and_then(|s| be32(s, 4)).unwrap_or(0)
    }
}

/// From where an expected connection comes, and where to.
struct Announced {
    /// `None`: from anywhere.
    src: Option<u128>,
    dst: u128,
    port: u16,
    proto: u8,
}

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
        self.help_knowing(now, attached, pkt, layout, &Ways::default())
    }

    /// The same where it is known which way packets go.
    ///
    /// # Errors
    /// The helper refuses the packet, or its TCP options are malformed.
    pub fn help_knowing(
        &mut self,
        now: Time,
        attached: &Attached,
        pkt: &mut Vec<u8>,
        layout: &Layout,
        ways: &Ways<'_>,
    ) -> Result<bool, DropReason> {
        let needed = self
            .entry(attached.id)
            .is_some_and(|e| e.status.has(Status::SEQ_ADJUST));
        let mut changed = self.read_payload(now, attached, pkt, layout, ways)?;
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
        self.read_payload(now, attached, pkt, layout, &Ways::default())
    }

    fn read_payload(
        &mut self,
        now: Time,
        attached: &Attached,
        pkt: &mut Vec<u8>,
        layout: &Layout,
        ways: &Ways<'_>,
    ) -> Result<bool, DropReason> {
        let helper = self.entry(attached.id).and_then(|e| e.helper);
        let Some(kind) = helper.filter(|_| self.concerns(attached, layout)) else {
            return Ok(false);
        };
        if !kind.serves(layout.family, layout.proto) {
            return Ok(false);
        }
        let mut helped = Helped {
            now,
            attached,
            layout: *layout,
            pkt,
            kind,
            ways: *ways,
        };
        match kind {
            HelperKind::Ftp => self.help_ftp(&mut helped),
            HelperKind::Tftp => self.help_tftp(&helped),
            HelperKind::Irc => self.help_irc(&mut helped),
            HelperKind::Snmp | HelperKind::SnmpTrap => self.help_snmp(&mut helped),
            HelperKind::Amanda => self.help_amanda(&mut helped),
            HelperKind::Sane => self.help_sane(&helped),
            HelperKind::Pptp => self.help_pptp(&mut helped),
            HelperKind::Sip => self.help_sip(&mut helped),
            HelperKind::Ras => self.help_ras(&mut helped),
            HelperKind::Q931 | HelperKind::H245 => self.help_h323(&mut helped),
            // What it does depends on routes: `Conntrack::help_broadcast`.
            HelperKind::NetbiosNs => Ok(false),
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
        let Some(adj) = self.entry(attached.id).and_then(Entry::seqadj) else {
            return Ok(false);
        };
        let segment = pkt.get_mut(usize::from(layout.l4)..).unwrap_or_default();
        adj.adjust(attached.dir, segment).map_err(|_| {
            self.stats.drop += 1;
            DropReason::SeqAdjust
        })
    }

    /// Tuples of the connection in the packet's direction and in the other one.
    fn both_ways(&self, helped: &Helped<'_>) -> Option<[Tuple; 2]> {
        let entry = self.entry(helped.attached.id)?;
        let dir = helped.dir();
        Some([*entry.tuple(dir), *entry.tuple(dir.other())])
    }

    /// Whether the connection is translated.
    fn translated(&self, helped: &Helped<'_>) -> bool {
        let entry = self.entry(helped.attached.id);
        entry.is_some_and(|e| e.status.has(Status::NAT_MASK))
    }

    /// Limits of a class of the helper's expectations, as its module's parameters have them.
    fn policy(&self, kind: HelperKind, class: u8) -> ExpectPolicy {
        let settings = &self.config.helper;
        let mut policy = kind.policy(class);
        match kind {
            HelperKind::Irc => {
                policy.max = settings.irc_max_dcc_channels;
                policy.timeout = settings.irc_dcc_timeout;
            }
            HelperKind::NetbiosNs => policy.timeout = settings.netbios_timeout,
            HelperKind::Snmp => policy.timeout = settings.snmp_timeout,
            _ => {}
        }
        policy
    }

    /// An expectation of the helper, not yet in force (`nf_ct_expect_init`).
    fn announce(&self, helped: &Helped<'_>, announced: &Announced) -> Expectation {
        let entry = self.entry(helped.attached.id);
        Expectation {
            tuple: Tuple {
                src: announced.src.unwrap_or(0),
                dst: announced.dst,
                src_id: 0,
                dst_id: announced.port,
                family: helped.layout.family,
                proto: announced.proto,
            },
            mask_src: announced.src.map_or(0, |_| u128::MAX),
            mask_src_id: 0,
            master: helped.attached.id,
            zone: entry.map_or(0, |e| e.zone.id),
            class: 0,
            flags: 0,
            helper: Some(helped.kind),
            assign_helper: None,
            on_match: OnMatch::Plain,
            dir: Dir::Original,
            saved_addr: 0,
            saved_id: 0,
            timeout: 0,
        }
    }

    /// Puts an expectation in force as it is.
    fn expect_plainly(&mut self, now: Time, e: Expectation) -> Result<(), DropReason> {
        let policy = e.helper.map_or_else(
            || HelperKind::Ftp.policy(0),
            |kind| self.policy(kind, e.class),
        );
        self.expect(now, e, policy).map_err(|_| CANNOT_EXPECT)
    }

    /// Expects both on the first pair of ports, from the announced one on, where that can be.
    fn on_a_pair(
        &mut self,
        rtp: &Expectation,
        rtcp: &Expectation,
        expect: impl Fn(&mut Self, Expectation) -> Result<(), ExpectError>,
    ) -> Option<u16> {
        let on = |e: &Expectation, port| {
            let mut e = e.clone();
            e.tuple.dst_id = port;
            e
        };
        for port in ({ rtp.tuple.dst_id }..=u16::MAX - 1).step_by(2) {
            let first = on(rtp, port);
            match expect(self, first.clone()) {
                Ok(()) => {}
                Err(ExpectError::Busy) => continue,
                Err(_) => return None,
            }
            match expect(self, on(rtcp, port + 1)) {
                Ok(()) => return Some(port),
                Err(why) => {
                    self.forget_same(&first);
                    if why != ExpectError::Busy {
                        return None;
                    }
                }
            }
        }
        None
    }

    /// Expects a connection that will be translated like its master, in `dir` of it, to the
    /// announced port there, on that port here or, when it overlaps another expectation, on
    /// some port above (`nf_nat_exp_find_port`); returns that one.
    fn expect_translated(
        &mut self,
        now: Time,
        mut e: Expectation,
        dir: Dir,
    ) -> Result<u16, DropReason> {
        e.follow(dir, e.tuple.dst_id);
        let first = { e.tuple.dst_id };
        self.expect_on_some_port(now, &e, first)
    }

    /// Expects a connection on the port `first` or, when it overlaps another expectation, on
    /// some port above (`nf_nat_exp_find_port`); returns that one.
    fn expect_on_some_port(
        &mut self,
        now: Time,
        e: &Expectation,
        first: u16,
    ) -> Result<u16, DropReason> {
        let policy = e.helper.map_or(
            ExpectPolicy {
                max: 1,
                timeout: 300,
            },
            |kind| self.policy(kind, e.class),
        );
        let above = u16::MAX - first;
        let mut port = first;
        for left in (0..=above.min(PORT_ATTEMPTS)).rev() {
            let mut attempt = e.clone();
            attempt.tuple.dst_id = port;
            match self.expect(now, attempt, policy) {
                Ok(()) => return Ok(port),
                Err(ExpectError::Busy) if left > 0 => {
                    port = first + self.rng.below(u32::from(above)) as u16;
                }
                Err(_) => break,
            }
        }
        Err(PORTS_IN_USE)
    }

    /// Writes `text` in place of the payload bytes `range`; what was expected meanwhile is
    /// forgotten when that cannot be.
    fn replace(
        &mut self,
        helped: &mut Helped<'_>,
        range: Range<usize>,
        text: &[u8],
    ) -> Result<(), DropReason> {
        let Some(diff) = replace_payload(helped.pkt, &helped.layout, range, text) else {
            self.forget_expectations(helped.attached.id);
            return Err(CANNOT_MANGLE);
        };
        helped.layout.len = helped.layout.len.saturating_add_signed(diff);
        if helped.layout.proto == proto::TCP {
            self.register_resize(helped.attached, helped.seq(), diff);
        }
        Ok(())
    }

    /// Remembers that the segment at `seq` changed its length (`nf_ct_seqadj_set`).
    fn register_resize(&mut self, attached: &Attached, seq: u32, diff: i32) {
        if let Some(entry) = self.slab.get_mut(attached.id)
            && diff != 0
        {
            entry.status.set(Status::SEQ_ADJUST);
            let adj = entry.extra_mut().seqadj.get_or_insert_with(SeqAdj::default);
            adj.register(attached.dir, seq, diff);
        }
    }

    /// What the helper remembers of a connection, for changing.
    fn remembered(&mut self, id: EntryId) -> Option<&mut HelperState> {
        Some(&mut self.slab.get_mut(id)?.extra_mut().helper)
    }

    /// Lets the connection live so many seconds from now on (`nf_ct_refresh`).
    fn prolong(&mut self, now: Time, id: EntryId, seconds: u32) {
        let life = Time::from(seconds) * SECOND;
        let Some(entry) = self.slab.get_mut(id) else {
            return;
        };
        if entry.status.has(Status::FIXED_TIMEOUT) {
            return;
        }
        if entry.confirmed() {
            self.set_timeout(now, id, life);
        } else {
            entry.timeout = life;
        }
    }
}

/// A decimal number at the start of `text`, and how many digits it has; it wraps like a
/// C `unsigned long`.
fn decimal(text: &[u8]) -> (u64, usize) {
    let digits = text.iter().take_while(|c| c.is_ascii_digit()).count();
    let number = text.iter().take(digits).fold(0u64, |n, c| {
        n.wrapping_mul(10).wrapping_add(u64::from(c - b'0'))
    });
    (number, digits)
}

/// The address as 32 bits.
fn v4(family: Family, addr: u128) -> Option<u32> {
    (family == Family::V4).then_some(addr as u32)
}
