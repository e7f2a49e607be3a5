//! Conversations through a firewall that translates: what each end says depends on what it has
//! seen, so they are held once through an engine, and what came is kept.

use anyhow::{Context, Result};
use tidegate_wire::tcp::flags::{ACK, PSH, SYN};
use tidegate_wire::{be16, be32};

use crate::receiver::{Loaded, Receiver};
use crate::surroundings::router_of;
use crate::traffic::{Segment, Traffic};

/// An engine, and what it has been given.
pub(crate) struct Recorder {
    receiver: Receiver,
    pub(crate) tape: Traffic,
}

impl Recorder {
    pub(crate) fn new(rules: &Loaded, connections: usize) -> Self {
        Recorder {
            receiver: Receiver::new(rules, router_of(8), connections, 1),
            tape: Traffic::none(),
        }
    }

    fn pass(&mut self, packet: &[u8], client: bool) -> Result<Vec<u8>> {
        self.tape.push(packet, client);
        let sent = self.receiver.one(packet, client);
        sent.with_context(|| format!("packet {} is dropped", self.tape.len()))
    }
}

/// One end of a connection.
#[derive(Clone, Copy)]
pub(crate) struct End {
    pub(crate) own: (u32, u16),
    /// The other one, as this one sees it.
    pub(crate) peer: (u32, u16),
    seq: u32,
    ack: u32,
}

impl End {
    pub(crate) const fn new(own: (u32, u16), peer: (u32, u16), seq: u32) -> Self {
        End {
            own,
            peer,
            seq,
            ack: 0,
        }
    }

    /// Takes a packet in.
    fn hear(&mut self, packet: &[u8]) -> Option<()> {
        let l4 = packet.get(20..)?;
        self.peer = (be32(packet, 12)?, be16(l4, 0)?);
        let header = usize::from(l4.get(12)? >> 4) * 4;
        let len = l4.len().checked_sub(header)? as u32;
        let syn = u32::from(l4.get(13)? & SYN != 0);
        self.ack = be32(l4, 4)?.wrapping_add(len).wrapping_add(syn);
        Some(())
    }
}

/// A TCP connection.
pub(crate) struct Conversation {
    pub(crate) client: End,
    pub(crate) server: End,
}

impl Conversation {
    /// The `n`th packet of a handshake.
    pub(crate) fn shake(&mut self, recorder: &mut Recorder, n: usize) -> Result<()> {
        let (client, flags) = [(true, SYN), (false, SYN | ACK), (true, ACK)][n];
        self.send(recorder, client, flags, &[])
    }

    /// One end says something; nothing is an acknowledgement.
    pub(crate) fn say(&mut self, recorder: &mut Recorder, client: bool, what: &[u8]) -> Result<()> {
        let flags = if what.is_empty() { ACK } else { ACK | PSH };
        self.send(recorder, client, flags, what)
    }

    fn send(
        &mut self,
        recorder: &mut Recorder,
        client: bool,
        flags: u8,
        what: &[u8],
    ) -> Result<()> {
        let (from, to) = match client {
            true => (&mut self.client, &mut self.server),
            false => (&mut self.server, &mut self.client),
        };
        let segment = Segment {
            from: from.own,
            to: from.peer,
            flags,
            seq: from.seq,
            ack: from.ack,
        };
        let mut packet = Vec::new();
        segment.write(&mut packet, what.iter().copied());
        from.seq = from
            .seq
            .wrapping_add(what.len() as u32 + u32::from(flags & SYN != 0));
        let arrived = recorder.pass(&packet, client)?;
        to.hear(&arrived).context("what arrives is no TCP packet")
    }
}

/// So many clients' connections to what they call the server, and to whom they come.
pub(crate) fn conversations(
    count: usize,
    called: (u32, u16),
    server: (u32, u16),
) -> Vec<Conversation> {
    let one = |n: usize| {
        // Three ports for each client, as in other traffic.
        let own = (0x0a00_0002 + n as u32 / 3, 40_000 + (n % 3) as u16);
        let first = (n as u32).wrapping_mul(0x9e37_79b9);
        Conversation {
            client: End::new(own, called, first),
            server: End::new(server, (0, 0), first.rotate_left(16)),
        }
    };
    (0..count).map(one).collect()
}
