//! Packets that somebody else may drop: a program that stands in front of this engine and
//! knows the rules.
//!
//! A program can tell what rules say of a packet. What it cannot tell, where routing leads
//! the packet whatever its source, is said here, for one destination at a time.

use tidegate_conntrack::Time;
use tidegate_ir::{RuleId, StepId};
use tidegate_wire::Family;

use crate::drops::DropKind;
use crate::engine::{Engine, index};
use crate::env::{Env, IfIndex, RouteType, RpFilter, is_multicast};

/// Where packets of an interface to one address go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Towards {
    /// To this host: INPUT.
    Here,
    /// Out of an interface: FORWARD, unless TTL or length forbid it.
    Out {
        /// Interface.
        dev: IfIndex,
        /// Longest packet that it takes.
        mtu: u32,
    },
}

/// Packets that were dropped in this engine's stead, for one of the rules that they met.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stopped {
    /// Family of the rule.
    pub family: Family,
    /// The rule, or policy, in force.
    pub rule: RuleId,
    /// What that was, if it dropped them.
    pub kind: Option<DropKind>,
    /// Packets.
    pub packets: u64,
    /// Bytes from the network header on.
    pub bytes: u64,
}

/// Who drops packets in this engine's stead.
pub trait Stopper: std::fmt::Debug + Send {
    /// What has been dropped since the last call. With `end`, nothing more is from now on,
    /// for the rules in force are about to change.
    fn stopped(&mut self, end: bool) -> Vec<Stopped>;
}

impl Engine {
    /// Sets who drops packets in this engine's stead.
    pub fn set_stopper(&mut self, stopper: Box<dyn Stopper>) {
        self.stopper = Some(stopper);
    }

    /// Counts for the rules what has been dropped elsewhere.
    pub(crate) fn count_stopped(&mut self, end: bool) {
        let stopped = self.stopper.as_mut().map(|s| s.stopped(end));
        for s in stopped.into_iter().flatten() {
            let counters = &mut self.families[index(s.family)].counters;
            if let Some(counter) = counters.get_mut(s.rule.0 as usize) {
                counter.packets += s.packets;
                counter.bytes += s.bytes;
            }
            if let Some(kind) = s.kind {
                self.drops.count(kind, s.packets);
            }
        }
    }

    /// Whether packets of no known connection may be dropped elsewhere at the moment: none
    /// is expected, the table has room (else the packet would be dropped for that), and no
    /// rules are on stage, which see every packet.
    #[must_use]
    pub fn may_be_stopped(&self) -> bool {
        let table = &self.conntrack;
        let max = table.config().max;
        let room = max == 0 || table.count() < max;
        room && !table.is_expecting() && self.staged.is_none()
    }

    /// Until when a step of the rules in force matches no packet, so that packets that nobody
    /// shows it make no difference ([`tidegate_ir::Step::quiet_until`]).
    #[must_use]
    pub fn quiet_until(&self, family: Family, step: StepId) -> Time {
        let steps = &self.families[index(family)].steps;
        let step = steps.get(step.0 as usize);
        step.and_then(|s| s.quiet_until()).unwrap_or(0)
    }

    /// Where packets that came by `dev` go to `dst` from every source that is neither an
    /// address of this host or one with which packets go to everybody on a link, nor
    /// reserved (for IPv4 0.0.0.0/8, 127.0.0.0/8, 224.0.0.0/3; for IPv6 the unspecified
    /// one and those beside it, link-local ones and groups). `None`: that depends on more.
    #[must_use]
    pub fn towards(&self, family: Family, dev: IfIndex, dst: u128) -> Option<Towards> {
        let env = &self.env;
        if env.has_policy_rules(family) || is_multicast(family, dst) {
            return None;
        }
        let route = match family {
            Family::V4 => {
                let usual = dst >> 24 != 127 && dst >> 24 != 0;
                let all_sources = || self.all_sources.get_or_init(|| takes_all_sources(env));
                let sources = usual && *all_sources();
                sources.then(|| env.route(family, dst, 0, 0))??
            }
            Family::V6 => {
                let global = dst >> 64 != 0 && dst >> 118 != 0xfe80 >> 6;
                let route = || env.route_received(family, dst, 0, 0, Some(dev));
                global.then(route)??
            }
        };
        match (route.kind, route.dev) {
            (RouteType::Local, _) => Some(Towards::Here),
            (RouteType::Unicast, Some(out)) if env.forwards(family) => Some(Towards::Out {
                dev: out,
                mtu: env.interface(out)?.mtu,
            }),
            _ => None,
        }
    }
}

/// Whether no source is refused but those that [`Engine::towards`] excepts. With many routes
/// and `RpFilter::Loose` that takes long.
fn takes_all_sources(env: &Env) -> bool {
    let back = |addr: u128| env.route(Family::V4, addr, 0, 0).map(|r| r.kind);
    let fits = |addr: u128| {
        matches!(addr >> 24, 0 | 127 | 224..)
            || matches!(
                back(addr),
                Some(RouteType::Unicast | RouteType::Local | RouteType::Broadcast)
            )
    };
    match env.settings.rp_filter {
        RpFilter::Off => true,
        // Between two boundaries all addresses have one way.
        RpFilter::Loose => fits(1 << 24) && env.boundaries(Family::V4).into_iter().all(fits),
        RpFilter::Strict => false,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::Config;
    use crate::env::{Interface, Prefix, Route, Settings};

    const DEV: IfIndex = IfIndex(2);

    fn env(routes: &[Route]) -> Arc<Env> {
        let settings = Settings {
            rp_filter: RpFilter::Loose,
            ..Settings::default()
        };
        let interface = Interface {
            index: DEV,
            name: "eth0".to_owned(),
            addresses: vec![Prefix {
                family: Family::V4,
                addr: 0x0a00_0001,
                len: 24,
            }],
            group: 0,
            mtu: 1500,
            mac: None,
            loopback: false,
        };
        Arc::new(Env::new(vec![interface], routes, &[], settings))
    }

    /// A source that no route leads to is refused, so one to everywhere makes the difference.
    #[test]
    fn whether_all_sources_are_taken_is_asked_of_each_surroundings() {
        let everywhere = Route {
            to: Prefix {
                family: Family::V4,
                addr: 0,
                len: 0,
            },
            table: 254,
            kind: RouteType::Unicast,
            dev: Some(DEV),
            via: Some(0x0a00_0002),
            src: None,
            realm: 0,
            metric: 0,
        };
        let (narrow, wide) = (env(&[]), env(&[everywhere]));
        let mut engine = Engine::new(Config::default(), Arc::clone(&narrow));
        let towards = |engine: &Engine| engine.towards(Family::V4, DEV, 0x0a00_0001);
        for _ in 0..2 {
            engine.set_env(Arc::clone(&narrow));
            assert_eq!(towards(&engine), None);
            assert_eq!(towards(&engine), None);
            engine.set_env(Arc::clone(&wide));
            assert_eq!(towards(&engine), Some(Towards::Here));
            assert_eq!(towards(&engine), Some(Towards::Here));
        }
    }
}
