//! The short way of a packet about which everything is known: its connection is established
//! and its flow has a plan.
//!
//! What the stages of the hooks would do to it, one by one, comes to little: counters to
//! raise, addresses to rewrite, a TTL. That is done here in one go. Whatever is out of the
//! ordinary takes the long way, with what connection tracking has said about it already.

use tidegate_conntrack::{Attached, Entry, InHook, NatHook, Time, Tracked};
use tidegate_ir::{Facts, Field, StepId, TableKind, Truth};
use tidegate_wire::{Family, Layout};

use crate::engine::{Engine, Family4Or6, Incoming, index};
use crate::env::IfIndex;
use crate::facts::{entry_field, transport};
use crate::flow::Start;
use crate::offload::Last;
use crate::outcome::{Output, Passed, Role};
use crate::routing::Path;
use crate::run::Run;
use crate::trace::Trace;

/// What plans ask of a packet.
struct Glance<'a> {
    bytes: &'a [u8],
    layout: &'a Layout,
    entry: &'a Entry,
    now: Time,
}

impl Facts for Glance<'_> {
    fn load(&mut self, field: Field) -> Option<u128> {
        match field {
            Field::Length => Some(u128::from(self.layout.len)),
            Field::Tos => Some(u128::from(self.layout.tos(self.bytes))),
            Field::TcpFlags | Field::TcpOption(_) => transport(self.bytes, self.layout, field),
            _ => entry_field(self.entry, field, self.now),
        }
    }

    fn step(&mut self, _: StepId) -> Truth {
        Truth::False
    }
}

/// Whether reassembly and what is read before any hook have nothing to do with a packet.
fn is_whole(layout: &Layout) -> bool {
    let extended = layout.family == Family::V6 && layout.proto_at != 6;
    !layout.is_fragment() && !layout.broken_chain && !extended
}

impl<T: Trace> Run<'_, T> {
    /// Tracks a packet before it comes to any hook, if nothing there is before connection
    /// tracking, and takes the short way with it. `None`: the long way is left. `told`: connection
    /// tracking has told the layout.
    pub(super) fn straight(
        &mut self,
        incoming: &Incoming,
        (bytes, layout): (&mut Vec<u8>, &Layout),
        told: bool,
    ) -> Option<Passed> {
        let family = &self.engine.families[index(layout.family)];
        let first = family.tracked && family.rules.table(TableKind::Raw).is_none();
        if T::ACTIVE || !first || !is_whole(layout) {
            return None;
        }
        let conntrack = &mut self.engine.conntrack;
        let attached = match conntrack.go_on(self.now, (bytes, layout), told) {
            Some(attached) => attached,
            None => self.track(bytes, layout)?,
        };
        let done = self.pass(incoming, bytes, layout, &attached);
        if done.is_none() {
            let Attached { id, dir, info } = attached;
            self.attached = Some(Attached { id, dir, info });
        }
        done
    }

    /// The packet's connection, where that is all there is to say. Apart from the rest: what
    /// else tracking may say is large, and a copy of it shows.
    fn track(&mut self, bytes: &[u8], layout: &Layout) -> Option<Attached> {
        let conntrack = &mut self.engine.conntrack;
        let tracked = conntrack.handle_packet(self.now, bytes, layout, InHook::Prerouting, None);
        match tracked {
            // What there is to be noted about a packet may have to be logged.
            Tracked::Ct(attached) if conntrack.last_note().is_none() => Some(attached),
            other => {
                self.tracked = Some(other);
                None
            }
        }
    }

    fn pass(
        &mut self,
        incoming: &Incoming,
        bytes: &mut Vec<u8>,
        layout: &Layout,
        attached: &Attached,
    ) -> Option<Passed> {
        let Engine {
            families,
            conntrack,
            flows,
            last,
            ..
        } = &mut *self.engine;
        let Family4Or6 { counters, nat, .. } = &mut families[index(layout.family)];
        let start = Start::new(layout, attached.info, (Some(incoming.dev), None), 0)?;
        let entry = conntrack.entry(attached.id)?;
        let mut glance = Glance {
            bytes,
            layout,
            entry,
            now: self.now,
        };
        let tag = entry.tags[attached.dir.ix()];
        let plan = flows.fitting(tag, &start, &mut glance)?;
        let course = Course {
            path: plan.path.as_ref()?,
            longest: plan.longest,
            ttl: layout.ttl(bytes),
            mark: plan.mark,
            received: incoming.dev,
        };
        let moved = match course.path {
            Path::Forward { dev, .. } => *nat && entry.has_moved(attached.dir, dev.0),
            Path::Local | Path::Stop(..) => false,
        };
        if !entry.is_plain() || moved || !course.is_clear(layout) {
            return None;
        }
        if *nat && entry.is_translated() {
            for hook in [NatHook::Prerouting, course.last_hook()] {
                let done = conntrack.nat_translate(attached, hook, bytes, layout);
                // The long way writes once more what has been written: that changes nothing.
                done.ok()?;
            }
        }
        for id in plan.counted() {
            if let Some(counter) = counters.get_mut(id as usize) {
                counter.count(layout.len);
            }
        }
        *last = Some(Last::Tagged(attached.id, attached.dir, layout.tos(bytes)));
        let passed = course.end(layout, bytes, &mut self.outputs);
        flows.followed += 1;
        Some(passed)
    }
}

/// Where a packet goes, and what it goes with.
struct Course<'a> {
    path: &'a Path,
    /// As [`Path::longest`].
    longest: u32,
    ttl: u8,
    mark: u32,
    received: IfIndex,
}

impl Course<'_> {
    /// Whether nothing on the way is out of the ordinary: options, a TTL or a link that ends
    /// it.
    #[inline]
    fn is_clear(&self, layout: &Layout) -> bool {
        let options = layout.family == Family::V4 && layout.l4 > 20;
        let ends = self.ttl <= 1 && matches!(self.path, Path::Forward { .. });
        !options && !ends && layout.len <= self.longest
    }

    /// Where its source is translated.
    fn last_hook(&self) -> NatHook {
        match self.path {
            Path::Local => NatHook::Input,
            Path::Forward { .. } | Path::Stop(..) => NatHook::Postrouting,
        }
    }

    fn end(&self, layout: &Layout, bytes: &mut Vec<u8>, outputs: &mut Vec<Output>) -> Passed {
        let &Path::Forward { dev, via } = self.path else {
            outputs.push(Output::Deliver {
                dev: self.received,
                bytes: std::mem::take(bytes),
                mark: self.mark,
                given: None,
            });
            return Passed::Delivered;
        };
        layout.decrease_ttl(bytes);
        let next_hop = via.unwrap_or_else(|| layout.dst(bytes));
        Output::add(outputs, || Output::Transmit {
            dev,
            next_hop,
            bytes: std::mem::take(bytes),
            role: Role::Forwarded,
            mark: self.mark,
            priority: 0,
            as_sent: false,
        });
        Passed::Sent
    }
}
