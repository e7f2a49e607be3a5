//! Packets that no ordinary program sends, for the INVALID state.

use std::net::SocketAddr;

use anyhow::{Result, bail};

use super::connect::connect;
use super::raw::{ACK, Raw, SYN, Segment};
use super::words::{Words, resolve};

const PSH: u8 = 8;

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
        // On a real connection, far from what either side has sent: the numbers begin at
        // random, so that the window is missed but for a chance of one in 30,000.
        "out-of-window" => {
            let stream = connect(resolve(host, dport)?, None, 0)?;
            let own: SocketAddr = stream.local_addr()?;
            raw.send(Segment {
                sport: own.port(),
                flags: PSH | ACK,
                ack: 1,
                ..segment
            })
        }
        _ => bail!("there is no {kind}"),
    }
}
