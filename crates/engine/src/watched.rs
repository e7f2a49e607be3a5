//! Packets that somebody watches, and those that nobody does, which are nearly all. What the
//! latter meet is compiled here and nowhere else: once for all crates that have packets decided,
//! and under names that a profile of one program's runs has in common with every other program.

use tidegate_conntrack::Time;

use crate::engine::{Engine, Incoming, Outgoing};
use crate::outcome::Outcome;
use crate::run::Run;
use crate::sockets::Whose;
use crate::trace::Trace;

impl Engine {
    /// [`Engine::receive`]
    pub(crate) fn receive_any<T: Trace>(
        &mut self,
        now: Time,
        incoming: &Incoming,
        packet: Vec<u8>,
        trace: &mut T,
    ) -> Outcome {
        if T::ACTIVE {
            Run::new(self, now, trace).receive(incoming, packet)
        } else {
            self.receive_unwatched(now, incoming, packet)
        }
    }

    fn receive_unwatched(&mut self, now: Time, incoming: &Incoming, packet: Vec<u8>) -> Outcome {
        Run::new(self, now, &mut ()).receive(incoming, packet)
    }

    /// [`Engine::send`], [`Engine::send_as`], [`Engine::send_on`]
    pub(crate) fn send_any<T: Trace>(
        &mut self,
        now: Time,
        packet: Vec<u8>,
        mark: u32,
        way: Option<Outgoing>,
        whose: Option<Box<Whose>>,
        trace: &mut T,
    ) -> Outcome {
        if T::ACTIVE {
            Run::new(self, now, trace).send(packet, mark, way, whose)
        } else {
            self.send_unwatched(now, packet, mark, way, whose)
        }
    }

    fn send_unwatched(
        &mut self,
        now: Time,
        packet: Vec<u8>,
        mark: u32,
        way: Option<Outgoing>,
        whose: Option<Box<Whose>>,
    ) -> Outcome {
        Run::new(self, now, &mut ()).send(packet, mark, way, whose)
    }
}
