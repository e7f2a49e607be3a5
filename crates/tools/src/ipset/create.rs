//! `create`: a type and its options.

use tidegate_sets::{Kind, NAME_MAX, Options, Part, Set, Storage};
use tidegate_wire::Family;
use tidegate_xt::{number, text};

use super::Fault;
use super::member::{self, range_of};

/// Longest timeout in seconds (`IPSET_MAX_TIMEOUT`).
pub(crate) const LONGEST: u64 = 2_147_483;
/// Most members of a bitmap (`IPSET_BITMAP_MAX_RANGE` and one).
const BITMAP_MAX: u128 = 1 << 16;

/// Whether an option is one of a type.
type For = fn(&Kind) -> bool;

const ALL: For = |_| true;
const HASH: For = |k| k.storage == Storage::Hash;

/// The options: name, whether a value follows, and which types have it.
const OPTIONS: [(&str, bool, For); 17] = [
    ("family", true, |k| k.families),
    ("-4", false, |k| k.families),
    ("-6", false, |k| k.families),
    ("hashsize", true, HASH),
    ("maxelem", true, HASH),
    ("netmask", true, |k| k.netmask),
    ("bitmask", true, |k| k.bitmask),
    ("markmask", true, |k| k.has(Part::Mark)),
    ("range", true, |k| k.storage == Storage::Bitmap),
    ("size", true, |k| k.storage == Storage::List),
    ("timeout", true, ALL),
    ("counters", false, ALL),
    ("comment", false, ALL),
    ("skbinfo", false, ALL),
    ("forceadd", false, HASH),
    ("bucketsize", true, HASH),
    ("initval", true, HASH),
];

/// Older names of types.
const OLD: [(&str, &str); 8] = [
    ("iphash", "hash:ip"),
    ("nethash", "hash:net"),
    ("ipporthash", "hash:ip,port"),
    ("ipportiphash", "hash:ip,port,ip"),
    ("ipmap", "bitmap:ip"),
    ("macipmap", "bitmap:ip,mac"),
    ("portmap", "bitmap:port"),
    ("setlist", "list:set"),
];

fn kind(name: &str) -> Option<&'static Kind> {
    let old = OLD.iter().find(|o| o.0 == name);
    Kind::by_name(old.map_or(name, |o| o.1))
}

/// What a type's `create` takes.
pub(crate) fn usage(name: &str) -> Option<String> {
    let kind = kind(name)?;
    let options = OPTIONS.iter().filter(|o| (o.2)(kind));
    let options = options.map(|o| format!(" [{}{}]", o.0, if o.1 { " VALUE" } else { "" }));
    let options: String = options.collect();
    Some(format!(
        "\n{} type specific options:\n\ncreate SETNAME {}{options}\n",
        kind.name, kind.name
    ))
}

/// Checks the name of a new set.
pub(crate) fn check_name(name: &str) -> Result<(), Fault> {
    if name.len() > NAME_MAX {
        return Err(Fault::syntax(format!(
            "setname '{name}' is longer than {NAME_MAX} characters"
        )));
    }
    // What is saved must load.
    match name.is_empty()
        || name.contains(|c: char| c.is_whitespace() || c.is_control() || c == '"')
    {
        true => Err(Fault::syntax(format!("setname '{name}' is not possible"))),
        false => Ok(()),
    }
}

/// Reads a number within a range as ipset says it.
pub(crate) fn whole(word: &str, min: u64, max: u64) -> Result<u64, Fault> {
    let digits = word.strip_prefix('-').unwrap_or(word);
    let is_number = !digits.is_empty() && number::whole(digits, 0, u64::MAX).is_some();
    match number::whole(word, min, max) {
        Some(n) => Ok(n),
        None if is_number => Err(Fault::syntax(format!(
            "'{word}' is out of range {min}-{max}"
        ))),
        None => Err(Fault::syntax(format!("'{word}' is invalid as number"))),
    }
}

/// Reads the words after `create NAME`.
pub(crate) fn read(name: &str, words: &[&str]) -> Result<Set, Fault> {
    check_name(name)?;
    let Some((&type_name, words)) = words.split_first() else {
        return Err(Fault::usage(
            "Missing second mandatory argument to command create",
        ));
    };
    let unknown = || Fault::syntax(format!("typename '{type_name}' is unknown"));
    let kind = kind(type_name).ok_or_else(unknown)?;
    let given = pairs(kind, words)?;
    let value = |name| given.iter().find(|g| g.0 == name).map(|g| g.1);
    let family = family(kind, &given)?;
    let mut options = Options {
        initval: initval(name),
        ..Options::default()
    };
    for &(name, value) in &given {
        set(&mut options, kind, family, name, value)?;
    }
    if value("netmask").is_some() && value("bitmask").is_some() {
        return Err(Fault::syntax(
            "bitmask and netmask are mutually exclusive, provide only one",
        ));
    }
    if kind.storage == Storage::Bitmap && value("range").is_none() {
        return Err(Fault::usage("Mandatory option `range' is missing"));
    }
    bounds(&mut options, kind)?;
    Ok(Set::new(kind, family, options))
}

/// Options with their values.
fn pairs<'w>(kind: &Kind, words: &[&'w str]) -> Result<Vec<(&'static str, &'w str)>, Fault> {
    let mut given: Vec<(&'static str, &str)> = Vec::new();
    let mut words = words.iter().copied();
    while let Some(word) = words.next() {
        let row = OPTIONS.iter().find(|o| o.0 == word && (o.2)(kind));
        let Some(&(name, takes, _)) = row else {
            return Err(Fault::usage(format!("Unknown argument: `{word}'")));
        };
        let value = match takes {
            true => words.next().ok_or_else(|| {
                Fault::usage(format!("Missing mandatory argument of option `{name}'"))
            })?,
            false => "",
        };
        if given.iter().any(|g| g.0 == name) {
            return Err(Fault::syntax(format!("{name} already specified")));
        }
        given.push((name, value));
    }
    Ok(given)
}

fn family(kind: &Kind, given: &[(&str, &str)]) -> Result<Option<Family>, Fault> {
    let mut family = (kind.families || kind.inet).then_some(Family::V4);
    for (name, value) in given {
        family = match (*name, *value) {
            ("-4", _) | ("family", "inet" | "ipv4" | "-4") => Some(Family::V4),
            ("-6", _) | ("family", "inet6" | "ipv6" | "-6") => Some(Family::V6),
            ("family", other) => {
                return Err(Fault::syntax(format!("unknown inet family {other}")));
            }
            _ => family,
        };
    }
    // A set of MAC addresses has the word, but not the addresses.
    Ok(family.filter(|_| kind.name != "hash:mac"))
}

fn set(
    options: &mut Options,
    kind: &Kind,
    family: Option<Family>,
    name: &str,
    value: &str,
) -> Result<(), Fault> {
    let family = family.unwrap_or(Family::V4);
    let number = |max: u64| whole(value, 0, max);
    let any = u64::from(u32::MAX);
    match name {
        "hashsize" => {
            let size = (number(any)? as u32).max(64);
            options.hash_size = size.checked_next_power_of_two().unwrap_or(1 << 31);
        }
        "maxelem" => options.max_members = number(any)? as u32,
        "size" => options.size = (number(any)? as u32).max(4),
        "timeout" => options.timeout = Some(number(LONGEST)? as u32),
        "bucketsize" => options.bucket_size = (number(255)? as u8).clamp(2, 12).next_multiple_of(2),
        "initval" => options.initval = number(any)? as u32,
        "markmask" => options.markmask = number(any)? as u32,
        "counters" => options.counters = true,
        "comment" => options.comment = true,
        "skbinfo" => options.skbinfo = true,
        "forceadd" => options.forceadd = true,
        "netmask" => options.netmask = netmask(value, family)?,
        "bitmask" => {
            let mask = text::parse_addr(value, family).filter(|&m| m != 0);
            let wrong = || {
                Fault::syntax(format!(
                    "bitmask is not valid for family = {}",
                    word(family)
                ))
            };
            options.bitmask = Some(mask.ok_or_else(wrong)?);
        }
        "range" => options.range = range(kind, value)?,
        _ => {}
    }
    Ok(())
}

/// The word for a family.
pub(crate) fn word(family: Family) -> &'static str {
    match family {
        Family::V4 => "inet",
        Family::V6 => "inet6",
    }
}

/// The whole address is no mask.
fn netmask(value: &str, family: Family) -> Result<Option<u8>, Fault> {
    let most = match family {
        Family::V4 => 32,
        Family::V6 => 128,
    };
    let length = whole(value, 1, most).map_err(|fault| match fault {
        Fault::Refused(text) => Fault::Refused(format!(
            "{text}\nSyntax error: netmask is out of the inclusive range of 1-{most}"
        )),
        other => other,
    })?;
    Ok((length != most).then_some(length as u8))
}

fn range(kind: &Kind, value: &str) -> Result<(u128, u128), Fault> {
    if kind.has(Part::BarePort) {
        let (first, last) = member::bare_ports(value)?;
        return Ok((first.into(), last.into()));
    }
    let whole = || Fault::syntax(format!("IP/cidr or IP-IP range must be specified: {value}"));
    if !value.contains(['/', '-']) {
        return Err(whole());
    }
    range_of(value, Family::V4)
}

/// A bitmap must not be too large, and ends where a network does.
fn bounds(options: &mut Options, kind: &Kind) -> Result<(), Fault> {
    if kind.storage != Storage::Bitmap {
        return Ok(());
    }
    let (first, last) = options.range;
    let step = options.netmask.map_or(1u128, |length| 1 << (32 - length));
    if (last - first) / step >= BITMAP_MAX {
        return Err(Fault::refused(
            "The range you specified exceeds the size limit of the set type",
        ));
    }
    let first = first / step * step;
    options.range = (first, last / step * step + step - 1);
    Ok(())
}

/// The kernel draws the key of a set's hash; here it is a number for listings only, which
/// depends on nothing but the name.
fn initval(name: &str) -> u32 {
    name.bytes().fold(0x811c_9dc5, |n: u32, b| {
        (n ^ u32::from(b)).wrapping_mul(0x0100_0193)
    })
}
