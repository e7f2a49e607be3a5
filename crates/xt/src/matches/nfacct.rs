//! `-m nfacct`: counts the packet in a named counter (kernel `nfacct_mt`).

use crate::{Arg, Case, Extension, Lower, Opt, bad, ok};

const NAME: usize = 0;

const OPTIONS: &[Opt] = &[Opt::new("nfacct-name", Arg::Name { max: 31 })
    .mandatory()
    .help(" --nfacct-name STRING\t\tName of accouting area\n")];

/// `-m nfacct`.
pub static NFACCT: Extension = Extension {
    name: "nfacct",
    lower: Lower::Match(|_, ctx| ctx.refuse("nfacct: there are no named counters")),
    options: OPTIONS,
    list: |x, _| format!(" nfacct-name  {}", x.args.text(NAME).unwrap_or("")),
    cases: CASES,
    ..Extension::MATCH
};

const CASES: &[Case] = &[ok("-m nfacct --nfacct-name tcp-traffic"), bad("-m nfacct")];
