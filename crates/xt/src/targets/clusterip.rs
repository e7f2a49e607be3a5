//! `-j CLUSTERIP`: an address that several machines share (gone from the kernel since 6.3, where
//! `-m cluster` does it). Read and saved; rules with it are not loaded.

use tidegate_ir::Hook;
use tidegate_wire::Family;

use crate::{
    Arg, Error, Extension, Families, Help, Input, Instance, Legal, ListCtx, Lower, Opt, Value,
    Words, bad, ok,
};

const NEW: usize = 0;
const MODE: usize = 1;
const MAC: usize = 2;
const TOTAL: usize = 3;
const LOCAL: usize = 4;
const INIT: usize = 5;

const MODES: Words = Words {
    list: &[
        ("sourceip", 0),
        ("sourceip-sourceport", 1),
        ("sourceip-sourceport-destport", 2),
    ],
    prefix: false,
    unknown: "Unknown hashmode \"{}\"\n",
};

const fn number(min: u64, max: u64) -> Arg {
    Arg::Int { min, max, hex: 0 }
}

const OPTIONS: &[Opt] = &[
    Opt::new("new", Arg::Flag).help("  --new\t\t\t Create a new ClusterIP\n"),
    Opt::new("hashmode", Arg::OneOf(&MODES)).help(
        "  --hashmode <mode>\t\t Specify hashing mode\n\t\t\t\t\tsourceip\n\
         \t\t\t\t\tsourceip-sourceport\n\t\t\t\t\tsourceip-sourceport-destport\n",
    ),
    Opt::new(
        "clustermac",
        Arg::Special {
            arity: 1,
            parse: mac,
            show: |v, _| v.text().unwrap_or("").to_owned(),
        },
    )
    .help("  --clustermac <mac>\t\t Set clusterIP MAC address\n"),
    Opt::new("total-nodes", number(1, 16))
        .help("  --total-nodes <num>\t\t Set number of total nodes in cluster\n"),
    Opt::new("local-node", number(0, 16))
        .help("  --local-node <num>\t\t Set the local node number\n"),
    Opt::new("hash-init", number(0, u32::MAX as u64))
        .help("  --hash-init <num>\t\t Set init value of the Jenkins hash\n"),
];

/// `-j CLUSTERIP`.
pub static CLUSTERIP: Extension = Extension {
    name: "CLUSTERIP",
    lower: Lower::Target(|_, ctx| {
        ctx.refuse_target("CLUSTERIP: there is none since Linux 6.3; `-m cluster` does the same")
    }),
    families: Families::Only(Family::V4),
    options: OPTIONS,
    help: Help::TABLE,
    legal: Legal::hooks(&[Hook::Input]),
    finish: |args, _| {
        let all = [MODE, MAC, TOTAL, LOCAL].iter().all(|&opt| args.has(opt));
        if args.has(NEW) && !all {
            return Err(Error::parameter(
                "CLUSTERIP target: Invalid parameter combination\n",
            ));
        }
        Ok(())
    },
    list,
    cases: &[
        ok("-j CLUSTERIP --new --hashmode sourceip \
            --clustermac 01:AA:7B:47:F7:D7 --total-nodes 2 --local-node 1 --hash-init 1"),
        bad("-j CLUSTERIP --new"),
        bad(
            "-j CLUSTERIP --new --hashmode other --clustermac 01:AA:7B:47:F7:D7 --total-nodes 2 --local-node 1",
        ),
        bad(
            "-j CLUSTERIP --new --hashmode sourceip --clustermac 01:AA --total-nodes 2 --local-node 1",
        ),
        bad(
            "-j CLUSTERIP --new --hashmode sourceip --clustermac 01:AA:7B:47:F7:D7 --total-nodes 17 --local-node 1",
        ),
        bad("-j CLUSTERIP").v6(),
    ],
    ..Extension::TARGET
};

fn mac(input: &Input<'_>) -> Result<Value, Error> {
    let word = input.text();
    let parts: Vec<&str> = word.split(':').collect();
    let byte = |part: &&str| part.len() == 2 && part.bytes().all(|b| b.is_ascii_hexdigit());
    match parts.len() == 6 && parts.iter().all(byte) {
        true => Ok(Value::Text(word.to_ascii_uppercase())),
        false => Err(Error::parameter(format!(
            "Invalid MAC specification \"{word}\"\n"
        ))),
    }
}

fn list(x: &Instance, ctx: &ListCtx<'_>) -> String {
    if !x.args.has(NEW) {
        return " CLUSTERIP".to_owned();
    }
    let said = [
        (MODE, "hashmode"),
        (MAC, "clustermac"),
        (TOTAL, "total_nodes"),
        (LOCAL, "local_node"),
        (INIT, "hash_init"),
    ];
    let words = said.iter().map(|(opt, name)| {
        let given = x.args.iter().find(|g| g.opt == *opt);
        let value = given.map(|g| OPTIONS[*opt].arg.show(&g.value, ctx.family));
        format!(" {name}={}", value.unwrap_or_else(|| "0".to_owned()))
    });
    format!(" CLUSTERIP{}", words.collect::<String>())
}
