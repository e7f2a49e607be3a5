//! Diverting packets: what the kernel sends and receives comes to us instead, and only
//! what we inject reaches its sockets.
//!
//! For every guarded interface there is a pair of devices. One end, named after the
//! interface, stays beside it; the far end is in a namespace of its own where nothing
//! else is. What the kernel sends out of the interface is redirected to the near end and
//! read at the far one; what is written to the far end comes out of the near one and is
//! redirected to the interface, where the kernel takes it for received. Frames that
//! really are received are dropped, unless their Ethernet source is a secret that only
//! injected frames carry.

mod filters;
mod links;
mod settings;
mod takers;

use anyhow::{Context, Result, anyhow, bail};
use aya::programs::links::FdLink;
use tidegate_sys::{Namespace, PacketOptions, PacketSocket, XdpSocket, random, wire_filter};

use crate::fast::{Attached, Kernel, Predecessor};
use crate::handing::Giver;
use crate::{Ring, xdp};
use filters::{Act, At, Ours, Place, Turn, Which};
pub(crate) use links::{Device, Framing, list};
pub(crate) use takers::Takers;

/// Bytes of frames that may wait at an interface or at its door.
const BUFFER: u32 = 32 << 20;
/// Slots of memory shared with the kernel, 2 KiB each, in which received frames wait: of
/// all interfaces together, and of one at most and at least. The most is 13 milliseconds
/// of 600,000 packets a second.
const SLOTS: u32 = 32768;
const MOST_SLOTS: u32 = 8192;
const LEAST_SLOTS: u32 = 512;
/// Frames of this host's sockets, which wait for room themselves, have fewer.
const DOOR_SHARE: u32 = 4;
/// Frames to be sent go as soon as that many are together.
const SEND_SHARE: u32 = 32;

/// The device that swallows what the kernel must not see.
const SINK: &str = "tg-sink";

/// What keeps an interface guarded.
#[derive(Debug)]
pub(crate) struct Diversion {
    /// The interface.
    pub(crate) device: Device,
    /// Our end of the pair beside it.
    near: u32,
    /// The programs of the fast path.
    fast: Option<Attached>,
    /// Our end of the pair by which they send up what is received.
    up: Option<u32>,
    /// The kernel had memory for rings.
    pub(crate) rings: bool,
    /// The program that hands frames to `AF_XDP` sockets.
    xdp: Option<xdp::Attached>,
    /// Why there is none where one is wanted, or none of the fast path.
    pub(crate) no_xdp: Option<String>,
    /// The program that hands packets to sockets, or why there is none.
    giving: Option<FdLink>,
    pub(crate) no_giving: Option<String>,
}

/// The sockets of a guarded interface.
#[derive(Debug)]
pub(crate) struct Sockets {
    /// Frames of the interface itself; loopback has none.
    pub(crate) wire: Option<PacketSocket>,
    /// Frames of the interface that do not come to its own socket.
    pub(crate) queues: Vec<XdpSocket>,
    /// The programs of the fast path are there.
    pub(crate) fast: bool,
    /// What they send up of what is received; with it, the interface's own socket only sends.
    pub(crate) up: Option<PacketSocket>,
    /// A program of the fast path sees frames before the kernel does.
    pub(crate) early: bool,
    /// The kernel's frames: out of its sockets, and into them.
    pub(crate) door: PacketSocket,
    /// Ethernet address that frames into the door are for.
    pub(crate) near_mac: [u8; 6],
    /// Ethernet source that they have.
    pub(crate) secret: [u8; 6],
}

/// A locally administered unicast address that nobody can guess.
pub(crate) fn secret() -> Result<[u8; 6]> {
    let mut mac = [0; 6];
    random(&mut mac).context("random bytes")?;
    mac[0] = mac[0] & 0xfc | 2;
    Ok(mac)
}

/// How many slots an interface gets when it is one of `count`.
pub(crate) fn slots_each(count: usize) -> u32 {
    let count = u32::try_from(count.max(1)).unwrap_or(u32::MAX);
    (SLOTS / count).clamp(LEAST_SLOTS, MOST_SLOTS)
}

impl Diversion {
    /// Guards `device`, also where a predecessor has left it closed: it stays so until
    /// its packets come to us. Up to `slots` of them may wait.
    ///
    /// # Errors
    /// The kernel refuses. The interface is as it was then.
    pub(crate) fn install(
        device: &Device,
        helper: &Namespace,
        (ring, slots): (Ring, u32),
        kernel: Option<&mut Kernel>,
    ) -> Result<(Self, Sockets)> {
        let Some(framing) = device.framing else {
            bail!("its framing is unknown here");
        };
        let near_mac = match framing {
            Framing::Ethernet(mac) => mac,
            Framing::Loopback | Framing::Bare => secret()?,
        };
        let (near, far) = links::pair(&links::own_name(device), Some(near_mac), helper)?;
        let mut diversion = Diversion {
            device: device.clone(),
            near,
            fast: None,
            up: None,
            rings: true,
            xdp: None,
            no_xdp: None,
            giving: None,
            no_giving: None,
        };
        let mut kernel = kernel.filter(|_| framing != Framing::Bare);
        let queues = diversion.quicken(ring, slots, kernel.is_some());
        let fast = kernel.as_deref_mut();
        let done = diversion.connect(framing, far, helper, near_mac, slots, fast);
        match done {
            Ok(mut sockets) => {
                if let (Ring::Xdp, Some(kernel)) = (ring, kernel) {
                    sockets.early = framing != Framing::Loopback && diversion.look_early(kernel);
                }
                sockets.queues = queues;
                let takes = sockets.up.as_ref().or(sockets.wire.as_ref());
                let wire = takes.is_none_or(PacketSocket::has_ring);
                diversion.rings = wire && sockets.door.has_ring();
                Ok((diversion, sockets))
            }
            Err(e) => {
                let _ = links::remove(diversion.near);
                Err(e)
            }
        }
    }

    /// Has what is let in handed to sockets that it is not addressed to.
    pub(crate) fn hand(&mut self, giver: Option<&mut Giver>) {
        let near = links::own_name(&self.device);
        match giver.map(|g| g.attach(&near)) {
            Some(Ok(link)) => self.giving = Some(link),
            Some(Err(e)) => self.no_giving = Some(format!("{e:#}")),
            None => {}
        }
    }

    /// Takes frames by `AF_XDP` where that is wanted and can be; from here on, what it
    /// takes does not reach the kernel.
    fn quicken(&mut self, ring: Ring, slots: u32, fast: bool) -> Vec<XdpSocket> {
        if ring != Ring::Xdp || fast || self.device.framing == Some(Framing::Loopback) {
            return Vec::new();
        }
        match xdp::take(&self.device, slots) {
            Ok((attached, queues)) => {
                self.xdp = Some(attached);
                queues
            }
            Err(e) => {
                self.no_xdp = Some(format!("{e:#}"));
                Vec::new()
            }
        }
    }

    /// Lets the fast path see frames before the kernel does, where that can be.
    fn look_early(&mut self, kernel: &mut Kernel) -> bool {
        let Some(attached) = &mut self.fast else {
            return false;
        };
        let done = match xdp::unfit(&self.device) {
            Some(why) => Err(anyhow!(why)),
            None => kernel.attach_early(attached),
        };
        self.no_xdp = done.err().map(|e| format!("{e:#}"));
        self.no_xdp.is_none()
    }

    fn connect(
        &mut self,
        framing: Framing,
        far: u32,
        helper: &Namespace,
        near_mac: [u8; 6],
        slots: u32,
        kernel: Option<&mut Kernel>,
    ) -> Result<Sockets> {
        let index = self.device.index;
        let secret = kernel.as_ref().map_or_else(secret, |k| Ok(k.injected()))?;
        let all = PacketOptions {
            filter: Vec::new(),
            buffer: BUFFER,
            receive_ring: slots / DOOR_SHARE,
            send_ring: slots / SEND_SHARE,
            send_only: false,
            protocol: None,
        };
        let door = helper
            .run(|| PacketSocket::open(far, &all))
            .context("a packet socket")?;
        let own = PacketOptions {
            filter: wire_filter(secret),
            send_only: kernel.is_some(),
            // What does not come by the quick way is little.
            receive_ring: if self.xdp.is_some() {
                LEAST_SLOTS
            } else {
                slots
            },
            ..all
        };
        let wire = match framing {
            Framing::Loopback => None,
            Framing::Ethernet(_) | Framing::Bare => {
                Some(PacketSocket::open(index, &own).context("a packet socket")?)
            }
        };
        filters::prepare(self.near)?;
        let inject = Act::ReceiveOn(index);
        let turn = (Place::FIRST, Turn::Redirect);
        filters::add(self.near, At::Ingress, turn, Which::All, inject, 0)
            .context("redirecting into the interface")?;
        filters::prepare(index)?;
        let place = Place::free(index)?;
        let diverted = self.divert(framing, place, secret).and_then(|()| {
            let up = kernel.map(|kernel| match framing {
                Framing::Loopback => self.speed_up_inside(kernel).map(|()| None),
                _ => self.speed_up(kernel, helper, slots).map(Some),
            });
            Ok(up.transpose()?.flatten())
        });
        let up = diverted.inspect_err(|_| {
            let _ = filters::remove(index, Ours::In(place));
        })?;
        filters::remove(index, Ours::NotIn(place)).context("removing a predecessor's filters")?;
        Ok(Sockets {
            wire,
            queues: Vec::new(),
            fast: self.fast.is_some(),
            up,
            early: false,
            door,
            near_mac,
            secret,
        })
    }

    /// Puts the programs of the fast path in front; what they send up comes by the socket.
    fn speed_up(
        &mut self,
        kernel: &mut Kernel,
        helper: &Namespace,
        slots: u32,
    ) -> Result<PacketSocket> {
        let index = self.device.index;
        let name = links::own_name_up(index);
        let (near, far) = links::pair(&name, None, helper)?;
        let all = PacketOptions {
            buffer: BUFFER,
            receive_ring: slots,
            ..PacketOptions::default()
        };
        let socket = helper.run(|| PacketSocket::open(far, &all));
        let device = (index, self.device.name.as_str());
        let done = socket.context("a packet socket").and_then(|socket| {
            let attached = kernel.attach(device, [near, self.near], &name, helper)?;
            Ok((socket, attached))
        });
        match done {
            Ok((socket, attached)) => {
                (self.up, self.fast) = (Some(near), Some(attached));
                Ok(socket)
            }
            Err(e) => {
                let _ = links::remove(near);
                Err(e)
            }
        }
    }

    /// The same for loopback, whose frames come up by its door alone.
    fn speed_up_inside(&mut self, kernel: &mut Kernel) -> Result<()> {
        let device = (self.device.index, self.device.name.as_str());
        self.fast = Some(kernel.attach_inside(device, self.near)?);
        Ok(())
    }

    /// Closes the interface to everything but us. Filters that a predecessor has left,
    /// before ours or behind them, keep it closed on the way.
    fn divert(&self, framing: Framing, place: Place, secret: [u8; 6]) -> Result<()> {
        let index = self.device.index;
        // What a predecessor has changed is still to be restored.
        let before = filters::memo(index, At::Egress)?.unwrap_or(0);
        let memo = before | settings::prepare(&self.device)?;
        let out = Act::SendTo(self.near);
        let slots = (place, Turn::Redirect);
        filters::add(index, At::Egress, slots, Which::All, out, memo)
            .context("redirecting what leaves the interface")?;
        if framing != Framing::Loopback {
            swallow(index, place)?;
            let slots = (place, Turn::Pass);
            filters::add(index, At::Ingress, slots, Which::From(secret), Act::Pass, 0)
                .context("letting injected packets pass")?;
        }
        Ok(())
    }

    /// Follows changes of the interface.
    pub(crate) fn follow(&mut self, device: &Device) -> Result<()> {
        if let Some(Framing::Ethernet(mac)) = device.framing
            && device.framing != self.device.framing
        {
            links::set_mac(self.near, mac)?;
        }
        self.device = device.clone();
        if let Some(attached) = &mut self.fast
            && let Some(why) = xdp::unfit(device)
            && attached.leave_early()
        {
            self.no_xdp = Some(why);
        }
        if self.xdp.is_some()
            && let Some(why) = xdp::unfit(device).or_else(|| xdp::too_long(device))
        {
            self.xdp = None;
            self.no_xdp = Some(why);
        }
        Ok(())
    }

    /// Whether the programs of the fast path are in front.
    pub(crate) fn is_fast(&self) -> bool {
        self.fast.is_some()
    }

    /// Opens the interface again.
    pub(crate) fn remove(self, kernel: Option<&mut Kernel>) -> Result<()> {
        drop(self.xdp);
        drop(self.giving);
        let opened = open(&self.device);
        if let (Some(attached), Some(kernel)) = (self.fast, kernel) {
            kernel.detach(attached)?;
        }
        if let Some(near) = self.up {
            links::remove(near)?;
        }
        links::remove(self.near)?;
        opened.map(|_| ())
    }
}

/// Drops what comes in at device `index`: it goes to a device that is no more.
fn swallow(index: u32, place: Place) -> Result<()> {
    let sink = links::sink(SINK)?;
    let slots = (place, Turn::Swallow);
    let added = filters::add(index, At::Ingress, slots, Which::All, Act::SendTo(sink), 0);
    links::remove(sink)?;
    added.context("keeping received packets from the kernel")
}

/// Removes our filters from a device and what goes with them; returns whether there
/// were any.
pub(crate) fn open(device: &Device) -> Result<bool> {
    let memo = filters::memo(device.index, At::Egress)?;
    let opened = filters::remove(device.index, Ours::All)?;
    if let Some(memo) = memo {
        settings::restore(device, memo);
    }
    Ok(opened)
}

/// Removes every diversion from the calling thread's namespace; returns how many
/// devices had one.
pub(crate) fn remove_all() -> Result<usize> {
    let mut opened = 0;
    let mut faults = Vec::new();
    let left = Predecessor::find(None).and_then(|left| left.map_or(Ok(()), Predecessor::remove));
    if let Err(e) = left {
        faults.push(format!("{e:#}"));
    }
    for device in list()? {
        let done = if device.ours() {
            links::remove(device.index).map_err(Into::into)
        } else {
            open(&device).map(|had| opened += usize::from(had))
        };
        if let Err(e) = done {
            faults.push(format!("{}: {e:#}", device.name));
        }
    }
    if faults.is_empty() {
        return Ok(opened);
    }
    bail!("{}", faults.join("; "))
}
