//! `-m cgroup`: the control group of the socket that sent the packet or waits for it
//! (kernel `cgroup_mt`).

use tidegate_ir::Hook;

use super::ranges::blank_bang;
use crate::{Arg, Args, Case, Extension, Legal, Lower, Opt, Place, Refusal, bad, ok};

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
    lower: Lower::Match(|_, ctx| ctx.refuse("cgroup: packets do not tell whose socket sent them")),
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
    ..Extension::MATCH
};

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
