//! `-m owner`: who has the socket that sent the packet (kernel `owner_mt`).

use tidegate_ir::Hook;

use super::{named, ranges::blank_bang};
use crate::{
    Arg, Args, Case, Error, Extension, Input, Legal, ListCtx, Lower, Opt, Place, Refusal, Value,
    bad, names::List, ok,
};

const SOCKET: usize = 0;
const UID: usize = 1;
const GID: usize = 2;
const GROUPS: usize = 3;

const fn id(parse: fn(&Input<'_>) -> Result<Value, Error>) -> Arg {
    Arg::Special {
        arity: 1,
        parse,
        show: |v, _| match v.range() {
            Some((lo, hi)) if lo == hi => lo.to_string(),
            Some((lo, hi)) => format!("{lo}-{hi}"),
            None => String::new(),
        },
    }
}

const OPTIONS: &[Opt] = &[
    Opt::new("socket-exists", Arg::Flag)
        .invertible()
        .help("[!] --socket-exists                  Match if socket exists\n"),
    Opt::new("uid-owner", id(|input| named::owner(input, List::Users)))
        .invertible()
        .help("[!] --uid-owner userid[-userid]      Match local UID\n"),
    Opt::new("gid-owner", id(|input| named::owner(input, List::Groups)))
        .invertible()
        .help("[!] --gid-owner groupid[-groupid]    Match local GID\n"),
    Opt::new(
        "suppl-groups",
        Arg::Special {
            arity: 0,
            parse: groups,
            show: |_, _| String::new(),
        },
    )
    .help("    --suppl-groups                   Also match supplementary groups set with --gid-owner\n"),
];

fn groups(input: &Input<'_>) -> Result<Value, Error> {
    if !input.given.has(GID) {
        return Err(input.bad_value("you need to use --gid-owner first"));
    }
    Ok(Value::Flag)
}

/// `-m owner`.
pub static OWNER: Extension = Extension {
    name: "owner",
    lower: Lower::Match(|_, ctx| ctx.refuse("owner: packets do not tell whose socket sent them")),
    options: OPTIONS,
    help: crate::Help::order(&[UID, GID, SOCKET, GROUPS]),
    legal: Legal {
        hooks: &[Hook::Output, Hook::Postrouting],
        extra: check,
        ..Legal::ANYWHERE
    },
    finish: |args, _| {
        if args.is_empty() {
            return Err(Error::parameter(
                "owner: At least one of --uid-owner, --gid-owner or --socket-exists is required",
            ));
        }
        Ok(())
    },
    list: |x, ctx| {
        let mut out = String::new();
        if x.args.has(SOCKET) {
            out += &format!("{} owner socket exists", blank_bang(&x.args, SOCKET));
        }
        for (opt, word, list) in [(UID, "UID", List::Users), (GID, "GID", List::Groups)] {
            if let Some(range) = x.args.range(opt) {
                let bang = blank_bang(&x.args, opt);
                out += &format!("{bang} owner {word} match {}", listed(range, list, ctx));
            }
        }
        if x.args.has(GROUPS) {
            out += " incl. suppl. groups";
        }
        out
    },
    cases: CASES,
    ..Extension::MATCH
};

fn listed((lo, hi): (u64, u64), list: List, ctx: &ListCtx<'_>) -> String {
    if lo != hi {
        return format!("{lo}-{hi}");
    }
    let id = u32::try_from(lo).ok().filter(|_| !ctx.numeric);
    let name = id.and_then(|id| ctx.names.id_name(list, id));
    name.unwrap_or_else(|| lo.to_string())
}

fn check(args: &Args, _: &Place<'_>) -> Result<(), Refusal> {
    let wrong = |opt| args.range(opt).is_some_and(|(lo, hi)| lo > hi);
    if wrong(UID) || wrong(GID) {
        return Err(Refusal::invalid(
            "owner: a range that ends before it begins",
        ));
    }
    Ok(())
}

const AT: (tidegate_ir::TableKind, Hook) = (tidegate_ir::TableKind::Mangle, Hook::Output);

const CASES: &[Case] = &[
    ok("-m owner --uid-owner 0").at(AT.0, AT.1),
    ok("-m owner --uid-owner 0-10").at(AT.0, AT.1),
    ok("-m owner --uid-owner 4294967294").at(AT.0, AT.1),
    ok("-m owner ! --gid-owner 0-10 --suppl-groups").at(AT.0, AT.1),
    ok("-m owner ! --socket-exists ! --uid-owner 0 ! --gid-owner 1")
        .at(AT.0, AT.1)
        .v6(),
    bad("-m owner --uid-owner 10-0").at(AT.0, AT.1),
    bad("-m owner --uid-owner 0-foo").at(AT.0, AT.1),
    bad("-m owner --uid-owner 1x").at(AT.0, AT.1),
    bad("-m owner --uid-owner 4294967295").at(AT.0, AT.1),
    bad("-m owner --suppl-groups").at(AT.0, AT.1),
    bad("-m owner --suppl-groups --gid-owner 0-10").at(AT.0, AT.1),
    bad("-m owner --gid-owner 0-10 ! --suppl-groups").at(AT.0, AT.1),
    bad("-m owner").at(AT.0, AT.1),
    bad("-m owner --uid-owner 0"),
];
