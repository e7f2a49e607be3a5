//! `-j MARK`: changes the packet's mark (kernel `mark_tg`): bits of the mask are
//! cleared, then the value is flipped in. All forms are kept as `--set-xmark`.

use tidegate_ir::{Effect, Expr, Field, Hook, TableKind, Verdict};

use super::mark_forms::{self, Forms};
use crate::{
    Arg, Args, Case, Context, Error, Extension, Families, Help, Legal, Lower, Opt, Outcome, bad,
    ok, saved,
};

const SET_XMARK: usize = 0;
const SET_MARK: usize = 1;
const AND: usize = 2;
const OR: usize = 3;
const XOR: usize = 4;

const FORMS: Forms = Forms {
    xset: SET_XMARK,
    set: SET_MARK,
    and: AND,
    or: OR,
    xor: XOR,
};

const BITS: Arg = mark_forms::BITS;

const OPTIONS: &[Opt] = &[
    Opt::new("set-xmark", Arg::Mark)
        .excludes(&[SET_MARK, AND, OR, XOR])
        .help("  --set-xmark value[/mask]  Clear bits in mask and XOR value into nfmark\n"),
    Opt::new("set-mark", Arg::Mark)
        .excludes(&[SET_XMARK, AND, OR, XOR])
        .help("  --set-mark value[/mask]   Clear bits in mask and OR value into nfmark\n"),
    Opt::new("and-mark", BITS)
        .excludes(&[SET_XMARK, SET_MARK, OR, XOR])
        .help("  --and-mark bits           Binary AND the nfmark with bits\n"),
    Opt::new("or-mark", BITS)
        .excludes(&[SET_XMARK, SET_MARK, AND, XOR])
        .help("  --or-mark bits            Binary OR the nfmark with bits\n"),
    Opt::new("xor-mark", BITS)
        .excludes(&[SET_XMARK, SET_MARK, AND, OR])
        .help("  --xor-mark bits           Binary XOR the nfmark with bits\n"),
];

/// `-j MARK`.
pub static MARK: Extension = Extension {
    name: "MARK",
    lower: Lower::Target(|args, _| {
        let (value, mask) = args.masked(SET_XMARK).unwrap_or_default();
        let expr = Expr::Masked {
            keep: u128::from(!mask),
            xor: u128::from(value),
        };
        Outcome::effect(Effect::Assign(Field::Mark, expr), Verdict::Continue)
    }),
    families: Families::Both,
    options: OPTIONS,
    help: Help::TABLE,
    legal: Legal::ANYWHERE,
    finish,
    save: |x, family| {
        let (value, mask) = x.args.masked(SET_XMARK).unwrap_or_default();
        let _ = family;
        format!(" --set-xmark {value:#x}/{mask:#x}")
    },
    list: |x, _| {
        let (value, mask) = x.args.masked(SET_XMARK).unwrap_or_default();
        format!(" MARK {}", mark_forms::describe(value, mask))
    },
    cases: CASES,
    vectors: &[],
};

fn finish(args: &mut Args, _: &Context<'_>) -> Result<(), Error> {
    if args.is_empty() {
        return Err(Error::parameter(
            "MARK: One of the --set-xmark, --{and,or,xor,set}-mark options is required",
        ));
    }
    mark_forms::normalise(args, &FORMS);
    Ok(())
}

const fn at_mangle(case: Case) -> Case {
    case.at(TableKind::Mangle, Hook::Prerouting)
}

const CASES: &[Case] = &[
    saved("-j MARK --set-mark 1", "-j MARK --set-xmark 0x1/0xffffffff"),
    at_mangle(saved(
        "-j MARK --set-mark 0x10/0x3",
        "-j MARK --set-xmark 0x10/0x13",
    )),
    at_mangle(ok("-j MARK --set-xmark 0x10/0x3")),
    at_mangle(saved(
        "-j MARK --and-mark 0xff",
        "-j MARK --set-xmark 0x0/0xffffff00",
    )),
    at_mangle(saved("-j MARK --or-mark 4", "-j MARK --set-xmark 0x4/0x4")),
    at_mangle(saved("-j MARK --xor-mark 4", "-j MARK --set-xmark 0x4/0x0")),
    at_mangle(saved(
        "-j MARK --and-mark 0",
        "-j MARK --set-xmark 0x0/0xffffffff",
    )),
    at_mangle(saved("-j MARK --xor-mark 0", "-j MARK --set-xmark 0x0/0x0")),
    bad("-j MARK"),
    bad("-j MARK --set-mark 1 --set-xmark 2"),
    bad("-j MARK --set-mark 1/2/"),
    bad("-j MARK --or-mark 4294967296"),
];
