//! Sets of packets in words.

use std::net::IpAddr;

use tidegate_analysis::{Set, Space, TooBig};
use tidegate_engine::interface_number;
use tidegate_host::address;
use tidegate_ir::Field;
use tidegate_wire::Family;

use super::ask::Asked;
use crate::replay::values::value;

/// Intervals that are spelled out.
const MOST: usize = 8;
/// Intervals that are looked at.
const LOOKED_AT: usize = 4_096;

/// Who can send: interfaces, and addresses behind them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Senders {
    /// Names, `any` or `others`.
    pub(super) interfaces: Vec<String>,
    /// Networks, in words.
    pub(super) sources: String,
    /// Networks or intervals.
    pub(super) networks: Vec<String>,
    /// `networks` are those that cannot.
    pub(super) except: bool,
}

/// Ascending and disjoint.
pub(super) type Intervals = Vec<(u128, u128)>;

/// What is in `all` and not in `some`.
pub(super) fn rest(all: &[(u128, u128)], some: &[(u128, u128)]) -> Intervals {
    let mut left = Vec::new();
    for &(first, last) in all {
        let mut at = Some(first);
        for &(lo, hi) in some.iter().filter(|s| s.0 <= last && s.1 >= first) {
            let Some(start) = at else { break };
            if lo > start {
                left.push((start, lo - 1));
            }
            at = hi.checked_add(1).filter(|next| *next <= last);
        }
        left.extend(at.map(|start| (start, last)));
    }
    left
}

/// Intervals with gaps closed in which there is nothing anyway, and grown to a network where
/// only nothing is added.
fn smooth(list: &[(u128, u128)], all: &[(u128, u128)]) -> Intervals {
    let empty = |lo: u128, hi: u128| {
        let at = all.partition_point(|a| a.1 < lo);
        all.get(at).is_none_or(|a| a.0 > hi)
    };
    let mut merged: Intervals = Vec::new();
    for &(lo, hi) in list {
        match merged.last_mut() {
            Some(last) if last.1 + 1 >= lo || empty(last.1 + 1, lo - 1) => last.1 = hi,
            _ => merged.push((lo, hi)),
        }
    }
    for (lo, hi) in &mut merged {
        let differ = *lo ^ *hi;
        let span = u128::MAX.checked_shr(differ.leading_zeros()).unwrap_or(0);
        let (first, last) = (*lo & !span, *lo | span);
        let free = (first == *lo || empty(first, *lo - 1)) && (last == *hi || empty(*hi + 1, last));
        if free {
            (*lo, *hi) = (first, last);
        }
    }
    merged
}

/// An interval of addresses as networks, or as it is when it would be many.
fn networks(family: Family, (lo, hi): (u128, u128), out: &mut Vec<String>) {
    let width = match family {
        Family::V4 => 32u32,
        Family::V6 => 128,
    };
    let mut all = Vec::new();
    let mut at = Some(lo);
    while let Some(first) = at {
        if all.len() == 4 {
            let (a, b) = (address(family, lo), address(family, hi));
            out.push(format!("{a}-{b}"));
            return;
        }
        let mut bits = first.trailing_zeros().min(width);
        let last = loop {
            let span = 1u128.checked_shl(bits).unwrap_or(0).wrapping_sub(1);
            match first | span {
                last if last <= hi => break last,
                _ => bits -= 1,
            }
        };
        all.push(network(address(family, first), width - bits, width));
        at = last.checked_add(1).filter(|next| *next <= hi);
    }
    out.extend(all);
}

fn network(addr: IpAddr, len: u32, width: u32) -> String {
    match len == width {
        true => addr.to_string(),
        false => format!("{addr}/{len}"),
    }
}

/// Addresses in words: a list, what is missing where that is shorter, or `everything`.
pub(super) fn addresses(
    family: Family,
    some: &[(u128, u128)],
    all: &[(u128, u128)],
) -> (String, Vec<String>, bool) {
    let missing = rest(all, some);
    if missing.is_empty() {
        return ("anywhere".to_owned(), Vec::new(), true);
    }
    let (some, missing) = (smooth(some, all), smooth(&missing, all));
    let except = missing.len() < some.len();
    let mut list = Vec::new();
    for interval in if except { &missing } else { &some } {
        networks(family, *interval, &mut list);
    }
    let mut text = list
        .iter()
        .take(MOST)
        .cloned()
        .collect::<Vec<_>>()
        .join(", ");
    if list.len() > MOST {
        text += &format!(" and {} more", list.len() - MOST);
    }
    if except {
        text = format!("anywhere but {text}");
    }
    (text, list, except)
}

/// Numbers with a dash between ends.
pub(super) fn numbers(list: &[(u128, u128)], show: impl Fn(u128) -> String) -> String {
    let one = |&(lo, hi): &(u128, u128)| match lo == hi {
        true => show(lo),
        false => format!("{}-{}", show(lo), show(hi)),
    };
    let mut text = list
        .iter()
        .take(MOST)
        .map(one)
        .collect::<Vec<_>>()
        .join(", ");
    if list.len() > MOST {
        text += &format!(" and {} more", list.len() - MOST);
    }
    text
}

/// Values of a field in a set.
pub(super) fn values(space: &mut Space, set: Set, field: Field) -> Result<Intervals, TooBig> {
    let found = space.values(set, field, LOOKED_AT)?;
    Ok(found.map_or_else(Vec::new, |(list, _)| list))
}

/// Fields that limit who can, in words, beside those that are told anyway.
const LIMITS: [(Field, &str); 11] = [
    (Field::Sport, "source port"),
    (Field::Tos, "tos"),
    (Field::Ttl, "ttl"),
    (Field::Length, "length"),
    (Field::SrcMac, "source mac"),
    (Field::TcpMss, "mss"),
    (Field::SrcType, "source type"),
    (Field::PktType, "packet type"),
    (Field::Proto, "protocol"),
    (Field::IcmpTypeCode, "icmp type and code"),
    (Field::CtState, "state"),
];

impl Asked<'_> {
    /// The label of an interval of interface names.
    fn interface(&self, (lo, hi): (u128, u128)) -> String {
        let inside = |n: &&String| (lo..=hi).contains(&interface_number(n));
        if hi == 0 {
            return "this host".to_owned();
        }
        let named: Vec<&str> = self
            .names
            .iter()
            .filter(inside)
            .map(String::as_str)
            .collect();
        match (lo == hi, named.as_slice()) {
            (true, [name]) => (*name).to_owned(),
            _ => {
                let text = value(Field::InName, self.family(), lo);
                let span = hi - lo;
                let prefix = span & span.wrapping_add(1) == 0 && lo & span == 0 && text != "none";
                match prefix && lo != hi {
                    true => format!("{text}+"),
                    false if lo == hi => text,
                    false => "others".to_owned(),
                }
            }
        }
    }

    /// Who can send the packets in `set`, which is part of `all`.
    ///
    /// # Errors
    /// The limit is reached.
    pub(super) fn senders(
        &mut self,
        set: Set,
        all: Set,
        link: Field,
    ) -> Result<Vec<Senders>, TooBig> {
        let mut found: Vec<Senders> = Vec::new();
        let family = self.family();
        let (mut links, mut told) = (0, 0);
        for class in self.space.classes(link) {
            let of = self.space.within(link, class.0, class.0)?;
            let whole = self.space.bdd.and(all, of)?;
            if whole.is_empty() {
                continue;
            }
            links += 1;
            let some = self.space.bdd.and(set, of)?;
            if some.is_empty() {
                continue;
            }
            told += 1;
            let some = values(&mut self.space, some, Field::Src)?;
            let whole = values(&mut self.space, whole, Field::Src)?;
            let (sources, networks, except) = addresses(family, &some, &whole);
            let label = self.interface(class);
            match found.iter_mut().find(|s| s.sources == sources) {
                Some(same) if same.interfaces.contains(&label) => {}
                Some(same) => same.interfaces.push(label),
                None => found.push(Senders {
                    interfaces: vec![label],
                    sources,
                    networks,
                    except,
                }),
            }
        }
        if let [one] = found.as_mut_slice()
            && links == told
        {
            one.interfaces = vec!["any".to_owned()];
        }
        for senders in &mut found {
            // Gaps between names are all the same.
            if let Some(at) = senders.interfaces.iter().position(|i| i == "others") {
                let others = senders.interfaces.remove(at);
                senders.interfaces.push(others);
            }
        }
        Ok(found)
    }

    /// What else must hold of packets in `set`, which is part of `all`.
    ///
    /// # Errors
    /// The limit is reached.
    pub(super) fn limits(&mut self, set: Set, all: Set) -> Result<Vec<String>, TooBig> {
        let mut found = Vec::new();
        let family = self.family();
        for (field, name) in LIMITS {
            let some = values(&mut self.space, set, field)?;
            let whole = values(&mut self.space, all, field)?;
            if some != whole && !some.is_empty() {
                let show = |v| value(field, family, v);
                found.push(format!("{name} {}", numbers(&some, show)));
            }
        }
        Ok(found)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_of_intervals() {
        assert_eq!(rest(&[(0, 9)], &[(2, 3), (8, 9)]), [(0, 1), (4, 7)]);
        assert_eq!(rest(&[(0, 9)], &[]), [(0, 9)]);
        assert_eq!(rest(&[(0, 9), (20, 29)], &[(5, 24)]), [(0, 4), (25, 29)]);
        assert!(rest(&[(3, u128::MAX)], &[(0, u128::MAX)]).is_empty());
    }

    #[test]
    fn what_is_not_there_makes_no_gaps() {
        let all = [(0x10, 0x1f), (0x21, 0x2e), (0x30, 0x3f)];
        assert_eq!(smooth(&[(0x21, 0x2e)], &all), [(0x20, 0x2f)]);
        assert_eq!(smooth(&[(0x10, 0x1f), (0x21, 0x2e)], &all), [(0x10, 0x2e)]);
        assert_eq!(smooth(&[(0x11, 0x1f)], &all), [(0x11, 0x1f)]);
        assert_eq!(smooth(&[(0, u128::MAX)], &all), [(0, u128::MAX)]);
    }

    #[test]
    fn intervals_are_networks_where_they_can() {
        let list = |lo: [u8; 4], hi: [u8; 4]| {
            let mut out = Vec::new();
            let number = |a: [u8; 4]| u128::from(u32::from_be_bytes(a));
            networks(Family::V4, (number(lo), number(hi)), &mut out);
            out
        };
        assert_eq!(list([10, 0, 0, 0], [10, 255, 255, 255]), ["10.0.0.0/8"]);
        assert_eq!(
            list([192, 0, 2, 7], [192, 0, 2, 8]),
            ["192.0.2.7", "192.0.2.8"]
        );
        assert_eq!(list([0, 0, 0, 0], [255; 4]), ["0.0.0.0/0"]);
        assert_eq!(
            list([10, 0, 0, 1], [10, 0, 0, 254]),
            ["10.0.0.1-10.0.0.254"]
        );
    }
}
