//! Packets that no ordinary program sends, for the INVALID state.

use std::io::Read;
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Result, bail};
use socket2::{Domain, Protocol, Socket, Type};
use tidegate_wire::proto;
use tidegate_wire::tcp::Tcp;

use super::PATIENCE;
use super::connect::connect;
use super::raw::{ACK, Raw, SYN, Segment};
use super::words::{Words, resolve, waited};

const PSH: u8 = 8;
/// Farther ahead than any window.
const FAR: u32 = 1 << 28;

/// `strange`: one strange packet.
pub(super) fn send(words: &Words) -> Result<()> {
    let (kind, host, dport) = (
        words.word(0, "KIND")?,
        words.word(1, "HOST")?,
        words.port(2)?,
    );
    let raw = Raw::to(host)?;
    let segment = Segment {
        sport: 41_000,
        dport,
        seq: 0x1000_0000,
        ack: 0,
        flags: SYN,
        damaged: false,
    };
    match kind {
        "bad-checksum" => raw.send(Segment {
            damaged: true,
            ..segment
        }),
        // The second half of a handshake that never began.
        "no-connection" => raw.send(Segment {
            flags: SYN | ACK,
            ack: 1,
            ..segment
        }),
        // On a real connection, far ahead of what either side has sent.
        "out-of-window" => {
            let mut wire = Wire::open()?;
            let stream = connect(resolve(host, dport)?, None, 0)?;
            let own: SocketAddr = stream.local_addr()?;
            let (seq, ack) = wire.numbers(own.port())?;
            raw.send(Segment {
                sport: own.port(),
                flags: PSH | ACK,
                seq: seq.wrapping_add(FAR),
                ack: ack.wrapping_add(1),
                ..segment
            })?;
            // The connection outlives the segment.
            std::thread::sleep(Duration::from_millis(100));
            Ok(())
        }
        _ => bail!("there is no {kind}"),
    }
}

/// The packets that pass this host's interfaces.
struct Wire(Socket);

impl Wire {
    fn open() -> Result<Self> {
        // uapi `ETH_P_ALL`, in network order.
        let all = Protocol::from(i32::from(3_u16.to_be()));
        let socket = Socket::new(Domain::PACKET, Type::DGRAM, Some(all))?;
        socket.set_read_timeout(Some(PATIENCE))?;
        Ok(Wire(socket))
    }

    /// First sequence number and first acknowledgement of the connection that was made
    /// from port `own`: those of the SYN and of its answer.
    fn numbers(&mut self, own: u16) -> Result<(u32, u32)> {
        let mut buffer = [0; 1 << 12];
        loop {
            let len = self.0.read(&mut buffer).map_err(waited)?;
            let packet = buffer.get(..len).unwrap_or_default();
            let Ok(layout) = tidegate_wire::parse(packet) else {
                continue;
            };
            let segment = Tcp::new(layout.l4(packet)).filter(|_| layout.proto == proto::TCP);
            if let Some(segment) = segment
                && segment.dport() == own
                && segment.flags() == SYN | ACK
            {
                return Ok((segment.ack(), segment.seq()));
            }
        }
    }
}
