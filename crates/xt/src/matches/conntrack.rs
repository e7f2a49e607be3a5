//! `-m conntrack`: facts about the packet's connection (kernel `conntrack_mt`).
//!
//! Two traps of the kernel are kept. A packet without a connection is decided by
//! `--ctstate` alone (all other criteria are skipped), and never matches a rule
//! without `--ctstate`, inverted or not. `--ctstatus NONE` tests no bit and so never
//! matches. Ranges upside down and protocol 0 are refused, networks print with
//! their mask even when it is not a prefix length.

use tidegate_ir::{Cond, Field, ctstate, ctstatus};
use tidegate_wire::Family;

use super::ct_states::{self, DNAT, ESTABLISHED, INVALID, NEW, RELATED, SNAT, UNTRACKED};
use crate::{
    Arg, Args, Case, Context, Error, Extension, Families, Help, Input, Instance, Legal, ListCtx,
    Lower, LowerCtx, Opt, Value, Vector, Words, bad, no, number, ok, packets, saved, text, yes,
};

const STATE: usize = 0;
const PROTO: usize = 1;
const ORIG_SRC: usize = 2;
const ORIG_DST: usize = 3;
const REPL_SRC: usize = 4;
const REPL_DST: usize = 5;
const ORIG_SPORT: usize = 6;
const ORIG_DPORT: usize = 7;
const REPL_SPORT: usize = 8;
const REPL_DPORT: usize = 9;
const STATUS: usize = 10;
const EXPIRE: usize = 11;
const DIR: usize = 12;

const STATES: Words = Words {
    list: &[
        ("INVALID", INVALID),
        ("NEW", NEW),
        ("RELATED", RELATED),
        ("ESTABLISHED", ESTABLISHED),
        ("UNTRACKED", UNTRACKED),
        ("SNAT", SNAT),
        ("DNAT", DNAT),
    ],
    prefix: true,
    unknown: "Bad ctstate \"{}\"",
};

const STATUSES: Words = Words {
    list: &[
        ("NONE", 0),
        ("EXPECTED", ctstatus::EXPECTED),
        ("SEEN_REPLY", ctstatus::SEEN_REPLY),
        ("ASSURED", ctstatus::ASSURED),
        ("CONFIRMED", ctstatus::CONFIRMED),
    ],
    prefix: true,
    unknown: "Bad ctstatus \"{}\"",
};

const fn net(name: &'static str, help: &'static str) -> Opt {
    Opt::new(name, Arg::Network).invertible().help(help)
}

const fn port(name: &'static str, help: &'static str) -> Opt {
    Opt::new(name, Arg::PortRange).invertible().help(help)
}

const OPTIONS: &[Opt] = &[
    Opt::new("ctstate", Arg::SetOf(&STATES)).invertible().help(
        "[!] --ctstate {INVALID|ESTABLISHED|NEW|RELATED|UNTRACKED|SNAT|DNAT}[,...]\n                               State(s) to match\n",
    ),
    Opt::new(
        "ctproto",
        Arg::Special {
            arity: 1,
            parse: parse_proto,
            show: |v, _| v.number().unwrap_or(0).to_string(),
        },
    )
    .invertible()
    .help("[!] --ctproto proto            Protocol to match; by number or name, e.g. \"tcp\"\n"),
    net("ctorigsrc", "[!] --ctorigsrc address[/mask]\n"),
    net("ctorigdst", "[!] --ctorigdst address[/mask]\n"),
    net("ctreplsrc", "[!] --ctreplsrc address[/mask]\n"),
    net(
        "ctrepldst",
        "[!] --ctrepldst address[/mask]\n                               Original/Reply source/destination address\n",
    ),
    port("ctorigsrcport", "[!] --ctorigsrcport port\n"),
    port("ctorigdstport", "[!] --ctorigdstport port\n"),
    port("ctreplsrcport", "[!] --ctreplsrcport port\n"),
    port(
        "ctrepldstport",
        "[!] --ctrepldstport port\n                               TCP/UDP/SCTP orig./reply source/destination port\n",
    ),
    Opt::new("ctstatus", Arg::SetOf(&STATUSES)).invertible().help(
        "[!] --ctstatus {NONE|EXPECTED|SEEN_REPLY|ASSURED|CONFIRMED}[,...]\n                               Status(es) to match\n",
    ),
    Opt::new("ctexpire", Arg::IntRange { max: u32::MAX as u64 })
        .invertible()
        .help(
            "[!] --ctexpire time[:time]     Match remaining lifetime in seconds against\n                               value or range of values (inclusive)\n",
        ),
    Opt::new(
        "ctdir",
        Arg::Special {
            arity: 1,
            parse: parse_dir,
            show: |v, _| direction(v).to_owned(),
        },
    )
    .help("    --ctdir {ORIGINAL|REPLY}   Flow direction of packet\n"),
];

/// `-m conntrack`.
pub static CONNTRACK: Extension = Extension {
    name: "conntrack",
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

fn parse_proto(input: &Input<'_>) -> Result<Value, Error> {
    let word = input.text();
    let found =
        number::whole(word, 0, 255).or_else(|| input.ctx.names.protocol(word).map(u64::from));
    match found {
        Some(0) => Err(Error::parameter(
            "conntrack: rule would never match protocol",
        )),
        Some(n) => Ok(Value::Number(n)),
        None => Err(Error::parameter(format!(
            "unknown protocol \"{word}\" specified"
        ))),
    }
}

fn parse_dir(input: &Input<'_>) -> Result<Value, Error> {
    let word = input.text();
    let known = ["ORIGINAL", "REPLY"]
        .iter()
        .position(|d| d.eq_ignore_ascii_case(word));
    known
        .map(|n| Value::Number(n as u64))
        .ok_or_else(|| input.bad_value(word))
}

fn direction(value: &Value) -> &'static str {
    match value.number() {
        Some(0) => "ORIGINAL",
        _ => "REPLY",
    }
}

fn finish(args: &mut Args, _: &Context<'_>) -> Result<(), Error> {
    if args.is_empty() {
        return Err(Error::parameter(
            "conntrack: At least one option is required",
        ));
    }
    Ok(())
}

fn list(x: &Instance, ctx: &ListCtx<'_>) -> String {
    let one = |opt: usize, given: &crate::Given| {
        let Some(row) = OPTIONS.get(opt) else {
            return String::new();
        };
        let bang = if given.invert { " !" } else { "" };
        format!("{bang} {} {}", row.name, list_value(row, &given.value, ctx))
    };
    x.args.iter().map(|g| one(g.opt, g)).collect()
}

fn list_value(row: &Opt, value: &Value, ctx: &ListCtx<'_>) -> String {
    let saved = row.arg.show(value, ctx.family);
    let Value::Net { addr, mask } = *value else {
        return saved;
    };
    if ctx.numeric {
        saved
    } else if mask == 0 {
        "anywhere".to_owned()
    } else if mask == text::full_mask(ctx.family) {
        ctx.addr(addr)
    } else {
        saved
    }
}

fn lower(args: &Args, ctx: &mut LowerCtx<'_>) -> Cond {
    let mut rest = Vec::new();
    if let Some(dir) = args.number(DIR) {
        rest.push(Cond::eq(Field::CtDir, u128::from(dir)));
    }
    rest.extend(address_tests(args, ctx.family));
    if let Some(n) = args.number(PROTO) {
        rest.push(Cond::eq(Field::CtProto, u128::from(n)).inverted_if(args.inverted(PROTO)));
    }
    rest.extend(range_tests(args, &PORT_FIELDS));
    if let Some(bits) = args.bits(STATUS) {
        rest.push(status_test(bits).inverted_if(args.inverted(STATUS)));
    }
    rest.extend(range_tests(args, &[(EXPIRE, Field::CtExpire)]));

    let Some(states) = args.bits(STATE) else {
        rest.insert(0, ct_states::tracked());
        return Cond::all(rest);
    };
    let state = ct_states::test(states).inverted_if(args.inverted(STATE));
    if rest.is_empty() {
        return state;
    }
    let untracked = Cond::Not(Box::new(ct_states::tracked()));
    Cond::all(vec![state, Cond::any(vec![untracked, Cond::all(rest)])])
}

const PORT_FIELDS: [(usize, Field); 4] = [
    (ORIG_SPORT, Field::CtOrigSport),
    (ORIG_DPORT, Field::CtOrigDport),
    (REPL_SPORT, Field::CtReplSport),
    (REPL_DPORT, Field::CtReplDport),
];

fn address_tests(args: &Args, family: Family) -> impl Iterator<Item = Cond> {
    let fields = [
        (ORIG_SRC, Field::CtOrigSrc),
        (ORIG_DST, Field::CtOrigDst),
        (REPL_SRC, Field::CtReplSrc),
        (REPL_DST, Field::CtReplDst),
    ];
    let full = text::full_mask(family);
    fields.into_iter().filter_map(move |(opt, field)| {
        let (addr, mask) = args.addrs(opt)?;
        let test = Cond::bits(field, mask & full, addr & mask);
        Some(test.inverted_if(args.inverted(opt)))
    })
}

fn range_tests<'a>(
    args: &'a Args,
    fields: &'a [(usize, Field)],
) -> impl Iterator<Item = Cond> + 'a {
    fields.iter().filter_map(|&(opt, field)| {
        let (lo, hi) = args.range(opt)?;
        let test = Cond::range(field, u128::from(lo), u128::from(hi));
        Some(test.inverted_if(args.inverted(opt)))
    })
}

/// Whether any of the bits is set.
fn status_test(bits: u32) -> Cond {
    let none = Cond::bits(Field::CtStatus, u128::from(bits), 0);
    Cond::Not(Box::new(none))
}

const CASES: &[Case] = &[
    saved(
        "-m conntrack --ctstate NEW,INVALID --ctproto tcp --ctdir original",
        "-m conntrack --ctstate INVALID,NEW --ctproto 6 --ctdir ORIGINAL",
    ),
    saved(
        "-m conntrack --ctstate est,rel,inv,new,snat,dnat,untr",
        "-m conntrack --ctstate INVALID,NEW,RELATED,ESTABLISHED,UNTRACKED,SNAT,DNAT",
    ),
    ok(
        "-m conntrack ! --ctstate NEW,UNTRACKED,SNAT ! --ctproto 17 ! --ctorigsrc 1.2.3.4/24 ! --ctorigdst 1.2.3.4 ! --ctrepldst 3.3.3.3/31 ! --ctorigsrcport 1 ! --ctorigdstport 2:4 ! --ctreplsrcport 5 ! --ctrepldstport 5:9 ! --ctstatus EXPECTED,ASSURED ! --ctexpire 5:9 --ctdir REPLY",
    ),
    ok("-m conntrack --ctstatus NONE"),
    saved(
        "-m conntrack --ctstatus none,assured",
        "-m conntrack --ctstatus ASSURED",
    ),
    saved(
        "-m conntrack --ctorigsrcport :",
        "-m conntrack --ctorigsrcport 0:65535",
    ),
    saved(
        "-m conntrack --ctexpire 5:",
        "-m conntrack --ctexpire 5:4294967295",
    ),
    ok("-m conntrack --ctorigsrc 2001:db8::/32 ! --ctrepldst fe80::1").v6(),
    bad("-m conntrack"),
    bad("-m conntrack --ctstate NEW,"),
    bad("-m conntrack --ctstate NEW --ctstate NEW"),
    bad("-m conntrack ! --ctdir REPLY"),
    bad("-m conntrack --ctdir O"),
    bad("-m conntrack --ctproto 0"),
    bad("-m conntrack --ctexpire 4:3"),
    bad("-m conntrack --ctorigsrc 1.2.3.4,5.6.7.8"),
];

/// First packet of a connection from 10.0.0.2:1025 to 192.0.2.1:80 whose destination
/// was translated to 10.0.1.2:80.
const ENTRY: &[(Field, u128)] = &[
    (Field::HasCt, 1),
    (Field::CtState, ctstate::NEW),
    (Field::CtStatus, ctstatus::DST_NAT as u128),
    (Field::CtDir, 0),
    (Field::CtProto, 6),
    (Field::CtOrigSrc, 0x0a00_0002),
    (Field::CtOrigDst, 0xc000_0201),
    (Field::CtReplSrc, 0x0a00_0102),
    (Field::CtReplDst, 0x0a00_0002),
    (Field::CtOrigSport, 1025),
    (Field::CtOrigDport, 80),
    (Field::CtReplSport, 80),
    (Field::CtReplDport, 1025),
    // An entry that is not yet confirmed has no deadline.
    (Field::CtExpire, 0),
];

/// A packet that belongs to nothing.
const NOTHING: &[(Field, u128)] = &[(Field::CtState, ctstate::INVALID)];

/// A packet exempted from tracking.
const BYPASS: &[(Field, u128)] = &[(Field::CtState, ctstate::UNTRACKED)];

/// What the kernel does in these cases was tried on Linux 6.18 and read in
/// `conntrack_mt`.
const VECTORS: &[Vector] = &[
    yes("-m conntrack --ctstate NEW", packets::SYN).with(ENTRY),
    yes("-m conntrack --ctstate DNAT", packets::SYN).with(ENTRY),
    no("-m conntrack --ctstate SNAT", packets::SYN).with(ENTRY),
    yes("-m conntrack ! --ctstate SNAT", packets::SYN).with(ENTRY),
    no("-m conntrack ! --ctstate DNAT", packets::SYN).with(ENTRY),
    yes(
        "-m conntrack --ctstate NEW --ctproto 6 --ctdir ORIGINAL",
        packets::SYN,
    )
    .with(ENTRY),
    no("-m conntrack --ctstate NEW --ctproto 17", packets::SYN).with(ENTRY),
    no("-m conntrack --ctdir REPLY", packets::SYN).with(ENTRY),
    yes(
        "-m conntrack --ctorigdst 192.0.2.0/24 --ctorigdstport 80:90",
        packets::SYN,
    )
    .with(ENTRY),
    no("-m conntrack ! --ctorigdst 192.0.2.77/24", packets::SYN).with(ENTRY),
    yes(
        "-m conntrack --ctreplsrc 10.0.1.2 ! --ctorigsrcport 1",
        packets::SYN,
    )
    .with(ENTRY),
    no("-m conntrack --ctstatus CONFIRMED", packets::SYN).with(ENTRY),
    yes("-m conntrack ! --ctstatus CONFIRMED,ASSURED", packets::SYN).with(ENTRY),
    no("-m conntrack --ctstatus NONE", packets::SYN).with(ENTRY),
    yes("-m conntrack ! --ctstatus NONE", packets::SYN).with(ENTRY),
    yes("-m conntrack --ctexpire 0", packets::SYN).with(ENTRY),
    no("-m conntrack ! --ctexpire 0:200", packets::SYN).with(ENTRY),
    yes("-m conntrack --ctstate INVALID --ctproto 17", packets::SYN).with(NOTHING),
    yes(
        "-m conntrack ! --ctstate NEW --ctorigdst 9.9.9.9",
        packets::SYN,
    )
    .with(NOTHING),
    no("-m conntrack --ctstate NEW --ctproto 6", packets::SYN).with(NOTHING),
    no("-m conntrack --ctproto 6", packets::SYN).with(NOTHING),
    no("-m conntrack ! --ctproto 6", packets::SYN).with(NOTHING),
    no("-m conntrack ! --ctstatus ASSURED", packets::SYN).with(NOTHING),
    yes("-m conntrack ! --ctstate NEW", packets::SYN).with(BYPASS),
    yes("-m conntrack --ctstate UNTRACKED,SNAT", packets::SYN).with(BYPASS),
    no("-m conntrack --ctstate INVALID", packets::SYN).with(BYPASS),
];
