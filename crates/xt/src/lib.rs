//! Matches and targets.
//!
//! One [`Extension`] is one file: what it is, its option table, how it prints, where
//! the kernel accepts it, what it means, and the cases and packets that prove it.
//!
//! A command line uses the crate like this:
//!
//! 1. `-m NAME`: [`find_match`]; `-j NAME`: [`find_target`], both per family; an
//!    option that no loaded extension knows, after `-p PROTO`: [`protocol_match`].
//!    Each use starts a [`Draft`].
//! 2. The long names of a draft's options are [`Opt::names`] over
//!    [`Extension::options`]; how many words follow one is [`Opt::arity`]
//!    ([`Draft::set`] says what to pass). `!` before the option is its `invert`.
//! 3. At the end of the rule, [`Draft::finish`] gives an [`Instance`]. Two rules are
//!    the same rule when their instances are equal in order.
//! 4. [`Instance::save`] and [`Instance::list`] print, [`help()`] explains.
//! 5. [`Instance::check`] asks what the kernel would say about the place; its
//!    [`Refusal`] carries the kernel's error number.
//! 6. [`Instance::condition`] of every match and [`Instance::outcome`] of the target
//!    lower the rule. Jumps to chains are not extensions.
//!
//! Errors are [`Error`]s with the tool's own text and exit status.

pub mod matches;
pub mod targets;

mod dscp;
mod error;
mod extension;
mod help;
mod instance;
mod members;
pub mod names;
pub mod number;
mod option;
mod packets;
mod proof;
mod registry;
pub mod sets;
pub mod text;
mod tos;
mod value;

pub use error::{Errno, Error, Refusal, Status};
pub use extension::{
    Context, Extension, Families, Help, Legal, ListCtx, Lower, LowerCtx, Outcome, Place, Sockets,
};
pub use help::help;
pub use instance::{Draft, Instance, save_all};
pub use names::{List, Names, NoNames, Protocols, TimeoutPolicy};
pub use option::{
    Arg, Input, Opt, Words, parse_port, show_mark, show_ports, starts_with_ignoring_case,
    syslog_level,
};
pub use proof::{Case, Expect, Hit, Vector, bad, dropped, no, ok, saved, yes};
pub use registry::{ALL, find_match, find_target, protocol_match};
pub use value::{Args, Given, NatTo, Value};
