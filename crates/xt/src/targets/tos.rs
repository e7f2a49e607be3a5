//! `-j TOS`: changes the type-of-service byte or the traffic class (kernel `tos_tg`):
//! bits of the mask are cleared, then the value is flipped in. All forms are kept as
//! `--set-tos value/mask`.

use tidegate_ir::{Effect, Expr, Field, Hook, TableKind, Verdict};

use crate::{
    Arg, Args, Case, Context, Error, Extension, Families, Help, Instance, Legal, ListCtx, Lower,
    Opt, Outcome, Value, bad, ok, saved, tos,
};

const SET: usize = 0;
const AND: usize = 1;
const OR: usize = 2;
const XOR: usize = 3;

const BYTE: Arg = Arg::Int {
    min: 0,
    max: 255,
    hex: 0,
};

const OPTIONS: &[Opt] = &[
    Opt::new(
        "set-tos",
        Arg::Special {
            arity: 1,
            parse: tos::parse,
            show: tos::show,
        },
    )
    .excludes(&[AND, OR, XOR])
    .help(
        "  --set-tos value[/mask]  Set Type of Service/Priority field to value
                          (Zero out bits in mask and XOR value into TOS)
  --set-tos symbol        Set TOS field (IPv4 only) by symbol
                          (this zeroes the 4-bit Precedence part!)
                          Accepted symbolic names for value are:
                            (0x10) 16 Minimize-Delay
                            (0x08)  8 Maximize-Throughput
                            (0x04)  4 Maximize-Reliability
                            (0x02)  2 Minimize-Cost
                            (0x00)  0 Normal-Service

",
    ),
    Opt::new("and-tos", BYTE)
        .excludes(&[SET, OR, XOR])
        .help("  --and-tos bits          Binary AND the TOS value with bits\n"),
    Opt::new("or-tos", BYTE)
        .excludes(&[SET, AND, XOR])
        .help("  --or-tos  bits          Binary OR the TOS value with bits\n"),
    Opt::new("xor-tos", BYTE)
        .excludes(&[SET, AND, OR])
        .help("  --xor-tos bits          Binary XOR the TOS value with bits\n"),
];

/// `-j TOS`.
pub static TOS: Extension = Extension {
    name: "TOS",
    lower: Lower::Target(|args, _| {
        let (value, mask) = args.masked(SET).unwrap_or_default();
        let expr = Expr::Masked {
            keep: u128::from(0xff & !mask),
            xor: u128::from(value),
        };
        Outcome::effect(Effect::Assign(Field::Tos, expr), Verdict::Continue)
    }),
    families: Families::Both,
    options: OPTIONS,
    help: Help::TABLE.titled("TOS target vlibxtables.so.12 options:"),
    legal: Legal::tables(&[TableKind::Mangle]),
    finish,
    save: crate::save_all,
    list,
    cases: CASES,
    vectors: &[],
};

fn finish(args: &mut Args, _: &Context<'_>) -> Result<(), Error> {
    if args.is_empty() {
        return Err(Error::parameter("TOS: An action is required"));
    }
    let mut bits = |opt| {
        let number = args.remove(opt)?.value.number()?;
        u32::try_from(number).ok()
    };
    let change = bits(AND)
        .map(|b| (0, 0xff & !b))
        .or_else(|| bits(OR).map(|b| (b, b)))
        .or_else(|| bits(XOR).map(|b| (b, 0)));
    if let Some((value, mask)) = change {
        args.set(SET, false, Value::Masked { value, mask });
    }
    Ok(())
}

fn list(x: &Instance, ctx: &ListCtx<'_>) -> String {
    let (value, mask) = x.args.masked(SET).unwrap_or_default();
    if ctx.numeric {
        return format!(" TOS set 0x{value:02x}/0x{mask:02x}");
    }
    if let Some(name) = tos::name(value, mask) {
        return format!("  TOS set{name}");
    }
    match (value, mask) {
        (0, _) => format!(" TOS and 0x{:02x}", 0xff & !mask),
        (v, m) if v == m => format!(" TOS or 0x{v:02x}"),
        (v, 0) => format!(" TOS xor 0x{v:02x}"),
        (v, m) => format!(" TOS set 0x{v:02x}/0x{m:02x}"),
    }
}

const fn mangle(case: Case) -> Case {
    case.at(TableKind::Mangle, Hook::Prerouting)
}

const CASES: &[Case] = &[
    mangle(ok("-j TOS --set-tos 0x10/0x3f")),
    mangle(saved("-j TOS --set-tos 0x10", "-j TOS --set-tos 0x10/0xff")),
    mangle(saved(
        "-j TOS --set-tos minimize-delay",
        "-j TOS --set-tos 0x10/0x3f",
    )),
    mangle(saved("-j TOS --and-tos 0xf", "-j TOS --set-tos 0x00/0xf0")),
    mangle(saved("-j TOS --or-tos 0x10", "-j TOS --set-tos 0x10/0x10")),
    mangle(saved("-j TOS --xor-tos 3", "-j TOS --set-tos 0x03/0x00").v6()),
    mangle(ok("-j TOS --set-tos 0x00/0x04")),
    mangle(bad("-j TOS")),
    mangle(bad("-j TOS --set-tos 0x100")),
    mangle(bad("-j TOS --and-tos 0x100")),
    mangle(bad("-j TOS --set-tos 1 --and-tos 3")),
    bad("-j TOS --set-tos 0x10/0x3f"),
];
