//! The nat hooks: rules for a connection's first packet, stored rewriting for all.

use tidegate_conntrack::{self as ct, Attached, CtInfo, NatHook, NatRange};
use tidegate_ir::{Hook, Manip, NatSource, NatSpec, RuleId, TableKind};
use tidegate_wire::Family;

use crate::at_table::AtTable;
use crate::facts::icmp_of;
use crate::outcome::DropReason;
use crate::packet::Packet;
use crate::run::{Run, Stop};
use crate::tables::Decision;
use crate::trace::{Trace, TraceEvent};

const fn ct_manip(manip: Manip) -> ct::Manip {
    match manip {
        Manip::Src => ct::Manip::Src,
        Manip::Dst => ct::Manip::Dst,
    }
}

const fn nat_hook(hook: Hook) -> NatHook {
    match hook {
        Hook::Prerouting | Hook::Forward => NatHook::Prerouting,
        Hook::Input => NatHook::Input,
        Hook::Output => NatHook::Output,
        Hook::Postrouting => NatHook::Postrouting,
    }
}

impl<T: Trace> Run<'_, T> {
    /// One nat hook (`nf_nat_inet_fn` and what wraps it per family).
    pub(crate) fn nat(
        &mut self,
        packet: &mut Packet,
        hook: Hook,
        manip: Manip,
    ) -> Result<(), Stop> {
        let Some(attached) = packet.tracking.connection().copied() else {
            return Ok(());
        };
        let error = is_icmp_error(packet, &attached);
        if !error
            && self
                .engine
                .conntrack
                .nat_rules_needed(&attached, ct_manip(manip))
        {
            self.table(packet, TableKind::Nat, hook)?;
            self.engine
                .conntrack
                .nat_null_binding(attached.id, ct_manip(manip))?;
        } else if hook == Hook::Postrouting
            && !error
            && let Some(dev) = packet.out_dev
        {
            self.engine.conntrack.check_masquerade(&attached, dev.0)?;
        }
        self.translate(packet, &attached, hook)
    }

    fn translate(
        &mut self,
        packet: &mut Packet,
        attached: &Attached,
        hook: Hook,
    ) -> Result<(), Stop> {
        let before_dst = packet.dst();
        let before = T::TESTS.then(|| packet.bytes.clone());
        let conntrack = &mut self.engine.conntrack;
        let changed =
            conntrack.nat_translate(attached, nat_hook(hook), &mut packet.bytes, &packet.layout)?;
        if !changed {
            return Ok(());
        }
        if let Some(before) = before {
            self.trace.event(TraceEvent::Translated {
                before: &before,
                after: &packet.bytes,
            });
        }
        if packet.dst() == before_dst {
            return Ok(());
        }
        match hook {
            Hook::Output => self.reroute(packet)?,
            // The route it came back from loopback with is no longer its own.
            Hook::Prerouting => packet.looped = false,
            Hook::Input | Hook::Forward | Hook::Postrouting => {}
        }
        Ok(())
    }
}

/// ICMP errors follow the connection they are about and never consult rules.
fn is_icmp_error(packet: &Packet, attached: &Attached) -> bool {
    matches!(attached.info, CtInfo::Related | CtInfo::RelatedReply)
        && packet.layout.proto == icmp_of(packet.family())
}

impl<T: Trace> AtTable<'_, T> {
    /// SNAT, DNAT, MASQUERADE, REDIRECT: chooses the new address and sets up the
    /// translation. The packet then leaves the table.
    pub(crate) fn set_up_nat(&mut self, spec: &NatSpec, rule: RuleId) -> Decision {
        let Some(attached) = self.packet.tracking.connection().copied() else {
            return Decision::Accept;
        };
        let family = self.packet.family();
        let masquerade = spec.addr == NatSource::OutInterface;
        let manip = self.manip(spec);
        if masquerade && family == Family::V4 && self.packet.src() == 0 {
            return Decision::Accept;
        }
        let addresses = match self.nat_addresses(spec.addr) {
            Ok(addresses) => addresses,
            Err(()) => return Decision::Drop(DropReason::Target(rule)),
        };
        let range = NatRange {
            addresses,
            ports: spec.ports,
            base_port: spec.base_port,
            random: spec.random,
            persistent: spec.persistent,
        };
        if masquerade && let Some(dev) = self.packet.out_dev {
            self.conntrack.set_masquerade(attached.id, dev.0);
        }
        match self
            .conntrack
            .nat_setup(attached.id, ct_manip(manip), &range)
        {
            Ok(()) => Decision::Accept,
            Err(reason) => Decision::Drop(DropReason::Conntrack(reason)),
        }
    }

    /// The side that is rewritten; NETMAP leaves that to the hook.
    fn manip(&self, spec: &NatSpec) -> Manip {
        match (spec.addr, self.hook) {
            (NatSource::Network { .. }, Hook::Input | Hook::Postrouting) => Manip::Src,
            (NatSource::Network { .. }, _) => Manip::Dst,
            _ => spec.manip,
        }
    }

    /// The address range a target asks for; `Err` when the interface has no address.
    fn nat_addresses(&self, source: NatSource) -> Result<Option<(u128, u128)>, ()> {
        let family = self.packet.family();
        let one = |addr: Option<u128>| addr.map(|a| Some((a, a))).ok_or(());
        match source {
            NatSource::Keep => Ok(None),
            NatSource::Range(lo, hi) => Ok(Some((lo, hi))),
            NatSource::Network { addr, mask } => {
                let own = match self.hook {
                    Hook::Prerouting | Hook::Output => self.packet.dst(),
                    Hook::Input | Hook::Forward | Hook::Postrouting => self.packet.src(),
                };
                one(Some(own & !mask | addr & mask))
            }
            NatSource::OutInterface => {
                let dst = self.packet.next_hop.unwrap_or(self.packet.dst());
                one(self
                    .packet
                    .out_dev
                    .and_then(|dev| self.env.select_address(family, dev, dst)))
            }
            NatSource::InInterface if self.hook == Hook::Output => Ok(Some(match family {
                Family::V4 => (0x7f00_0001, 0x7f00_0001),
                Family::V6 => (1, 1),
            })),
            NatSource::InInterface => {
                let dev = self.packet.in_dev;
                one(dev.and_then(|dev| self.redirect_address(family, dev)))
            }
        }
    }

    /// REDIRECT's address: the first of the input interface; IPv6 prefers one of the
    /// destination's scope (`nf_nat_redirect_ipv6`).
    fn redirect_address(&self, family: Family, dev: crate::env::IfIndex) -> Option<u128> {
        match family {
            Family::V4 => self.env.first_address(family, dev),
            Family::V6 => {
                let interface = self.env.interface(dev)?;
                let local = crate::env::is_link_local6(self.packet.dst());
                let mut own = interface.addresses.iter().filter(|a| a.family == family);
                own.clone()
                    .find(|a| crate::env::is_link_local6(a.addr) == local)
                    .or_else(|| own.next())
                    .map(|a| a.addr)
            }
        }
    }
}
