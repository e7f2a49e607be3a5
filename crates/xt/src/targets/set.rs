//! `-j SET`: changes a named set, or takes marks from it (kernel `set_target_v3`).

use crate::{
    Arg, Args, Case, Context, Error, Extension, Families, Input, Instance, ListCtx, Lower, Opt,
    Value, bad, matches::set::parse_set, ok,
};

const ADD: usize = 0;
const DEL: usize = 1;
const MAP: usize = 2;
const EXIST: usize = 3;
const TIMEOUT: usize = 4;
const MAPPED: [usize; 3] = [5, 6, 7];

const NAMED: Arg = Arg::Special {
    arity: 2,
    parse: parse_set,
    show: |v, _| v.text().unwrap_or("").to_owned(),
};

const TIMEOUT_ARG: Arg = Arg::Special {
    arity: 1,
    parse: |input: &Input<'_>| {
        let seconds = crate::number::whole(input.text(), 0, u64::from(u32::MAX) - 1);
        seconds.map(Value::Number).ok_or_else(|| {
            Error::parameter("Invalid value for option --timeout or out of range 0-4294967294")
        })
    },
    show: |v, _| v.number().unwrap_or(0).to_string(),
};

const HELP: &str = " --add-set name flags [--exist] [--timeout n]
 --del-set name flags
 --map-set name flags [--map-mark] [--map-prio] [--map-queue]
\t\tadd/del src/dst IP/port from/to named sets,
\t\twhere flags are the comma separated list of
\t\t'src' and 'dst' specifications.
";

const OPTIONS: &[Opt] = &[
    Opt::new("add-set", NAMED)
        .twice("--add-set can be specified only once")
        .help(HELP),
    Opt::new("del-set", NAMED).twice("--del-set can be specified only once"),
    Opt::new("map-set", NAMED).twice("--map-set can be specified only once"),
    Opt::new("exist", Arg::Flag),
    Opt::new("timeout", TIMEOUT_ARG),
    Opt::new("map-mark", Arg::Flag),
    Opt::new("map-prio", Arg::Flag),
    Opt::new("map-queue", Arg::Flag),
];

/// `-j SET`.
pub static SET: Extension = Extension {
    name: "SET",
    lower: Lower::Target(|_, ctx| ctx.refuse_target("SET: there are no sets")),
    families: Families::Both,
    options: OPTIONS,
    finish,
    list,
    cases: CASES,
    ..Extension::TARGET
};

fn finish(args: &mut Args, _: &Context<'_>) -> Result<(), Error> {
    if ![ADD, DEL, MAP].iter().any(|&o| args.has(o)) {
        return Err(Error::parameter(
            "You must specify either `--add-set' or `--del-set' or `--map-set'",
        ));
    }
    if args.has(MAP) && !MAPPED.iter().any(|&o| args.has(o)) {
        return Err(Error::parameter(
            "You must specify flags `--map-mark' or '--map-prio` or `--map-queue'",
        ));
    }
    for (opt, name) in [(EXIST, "exist"), (TIMEOUT, "timeout")] {
        if args.has(opt) && !args.has(ADD) {
            return Err(Error::parameter(format!(
                "Flag `--{name}' can be used with `--add-set' only"
            )));
        }
    }
    Ok(())
}

fn list(x: &Instance, ctx: &ListCtx<'_>) -> String {
    let one = |g: &crate::Given| {
        let value = OPTIONS[g.opt].arg.show(&g.value, ctx.family);
        format!(" {} {value}", OPTIONS[g.opt].name)
            .trim_end()
            .to_owned()
    };
    x.args.iter().map(one).collect()
}

const CASES: &[Case] = &[
    ok("-j SET --add-set foo src"),
    ok("-j SET --add-set foo src,dst --exist --timeout 5").v6(),
    ok("-j SET --del-set foo dst,src"),
    ok("-j SET --map-set foo dst --map-mark --map-prio --map-queue")
        .at(tidegate_ir::TableKind::Mangle, tidegate_ir::Hook::Forward),
    bad("-j SET"),
    bad("-j SET --add-set foo"),
    bad("-j SET --add-set foo foo"),
    bad("-j SET --map-set foo dst"),
];
