//! Helpers at the last hook: what packets say is read, and perhaps written.

use tidegate_conntrack::{self as ct, Attached};
use tidegate_wire::Family;

use crate::env::{Env, Prefix};
use crate::packet::Packet;
use crate::run::{Run, Stop};
use crate::trace::{Trace, TraceEvent};

impl<T: Trace> Run<'_, T> {
    /// A packet of a connection that has a helper, or whose sequence numbers are adjusted.
    pub(crate) fn help(&mut self, packet: &mut Packet, attached: &Attached) -> Result<(), Stop> {
        let conntrack = &mut self.engine.conntrack;
        if conntrack
            .entry(attached.id)
            .is_some_and(|e| e.helper.is_some())
            && let Some(netmask) = broadcast_mask(packet, &self.engine.env)
        {
            conntrack.help_broadcast(self.now, attached, &packet.layout, netmask);
        }
        let before = T::TESTS.then(|| packet.bytes.clone());
        let env = &self.engine.env;
        let to = |family, addr| way(env, family, addr);
        let ways = ct::Ways {
            out: packet.out_dev.map(|dev| dev.0),
            to: Some(&to),
        };
        let (bytes, layout) = (&mut packet.bytes, &packet.layout);
        let helped = conntrack.help_knowing(self.now, attached, bytes, layout, &ways);
        match helped {
            Err(ct::DropReason::Helper(why)) => self.log_helper(packet, attached, why),
            Err(ct::DropReason::HelperPort(port)) => {
                self.log_helper(packet, attached, &format!("wrong port {port}"));
            }
            _ => {}
        }
        if helped? {
            packet.reparse();
            if let Some(before) = before {
                self.trace.event(TraceEvent::Translated {
                    before: &before,
                    after: &packet.bytes,
                });
            }
        }
        Ok(())
    }
}

/// The way that a packet of this host would go to an address.
fn way(env: &Env, family: Family, addr: u128) -> Option<ct::Way> {
    let route = env.route(family, addr, 0, 0)?;
    Some(ct::Way {
        dev: route.dev?.0,
        hop: route.via.unwrap_or(addr),
    })
}

/// Mask of the network in which a packet of this host goes out to everybody.
fn broadcast_mask(packet: &Packet, env: &Env) -> Option<u128> {
    if packet.in_dev.is_some() || packet.family() != Family::V4 {
        return None;
    }
    let everybody = u128::from(u32::MAX);
    let networks = env.interface(packet.out_dev?)?.addresses.iter();
    let mut masks = networks
        .filter(|a| a.family == Family::V4 && a.len < 31 && a.contains(packet.dst()))
        .map(Prefix::mask);
    masks.find(|mask| packet.dst() | mask == everybody)
}
