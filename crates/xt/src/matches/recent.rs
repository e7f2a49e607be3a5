//! `-m recent`: lists of addresses and when they were seen (kernel `recent_mt`). Lists are
//! shared by all rules that name them, in both families, and outlive changes of the rules.

use tidegate_ir::{Cond, Field, Shared, Step, StepInput, TableKey, Truth};
use tidegate_wire::Family;

use super::{
    limit::TICK,
    ranges::blank_bang,
    recent_list::{Ask, Entry, List},
};
use crate::{
    Arg, Args, Case, Context, Error, Extension, Input, Instance, ListCtx, Lower, LowerCtx, Opt,
    Place, Refusal, Value, bad, ok, saved, text,
};

const SET: usize = 0;
const CHECK: usize = 1;
const UPDATE: usize = 2;
const REMOVE: usize = 3;
const SECONDS: usize = 4;
const REAP: usize = 5;
const HITS: usize = 6;
const TTL: usize = 7;
const NAME: usize = 8;
const MASK: usize = 9;
const SOURCE: usize = 10;
const DEST: usize = 11;

/// Kind of the shared tables.
pub const KIND: &str = "recent";

const TAIL: &str = "xt_recent by: Stephen Frost <sfrost@snowman.net>.\n";

const OPTIONS: &[Opt] = &[
    Opt::new("set", Arg::Flag)
        .invertible()
        .excludes(&[CHECK, UPDATE, REMOVE])
        .help("[!] --set                       Add source address to list, always matches.\n"),
    Opt::new("rcheck", Arg::Flag)
        .invertible()
        .excludes(&[UPDATE, REMOVE])
        .help("[!] --rcheck                    Match if source address in list.\n"),
    Opt::new("update", Arg::Flag)
        .invertible()
        .excludes(&[REMOVE])
        .help("[!] --update                    Match if source address in list, also update last-seen time.\n"),
    Opt::new("remove", Arg::Flag)
        .invertible()
        .help("[!] --remove                    Match if source address in list, also removes that address from list.\n"),
    Opt::new("seconds", Arg::Int { min: 1, max: u32::MAX as u64, hex: 0 })
        .help("    --seconds seconds           For check and update commands above.\n                                Specifies that the match will only occur if source address last seen within\n                                the last 'seconds' seconds.\n"),
    Opt::new("reap", Arg::Flag)
        .needs(&[SECONDS])
        .help("    --reap                      Purge entries older then 'seconds'.\n                                Can only be used in conjunction with the seconds option.\n"),
    Opt::new("hitcount", Arg::Int { min: 0, max: u32::MAX as u64, hex: 0 })
        .help("    --hitcount hits             For check and update commands above.\n                                Specifies that the match will only occur if source address seen hits times.\n                                May be used in conjunction with the seconds option.\n"),
    Opt::new("rttl", Arg::Flag)
        .excludes(&[SET, REMOVE])
        .help("    --rttl                      For check and update commands above.\n                                Specifies that the match will only occur if the source address and the TTL\n                                match between this packet and the one which was set.\n                                Useful if you have problems with people spoofing their source address in order\n                                to DoS you via this module.\n"),
    Opt::new(
        "name",
        Arg::Special {
            arity: 1,
            parse: |input| Arg::Text { min: 0, max: 199 }.parse(input),
            show: |v, _| text::bare(v.text().unwrap_or("")),
        },
    )
    .help("    --name name                 Name of the recent list to be used.  DEFAULT used if none given.\n"),
    Opt::new(
        "mask",
        Arg::Special {
            arity: 1,
            parse: parse_mask,
            show: |v, family| text::addr(v.addrs().map_or(0, |a| a.0), family),
        },
    ),
    Opt::new("rsource", Arg::Flag)
        .replaces(&[DEST])
        .help("    --rsource                   Match/Save the source address of each packet in the recent list table (default).\n"),
    Opt::new("rdest", Arg::Flag)
        .replaces(&[SOURCE])
        .help("    --rdest                     Match/Save the destination address of each packet in the recent list table.\n    --mask netmask              Netmask that will be applied to this recent list.\n"),
];

/// A mask is an address; a number alone is one too (`inet_aton`).
fn parse_mask(input: &Input<'_>) -> Result<Value, Error> {
    let family = input.ctx.family;
    let word = input.text();
    let number = || match family {
        Family::V4 => crate::number::whole(word, 0, u32::MAX.into()).map(u128::from),
        Family::V6 => None,
    };
    let mask = text::parse_addr(word, family).or_else(number);
    let mask = mask.ok_or_else(|| Error::parameter("getaddrinfo: Name or service not known\n"))?;
    Ok(Value::Net { addr: mask, mask })
}

/// `-m recent`.
pub static RECENT: Extension = Extension {
    name: "recent",
    lower: Lower::Match(lower),
    options: OPTIONS,
    help: crate::Help::tail(TAIL),
    legal: crate::Legal {
        extra: check,
        ..crate::Legal::ANYWHERE
    },
    finish,
    list,
    cases: CASES,
    ..Extension::MATCH
};

fn finish(args: &mut Args, ctx: &Context<'_>) -> Result<(), Error> {
    if [SET, CHECK, UPDATE, REMOVE]
        .iter()
        .all(|&opt| !args.has(opt))
    {
        return Err(Error::parameter(
            "recent: you must specify one of `--set', `--rcheck' `--update' or `--remove'",
        ));
    }
    if args.number(HITS) == Some(0) {
        args.remove(HITS);
    }
    if !args.has(NAME) {
        args.set(NAME, false, Value::Text("DEFAULT".to_owned()));
    }
    if !args.has(MASK) {
        let mask = text::full_mask(ctx.family);
        args.set(MASK, false, Value::Net { addr: mask, mask });
    }
    if !args.has(DEST) {
        args.set(SOURCE, false, Value::Flag);
    }
    Ok(())
}

/// Whether a name can be that of a file (`xt_check_proc_name`).
pub(super) fn is_file_name(name: &str) -> bool {
    !name.is_empty() && name != "." && name != ".." && !name.contains('/')
}

fn check(args: &Args, _: &Place<'_>) -> Result<(), Refusal> {
    let plain = args.has(SET) || args.has(REMOVE);
    if plain && (args.has(SECONDS) || args.has(HITS) || args.has(TTL) || args.has(REAP)) {
        return Err(Refusal::invalid(
            "recent: --set and --remove look at no times",
        ));
    }
    if args.number(HITS).is_some_and(|n| n >= 1 << 16) {
        return Err(Refusal::invalid("recent: more hits than are ever kept"));
    }
    if !is_file_name(args.text(NAME).unwrap_or("")) {
        return Err(Refusal::invalid("recent: no possible name of a list"));
    }
    Ok(())
}

fn list(x: &Instance, ctx: &ListCtx<'_>) -> String {
    let args = &x.args;
    let mut out = String::new();
    for (opt, word) in [
        (SET, "SET"),
        (CHECK, "CHECK"),
        (UPDATE, "UPDATE"),
        (REMOVE, "REMOVE"),
    ] {
        if args.has(opt) {
            out += &format!("{} recent: {word}", blank_bang(args, opt));
        }
    }
    if let Some(n) = args.number(SECONDS) {
        out += &format!(" seconds: {n}");
    }
    if args.has(REAP) {
        out += " reap";
    }
    if let Some(n) = args.number(HITS) {
        out += &format!(" hit_count: {n}");
    }
    if args.has(TTL) {
        out += " TTL-Match";
    }
    let side = if args.has(DEST) { "dest" } else { "source" };
    let mask = text::addr(args.addrs(MASK).map_or(0, |a| a.0), ctx.family);
    let name = args.text(NAME).unwrap_or("");
    out + &format!(" name: {name} side: {side} mask: {mask}")
}

/// The shared table of that name.
#[must_use]
pub fn table(name: &str) -> TableKey {
    TableKey {
        kind: KIND,
        name: name.to_owned(),
    }
}

fn lower(args: &Args, ctx: &mut LowerCtx<'_>) -> Cond {
    let of = [SET, CHECK, UPDATE, REMOVE]
        .into_iter()
        .find(|&o| args.has(o));
    let hits = args.number(HITS).unwrap_or(0) as u32;
    let step = ctx.step(Recent {
        key: table(args.text(NAME).unwrap_or("")),
        family: ctx.family,
        side: if args.has(DEST) {
            Field::Dst
        } else {
            Field::Src
        },
        mask: args.addrs(MASK).map_or(0, |a| a.0),
        ask: match of {
            Some(SET) => Ask::Set,
            Some(REMOVE) => Ask::Remove,
            Some(UPDATE) => Ask::Update,
            _ => Ask::Check,
        },
        invert: of.is_some_and(|o| args.inverted(o)),
        seconds: args.number(SECONDS).unwrap_or(0),
        hits,
        ttl: args.has(TTL),
        reap: args.has(REAP),
        seen: None,
    });
    Cond::all(vec![step])
}

/// One rule's use of a list.
#[derive(Clone, Debug)]
struct Recent {
    key: TableKey,
    family: Family,
    side: Field,
    mask: u128,
    ask: Ask,
    invert: bool,
    seconds: u64,
    hits: u32,
    ttl: bool,
    reap: bool,
    /// The last address that was looked for, and how often it had been there of late.
    seen: Option<(u128, u32)>,
}

impl Recent {
    fn matches(&mut self, list: &mut List, who: (u128, u8), now: u64) -> bool {
        let (addr, ttl) = who;
        let masked = addr & list.mask(self.family);
        self.seen = Some((masked, 0));
        let wanted_ttl = if self.ttl { ttl } else { 0 };
        let Some(at) = list.find(self.family, masked, wanted_ttl) else {
            if self.ask == Ask::Set {
                list.add(Entry::new(self.family, masked, ttl, now));
            }
            return (self.ask == Ask::Set) != self.invert;
        };
        let hit = match self.ask {
            Ask::Set => true,
            Ask::Remove => {
                list.remove(at);
                return !self.invert;
            }
            Ask::Check | Ask::Update => {
                let wanted = self.hits.max(1);
                let hits = list.hits(at, self.oldest(now), wanted);
                self.seen = Some((masked, hits));
                hits == wanted
            }
        };
        let matched = hit != self.invert;
        let updates = self.ask == Ask::Update && matched;
        let mut at = at;
        if self.reap && matches!(self.ask, Ask::Check | Ask::Update) {
            let Some(left) = list.reap(at, self.oldest(now).unwrap_or(0), updates) else {
                return matched;
            };
            at = left;
        }
        if self.ask == Ask::Set || updates {
            list.touch(at, ttl, now);
        }
        matched
    }

    /// The tick from which on a time is recent; `None` when all are.
    fn oldest(&self, now: u64) -> Option<u64> {
        let ticks = self.seconds * super::limit::HZ as u64;
        (self.seconds != 0).then(|| now.saturating_sub(ticks))
    }
}

impl Step for Recent {
    fn call(&mut self, input: &mut StepInput<'_>) -> Truth {
        let addr = input.facts.load(self.side).unwrap_or(0);
        let ttl = input.facts.load(Field::Ttl).unwrap_or(0) as u8;
        // As it was before the packet was forwarded.
        let leaving = input.facts.load(Field::OutName).is_some_and(|n| n != 0);
        let forwarded = leaving && !input.facts.is_own();
        let ttl = ttl.wrapping_add(forwarded.into());
        let now = input.now / TICK;
        self.load(input.shared);
        let Some(list) = input.shared.get_mut::<List>(&self.key) else {
            return Truth::Hotdrop;
        };
        self.matches(list, (addr, ttl), now).into()
    }

    fn describe(&self, _: u64) -> String {
        let name = &self.key.name;
        let (Ask::Check | Ask::Update, Some((addr, hits))) = (self.ask, self.seen) else {
            return format!("list {name}");
        };
        let wanted = self.hits.max(1);
        let least = if hits == wanted { "at least " } else { "" };
        let time = match self.seconds {
            0 => String::new(),
            seconds => format!(" in {seconds} s"),
        };
        let addr = text::addr(addr, self.family);
        format!("{addr} has {least}{hits} hits{time} in list {name}, wanted {wanted}")
    }

    fn fresh(&self) -> Box<dyn Step> {
        Box::new(Recent {
            seen: None,
            ..self.clone()
        })
    }

    fn load(&self, shared: &mut Shared) {
        let list = shared.table(&self.key, || List::new(self.family, self.mask));
        if let Some(list) = list {
            list.keep(self.hits);
        }
    }

    fn table(&self) -> Option<TableKey> {
        Some(self.key.clone())
    }
}

const CASES: &[Case] = &[
    saved(
        "-m recent --set",
        "-m recent --set --name DEFAULT --mask 255.255.255.255 --rsource",
    ),
    ok("-m recent --rcheck --name DEFAULT --mask 255.255.255.255 --rsource"),
    ok("-m recent --update --seconds 60 --hitcount 4 --name ssh --mask 255.255.255.255 --rsource"),
    ok(
        "-m recent --update --seconds 60 --hitcount 4 --rttl --name ssh2 --mask 255.255.255.255 --rdest",
    ),
    ok("-m recent --remove --name x --mask 255.255.255.0 --rsource"),
    ok("-m recent ! --rcheck --seconds 5 --reap --name y --mask 255.255.255.255 --rsource"),
    ok("-m recent ! --set --name DEFAULT --mask 255.255.255.255 --rsource"),
    saved(
        "-m recent --rcheck --hitcount 0 --name h2",
        "-m recent --rcheck --name h2 --mask 255.255.255.255 --rsource",
    ),
    saved(
        "-m recent --set --rsource --rdest",
        "-m recent --set --name DEFAULT --mask 255.255.255.255 --rdest",
    ),
    saved(
        "-m recent --set --mask 24",
        "-m recent --set --name DEFAULT --mask 0.0.0.24 --rsource",
    ),
    saved(
        "-m recent --set --mask ffff::",
        "-m recent --set --name DEFAULT --mask ffff:: --rsource",
    )
    .v6(),
    bad("-m recent --rcheck --reap"),
    bad("-m recent --set --seconds 5"),
    bad("-m recent --set --hitcount 5"),
    bad("-m recent --set --rttl"),
    bad("-m recent --remove --seconds 5"),
    bad("-m recent --rcheck --hitcount 65536"),
    bad("-m recent --rcheck --seconds 0"),
    bad("-m recent --set --update"),
    bad("-m recent"),
    bad("-m recent --name foo"),
    bad("-m recent --set --name a/b"),
    bad("-m recent --set --mask foo"),
];
