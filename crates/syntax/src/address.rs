//! Addresses, masks, interfaces and protocols on the command line.

use std::borrow::Cow;

use smallvec::SmallVec;
use tidegate_wire::Family;
use tidegate_xt::{Names, number, text};

use crate::{Failure, Iface, Net, Proto};

/// Longest interface name in bytes (`IFNAMSIZ` minus the final NUL).
const IFACE_MAX: usize = 15;

/// Networks of one option, of which there is nearly always one.
pub(crate) type Nets = SmallVec<[Option<Net>; 1]>;

/// Reads `address[/mask][,…]`. A host name gives one network per address.
///
/// # Errors
/// The tool's text for an unknown host or a bad mask.
pub(crate) fn nets(
    list: &str,
    invert: bool,
    family: Family,
    names: &dyn Names,
) -> Result<Nets, Failure> {
    if invert && list.contains(',') {
        return Err(Failure::usage(
            "! not allowed with multiple source or destination IP addresses",
        ));
    }
    let mut out = Nets::new();
    for word in list.split(',') {
        let word = word.trim_start();
        let (host, mask) = match word.split_once('/') {
            Some((host, mask)) => (host, parse_mask(mask, family)?),
            None => (word, text::full_mask(family)),
        };
        let net = |addr| Net {
            addr: addr & mask,
            mask,
            invert,
        };
        let kept = |addr| Some(net(addr)).filter(|n| n.mask != 0 || invert);
        match numeric(host, family).or((mask == 0).then_some(0)) {
            Some(addr) => out.push(kept(addr)),
            None => {
                let addrs = names.host(host, family);
                if addrs.is_empty() {
                    return Err(Failure::Usage(format!("host/network `{host}' not found")));
                }
                out.extend(addrs.into_iter().map(kept));
            }
        }
    }
    if invert && out.len() > 1 {
        return Err(Failure::usage(
            "! not allowed with multiple source or destination IP addresses",
        ));
    }
    Ok(out)
}

fn numeric(host: &str, family: Family) -> Option<u128> {
    match family {
        Family::V4 => dotted(host).map(|(addr, _)| addr),
        Family::V6 => text::parse_addr(host, family),
    }
}

/// One to four numbers between dots, filled up with zeros, and how many there were.
fn dotted(text: &str) -> Option<(u128, usize)> {
    let mut addr = 0;
    let mut parts = 0;
    for part in text.split('.') {
        if parts == 4 {
            return None;
        }
        addr = addr << 8 | u128::from(number::whole(part, 0, 255)?);
        parts += 1;
    }
    Some((addr << (8 * (4 - parts)), parts))
}

fn parse_mask(mask: &str, family: Family) -> Result<u128, Failure> {
    let literal = match family {
        Family::V4 => dotted(mask).filter(|m| m.1 == 4).map(|m| m.0),
        Family::V6 => text::parse_addr(mask, family),
    };
    let by_length = || {
        let len = number::whole(mask, 0, 128)?;
        text::prefix_mask(u32::try_from(len).ok()?, family)
    };
    literal
        .or_else(by_length)
        .ok_or_else(|| Failure::Usage(format!("invalid mask `{mask}' specified")))
}

/// Reads an interface name; the second value is a warning, if the name is odd.
///
/// # Errors
/// The tool's text for an empty or too long name.
pub(crate) fn iface(name: &str, invert: bool) -> Result<(Option<Iface>, Option<String>), Failure> {
    if name.is_empty() {
        return Err(Failure::usage("Empty interface is likely to be undesired"));
    }
    if name.len() > IFACE_MAX {
        return Err(Failure::Usage(format!(
            "interface name `{name}' must be shorter than {} characters",
            IFACE_MAX + 1
        )));
    }
    let odd = name.contains(['/', ' ']).then(|| {
        format!(
            "Warning: weird character in interface `{name}' ('/' and ' ' are not allowed by the kernel)."
        )
    });
    let iface = (invert || name != "+").then(|| Iface {
        name: name.to_owned(),
        invert,
    });
    Ok((iface, odd))
}

/// Reads a protocol number or name.
///
/// # Errors
/// The tool's text for an unknown one, or for none at all, inverted.
pub(crate) fn proto(word: &str, invert: bool, names: &dyn Names) -> Result<Option<Proto>, Failure> {
    let lower = match word.bytes().any(|b| b.is_ascii_uppercase()) {
        true => Cow::Owned(word.to_ascii_lowercase()),
        false => Cow::Borrowed(word),
    };
    let number = number::whole(&lower, 0, 255)
        .and_then(|n| u8::try_from(n).ok())
        .or_else(|| names.protocol(&lower))
        .ok_or_else(|| Failure::Usage(format!("unknown protocol \"{lower}\" specified")))?;
    match (number, invert) {
        (0, true) => Err(Failure::usage("rule would never match protocol")),
        (0, false) => Ok(None),
        (number, invert) => Ok(Some(Proto { number, invert })),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tidegate_xt::NoNames;

    fn one(text: &str) -> Option<(u128, u128)> {
        let list = nets(text, false, Family::V4, &NoNames).ok()?;
        let net = list.first().copied()??;
        Some((net.addr, net.mask))
    }

    /// Checked against iptables 1.8.9.
    #[test]
    fn short_and_odd_addresses() {
        let full = 0xffff_ffff;
        assert_eq!(one("1.2.3"), Some((0x0102_0300, full)));
        assert_eq!(one("10"), Some((0x0a00_0000, full)));
        assert_eq!(one("0x0a.1.1.1"), Some((0x0a01_0101, full)));
        assert_eq!(one("10.0.0.0/010"), Some((0x0a00_0000, 0xff00_0000)));
        assert_eq!(one("10.0.0.0/+8"), Some((0x0a00_0000, 0xff00_0000)));
        assert_eq!(
            one("10.11.12.13/255.0.12.0"),
            Some((0x0a00_0c00, 0xff00_0c00))
        );
        for bad in [
            "",
            "300.1.1.1",
            "1.2.3.4.5",
            "1.1.1.1,",
            "10.0.0.0/",
            "10.0.0.0/33",
        ] {
            assert!(nets(bad, false, Family::V4, &NoNames).is_err(), "{bad}");
        }
        let list = nets("1.1.1.1, 2.2.2.2/0", false, Family::V4, &NoNames);
        assert_eq!(
            list.map(|l| l.iter().filter(|n| n.is_none()).count()),
            Ok(1)
        );
    }
}
