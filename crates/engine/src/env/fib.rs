//! Route lookup: policy rules, tables, longest prefix.

use std::ops::Range;

use tidegate_wire::Family;

use super::lpm::Lpm;
use super::{
    IfIndex, Interface, PolicyRule, Prefix, Route, TABLE_DEFAULT, TABLE_LOCAL, TABLE_MAIN,
    is_link_local6, is_multicast,
};

/// Route types (uapi `RTN_*`), numbered as `-m addrtype` numbers them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RouteType {
    /// No type.
    Unspec = 0,
    /// Reachable through an interface.
    Unicast = 1,
    /// An address of this host.
    Local = 2,
    /// A broadcast address, accepted and sent as such.
    Broadcast = 3,
    /// An anycast address.
    Anycast = 4,
    /// A multicast address.
    Multicast = 5,
    /// Dropped silently.
    Blackhole = 6,
    /// Refused with host unreachable.
    Unreachable = 7,
    /// Refused with administratively prohibited.
    Prohibit = 8,
    /// Continue with the next rule.
    Throw = 9,
}

/// The outcome of a route lookup.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Routed {
    /// Kind of route.
    pub kind: RouteType,
    /// Output interface (of local routes: the one that holds the address).
    pub dev: Option<IfIndex>,
    /// Next hop; `None` when the destination is on the link.
    pub via: Option<u128>,
    /// Preferred source.
    pub src: Option<u128>,
    /// Realms, as [`Route::realm`].
    pub realm: u32,
}

/// Priority and table of the rules that every host has.
const OF_EVERY_HOST: [(u32, u32); 3] = [
    (0, TABLE_LOCAL),
    (32766, TABLE_MAIN),
    (32767, TABLE_DEFAULT),
];

/// The routes of one family.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Fib {
    family: Family,
    /// Sorted by priority, with the position of their table; the local table is always
    /// first.
    rules: Vec<(PolicyRule, usize)>,
    /// By table, longest prefix first, then smallest metric.
    routes: Vec<Route>,
    tables: Vec<Table>,
    /// Where all rules are those of every host: what all tables together say, by destination.
    together: Option<Lpm>,
    /// Position of the local table.
    local: usize,
    /// There are rules beside those of every host.
    policy: bool,
    /// Some route has realms.
    realms: bool,
}

/// The routes of one table.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Table {
    /// Where they are among all.
    places: Range<usize>,
    /// The same by destination, where it is asked by itself.
    by_prefix: Lpm,
}

impl From<&Route> for Routed {
    #[inline]
    fn from(route: &Route) -> Routed {
        Routed {
            kind: route.kind,
            dev: route.dev,
            via: route.via,
            src: route.src,
            realm: route.realm,
        }
    }
}

impl Fib {
    pub(super) fn build(
        family: Family,
        interfaces: &[Interface],
        routes: &[Route],
        rules: &[PolicyRule],
    ) -> Self {
        let mut all: Vec<Route> = routes
            .iter()
            .filter(|r| r.to.family == family)
            .copied()
            .collect();
        for i in interfaces {
            for a in i.addresses.iter().filter(|a| a.family == family) {
                implied_routes(i, *a, &mut all);
            }
            if family == Family::V6 && !i.loopback {
                all.push(route(
                    Prefix {
                        family,
                        addr: 0xff << 120,
                        len: 8,
                    },
                    TABLE_LOCAL,
                    RouteType::Multicast,
                    i,
                ));
            }
        }
        let realms = all.iter().any(|r| r.realm != 0);
        all.sort_by_key(|r| (r.table, u8::MAX - r.to.len, r.metric));
        let mut rules: Vec<PolicyRule> = rules
            .iter()
            .filter(|r| r.family == family)
            .copied()
            .collect();
        let of_every_host = OF_EVERY_HOST.map(|(priority, table)| PolicyRule {
            family,
            priority,
            fwmark: None,
            from: None,
            table,
        });
        let policy = rules.iter().any(|r| !of_every_host.contains(r));
        rules.extend(of_every_host);
        rules.sort_by_key(|r| r.priority);
        let mut ids: Vec<u32> = rules.iter().map(|r| r.table).collect();
        ids.sort_unstable();
        ids.dedup();
        let place = |table: u32| ids.partition_point(|&id| id < table);
        let of = |id: u32| {
            let first = all.partition_point(|r| r.table < id);
            let places = first..all.partition_point(|r| r.table <= id);
            let prefixes = all.get(places.clone()).unwrap_or_default();
            Table {
                by_prefix: Lpm::new(prefixes.iter().map(|r| r.to)),
                places,
            }
        };
        let mut fib = Fib {
            family,
            rules: rules.into_iter().map(|r| (r, place(r.table))).collect(),
            tables: ids.iter().map(|&id| of(id)).collect(),
            routes: all,
            together: None,
            local: place(TABLE_LOCAL),
            policy,
            realms,
        };
        fib.join();
        fib
    }

    /// Where only the destination counts, one look-up does for all tables.
    fn join(&mut self) {
        if self.policy {
            return;
        }
        let answers = self.boundaries().into_iter().map(|start| {
            let place = self.ask(start, 0, 0, None);
            (start, place.map(|place| place as u32))
        });
        self.together = Some(Lpm::of(answers));
        // Of the others only the local one is asked by itself.
        for (at, table) in self.tables.iter_mut().enumerate() {
            if at != self.local {
                table.by_prefix = Lpm::default();
            }
        }
    }

    /// Where prefixes begin and where what lies behind them begins.
    pub(super) fn boundaries(&self) -> Vec<u128> {
        let mut all = vec![0];
        let places = self.tables.iter().flat_map(|t| t.places.clone());
        for route in places.filter_map(|place| self.routes.get(place)) {
            let first = route.to.addr & route.to.mask();
            let host = super::mask(self.family, u8::MAX) & !route.to.mask();
            all.push(first);
            all.extend((first | host).checked_add(1));
        }
        all.sort_unstable();
        all.dedup();
        all
    }

    /// Whether some route has realms.
    pub(super) fn has_realms(&self) -> bool {
        self.realms
    }

    /// Whether there are rules beside those of every host.
    pub(super) fn has_policy_rules(&self) -> bool {
        self.policy
    }

    /// `only` restricts the lookup to routes of that interface.
    #[inline]
    pub(super) fn lookup(
        &self,
        dst: u128,
        src: u128,
        mark: u32,
        only: Option<IfIndex>,
    ) -> Option<&Route> {
        let place = match &self.together {
            Some(all) if only.is_none() => all.find(dst),
            _ => self.ask(dst, src, mark, only),
        };
        self.routes.get(place?)
    }

    /// Asks the tables that the rules name, one after the other.
    fn ask(&self, dst: u128, src: u128, mark: u32, only: Option<IfIndex>) -> Option<usize> {
        let selected = self.rules.iter().filter(|(r, _)| {
            r.fwmark
                .is_none_or(|(want, bits)| mark & bits == want & bits)
                && r.from.is_none_or(|p| p.contains(src))
        });
        let mut found = selected.filter_map(|&(_, table)| self.find(table, dst, only));
        found.find(|&place| {
            let route = self.routes.get(place);
            route.is_some_and(|r| r.kind != RouteType::Throw)
        })
    }

    /// Where the route of one table for `addr` is, of `only` one interface when that is given.
    #[inline]
    fn find(&self, table: usize, addr: u128, only: Option<IfIndex>) -> Option<usize> {
        let table = self.tables.get(table)?;
        let at = match only {
            None => table.by_prefix.find(addr)?,
            Some(_) => {
                let routes = self.routes.get(table.places.clone())?;
                let fits = |r: &Route| r.to.contains(addr) && r.dev == only;
                routes.iter().position(fits)?
            }
        };
        Some(table.places.start + at)
    }

    /// Type of `addr` in the local table, if it is there.
    pub(super) fn local_type(&self, addr: u128, dev: Option<IfIndex>) -> Option<RouteType> {
        let place = self.find(self.local, addr, dev)?;
        self.routes.get(place).map(|r| r.kind)
    }

    pub(super) fn address_type(&self, addr: u128, dev: Option<IfIndex>) -> RouteType {
        match self.family {
            Family::V4 if addr == 0 || addr == 0xffff_ffff => RouteType::Broadcast,
            Family::V4 | Family::V6 if is_multicast(self.family, addr) => RouteType::Multicast,
            Family::V4 => self.local_type(addr, dev).unwrap_or(RouteType::Unicast),
            Family::V6 if addr == 0 => RouteType::Unspec,
            Family::V6 => match self.local_type(addr, dev) {
                Some(kind) => kind,
                None => self
                    .lookup(addr, 0, 0, None)
                    .map_or(RouteType::Unreachable, |r| match r.kind {
                        RouteType::Local if dev.is_some() => RouteType::Unicast,
                        kind => kind,
                    }),
            },
        }
    }
}

fn route(to: Prefix, table: u32, kind: RouteType, i: &Interface) -> Route {
    Route {
        to,
        table,
        kind,
        dev: Some(i.index),
        via: None,
        src: None,
        realm: 0,
        metric: 0,
    }
}

/// The routes the kernel makes for an address (`fib_add_ifaddr`, `addrconf`). A route
/// to its network that is there already stands for the kernel's: it may have another
/// metric.
fn implied_routes(i: &Interface, a: Prefix, out: &mut Vec<Route>) {
    let host_len = match a.family {
        Family::V4 => 32,
        Family::V6 => 128,
    };
    let network = Prefix {
        addr: a.addr & a.mask(),
        ..a
    };
    out.push(route(
        Prefix { len: host_len, ..a },
        TABLE_LOCAL,
        RouteType::Local,
        i,
    ));
    if i.loopback && a.family == Family::V4 {
        out.push(route(network, TABLE_LOCAL, RouteType::Local, i));
        return;
    }
    if a.len < host_len {
        let mut connected = route(network, TABLE_MAIN, RouteType::Unicast, i);
        connected.src = (a.family == Family::V4).then_some(a.addr);
        connected.metric = if is_link_local6(a.addr) || a.family == Family::V6 {
            256
        } else {
            0
        };
        let same = |r: &Route| {
            (r.table, r.dev, r.via, r.to.len) == (TABLE_MAIN, connected.dev, None, a.len)
                && r.to.family == a.family
                && r.to.contains(a.addr)
        };
        if !out.iter().any(same) {
            out.push(connected);
        }
    }
    if a.family == Family::V4 && a.len < 31 {
        let last = network.addr | (!a.mask() & 0xffff_ffff);
        out.push(route(
            Prefix {
                addr: last,
                len: 32,
                ..a
            },
            TABLE_LOCAL,
            RouteType::Broadcast,
            i,
        ));
    }
    // The subnet-router anycast address exists on routers only; the kernel answers
    // for it as for its own (`addrconf_join_anycast`).
}

#[cfg(test)]
mod tests {
    use super::super::{Env, Settings};
    use super::*;

    fn v4(text: [u8; 4], len: u8) -> Prefix {
        Prefix {
            family: Family::V4,
            addr: u128::from(u32::from_be_bytes(text)),
            len,
        }
    }

    fn env(rules: &[PolicyRule]) -> Env {
        let iface = |n: u32, name: &str, a: Prefix| Interface {
            index: IfIndex(n),
            name: name.to_owned(),
            addresses: vec![a],
            group: 0,
            mtu: 1500,
            mac: None,
            loopback: false,
        };
        let default = |table, dev| Route {
            to: v4([0; 4], 0),
            table,
            kind: RouteType::Unicast,
            dev: Some(IfIndex(dev)),
            via: None,
            src: None,
            realm: 0,
            metric: 0,
        };
        Env::new(
            vec![
                iface(2, "eth0", v4([10, 0, 0, 1], 24)),
                iface(3, "eth1", v4([10, 0, 1, 1], 24)),
            ],
            &[default(TABLE_MAIN, 2), default(10, 3)],
            rules,
            Settings::default(),
        )
    }

    fn addr(text: [u8; 4]) -> u128 {
        v4(text, 32).addr
    }

    #[test]
    fn longest_prefix_then_default() {
        let e = env(&[]);
        let dev = |a| e.route(Family::V4, addr(a), 0, 0).and_then(|r| r.dev);
        assert_eq!(dev([10, 0, 1, 9]), Some(IfIndex(3)));
        assert_eq!(dev([8, 8, 8, 8]), Some(IfIndex(2)));
        let local = e.route(Family::V4, addr([10, 0, 1, 1]), 0, 0).unwrap();
        assert_eq!(local.kind, RouteType::Local);
        assert!(e.route(Family::V6, 1 << 100, 0, 0).is_none());
    }

    #[test]
    fn a_described_connected_route_replaces_the_implied_one() {
        let both = |n: u32| Interface {
            index: IfIndex(n),
            name: format!("eth{n}"),
            addresses: vec![v4([10, 0, 0, n as u8], 24)],
            group: 0,
            mtu: 1500,
            mac: None,
            loopback: false,
        };
        let slow = Route {
            to: v4([10, 0, 0, 0], 24),
            table: TABLE_MAIN,
            kind: RouteType::Unicast,
            dev: Some(IfIndex(2)),
            via: None,
            src: None,
            realm: 0,
            metric: 600,
        };
        let e =
            |routes: &[Route]| Env::new(vec![both(2), both(3)], routes, &[], Settings::default());
        let dev = |e: &Env| {
            e.route(Family::V4, addr([10, 0, 0, 9]), 0, 0)
                .and_then(|r| r.dev)
        };
        assert_eq!(dev(&e(&[])), Some(IfIndex(2)));
        assert_eq!(dev(&e(&[slow])), Some(IfIndex(3)));
    }

    #[test]
    fn a_mark_selects_another_table_but_never_hides_own_addresses() {
        let rule = PolicyRule {
            family: Family::V4,
            priority: 100,
            fwmark: Some((1, u32::MAX)),
            from: None,
            table: 10,
        };
        let e = env(&[rule]);
        let dev = |a, mark| e.route(Family::V4, addr(a), 0, mark).and_then(|r| r.dev);
        assert_eq!(dev([8, 8, 8, 8], 1), Some(IfIndex(3)));
        assert_eq!(dev([8, 8, 8, 8], 2), Some(IfIndex(2)));
        assert!(e.is_local(Family::V4, addr([10, 0, 0, 1])));
    }

    /// A rule that no packet fits makes every look-up go from table to table.
    #[test]
    fn all_tables_together_say_what_one_after_the_other_does() {
        let kinds = [
            RouteType::Unicast,
            RouteType::Throw,
            RouteType::Unreachable,
            RouteType::Local,
        ];
        let tables = [TABLE_LOCAL, TABLE_MAIN, TABLE_DEFAULT, 10];
        let mut state = 1u64;
        let mut any = |below: u64| {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            (state >> 33) % below
        };
        for _ in 0..300 {
            let routes: Vec<Route> = (0..any(12))
                .map(|n| Route {
                    to: v4([10, 0, 0, any(32) as u8], 24 + any(9) as u8),
                    table: tables[any(4) as usize],
                    kind: kinds[any(4) as usize],
                    dev: Some(IfIndex(n as u32)),
                    via: None,
                    src: None,
                    realm: 0,
                    metric: any(3) as u32,
                })
                .collect();
            let nobody = PolicyRule {
                family: Family::V4,
                priority: 100,
                fwmark: Some((1, 1)),
                from: None,
                table: 10,
            };
            let build = |rules: &[PolicyRule]| Fib::build(Family::V4, &[], &routes, rules);
            let (together, apart) = (build(&[]), build(&[nobody]));
            assert!(together.together.is_some() && apart.together.is_none());
            for last in 0..40 {
                let at = addr([10, 0, 0, last]);
                let of = |fib: &Fib| fib.lookup(at, 0, 0, None).copied();
                assert_eq!(of(&together), of(&apart), "{routes:?} {last}");
                let local = |fib: &Fib| fib.local_type(at, None);
                assert_eq!(local(&together), local(&apart));
            }
        }
    }

    #[test]
    fn address_types() {
        let e = env(&[]);
        let kind = |a| e.address_type(Family::V4, addr(a), None);
        assert_eq!(kind([10, 0, 0, 1]), RouteType::Local);
        assert_eq!(kind([127, 9, 9, 9]), RouteType::Local);
        assert_eq!(kind([10, 0, 0, 255]), RouteType::Broadcast);
        assert_eq!(kind([255, 255, 255, 255]), RouteType::Broadcast);
        assert_eq!(kind([224, 0, 0, 5]), RouteType::Multicast);
        assert_eq!(kind([10, 0, 0, 7]), RouteType::Unicast);
        let on = |a, n| e.address_type(Family::V4, addr(a), Some(IfIndex(n)));
        assert_eq!(on([10, 0, 0, 1], 3), RouteType::Unicast);
        assert_eq!(e.address_type(Family::V6, 1, None), RouteType::Local);
    }
}
