//! `-m srh`: the IPv6 segment routing header (kernel `srh1_mt6`, RFC 8754).

use tidegate_ir::{Cond, Field, StepInput};
use tidegate_wire::{Family, be128, ext6, proto};

use super::{
    pure::pure,
    ranges::{bang, blank_bang},
};
use crate::{
    Arg, Args, Case, Extension, Families, Lower, LowerCtx, Opt, Value, Vector, bad, no, ok,
    packets, saved, yes,
};

const PREVIOUS: usize = 11;
const NEXT: usize = 12;
const LAST: usize = 13;

/// Type of routing header.
const SEGMENT_ROUTING: u8 = 4;

const fn int(name: &'static str, max: u64, help: &'static str) -> Opt {
    Opt::new(
        name,
        Arg::Int {
            min: 0,
            max,
            hex: 0,
        },
    )
    .invertible()
    .help(help)
}

/// One of three comparisons that share their number: the one given last counts. Until all
/// are known, the number goes with how many options stood before it.
const fn shared(name: &'static str, help: &'static str) -> Opt {
    let arg = Arg::Special {
        arity: 1,
        parse: |input| {
            let byte = Arg::Int {
                min: 0,
                max: 255,
                hex: 0,
            };
            let number = byte.parse(input)?.number().unwrap_or(0);
            Ok(Value::Range(number, input.given.iter().count() as u64))
        },
        show: |v, _| v.number().unwrap_or(0).to_string(),
    };
    Opt::new(name, arg).invertible().help(help)
}

/// The options that share their number.
const SHARED: [[usize; 3]; 3] = [[1, 2, 3], [4, 5, 6], [7, 8, 9]];

fn share(args: &mut Args) {
    for group in SHARED {
        let given = group.into_iter().filter_map(|opt| args.range(opt));
        let Some((number, _)) = given.max_by_key(|g| g.1) else {
            continue;
        };
        for opt in group {
            if args.has(opt) {
                let invert = args.inverted(opt);
                args.set(opt, invert, Value::Number(number));
            }
        }
    }
}

const fn net(name: &'static str, help: &'static str) -> Opt {
    let show = Arg::Special {
        arity: 1,
        parse: |input| Arg::Network.parse(input),
        show: |v, _| match v.addrs() {
            Some((addr, mask)) => {
                let mask = match crate::text::prefix_len(mask, Family::V6) {
                    Some(len) => len.to_string(),
                    None => crate::text::addr(mask, Family::V6),
                };
                format!("{}/{mask}", crate::text::addr(addr, Family::V6))
            }
            None => String::new(),
        },
    };
    Opt::new(name, show).invertible().help(help)
}

const OPTIONS: &[Opt] = &[
    int(
        "srh-next-hdr",
        255,
        "[!] --srh-next-hdr\t\tnext-hdr        Next Header value of SRH\n",
    ),
    shared(
        "srh-hdr-len-eq",
        "[!] --srh-hdr-len-eq\t\thdr_len         Hdr Ext Len value of SRH\n",
    ),
    shared(
        "srh-hdr-len-gt",
        "[!] --srh-hdr-len-gt\t\thdr_len         Hdr Ext Len value of SRH\n",
    ),
    shared(
        "srh-hdr-len-lt",
        "[!] --srh-hdr-len-lt\t\thdr_len         Hdr Ext Len value of SRH\n",
    ),
    shared(
        "srh-segs-left-eq",
        "[!] --srh-segs-left-eq\t\tsegs_left       Segments Left value of SRH\n",
    ),
    shared(
        "srh-segs-left-gt",
        "[!] --srh-segs-left-gt\t\tsegs_left       Segments Left value of SRH\n",
    ),
    shared(
        "srh-segs-left-lt",
        "[!] --srh-segs-left-lt\t\tsegs_left       Segments Left value of SRH\n",
    ),
    shared(
        "srh-last-entry-eq",
        "[!] --srh-last-entry-eq \tlast_entry      Last Entry value of SRH\n",
    ),
    shared(
        "srh-last-entry-gt",
        "[!] --srh-last-entry-gt \tlast_entry      Last Entry value of SRH\n",
    ),
    shared(
        "srh-last-entry-lt",
        "[!] --srh-last-entry-lt \tlast_entry      Last Entry value of SRH\n",
    ),
    int(
        "srh-tag",
        0xffff,
        "[!] --srh-tag\t\t\ttag             Tag value of SRH\n",
    ),
    net(
        "srh-psid",
        "[!] --srh-psid\t\t\taddr[/mask]\tSRH previous SID\n",
    ),
    net(
        "srh-nsid",
        "[!] --srh-nsid\t\t\taddr[/mask]\tSRH next SID\n",
    ),
    net(
        "srh-lsid",
        "[!] --srh-lsid\t\t\taddr[/mask]\tSRH Last SID\n",
    ),
];

/// First byte and length in the header, and the range that is asked for.
type Number = (u8, u8, fn(u64) -> (u64, u64));

/// The numbers of the header, in the order of the option table.
const NUMBERS: [Number; 11] = [
    (0, 1, |n| (n, n)),
    (1, 1, |n| (n, n)),
    (1, 1, |n| (n + 1, u64::MAX)),
    (1, 1, |n| (0, n.wrapping_sub(1))),
    (3, 1, |n| (n, n)),
    (3, 1, |n| (n + 1, u64::MAX)),
    (3, 1, |n| (0, n.wrapping_sub(1))),
    (4, 1, |n| (n, n)),
    (4, 1, |n| (n + 1, u64::MAX)),
    (4, 1, |n| (0, n.wrapping_sub(1))),
    // The kernel compares the tag without turning its bytes.
    (6, 2, |n| {
        let n = u64::from((n as u16).swap_bytes());
        (n, n)
    }),
];

/// `-m srh`.
pub static SRH: Extension = Extension {
    name: "srh",
    lower: Lower::Match(lower),
    families: Families::Only(Family::V6),
    options: OPTIONS,
    finish: |args, _| {
        share(args);
        Ok(())
    },
    list: |x, ctx| {
        let one = |g: &crate::Given| {
            let row = &OPTIONS[g.opt];
            let word = row.name.trim_start_matches("srh-");
            let value = row.arg.show(&g.value, ctx.family);
            if g.opt >= PREVIOUS {
                return format!(" {word} {} {value}", blank_bang(&x.args, g.opt).trim());
            }
            format!(" {word}:{}{value}", bang(&x.args, g.opt))
        };
        " srh".to_owned() + &x.args.iter().map(one).collect::<String>()
    },
    cases: CASES,
    vectors: VECTORS,
    ..Extension::MATCH
};

fn lower(args: &Args, ctx: &mut LowerCtx<'_>) -> Cond {
    let mut tests = vec![
        Cond::eq(Field::HasExt(proto::ROUTING), 1),
        pure(ctx, "a whole segment routing header", |input| {
            header(input).is_some()
        }),
    ];
    for (opt, (at, len, range)) in NUMBERS.into_iter().enumerate() {
        let Some(n) = args.number(opt) else {
            continue;
        };
        let field = Field::Ext {
            header: proto::ROUTING,
            at,
            len,
        };
        let test = match range(n) {
            // Less than 0.
            (0, u64::MAX) => Cond::Const(false),
            (lo, hi) => Cond::range(field, lo.into(), hi.into()),
        };
        tests.push(test.inverted_if(args.inverted(opt)));
    }
    for opt in [PREVIOUS, NEXT, LAST] {
        if let Some((addr, mask)) = args.addrs(opt) {
            let invert = args.inverted(opt);
            let name = OPTIONS[opt].name;
            tests.push(pure(ctx, name, move |input| {
                let sid = header(input).and_then(|h| segment(h, opt));
                sid.is_some_and(|sid| ((sid ^ addr) & mask == 0) != invert)
            }));
        }
    }
    Cond::all(tests)
}

/// The header, if it is one of segments and whole.
fn header<'a>(input: &'a StepInput<'_>) -> Option<&'a [u8]> {
    let header = ext6::whole(input.facts.packet(), proto::ROUTING)?;
    (header[2] == SEGMENT_ROUTING && header[3] <= header[4]).then_some(header)
}

/// The segment before, after the active one, or the last; segments stand in reverse.
fn segment(header: &[u8], opt: usize) -> Option<u128> {
    let (left, first) = (header[3], header[4]);
    let at = match opt {
        PREVIOUS => (left < first).then(|| usize::from(left) + 1)?,
        NEXT => usize::from(left.checked_sub(1)?),
        _ => 0,
    };
    be128(header, 8 + 16 * at)
}

const CASES: &[Case] = &[
    ok("-m srh --srh-next-hdr 17").v6(),
    ok("-m srh ! --srh-next-hdr 17 ! --srh-hdr-len-eq 8 --srh-segs-left-gt 4 --srh-last-entry-lt 4 --srh-tag 0").v6(),
    ok("-m srh ! --srh-hdr-len-lt 8").v6(),
    ok("-m srh --srh-segs-left-eq 8 ! --srh-last-entry-eq 1").v6(),
    ok("-m srh ! --srh-psid a::/64 ! --srh-nsid b::/128 ! --srh-lsid c::/0").v6(),
    ok("-m srh --srh-psid a::1/64").v6(),
    ok("-m srh --srh-hdr-len-eq 1 --srh-hdr-len-gt 1").v6(),
    saved(
        "-m srh --srh-hdr-len-gt 1 --srh-hdr-len-eq 2",
        "-m srh --srh-hdr-len-eq 2 --srh-hdr-len-gt 2",
    )
    .v6(),
    ok("-m srh").v6(),
    bad("-m srh --srh-tag 65536").v6(),
    bad("-m srh --srh-next-hdr 256").v6(),
    bad("-m srh --srh-next-hdr tcp").v6(),
    bad("-m srh --srh-psid a:: --srh-psid b::").v6(),
    bad("-m srh"),
];

const VECTORS: &[Vector] = &[
    yes(
        "-m srh --srh-next-hdr 59 --srh-segs-left-eq 1 --srh-last-entry-gt 0 --srh-tag 1792",
        packets::SEGMENTS,
    ),
    yes(
        "-m srh --srh-nsid fd00::9 --srh-lsid fd00::/16",
        packets::SEGMENTS,
    ),
    no("-m srh --srh-psid ::/0", packets::SEGMENTS),
    no("-m srh ! --srh-psid ::/0", packets::SEGMENTS),
    no("-m srh --srh-hdr-len-lt 0", packets::SEGMENTS),
    no("-m srh", packets::ROUTING),
];
