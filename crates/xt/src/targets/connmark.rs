//! `-j CONNMARK`: changes the connection's mark, or copies between it and the
//! packet's (kernel `connmark_tg`). Packets without a connection pass unchanged.
//!
//! The bit shifts of newer kernels are not offered.

use tidegate_ir::{Effect, Expr, Field, Hook, TableKind, Verdict};
use tidegate_wire::Family;

use super::mark_forms::{self, Forms};
use crate::{
    Arg, Args, Case, Context, Error, Extension, Families, Help, Instance, Legal, ListCtx, Lower,
    LowerCtx, Opt, Outcome, Value, bad, ok, saved,
};

const SET_XMARK: usize = 0;
const SET_MARK: usize = 1;
const AND: usize = 2;
const OR: usize = 3;
const XOR: usize = 4;
const SAVE: usize = 5;
const RESTORE: usize = 6;
const NFMASK: usize = 7;
const CTMASK: usize = 8;
const MASK: usize = 9;

const FORMS: Forms = Forms {
    xset: SET_XMARK,
    set: SET_MARK,
    and: AND,
    or: OR,
    xor: XOR,
};

/// A mask, saved in hexadecimal.
const MASK_ARG: Arg = Arg::Int {
    min: 0,
    max: u32::MAX as u64,
    hex: 1,
};

const OPTIONS: &[Opt] = &[
    Opt::new("set-xmark", Arg::Mark)
        .excludes(&[SET_MARK, AND, OR, XOR, SAVE, RESTORE])
        .help("  --set-xmark value[/ctmask]    Zero mask bits and XOR ctmark with value\n"),
    Opt::new("set-mark", Arg::Mark)
        .excludes(&[SET_XMARK, AND, OR, XOR, SAVE, RESTORE])
        .help("  --set-mark value[/mask]       Set conntrack mark value\n"),
    Opt::new("and-mark", mark_forms::BITS)
        .excludes(&[SET_XMARK, SET_MARK, OR, XOR, SAVE, RESTORE])
        .help("  --and-mark value              Binary AND the ctmark with bits\n"),
    Opt::new("or-mark", mark_forms::BITS)
        .excludes(&[SET_XMARK, SET_MARK, AND, XOR, SAVE, RESTORE])
        .help("  --or-mark value               Binary OR  the ctmark with bits\n"),
    Opt::new("xor-mark", mark_forms::BITS)
        .excludes(&[SET_XMARK, SET_MARK, AND, OR, SAVE, RESTORE])
        .help("  --xor-mark value              Binary XOR the ctmark with bits\n"),
    Opt::new("save-mark", Arg::Flag)
        .excludes(&[SET_XMARK, SET_MARK, AND, OR, XOR, RESTORE])
        .help(
            "  --save-mark [--ctmask mask] [--nfmask mask]\n                                Copy nfmark to ctmark using masks\n",
        ),
    Opt::new("restore-mark", Arg::Flag)
        .excludes(&[SET_XMARK, SET_MARK, AND, OR, XOR, SAVE])
        .help(
            "  --restore-mark [--ctmask mask] [--nfmask mask]\n                                Copy ctmark to nfmark using masks\n",
        ),
    Opt::new("nfmask", MASK_ARG).excludes(&[MASK]),
    Opt::new("ctmask", MASK_ARG).excludes(&[MASK]),
    Opt::new("mask", MASK_ARG).excludes(&[NFMASK, CTMASK]).help(
        "  --save-mark [--mask mask]     Save the packet nfmark in the connection\n  --restore-mark [--mask mask]  Restore saved nfmark value\n",
    ),
];

/// `-j CONNMARK`.
pub static CONNMARK: Extension = Extension {
    name: "CONNMARK",
    lower: Lower::Target(lower),
    families: Families::Both,
    options: OPTIONS,
    help: Help::order(&[SET_XMARK, SAVE, RESTORE, SET_MARK, MASK, AND, OR, XOR]),
    legal: Legal::ANYWHERE,
    finish,
    save,
    list,
    cases: CASES,
    vectors: &[],
};

fn finish(args: &mut Args, _: &Context<'_>) -> Result<(), Error> {
    let mask = |args: &mut Args, opt| args.remove(opt).and_then(|g| g.value.number());
    let (both, nf, ct) = (mask(args, MASK), mask(args, NFMASK), mask(args, CTMASK));
    if args.is_empty() {
        return Err(Error::parameter("CONNMARK target: No operation specified"));
    }
    mark_forms::normalise(args, &FORMS);
    if let Some((value, mask)) = args.masked(SET_XMARK) {
        let mask = both.and_then(|m| u32::try_from(m).ok()).unwrap_or(mask);
        args.set(SET_XMARK, false, Value::Masked { value, mask });
        return Ok(());
    }
    let full = u64::from(u32::MAX);
    args.set(NFMASK, false, Value::Number(both.or(nf).unwrap_or(full)));
    args.set(CTMASK, false, Value::Number(both.or(ct).unwrap_or(full)));
    Ok(())
}

fn save(x: &Instance, family: Family) -> String {
    match x.args.masked(SET_XMARK) {
        Some((value, mask)) => format!(" --set-xmark {value:#x}/{mask:#x}"),
        None => crate::save_all(x, family),
    }
}

fn masks(args: &Args) -> (u64, u64) {
    let mask = |opt| args.number(opt).unwrap_or(u64::from(u32::MAX));
    (mask(NFMASK), mask(CTMASK))
}

fn list(x: &Instance, _: &ListCtx<'_>) -> String {
    if let Some((value, mask)) = x.args.masked(SET_XMARK) {
        return format!(" CONNMARK {}", mark_forms::describe(value, mask));
    }
    let (nf, ct) = masks(&x.args);
    let (word, first, second) = if x.args.has(SAVE) {
        ("save", ("nfmask", nf), ("ctmask", ct))
    } else {
        ("restore", ("ctmask", ct), ("nfmask", nf))
    };
    let masks = if nf != ct {
        format!(" {} {:#x} {} ~{:#x}", first.0, first.1, second.0, second.1)
    } else if nf == u64::from(u32::MAX) {
        String::new()
    } else {
        format!(" mask {nf:#x}")
    };
    format!(" CONNMARK {word}{masks}")
}

fn lower(args: &Args, _: &mut LowerCtx<'_>) -> Outcome {
    let keep = |mask: u64| u128::from(u64::from(u32::MAX) & !mask);
    let (nf, ct) = masks(args);
    let (field, expr) = if let Some((value, mask)) = args.masked(SET_XMARK) {
        let expr = Expr::Masked {
            keep: keep(mask.into()),
            xor: value.into(),
        };
        (Field::CtMark, expr)
    } else if args.has(SAVE) {
        let expr = Expr::Mix {
            from: Field::Mark,
            mask: nf.into(),
            keep: keep(ct),
        };
        (Field::CtMark, expr)
    } else {
        let expr = Expr::Mix {
            from: Field::CtMark,
            mask: ct.into(),
            keep: keep(nf),
        };
        (Field::Mark, expr)
    };
    Outcome::effect(Effect::Assign(field, expr), Verdict::Continue)
}

const fn at_mangle(case: Case) -> Case {
    case.at(TableKind::Mangle, Hook::Prerouting)
}

const CASES: &[Case] = &[
    at_mangle(saved(
        "-j CONNMARK --set-mark 0x10/0x3",
        "-j CONNMARK --set-xmark 0x10/0x13",
    )),
    at_mangle(saved(
        "-j CONNMARK --set-mark 1 --mask 3",
        "-j CONNMARK --set-xmark 0x1/0x3",
    )),
    at_mangle(saved(
        "-j CONNMARK --set-xmark 0",
        "-j CONNMARK --set-xmark 0x0/0xffffffff",
    )),
    at_mangle(saved(
        "-j CONNMARK --and-mark 0xff",
        "-j CONNMARK --set-xmark 0x0/0xffffff00",
    )),
    at_mangle(saved(
        "-j CONNMARK --xor-mark 4",
        "-j CONNMARK --set-xmark 0x4/0x0",
    )),
    at_mangle(saved(
        "-j CONNMARK --save-mark",
        "-j CONNMARK --save-mark --nfmask 0xffffffff --ctmask 0xffffffff",
    )),
    at_mangle(saved(
        "-j CONNMARK --save-mark --nfmask 0xf0",
        "-j CONNMARK --save-mark --nfmask 0xf0 --ctmask 0xffffffff",
    )),
    at_mangle(saved(
        "-j CONNMARK --restore-mark --mask 0xff",
        "-j CONNMARK --restore-mark --nfmask 0xff --ctmask 0xff",
    )),
    at_mangle(ok("-j CONNMARK --restore-mark --nfmask 0xf0 --ctmask 0xf")),
    bad("-j CONNMARK"),
    bad("-j CONNMARK --nfmask 1"),
    bad("-j CONNMARK --save-mark --restore-mark"),
    bad("-j CONNMARK --save-mark --mask 1 --nfmask 2"),
    bad("-j CONNMARK --save-mark --mask x"),
];
