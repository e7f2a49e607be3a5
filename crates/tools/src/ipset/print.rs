//! `list` and `save`: sets as text, as lines to restore, and as XML.

use std::fmt::Write;

use tidegate_sets::{Entry, Members, Options, Part, Set, Sets, Storage};
use tidegate_wire::Family;
use tidegate_xt::{Names, text};

use super::create::word;
use super::line::{Call, Mode, Verb};
use super::{Ctx, Fault, Users, member, names, place};
use crate::Printed;

/// A word with its value; an empty value is the word alone.
type Words = Vec<(&'static str, String)>;

/// Lists one set, or all: those of sets come last, since a restore needs the others first.
pub(crate) fn list(
    call: &Call<'_>,
    name: Option<&str>,
    sets: &mut Sets,
    ctx: &Ctx<'_>,
) -> Result<Printed, Fault> {
    for (_, set) in sets.iter_mut() {
        set.expire(ctx.now);
    }
    if let Some(name) = name
        && sets.get(name).is_none()
    {
        return Err(Fault::refused("The set with the given name does not exist"));
    }
    let wanted = |of: &&(&str, &Set)| name.is_none_or(|name| name == of.0);
    let is_list = |of: &(&str, &Set)| of.1.kind.storage == Storage::List;
    let all: Vec<(&str, &Set)> = sets.iter().collect();
    let shown: Vec<&(&str, &Set)> = {
        let first = all.iter().filter(|of| wanted(of) && !is_list(of));
        let last = all.iter().filter(|of| wanted(of) && is_list(of));
        first.chain(last).collect()
    };
    let default = match call.verb {
        Verb::Save => Mode::Save,
        _ => Mode::Plain,
    };
    let mode = call.mode.unwrap_or(default);
    let mut out = String::new();
    if mode == Mode::Xml {
        out += "<ipsets>\n";
    }
    for (i, (name, set)) in shown.into_iter().enumerate() {
        let one = Shown {
            name,
            set,
            references: ctx.references(sets, name),
            now: ctx.now,
            names: &names(),
        };
        match (mode, call.names) {
            (Mode::Xml, true) => out += &format!("<ipset name=\"{}\"/>\n", escaped(name)),
            (_, true) => out += &format!("{name}\n"),
            (Mode::Plain, _) => {
                out += if i > 0 { "\n" } else { "" };
                one.plain(&mut out, call.terse);
            }
            (Mode::Save, _) => one.save(&mut out),
            (Mode::Xml, _) => one.xml(&mut out, call.terse),
        }
    }
    if mode == Mode::Xml {
        out += "</ipsets>\n";
    }
    Ok(Printed {
        out,
        ..Printed::default()
    })
}

/// All sets as lines that a restore reads.
#[must_use]
pub fn save_all(sets: &Sets, now: u64) -> String {
    let mut copy = sets.clone();
    let ctx = Ctx {
        users: &Users::new(),
        now,
    };
    let call = Call::read(&["save"], false);
    let saved = call.and_then(|call| list(&call, None, &mut copy, &ctx));
    saved.map(|p| p.out).unwrap_or_default()
}

struct Shown<'a> {
    name: &'a str,
    set: &'a Set,
    references: usize,
    now: u64,
    names: &'a dyn Names,
}

impl Shown<'_> {
    fn plain(&self, out: &mut String, terse: bool) {
        let set = self.set;
        let _ = writeln!(
            out,
            "Name: {}\nType: {}\nRevision: {}\nHeader: {}\nSize in memory: {}\nReferences: {}\n\
             Number of entries: {}",
            self.name,
            set.kind.name,
            set.kind.revision,
            joined(&header(set)),
            size(set),
            self.references,
            set.len()
        );
        if !terse {
            *out += "Members:\n";
            for (elem, words) in self.members() {
                let _ = writeln!(out, "{elem}{}", spaced(&words));
            }
        }
    }

    fn save(&self, out: &mut String) {
        let header = joined(&header(self.set));
        let _ = writeln!(out, "create {} {} {header}", self.name, self.set.kind.name);
        for (elem, words) in self.members() {
            let _ = writeln!(out, "add {} {elem}{}", self.name, spaced(&words));
        }
    }

    fn xml(&self, out: &mut String, terse: bool) {
        let set = self.set;
        let _ = writeln!(
            out,
            "<ipset name=\"{}\">\n<type>{}</type>\n<revision>{}</revision>\n<header>{}\n\
             <memsize>{}</memsize>\n<references>{}</references>\n<numentries>{}</numentries>\n</header>",
            escaped(self.name),
            set.kind.name,
            set.kind.revision,
            tags(&header(set)),
            size(set),
            self.references,
            set.len()
        );
        if !terse {
            *out += "<members>\n";
            for (elem, words) in self.members() {
                let elem = escaped(&elem);
                let _ = writeln!(out, "<member><elem>{elem}</elem>{}</member>", tags(&words));
            }
            *out += "</members>\n";
        }
        *out += "</ipset>\n";
    }

    /// The text of each member and what belongs to it.
    fn members(&self) -> Vec<(String, Words)> {
        if let Members::List(list) = self.set.members() {
            let row = |(name, entry): &(String, Entry)| (name.clone(), self.words(entry, false));
            return list.iter().map(row).collect();
        }
        let row = |(key, entry): (_, &Entry)| {
            let key: tidegate_sets::Key = key;
            let elem = member::show(self.set, &key, entry.mac, self.names);
            (elem, self.words(entry, key.wildcard))
        };
        place::sorted(self.set).into_iter().map(row).collect()
    }

    fn words(&self, entry: &Entry, wildcard: bool) -> Words {
        let options = &self.set.options;
        let flag = |word, set: bool| set.then(|| (word, String::new()));
        let mut words = Words::new();
        if options.timeout.is_some() {
            words.push(("timeout", entry.seconds(self.now).to_string()));
        }
        words.extend(flag("nomatch", entry.nomatch));
        words.extend(flag("wildcard", wildcard));
        if options.counters {
            words.push(("packets", entry.packets.to_string()));
            words.push(("bytes", entry.bytes.to_string()));
        }
        let comment = entry.comment.as_ref();
        words.extend(comment.map(|c| ("comment", format!("\"{c}\""))));
        if options.skbinfo {
            words.extend(place::skb_words(entry.skb));
        }
        words
    }
}

fn header(set: &Set) -> Words {
    let kind = set.kind;
    let Options {
        hash_size,
        max_members,
        timeout,
        netmask,
        bitmask,
        range,
        markmask,
        bucket_size,
        initval,
        size,
        ..
    } = set.options;
    let mut words = Words::new();
    let mut say = |word, value: String| words.push((word, value));
    if let Some(family) = set.family.filter(|_| kind.families) {
        say("family", word(family).to_owned());
    }
    match kind.storage {
        Storage::Hash => {
            if kind.has(Part::Mark) {
                say("markmask", format!("0x{markmask:08x}"));
            }
            say("hashsize", hash_size.to_string());
            say("maxelem", max_members.to_string());
        }
        Storage::Bitmap => say("range", ends(set, range)),
        Storage::List => say("size", size.to_string()),
    }
    if let Some(length) = netmask {
        say("netmask", length.to_string());
    }
    if let Some(mask) = bitmask {
        say(
            "bitmask",
            text::addr(mask, set.family.unwrap_or(Family::V4)),
        );
    }
    if let Some(seconds) = timeout {
        say("timeout", seconds.to_string());
    }
    let options = &set.options;
    for (word, on) in [
        ("counters", options.counters),
        ("comment", options.comment),
        ("skbinfo", options.skbinfo),
        ("forceadd", options.forceadd),
    ] {
        if on {
            say(word, String::new());
        }
    }
    if kind.storage == Storage::Hash {
        say("bucketsize", bucket_size.to_string());
        say("initval", format!("0x{initval:08x}"));
    }
    words
}

fn ends(set: &Set, (first, last): (u128, u128)) -> String {
    match set.kind.has(Part::BarePort) {
        true => format!("{first}-{last}"),
        false => {
            let addr = |a| text::addr(a, Family::V4);
            format!("{}-{}", addr(first), addr(last))
        }
    }
}

/// Bytes that the members take here.
fn size(set: &Set) -> usize {
    let one = match set.kind.storage {
        Storage::List => size_of::<(String, Entry)>(),
        Storage::Hash | Storage::Bitmap => size_of::<(tidegate_sets::Key, Entry)>(),
    };
    size_of::<Set>() + set.len() * one
}

fn joined(words: &Words) -> String {
    let words = words.iter().map(|(word, value)| match value.as_str() {
        "" => (*word).to_owned(),
        value => format!("{word} {value}"),
    });
    words.collect::<Vec<_>>().join(" ")
}

fn spaced(words: &Words) -> String {
    match words.is_empty() {
        true => String::new(),
        false => format!(" {}", joined(words)),
    }
}

fn tags(words: &Words) -> String {
    let tags = words.iter().map(|(word, value)| match value.as_str() {
        "" => format!("<{word}/>"),
        value => format!("<{word}>{}</{word}>", in_text(value)),
    });
    tags.collect()
}

fn in_text(value: &str) -> String {
    value
        .replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
}

fn escaped(value: &str) -> String {
    in_text(value).replace('"', "&quot;")
}
