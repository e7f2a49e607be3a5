//! A translating firewall around a tracker: what every packet of a target goes through.

use tidegate_conntrack::{
    Attached, Config, Conntrack, DropReason, HelperKind, InHook, Manip, NatHook, NatRange, SECOND,
    Template, Time, Tracked,
};
use tidegate_wire::Layout;

use crate::packets::{checksum_holds, well_formed};

/// Days after which no timeout of any protocol is left.
const LONG: Time = 20 * 86_400 * SECOND;
/// Mask of the network that queries by broadcast go to.
const NETMASK: u128 = 0xffff_ff00;

/// A tracker, its clock, and what connections through it get.
pub(crate) struct Gate {
    pub(crate) ct: Conntrack,
    pub(crate) now: Time,
    pub(crate) helper: Option<HelperKind>,
    pub(crate) snat: Option<NatRange>,
    pub(crate) dnat: Option<NatRange>,
    most: (u32, u32),
}

impl Gate {
    /// A gate that lets everything pass. Its table has at most `config.max` entries and
    /// `config.expect_max` expectations.
    pub(crate) fn new(config: Config) -> Gate {
        Gate {
            most: (config.max, config.expect_max),
            ct: Conntrack::new(config),
            now: 1_000_000 * SECOND,
            helper: None,
            snat: None,
            dnat: None,
        }
    }

    /// A packet through both nat hooks and the helper. `Err(None)`: not tracked.
    pub(crate) fn pass(&mut self, mut bytes: Vec<u8>) -> Result<Vec<u8>, Option<DropReason>> {
        let layout = well_formed(&bytes);
        let verified = checksum_holds(&bytes) == Some(true);
        let template = Template {
            helper: self.helper,
            ..Template::default()
        };
        let hook = InHook::Prerouting;
        let tracked = self
            .ct
            .handle_packet(self.now, &bytes, &layout, hook, Some(&template));
        let mut at = match tracked {
            Tracked::Ct(at) => at,
            Tracked::Drop(reason) => return Err(Some(reason)),
            Tracked::Untracked | Tracked::Invalid(_) => return Err(None),
        };
        let outcome = self.translate(&at, &mut bytes, &layout);
        let outcome = outcome.and_then(|()| {
            self.ct.help(self.now, &at, &mut bytes, &layout)?;
            let layout = well_formed(&bytes);
            self.ct.help_broadcast(self.now, &at, &layout, NETMASK);
            self.ct.confirm(self.now, &mut at)
        });
        if let Err(reason) = outcome {
            self.ct.release(at.id);
            return Err(Some(reason));
        }
        well_formed(&bytes);
        assert!(
            !verified || checksum_holds(&bytes) != Some(false),
            "checksum {bytes:02x?}"
        );
        Ok(bytes)
    }

    fn translate(
        &mut self,
        at: &Attached,
        bytes: &mut [u8],
        layout: &Layout,
    ) -> Result<(), DropReason> {
        for hook in [NatHook::Prerouting, NatHook::Postrouting] {
            let manip = hook.manip();
            if self.ct.nat_rules_needed(at, manip) {
                let range = match manip {
                    Manip::Src => self.snat,
                    Manip::Dst => self.dnat,
                };
                match range {
                    Some(range) => self.ct.nat_setup(at.id, manip, &range)?,
                    None => self.ct.nat_null_binding(at.id, manip)?,
                }
            }
            self.ct.nat_translate(at, hook, bytes, layout)?;
        }
        Ok(())
    }

    /// Time passes.
    pub(crate) fn wait(&mut self, seconds: u16) {
        self.now += Time::from(seconds) * SECOND;
        self.ct.handle_timeout(self.now);
    }

    /// The tables keep their limits, and nothing is held by packets that are gone.
    pub(crate) fn bounded(&mut self) {
        let (entries, expected) = self.most;
        assert!(self.ct.count() <= entries);
        assert_eq!(self.ct.count() as usize, self.ct.iter().count());
        assert!(self.ct.expectations().count() <= expected as usize);
        let lives = |master| self.ct.entry(master).is_some();
        assert!(self.ct.expectations().all(|e| lives(e.master)));
        let _ = (self.ct.events(), self.ct.expect_events());
    }

    /// Everything runs out.
    pub(crate) fn end(mut self) {
        self.ct.handle_timeout(self.now + LONG);
        assert_eq!(self.ct.iter().count(), 0, "an entry outlives its timeout");
        assert_eq!(self.ct.count(), 0, "something is counted that is not there");
        assert_eq!(self.ct.expectations().count(), 0);
    }
}
