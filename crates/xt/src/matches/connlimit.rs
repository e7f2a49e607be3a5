//! `-m connlimit`: how many connections an address or network has (kernel
//! `connlimit_mt`, `nf_conncount_count`). Each rule keeps its own list of them; those that
//! have left the table or are closing no longer count, the packet's own always does.

use std::collections::HashMap;

use tidegate_ir::{Cond, Facts, Field, Step, StepInput, Truth};
use tidegate_wire::Family;

use crate::{
    Arg, Args, Case, Context, Error, Extension, Input, Instance, ListCtx, Lower, LowerCtx, Opt,
    Value, bad, number, ok, saved, text,
};

const UPTO: usize = 0;
const ABOVE: usize = 1;
const MASK: usize = 2;
const SADDR: usize = 3;
const DADDR: usize = 4;

const COUNT: Arg = Arg::Int {
    min: 0,
    max: u32::MAX as u64,
    hex: 0,
};

const OPTIONS: &[Opt] = &[
    Opt::new("connlimit-upto", COUNT)
        .invertible()
        .excludes(&[ABOVE])
        .help("  --connlimit-upto n     match if the number of existing connections is 0..n\n"),
    Opt::new("connlimit-above", COUNT)
        .invertible()
        .excludes(&[UPTO])
        .help("  --connlimit-above n    match if the number of existing connections is >n\n"),
    Opt::new(
        "connlimit-mask",
        Arg::Special {
            arity: 1,
            parse: parse_mask,
            show: |v, _| v.number().unwrap_or(0).to_string(),
        },
    )
    .help("  --connlimit-mask n     group hosts using prefix length (default: max len)\n"),
    Opt::new("connlimit-saddr", Arg::Flag)
        .excludes(&[DADDR])
        .help("  --connlimit-saddr      select source address for grouping\n"),
    Opt::new("connlimit-daddr", Arg::Flag)
        .excludes(&[SADDR])
        .help("  --connlimit-daddr      select destination addresses for grouping\n"),
];

/// Reads a mask as a number of bits or an address. The tool lets numbers that are too
/// large for IPv4 through.
fn parse_mask(input: &Input<'_>) -> Result<Value, Error> {
    let (word, family) = (input.text(), input.ctx.family);
    let width = text::full_mask(family).count_ones();
    let by_length =
        number::whole(word, 0, 128).filter(|&n| family == Family::V4 || n <= width.into());
    let by_mask = || {
        let mask = text::parse_addr(word, family)?;
        text::prefix_len(mask, family).map(u64::from)
    };
    let len = by_length.map(|n| n.min(width.into())).or_else(by_mask);
    len.map(Value::Number).ok_or_else(|| {
        Error::parameter(format!(
            "connlimit: bad value for option \"--connlimit-mask\", neither a valid network mask nor valid CIDR (0-{width}).\n"
        ))
    })
}

/// `-m connlimit`.
pub static CONNLIMIT: Extension = Extension {
    name: "connlimit",
    lower: Lower::Match(lower),
    options: OPTIONS,
    finish,
    list,
    cases: CASES,
    ..Extension::MATCH
};

fn finish(args: &mut Args, ctx: &Context<'_>) -> Result<(), Error> {
    if !args.has(UPTO) && !args.has(ABOVE) {
        return Err(Error::parameter(
            "You must specify \"--connlimit-above\" or \"--connlimit-upto\".",
        ));
    }
    for (opt, other) in [(UPTO, ABOVE), (ABOVE, UPTO)] {
        if args.inverted(opt)
            && let Some(given) = args.remove(opt)
        {
            args.set(other, false, given.value);
            break;
        }
    }
    if !args.has(MASK) {
        let width = text::full_mask(ctx.family).count_ones();
        args.set(MASK, false, Value::Number(width.into()));
    }
    if !args.has(DADDR) {
        args.set(SADDR, false, Value::Flag);
    }
    Ok(())
}

fn list(x: &Instance, _: &ListCtx<'_>) -> String {
    let side = if x.args.has(DADDR) { "dst" } else { "src" };
    let mask = x.args.number(MASK).unwrap_or(0);
    match (x.args.number(UPTO), x.args.number(ABOVE)) {
        (Some(n), _) => format!(" #conn {side}/{mask} <= {n}"),
        (None, n) => format!(" #conn {side}/{mask} > {}", n.unwrap_or(0)),
    }
}

fn lower(args: &Args, ctx: &mut LowerCtx<'_>) -> Cond {
    let len = args.number(MASK).and_then(|n| u32::try_from(n).ok());
    let count = ctx.step(Count {
        side: if args.has(DADDR) {
            Field::Dst
        } else {
            Field::Src
        },
        mask: len
            .and_then(|n| text::prefix_mask(n, ctx.family))
            .unwrap_or(0),
        limit: args.number(UPTO).or(args.number(ABOVE)).unwrap_or(0),
        lists: HashMap::new(),
        sweep_at: SWEEP,
        last: 0,
    });
    // Connections are tracked for its sake.
    let tracked = Cond::range(Field::HasCt, 0, 1);
    Cond::all(vec![tracked, count.inverted_if(args.has(UPTO))])
}

/// Lists that are kept before the first time all are looked through.
const SWEEP: usize = 1024;

/// The connections of each address or network; true when there are more than the limit.
#[derive(Clone, Debug)]
struct Count {
    side: Field,
    mask: u128,
    limit: u64,
    lists: HashMap<u128, Vec<u64>>,
    sweep_at: usize,
    last: usize,
}

impl Count {
    fn count(&mut self, facts: &mut dyn Facts) -> usize {
        if self.lists.len() >= self.sweep_at {
            self.lists.retain(|_, list| {
                list.retain(|&id| facts.is_open(id));
                !list.is_empty()
            });
            self.sweep_at = SWEEP.max(self.lists.len() * 2);
        }
        let key = facts.load(self.side).unwrap_or(0) & self.mask;
        let own = facts.connection();
        let list = self.lists.entry(key).or_default();
        list.retain(|&id| Some(id) == own || facts.is_open(id));
        match own {
            Some(id) if list.contains(&id) => list.len(),
            Some(id) => {
                list.push(id);
                list.len()
            }
            None => list.len() + 1,
        }
    }
}

impl Step for Count {
    fn call(&mut self, input: &mut StepInput<'_>) -> Truth {
        self.last = self.count(input.facts);
        (self.last as u64 > self.limit).into()
    }

    fn describe(&self, _: u64) -> String {
        format!("{} connections", self.last)
    }

    fn fresh(&self) -> Box<dyn Step> {
        Box::new(Count {
            lists: HashMap::new(),
            sweep_at: SWEEP,
            last: 0,
            ..self.clone()
        })
    }
}

const CASES: &[Case] = &[
    saved(
        "-m connlimit --connlimit-upto 0",
        "-m connlimit --connlimit-upto 0 --connlimit-mask 32 --connlimit-saddr",
    ),
    ok("-m connlimit --connlimit-above 4294967295 --connlimit-mask 0 --connlimit-saddr"),
    saved(
        "-m connlimit --connlimit-above 10 --connlimit-daddr --connlimit-mask 24",
        "-m connlimit --connlimit-above 10 --connlimit-mask 24 --connlimit-daddr",
    ),
    saved(
        "-m connlimit --connlimit-above 10 --connlimit-mask 33",
        "-m connlimit --connlimit-above 10 --connlimit-mask 32 --connlimit-saddr",
    ),
    saved(
        "-m connlimit --connlimit-above 10 --connlimit-mask 255.255.0.0",
        "-m connlimit --connlimit-above 10 --connlimit-mask 16 --connlimit-saddr",
    ),
    saved(
        "-m connlimit ! --connlimit-above 10",
        "-m connlimit --connlimit-upto 10 --connlimit-mask 32 --connlimit-saddr",
    ),
    saved(
        "-m connlimit ! --connlimit-upto 10",
        "-m connlimit --connlimit-above 10 --connlimit-mask 32 --connlimit-saddr",
    ),
    saved(
        "-m connlimit --connlimit-above 10",
        "-m connlimit --connlimit-above 10 --connlimit-mask 128 --connlimit-saddr",
    )
    .v6(),
    ok("-m connlimit --connlimit-above 10 --connlimit-mask 64 --connlimit-saddr").v6(),
    bad("-m connlimit --connlimit-upto 4294967296"),
    bad("-m connlimit --connlimit-upto -1"),
    bad("-m connlimit --connlimit-above 10 --connlimit-mask -1"),
    bad("-m connlimit --connlimit-above 10 --connlimit-mask 129").v6(),
    bad("-m connlimit --connlimit-upto 10 --connlimit-above 5"),
    bad("-m connlimit --connlimit-upto 10 --connlimit-daddr --connlimit-saddr"),
    bad("-m connlimit --connlimit-mask 24"),
    bad("-m connlimit"),
];

#[cfg(test)]
mod tests {
    use tidegate_ir::StepId;

    use super::*;

    /// A packet of one connection, and those that are open.
    struct World {
        own: u64,
        open: Vec<u64>,
    }

    impl Facts for World {
        fn load(&mut self, _: Field) -> Option<u128> {
            Some(0x0a00_0002)
        }
        fn step(&mut self, _: StepId) -> Truth {
            Truth::False
        }
        fn connection(&mut self) -> Option<u64> {
            Some(self.own)
        }
        fn is_open(&mut self, id: u64) -> bool {
            self.open.contains(&id)
        }
    }

    #[test]
    fn counts_those_that_are_open_and_its_own() {
        let mut count = Count {
            side: Field::Src,
            mask: 0xffff_ff00,
            limit: 1,
            lists: HashMap::new(),
            sweep_at: 1,
            last: 0,
        };
        let mut at = |own, open: &[u64]| {
            count.count(&mut World {
                own,
                open: open.to_vec(),
            })
        };
        assert_eq!(at(1, &[]), 1);
        assert_eq!(at(1, &[1]), 1, "not twice");
        assert_eq!(at(2, &[1]), 2);
        assert_eq!(at(3, &[2]), 2, "the first has ended");
    }
}
