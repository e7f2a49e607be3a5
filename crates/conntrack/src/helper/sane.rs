//! SANE network scanners (`nf_conntrack_sane`): the answer to a start request names the
//! port that the image comes from.

use super::{Announced, Helped, HelperState};
use crate::Conntrack;
use crate::reason::DropReason;
use crate::tuple::Dir;
use tidegate_wire::{be16, be32, proto};

/// Length of a request that consists of a code and a handle.
const REQUEST_LEN: usize = 8;
/// Code of the request for an image (`SANE_NET_START`).
const START: u32 = 7;

/// The port that an answer to [`START`] announces.
fn announced_port(reply: &[u8]) -> Option<u16> {
    let (status, zero, port) = (be32(reply, 0)?, be16(reply, 4)?, be16(reply, 6)?);
    (status == 0 && zero == 0).then_some(port)
}

impl Conntrack {
    pub(super) fn help_sane(&mut self, helped: &Helped<'_>) -> Result<bool, DropReason> {
        let id = helped.attached.id;
        let Some(payload) = helped.payload().filter(|_| helped.established()) else {
            return Ok(false);
        };
        if helped.dir() == Dir::Original {
            if payload.len() == REQUEST_LEN
                && let Some(state) = self.remembered(id)
            {
                *state = match be32(payload, 0) {
                    Some(START) => HelperState::SaneAsked,
                    _ => HelperState::None,
                };
            }
            return Ok(false);
        }
        let Some(state) = self.remembered(id) else {
            return Ok(false);
        };
        if core::mem::take(state) != HelperState::SaneAsked {
            return Ok(false);
        }
        let (Some(port), Some([_, client])) = (announced_port(payload), self.both_ways(helped))
        else {
            return Ok(false);
        };
        let announced = Announced {
            src: Some(client.src),
            dst: client.dst,
            port,
            proto: proto::TCP,
        };
        let expected = self.announce(helped, &announced);
        self.expect_plainly(helped.now, expected)?;
        Ok(false)
    }
}
