//! `-m rpfilter`: whether the way back to the source leads out of the interface that the
//! packet came in by (kernel `rpfilter_mt`).

use tidegate_ir::{Cond, Field, Hook, ReversePath, TableKind};

use crate::{Arg, Case, Extension, Legal, Lower, Opt, Vector, bad, no, ok, packets, saved, yes};

const LOOSE: usize = 0;
const MARK: usize = 1;
const LOCAL: usize = 2;
const INVERT: usize = 3;

const OPTIONS: &[Opt] = &[
    Opt::new("loose", Arg::Flag)
        .help("    --loose          permit reverse path via any interface\n"),
    Opt::new("validmark", Arg::Flag)
        .help("    --validmark      use skb nfmark when performing route lookup\n"),
    Opt::new("accept-local", Arg::Flag)
        .help("    --accept-local   do not reject packets with a local source address\n"),
    Opt::new("invert", Arg::Flag)
        .help("    --invert         match packets that failed the reverse path test\n"),
];

/// `-m rpfilter`.
pub static RPFILTER: Extension = Extension {
    name: "rpfilter",
    lower: Lower::Match(|args, _| {
        let field = Field::ReversePath(ReversePath {
            loose: args.has(LOOSE),
            mark: args.has(MARK),
            local: args.has(LOCAL),
        });
        Cond::eq(field, 1).inverted_if(args.has(INVERT))
    }),
    options: OPTIONS,
    legal: Legal {
        hooks: &[Hook::Prerouting],
        ..Legal::tables(&[TableKind::Raw, TableKind::Mangle])
    },
    list: |x, _| {
        let words = ["loose", "validmark", "accept-local", "invert"];
        let given = x.args.iter().map(|g| format!(" {}", words[g.opt]));
        " rpfilter".to_owned() + &given.collect::<String>()
    },
    cases: CASES,
    vectors: VECTORS,
    ..Extension::MATCH
};

const RAW: (TableKind, Hook) = (TableKind::Raw, Hook::Prerouting);

const CASES: &[Case] = &[
    ok("-m rpfilter").at(RAW.0, RAW.1),
    ok("-m rpfilter --loose --validmark --accept-local --invert").at(RAW.0, RAW.1),
    saved(
        "-m rpfilter --invert --loose",
        "-m rpfilter --loose --invert",
    )
    .at(RAW.0, RAW.1)
    .v6(),
    ok("-m rpfilter --loose").at(TableKind::Mangle, Hook::Prerouting),
    bad("-m rpfilter"),
    bad("-m rpfilter").at(TableKind::Mangle, Hook::Input),
    bad("-m rpfilter").at(TableKind::Raw, Hook::Output),
    bad("-m rpfilter ! --loose").at(RAW.0, RAW.1),
];

const STRICT: Field = Field::ReversePath(ReversePath {
    loose: false,
    mark: false,
    local: false,
});

const VECTORS: &[Vector] = &[
    yes("-m rpfilter", packets::SYN).with(&[(STRICT, 1)]),
    no("-m rpfilter --invert", packets::SYN).with(&[(STRICT, 1)]),
    yes("-m rpfilter --invert", packets::SYN6).with(&[(STRICT, 0)]),
];
