//! The flow cache: what the tables made of a flow's packets, kept with its connection.
//!
//! The rules that an established packet meets depend on little: its flow and direction,
//! the interfaces, its mark, and a few fields that differ from packet to packet. While
//! one packet walks the tables, a [`Recorder`] notes the counters it raised and every
//! test of such a field with its outcome. What comes of it is a [`Plan`]. The next packet
//! of the flow for which all those tests come out the same would meet the same rules: it
//! passes the tables by raising the plan's counters. Packets that a stateful test, a drop
//! or an effect other than a constant mark had a part in leave no plan.
//!
//! Plans are shared by all flows they fit. A connection remembers one for each direction
//! as a number that carries the epoch; a change of rules or surroundings begins a new
//! epoch, and with it all plans are forgotten.

use std::collections::HashMap;
use std::collections::hash_map::Entry;

use tidegate_conntrack::CtInfo;
use tidegate_ir::{Cond, Effect, Expr, Facts, Field, Leaf, RuleId, Scope, eval};
use tidegate_wire::{Layout, proto};

use crate::env::{Env, IfIndex};
use crate::offload::{Comes, Follower};
use crate::origin::BELOW;
use crate::packet::Packet;
use crate::routing::Path;

/// Most plans of one epoch; beyond, packets walk the tables.
const MAX_PLANS: usize = 1 << 16;
/// Most tests that a plan depends on.
const MAX_GUARDS: usize = 16;
/// Most counters that a plan raises.
const MAX_TRAIL: usize = 256;
/// Bits of a tag that number the plan. The next ones are the epoch; those above tell how the
/// connection came in ([`crate::origin`]).
const PLAN_BITS: u32 = 20;
/// Epochs after which their numbers come round.
const EPOCHS: u64 = (BELOW + 1) >> PLAN_BITS;
/// Number of the first reason for having none; the others are below it.
const NO_PLAN: u64 = (1 << PLAN_BITS) - 1;
/// Most reasons that are kept.
const MAX_REASONS: usize = 256;
const _: () = assert!(MAX_PLANS + MAX_REASONS <= 1 << PLAN_BITS);
/// Ends the part of a trail that belongs to one table.
const END: u32 = u32::MAX;

/// What the tables, and the routing between them, made of a packet.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Plan {
    start: Start,
    /// Mark when the tables had been passed.
    pub(crate) mark: u32,
    /// Where a received packet went.
    pub(crate) path: Option<Path>,
    /// Most bytes that a received packet may have to go there like any other
    /// ([`Path::longest`]).
    pub(crate) longest: u32,
    /// Tests that must come out as noted.
    guards: Box<[(Cond, bool)]>,
    /// Counters raised, table by table, each part closed by [`END`].
    trail: Box<[u32]>,
}

impl Plan {
    /// Counters that its packets raise.
    #[inline]
    pub(crate) fn counted(&self) -> impl Iterator<Item = u32> {
        self.trail.iter().copied().filter(|&id| id != END)
    }
}

/// What a packet brought along when its connection had been found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Start {
    proto: u8,
    info: CtInfo,
    in_dev: Option<IfIndex>,
    out_dev: Option<IfIndex>,
    mark: u32,
}

impl Start {
    pub(crate) fn of(packet: &Packet, info: CtInfo) -> Option<Start> {
        let own = packet.depth == 0 && !packet.borrows_connection && packet.fragments.is_none();
        let ways = (packet.in_dev, packet.out_dev);
        Start::new(&packet.layout, info, ways, packet.mark).filter(|_| own)
    }

    /// Of a packet that came in and is to leave by `ways`. `None` for packets that are not
    /// worth it, or whose presence tests could differ from packet to packet: trackers of
    /// these protocols have seen a whole header.
    #[inline]
    pub(crate) fn new(
        layout: &Layout,
        info: CtInfo,
        (in_dev, out_dev): (Option<IfIndex>, Option<IfIndex>),
        mark: u32,
    ) -> Option<Start> {
        let established = matches!(info, CtInfo::Established | CtInfo::EstablishedReply);
        let proto = layout.proto;
        let simple = matches!(proto, proto::TCP | proto::UDP | proto::ICMP | proto::ICMPV6);
        (established && !layout.is_fragment() && simple).then_some(Start {
            proto,
            info,
            in_dev,
            out_dev,
            mark,
        })
    }
}

/// Whether the value of a field is settled once a packet's [`Start`] and its connection
/// are. An index over rules may look at such fields only: what it skips leaves no trace.
pub(crate) fn is_settled(field: Field) -> bool {
    matches!(
        field,
        Field::FragOff
            | Field::L4Len
            | Field::IcmpTypeCode
            | Field::HasCt
            | Field::CtState
            | Field::Mark
    ) || field.row().scope == Scope::Flow
}

/// Whether a test of the field comes out the same wherever in its walk the packet is.
fn can_guard(field: Field) -> bool {
    matches!(
        field,
        Field::TcpFlags
            | Field::TcpOption(_)
            | Field::Length
            | Field::Tos
            | Field::CtStatus
            | Field::CtMark
            | Field::CtLabels
            | Field::CtReplSrc
            | Field::CtReplDst
            | Field::CtReplSport
            | Field::CtReplDport
    )
}

/// Why a packet has left no plan.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Unplanned {
    /// No whole one has come since rules or surroundings changed.
    Unseen,
    /// A test that keeps state of its own.
    Stateful,
    /// A test of a field that may change on the packet's way.
    Changing(Field),
    /// An effect.
    Effect,
    /// The packet was dropped.
    Dropped,
    /// It meets too many rules, or there are too many plans.
    Many,
    /// It is traced, or rules on stage are tried.
    Watched,
    /// It was routed again, or is heard by its sender.
    Rerouted,
}

/// Notes what becomes of one packet.
#[derive(Debug, Default)]
pub(crate) struct Recorder {
    start: Option<Start>,
    /// Why there is no [`Start`], where there was something to say.
    why: Option<Unplanned>,
    path: Option<Path>,
    guards: Vec<(Cond, bool)>,
    trail: Vec<u32>,
}

impl Recorder {
    fn begin(&mut self, start: Start) {
        self.start = Some(start);
        self.why = None;
        self.path = None;
        self.guards.clear();
        self.trail.clear();
    }

    /// Leaves the packet without a plan.
    #[inline]
    pub(crate) fn spoil(&mut self, why: Unplanned) {
        if self.start.take().is_some() || self.why.is_none() {
            self.why = Some(why);
        }
    }

    /// Nothing is recorded any more.
    #[inline]
    pub(crate) fn end(&mut self) {
        self.start = None;
        self.why = None;
    }

    /// Whether what becomes of the packet is noted.
    #[inline]
    pub(crate) fn is_recording(&self) -> bool {
        self.start.is_some()
    }

    /// Whether there is a plan, or a reason for none, to be kept.
    #[inline]
    pub(crate) fn has_noted(&self) -> bool {
        self.start.is_some() || self.why.is_some()
    }

    /// A counter was raised.
    #[inline]
    pub(crate) fn counted(&mut self, id: RuleId) {
        if self.start.is_some() {
            self.trail.push(id.0);
            if self.trail.len() > MAX_TRAIL {
                self.spoil(Unplanned::Many);
            }
        }
    }

    /// A table was left.
    #[inline]
    pub(crate) fn table_passed(&mut self) {
        if self.start.is_some() {
            self.trail.push(END);
        }
    }

    /// A received packet was routed.
    #[inline]
    pub(crate) fn routed(&mut self, path: Path) {
        self.path = Some(path);
    }

    /// A test was evaluated.
    #[inline]
    pub(crate) fn tested(&mut self, leaf: &Leaf<'_>) {
        if self.start.is_some() {
            self.note(leaf);
        }
    }

    fn note(&mut self, leaf: &Leaf<'_>) {
        let field = match leaf.cond {
            Cond::Test(test) => test.field(),
            Cond::Const(_) => return,
            // Its outcome is its own affair.
            _ => return self.spoil(Unplanned::Stateful),
        };
        if is_settled(field) {
            return;
        }
        if !can_guard(field) {
            return self.spoil(Unplanned::Changing(field));
        }
        if self.guards.len() >= MAX_GUARDS {
            return self.spoil(Unplanned::Many);
        }
        if !self.guards.iter().any(|(c, _)| c == leaf.cond) {
            self.guards.push((leaf.cond.clone(), leaf.held));
        }
    }

    /// An effect was carried out.
    pub(crate) fn affected(&mut self, effect: &Effect) {
        if !matches!(effect, Effect::Assign(Field::Mark, Expr::Masked { .. })) {
            self.spoil(Unplanned::Effect);
        }
    }
}

/// A plan in use by a packet.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Follow {
    plan: u32,
    /// Where in the trail the next table's part begins.
    at: u32,
}

impl Follow {
    /// Of the plan that a `tag` names, from its beginning.
    #[inline]
    pub(crate) fn of(tag: u64) -> Follow {
        let plan = (tag & NO_PLAN) as u32;
        Follow { plan, at: 0 }
    }
}

/// All plans of the present epoch.
#[derive(Debug, Default)]
pub(crate) struct FlowCache {
    epoch: u64,
    /// The epoch since their numbers last came round.
    round: u64,
    plans: Vec<Plan>,
    numbers: HashMap<Plan, u32>,
    /// Why packets have left no plan: tags name these from the highest number down.
    unplanned: Vec<Unplanned>,
    /// Packets that followed a plan.
    pub(crate) followed: u64,
    pub(crate) recorder: Recorder,
    /// Who follows the epochs.
    pub(crate) follower: Option<Box<dyn Follower>>,
}

impl FlowCache {
    /// Forgets all plans: rules or surroundings have changed. Says whether numbers come
    /// round and no tag may stay.
    #[must_use]
    pub(crate) fn begin_epoch(&mut self) -> bool {
        self.epoch += 1;
        self.round = self.epoch % (EPOCHS - 1);
        if let Some(follower) = &mut self.follower {
            follower.begins(self.epoch);
        }
        self.plans.clear();
        self.numbers.clear();
        self.unplanned.clear();
        self.recorder.end();
        self.era() == 1
    }

    /// The plan that a connection's `tag` names, if it fits a packet that brings `start`.
    #[inline]
    pub(crate) fn fitting(&self, tag: u64, start: &Start, facts: &mut impl Facts) -> Option<&Plan> {
        let plan = self.plan(tag)?;
        let fits = *start == plan.start
            && plan.guards.iter().all(|(cond, held)| {
                (eval(cond, facts, &mut ()) == tidegate_ir::Truth::True) == *held
            });
        fits.then_some(plan)
    }

    /// Starts to record a packet.
    #[inline]
    pub(crate) fn record(&mut self, start: Start) {
        self.recorder.end();
        if self.plans.len() < MAX_PLANS {
            self.recorder.begin(start);
        } else {
            self.recorder.spoil(Unplanned::Many);
        }
    }

    /// The packet got through: the tag under which its connection finds the plan.
    pub(crate) fn keep(&mut self, mark: u32, env: &Env) -> Option<u64> {
        let recorder = &mut self.recorder;
        let plan = Plan {
            start: recorder.start.take()?,
            mark,
            path: recorder.path,
            longest: recorder.path.map_or(0, |path| path.longest(env)),
            guards: recorder.guards.as_slice().into(),
            trail: recorder.trail.as_slice().into(),
        };
        let number = match self.numbers.entry(plan) {
            Entry::Occupied(known) => *known.get(),
            Entry::Vacant(new) => {
                let number = self.plans.len() as u32;
                self.plans.push(new.key().clone());
                *new.insert(number)
            }
        };
        Some((self.era() << PLAN_BITS) | u64::from(number))
    }

    /// The packet that was recorded has left no plan: a tag for its connection, which has
    /// `tag`, to say why. `None`: that is of no interest.
    pub(crate) fn keep_reason(&mut self, tag: u64) -> Option<u64> {
        let why = self.recorder.why?;
        if self.plan(tag).is_some() || self.why_none(tag) == why {
            return None;
        }
        let known = self.unplanned.iter().position(|w| *w == why);
        let number = known.unwrap_or(self.unplanned.len());
        if known.is_none() && number < MAX_REASONS {
            self.unplanned.push(why);
        }
        (number < MAX_REASONS).then_some((self.era() << PLAN_BITS) | (NO_PLAN - number as u64))
    }

    /// Why a tag names no plan.
    pub(crate) fn why_none(&self, tag: u64) -> Unplanned {
        let number = (NO_PLAN - (tag & NO_PLAN)) as usize;
        let why = self.unplanned.get(number).filter(|_| self.is_of_now(tag));
        why.copied().unwrap_or(Unplanned::Unseen)
    }

    /// The plan that a tag names: how to follow it, protocol and interface of its packets.
    pub(crate) fn known(&self, tag: u64) -> Option<(Follow, u8, Comes)> {
        let start = self.plan(tag)?.start;
        let plan = (tag & NO_PLAN) as u32;
        let comes = match start.in_dev {
            Some(dev) => Comes::Received(dev),
            None => Comes::Sent(start.out_dev?),
        };
        Some((Follow { plan, at: 0 }, start.proto, comes))
    }

    /// Where the plan sends a received packet.
    #[inline]
    pub(crate) fn path(&self, follow: Follow) -> Option<Path> {
        self.plans.get(follow.plan as usize)?.path
    }

    /// The epoch as tags have it, never 0.
    #[inline]
    fn era(&self) -> u64 {
        self.round + 1
    }

    /// Number of the present rules and surroundings.
    pub(crate) fn epoch(&self) -> u64 {
        self.epoch
    }

    /// Counters that packets with this tag raise; none when it is of another epoch.
    pub(crate) fn trail(&self, tag: u64) -> impl Iterator<Item = u32> {
        self.plan(tag).into_iter().flat_map(Plan::counted)
    }

    fn plan(&self, tag: u64) -> Option<&Plan> {
        let number = (tag & NO_PLAN) as usize;
        self.plans.get(number).filter(|_| self.is_of_now(tag))
    }

    /// Whether a tag is of the present epoch.
    fn is_of_now(&self, tag: u64) -> bool {
        (tag & BELOW) >> PLAN_BITS == self.era()
    }

    /// The tests that the plan depends on, and how they came out.
    pub(crate) fn guards(&self, follow: Follow) -> &[(Cond, bool)] {
        let plan = self.plans.get(follow.plan as usize);
        plan.map_or(&[], |p| &p.guards)
    }

    /// The mark that packets of the plan leave the tables with.
    #[inline]
    pub(crate) fn mark(&self, follow: Follow) -> Option<u32> {
        Some(self.plans.get(follow.plan as usize)?.mark)
    }

    /// Counters of the next table on the packet's way.
    #[inline]
    pub(crate) fn next_table(&self, follow: &mut Follow) -> &[u32] {
        let trail = self
            .plans
            .get(follow.plan as usize)
            .and_then(|p| p.trail.get(follow.at as usize..))
            .unwrap_or_default();
        let len = trail.iter().position(|&id| id == END).unwrap_or(0);
        follow.at += len as u32 + 1;
        &trail[..len]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Numbers of epochs come round once, and are told then; a tag never reaches into the
    /// bits above.
    #[test]
    fn epochs_fit_their_bits() {
        let mut flows = FlowCache {
            epoch: EPOCHS - 3,
            ..FlowCache::default()
        };
        for round in [false, true, false] {
            assert_eq!(flows.begin_epoch(), round);
            assert!(flows.era() > 0 && (flows.era() << PLAN_BITS) & !BELOW == 0);
        }
    }
}
