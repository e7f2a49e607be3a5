//! `-m cluster`: the share of the connections that a node of a cluster takes (kernel
//! `xt_cluster_mt`): the original source address, hashed (Bob Jenkins' lookup3) and scaled
//! to the number of nodes. The connection that announced this one decides for it.

use tidegate_ir::{Cond, Field};
use tidegate_wire::Family;
use tidegate_wire::jhash::jhash;

use super::{pure::pure, ranges::bang};
use crate::{
    Arg, Args, Case, Context, Error, Extension, Help, Instance, Lower, LowerCtx, Opt, Value, bad,
    ok, saved,
};

const NODES: usize = 0;
const NODE: usize = 1;
const MASK: usize = 2;
const SEED: usize = 3;

const OPTIONS: &[Opt] = &[
    Opt::new(
        "cluster-total-nodes",
        Arg::Int {
            min: 1,
            max: 32,
            hex: 0,
        },
    )
    .help("  --cluster-total-nodes <num>\t\tSet number of total nodes in cluster\n"),
    Opt::new(
        "cluster-local-node",
        Arg::Int {
            min: 1,
            max: 32,
            hex: 0,
        },
    )
    .invertible()
    .excludes(&[MASK])
    .help("  [!] --cluster-local-node <num>\tSet the local node number\n"),
    Opt::new(
        "cluster-local-nodemask",
        Arg::Int {
            min: 1,
            max: 32,
            hex: 8,
        },
    )
    .invertible()
    .help("  [!] --cluster-local-nodemask <num>\tSet the local node mask\n"),
    Opt::new(
        "cluster-hash-seed",
        Arg::Int {
            min: 0,
            max: u32::MAX as u64,
            hex: 8,
        },
    )
    .help("  --cluster-hash-seed <num>\t\tSet seed value of the Jenkins hash\n"),
];

/// `-m cluster`.
pub static CLUSTER: Extension = Extension {
    name: "cluster",
    lower: Lower::Match(lower),
    options: OPTIONS,
    help: Help::TABLE,
    finish,
    save: |x, family| {
        [MASK, NODES, SEED]
            .map(|opt| x.save_option(opt, family))
            .concat()
    },
    list,
    cases: CASES,
    ..Extension::MATCH
};

fn finish(args: &mut Args, _: &Context<'_>) -> Result<(), Error> {
    if !args.has(NODE) && !args.has(MASK) {
        return Err(Error::parameter(
            "cluster match: `--cluster-local-node' or`--cluster-local-nodemask' is missing",
        ));
    }
    for (opt, name) in [(SEED, "cluster-hash-seed"), (NODES, "cluster-total-nodes")] {
        if !args.has(opt) {
            return Err(Error::parameter(format!(
                "cluster: option \"--{name}\" must be specified\n"
            )));
        }
    }
    let nodes = args.number(NODES).unwrap_or(1);
    if let Some(given) = args.remove(NODE) {
        let node = given.value.number().unwrap_or(1);
        if node > nodes {
            return Err(Error::parameter(
                "cluster match: `--cluster-local-node' must be <= `--cluster-total-nodes'",
            ));
        }
        args.set(MASK, given.invert, Value::Number(1 << (node - 1)));
    }
    if args.number(MASK).unwrap_or(0) >= 1 << nodes {
        return Err(Error::parameter(
            "cluster match: `--cluster-local-nodemask' too big for `--cluster-total-nodes'",
        ));
    }
    Ok(())
}

fn list(x: &Instance, _: &crate::ListCtx<'_>) -> String {
    let n = |opt| x.args.number(opt).unwrap_or(0);
    format!(
        " cluster {}node_mask=0x{:08x} total_nodes={} hash_seed=0x{:08x}",
        bang(&x.args, MASK),
        n(MASK),
        n(NODES),
        n(SEED)
    )
}

fn lower(args: &Args, ctx: &mut LowerCtx<'_>) -> Cond {
    let number = |opt| args.number(opt).unwrap_or(0) as u32;
    let (mask, nodes, seed, family) = (number(MASK), number(NODES), number(SEED), ctx.family);
    let test = pure(ctx, "whose connection it is", move |input| {
        let src = input.facts.load(Field::CtMasterSrc).unwrap_or(0);
        mask & 1 << node(src, family, seed, nodes) != 0
    });
    Cond::all(vec![
        Cond::eq(Field::HasCt, 1),
        test.inverted_if(args.inverted(MASK)),
    ])
}

/// The node that takes connections from `src`.
fn node(src: u128, family: Family, seed: u32, nodes: u32) -> u32 {
    // Addresses are hashed as a little-endian machine has them in memory.
    let hash = match family {
        Family::V4 => jhash(&[(src as u32).swap_bytes()], seed),
        // Of an IPv6 address the kernel takes the first word only.
        Family::V6 => jhash(&[((src >> 96) as u32).swap_bytes()], seed),
    };
    ((u64::from(hash) * u64::from(nodes)) >> 32) as u32
}

const CASES: &[Case] = &[
    saved(
        "-m cluster --cluster-total-nodes 3 --cluster-local-node 3 --cluster-hash-seed 0xdeadbeef",
        "-m cluster --cluster-local-nodemask 0x00000004 --cluster-total-nodes 3 --cluster-hash-seed 0xdeadbeef",
    ),
    ok("-m cluster ! --cluster-local-nodemask 0x00000003 --cluster-total-nodes 2 --cluster-hash-seed 0x00000001").v6(),
    bad("-m cluster --cluster-total-nodes 3"),
    bad("-m cluster --cluster-total-nodes 2 --cluster-local-node 2"),
    bad("-m cluster --cluster-total-nodes 2 --cluster-local-node 3 --cluster-hash-seed 1"),
    bad("-m cluster --cluster-total-nodes 2 --cluster-local-nodemask 4 --cluster-hash-seed 1"),
    bad("-m cluster --cluster-total-nodes 2 --cluster-local-nodemask 4 --cluster-local-node 1 --cluster-hash-seed 1"),
    bad("-m cluster --cluster-total-nodes 33 --cluster-local-node 1 --cluster-hash-seed 1"),
    bad("-m cluster --cluster-local-node 1 --cluster-hash-seed 1"),
    bad("-m cluster"),
];
