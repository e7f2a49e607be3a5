//! `-m dscp`: the upper six bits of the type-of-service byte or traffic class (kernel
//! `dscp_mt`, `dscp_mt6`). A class name is kept as its number.

use tidegate_ir::{Cond, Field};

use crate::{
    Case, Extension, Families, Help, Legal, Lower, Opt, Vector, bad, dscp, no, ok, packets, saved,
    yes,
};

const DSCP_OPT: usize = 0;
const CLASS: usize = 1;

const OPTIONS: &[Opt] = &[
    Opt::new("dscp", dscp::NUMBER)
        .invertible()
        .excludes(&[CLASS])
        .help("[!] --dscp value\t\tMatch DSCP codepoint with numerical value\n  \t\t                This value can be in decimal (ex: 32)\n               \t\tor in hex (ex: 0x20)\n"),
    Opt::new("dscp-class", dscp::CLASS)
        .invertible()
        .excludes(&[DSCP_OPT])
        .help("[!] --dscp-class name\t\tMatch the DiffServ class. This value may\n\t\t\t\tbe any of the BE,EF, AFxx or CSx classes\n\n\t\t\t\tThese two options are mutually exclusive !\n"),
];

/// `-m dscp`.
pub static DSCP: Extension = Extension {
    name: "dscp",
    lower: Lower::Match(|args, _| {
        let value = u128::from(args.number(DSCP_OPT).unwrap_or(0));
        Cond::bits(Field::Tos, 0xfc, value << 2).inverted_if(args.inverted(DSCP_OPT))
    }),
    families: Families::Both,
    options: OPTIONS,
    help: Help::TABLE.titled("dscp match options"),
    legal: Legal::ANYWHERE,
    finish: |args, _| {
        dscp::finish(
            args,
            DSCP_OPT,
            CLASS,
            "DSCP match: Parameter --dscp is required",
        )
    },
    save: crate::save_all,
    list: |x, _| {
        let bang = if x.args.inverted(DSCP_OPT) { "!" } else { "" };
        format!(
            " DSCP match {bang}0x{:02x}",
            x.args.number(DSCP_OPT).unwrap_or(0)
        )
    },
    cases: CASES,
    vectors: VECTORS,
};

const CASES: &[Case] = &[
    saved("-m dscp --dscp 10", "-m dscp --dscp 0x0a"),
    ok("-m dscp ! --dscp 0x2e"),
    saved("-m dscp --dscp-class be", "-m dscp --dscp 0x00"),
    saved("-m dscp ! --dscp-class AF13", "-m dscp ! --dscp 0x0e"),
    saved("-m dscp --dscp-class ef", "-m dscp --dscp 0x2e").v6(),
    bad("-m dscp"),
    bad("-m dscp --dscp 64"),
    bad("-m dscp --dscp-class FOO"),
    bad("-m dscp --dscp 1 --dscp-class EF"),
];

const VECTORS: &[Vector] = &[
    yes("-m dscp --dscp-class EF", packets::TOS_B9),
    no("-m dscp ! --dscp 0x2e", packets::TOS_B9),
    yes("-m dscp --dscp 0", packets::SYN),
    yes(
        "-m dscp --dscp 0x2e",
        "6b9000000014064020010db800000000000000000000000120010db80000000000000000000000020401005000000001000000005002200000000000",
    ),
];
