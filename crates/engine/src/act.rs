//! What the rarer targets do to a packet in a table.

use tidegate_ir::{Chain, Effect, Hook, LogSpec, Manip, RuleId, TableKind, TeeSpec, TproxySpec};
use tidegate_wire::{Family, be16, checksum};

use crate::at_table::AtTable;
use crate::env::IfIndex;
use crate::log;
use crate::outcome::{DropReason, Output};
use crate::packet::{LinkHeader, Packet, Tracking};
use crate::rewrite;
use crate::sockets::{self, Whose};
use crate::synproxy::part;
use crate::tables::Decision;
use crate::trace::Trace;

/// A copy that TEE made and where it goes.
pub(crate) struct Copy {
    pub(crate) packet: Packet,
    /// The device that the packet was at.
    pub(crate) at: Option<IfIndex>,
    pub(crate) spec: TeeSpec,
}

/// Level of what is logged for traced packets (`LOGLEVEL_WARNING`).
const WARNING: u8 = 4;
/// Level of audit records in the kernel's log.
const NOTICE: u8 = 5;

impl<T: Trace> AtTable<'_, T> {
    /// Carries out an effect; `Some` when it decides about the packet.
    pub(crate) fn act(&mut self, effect: &Effect, rule: RuleId) -> Option<Decision> {
        let drop = |_| Decision::Drop(DropReason::Target(rule));
        match effect {
            Effect::Queue(spec) => return Some(Decision::Queue(*spec, rule)),
            Effect::Tproxy(spec) => return Some(self.hand_over(*spec, rule)),
            Effect::SynProxy(spec) => {
                return part(self.packet).map(|_| Decision::SynProxy(*spec, rule));
            }
            Effect::Tee(spec) => self.tee(spec),
            Effect::Trace => self.packet.traced = true,
            Effect::Audit => self.audit(),
            Effect::SecMark(label) => self.packet.secmark = *label,
            Effect::ConnSecMark { save } => self.hand_label(*save),
            Effect::StripTcpOptions(kinds) => {
                return rewrite::strip_options(self.packet, kinds).err().map(drop);
            }
            Effect::TcpEcn(bits) => {
                return rewrite::set_tcp_ecn(self.packet, *bits).err().map(drop);
            }
            Effect::HashMark(spec) => {
                let mark = rewrite::hash_mark(self.packet, spec, self.conntrack);
                self.packet.mark = mark.unwrap_or(self.packet.mark);
            }
            Effect::Npt(spec) => {
                let pointer = match spec.manip {
                    Manip::Src => 8,
                    Manip::Dst => 24,
                };
                let done = rewrite::translate_prefix(self.packet, spec);
                return done.err().map(|_| Decision::Problem(pointer, rule));
            }
            // The others are the caller's.
            _ => {}
        }
        None
    }

    /// `secmark_save`, `secmark_restore`: a label that is there stays.
    fn hand_label(&mut self, save: bool) {
        let Some(at) = self.packet.tracking.connection().copied() else {
            return;
        };
        let known = self.conntrack.entry(at.id).map_or(0, |e| e.secmark());
        match (save, self.packet.secmark, known) {
            (true, label, 0) => self.conntrack.set_secmark(at.id, label),
            (false, 0, label) => self.packet.secmark = label,
            _ => {}
        }
    }

    /// `tproxy_tg4`, `tproxy_tg6_v1`
    fn hand_over(&mut self, spec: TproxySpec, rule: RuleId) -> Decision {
        let packet = &mut *self.packet;
        let own = |dev| self.env.first_address(packet.family(), dev);
        let addr = match spec.addr {
            0 => packet.in_dev.and_then(own).unwrap_or(packet.dst()),
            addr => addr,
        };
        let found = sockets::transparent(packet, (addr, spec.port), &mut self.outside.sockets);
        let Some((found, at)) = found else {
            return Decision::Drop(DropReason::Target(rule));
        };
        packet.mark = packet.mark & !spec.mask ^ spec.mark;
        packet.whose = Some(Box::new(Whose::given_to(found, at)));
        Decision::Accept
    }

    /// The copy does not fragment, and loses a hop where it could come back
    /// (`nf_dup_ipv4`, `nf_dup_ipv6`).
    fn tee(&mut self, spec: &TeeSpec) {
        if self.packet.is_copy {
            return;
        }
        let mut packet = Packet {
            tracking: Tracking::Untracked,
            is_copy: true,
            borrows_connection: true,
            depth: self.packet.depth.saturating_add(1),
            in_dev: None,
            in_name: 0,
            link: LinkHeader::default(),
            rerouted: None,
            follow: None,
            as_sent: false,
            looped: false,
            whose: None,
            ..self.packet.clone()
        };
        let family = packet.family();
        // `ip_output` takes the device that the packet was at for the input interface.
        let at = match self.hook {
            Hook::Prerouting | Hook::Input | Hook::Forward => self.packet.in_dev,
            Hook::Output => None,
            Hook::Postrouting => self.packet.out_dev,
        };
        if matches!(self.hook, Hook::Prerouting | Hook::Input) {
            packet.set_ttl(packet.ttl().wrapping_sub(1));
        }
        if family == Family::V4 {
            let word = be16(&packet.bytes, 6).unwrap_or(0) | 0x4000;
            checksum::replace_ipv4_word(&mut packet.bytes, 6, word);
            packet.layout.dont_frag = true;
        }
        self.copies.push(Copy {
            packet,
            at,
            spec: spec.clone(),
        });
    }

    /// `audit_tg`; the record's time and number are the log's affair.
    fn audit(&mut self) {
        let packet = &*self.packet;
        let addr = |a: u128| match packet.family() {
            Family::V4 => std::net::Ipv4Addr::from_bits(a as u32).to_string(),
            Family::V6 => std::net::Ipv6Addr::from_bits(a).to_string(),
        };
        let line = format!(
            "audit: type=1324 mark={:#x} saddr={} daddr={} proto={}",
            packet.mark,
            addr(packet.src()),
            addr(packet.dst()),
            packet.layout.proto
        );
        self.log(NOTICE, line, "audit: ".to_owned());
    }

    /// `TRACE: table:chain:kind:number` and what LOG says with all its options but one
    /// (`nf_log_trace`).
    pub(crate) fn trace_line(
        &mut self,
        table: TableKind,
        chain: &Chain,
        kind: &str,
        number: usize,
    ) {
        let prefix = format!("TRACE: {}:{}:{kind}:{number} ", table.name(), chain.name);
        let spec = LogSpec {
            level: WARNING,
            prefix: prefix.clone(),
            tcp_sequence: true,
            tcp_options: true,
            ip_options: true,
            uid: true,
            mac_decode: false,
        };
        let line = log::line(&spec, self.packet, self.env);
        self.log(WARNING, line, prefix);
    }

    /// Logs what conditions had to say, with all that LOG says but the link-layer header.
    pub(crate) fn log_said(&mut self) {
        for prefix in std::mem::take(&mut self.outside.said) {
            let spec = LogSpec {
                level: NOTICE,
                prefix: format!("{prefix} "),
                tcp_sequence: true,
                tcp_options: true,
                ip_options: true,
                uid: true,
                mac_decode: false,
            };
            let line = log::line(&spec, self.packet, self.env);
            self.log(NOTICE, line, prefix);
        }
    }

    fn log(&mut self, level: u8, line: String, prefix: String) {
        self.outputs.push(Output::Log {
            level,
            line,
            prefix,
            hook: self.hook,
            input: self.packet.in_dev,
            output: self.packet.out_dev,
        });
    }
}
