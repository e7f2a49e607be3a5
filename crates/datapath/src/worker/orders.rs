//! What the loop is told from outside.

use std::sync::Arc;

use anyhow::Result;
use tidegate_engine::conntrack::{SECOND, Time};
use tidegate_engine::env::IfIndex;

use super::out::port_of;
use super::{Command, Source, Worker, key, watch};
use crate::divert::Device;
use crate::fast::Fast;
use crate::port::{Port, Side};
use crate::report::{Guarded, Report};
use crate::stop::Stops;

/// How long commands from outside may take before packets get their turn, given that none
/// takes longer itself.
const TURN: Time = SECOND / 2000;

/// Longest wait for programs to get the connections that they may have.
const HANDING_OVER: Time = SECOND / 2;

impl Worker {
    /// Carries out commands, as many as packets can wait for; `true` when the last one
    /// has been.
    pub(super) fn obey(&mut self) -> Result<bool> {
        let mut count = [0; 8];
        let _ = rustix::io::read(&*self.wake, &mut count);
        let ends = self.clock.now().saturating_add(TURN);
        let done = self.obey_until(ends);
        if let Some(fast) = &self.fast {
            fast.follow(&self.engine);
        }
        self.tell_maker();
        done
    }

    /// Has a program made for local senders when it is time; the number of the last job.
    fn tell_maker(&mut self) -> u64 {
        if let Some(asked) = &self.asked {
            asked.set(self.engine.asks_sockets());
        }
        let Some(heard) = &mut self.heard else {
            return 0;
        };
        let ports = self.ports.iter().flatten();
        let names = || ports.map(|p| (p.dev.0, p.name.clone())).collect();
        heard.follow(&self.engine, names)
    }

    /// At least one command, so that none waits for ever behind work that takes long.
    fn obey_until(&mut self, ends: Time) -> Result<bool> {
        let mut looked = self.fast.is_none();
        loop {
            let Ok(command) = self.commands.try_recv() else {
                self.behind = false;
                return Ok(false);
            };
            match command {
                Command::Run(work) => {
                    // It may ask what connections are doing that the kernel has.
                    if !std::mem::replace(&mut looked, true) {
                        self.engine.look_elsewhere();
                    }
                    work(&mut self.engine, self.now);
                }
                Command::Add(port) => {
                    self.add(*port)?;
                    self.interfaces_changed();
                }
                Command::Remove(dev) => {
                    self.remove(dev);
                    self.interfaces_changed();
                }
                Command::Change(device) => {
                    self.change(&device);
                    self.interfaces_changed();
                }
                // The kernel tells of much that changes nothing.
                Command::Env(env) if **self.engine.env() == *env => {}
                Command::Env(env) => self.engine.set_env(env),
                Command::Report(to) => {
                    self.ask_lost();
                    let _ = to.send(self.report());
                }
                Command::Stops(ready) => {
                    if let Some(stops) = &mut self.stops {
                        stops.ready(&self.engine, ready);
                        stops.follow(&self.engine);
                    }
                }
                Command::Settle(to) => {
                    let _ = to.send(self.tell_maker());
                }
                Command::Leave(work) => {
                    let until = self.clock.now().saturating_add(HANDING_OVER);
                    self.leaving = Some((work, until));
                }
                Command::Stop => return Ok(true),
            }
            if self.clock.now() >= ends {
                self.behind = true;
                return Ok(false);
            }
        }
    }

    /// Does what is to be done last, when it is time: all that came up has been dealt with.
    pub(super) fn leave(&mut self) {
        let (settled, now) = (self.fast.as_ref().is_none_or(Fast::is_settled), self.now);
        let last = self.leaving.take_if(|(_, until)| settled || *until <= now);
        if let Some((work, _)) = last {
            self.engine.look_elsewhere();
            work(&mut self.engine, now);
        }
    }

    /// Flows that the kernel has been given know the old MTU: they come back.
    fn change(&mut self, device: &Device) {
        let dev = IfIndex(device.index);
        if let Some((_, port)) = port_of(&self.by_dev, &mut self.ports, dev) {
            port.change(device);
        }
        if self.fast.is_some() {
            let env = Arc::clone(self.engine.env());
            self.engine.set_env(env);
        }
    }

    fn report(&self) -> Report {
        let mut interfaces: Vec<Guarded> = self
            .ports
            .iter()
            .flatten()
            .map(|p| Guarded {
                name: p.name.clone(),
                index: p.dev.0,
                traffic: p.traffic,
            })
            .collect();
        interfaces.sort_by_key(|g| g.index);
        Report {
            interfaces,
            stray: self.stray,
            fates: self.fast.as_ref().map(Fast::fates).unwrap_or_default(),
            notes: self.stops.iter().filter_map(Stops::note).collect(),
        }
    }

    /// What was offered depends on the interfaces too, not only on what the engine knows of
    /// them.
    fn interfaces_changed(&mut self) {
        let env = Arc::clone(self.engine.env());
        self.engine.set_env(env);
    }

    fn add(&mut self, mut port: Port) -> Result<()> {
        self.remove(port.dev);
        if let Some(heard) = &mut self.heard {
            heard.changed();
        }
        let free = self.ports.iter().position(Option::is_none);
        let slot = free.unwrap_or(self.ports.len());
        for side in [Side::Wire, Side::Door] {
            let Some(socket) = port.channel(side).and_then(|c| c.socket.as_ref()) else {
                continue;
            };
            watch(&self.poll, socket, key(slot, side))?;
        }
        self.by_dev.insert(port.dev, slot);
        if slot == self.ports.len() {
            self.ports.push(None);
        }
        self.ports[slot] = Some(port);
        Ok(())
    }

    fn remove(&mut self, dev: IfIndex) {
        // A socket leaves the poll set when it is closed.
        if let Some(slot) = self.by_dev.remove(&dev) {
            if let Some(heard) = &mut self.heard {
                heard.changed();
            }
            self.ports[slot] = None;
            // Another interface may have this place when they go on.
            for (source, _) in self.parked.values_mut().filter(|(s, _)| s.slot == slot) {
                source.slot = Source::ENGINE.slot;
            }
            self.stray += self.neighbours.forget(dev);
        }
    }
}
