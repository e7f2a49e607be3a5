//! The closed language that rules are lowered to.
//!
//! Every match becomes a [`Cond`] over [`Field`]s, every target a list of
//! [`Effect`]s and one [`Verdict`]. The evaluator, the explainer, the analyser and
//! every compiler consume this language and nothing else: none of them can name an
//! extension. Two rules make it safe to reorder and invert:
//!
//! * it is total and two-valued: a test on an absent field is false, so an
//!   extension puts its presence guard *outside* any inversion;
//! * everything that keeps state is a [`Cond::Call`], evaluated in rule order, once,
//!   and only when all conditions before it in its rule held.
#![no_std]

extern crate alloc;

mod common;
mod cond;
mod conds;
mod effect;
mod field;
mod rules;
mod sequence;
mod settle;
mod sockets;
mod step;
mod test;

pub use common::Common;
pub use cond::{Cond, Facts, Leaf, Observer, Truth, eval};
pub use conds::Conds;
pub use effect::{
    CtSpec, Effect, Expr, HashMark, LogSpec, Manip, Mss, NatSource, NatSpec, NflogSpec, NptSpec,
    QueueSpec, RejectKind, SynProxySpec, TcpEcn, TcpOptions, TeeSpec, TproxySpec, ZoneDir, ZoneId,
    ZoneSpec,
};
pub use field::{Field, FieldRow, ReversePath, Scope, ctstate, ctstatus, exthdr, pkttype, socket};
pub use rules::{
    Base, Chain, ChainId, Hook, Policy, Rule, RuleId, Ruleset, Table, TableKind, Verdict,
};
pub use sequence::{Edited, Rules};
pub use sockets::{Owner, Socket};
pub use step::{Shared, SharedTable, Step, StepId, StepInput, TableKey};
pub use test::{Intervals, Ranges, Test};
