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
mod loopback;

use anyhow::{Context, Result, bail};
use tidegate_sys::{Namespace, PacketOptions, PacketSocket, random, wire_filter};

use filters::{Act, At, Turn, Which};
pub(crate) use links::{Device, Framing, list};

/// Bytes of frames that may wait at an interface or at its door.
const RECEIVE_BUFFER: u32 = 16 << 20;

/// The device that swallows what the kernel must not see.
const SINK: &str = "tg-sink";

/// What keeps an interface guarded.
#[derive(Debug)]
pub(crate) struct Diversion {
    /// The interface.
    pub(crate) device: Device,
    /// Our end of the pair beside it.
    near: u32,
}

/// The sockets of a guarded interface.
#[derive(Debug)]
pub(crate) struct Sockets {
    /// Frames of the interface itself; loopback has none.
    pub(crate) wire: Option<PacketSocket>,
    /// The kernel's frames: out of its sockets, and into them.
    pub(crate) door: PacketSocket,
    /// Ethernet address that frames into the door are for.
    pub(crate) near_mac: [u8; 6],
    /// Ethernet source that they have.
    pub(crate) secret: [u8; 6],
}

/// A locally administered unicast address that nobody can guess.
fn secret() -> Result<[u8; 6]> {
    let mut mac = [0; 6];
    random(&mut mac).context("random bytes")?;
    mac[0] = mac[0] & 0xfc | 2;
    Ok(mac)
}

impl Diversion {
    /// Guards `device`.
    ///
    /// # Errors
    /// The kernel refuses. Nothing is left behind then, except that the interface may be
    /// closed.
    pub(crate) fn install(device: &Device, helper: &Namespace) -> Result<(Self, Sockets)> {
        let Some(framing) = device.framing else {
            bail!("its framing is unknown here");
        };
        let near_mac = match framing {
            Framing::Ethernet(mac) => mac,
            Framing::Loopback | Framing::Bare => secret()?,
        };
        let (near, far) = links::pair(&links::own_name(device), Some(near_mac), helper)?;
        let diversion = Diversion {
            device: device.clone(),
            near,
        };
        let done = diversion.connect(framing, far, helper, near_mac);
        match done {
            Ok(sockets) => Ok((diversion, sockets)),
            Err(e) => {
                let _ = diversion.remove();
                Err(e)
            }
        }
    }

    fn connect(
        &self,
        framing: Framing,
        far: u32,
        helper: &Namespace,
        near_mac: [u8; 6],
    ) -> Result<Sockets> {
        let index = self.device.index;
        let secret = secret()?;
        let all = PacketOptions {
            filter: Vec::new(),
            receive_buffer: RECEIVE_BUFFER,
        };
        let door = helper
            .run(|| PacketSocket::open(far, &all))
            .context("a packet socket")?;
        let own = PacketOptions {
            filter: wire_filter(secret),
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
        filters::add(self.near, At::Ingress, Turn::First, Which::All, inject, 0)
            .context("redirecting into the interface")?;
        filters::prepare(index)?;
        let memo = match framing {
            Framing::Loopback => loopback::prepare(&self.device)?,
            Framing::Ethernet(_) | Framing::Bare => 0,
        };
        let out = Act::SendTo(self.near);
        filters::add(index, At::Egress, Turn::First, Which::All, out, memo)
            .context("redirecting what leaves the interface")?;
        if wire.is_some() {
            let ours = Which::From(secret);
            filters::add(index, At::Ingress, Turn::First, ours, Act::Pass, 0)
                .context("letting injected packets pass")?;
            swallow(index)?;
        }
        Ok(Sockets {
            wire,
            door,
            near_mac,
            secret,
        })
    }

    /// Follows a change of the interface's Ethernet address.
    pub(crate) fn set_mac(&mut self, device: &Device) -> Result<()> {
        if let Some(Framing::Ethernet(mac)) = device.framing {
            links::set_mac(self.near, mac)?;
        }
        self.device = device.clone();
        Ok(())
    }

    /// Opens the interface again.
    pub(crate) fn remove(&self) -> Result<()> {
        let filters = open(self.device.index);
        links::remove(self.near)?;
        filters
    }
}

/// Drops what comes in at device `index`: it goes to a device that is no more.
fn swallow(index: u32) -> Result<()> {
    let sink = links::sink(SINK)?;
    let nowhere = Act::SendTo(sink);
    let added = filters::add(index, At::Ingress, Turn::Last, Which::All, nowhere, 0);
    links::remove(sink)?;
    added.context("keeping received packets from the kernel")
}

/// Removes our filters from a device and what goes with them.
fn open(index: u32) -> Result<()> {
    let memo = filters::memo(index, At::Egress)?;
    filters::remove(index)?;
    if let Some(memo) = memo {
        loopback::restore(index, memo);
    }
    Ok(())
}

/// Removes every diversion from the calling thread's namespace; returns how many
/// devices had one.
pub(crate) fn remove_all() -> Result<usize> {
    let mut opened = 0;
    let mut faults = Vec::new();
    for device in list()? {
        let done = if device.ours() {
            links::remove(device.index).map_err(Into::into)
        } else {
            filters::memo(device.index, At::Egress).and_then(|memo| {
                opened += usize::from(memo.is_some());
                open(device.index)
            })
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
