//! `-m devgroup`: the groups of the packet's interfaces (kernel `devgroup_mt`).

use tidegate_ir::{Cond, Field, Hook};

use super::{named, ranges::blank_bang};
use crate::{
    Arg, Args, Case, Error, Extension, Legal, Lower, Opt, Place, Refusal, Vector, bad, names::List,
    no, ok, packets, saved, yes,
};

const SRC: usize = 0;
const DST: usize = 1;

const GROUP: Arg = Arg::Special {
    arity: 1,
    parse: |input| named::parse(input, List::DeviceGroups),
    show: |v, _| named::show(v),
};

const OPTIONS: &[Opt] = &[
    Opt::new("src-group", GROUP)
        .invertible()
        .help("[!] --src-group value[/mask]\tMatch device group of incoming device\n"),
    Opt::new("dst-group", GROUP)
        .invertible()
        .help("[!] --dst-group value[/mask]\tMatch device group of outgoing device\n"),
];

/// `-m devgroup`.
pub static DEVGROUP: Extension = Extension {
    name: "devgroup",
    lower: Lower::Match(|args, _| {
        let side = |g: &crate::Given| match g.opt {
            SRC => named::test(Field::InGroup, g),
            _ => named::test(Field::OutGroup, g),
        };
        Cond::all(args.iter().map(side).collect())
    }),
    options: OPTIONS,
    legal: Legal {
        extra: check,
        ..Legal::ANYWHERE
    },
    finish: |args, _| {
        if args.is_empty() {
            return Err(Error::parameter(
                "devgroup match: You must specify either '--src-group' or '--dst-group'",
            ));
        }
        Ok(())
    },
    list: |x, ctx| {
        let one = |g: &crate::Given| {
            let bang = blank_bang(&x.args, g.opt);
            let group = named::list(&g.value, ctx);
            format!("{bang} {} {group}", OPTIONS[g.opt].name)
        };
        x.args.iter().map(one).collect()
    },
    cases: CASES,
    vectors: VECTORS,
    ..Extension::MATCH
};

fn check(args: &Args, place: &Place<'_>) -> Result<(), Refusal> {
    let only =
        |opt, hooks: &[Hook]| !args.has(opt) || place.hooks.iter().all(|h| hooks.contains(h));
    let incoming = only(SRC, &[Hook::Prerouting, Hook::Input, Hook::Forward]);
    let outgoing = only(DST, &[Hook::Forward, Hook::Output, Hook::Postrouting]);
    if !incoming || !outgoing {
        return Err(Refusal::invalid("devgroup: no such interface there"));
    }
    Ok(())
}

const CASES: &[Case] = &[
    saved("-m devgroup --src-group 42", "-m devgroup --src-group 0x2a"),
    saved(
        "-m devgroup ! --src-group 0xff/0x0f",
        "-m devgroup ! --src-group 0xff/0xf",
    )
    .v6(),
    ok("-m devgroup --src-group 0x2a --dst-group 0x1/0x3")
        .at(tidegate_ir::TableKind::Filter, Hook::Forward),
    bad("-m devgroup --dst-group 42"),
    bad("-m devgroup --src-group nosuch"),
    bad("-m devgroup"),
];

/// By the definition of the fields.
const VECTORS: &[Vector] = &[
    yes("-m devgroup --src-group 0x2a", packets::SYN).with(&[(Field::InGroup, 0x2a)]),
    no("-m devgroup --src-group 0x2a", packets::SYN).with(&[(Field::InGroup, 0)]),
    yes("-m devgroup --src-group 0x2/0x3", packets::SYN).with(&[(Field::InGroup, 0x2a)]),
    no("-m devgroup ! --src-group 0x2a", packets::SYN6).with(&[(Field::InGroup, 0x2a)]),
];
