//! TFTP (`nf_conntrack_tftp`): a request is answered from another port.

use super::{Announced, Helped};
use crate::Conntrack;
use crate::reason::DropReason;
use crate::tuple::Dir;
use tidegate_wire::{be16, proto};

/// Opcodes of read and write requests (RFC 1350 section 5).
const REQUESTS: [u16; 2] = [1, 2];

impl Conntrack {
    /// Whoever asks, the server is to answer the client's port from any of its own.
    pub(super) fn help_tftp(&mut self, helped: &Helped<'_>) -> Result<bool, DropReason> {
        let opcode = helped.payload().and_then(|p| be16(p, 0));
        let entry = self.entry(helped.attached.id);
        let (Some(opcode), Some(entry)) = (opcode, entry) else {
            return Ok(false);
        };
        if !REQUESTS.contains(&opcode) {
            return Ok(false);
        }
        let (original, reply) = (*entry.tuple(Dir::Original), *entry.tuple(Dir::Reply));
        let announced = Announced {
            src: Some(reply.src),
            dst: reply.dst,
            port: reply.dst_id,
            proto: proto::UDP,
        };
        let mut expected = self.announce(helped, &announced);
        if self.translated(helped) {
            expected.follow(Dir::Reply, original.src_id);
        }
        self.expect_plainly(helped.now, expected)?;
        Ok(false)
    }
}
