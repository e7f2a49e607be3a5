//! Lines that connection tracking and its helpers write about packets.

use tidegate_conntrack::{Attached, HelperKind, Tracked};
use tidegate_ir::{Hook, LogSpec};

use crate::log;
use crate::outcome::Output;
use crate::packet::Packet;
use crate::run::Run;
use crate::trace::Trace;

/// Syslog level of these lines (`default_loginfo` of `nf_log_syslog`).
const LEVEL: u8 = 5;

impl<T: Trace> Run<'_, T> {
    /// What a helper refuses it also logs, without interfaces (`nf_ct_helper_log`).
    pub(crate) fn log_helper(&mut self, packet: &Packet, attached: &Attached, why: &str) {
        let entry = self.engine.conntrack.entry(attached.id);
        let helper = entry.and_then(|e| e.helper).map_or("", HelperKind::name);
        let bare = Packet {
            in_dev: None,
            out_dev: None,
            ..packet.clone()
        };
        self.log_packet(&bare, format!("nf_ct_{helper}: dropping packet: {why} "));
    }

    /// `nf_conntrack_log_invalid`: what the tracker found wrong with a packet, or why it
    /// changed nothing (`nf_l4proto_log_invalid`).
    pub(crate) fn log_invalid(&mut self, packet: &Packet, tracked: &Tracked) {
        let protocol = packet.layout.proto;
        let reason = match tracked {
            Tracked::Invalid(reason) => reason.logged(protocol),
            Tracked::Ct(_) | Tracked::Untracked | Tracked::Drop(_) => None,
        };
        let note = self.engine.conntrack.last_note().and_then(|n| n.logged());
        for text in reason.into_iter().chain(note) {
            self.log_packet(packet, format!("nf_ct_proto_{protocol}: {text} "));
        }
    }

    /// A line about a packet with everything the kernel shows unasked.
    fn log_packet(&mut self, packet: &Packet, prefix: String) {
        let spec = LogSpec {
            level: LEVEL,
            prefix,
            tcp_sequence: true,
            tcp_options: true,
            ip_options: true,
            uid: true,
            mac_decode: false,
        };
        self.outputs.push(Output::Log {
            level: spec.level,
            line: log::line(&spec, packet, &self.engine.env),
            prefix: spec.prefix,
            hook: Hook::Prerouting,
            input: packet.in_dev,
            output: packet.out_dev,
        });
    }
}
