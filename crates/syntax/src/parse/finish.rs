//! What a line means, once all of it is read.

use std::sync::Arc;

use smallvec::smallvec;
use tidegate_ir::TableKind;

use super::{CHAIN_MAX, Line, Verb};
use crate::options::{self, BIT_NAMES, bit};
use crate::{Action, Command, Failure, Invocation, Spec, Target, View, address};

impl Line<'_, '_> {
    pub(super) fn finish(mut self) -> Result<Invocation, Failure> {
        let verb = self.verb.unwrap_or_default();
        let drop = self.jump.is_some_and(|j| j.0 == "DROP") || verb.other == "DROP";
        let nat = match self.reader.restoring {
            Some(kind) => kind == TableKind::Nat,
            None => self.table == Some("nat"),
        };
        if drop && nat {
            return Err(Failure::usage(
                "\nThe \"nat\" table is not intended for filtering, the use of DROP is therefore inhibited.\n\n",
            ));
        }
        let spec = self.finish_drafts()?;
        if self.words.is_left() {
            return Err(Failure::usage("unknown arguments found on commandline"));
        }
        if verb.letter == char::default() {
            return Err(Failure::usage("no command specified"));
        }
        if self.invert {
            return Err(Failure::usage("nothing appropriate following !"));
        }
        let rules = match verb.letter {
            'A' | 'I' | 'R' | 'D' | 'C' => self.expand(spec)?,
            _ => Vec::new(),
        };
        self.check_options(verb.letter)?;
        if let Some(chain) = verb.chain {
            self.check_chain(verb.letter, chain)?;
        }
        if verb.letter == 'R' && rules.len() != 1 {
            return Err(Failure::usage(
                "Replacement rule does not specify a unique address",
            ));
        }
        let kind = self.table_kind()?;
        let command = self.command(verb, rules);
        Ok(self.invocation(kind, command))
    }

    fn table_kind(&self) -> Result<TableKind, Failure> {
        if let Some(kind) = self.reader.restoring {
            return Ok(kind);
        }
        let name = self.table.unwrap_or("filter");
        TableKind::from_name(name).ok_or_else(|| Failure::no_table(self.reader.tool, name))
    }

    /// The rule without addresses.
    fn finish_drafts(&mut self) -> Result<Spec, Failure> {
        let ctx = self.context();
        let mut spec = Spec {
            input: self.input.take(),
            output: self.output.take(),
            proto: self.proto,
            fragment: self.fragment,
            ..Spec::any()
        };
        let mut target = None;
        let matches = self.drafts.len() - usize::from(self.target.is_some());
        spec.matches.reserve_exact(matches);
        for (i, draft) in std::mem::take(&mut self.drafts).into_iter().enumerate() {
            if self.target == Some(i) {
                target = Some(draft);
            } else {
                spec.matches.push(draft.finish(&ctx)?);
            }
        }
        spec.target = match (self.jump, target) {
            (_, Some(draft)) => Target::Extension(draft.finish(&ctx)?),
            (None, None) => Target::None,
            (Some((name, goto)), None) => Target::Chain {
                name: name.to_owned(),
                goto,
            },
        };
        Ok(spec)
    }

    /// One rule per source and destination.
    fn expand(&self, spec: Spec) -> Result<Vec<Arc<Spec>>, Failure> {
        let side = |given: Option<(&str, bool)>| match given {
            Some((list, invert)) => {
                address::nets(list, invert, self.reader.family, self.reader.names)
            }
            None => Ok(smallvec![None]),
        };
        let (sources, destinations) = (side(self.src)?, side(self.dst)?);
        let pairs = sources
            .iter()
            .flat_map(|&src| destinations.iter().map(move |&dst| (src, dst)));
        let specs = std::iter::repeat_n(spec, sources.len() * destinations.len());
        let rules = pairs.zip(specs);
        let rules = rules.map(|((src, dst), spec)| Arc::new(Spec { src, dst, ..spec }));
        Ok(rules.collect())
    }

    fn check_options(&self, letter: char) -> Result<(), Failure> {
        let wrong = self.seen & !options::allowed(letter);
        if wrong == 0 {
            return Ok(());
        }
        let name = BIT_NAMES[wrong.trailing_zeros() as usize % BIT_NAMES.len()];
        Err(Failure::Usage(format!(
            "Illegal option `{name}' with this command"
        )))
    }

    fn check_chain(&self, letter: char, chain: &str) -> Result<(), Failure> {
        if letter == 'E' {
            return Ok(());
        }
        if chain.len() > CHAIN_MAX {
            return Err(Failure::Usage(format!(
                "chain name `{chain}' too long (must be under {} chars)",
                CHAIN_MAX + 1
            )));
        }
        if !matches!(letter, 'A' | 'I' | 'R' | 'D' | 'C') {
            return Ok(());
        }
        let wrong = match chain {
            "PREROUTING" | "INPUT" if self.seen & bit::OUT != 0 => "--out-interface",
            "POSTROUTING" | "OUTPUT" if self.seen & bit::IN != 0 => "--in-interface",
            _ => return Ok(()),
        };
        Err(Failure::Usage(format!("Can't use {wrong} with {chain}")))
    }

    fn command(&self, verb: Verb<'_>, rules: Vec<Arc<Spec>>) -> Command {
        let chain = || verb.chain.map(str::to_owned);
        let named = || chain().unwrap_or_default();
        let number = verb.number;
        let with_rules = |action| Command::Rules {
            action,
            chain: named(),
            rules,
            counters: self.counters.unwrap_or_default(),
        };
        match verb.letter {
            'A' => with_rules(Action::Append),
            'I' => with_rules(Action::Insert(number.unwrap_or(1))),
            'R' => with_rules(Action::Replace(number.unwrap_or(1))),
            'C' => with_rules(Action::Check),
            'D' => with_rules(Action::Delete),
            'd' => Command::DeleteNumber {
                chain: named(),
                number: number.unwrap_or(1),
            },
            'L' | 'S' => Command::Show {
                as_rules: verb.letter == 'S',
                chain: chain(),
                number,
                zero: self.zero,
            },
            'F' => Command::Flush(chain()),
            'Z' => Command::Zero {
                chain: chain(),
                number,
            },
            'N' => Command::NewChain(named()),
            'X' => Command::DeleteChain(chain()),
            'E' => Command::Rename {
                old: named(),
                new: verb.other.to_owned(),
            },
            _ => Command::Policy {
                chain: named(),
                policy: verb.other.to_owned(),
                counters: self.counters,
            },
        }
    }

    pub(super) fn invocation(&mut self, table: TableKind, command: Command) -> Invocation {
        let has = |bit| self.seen & bit != 0;
        Invocation {
            table,
            command,
            view: View {
                verbose: has(bit::VERBOSE),
                numeric: has(bit::NUMERIC),
                exact: has(bit::EXACT),
                line_numbers: has(bit::LINE_NUMBERS),
            },
            warnings: std::mem::take(&mut self.warnings),
        }
    }
}
