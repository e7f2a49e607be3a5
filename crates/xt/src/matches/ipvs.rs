//! `-m ipvs`: connections of the kernel's load balancer (kernel `ipvs_mt`).

use super::ranges::blank_bang;
use crate::{
    Arg, Case, Error, Extension, Help, Input, Lower, Opt, Value, Words, bad, number, ok, saved,
};

const IPVS_OPT: usize = 0;

const DIRS: Words = Words {
    list: &[("ORIGINAL", 0), ("REPLY", 1)],
    prefix: true,
    unknown: "ipvs: Bad value for \"--vdir\" option: \"{}\"",
};
const METHODS: Words = Words {
    list: &[("GATE", 3), ("IPIP", 2), ("MASQ", 0)],
    prefix: true,
    unknown: "ipvs: Bad value for \"--vmethod\" option: \"{}\"",
};

const PORT: Arg = Arg::Special {
    arity: 1,
    parse: port,
    show: |v, _| v.number().unwrap_or(0).to_string(),
};

const OPTIONS: &[Opt] = &[
    Opt::new("ipvs", Arg::Flag)
        .invertible()
        .help("[!] --ipvs                      packet belongs to an IPVS connection\n\nAny of the following options implies --ipvs (even negated)\n"),
    Opt::new(
        "vproto",
        Arg::Special {
            arity: 1,
            parse: protocol,
            show: |v, _| v.number().unwrap_or(0).to_string(),
        },
    )
    .invertible()
    .help("[!] --vproto protocol           VIP protocol to match; by number or name,\n                                e.g. \"tcp\"\n"),
    Opt::new("vaddr", Arg::Network)
        .invertible()
        .help("[!] --vaddr address[/mask]      VIP address to match\n"),
    Opt::new("vport", PORT)
        .invertible()
        .help("[!] --vport port                VIP port to match; by number or name,\n                                e.g. \"http\"\n"),
    Opt::new("vdir", Arg::OneOf(&DIRS)).help("    --vdir {ORIGINAL|REPLY}     flow direction of packet\n"),
    Opt::new("vmethod", Arg::OneOf(&METHODS))
        .invertible()
        .help("[!] --vmethod {GATE|IPIP|MASQ}  IPVS forwarding method used\n"),
    Opt::new("vportctl", PORT)
        .invertible()
        .help("[!] --vportctl port             VIP port of the controlling connection to\n                                match, e.g. 21 for FTP\n"),
];

fn protocol(input: &Input<'_>) -> Result<Value, Error> {
    let word = input.text();
    let found =
        number::whole(word, 0, 255).or_else(|| input.ctx.names.protocol(word).map(u64::from));
    let unknown = || Error::parameter(format!("unknown protocol \"{word}\" specified"));
    found.map(Value::Number).ok_or_else(unknown)
}

fn port(input: &Input<'_>) -> Result<Value, Error> {
    let word = input.text();
    let found = crate::parse_port(word, input.ctx.names, None);
    let unknown = || Error::parameter(format!("Port \"{word}\" does not resolve to anything.\n"));
    found.map(|p| Value::Number(p.into())).ok_or_else(unknown)
}

/// `-m ipvs`.
pub static IPVS: Extension = Extension {
    name: "ipvs",
    lower: Lower::Match(|_, ctx| ctx.refuse("ipvs: there is no load balancer")),
    options: OPTIONS,
    help: Help::TABLE.titled("IPVS match options:"),
    finish: |args, _| {
        if args.is_empty() {
            return Err(Error::parameter("IPVS: At least one option is required"));
        }
        // Any other option says that there is a connection.
        if args.iter().any(|g| g.opt != IPVS_OPT) {
            args.remove(IPVS_OPT);
        }
        Ok(())
    },
    list: |x, ctx| {
        let words = [
            "ipvs", "vproto", "vaddr", "vport", "vdir", "vmethod", "vportctl",
        ];
        let one = |g: &crate::Given| {
            let bang = blank_bang(&x.args, g.opt);
            let value = OPTIONS[g.opt].arg.show(&g.value, ctx.family);
            let blank = if value.is_empty() { "" } else { " " };
            format!("{bang} {}{blank}{value}", words[g.opt])
        };
        x.args.iter().map(one).collect()
    },
    cases: CASES,
    ..Extension::MATCH
};

const CASES: &[Case] = &[
    ok("-m ipvs --ipvs"),
    ok("-m ipvs ! --ipvs"),
    saved("-m ipvs --vproto tcp", "-m ipvs --vproto 6"),
    ok(
        "-m ipvs ! --vproto 6 --vaddr 1.2.3.4 --vport 80 --vdir REPLY --vmethod GATE ! --vportctl 21",
    ),
    ok("-m ipvs --vaddr 2001:db8::/32").v6(),
    bad("-m ipvs"),
    bad("-m ipvs --vproto foo"),
    bad("-m ipvs --vdir foo"),
    bad("-m ipvs --vmethod foo"),
    bad("-m ipvs --vport foo"),
];
