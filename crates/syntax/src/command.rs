//! A parsed command line.

use std::sync::Arc;

use tidegate_ir::TableKind;

use crate::{Counters, Spec};

/// What a command line asks for.
#[derive(Clone, Debug)]
pub struct Invocation {
    /// Table it works on.
    pub table: TableKind,
    /// What to do.
    pub command: Command,
    /// How to show it.
    pub view: View,
    /// Warnings to print first, on the error output.
    pub warnings: Vec<String>,
}

/// How listings look.
#[derive(Clone, Copy, Debug, Default)]
pub struct View {
    /// `-v`.
    pub verbose: bool,
    /// `-n`.
    pub numeric: bool,
    /// `-x`.
    pub exact: bool,
    /// `--line-numbers`.
    pub line_numbers: bool,
}

/// Something to do in one table.
#[derive(Clone, Debug)]
pub enum Command {
    /// Nothing more: the text has been asked for (`-V`, `-h`), or the line is for the
    /// other family.
    Print(String),
    /// `-A`, `-I` (`at`: rule number), `-D`, `-C` with rules; `-R`.
    Rules {
        /// Which.
        action: Action,
        /// Chain.
        chain: String,
        /// The rules one line stands for, at least one.
        rules: Vec<Arc<Spec>>,
        /// `-c`.
        counters: Counters,
    },
    /// `-D` by number.
    DeleteNumber {
        /// Chain.
        chain: String,
        /// From 1.
        number: u32,
    },
    /// `-L` or `-S`, then `-Z` if asked for.
    Show {
        /// `-S`.
        as_rules: bool,
        /// Only this chain.
        chain: Option<String>,
        /// Only this rule, from 1.
        number: Option<u32>,
        /// `-Z` too.
        zero: bool,
    },
    /// `-F`.
    Flush(Option<String>),
    /// `-Z`.
    Zero {
        /// Only this chain.
        chain: Option<String>,
        /// Only this rule, from 1.
        number: Option<u32>,
    },
    /// `-N`.
    NewChain(String),
    /// `-X`.
    DeleteChain(Option<String>),
    /// `-E`.
    Rename {
        /// Its name so far.
        old: String,
        /// Its new name.
        new: String,
    },
    /// `-P`.
    Policy {
        /// Chain.
        chain: String,
        /// The policy's name as given.
        policy: String,
        /// `-c`.
        counters: Option<Counters>,
    },
}

/// What to do with rules.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// `-A`.
    Append,
    /// `-I`, before this rule number.
    Insert(u32),
    /// `-R` of this rule number.
    Replace(u32),
    /// `-D`.
    Delete,
    /// `-C`.
    Check,
}
