//! Follows the host: guards interfaces that appear, forgets those that go, keeps the
//! engine's picture of addresses and routes up to date.

use std::collections::HashMap;
use std::ffi::OsString;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use tidegate_engine::env::IfIndex;
use tidegate_host::Host;
use tidegate_sys::Namespace;

use crate::divert::{Device, Diversion, Takers, list, open, slots_each};
use crate::fast::Kernel;
use crate::handing::Giver;
use crate::port::Port;
use crate::wires::Wires;
use crate::worker::Command;
use crate::{Crash, Options, Ring};

/// What is listened to: links, addresses, routes, rules, forwarding and the like
/// (`RTNLGRP_*`).
const GROUPS: [u32; 9] = [1, 5, 7, 8, 9, 11, 19, 24, 25];

/// Notifications come in swarms: the host is looked at no more often than this.
const PAUSE: Duration = Duration::from_millis(50);

/// What does not work when some interfaces are left to the kernel: a forwarded packet
/// would meet rules on half of its way.
const PARTIAL: [&str; 2] = [
    "nothing is forwarded between guarded interfaces and others",
    "without lo among the guarded interfaces local senders do not hear of REJECT, and \
     nothing that they send can be redirected to this host",
];

/// Guards interfaces.
pub(crate) struct Watcher {
    options: Options,
    kernel: Option<Kernel>,
    /// Hands packets to sockets.
    giver: Option<Giver>,
    /// Where the fast path forwards before the kernel: which interfaces take frames so.
    takers: Option<Takers>,
    helper: Namespace,
    socket: Socket,
    guarded: HashMap<u32, Diversion>,
    /// Interfaces that could not be guarded, and why.
    refused: HashMap<u32, (Device, String)>,
    worker: Wires,
    notes: Arc<Mutex<Vec<String>>>,
}

impl Watcher {
    pub(crate) fn new(
        options: Options,
        worker: Wires,
        notes: Arc<Mutex<Vec<String>>>,
        (kernel, giver): (Option<Kernel>, Option<Giver>),
    ) -> Result<Self> {
        let helper = Namespace::new().context("a network namespace of our own")?;
        let _ = helper.run(|| std::fs::write("/proc/sys/net/ipv6/conf/all/disable_ipv6", "1"));
        let mut socket = Socket::new(NETLINK_ROUTE).context("netlink socket")?;
        socket.bind_auto()?;
        for group in GROUPS {
            socket.add_membership(group)?;
        }
        socket.connect(&SocketAddr::new(0, 0))?;
        socket.set_non_blocking(true)?;
        let early = kernel.is_some() && options.ring == Ring::Xdp;
        // An older kernel does not tell: then none does.
        let takers = early.then(|| Takers::new().ok()).flatten();
        Ok(Watcher {
            options,
            kernel,
            giver,
            takers,
            helper,
            socket,
            guarded: HashMap::new(),
            refused: HashMap::new(),
            worker,
            notes,
        })
    }

    /// The programs in the kernel, where there are any.
    pub(crate) fn kernel(&self) -> Option<&Kernel> {
        self.kernel.as_ref()
    }

    /// Words for a guardian, where one is wanted.
    pub(crate) fn guardian(&self) -> Option<&[OsString]> {
        let words = self.options.guardian.as_slice();
        (self.options.crash == Crash::Open && !words.is_empty()).then_some(words)
    }

    /// Brings everything in line with the host.
    ///
    /// # Errors
    /// The kernel does not tell.
    pub(crate) fn look(&mut self) -> Result<()> {
        let mut devices = list()?;
        if let Some(takers) = &self.takers {
            let takes = takers.list()?;
            for device in &mut devices {
                device.takes = takes.contains(&device.index);
            }
        }
        let wanted: Vec<&Device> = devices.iter().filter(|d| self.wants(d)).collect();
        let gone: Vec<u32> = self
            .guarded
            .keys()
            .filter(|i| !wanted.iter().any(|d| d.index == **i))
            .copied()
            .collect();
        for index in gone {
            self.forget(index)?;
        }
        self.refused
            .retain(|i, _| wanted.iter().any(|d| d.index == *i));
        let (host, mut notes) = Host::running()?;
        let mut env = host.env;
        env.settings.any_group = true;
        self.worker.tell(Command::Env(Arc::new(env)))?;
        let slots = slots_each(wanted.len());
        for device in wanted {
            self.keep(device, slots)?;
        }
        notes.extend(self.left_out(&devices));
        notes.extend(self.kernel.as_ref().and_then(Kernel::note));
        *self.notes.lock().unwrap_or_else(PoisonError::into_inner) = notes;
        Ok(())
    }

    /// Opens what a predecessor has left closed and nobody wants guarded now. What could
    /// not be guarded stays as it is.
    pub(crate) fn open_others(&self) -> Result<()> {
        for device in list()? {
            let known = self.guarded.contains_key(&device.index);
            if !known && !self.refused.contains_key(&device.index) && !device.ours() {
                open(&device).with_context(|| format!("opening {}", device.name))?;
            }
        }
        Ok(())
    }

    fn wants(&self, device: &Device) -> bool {
        let named = |names: &Vec<String>| names.contains(&device.name);
        !device.ours() && !device.port && self.options.interfaces.as_ref().is_none_or(named)
    }

    fn keep(&mut self, device: &Device, slots: u32) -> Result<()> {
        if self
            .refused
            .get(&device.index)
            .is_some_and(|r| r.0 == *device)
        {
            return Ok(());
        }
        let Some(guarded) = self.guarded.get_mut(&device.index) else {
            return self.guard(device, slots);
        };
        if guarded.device != *device {
            guarded.follow(device)?;
            self.worker
                .tell(Command::Change(Box::new(device.clone())))?;
        }
        Ok(())
    }

    fn guard(&mut self, device: &Device, slots: u32) -> Result<()> {
        let kernel = self.kernel.as_mut();
        let ring = self.options.ring;
        let installed = Diversion::install(device, &self.helper, (ring, slots), kernel);
        match (installed, device.framing) {
            (Ok((mut diversion, sockets)), Some(framing)) => {
                diversion.hand(self.giver.as_mut());
                self.guarded.insert(device.index, diversion);
                self.refused.remove(&device.index);
                let port = Box::new(Port::new(device, framing, sockets)?);
                self.worker.tell(Command::Add(port))
            }
            (Ok(_), None) => Ok(()),
            (Err(e), _) => {
                let why = format!("{e:#}");
                self.refused.insert(device.index, (device.clone(), why));
                Ok(())
            }
        }
    }

    fn forget(&mut self, index: u32) -> Result<()> {
        self.worker.tell(Command::Remove(IfIndex(index)))?;
        if let Some(diversion) = self.guarded.remove(&index) {
            // The interface may be gone and its filters with it.
            let _ = diversion.remove(self.kernel.as_mut());
        }
        Ok(())
    }

    /// What is not guarded, and why, and what is slow.
    fn left_out(&self, devices: &[Device]) -> Vec<String> {
        let mut notes: Vec<String> = self
            .refused
            .values()
            .map(|(device, why)| format!("{} is not guarded: {why}", device.name))
            .collect();
        let slow = self.guarded.values().filter(|d| !d.rings);
        notes.extend(slow.map(|d| {
            let name = &d.device.name;
            format!("{name} is slow: the kernel had no memory for packet rings")
        }));
        let plain = self.guarded.values().filter_map(|d| {
            let (name, why) = (&d.device.name, d.no_xdp.as_ref()?);
            Some(match d.is_fast() {
                false => {
                    format!("the packets of {name} come by packet sockets, not by AF_XDP: {why}")
                }
                true => {
                    format!("the packets of {name} are forwarded by TCX, not by XDP: {why}")
                }
            })
        });
        notes.extend(plain);
        notes.extend(self.guarded.values().filter_map(|d| {
            let (name, why) = (&d.device.name, d.no_giving.as_ref()?);
            Some(format!(
                "what comes by {name} cannot be handed to other sockets (TPROXY): {why}"
            ))
        }));
        if let Some(names) = &self.options.interfaces {
            let others = devices
                .iter()
                .filter(|d| !d.ours() && !names.contains(&d.name));
            notes.extend(others.map(|d| format!("{} is not guarded: not asked for", d.name)));
            notes.extend(PARTIAL.map(str::to_owned));
        }
        notes.sort();
        notes
    }

    /// Follows the host until something can be read from `stop`; then opens all
    /// interfaces again.
    pub(crate) fn run(mut self, stop: &OwnedFd) -> Result<()> {
        let mut looked = Instant::now();
        let mut stale = false;
        loop {
            let wait = stale.then(|| PAUSE.saturating_sub(looked.elapsed()));
            let mut fds = [
                PollFd::from_borrowed_fd(stop.as_fd(), PollFlags::IN),
                PollFd::from_borrowed_fd(self.socket.as_fd(), PollFlags::IN),
                PollFd::from_borrowed_fd(self.changes().as_fd(), PollFlags::IN),
            ];
            let wait = wait.and_then(|w| Timespec::try_from(w).ok());
            match poll(&mut fds, wait.as_ref()) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(e) => return Err(e).context("waiting for changes of the host"),
            }
            if !fds[0].revents().is_empty() {
                return self.close();
            }
            stale |= self.drain();
            if stale && looked.elapsed() >= PAUSE {
                looked = Instant::now();
                stale = false;
                // Something that vanishes while it is looked at is told of again.
                if let Err(e) = self.look() {
                    let mut notes = self.notes.lock().unwrap_or_else(PoisonError::into_inner);
                    notes.push(format!("the host could not be looked at: {e:#}"));
                }
            }
        }
    }

    /// Takes notifications; `true` when there were any, or too many to keep.
    fn drain(&self) -> bool {
        let mut any = false;
        let mut buffer = Vec::with_capacity(1 << 16);
        for socket in [&self.socket, self.changes()] {
            loop {
                buffer.clear();
                match socket.recv(&mut buffer, 0) {
                    Err(e) if e.kind() == io::ErrorKind::WouldBlock => break,
                    _ => any = true,
                }
            }
        }
        any
    }

    /// Where changes of what interfaces can do are told, if that is not where all are.
    fn changes(&self) -> &Socket {
        self.takers.as_ref().map_or(&self.socket, |t| &t.changes)
    }

    /// Opens what is guarded.
    pub(crate) fn close(&mut self) -> Result<()> {
        let mut first = Ok(());
        for (_, diversion) in self.guarded.drain() {
            let name = diversion.device.name.clone();
            let removed = diversion.remove(self.kernel.as_mut());
            let removed = removed.with_context(|| format!("opening {name}"));
            if first.is_ok() {
                first = removed;
            }
        }
        first
    }
}
