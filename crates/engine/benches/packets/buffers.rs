//! Packets where a network card puts them, before anything is measured.

use std::time::Duration;

use anyhow::Result;

use crate::measure::timed;

/// Buffers filled at a time: all of them are near when they are looked at.
const LOT: usize = 256;

/// Buffers with a packet each, and whether it comes from inside.
#[derive(Default)]
pub(crate) struct Buffers {
    lot: Vec<(Vec<u8>, bool)>,
}

impl Buffers {
    /// Fills the buffers with as many packets as are left, again and again. Returns the processor
    /// time of `work` alone, which has each lot and may take the buffers.
    ///
    /// # Errors
    /// That of `work`.
    pub(crate) fn each<'p>(
        &mut self,
        mut packets: impl Iterator<Item = (&'p [u8], bool)>,
        mut work: impl FnMut(&mut [(Vec<u8>, bool)]) -> Result<()>,
    ) -> Result<Duration> {
        let mut busy = Duration::ZERO;
        loop {
            self.lot.resize_with(LOT, Default::default);
            let mut filled = 0;
            for ((buffer, inside), packet) in self.lot.iter_mut().zip(&mut packets) {
                buffer.clear();
                buffer.extend_from_slice(packet.0);
                *inside = packet.1;
                filled += 1;
            }
            self.lot.truncate(filled);
            if filled == 0 {
                return Ok(busy);
            }
            busy += timed(|| work(&mut self.lot))?.0;
        }
    }
}
