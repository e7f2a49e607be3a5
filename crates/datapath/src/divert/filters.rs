//! Traffic-control filters that hand packets to us and keep them from the kernel.
//!
//! Only the `u32` classifier and the `mirred` action are used: kernels without BPF or
//! `matchall` have them.

use std::io;

use anyhow::{Context, Result};
use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::tc::{
    TcAction, TcActionAttribute, TcActionGeneric, TcActionMirrorOption, TcActionOption,
    TcActionType, TcAttribute, TcFilterU32Option, TcHandle, TcHeader, TcMessage, TcMirror,
    TcMirrorActionType, TcOption, TcU32Key, TcU32Selector, TcU32SelectorFlags,
};
use tidegate_host::netlink;

/// Where a filter looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum At {
    /// Frames coming in.
    Ingress,
    /// Frames going out.
    Egress,
}

impl At {
    const BOTH: [At; 2] = [At::Ingress, At::Egress];

    const fn parent(self) -> TcHandle {
        TcHandle {
            major: u16::MAX,
            minor: match self {
                At::Ingress => TcHandle::MIN_INGRESS,
                At::Egress => TcHandle::MIN_EGRESS,
            },
        }
    }
}

/// Which packets a filter is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Which {
    /// All.
    All,
    /// Those in frames with this Ethernet source.
    From([u8; 6]),
}

/// What a filter does with them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Act {
    /// Nothing more is asked; the kernel goes on.
    Pass,
    /// Sends them out of another device.
    SendTo(u32),
    /// Lets them come in at another device.
    ReceiveOn(u32),
}

const ETH_P_IP: u16 = 0x0800;
const ETH_P_IPV6: u16 = 0x86dd;

/// A filter has one Ethernet type: each of ours is two, at neighbouring priorities.
const TYPES: [u16; 2] = [ETH_P_IP, ETH_P_IPV6];

/// Priorities of one set of filters at a device. There are several, so that new filters
/// can be in force before those of a predecessor go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place(u16);

impl Place {
    pub(super) const FIRST: Place = Place(5);
    /// Priorities that one takes: three turns of two types.
    const SIZE: u16 = 6;

    fn has(self, priority: u16) -> bool {
        (self.0..self.0 + Self::SIZE).contains(&priority)
    }

    fn slots(self, turn: Turn) -> [(u16, u16); 2] {
        let first = match turn {
            Turn::Redirect => self.0,
            Turn::Pass => self.0 + 2,
            Turn::Swallow => self.0 + 4,
        };
        [(TYPES[0], first), (TYPES[1], first + 1)]
    }

    /// One of device `index` where nothing is yet.
    pub(super) fn free(index: u32) -> Result<Self> {
        let mut taken = list(index, At::Ingress)?;
        taken.extend(list(index, At::Egress)?);
        let places = (Self::FIRST.0..u16::MAX - Self::SIZE).step_by(usize::from(Self::SIZE));
        let free = |p: &Place| !taken.iter().any(|f| p.has(f.slot.1));
        let found = places.map(Place).find(free);
        found.context("the device has filters of all priorities")
    }
}

/// The major number of our filters' class: what tells them from others'.
const OURS: u16 = 0x7467;

/// What for, in the order in which they are asked. No two have the same priority, not
/// even in different directions: `u32` would list them as one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Turn {
    /// Sending elsewhere what goes out, or comes out of the door.
    Redirect,
    /// Letting pass what comes from the door.
    Pass,
    /// Dropping what comes in.
    Swallow,
}

fn message(index: u32, at: At, slot: Option<(u16, u16)>) -> TcMessage {
    let header = TcHeader {
        index: index as i32,
        parent: at.parent(),
        info: slot.map_or(0, |(protocol, priority)| {
            u32::from(priority) << 16 | u32::from(protocol.to_be())
        }),
        ..TcHeader::default()
    };
    TcMessage::from_parts(header, Vec::new())
}

/// Adds a filter to device `index`. `memo` is kept with it; see [`memo`].
pub(super) fn add(
    index: u32,
    at: At,
    slots: (Place, Turn),
    which: Which,
    act: Act,
    memo: u16,
) -> io::Result<()> {
    for slot in slots.0.slots(slots.1) {
        let mut filter = message(index, at, Some(slot));
        let mut options = vec![
            TcFilterU32Option::ClassId(TcHandle {
                major: OURS,
                minor: memo,
            }),
            TcFilterU32Option::Selector(selector(which)),
        ];
        if let Some(action) = action(act) {
            options.push(TcFilterU32Option::Action(vec![action]));
        }
        filter.attributes = vec![
            TcAttribute::Kind("u32".to_owned()),
            TcAttribute::Options(options.into_iter().map(TcOption::U32).collect()),
        ];
        let request = RouteNetlinkMessage::NewTrafficFilter(filter);
        netlink::request(request, NLM_F_CREATE | NLM_F_EXCL)?;
    }
    Ok(())
}

fn selector(which: Which) -> TcU32Selector {
    let key = |val: u32, mask: u32, off: i32| {
        let mut key = TcU32Key::default();
        (key.val, key.mask, key.off) = (val, mask, off);
        key
    };
    let keys = match which {
        Which::All => vec![key(0, 0, 0)],
        // The link-layer header ends where the network header begins.
        Which::From([a, b, c, d, e, f]) => vec![
            key(u32::from_be_bytes([a, b, c, d]), u32::MAX, -8),
            key(u32::from_be_bytes([e, f, 0, 0]), 0xffff_0000, -4),
        ],
    };
    let mut selector = TcU32Selector::default();
    selector.flags = TcU32SelectorFlags::Terminal;
    selector.nkeys = keys.len() as u8;
    selector.keys = keys;
    selector
}

fn action(act: Act) -> Option<TcAction> {
    let (kind, index) = match act {
        Act::Pass => return None,
        Act::SendTo(index) => (TcMirrorActionType::EgressRedir, index),
        Act::ReceiveOn(index) => (TcMirrorActionType::IngressRedir, index),
    };
    let mut generic = TcActionGeneric::default();
    generic.action = TcActionType::Stolen;
    let mut mirror = TcMirror::default();
    mirror.generic = generic;
    mirror.eaction = kind;
    mirror.ifindex = index;
    let options = vec![TcActionOption::Mirror(TcActionMirrorOption::Parms(mirror))];
    let mut action = TcAction::default();
    action.attributes = vec![
        TcActionAttribute::Kind("mirred".to_owned()),
        TcActionAttribute::Options(options),
    ];
    Some(action)
}

fn qdisc(index: u32) -> TcMessage {
    let header = TcHeader {
        index: index as i32,
        parent: TcHandle::CLSACT,
        handle: TcHandle {
            major: u16::MAX,
            minor: 0,
        },
        ..TcHeader::default()
    };
    TcMessage::from_parts(header, vec![TcAttribute::Kind("clsact".to_owned())])
}

/// Makes sure that device `index` can have filters.
pub(super) fn prepare(index: u32) -> Result<()> {
    let request = RouteNetlinkMessage::NewQueueDiscipline(qdisc(index));
    match netlink::request(request, NLM_F_CREATE | NLM_F_EXCL) {
        Err(e) if e.kind() != io::ErrorKind::AlreadyExists => {
            Err(e).context("the device cannot have traffic-control filters (clsact)")
        }
        _ => Ok(()),
    }
}

/// A filter that is there.
struct Found {
    slot: (u16, u16),
    /// Memo, where the filter is ours.
    ours: Option<u16>,
}

fn list(index: u32, at: At) -> Result<Vec<Found>> {
    let request = RouteNetlinkMessage::GetTrafficFilter(message(index, at, None));
    let filters = netlink::dump(&request)?;
    let found = filters.iter().filter_map(|m| match m {
        RouteNetlinkMessage::NewTrafficFilter(filter) => Some(Found {
            slot: (
                u16::from_be(filter.header.info as u16),
                (filter.header.info >> 16) as u16,
            ),
            ours: class(filter).filter(|c| c.major == OURS).map(|c| c.minor),
        }),
        _ => None,
    });
    Ok(found.collect())
}

fn class(filter: &TcMessage) -> Option<TcHandle> {
    let options = filter.attributes.iter().find_map(|a| match a {
        TcAttribute::Options(options) => Some(options),
        _ => None,
    })?;
    options.iter().find_map(|o| match o {
        TcOption::U32(TcFilterU32Option::ClassId(class)) => Some(*class),
        _ => None,
    })
}

/// The memo of our filter on device `index`, if there is one.
pub(super) fn memo(index: u32, at: At) -> Result<Option<u16>> {
    Ok(list(index, at)?.iter().find_map(|f| f.ours))
}

/// Which of our filters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ours {
    All,
    In(Place),
    NotIn(Place),
}

impl Ours {
    fn has(self, priority: u16) -> bool {
        match self {
            Ours::All => true,
            Ours::In(place) => place.has(priority),
            Ours::NotIn(place) => !place.has(priority),
        }
    }
}

/// Removes filters of ours from device `index`, and with the last filter of all the
/// place for filters. Returns whether there was anything to remove.
pub(super) fn remove(index: u32, which: Ours) -> Result<bool> {
    let (mut removed, mut others) = (false, false);
    for at in At::BOTH {
        let found = list(index, at)?;
        let goes = |f: &&Found| f.ours.is_some() && which.has(f.slot.1);
        let mut slots: Vec<(u16, u16)> = found.iter().filter(goes).map(|f| f.slot).collect();
        // One classifier lists its hash tables too: they are no filters of others.
        others |= found.iter().any(|f| !slots.contains(&f.slot));
        // Those that let pass go last.
        slots.sort_by_key(|slot| std::cmp::Reverse(slot.1));
        slots.dedup();
        for slot in slots {
            let request = RouteNetlinkMessage::DelTrafficFilter(message(index, at, Some(slot)));
            netlink::request(request, 0).context("removing a filter")?;
            removed = true;
        }
    }
    if removed && !others {
        let request = RouteNetlinkMessage::DelQueueDiscipline(qdisc(index));
        netlink::request(request, 0).context("removing clsact")?;
    }
    Ok(removed)
}
