//! The iptables command line, rules files and listings.
//!
//! * [`Reader`] turns the words of one command line into an [`Invocation`], and
//!   [`run`] carries it out on a [`Ruleset`];
//! * [`restore()`] reads rules files, [`save`] prints them;
//! * [`lower()`] makes what the engine runs, with the source of every rule.
//!
//! Texts, exit statuses and formats are those of iptables 1.8.13 (legacy). There is
//! no file, clock or name database in here: callers pass text in and [`Names`].
//!
//! [`Names`]: tidegate_xt::Names

mod address;
mod ahead;
mod apply;
mod change;
mod check;
mod command;
mod error;
pub mod getopt;
mod help;
mod list;
mod lower;
mod model;
mod options;
mod parse;
mod restore;
pub mod save;
pub mod words;

pub use apply::run;
pub use change::Change;
pub use check::{fits, table as check_table};
pub use command::{Action, Command, Invocation, View};
pub use error::{Failure, reply};
pub use list::Printer;
pub use lower::{
    Lowered, RuleOrigin, WholeChains, lower, lower_knowing, lower_one, lower_unnamed, tables_of,
};
pub use model::{
    BasePolicy, Chain, Counters, Iface, Net, Proto, Rule, Ruleset, Slot, Spec, Table, Target,
    is_verdict,
};
pub use options::long_options;
pub use parse::Reader;
pub use restore::{
    CounterMode, Options as RestoreOptions, Printed, Refused, Salvage, parse as parse_rules,
    restore, salvage,
};
pub use tidegate_xt::Sockets;

/// The version of iptables whose language this is.
pub const VERSION: &str = "1.8.13";
