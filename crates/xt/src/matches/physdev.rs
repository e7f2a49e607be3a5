//! `-m physdev`: ports of a bridge whose frames netfilter sees (kernel `physdev_mt`).
//! Packets here never come over such a bridge, and then the kernel matches exactly when
//! every test is inverted.

use tidegate_ir::{Cond, Hook};

use super::ranges::blank_bang;
use crate::{
    Arg, Args, Case, Error, Extension, Input, Instance, Legal, Lower, Opt, Place, Refusal, Value,
    Vector, bad, no, ok, packets, saved, yes,
};

const IN: usize = 0;
const OUT: usize = 1;
const IS_IN: usize = 2;
const IS_OUT: usize = 3;
const BRIDGED: usize = 4;

const PORT: Arg = Arg::Special {
    arity: 1,
    parse,
    show: |v, _| crate::text::bare(v.text().unwrap_or("")),
};

const OPTIONS: &[Opt] = &[
    Opt::new("physdev-in", PORT)
        .invertible()
        .help(" [!] --physdev-in inputname[+]\t\tbridge port name ([+] for wildcard)\n"),
    Opt::new("physdev-out", PORT)
        .invertible()
        .help(" [!] --physdev-out outputname[+]\tbridge port name ([+] for wildcard)\n"),
    Opt::new("physdev-is-in", Arg::Flag)
        .invertible()
        .help(" [!] --physdev-is-in\t\t\tarrived on a bridge device\n"),
    Opt::new("physdev-is-out", Arg::Flag)
        .invertible()
        .help(" [!] --physdev-is-out\t\t\twill leave on a bridge device\n"),
    Opt::new("physdev-is-bridged", Arg::Flag)
        .invertible()
        .help(" [!] --physdev-is-bridged\t\tit's a bridged packet\n"),
];

/// The order in which the tool prints.
const ORDER: [usize; 5] = [IS_IN, IN, IS_OUT, OUT, BRIDGED];

fn parse(input: &Input<'_>) -> Result<Value, Error> {
    let name = input.text();
    if name.len() >= 16 {
        return Err(Error::parameter(format!(
            "interface name `{name}' must be shorter than 16 characters"
        )));
    }
    Ok(Value::Text(name.to_owned()))
}

/// `-m physdev`.
pub static PHYSDEV: Extension = Extension {
    name: "physdev",
    lower: Lower::Match(|args, _| Cond::Const(args.iter().all(|g| g.invert))),
    options: OPTIONS,
    legal: Legal {
        extra: check,
        ..Legal::ANYWHERE
    },
    finish: |args, _| {
        if args.is_empty() {
            return Err(Error::parameter("PHYSDEV: no physdev option specified"));
        }
        Ok(())
    },
    save: |x, _| words(x),
    list: |x, _| format!(" PHYSDEV match{}", words(x)),
    cases: CASES,
    vectors: VECTORS,
    ..Extension::MATCH
};

fn words(x: &Instance) -> String {
    let one = |opt| {
        let given = x.args.get(opt)?;
        let bang = blank_bang(&x.args, opt);
        let name = OPTIONS[opt].name;
        Some(match given.value.text() {
            Some(port) => format!("{bang} --{name} {}", crate::text::bare(port)),
            None => format!("{bang} --{name}"),
        })
    };
    ORDER.into_iter().filter_map(one).collect()
}

fn check(args: &Args, place: &Place<'_>) -> Result<(), Refusal> {
    let bridged = args.has(BRIDGED) && !args.inverted(BRIDGED);
    let leaving = args.has(OUT) || args.has(IS_OUT);
    if leaving && !bridged && place.hooks.contains(&Hook::Output) {
        return Err(Refusal::invalid(
            "physdev: no output port is known in OUTPUT",
        ));
    }
    Ok(())
}

const CASES: &[Case] = &[
    ok("-m physdev --physdev-in lo"),
    saved(
        "-m physdev --physdev-in lo --physdev-is-in",
        "-m physdev --physdev-is-in --physdev-in lo",
    )
    .at(tidegate_ir::TableKind::Filter, Hook::Forward),
    ok("-m physdev ! --physdev-in eth+ --physdev-out lo --physdev-is-bridged").v6(),
    ok("-m physdev --physdev-is-in --physdev-is-out ! --physdev-is-bridged"),
    ok("-m physdev ! --physdev-is-in"),
    bad("-m physdev"),
    bad("-m physdev --physdev-in aaaaaaaaaaaaaaaaaaaaaaa"),
    bad("-m physdev --physdev-in lo --physdev-in lo"),
    bad("-m physdev --physdev-out lo").at(tidegate_ir::TableKind::Filter, Hook::Output),
];

const VECTORS: &[Vector] = &[
    no("-m physdev --physdev-in lo", packets::SYN),
    yes(
        "-m physdev ! --physdev-in lo ! --physdev-is-bridged",
        packets::SYN,
    ),
    no("-m physdev ! --physdev-in lo --physdev-is-in", packets::SYN),
];
