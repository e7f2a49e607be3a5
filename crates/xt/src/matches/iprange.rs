//! `-m iprange`: addresses from one to another, both included (kernel
//! `iprange_mt4`, `iprange_mt6`). A range upside down is accepted and empty.

use tidegate_ir::{Cond, Field};
use tidegate_wire::Family;

use crate::{
    Arg, Args, Case, Context, Error, Extension, Families, Help, Input, Instance, Legal, ListCtx,
    Lower, LowerCtx, Opt, Value, Vector, bad, no, ok, packets, saved, text, yes,
};

const SRC: usize = 0;
const DST: usize = 1;

const RANGE: Arg = Arg::Special {
    arity: 1,
    parse,
    show,
};

const OPTIONS: &[Opt] = &[
    Opt::new("src-range", RANGE)
        .invertible()
        .remark(upside_down)
        .help("[!] --src-range ip[-ip]    Match source IP in the specified range\n"),
    Opt::new("dst-range", RANGE)
        .invertible()
        .remark(upside_down)
        .help("[!] --dst-range ip[-ip]    Match destination IP in the specified range\n"),
];

/// `-m iprange`.
pub static IPRANGE: Extension = Extension {
    name: "iprange",
    lower: Lower::Match(lower),
    families: Families::Both,
    options: OPTIONS,
    help: Help::TABLE,
    legal: Legal::ANYWHERE,
    finish,
    save: crate::save_all,
    list,
    cases: CASES,
    vectors: VECTORS,
};

fn parse(input: &Input<'_>) -> Result<Value, Error> {
    let text = input.text();
    let (lo, hi) = text.split_once('-').unwrap_or((text, text));
    let addr = |s| text::parse_addr(s, input.ctx.family).ok_or_else(|| input.bad_value(s));
    Ok(Value::Addrs(addr(lo)?, addr(hi)?))
}

fn upside_down(value: &Value, family: Family) -> Option<String> {
    let (lo, hi) = value.addrs()?;
    let range = show(value, family);
    (lo > hi).then(|| format!("xt_iprange: range {range} is reversed and will never match"))
}

fn show(value: &Value, family: Family) -> String {
    let (lo, hi) = value.addrs().unwrap_or_default();
    format!("{}-{}", text::addr(lo, family), text::addr(hi, family))
}

fn finish(args: &mut Args, _: &Context<'_>) -> Result<(), Error> {
    if args.is_empty() {
        return Err(Error::parameter(
            "iprange match: You must specify `--src-range' or `--dst-range'",
        ));
    }
    Ok(())
}

fn list(x: &Instance, ctx: &ListCtx<'_>) -> String {
    let side = |opt, word| match x.args.get(opt) {
        Some(given) => {
            let bang = if given.invert { " !" } else { "" };
            format!(" {word} IP range{bang} {}", show(&given.value, ctx.family))
        }
        None => String::new(),
    };
    side(SRC, "source") + &side(DST, "destination")
}

fn lower(args: &Args, _: &mut LowerCtx<'_>) -> Cond {
    let side = |(opt, field)| {
        let (lo, hi) = args.addrs(opt)?;
        Some(Cond::range(field, lo, hi).inverted_if(args.inverted(opt)))
    };
    let sides = [(SRC, Field::Src), (DST, Field::Dst)];
    Cond::all(sides.into_iter().filter_map(side).collect())
}

const CASES: &[Case] = &[
    ok("-m iprange --src-range 10.0.0.1-10.0.0.9 ! --dst-range 10.1.0.1-10.1.0.9"),
    saved(
        "-m iprange --dst-range 1.1.1.1 --src-range 2.2.2.2-3.3.3.3",
        "-m iprange --src-range 2.2.2.2-3.3.3.3 --dst-range 1.1.1.1-1.1.1.1",
    ),
    ok("-m iprange --src-range 1.1.1.9-1.1.1.1"),
    ok("-m iprange ! --src-range 2001:db8::1-2001:db8::9").v6(),
    bad("-m iprange"),
    bad("-m iprange --src-range x-1.1.1.1"),
    bad("-m iprange --src-range 1.1.1.1-"),
    bad("-m iprange --src-range 1.1.1.1-2.2.2.2-3.3.3.3"),
    bad("-m iprange --src-range 1.1.1.1-1.1.1.2").v6(),
];

const VECTORS: &[Vector] = &[
    yes("-m iprange --src-range 10.0.0.1-10.0.0.2", packets::SYN),
    no("-m iprange --src-range 10.0.0.3-10.0.0.9", packets::SYN),
    yes(
        "-m iprange ! --src-range 10.0.0.3-10.0.0.9 --dst-range 10.0.1.2",
        packets::SYN,
    ),
    no(
        "-m iprange --src-range 10.0.0.2 --dst-range 10.0.1.3-10.0.1.4",
        packets::SYN,
    ),
    no("-m iprange --src-range 10.0.0.3-10.0.0.1", packets::SYN),
    yes("-m iprange ! --src-range 10.0.0.3-10.0.0.1", packets::SYN),
    yes(
        "-m iprange --src-range 2001:db8::-2001:db8::1",
        packets::SYN6,
    ),
    no(
        "-m iprange --dst-range 2001:db8::3-2001:db9::",
        packets::SYN6,
    ),
];
