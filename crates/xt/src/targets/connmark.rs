//! `-j CONNMARK`: changes the connection's mark, or copies between it and the
//! packet's (kernel `connmark_tg`). Packets without a connection pass unchanged.
//!
//! A shift moves the new mark (set) or the bits copied (save, restore), within 32 bits;
//! of two shifts the last one counts.

use tidegate_ir::{Effect, Expr, Field, Hook, TableKind, Verdict};
use tidegate_wire::Family;

use super::mark_forms::{self, Forms};
use crate::{
    Arg, Args, Case, Context, Error, Extension, Families, Help, Instance, Legal, ListCtx, Lower,
    LowerCtx, Opt, Outcome, Place, Refusal, Value, bad, ok, saved,
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
const LEFT: usize = 10;
const RIGHT: usize = 11;

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

/// Bits of a shift; the kernel refuses 32.
const SHIFT: Arg = Arg::Int {
    min: 0,
    max: 32,
    hex: 0,
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
            "  --save-mark [--ctmask mask] [--nfmask mask]\n                                Copy ctmark to nfmark using masks\n",
        ),
    Opt::new("restore-mark", Arg::Flag)
        .excludes(&[SET_XMARK, SET_MARK, AND, OR, XOR, SAVE])
        .help(
            "  --restore-mark [--ctmask mask] [--nfmask mask]\n                                Copy nfmark to ctmark using masks\n",
        ),
    Opt::new("nfmask", MASK_ARG).excludes(&[MASK]),
    Opt::new("ctmask", MASK_ARG).excludes(&[MASK]),
    Opt::new("mask", MASK_ARG).excludes(&[NFMASK, CTMASK]).help(
        "  --save-mark [--mask mask]     Save the packet nfmark in the connection\n  --restore-mark [--mask mask]  Restore saved nfmark value\n",
    ),
    Opt::new("left-shift-mark", SHIFT)
        .replaces(&[RIGHT])
        .help("  --left-shift-mark value       Left shift the ctmark with bits\n"),
    Opt::new("right-shift-mark", SHIFT)
        .replaces(&[LEFT])
        .help("  --right-shift-mark value      Right shift the ctmark with bits\n"),
];

/// `-j CONNMARK`.
pub static CONNMARK: Extension = Extension {
    name: "CONNMARK",
    lower: Lower::Target(lower),
    families: Families::Both,
    options: OPTIONS,
    help: Help::order(&[
        SET_XMARK, SAVE, RESTORE, SET_MARK, MASK, AND, OR, XOR, LEFT, RIGHT,
    ]),
    legal: Legal {
        extra: check,
        ..Legal::ANYWHERE
    },
    finish,
    save,
    list,
    cases: CASES,
    vectors: &[],
};

fn finish(args: &mut Args, _: &Context<'_>) -> Result<(), Error> {
    let mask = |args: &mut Args, opt| args.remove(opt).and_then(|g| g.value.number());
    let (both, nf, ct) = (mask(args, MASK), mask(args, NFMASK), mask(args, CTMASK));
    for opt in [LEFT, RIGHT] {
        if args.number(opt) == Some(0) {
            args.remove(opt);
        }
    }
    if !args.iter().any(|g| g.opt <= RESTORE) {
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

/// The kernel shifts by at most 31 bits (`connmark_tg_check`).
fn check(args: &Args, _: &Place<'_>) -> Result<(), Refusal> {
    let too_far = |opt| args.number(opt).is_some_and(|n| n > 31);
    if too_far(LEFT) || too_far(RIGHT) {
        return Err(Refusal::invalid("CONNMARK: shift of 32 bits"));
    }
    Ok(())
}

/// How far to the left; negative for right.
fn shift(args: &Args) -> i8 {
    let bits = |opt| args.number(opt).and_then(|n| i8::try_from(n).ok());
    bits(LEFT).or_else(|| bits(RIGHT).map(|n| -n)).unwrap_or(0)
}

fn save(x: &Instance, family: Family) -> String {
    match x.args.masked(SET_XMARK) {
        Some((value, mask)) => {
            let left = x.save_option(LEFT, family);
            let right = x.save_option(RIGHT, family);
            format!(" --set-xmark {value:#x}/{mask:#x}{left}{right}")
        }
        None => crate::save_all(x, family),
    }
}

fn masks(args: &Args) -> (u64, u64) {
    let mask = |opt| args.number(opt).unwrap_or(u64::from(u32::MAX));
    (mask(NFMASK), mask(CTMASK))
}

fn list(x: &Instance, _: &ListCtx<'_>) -> String {
    let shift = |opt, word| match x.args.number(opt) {
        Some(n) => format!(" {word} {n}"),
        None => String::new(),
    };
    let left = shift(LEFT, "left-shift-mark");
    let right = shift(RIGHT, "right-shift-mark");
    format!(" CONNMARK {}{left}{right}", action(&x.args))
}

fn action(args: &Args) -> String {
    if let Some((value, mask)) = args.masked(SET_XMARK) {
        return mark_forms::describe(value, mask);
    }
    let (nf, ct) = masks(args);
    let (word, first, second) = if args.has(SAVE) {
        ("save", ("nfmask", nf), ("ctmask", ct))
    } else {
        ("restore", ("ctmask", ct), ("nfmask", nf))
    };
    if nf != ct {
        format!(
            "{word} {} {:#x} {} ~{:#x}",
            first.0, first.1, second.0, second.1
        )
    } else if nf == u64::from(u32::MAX) {
        word.to_owned()
    } else {
        format!("{word} mask {nf:#x}")
    }
}

fn keep(mask: u64) -> u128 {
    u128::from(u64::from(u32::MAX) & !mask)
}

fn lower(args: &Args, _: &mut LowerCtx<'_>) -> Outcome {
    let shift = shift(args);
    let (nf, ct) = masks(args);
    let effects = if let Some((value, mask)) = args.masked(SET_XMARK) {
        set(value, mask, shift)
    } else if args.has(SAVE) {
        vec![copy(Field::CtMark, ct, Field::Mark, nf, shift)]
    } else {
        vec![copy(Field::Mark, nf, Field::CtMark, ct, shift)]
    };
    Outcome {
        effects,
        verdict: Verdict::Continue,
    }
}

fn set(value: u32, mask: u32, shift: i8) -> Vec<Effect> {
    let expr = Expr::Masked {
        keep: keep(mask.into()),
        xor: value.into(),
    };
    let mut effects = vec![Effect::Assign(Field::CtMark, expr)];
    if shift != 0 {
        let all = u64::from(u32::MAX);
        effects.push(copy(Field::CtMark, all, Field::CtMark, all, shift));
    }
    effects
}

fn copy(to: Field, clear: u64, from: Field, take: u64, shift: i8) -> Effect {
    let expr = Expr::Mix {
        from,
        mask: take.into(),
        shift,
        keep: keep(clear),
    };
    Effect::Assign(to, expr)
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
    at_mangle(saved(
        "-j CONNMARK --or-mark 1 --right-shift-mark 3",
        "-j CONNMARK --set-xmark 0x1/0x1 --right-shift-mark 3",
    )),
    at_mangle(saved(
        "-j CONNMARK --save-mark --mask 0xf0 --right-shift-mark 2 --left-shift-mark 3",
        "-j CONNMARK --save-mark --nfmask 0xf0 --ctmask 0xf0 --left-shift-mark 3",
    )),
    at_mangle(saved(
        "-j CONNMARK --save-mark --left-shift-mark 0",
        "-j CONNMARK --save-mark --nfmask 0xffffffff --ctmask 0xffffffff",
    )),
    at_mangle(ok(
        "-j CONNMARK --restore-mark --nfmask 0xffffffff --ctmask 0xff --left-shift-mark 8",
    )),
    at_mangle(bad("-j CONNMARK --save-mark --left-shift-mark 32")),
    at_mangle(bad("-j CONNMARK --save-mark --left-shift-mark 33")),
    at_mangle(bad("-j CONNMARK --left-shift-mark 3")),
    bad("-j CONNMARK"),
    bad("-j CONNMARK --nfmask 1"),
    bad("-j CONNMARK --save-mark --restore-mark"),
    bad("-j CONNMARK --save-mark --mask 1 --nfmask 2"),
    bad("-j CONNMARK --save-mark --mask x"),
];
