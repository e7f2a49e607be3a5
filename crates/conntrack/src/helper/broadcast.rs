//! Queries by broadcast (`nf_conntrack_broadcast`): anybody in the network may answer.

use super::{Announced, Helped, Ways};
use crate::entry::Attached;
use crate::expect::expect_flag;
use crate::helper::HelperKind;
use crate::tuple::Dir;
use crate::{Conntrack, Time};
use alloc::vec::Vec;
use tidegate_wire::{Layout, proto};

impl Conntrack {
    /// A query that this host sends to everybody in a network with the mask `netmask`
    /// (IPv4, low 32 bits), as it leaves: answers to its port may come from there for as
    /// long as the helper's module says. Nothing happens to connections without such a
    /// helper.
    pub fn help_broadcast(
        &mut self,
        now: Time,
        attached: &Attached,
        layout: &Layout,
        netmask: u128,
    ) {
        let entry = self.entry(attached.id);
        let Some((kind, reply)) = entry.and_then(|e| Some((e.helper?, *e.tuple(Dir::Reply))))
        else {
            return;
        };
        let asks = attached.dir == Dir::Original && layout.proto == proto::UDP;
        let by_broadcast = matches!(kind, HelperKind::NetbiosNs | HelperKind::Snmp);
        if !asks || !by_broadcast || netmask == 0 {
            return;
        }
        let helped = Helped {
            now,
            attached,
            layout: *layout,
            pkt: &mut Vec::new(),
            kind,
            ways: Ways::default(),
        };
        let announced = Announced {
            src: Some(reply.src),
            dst: reply.dst,
            port: reply.dst_id,
            proto: proto::UDP,
        };
        let mut expected = self.announce(&helped, &announced);
        expected.tuple.src_id = kind.port();
        expected.mask_src = netmask;
        expected.mask_src_id = u16::MAX;
        expected.flags = expect_flag::PERMANENT;
        let policy = self.policy(kind, 0);
        // A query that cannot be answered is still a query.
        let _ = self.expect(now, expected, policy);
    }
}
