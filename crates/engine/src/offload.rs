//! Packets that somebody else may handle: a fast path that is told what became of one
//! packet of a flow, and does the same with those that follow.
//!
//! An [`Offer`] says what that is. It is made only where nothing but a packet's addresses,
//! ports and type of service decides (within what the fast path takes: segments that
//! neither open nor close a TCP connection), and holds until the epoch changes or the
//! connection is called back ([`tidegate_conntrack::elsewhere`]).

use tidegate_conntrack::elsewhere::{Elsewhere, Unsettled};
use tidegate_conntrack::{Dir, EntryId, Family, Tuple};
use tidegate_ir::{Cond, Facts, Field, StepId, TableKind, Truth, eval};
use tidegate_wire::proto;
use tidegate_wire::tcp::flags;

use crate::engine::{Engine, index};
use crate::env::IfIndex;
use crate::flow::{Follow, Unplanned};
use crate::packet::Packet;
use crate::routing::Path;

/// What is kept of the last packet, if it followed a plan.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Last {
    /// The plan that its connection's tag names, in this direction and with this type of service.
    Tagged(EntryId, Dir, u8),
    /// All of it.
    Whole(Followed),
}

/// What is kept of a packet that followed a plan.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Followed {
    id: EntryId,
    dir: Dir,
    follow: Follow,
    family: Family,
    proto: u8,
    comes: Comes,
    tos: u8,
}

impl Followed {
    /// Of a packet as it leaves.
    pub(crate) fn of(packet: &Packet) -> Option<Followed> {
        let attached = packet.tracking.connection()?;
        let comes = match packet.in_dev {
            // Out of loopback, and in again.
            Some(dev) if packet.looped => Comes::Sent(Some(dev).filter(|_| packet.as_sent)?),
            Some(dev) => Comes::Received(dev),
            None => Comes::Sent(packet.out_dev.filter(|_| packet.as_sent)?),
        };
        Some(Followed {
            id: attached.id,
            dir: attached.dir,
            follow: packet.follow?,
            family: packet.layout.family,
            proto: packet.layout.proto,
            comes,
            tos: packet.layout.tos(&packet.bytes),
        })
    }
}

/// Where packets of a flow come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Comes {
    /// Received by an interface.
    Received(IfIndex),
    /// From this host's own sockets, which the kernel has routed out of an interface.
    Sent(IfIndex),
}

impl Comes {
    /// The interface.
    #[must_use]
    pub const fn dev(self) -> IfIndex {
        match self {
            Comes::Received(dev) | Comes::Sent(dev) => dev,
        }
    }
}

/// Where packets of a flow go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Goes {
    /// Out of an interface.
    Out {
        /// Interface.
        dev: IfIndex,
        /// Next hop's address.
        next_hop: u128,
    },
    /// To a local socket.
    Local,
    /// The way that the kernel has chosen for what its own sockets send; by loopback, in again
    /// and to a local socket.
    AsSent,
}

/// What becomes of the packets of one direction of a connection that come by one
/// interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Offer {
    /// The connection.
    pub id: EntryId,
    /// The direction.
    pub dir: Dir,
    /// Where they come from.
    pub comes: Comes,
    /// Where they go.
    pub goes: Goes,
    /// As they come.
    pub before: Tuple,
    /// As they leave.
    pub after: Tuple,
    /// The only type of service (traffic class) for which that holds.
    pub tos: Option<u8>,
    /// What counts these packets for the rules: it holds as long as the connection's tag of this
    /// direction is the same.
    pub tag: u64,
}

/// Why a flow is not offered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Withheld {
    /// What rules made of its packets was not noted.
    Unplanned(Unplanned),
    /// Its connection is not settled.
    Connection(Unsettled),
    /// The raw table sees every packet.
    Raw,
    /// A rule looks at a field that differs from packet to packet.
    Residue(Field),
    /// Its packets bear a mark when they reach their socket.
    Marked,
    /// It has no way.
    NoWay,
}

/// Keeps up with rules and surroundings.
pub trait Follower: std::fmt::Debug + Send {
    /// From here on packets meet other rules or surroundings, those of `epoch`.
    fn begins(&mut self, epoch: u64);
}

/// One field of a packet.
struct Only(Field, u128);

impl Facts for Only {
    fn load(&mut self, field: Field) -> Option<u128> {
        (field == self.0).then_some(self.1)
    }

    fn step(&mut self, _: StepId) -> Truth {
        Truth::False
    }
}

impl Engine {
    /// What the last packet tells about those that follow it.
    ///
    /// # Errors
    /// Why nothing.
    pub fn offer(&mut self) -> Result<Offer, Withheld> {
        const UNSEEN: Withheld = Withheld::Unplanned(Unplanned::Unseen);
        match self.last.take().ok_or(UNSEEN)? {
            Last::Tagged(id, dir, tos) => self.offer_tagged(id, dir, tos),
            Last::Whole(last) => self.offer_as(&last),
        }
    }

    /// What the last packets of one direction of a connection tell about those that follow
    /// them: as [`Engine::offer`], for whoever asks later. The type of service is taken
    /// for 0.
    ///
    /// # Errors
    /// Why nothing.
    pub fn offer_of(&self, id: EntryId, dir: Dir) -> Result<Offer, Withheld> {
        self.offer_tagged(id, dir, 0)
    }

    fn offer_tagged(&self, id: EntryId, dir: Dir, tos: u8) -> Result<Offer, Withheld> {
        if let Some(why) = self.conntrack.unsettled(id) {
            return Err(Withheld::Connection(why));
        }
        let entry = self.conntrack.entry(id);
        let entry = entry.ok_or(Withheld::Connection(Unsettled::Gone))?;
        let tag = entry.tags[dir.ix()];
        let unplanned = || Withheld::Unplanned(self.flows.why_none(tag));
        let (follow, proto, comes) = self.flows.known(tag).ok_or_else(unplanned)?;
        self.offer_as(&Followed {
            id,
            dir,
            follow,
            family: entry.tuple(dir).family,
            proto,
            comes,
            tos,
        })
    }

    fn offer_as(&self, last: &Followed) -> Result<Offer, Withheld> {
        if let Some(why) = self.conntrack.unsettled(last.id) {
            return Err(Withheld::Connection(why));
        }
        let rules = &self.families[index(last.family)].rules;
        if rules.table(TableKind::Raw).is_some() {
            return Err(Withheld::Raw);
        }
        let tos = self.residue(last)?;
        let entry = self.conntrack.entry(last.id);
        let entry = entry.ok_or(Withheld::Connection(Unsettled::Gone))?;
        let before = *entry.tuple(last.dir);
        let answer = entry.tuple(last.dir.other());
        let after = answer.inverse().ok_or(Withheld::NoWay)?;
        let goes = match (last.comes, self.flows.path(last.follow)) {
            (Comes::Sent(dev), _) => {
                if dev == self.env.loopback() {
                    self.reaches_socket(last, &after)?;
                }
                Goes::AsSent
            }
            (Comes::Received(_), Some(Path::Local)) => {
                self.reaches_socket(last, &after)?;
                Goes::Local
            }
            (Comes::Received(_), Some(Path::Forward { dev, via })) => Goes::Out {
                dev,
                next_hop: via.unwrap_or(after.dst),
            },
            (Comes::Received(_), Some(Path::Stop(..)) | None) => return Err(Withheld::NoWay),
        };
        Ok(Offer {
            id: last.id,
            dir: last.dir,
            comes: last.comes,
            goes,
            before,
            after,
            tos,
            tag: entry.tags[last.dir.ix()],
        })
    }

    /// Whether the kernel, if it is left alone with packets that come to a local socket, gives
    /// them to the one that they are addressed to.
    fn reaches_socket(&self, last: &Followed, after: &Tuple) -> Result<(), Withheld> {
        if self.flows.mark(last.follow) != Some(0) {
            Err(Withheld::Marked)
        } else if self.env.is_local(after.family, after.dst) {
            Ok(())
        } else {
            Err(Withheld::NoWay)
        }
    }

    /// Whether only the type of service differs from packet to packet, and which one it
    /// must be.
    fn residue(&self, last: &Followed) -> Result<Option<u8>, Withheld> {
        let mut tos = None;
        for (cond, held) in self.flows.guards(last.follow) {
            let Cond::Test(test) = cond else {
                return Err(Withheld::Unplanned(Unplanned::Stateful));
            };
            match test.field() {
                Field::Tos => tos = Some(last.tos),
                // Kept with the connection, which is called back when they change.
                Field::CtStatus
                | Field::CtMark
                | Field::CtLabels
                | Field::CtReplSrc
                | Field::CtReplDst
                | Field::CtReplSport
                | Field::CtReplDport => {}
                Field::TcpFlags if last.proto == proto::TCP && constant(cond, *held) => {}
                field => return Err(Withheld::Residue(field)),
            }
        }
        Ok(tos)
    }

    /// Where connections can be entrusted to.
    pub fn set_elsewhere(&mut self, elsewhere: Box<dyn Elsewhere>) {
        self.conntrack.set_elsewhere(elsewhere);
        self.count_passed();
    }

    /// The packets of a connection that was offered pass at `place` from now on.
    pub fn entrust(&mut self, id: EntryId, place: u32) {
        self.conntrack.entrust(id, place);
    }

    /// From now on `follower` hears of every change of rules and surroundings before
    /// anybody else does.
    pub fn set_follower(&mut self, mut follower: Box<dyn Follower>) {
        follower.begins(self.flows.epoch());
        self.flows.follower = Some(follower);
    }

    /// Whether connection tracking sees a family's packets.
    #[must_use]
    pub fn is_tracked(&self, family: Family) -> bool {
        self.families[index(family)].tracked
    }

    /// Whether a family's connections may be translated: the nat table has been loaded.
    #[must_use]
    pub fn is_translated(&self, family: Family) -> bool {
        self.families[index(family)].nat
    }

    /// Calls all connections back, and has nothing dropped elsewhere any more.
    pub fn recall_all(&mut self) {
        self.conntrack.recall_all();
        self.count_passed();
        self.count_stopped(true);
    }

    /// Brings connections and counters up to date with what passed elsewhere.
    pub fn look_elsewhere(&mut self) {
        self.conntrack.look_elsewhere();
        self.count_passed();
        self.count_stopped(false);
    }

    /// As [`Engine::look_elsewhere`], for the connection at one place.
    pub fn look_at(&mut self, place: u32) {
        self.conntrack.look_at(place);
        self.count_passed();
    }

    /// A number that changes with rules and surroundings.
    #[must_use]
    pub fn epoch(&self) -> u64 {
        self.flows.epoch()
    }

    /// Counts for the rules what has passed elsewhere.
    #[inline]
    pub(crate) fn count_passed(&mut self) {
        if self.conntrack.has_passed() {
            self.count_each();
        }
    }

    fn count_each(&mut self) {
        for passed in self.conntrack.take_passed() {
            let counters = &mut self.families[index(passed.family)].counters;
            for id in self.flows.trail(passed.tag) {
                if let Some(counter) = counters.get_mut(id as usize) {
                    counter.packets += passed.counters.packets;
                    counter.bytes += passed.counters.bytes;
                }
            }
            self.flows.followed += passed.counters.packets;
        }
    }
}

/// Whether a test of TCP flags comes out as `held` for every segment that neither opens
/// nor closes a connection.
fn constant(cond: &Cond, held: bool) -> bool {
    // These may be there or not.
    const FREE: [u8; 3] = [flags::PSH, flags::ECE, flags::CWR];
    (0..1 << FREE.len()).all(|some: u8| {
        let there = FREE.iter().enumerate();
        let there = there.filter(|(i, _)| some >> i & 1 != 0);
        let value = there.fold(flags::ACK, |v, (_, flag)| v | flag);
        let mut facts = Only(Field::TcpFlags, u128::from(value));
        (eval(cond, &mut facts, &mut ()) == Truth::True) == held
    })
}
