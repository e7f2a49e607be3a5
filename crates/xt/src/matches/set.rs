//! `-m set`: membership in a named set (kernel `set_match_v4`).

use tidegate_ir::{Cond, Shared, Step, StepInput, TableKey, Truth};
use tidegate_sets::{Ask, Comparison, Sets};
use tidegate_wire::Family;

use super::ranges::blank_bang;
use crate::members;
use crate::sets::{self, Use};
use crate::{
    Arg, Args, Case, Context, Error, Extension, Help, Input, Instance, Lower, LowerCtx, Opt, Value,
    bad, ok, saved,
};

const MATCH_SET: usize = 0;
const RETURN_NOMATCH: usize = 1;
const COUNTERS: usize = 2;
const SUBCOUNTERS: usize = 3;
const PACKETS: [usize; 3] = [4, 5, 6];
const BYTES: [usize; 3] = [7, 8, 9];

/// Most directions of one set.
const DIRS: usize = 6;
/// Longest name.
const NAME: usize = 31;

const NUMBER: Arg = Arg::Int {
    min: 0,
    max: u64::MAX,
    hex: 0,
};

/// A number whose option says itself that it has no inversion.
const ONE_WAY: Arg = Arg::Special {
    arity: 1,
    parse: |input| {
        if input.invert {
            return Err(Error::parameter(format!(
                "--{} option cannot be inverted",
                input.opt.name
            )));
        }
        NUMBER.parse(input)
    },
    show: |v, _| v.number().unwrap_or(0).to_string(),
};

const HELP: &str = " [!] --match-set name flags [--return-nomatch]
   [! --update-counters] [! --update-subcounters]
   [[!] --packets-eq value | --packets-lt value | --packets-gt value
   [[!] --bytes-eq value | --bytes-lt value | --bytes-gt value
\t\t 'name' is the set name from to match,
\t\t 'flags' are the comma separated list of
\t\t 'src' and 'dst' specifications.
";

const OPTIONS: &[Opt] = &[
    Opt::new(
        "match-set",
        Arg::Special {
            arity: 2,
            parse: parse_set,
            show: |v, _| v.text().unwrap_or("").to_owned(),
        },
    )
    .aliases(&["set"])
    .invertible()
    .twice("--match-set can be specified only once")
    .help(HELP),
    Opt::new("return-nomatch", Arg::Flag),
    Opt::new("update-counters", Arg::Flag).invertible(),
    Opt::new("update-subcounters", Arg::Flag).invertible(),
    Opt::new("packets-eq", NUMBER).invertible(),
    Opt::new("packets-lt", ONE_WAY).invertible(),
    Opt::new("packets-gt", ONE_WAY).invertible(),
    Opt::new("bytes-eq", NUMBER).invertible(),
    Opt::new("bytes-lt", ONE_WAY).invertible(),
    Opt::new("bytes-gt", ONE_WAY).invertible(),
];

/// Reads `name src[,dst...]`.
pub(crate) fn parse_set(input: &Input<'_>) -> Result<Value, Error> {
    let &[name, dirs] = input.args else {
        return Err(Error::parameter(format!(
            "--{} requires two args.",
            input.opt.name
        )));
    };
    if name.len() > NAME {
        return Err(Error::parameter(format!(
            "setname `{name}' too long, max {NAME} characters."
        )));
    }
    for (count, dir) in dirs.split(',').enumerate() {
        if count == DIRS {
            return Err(Error::parameter("Can't be more src/dst options than 6."));
        }
        if !matches!(dir, "src" | "dst") {
            return Err(Error::parameter(
                "You must spefify (the comma separated list of) 'src' or 'dst'.",
            ));
        }
    }
    Ok(Value::Text(format!("{name} {dirs}")))
}

/// `-m set`.
pub static SET: Extension = Extension {
    name: "set",
    lower: Lower::Match(lower),
    options: OPTIONS,
    help: Help::TABLE,
    finish,
    list: |x, _| listed(x),
    cases: CASES,
    ..Extension::MATCH
};

fn finish(args: &mut Args, _: &Context<'_>) -> Result<(), Error> {
    if !args.has(MATCH_SET) {
        return Err(Error::parameter(
            "You must specify `--match-set' with proper arguments",
        ));
    }
    for (word, opts) in [("packets", PACKETS), ("bytes", BYTES)] {
        if opts.into_iter().filter(|&o| args.has(o)).count() > 1 {
            return Err(Error::parameter(format!(
                "only one of the --{word}-[eq|lt|gt] is allowed"
            )));
        }
    }
    // Counters are updated unless that is forbidden.
    for opt in [COUNTERS, SUBCOUNTERS] {
        if !args.inverted(opt) {
            args.remove(opt);
        }
    }
    Ok(())
}

fn lower(args: &Args, ctx: &mut LowerCtx<'_>) -> Cond {
    let mut of = Use::new(args.text(MATCH_SET).unwrap_or(""));
    of.ask = Ask {
        return_nomatch: args.has(RETURN_NOMATCH),
        keep_counters: args.has(COUNTERS),
        keep_inner_counters: args.has(SUBCOUNTERS),
        packets: comparison(args, PACKETS),
        bytes: comparison(args, BYTES),
        ..of.ask
    };
    ctx.step(InSet {
        key: sets::table(),
        family: ctx.family,
        of,
        invert: args.inverted(MATCH_SET),
    })
}

fn comparison(args: &Args, [eq, lt, gt]: [usize; 3]) -> Option<Comparison> {
    let number = |opt| args.number(opt);
    let eq = number(eq).map(|n| match args.inverted(eq) {
        true => Comparison::Ne(n),
        false => Comparison::Eq(n),
    });
    eq.or_else(|| number(lt).map(Comparison::Lt))
        .or_else(|| number(gt).map(Comparison::Gt))
}

/// One rule's look into a set.
#[derive(Clone, Debug)]
struct InSet {
    key: TableKey,
    family: Family,
    of: Use,
    invert: bool,
}

impl Step for InSet {
    fn call(&mut self, input: &mut StepInput<'_>) -> Truth {
        let Use { set, ask } = &self.of;
        let found = sets::with(input, (&self.key, self.family), |sets, packet, len, now| {
            sets.test(set, ask, packet, len, now).is_some()
        });
        (found.unwrap_or(false) != self.invert).into()
    }

    fn describe(&self, _: u64) -> String {
        format!("set {}", self.of.set)
    }

    fn fresh(&self) -> Box<dyn Step> {
        Box::new(self.clone())
    }

    fn load(&self, shared: &mut Shared) {
        sets::all(shared);
    }

    fn tables(&self) -> Vec<TableKey> {
        vec![sets::name(&self.of.set)]
    }

    fn settled(&self, shared: &Shared, most: usize) -> Option<Cond> {
        let sets = shared.get(&self.key)?;
        let found = members::cond(sets, &self.of, self.family, most)?;
        Some(found.inverted_if(self.invert))
    }

    fn settled_as_of(&self, shared: &Shared, most: usize) -> Option<Vec<u64>> {
        let sets = shared.get::<Sets>(&self.key)?;
        if !members::may_be_cond(sets, &self.of, self.family, most) {
            return None;
        }
        let names = self.reaches(shared).into_iter();
        let all: Option<Vec<_>> = names.map(|key| sets.changes_of(&key.name)).collect();
        Some(all?.concat())
    }

    fn reaches(&self, shared: &Shared) -> Vec<TableKey> {
        sets::reached(self.tables(), shared)
    }
}

fn listed(x: &Instance) -> String {
    let one = |g: &crate::Given| {
        let bang = blank_bang(&x.args, g.opt);
        let name = OPTIONS[g.opt].name;
        match &g.value {
            Value::Text(set) => format!("{bang} {name} {set}"),
            Value::Number(n) => format!("{bang} {name} {n}"),
            _ => format!("{bang} {name}"),
        }
    };
    x.args.iter().map(one).collect()
}

const CASES: &[Case] = &[
    ok("-m set --match-set foo src"),
    ok("-m set --match-set foo src,dst,src,dst,src,dst").v6(),
    ok("-m set ! --match-set foo dst --return-nomatch"),
    ok("-m set --match-set foo src ! --update-counters ! --update-subcounters"),
    ok("-m set --match-set foo src ! --packets-eq 5 --bytes-gt 7"),
    saved(
        "-m set --match-set foo src --update-counters",
        "-m set --match-set foo src",
    ),
    bad("-m set --match-set foo src --packets-eq 5 --packets-lt 6"),
    bad("-m set --match-set foo src ! --packets-lt 5"),
    bad("-m set --match-set foo src,dst,src,dst,src,dst,src"),
    bad("-m set --match-set foo foo"),
    bad("-m set --match-set foo"),
    bad("-m set --match-set aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa src"),
    bad("-m set --match-set foo src --match-set bar dst"),
    bad("-m set"),
];
