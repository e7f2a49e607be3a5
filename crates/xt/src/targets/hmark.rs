//! `-j HMARK`: a mark computed from addresses and ports, the same for both directions
//! (kernel `hmark_tg_v4`, `hmark_tg_v6`).

use tidegate_ir::{Effect, HashMark, Verdict};
use tidegate_wire::Family;

use crate::{
    Arg, Args, Case, Context, Error, Extension, Families, Help, Input, Instance, ListCtx, Lower,
    LowerCtx, Opt, Outcome, Value, Words, bad, number, ok, saved, text,
};

const SRC: usize = 0;
const DST: usize = 1;
const SPORT_MASK: usize = 2;
const DPORT_MASK: usize = 3;
const SPI_MASK: usize = 4;
const SPORT: usize = 5;
const DPORT: usize = 6;
const SPI: usize = 7;
const PROTO_MASK: usize = 8;
const RND: usize = 9;
const MOD: usize = 10;
const OFFSET: usize = 11;
const TUPLE: usize = 12;

/// Whether the tuple is the connection's.
const OF_CONNECTION: u32 = 1 << 6;

const PREFIX: Arg = Arg::Special {
    arity: 1,
    parse: parse_prefix,
    show: |v, _| v.number().unwrap_or(0).to_string(),
};

const fn hex(max: u64, digits: u8) -> Arg {
    Arg::Int {
        min: 0,
        max,
        hex: digits,
    }
}

const SHORT: Arg = hex(0xffff, 4);
const LONG: Arg = hex(0xffff_ffff, 8);

const fn decimal(min: u64) -> Arg {
    Arg::Int {
        min,
        max: u32::MAX as u64,
        hex: 0,
    }
}

/// Bits 0 to 5 stand for the options of the same number in [`IMPLIED`].
const WORDS: Words = Words {
    list: &[
        ("src", 1 << 0),
        ("dst", 1 << 1),
        ("sport", 1 << 2),
        ("dport", 1 << 3),
        ("spi", 1 << 4),
        ("proto", 1 << 5),
        ("ct", OF_CONNECTION),
    ],
    prefix: false,
    unknown: "Bad type \"{}\"",
};

/// What a word of the tuple stands for.
const IMPLIED: [(usize, u64); 6] = [
    (SRC, u64::MAX),
    (DST, u64::MAX),
    (SPORT_MASK, 0xffff),
    (DPORT_MASK, 0xffff),
    (SPI_MASK, 0xffff_ffff),
    (PROTO_MASK, 0xffff),
];

const OPTIONS: &[Opt] = &[
    Opt::new("hmark-src-prefix", PREFIX)
        .help("  --hmark-src-prefix length\t    Source address mask CIDR prefix\n"),
    Opt::new("hmark-dst-prefix", PREFIX)
        .help("  --hmark-dst-prefix length\t    Dest address mask CIDR prefix\n"),
    Opt::new("hmark-sport-mask", SHORT)
        .help("  --hmark-sport-mask value\t    Mask src port with value\n"),
    Opt::new("hmark-dport-mask", SHORT)
        .help("  --hmark-dport-mask value\t    Mask dst port with value\n"),
    Opt::new("hmark-spi-mask", LONG)
        .help("  --hmark-spi-mask value\t    For esp and ah AND spi with value\n"),
    Opt::new("hmark-sport", SHORT).help("  --hmark-sport value\t\t    OR src port with value\n"),
    Opt::new("hmark-dport", SHORT).help("  --hmark-dport value\t\t    OR dst port with value\n"),
    Opt::new("hmark-spi", LONG)
        .help("  --hmark-spi value\t\t    For esp and ah OR spi with value\n"),
    Opt::new("hmark-proto-mask", hex(0xffff, 2))
        .help("  --hmark-proto-mask value\t    Mask Protocol with value\n"),
    Opt::new("hmark-rnd", LONG)
        .help("  --hmark-rnd\t\t\t    Random see for hashing\n Alternatively, fine tuning of what will be included in hash calculation\n"),
    Opt::new("hmark-mod", decimal(1))
        .help("  --hmark-mod value\t\t    nfmark modulus value\n"),
    Opt::new("hmark-offset", decimal(0))
        .help("  --hmark-offset value\t\t    Last action add value to nfmark\n\n"),
    Opt::new("hmark-tuple", Arg::SetOf(&WORDS))
        .help("  --hmark-tuple [src|dst|sport|dport|spi|proto|ct][,...]\n"),
];

/// `-j HMARK`.
pub static HMARK: Extension = Extension {
    name: "HMARK",
    lower: Lower::Target(lower),
    families: Families::Both,
    options: OPTIONS,
    help: Help::order(&[
        TUPLE, MOD, OFFSET, RND, SRC, DST, SPORT_MASK, DPORT_MASK, SPI_MASK, SPORT, DPORT, SPI,
        PROTO_MASK,
    ])
    .titled("HMARK target options, i.e. modify hash calculation by:"),
    finish,
    list,
    cases: CASES,
    ..Extension::TARGET
};

/// A prefix length; what is too long is a whole IPv4 address.
fn parse_prefix(input: &Input<'_>) -> Result<Value, Error> {
    let len = number::whole(
        input.text(),
        0,
        u64::from(text::full_mask(input.ctx.family).count_ones()),
    );
    match (len, input.ctx.family) {
        (Some(len), _) => Ok(Value::Number(len)),
        (None, Family::V4) => Ok(Value::Number(32)),
        (None, Family::V6) => Err(Error::parameter(format!(
            "{}: bad value for option \"--{}\", neither a valid network mask nor valid CIDR (0-128).\n",
            input.ext, input.opt.name
        ))),
    }
}

fn finish(args: &mut Args, ctx: &Context<'_>) -> Result<(), Error> {
    let wrong = |text: &str| Err(Error::parameter(text));
    let tuple = args.bits(TUPLE).unwrap_or(0);
    for (i, &(opt, value)) in IMPLIED.iter().enumerate() {
        if tuple & (1 << i) == 0 {
            continue;
        }
        if args.has(opt) {
            return Err(Error::parameter(format!(
                "HMARK: option \"--{}\" can only be used once.\n",
                OPTIONS[opt].name
            )));
        }
        let value = match opt {
            SRC | DST => u64::from(text::full_mask(ctx.family).count_ones()),
            _ => value,
        };
        args.set(opt, false, Value::Number(value));
    }
    args.remove(TUPLE);
    if !args.has(MOD) {
        return wrong("--hmark-mod is mandatory");
    }
    if !args.has(RND) {
        return wrong("--hmark-rnd is mandatory");
    }
    if args.has(SPI_MASK) && (args.has(SPORT_MASK) || args.has(DPORT_MASK)) {
        return wrong("you cannot use --hmark-spi-mask and --hmark-?port-mask,at the same time");
    }
    if !(SRC..=PROTO_MASK).any(|o| args.has(o)) {
        return wrong("you have to specify --hmark-tuple at least");
    }
    if tuple & OF_CONNECTION != 0 {
        args.set(TUPLE, false, Value::Bits(OF_CONNECTION));
    }
    Ok(())
}

fn list(x: &Instance, _: &ListCtx<'_>) -> String {
    let mut out = format!(" HMARK mod {} ", x.args.number(MOD).unwrap_or(0));
    if let Some(offset) = x.args.number(OFFSET) {
        out += &format!("+ {offset:#x} ");
    }
    if x.args.has(TUPLE) {
        out += "ct, ";
    }
    for given in x.args.iter().filter(|g| g.opt <= RND) {
        let name = OPTIONS[given.opt].name.trim_start_matches("hmark-");
        let n = given.value.number().unwrap_or(0);
        out += &match given.opt {
            SRC | DST => format!("{name} {n} "),
            _ => format!("{name} {n:#x} "),
        };
    }
    out
}

fn lower(args: &Args, ctx: &mut LowerCtx<'_>) -> Outcome {
    let number = |opt| args.number(opt).unwrap_or(0);
    let mask = |opt| text::prefix_mask(number(opt) as u32, ctx.family).unwrap_or(0);
    // The two ports and the index of IPsec are the same four bytes.
    let ports = |high, low, whole| (number(high) << 16 | number(low) | number(whole)) as u32;
    let spec = HashMark {
        of_connection: args.has(TUPLE),
        src_mask: mask(SRC),
        dst_mask: mask(DST),
        port_mask: ports(SPORT_MASK, DPORT_MASK, SPI_MASK),
        port_set: ports(SPORT, DPORT, SPI),
        proto_mask: number(PROTO_MASK) as u16,
        seed: number(RND) as u32,
        modulus: number(MOD) as u32,
        offset: number(OFFSET) as u32,
    };
    Outcome::effect(Effect::HashMark(spec), Verdict::Continue)
}

const CASES: &[Case] = &[
    saved(
        "-j HMARK --hmark-src-prefix 24 --hmark-rnd 0xfe --hmark-mod 2 --hmark-offset 100",
        "-j HMARK --hmark-src-prefix 24 --hmark-rnd 0x000000fe --hmark-mod 2 --hmark-offset 100",
    ),
    saved(
        "-j HMARK --hmark-tuple src,dst,sport,dport,proto,ct --hmark-mod 5 --hmark-rnd 1",
        "-j HMARK --hmark-src-prefix 32 --hmark-dst-prefix 32 --hmark-sport-mask 0xffff --hmark-dport-mask 0xffff --hmark-proto-mask 0xffff --hmark-rnd 0x00000001 --hmark-mod 5 --hmark-tuple ct",
    ),
    saved(
        "-j HMARK --hmark-tuple spi --hmark-mod 5 --hmark-rnd 1",
        "-j HMARK --hmark-spi-mask 0xffffffff --hmark-rnd 0x00000001 --hmark-mod 5",
    ),
    saved(
        "-j HMARK --hmark-sport-mask 0xff --hmark-dport-mask 0xf00 --hmark-sport 1 --hmark-dport 2 --hmark-proto-mask 0xf --hmark-mod 10 --hmark-rnd 3",
        "-j HMARK --hmark-sport-mask 0x00ff --hmark-dport-mask 0x0f00 --hmark-sport 0x0001 --hmark-dport 0x0002 --hmark-proto-mask 0x0f --hmark-rnd 0x00000003 --hmark-mod 10",
    ),
    saved(
        "-j HMARK --hmark-spi-mask 0xff00 --hmark-spi 5 --hmark-mod 10 --hmark-rnd 3",
        "-j HMARK --hmark-spi-mask 0x0000ff00 --hmark-spi 0x00000005 --hmark-rnd 0x00000003 --hmark-mod 10",
    ),
    ok("-j HMARK --hmark-src-prefix 64 --hmark-dst-prefix 48 --hmark-rnd 0xdeafbeef --hmark-mod 1 --hmark-offset 1999").v6(),
    saved(
        "-j HMARK --hmark-src-prefix 33 --hmark-mod 10 --hmark-rnd 3",
        "-j HMARK --hmark-src-prefix 32 --hmark-rnd 0x00000003 --hmark-mod 10",
    ),
    bad("-j HMARK"),
    bad("-j HMARK --hmark-tuple src"),
    bad("-j HMARK --hmark-mod 10 --hmark-tuple src"),
    bad("-j HMARK --hmark-mod 10 --hmark-rnd 3"),
    bad("-j HMARK --hmark-mod 0 --hmark-rnd 1 --hmark-tuple src"),
    bad("-j HMARK --hmark-tuple foo --hmark-mod 10 --hmark-rnd 3"),
    bad("-j HMARK --hmark-tuple src,sport,spi --hmark-mod 10 --hmark-rnd 3"),
    bad("-j HMARK --hmark-tuple src --hmark-src-prefix 3 --hmark-mod 10 --hmark-rnd 3"),
    bad("-j HMARK --hmark-spi-mask 0xff00 --hmark-sport-mask 5 --hmark-mod 10 --hmark-rnd 3"),
];
