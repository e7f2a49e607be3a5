//! `-j SET`: changes a named set, or takes marks from it (kernel `set_target_v3`).

use tidegate_ir::{
    Expr, Field, Hook, Shared, Step, StepInput, TableKey, TableKind, Truth, Verdict,
};
use tidegate_sets::Found;
use tidegate_wire::Family;

use crate::sets::{self, Use};
use crate::{
    Arg, Args, Case, Context, Error, Extension, Families, Input, Instance, Legal, ListCtx, Lower,
    LowerCtx, Opt, Outcome, Place, Refusal, Value, bad, matches::set::parse_set, ok,
};

const ADD: usize = 0;
const DEL: usize = 1;
const MAP: usize = 2;
const EXIST: usize = 3;
const TIMEOUT: usize = 4;
const MAP_MARK: usize = 5;
const MAP_PRIO: usize = 6;
const MAP_QUEUE: usize = 7;
const MAPPED: [usize; 3] = [MAP_MARK, MAP_PRIO, MAP_QUEUE];
/// Longest timeout in seconds (`IPSET_MAX_TIMEOUT`).
const LONGEST: u32 = u32::MAX / 2 / 1000;

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
    lower: Lower::Target(lower),
    families: Families::Both,
    options: OPTIONS,
    legal: Legal {
        extra: check,
        ..Legal::ANYWHERE
    },
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

/// `set_target_v3_checkentry`.
fn check(args: &Args, place: &Place<'_>) -> Result<(), Refusal> {
    if args.has(MAP) && place.table != TableKind::Mangle {
        return Err(Refusal::invalid("SET: --map-set is for the mangle table"));
    }
    let leaving = |hook| matches!(hook, Hook::Forward | Hook::Output | Hook::Postrouting);
    let queued = args.has(MAP_PRIO) || args.has(MAP_QUEUE);
    if queued && !place.hooks.iter().all(|&hook| leaving(hook)) {
        return Err(Refusal::invalid("SET: the packet has no queue there"));
    }
    Ok(())
}

fn lower(args: &Args, ctx: &mut LowerCtx<'_>) -> Outcome {
    let of = |opt| args.text(opt).map(Use::new);
    let timeout = args.number(TIMEOUT).map(|s| (s as u32).min(LONGEST));
    let writes = args.has(MAP_MARK) || args.has(MAP_PRIO);
    let step = ChangeSets {
        key: sets::table(),
        family: ctx.family,
        add: of(ADD),
        del: of(DEL),
        map: of(MAP),
        how: (timeout, args.has(EXIST)),
        mark: args.has(MAP_MARK),
        priority: args.has(MAP_PRIO),
    };
    Outcome::effect(ctx.effect(step, writes), Verdict::Continue)
}

/// What one rule does with sets. The queue of a card is not a packet's here.
#[derive(Clone, Debug)]
struct ChangeSets {
    key: TableKey,
    family: Family,
    add: Option<Use>,
    del: Option<Use>,
    map: Option<Use>,
    how: (Option<u32>, bool),
    mark: bool,
    priority: bool,
}

impl ChangeSets {
    fn uses(&self) -> impl Iterator<Item = &Use> {
        [&self.add, &self.del, &self.map].into_iter().flatten()
    }

    fn write(&self, found: Found, writes: &mut Vec<(Field, Expr)>) {
        let set = |keep: u32, xor: u32| Expr::Masked {
            keep: keep.into(),
            xor: xor.into(),
        };
        if self.mark {
            writes.push((Field::Mark, set(!found.skb.mask, found.skb.mark)));
        }
        if self.priority {
            writes.push((Field::Priority, set(0, found.skb.priority)));
        }
    }
}

impl Step for ChangeSets {
    fn call(&mut self, input: &mut StepInput<'_>) -> Truth {
        let place = (&self.key, self.family);
        let found = sets::with(input, place, |sets, packet, len, now| {
            // What cannot be added or taken out changes nothing.
            if let Some(of) = &self.add {
                let _ = sets.add_packet(&of.set, &of.ask, self.how, packet, (len, now));
            }
            if let Some(of) = &self.del {
                let _ = sets.del_packet(&of.set, &of.ask, packet, now);
            }
            let of = self.map.as_ref()?;
            sets.test(&of.set, &of.ask, packet, len, now)
        });
        if let Some(found) = found.flatten() {
            self.write(found, input.writes);
        }
        Truth::True
    }

    fn describe(&self, _: u64) -> String {
        let names: Vec<&str> = self.uses().map(|of| of.set.as_str()).collect();
        format!("sets {}", names.join(", "))
    }

    fn fresh(&self) -> Box<dyn Step> {
        Box::new(self.clone())
    }

    fn load(&self, shared: &mut Shared) {
        sets::all(shared);
    }

    fn tables(&self) -> Vec<TableKey> {
        self.uses().map(|of| sets::name(&of.set)).collect()
    }

    fn reaches(&self, shared: &Shared) -> Vec<TableKey> {
        sets::reached(self.tables(), shared)
    }
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
        .at(TableKind::Mangle, Hook::Forward),
    bad("-j SET --map-set foo dst --map-mark"),
    bad("-j SET --map-set foo dst --map-prio").at(TableKind::Mangle, Hook::Input),
    bad("-j SET"),
    bad("-j SET --add-set foo"),
    bad("-j SET --add-set foo foo"),
    bad("-j SET --map-set foo dst"),
];
