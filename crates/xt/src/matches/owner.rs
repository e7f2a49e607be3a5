//! `-m owner`: who has the socket that sent the packet (kernel `owner_mt`).

use tidegate_ir::{Cond, Field, Hook, socket};

use super::{named, pure::pure, ranges::blank_bang};
use crate::{
    Arg, Args, Case, Error, Extension, Given, Input, Legal, ListCtx, Lower, LowerCtx, Opt, Place,
    Refusal, Sockets, Value, Vector, bad, names::List, no, ok, packets, yes,
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
    lower: Lower::Match(lower),
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
    vectors: VECTORS,
    ..Extension::MATCH
};

/// A packet without a socket matches when all that is asked for is inverted, one of the
/// kernel's when it is not asked whose it is.
fn lower(args: &Args, ctx: &mut LowerCtx<'_>) -> Cond {
    ctx.ask_sockets(
        Sockets::Users,
        "owner: whose socket sent a packet is not known here",
    );
    if args.has(GID) {
        ctx.ask_sockets(
            Sockets::Groups,
            "owner: the group of the program that sent a packet is not known here",
        );
    }

    let asked = |opt, plain: bool| args.has(opt) && args.inverted(opt) != plain;
    let (uid, gid) = (asked(UID, true), asked(GID, true));
    let nobody = !(asked(SOCKET, true) || uid || gid || args.has(GROUPS));
    let any = !asked(SOCKET, false);
    let mut program = vec![Cond::eq(Field::Socket, socket::PROGRAM), Cond::Const(any)];
    program.extend(
        args.get(UID)
            .map(|g| is_id(Field::SocketUid, g).inverted_if(g.invert)),
    );
    program.extend(args.get(GID).map(|g| {
        let own = is_id(Field::SocketGid, g);
        let all = match args.has(GROUPS) {
            true => Cond::any(vec![own, in_groups(g, ctx)]),
            false => own,
        };
        all.inverted_if(g.invert)
    }));
    Cond::any(vec![
        Cond::all(vec![
            Cond::eq(Field::Socket, socket::NONE),
            Cond::Const(nobody),
        ]),
        Cond::all(vec![
            Cond::eq(Field::Socket, socket::KERNEL),
            Cond::Const(any && !uid && !gid),
        ]),
        Cond::all(program),
    ])
}

fn is_id(field: Field, given: &Given) -> Cond {
    let (lo, hi) = given.value.range().unwrap_or((1, 0));
    Cond::range(field, lo.into(), hi.into())
}

fn in_groups(given: &Given, ctx: &mut LowerCtx<'_>) -> Cond {
    let (lo, hi) = given.value.range().unwrap_or((1, 0));
    pure(ctx, "supplementary groups of the sender", move |input| {
        let owner = input.facts.sender().and_then(|s| s.owner.as_ref());
        let groups = owner.map_or(&[][..], |o| &o.groups);
        groups.iter().any(|&g| (lo..=hi).contains(&g.into()))
    })
}

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

const OF_7: &[(Field, u128)] = &[
    (Field::Socket, socket::PROGRAM),
    (Field::SocketUid, 7),
    (Field::SocketGid, 70),
];
const OF_KERNEL: &[(Field, u128)] = &[(Field::Socket, socket::KERNEL)];

/// By the kernel's order of tests (`owner_mt`).
const VECTORS: &[Vector] = &[
    yes("-m owner --uid-owner 7", packets::SYN).with(OF_7),
    yes("-m owner --uid-owner 5-9 ! --gid-owner 7", packets::SYN6).with(OF_7),
    no("-m owner --uid-owner 8", packets::SYN).with(OF_7),
    no("-m owner ! --gid-owner 70", packets::SYN).with(OF_7),
    yes("-m owner --socket-exists", packets::SYN).with(OF_7),
    no("-m owner ! --socket-exists", packets::SYN).with(OF_7),
    yes("-m owner ! --socket-exists ! --uid-owner 7", packets::SYN),
    no("-m owner ! --socket-exists --uid-owner 7", packets::SYN),
    no("-m owner --uid-owner 7", packets::SYN),
    yes("-m owner --socket-exists", packets::SYN).with(OF_KERNEL),
    yes("-m owner ! --uid-owner 0", packets::SYN).with(OF_KERNEL),
    no("-m owner --uid-owner 0-4294967294", packets::SYN).with(OF_KERNEL),
    no("-m owner ! --socket-exists", packets::SYN).with(OF_KERNEL),
];
