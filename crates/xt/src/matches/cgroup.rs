//! `-m cgroup`: the control group of the socket that sent the packet or waits for it
//! (kernel `cgroup_mt`).

use tidegate_ir::{Cond, Field, Hook};

use super::{pure::pure, ranges::blank_bang};
use crate::{
    Arg, Args, Case, Extension, Legal, Lower, LowerCtx, Opt, Place, Refusal, Sockets, Vector, bad,
    no, ok, packets, yes,
};

const PATH: usize = 0;
const CLASS: usize = 1;

const OPTIONS: &[Opt] = &[
    Opt::new(
        "path",
        Arg::Special {
            arity: 1,
            parse: |input| Arg::Text { min: 0, max: 511 }.parse(input),
            show: |v, _| crate::text::in_quotes(v.text().unwrap_or("")),
        },
    )
    .invertible()
    .help("[!] --path path                 Recursively match path relative to cgroup2 root\n"),
    Opt::new(
        "cgroup",
        Arg::Int {
            min: 0,
            max: u32::MAX as u64,
            hex: 0,
        },
    )
    .invertible()
    .help("[!] --cgroup classid            Match cgroup classid, can't be used with --path\n"),
];

/// `-m cgroup`.
pub static CGROUP: Extension = Extension {
    name: "cgroup",
    lower: Lower::Match(lower),
    options: OPTIONS,
    legal: Legal {
        hooks: &[Hook::Input, Hook::Output, Hook::Postrouting],
        extra: check,
        ..Legal::ANYWHERE
    },
    list: |x, _| {
        let one = |g: &crate::Given| {
            let value = match g.value.text() {
                Some(path) => path.to_owned(),
                None => g.value.number().unwrap_or(0).to_string(),
            };
            format!(" cgroup{} {value}", blank_bang(&x.args, g.opt))
        };
        x.args.iter().map(one).collect()
    },
    cases: CASES,
    vectors: VECTORS,
    ..Extension::MATCH
};

/// A packet without a socket never matches.
fn lower(args: &Args, ctx: &mut LowerCtx<'_>) -> Cond {
    ctx.ask_sockets(
        Sockets::Users,
        "cgroup: whose socket a packet belongs to is not known here",
    );
    if let Some(class) = args.number(CLASS) {
        ctx.ask_sockets(
            Sockets::Groups,
            "cgroup: the class of the socket that a packet belongs to is not known here",
        );
        let is = Cond::eq(Field::SocketClass, class.into());
        let there = Cond::range(Field::SocketClass, 0, u32::MAX.into());
        return Cond::all(vec![there, is.inverted_if(args.inverted(CLASS))]);
    }
    let (path, invert) = (
        args.text(PATH).unwrap_or("").to_owned(),
        args.inverted(PATH),
    );
    pure(
        ctx,
        format!("the packet's socket in {path}"),
        move |input| {
            let socket = input.facts.sender();
            socket.is_some_and(|s| s.is_below(&path) != invert)
        },
    )
}

fn check(args: &Args, _: &Place<'_>) -> Result<(), Refusal> {
    if args.has(PATH) == args.has(CLASS) {
        return Err(Refusal::invalid("cgroup: either a path or a class"));
    }
    Ok(())
}

const CASES: &[Case] = &[
    ok("-m cgroup --cgroup 1"),
    ok("-m cgroup ! --cgroup 1").v6(),
    ok("-m cgroup --path \"/\""),
    ok("-m cgroup ! --path \"/\""),
    bad("-m cgroup --cgroup 1 --path \"/\""),
    bad("-m cgroup"),
    bad("-m cgroup --cgroup 1").at(tidegate_ir::TableKind::Filter, Hook::Forward),
];

/// By the kernel's order of tests (`cgroup_mt_v0`).
const VECTORS: &[Vector] = &[
    yes("-m cgroup --cgroup 7", packets::SYN).with(&[(Field::SocketClass, 7)]),
    no("-m cgroup ! --cgroup 7", packets::SYN).with(&[(Field::SocketClass, 7)]),
    yes("-m cgroup ! --cgroup 7", packets::SYN6).with(&[(Field::SocketClass, 0)]),
    no("-m cgroup ! --cgroup 7", packets::SYN),
];
