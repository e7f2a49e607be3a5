//! Members: their text, and the keys that it stands for.

use tidegate_sets::{Key, Kind, Part, Set, keys_of_range};
use tidegate_wire::Family;
use tidegate_xt::{Names, text};

use super::create::whole;
use super::{Fault, port};

/// Most members that one command adds or takes out.
const MOST: u64 = 1 << 20;

const ORDINALS: [&str; 3] = ["First", "Second", "Third"];
const NUMBERS: [&str; 4] = ["none", "one", "two", "three"];
const SEPARATORS: [&str; 4] = ["No", "Elem", "Two elem", "Three elem"];

/// One part of a member: all the values that it stands for.
enum Values {
    /// Addresses from first to last.
    Hosts(u128, u128),
    /// Networks: address and prefix length.
    Nets(Vec<(u128, u8)>),
    /// Protocol, first and last port.
    Ports(u8, u16, u16),
    /// A MAC address, mark or name; physdev.
    Other(u128, bool),
    /// A MAC address that was not given.
    Nothing,
}

impl Values {
    /// Gives each value to `key` in turn.
    fn each(
        &self,
        slot: usize,
        width: u8,
        step: u128,
        key: Key,
        work: &mut dyn FnMut(Key) -> Result<(), Fault>,
    ) -> Result<(), Fault> {
        match *self {
            Values::Hosts(first, last) => {
                let mut next = Some(first);
                while let Some(at) = next.filter(|at| *at <= last) {
                    let mut key = key;
                    (key.addrs[slot], key.lengths[slot]) = (at, width);
                    work(key)?;
                    next = at.checked_add(step);
                }
                Ok(())
            }
            Values::Nets(ref nets) => nets.iter().try_for_each(|&(addr, length)| {
                let mut key = key;
                (key.addrs[slot], key.lengths[slot]) = (addr, length);
                work(key)
            }),
            Values::Ports(proto, first, last) => {
                (first..=last).try_for_each(|port| work(Key { proto, port, ..key }))
            }
            Values::Other(other, physdev) => work(Key {
                other,
                physdev,
                ..key
            }),
            Values::Nothing => work(key),
        }
    }
}

/// A member as it was typed.
pub(crate) struct Typed {
    values: Vec<Values>,
    width: u8,
    /// How far apart addresses are that differ under the set's netmask.
    step: u128,
    /// MAC address of `bitmap:ip,mac`.
    pub(crate) mac: Option<u64>,
    pub(crate) wildcard: bool,
}

impl Typed {
    /// Calls `work` with every key.
    pub(crate) fn each(&self, work: &mut dyn FnMut(Key) -> Result<(), Fault>) -> Result<(), Fault> {
        let mut left = MOST;
        let mut work = |key| {
            left = left.checked_sub(1).ok_or_else(|| {
                let why = "The range you specified exceeds the size limit of the set type";
                Fault::refused(why)
            })?;
            work(key)
        };
        let key = Key {
            wildcard: self.wildcard,
            ..Key::default()
        };
        self.from(0, key, &mut work)
    }

    fn from(
        &self,
        part: usize,
        key: Key,
        work: &mut dyn FnMut(Key) -> Result<(), Fault>,
    ) -> Result<(), Fault> {
        let Some(values) = self.values.get(part) else {
            return work(key);
        };
        let step = if part == 0 { self.step } else { 1 };
        let slot = usize::from(part > 0);
        values.each(slot, self.width, step, key, &mut |key| {
            self.from(part + 1, key, work)
        })
    }
}

/// Reads a member of a set.
pub(crate) fn read(set: &Set, word: &str, names: &dyn Names) -> Result<Typed, Fault> {
    let kind = set.kind;
    let family = set.family.unwrap_or(Family::V4);
    let parts = parts(kind, word)?;
    let width = match family {
        Family::V4 => 32,
        Family::V6 => 128,
    };
    let step = match (family, set.options.netmask) {
        (Family::V4, Some(length)) => 1 << (32 - length),
        _ => 1,
    };
    let mut typed = Typed {
        values: Vec::new(),
        width,
        step,
        mac: None,
        wildcard: false,
    };
    for (i, part) in kind.parts.iter().enumerate() {
        let values = match (part, parts.get(i)) {
            (_, None) => Values::Nothing,
            (Part::Ip, Some(w)) => hosts(w, family, i == 0, names)?,
            (Part::Net, Some(w)) => networks(w, family, names)?,
            (Part::Port, Some(w)) => {
                let (proto, first, last) = port::read(w, family, names)?;
                Values::Ports(proto, first, last)
            }
            (Part::BarePort, Some(w)) => {
                let (first, last) = bare_ports(w)?;
                Values::Ports(0, first, last)
            }
            (Part::Mac, Some(w)) if kind.learns_mac() => {
                typed.mac = Some(mac(w)?).filter(|&m| m != 0);
                Values::Nothing
            }
            (Part::Mac, Some(w)) => Values::Other(mac(w)?.into(), false),
            (Part::Iface, Some(w)) => interface(w)?,
            (Part::Mark, Some(w)) => Values::Other(whole(w, 0, u64::from(u32::MAX))?.into(), false),
            (Part::Set, Some(_)) => Values::Nothing,
        };
        typed.values.push(values);
    }
    Ok(typed)
}

/// Cuts a member at its commas; there must be as many as the type has.
fn parts<'w>(kind: &Kind, word: &'w str) -> Result<Vec<&'w str>, Fault> {
    let wanted = kind.parts.len();
    let parts: Vec<&str> = word.split(',').collect();
    if parts.len() > wanted {
        let more = SEPARATORS[wanted.min(3)];
        let plural = if wanted > 1 {
            "separators"
        } else {
            "separator"
        };
        return Err(Fault::syntax(format!(
            "{more} {plural} in {word}, but settype {} supports {}.",
            kind.name,
            NUMBERS[wanted - 1]
        )));
    }
    let filled = parts.iter().take_while(|p| !p.is_empty()).count();
    // The first part may be missing too, but it is the second that is missed.
    let filled = if filled == 0 && parts.len() > 1 {
        1
    } else {
        filled
    };
    let optional = usize::from(kind.learns_mac());
    if filled + optional < wanted {
        let which = ORDINALS[filled.clamp(1, 2)];
        return Err(Fault::syntax(format!(
            "{which} element is missing from {word}."
        )));
    }
    Ok(parts)
}

fn unresolved(word: &str, family: Family) -> Fault {
    let family = match family {
        Family::V4 => "IPv4",
        Family::V6 => "IPv6",
    };
    Fault::syntax(format!(
        "cannot parse {word}: resolving to {family} address failed"
    ))
}

/// A numeric address or the first of a host's.
fn address(word: &str, family: Family, names: &dyn Names) -> Result<u128, Fault> {
    let bare = word.strip_prefix('[').and_then(|w| w.strip_suffix(']'));
    let word = bare.unwrap_or(word);
    let short = || match family {
        Family::V4 => word.parse::<u32>().ok().map(u128::from),
        Family::V6 => None,
    };
    text::parse_addr(word, family)
        .or_else(short)
        .or_else(|| names.host(word, family).first().copied())
        .ok_or_else(|| unresolved(word, family))
}

fn length(word: &str, family: Family) -> Result<u8, Fault> {
    let most = match family {
        Family::V4 => 32,
        Family::V6 => 128,
    };
    whole(word, 0, most).map(|n| n as u8)
}

/// First and last address of `A`, `A/N` or `A-B`.
pub(crate) fn range_of(word: &str, family: Family) -> Result<(u128, u128), Fault> {
    range_by(word, family, &super::names())
}

fn range_by(word: &str, family: Family, names: &dyn Names) -> Result<(u128, u128), Fault> {
    if let Some((addr, len)) = word.split_once('/') {
        let len = length(len, family)?;
        let addr = address(addr, family, names)?;
        let mask = text::prefix_mask(len.into(), family).unwrap_or(0);
        let full = text::full_mask(family);
        return Ok((addr & mask, addr & mask | full & !mask));
    }
    // A host may have a dash in its name.
    if let Ok(one) = address(word, family, names) {
        return Ok((one, one));
    }
    match word.split_once('-') {
        Some((first, last)) => {
            let whole = |_| unresolved(word, family);
            let a = address(first, family, names).map_err(whole)?;
            let b = address(last, family, names).map_err(whole)?;
            Ok((a.min(b), a.max(b)))
        }
        None => Err(unresolved(word, family)),
    }
}

fn plain(word: &str) -> Fault {
    Fault::syntax(format!("plain IP address must be supplied: {word}"))
}

/// An address where a range may stand only in the first place, and only of IPv4.
fn hosts(word: &str, family: Family, first: bool, names: &dyn Names) -> Result<Values, Fault> {
    let (a, b) = range_by(word, family, names)?;
    if a != b && (family == Family::V6 || !first) {
        return Err(plain(word));
    }
    Ok(Values::Hosts(a, b))
}

fn networks(word: &str, family: Family, names: &dyn Names) -> Result<Values, Fault> {
    let (a, b) = range_by(word, family, names)?;
    if word.contains('/') {
        let (_, len) = word.rsplit_once('/').unwrap_or((word, ""));
        return Ok(Values::Nets(vec![(a, length(len, family)?)]));
    }
    if a != b && family == Family::V6 {
        return Err(plain(word));
    }
    if (a, b) == (0, text::full_mask(family)) {
        return Err(Fault::refused(
            "Invalid range, covers the whole address space",
        ));
    }
    Ok(Values::Nets(keys_of_range(family, a, b).collect()))
}

/// Ports of a `bitmap:port`, where a protocol is said to no purpose.
pub(crate) fn bare_ports(word: &str) -> Result<(u16, u16), Fault> {
    let (proto, ports) = match word.split_once(':') {
        Some((proto, ports)) if !ports.is_empty() => (proto, ports),
        _ => ("tcp", word),
    };
    port::ports(ports, proto, &super::names())
}

fn mac(word: &str) -> Result<u64, Fault> {
    let wrong = || Fault::syntax(format!("cannot parse '{word}' as ethernet address"));
    let bytes = word.split(':').map(|b| match b.len() {
        1 | 2 => u8::from_str_radix(b, 16).ok(),
        _ => None,
    });
    let bytes: Option<Vec<u8>> = bytes.collect();
    let bytes = bytes.filter(|b| b.len() == 6).ok_or_else(wrong)?;
    Ok(bytes.iter().fold(0, |n, &b| n << 8 | u64::from(b)))
}

fn interface(word: &str) -> Result<Values, Fault> {
    let bare = word.strip_prefix("physdev:");
    let name = bare.unwrap_or(word);
    if name.len() > 15 {
        return Err(Fault::syntax(format!(
            "interface name '{name}' is longer than 15 characters"
        )));
    }
    let mut bytes = [0; 16];
    bytes[..name.len()].copy_from_slice(name.as_bytes());
    Ok(Values::Other(u128::from_be_bytes(bytes), bare.is_some()))
}

/// The text of a member.
pub(crate) fn show(set: &Set, key: &Key, mac: Option<u64>, names: &dyn Names) -> String {
    let family = set.family.unwrap_or(Family::V4);
    let mut out = String::new();
    for (i, part) in set.kind.parts.iter().enumerate() {
        let slot = usize::from(i > 0);
        let addr = text::addr(key.addrs[slot], family);
        let whole = text::full_mask(family).count_ones() == u32::from(key.lengths[slot]);
        let shown = match part {
            Part::Net if !whole => format!("{addr}/{}", key.lengths[slot]),
            Part::Ip | Part::Net => addr,
            Part::Port => port::show(key.proto, key.port, names),
            Part::BarePort => key.port.to_string(),
            Part::Mac if set.kind.learns_mac() => match mac {
                Some(mac) => show_mac(mac),
                None => continue,
            },
            Part::Mac => show_mac(key.other as u64),
            Part::Iface => show_interface(key),
            Part::Mark => format!("0x{:08x}", key.other),
            Part::Set => continue,
        };
        if i > 0 {
            out.push(',');
        }
        out += &shown;
    }
    out
}

fn show_mac(mac: u64) -> String {
    let bytes = mac.to_be_bytes();
    let bytes: Vec<String> = bytes[2..].iter().map(|b| format!("{b:02x}")).collect();
    bytes.join(":")
}

fn show_interface(key: &Key) -> String {
    let bytes = key.other.to_be_bytes();
    let name: Vec<u8> = bytes.into_iter().take_while(|&b| b != 0).collect();
    let prefix = if key.physdev { "physdev:" } else { "" };
    format!("{prefix}{}", String::from_utf8_lossy(&name))
}
