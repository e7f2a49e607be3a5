//! What commands do.

use tidegate_sets::{
    Change, Key, Kind, Members, Part, Place, Refused, Set, Sets, SkbInfo, Storage,
};
use tidegate_xt::number;

use super::create::{self, LONGEST, whole};
use super::line::{Call, Verb};
use super::{Ctx, Fault, member, names, print};
use crate::Printed;

const NO_SET: &str = "The set with the given name does not exist";
/// Longest remark.
const COMMENT: usize = 255;

/// Carries out one command.
pub(crate) fn run(call: &Call<'_>, sets: &mut Sets, ctx: &Ctx<'_>) -> Result<Printed, Fault> {
    let silent = |done: Result<(), Fault>| done.map(|()| Printed::default());
    let name = call.args.first().copied();
    match (call.verb, name) {
        (Verb::Create, Some(name)) => silent(create_set(call, name, sets)),
        (Verb::Add, Some(name)) => silent(add(call, name, sets, ctx)),
        (Verb::Del, Some(name)) => silent(del(call, name, sets, ctx)),
        (Verb::Test, Some(name)) => test(call, name, sets, ctx),
        (Verb::Destroy, Some(name)) => silent(destroy(name, sets, ctx)),
        (Verb::Destroy, None) => silent(destroy_all(sets, ctx)),
        (Verb::Flush, Some(name)) => {
            let set = sets.get_mut(name).ok_or_else(no_set)?;
            set.flush();
            Ok(Printed::default())
        }
        (Verb::Flush, None) => {
            sets.iter_mut().for_each(|(_, set)| set.flush());
            Ok(Printed::default())
        }
        (Verb::Rename, Some(name)) => silent(rename(name, call.args[1], sets, ctx)),
        (Verb::Swap, Some(name)) => silent(swap(name, call.args[1], sets)),
        (Verb::List | Verb::Save, name) => print::list(call, name, sets, ctx),
        _ => Ok(Printed::default()),
    }
}

fn no_set() -> Fault {
    Fault::refused(NO_SET)
}

fn create_set(call: &Call<'_>, name: &str, sets: &mut Sets) -> Result<(), Fault> {
    let set = create::read(name, &call.args[1..])?;
    if let Some(old) = sets.get(name) {
        // What a hash began with does not matter.
        let same = |old: &Set| {
            let mut options = old.options.clone();
            options.hash_size = set.options.hash_size;
            options.initval = set.options.initval;
            options.bucket_size = set.options.bucket_size;
            old.is_like(&set) && options == set.options
        };
        return match call.exist && same(old) {
            true => Ok(()),
            false => Err(Fault::refused(
                "Set cannot be created: set with the same name already exists",
            )),
        };
    }
    // It has just been looked for.
    let _ = sets.create(name, set);
    Ok(())
}

/// What ipset says about a refusal.
fn refusal(refused: Refused) -> Fault {
    Fault::refused(match refused {
        Refused::Exists => "Element cannot be added to the set: it's already added",
        Refused::Missing => "Element cannot be deleted from the set: it's not added",
        Refused::Full => "Hash is full, cannot add more elements",
        Refused::Null => "Null-valued element, cannot be stored in a hash type of set",
        Refused::Invalid => "Kernel error received: Invalid argument",
        Refused::Range => "Element is out of the range of the set",
        Refused::Prefix => "The value of the CIDR parameter of the IP address is invalid",
        Refused::NoSet => "Set to be added/deleted/tested as element does not exist.",
        Refused::NoReference => {
            "The set to which you referred with 'before' or 'after' does not exist."
        }
        Refused::NoPlace => {
            "The set to which you referred with 'before' or 'after' is not added to the set."
        }
        Refused::Loop => "Sets with list:set type cannot be added to the set.",
    })
}

/// What stands behind a member.
#[derive(Default)]
struct More<'w> {
    change: Change,
    wildcard: bool,
    place: Option<Place>,
    given: Vec<&'w str>,
}

/// Options behind a member: name, whether a value follows, where they may stand.
type Row = (&'static str, bool, fn(&Kind, Verb) -> bool);

const ADDING: fn(&Kind, Verb) -> bool = |_, verb| verb == Verb::Add;

const OPTIONS: [Row; 11] = [
    ("timeout", true, ADDING),
    ("packets", true, ADDING),
    ("bytes", true, ADDING),
    ("comment", true, ADDING),
    ("skbmark", true, ADDING),
    ("skbprio", true, ADDING),
    ("skbqueue", true, ADDING),
    ("nomatch", false, |k, verb| {
        k.nomatch && matches!(verb, Verb::Add | Verb::Test)
    }),
    ("wildcard", false, |k, verb| {
        k.has(Part::Iface) && verb == Verb::Add
    }),
    ("before", true, |k, _| k.storage == Storage::List),
    ("after", true, |k, _| k.storage == Storage::List),
];

fn more<'w>(set: &Set, verb: Verb, words: &[&'w str]) -> Result<More<'w>, Fault> {
    let mut more = More::default();
    let mut words = words.iter().copied();
    while let Some(word) = words.next() {
        let row = OPTIONS.iter().find(|o| o.0 == word);
        let Some(&(name, takes, _)) = row.filter(|o| (o.2)(set.kind, verb)) else {
            return Err(Fault::usage(format!("Unknown argument: `{word}'")));
        };
        let value = match takes {
            true => words.next().ok_or_else(|| {
                Fault::usage(format!("Missing mandatory argument of option `{name}'"))
            })?,
            false => "",
        };
        if more.given.contains(&name) {
            return Err(Fault::syntax(format!("{name} already specified")));
        }
        more.given.push(name);
        more.option(name, value)?;
    }
    more.check(set)?;
    Ok(more)
}

impl More<'_> {
    fn option(&mut self, name: &str, value: &str) -> Result<(), Fault> {
        let change = &mut self.change;
        match name {
            "timeout" => change.timeout = Some(whole(value, 0, LONGEST)? as u32),
            "packets" => change.packets = Some(whole(value, 0, u64::MAX - 1)?),
            "bytes" => change.bytes = Some(whole(value, 0, u64::MAX - 1)?),
            "comment" => change.comment = comment(value)?,
            "skbmark" => (change.skb.mark, change.skb.mask) = mark(value)?,
            "skbprio" => change.skb.priority = class(value)?,
            "skbqueue" => change.skb.queue = whole(value, 0, 65535)? as u16,
            "nomatch" => change.nomatch = true,
            "wildcard" => self.wildcard = true,
            "before" => self.place = Some(Place::Before(value.to_owned())),
            "after" => self.place = Some(Place::After(value.to_owned())),
            _ => {}
        }
        Ok(())
    }

    /// What the set was not created with cannot be given.
    fn check(&self, set: &Set) -> Result<(), Fault> {
        let options = &set.options;
        let given = |names: &[&str]| names.iter().any(|n| self.given.contains(n));
        let needs: [(bool, &[&str], &str, &str); 4] = [
            (
                options.timeout.is_some(),
                &["timeout"],
                "Timeout",
                "timeout",
            ),
            (
                options.counters,
                &["packets", "bytes"],
                "Packet/byte counters",
                "counter",
            ),
            (options.comment, &["comment"], "Comment", "comment"),
            (
                options.skbinfo,
                &["skbmark", "skbprio", "skbqueue"],
                "Skbinfo mapping",
                "skbinfo",
            ),
        ];
        match needs.iter().find(|(has, names, ..)| !has && given(names)) {
            Some((_, _, what, support)) => Err(Fault::refused(format!(
                "{what} cannot be used: set was created without {support} support"
            ))),
            None => Ok(()),
        }
    }
}

fn comment(value: &str) -> Result<Option<Box<str>>, Fault> {
    if value.contains('"') {
        return Err(Fault::syntax("\" character is not permitted in comments"));
    }
    if value.len() > COMMENT {
        return Err(Fault::syntax(format!(
            "Comment is longer than the maximum allowed {COMMENT} characters"
        )));
    }
    // What is saved must load.
    if value.contains(char::is_control) {
        return Err(Fault::syntax(
            "control characters are not permitted in comments",
        ));
    }
    Ok((!value.is_empty()).then(|| value.into()))
}

/// `0xMARK[/0xMASK]`.
fn mark(value: &str) -> Result<(u32, u32), Fault> {
    let wrong =
        || Fault::syntax("Invalid skbmark format, it should be:  MARK/MASK or MARK (see manpage)");
    let hex = |word: &str| {
        let number = word
            .starts_with("0x")
            .then(|| number::whole(word, 0, u32::MAX.into()));
        number.flatten().map(|n| n as u32).ok_or_else(wrong)
    };
    match value.split_once('/') {
        Some((mark, mask)) => Ok((hex(mark)?, hex(mask)?)),
        None => Ok((hex(value)?, u32::MAX)),
    }
}

/// `MAJOR:MINOR`, hexadecimal.
fn class(value: &str) -> Result<u32, Fault> {
    let wrong = || Fault::syntax("Invalid skbprio format, it should be:MAJOR:MINOR (see manpage)");
    let (major, minor) = value.split_once(':').ok_or_else(wrong)?;
    let hex = |word| u16::from_str_radix(word, 16).map_err(|_| wrong());
    Ok(u32::from(hex(major)?) << 16 | u32::from(hex(minor)?))
}

fn add(call: &Call<'_>, name: &str, sets: &mut Sets, ctx: &Ctx<'_>) -> Result<(), Fault> {
    let set = sets.get_mut(name).ok_or_else(no_set)?;
    let (word, words) = (call.args[1], &call.args[2..]);
    let more = more(set, Verb::Add, words)?;
    if set.kind.storage == Storage::List {
        let place = more.place.as_ref();
        let done = sets.add_set(name, word, place, &more.change, call.exist, ctx.now);
        return done.map_err(refusal);
    }
    let mut typed = member::read(set, word, &names())?;
    typed.wildcard = more.wildcard;
    let change = Change {
        mac: typed.mac,
        ..more.change
    };
    typed.each(&mut |key| {
        let key = set.normal(key).map_err(refusal)?;
        let key = set.same(&key, ctx.now).unwrap_or(key);
        set.add(key, &change, call.exist, ctx.now).map_err(refusal)
    })
}

fn del(call: &Call<'_>, name: &str, sets: &mut Sets, ctx: &Ctx<'_>) -> Result<(), Fault> {
    let set = sets.get_mut(name).ok_or_else(no_set)?;
    let (word, words) = (call.args[1], &call.args[2..]);
    let more = more(set, Verb::Del, words)?;
    let gone = |refused| match refused {
        Refused::Missing if call.exist => Ok(()),
        other => Err(refusal(other)),
    };
    if set.kind.storage == Storage::List {
        let done = sets.del_set(name, word, more.place.as_ref(), ctx.now);
        return done.or_else(gone);
    }
    let typed = member::read(set, word, &names())?;
    typed.each(&mut |key| {
        let key = set.normal(key).map_err(refusal)?;
        let found = set.same(&key, ctx.now).unwrap_or(key);
        set.del(&found, ctx.now).or_else(gone)
    })
}

fn test(call: &Call<'_>, name: &str, sets: &mut Sets, ctx: &Ctx<'_>) -> Result<Printed, Fault> {
    let set = sets.get(name).ok_or_else(no_set)?;
    let (word, words) = (call.args[1], &call.args[2..]);
    let more = more(set, Verb::Test, words)?;
    let no = || Fault::No(format!("{word} is NOT in set {name}."));
    let found = match set.kind.storage {
        Storage::List => {
            let found = sets.find_set(name, word, more.place.as_ref(), ctx.now);
            match found {
                Ok(_) => true,
                Err(Refused::Missing | Refused::NoPlace) => false,
                Err(Refused::NoSet) => return Err(no()),
                Err(other) => return Err(refusal(other)),
            }
        }
        Storage::Hash | Storage::Bitmap => {
            let typed = member::read(set, word, &names())?;
            let mut found = false;
            typed.each(&mut |key| {
                let key = set.normal(key).map_err(refusal)?;
                found |= is_in(set, &key, typed.mac, more.change.nomatch, ctx.now);
                Ok(())
            })?;
            found
        }
    };
    match found {
        true => Ok(Printed {
            err: format!("Warning: {word} is in set {name}.\n"),
            ..Printed::default()
        }),
        false => Err(no()),
    }
}

fn is_in(set: &Set, key: &Key, mac: Option<u64>, nomatch: bool, now: u64) -> bool {
    let Some(entry) = set.find(key, now) else {
        return false;
    };
    let same = mac.is_none_or(|mac| entry.mac == Some(mac));
    same && entry.nomatch == nomatch
}

fn in_use() -> Fault {
    Fault::refused("Set cannot be destroyed: it is in use by a kernel component")
}

fn destroy(name: &str, sets: &mut Sets, ctx: &Ctx<'_>) -> Result<(), Fault> {
    sets.get(name).ok_or_else(no_set)?;
    if ctx.references(sets, name) > 0 {
        return Err(in_use());
    }
    sets.destroy(name);
    Ok(())
}

/// All at once; members of lists do not stand in the way of it as the lists go too, unless
/// a rule names one.
fn destroy_all(sets: &mut Sets, ctx: &Ctx<'_>) -> Result<(), Fault> {
    let used = |(name, _): (&str, &Set)| ctx.references(sets, name) > 0;
    if sets.iter().any(used) {
        return Err(in_use());
    }
    *sets = Sets::default();
    Ok(())
}

fn rename(name: &str, new: &str, sets: &mut Sets, ctx: &Ctx<'_>) -> Result<(), Fault> {
    create::check_name(new)?;
    sets.get(name).ok_or_else(no_set)?;
    if ctx.references(sets, name) > 0 {
        return Err(Fault::refused(
            "Set cannot be renamed: it is in use by another system",
        ));
    }
    if sets.get(new).is_some() {
        return Err(Fault::refused(
            "Set cannot be renamed: a set with the new name already exists",
        ));
    }
    sets.rename(name, new);
    Ok(())
}

fn swap(name: &str, other: &str, sets: &mut Sets) -> Result<(), Fault> {
    let one = sets.get(name).ok_or_else(no_set)?;
    let Some(two) = sets.get(other) else {
        return Err(Fault::refused(
            "Sets cannot be swapped: the second set does not exist",
        ));
    };
    if !one.is_like(two) {
        return Err(Fault::refused(
            "The sets cannot be swapped: their type does not match",
        ));
    }
    sets.swap(name, other);
    Ok(())
}

/// Remarks and marks of a member, as listings show them.
pub(crate) fn skb_words(skb: SkbInfo) -> Vec<(&'static str, String)> {
    let mut words = Vec::new();
    if skb.mark != 0 || skb.mask != 0 {
        let mask = match skb.mask {
            u32::MAX => String::new(),
            mask => format!("/0x{mask:x}"),
        };
        words.push(("skbmark", format!("0x{:x}{mask}", skb.mark)));
    }
    if skb.priority != 0 {
        let (major, minor) = (skb.priority >> 16, skb.priority & 0xffff);
        words.push(("skbprio", format!("{major:x}:{minor:x}")));
    }
    if skb.queue != 0 {
        words.push(("skbqueue", skb.queue.to_string()));
    }
    words
}

/// Members as they are listed: their keys in order.
pub(crate) fn sorted(set: &Set) -> Vec<(Key, &tidegate_sets::Entry)> {
    match set.members() {
        Members::Table(table) => {
            let mut all: Vec<_> = table.iter().map(|(key, entry)| (*key, entry)).collect();
            all.sort_unstable_by_key(|(key, _)| *key);
            all
        }
        Members::List(_) => Vec::new(),
    }
}
