//! `-j DSCP`: sets the upper six bits of the type-of-service byte or traffic class,
//! the two congestion bits stay (kernel `dscp_tg`, `dscp_tg6`).

use tidegate_ir::{Effect, Expr, Field, Hook, TableKind, Verdict};

use crate::{Case, Extension, Families, Help, Legal, Lower, Opt, Outcome, bad, dscp, saved};

const SET: usize = 0;
const CLASS: usize = 1;

const OPTIONS: &[Opt] = &[
    Opt::new("set-dscp", dscp::NUMBER)
        .excludes(&[CLASS])
        .help("  --set-dscp value\t\tSet DSCP field in packet header to value\n  \t\t                This value can be in decimal (ex: 32)\n               \t\tor in hex (ex: 0x20)\n"),
    Opt::new("set-dscp-class", dscp::CLASS)
        .excludes(&[SET])
        .help("  --set-dscp-class class\tSet the DSCP field in packet header to the\n\t\t\t\tvalue represented by the DiffServ class value.\n\t\t\t\tThis class may be EF,BE or any of the CSxx\n\t\t\t\tor AFxx classes.\n\n\t\t\t\tThese two options are mutually exclusive !\n"),
];

/// `-j DSCP`.
pub static DSCP: Extension = Extension {
    name: "DSCP",
    lower: Lower::Target(|args, _| {
        let expr = Expr::Masked {
            keep: 0x03,
            xor: u128::from(args.number(SET).unwrap_or(0)) << 2,
        };
        Outcome::effect(Effect::Assign(Field::Tos, expr), Verdict::Continue)
    }),
    families: Families::Both,
    options: OPTIONS,
    help: Help::TABLE.titled("DSCP target options"),
    legal: Legal::tables(&[TableKind::Mangle]),
    finish: |args, _| {
        dscp::finish(
            args,
            SET,
            CLASS,
            "DSCP target: Parameter --set-dscp is required",
        )
    },
    save: crate::save_all,
    list: |x, _| format!(" DSCP set 0x{:02x}", x.args.number(SET).unwrap_or(0)),
    cases: CASES,
    vectors: &[],
};

const fn mangle(case: Case) -> Case {
    case.at(TableKind::Mangle, Hook::Prerouting)
}

const CASES: &[Case] = &[
    mangle(saved("-j DSCP --set-dscp 10", "-j DSCP --set-dscp 0x0a")),
    mangle(saved("-j DSCP --set-dscp-class AF21", "-j DSCP --set-dscp 0x12").v6()),
    mangle(bad("-j DSCP")),
    mangle(bad("-j DSCP --set-dscp 64")),
    mangle(bad("-j DSCP --set-dscp-class foo")),
    mangle(bad("-j DSCP --set-dscp 3 --set-dscp-class EF")),
    bad("-j DSCP --set-dscp 10"),
];
