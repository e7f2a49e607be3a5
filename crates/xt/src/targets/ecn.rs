//! `-j ECN`: removes or sets congestion bits (kernel `ecn_tg`): CWR and ECE of the TCP
//! header, the code point of the IPv4 header.

use tidegate_ir::{Effect, Expr, Field, Hook, TableKind, TcpEcn, Verdict};
use tidegate_wire::{Family, proto};

use crate::{
    Arg, Args, Case, Context, Error, Extension, Families, Help, Instance, Legal, ListCtx, Lower,
    LowerCtx, Opt, Outcome, Place, Refusal, Value, bad, ok, saved,
};

const REMOVE: usize = 0;
const ECE: usize = 1;
const CWR: usize = 2;
const ECT: usize = 3;

const fn bits(max: u64) -> Arg {
    Arg::Int {
        min: 0,
        max,
        hex: 0,
    }
}

const OPTIONS: &[Opt] = &[
    Opt::new("ecn-tcp-remove", Arg::Flag)
        .excludes(&[ECE, CWR])
        .help("  --ecn-tcp-remove\t\tRemove all ECN bits from TCP header\n"),
    Opt::new("ecn-tcp-ece", bits(1)).excludes(&[REMOVE]),
    Opt::new("ecn-tcp-cwr", bits(1)).excludes(&[REMOVE]),
    Opt::new("ecn-ip-ect", bits(3)),
];

/// `-j ECN`.
pub static ECN: Extension = Extension {
    name: "ECN",
    lower: Lower::Target(lower),
    families: Families::Only(Family::V4),
    options: OPTIONS,
    help: Help::TABLE.titled("ECN target options"),
    legal: Legal {
        tables: &[TableKind::Mangle],
        extra: check,
        ..Legal::ANYWHERE
    },
    finish,
    list,
    cases: CASES,
    ..Extension::TARGET
};

fn finish(args: &mut Args, _: &Context<'_>) -> Result<(), Error> {
    if args.is_empty() {
        return Err(Error::parameter("ECN target: An operation is required"));
    }
    // Removing is setting both bits to 0; it has its own name only alone.
    if args.remove(REMOVE).is_some() {
        args.set(ECE, false, Value::Number(0));
        args.set(CWR, false, Value::Number(0));
    }
    let both = args.number(ECE) == Some(0) && args.number(CWR) == Some(0);
    if both && !args.has(ECT) {
        args.remove(ECE);
        args.remove(CWR);
        args.set(REMOVE, false, Value::Flag);
    }
    Ok(())
}

/// TCP bits need a TCP rule (`ecn_tg_check`).
fn check(args: &Args, place: &Place<'_>) -> Result<(), Refusal> {
    let of_tcp = [REMOVE, ECE, CWR].iter().any(|&o| args.has(o));
    if of_tcp && place.proto != (proto::TCP, false) {
        return Err(Refusal::invalid("ECN: TCP bits in rules for TCP only"));
    }
    Ok(())
}

fn list(x: &Instance, _: &ListCtx<'_>) -> String {
    if x.args.has(REMOVE) {
        return " ECN TCP remove".to_owned();
    }
    let mut out = " ECN".to_owned();
    for (opt, word) in [(ECE, "ECE"), (CWR, "CWR"), (ECT, "ECT codepoint")] {
        if let Some(n) = x.args.number(opt) {
            out += &format!(" {word}={n}");
        }
    }
    out
}

fn lower(args: &Args, _: &mut LowerCtx<'_>) -> Outcome {
    let mut effects = Vec::new();
    if let Some(ect) = args.number(ECT) {
        let expr = Expr::Masked {
            keep: 0xfc,
            xor: ect.into(),
        };
        effects.push(Effect::Assign(Field::Tos, expr));
    }
    let bit = |opt| match args.number(opt) {
        Some(n) => Some(n == 1),
        None => args.has(REMOVE).then_some(false),
    };
    let tcp = TcpEcn {
        ece: bit(ECE),
        cwr: bit(CWR),
    };
    if tcp.ece.is_some() || tcp.cwr.is_some() {
        effects.push(Effect::TcpEcn(tcp));
    }
    Outcome {
        effects,
        verdict: Verdict::Continue,
    }
}

const fn mangle(case: Case) -> Case {
    case.at(TableKind::Mangle, Hook::Prerouting)
}

const CASES: &[Case] = &[
    mangle(ok("-p tcp -j ECN --ecn-tcp-remove")),
    mangle(ok("-j ECN --ecn-ip-ect 2")),
    mangle(ok("-p tcp -j ECN --ecn-tcp-cwr 1")),
    mangle(ok("-p tcp -j ECN --ecn-tcp-ece 1")),
    mangle(saved(
        "-p tcp -j ECN --ecn-tcp-cwr 1 --ecn-tcp-ece 0 --ecn-ip-ect 3",
        "-p tcp -j ECN --ecn-tcp-ece 0 --ecn-tcp-cwr 1 --ecn-ip-ect 3",
    )),
    mangle(saved(
        "-p tcp -j ECN --ecn-tcp-remove --ecn-ip-ect 2",
        "-p tcp -j ECN --ecn-tcp-ece 0 --ecn-tcp-cwr 0 --ecn-ip-ect 2",
    )),
    mangle(saved(
        "-p tcp -j ECN --ecn-tcp-ece 0 --ecn-tcp-cwr 0",
        "-p tcp -j ECN --ecn-tcp-remove",
    )),
    mangle(bad("-j ECN --ecn-tcp-remove")),
    mangle(bad("! -p tcp -j ECN --ecn-tcp-remove")),
    mangle(bad("-p tcp -j ECN")),
    mangle(bad("-p tcp -j ECN --ecn-ip-ect 4")),
    mangle(bad("-p tcp -j ECN --ecn-tcp-cwr 2")),
    mangle(bad("-p tcp -j ECN --ecn-tcp-remove").v6()),
    bad("-p tcp -j ECN --ecn-tcp-remove"),
];
