//! Reading rules files.

mod ahead;

use tidegate_ir::TableKind;
use tidegate_wire::Family;
use tidegate_xt::Names;

use crate::ahead::in_order;
use crate::apply::{edit, parse_policy};
use crate::parse::{CHAIN_MAX, leading_number};
use crate::{Chain, Counters, Failure, Printer, Ruleset, Table, check};
use ahead::{Read, Reading, pieces};

/// How to restore.
#[derive(Clone, Copy, Debug, Default)]
pub struct Options<'a> {
    /// What to do with the file's counters.
    pub counters: CounterMode,
    /// `-n`: keep what is there.
    pub noflush: bool,
    /// `-v`: print the file's comments.
    pub verbose: bool,
    /// `-T`: only this table.
    pub table: Option<&'a str>,
}

impl<'a> Options<'a> {
    /// The tables that restoring a file empties before it says anything else of them, if
    /// it can be restored at all.
    pub fn empties<'t>(&self, text: &'t str) -> impl Iterator<Item = TableKind> + use<'a, 't> {
        let (only, noflush) = (self.table, self.noflush);
        let named = ahead::tables(text).filter(move |name| only.is_none_or(|o| o == *name));
        let known = named.filter_map(TableKind::from_name);
        known.filter(move |_| !noflush)
    }
}

/// A whole file with the counters it has.
const WITH_COUNTERS: Options<'static> = Options {
    counters: CounterMode::TakeIfAny,
    noflush: false,
    verbose: false,
    table: None,
};

/// What a restore does with a file's counters.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum CounterMode {
    /// Everything starts at zero.
    #[default]
    Ignore,
    /// `-c`: policies must have them, rules may.
    Take,
    /// Taken where they stand.
    TakeIfAny,
}

/// Why a file was refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    /// What is wrong.
    pub failure: Failure,
    /// Where, from 1.
    pub line: u32,
}

impl Refused {
    /// The whole error output of the tool `name`.
    #[must_use]
    pub fn render(&self, name: &str) -> String {
        self.failure.render(name, Some(self.line))
    }
}

impl std::fmt::Display for Refused {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.render("restore").trim_end())
    }
}

impl std::error::Error for Refused {}

/// What a restore prints.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Printed {
    /// For the standard output.
    pub out: String,
    /// For the error output, one per line.
    pub warnings: Vec<String>,
}

/// Reads a whole rules file with the counters it has into a new ruleset.
///
/// # Errors
/// What `-restore` would say, and the line.
pub fn parse(text: &str, family: Family, names: &dyn Names) -> Result<Ruleset, Refused> {
    let mut rules = empty(family, names);
    restore(&mut rules, text, &WITH_COUNTERS, restorer(family), names)?;
    Ok(rules)
}

/// No rules, and what the host knows that they may name.
fn empty(family: Family, names: &dyn Names) -> Ruleset {
    Ruleset {
        timeouts: names.timeouts(),
        ..Ruleset::empty(family)
    }
}

/// What could be read of a rules file.
#[derive(Clone, Debug)]
pub struct Salvage {
    /// The rules that were understood.
    pub rules: Ruleset,
    /// What was not, in the order of the lines.
    pub refused: Vec<Refused>,
    /// Whether the file has counters.
    pub counters: bool,
}

/// Reads as much of a rules file as there is sense in, and says what it left out: lines
/// that cannot be read, rules that the kernel would not take (by the line of their table's
/// `COMMIT`), tables that do not exist.
#[must_use]
pub fn salvage(text: &str, family: Family, names: &dyn Names) -> Salvage {
    let mut rules = empty(family, names);
    let refused = Run::new(&mut rules, &WITH_COUNTERS, restorer(family), names).salvage(text);
    let counted = |t: &Table| {
        let chains = t.chains();
        let some = |c: &Counters| *c != Counters::default();
        let mut all = chains.flat_map(|c| {
            let policy = c.base.as_ref().map(|b| &b.counters);
            policy
                .into_iter()
                .chain(c.rules.iter().map(|r| &r.counters))
        });
        all.any(some)
    };
    Salvage {
        counters: rules.tables.iter().any(counted),
        rules,
        refused,
    }
}

const fn restorer(family: Family) -> &'static str {
    match family {
        Family::V4 => "iptables-restore",
        Family::V6 => "ip6tables-restore",
    }
}

/// Restores a file into `rules`. Tables that are new get the file's order.
///
/// # Errors
/// What the tool says, and the line; `rules` may then be half changed and must be
/// thrown away.
pub fn restore(
    rules: &mut Ruleset,
    text: &str,
    options: &Options<'_>,
    tool: &str,
    names: &dyn Names,
) -> Result<Printed, Refused> {
    let mut run = Run::new(rules, options, tool, names);
    let outcome = run.file(text);
    let line = run.line;
    match outcome {
        Ok(()) => Ok(run.printed),
        Err(failure) => Err(Refused { failure, line }),
    }
}

struct Run<'a> {
    rules: &'a mut Ruleset,
    options: Options<'a>,
    tool: &'a str,
    names: &'a dyn Names,
    printer: Printer<'a>,
    /// Table between `*` and `COMMIT`.
    table: Option<TableKind>,
    /// Within a table that `-T` leaves out.
    skipping: bool,
    /// Tables that did not exist before.
    made: usize,
    line: u32,
    printed: Printed,
}

impl<'a> Run<'a> {
    fn new(
        rules: &'a mut Ruleset,
        options: &Options<'a>,
        tool: &'a str,
        names: &'a dyn Names,
    ) -> Self {
        Run {
            printer: Printer {
                family: rules.family,
                names,
            },
            rules,
            options: *options,
            tool,
            names,
            table: None,
            skipping: false,
            made: 0,
            line: 0,
            printed: Printed::default(),
        }
    }

    fn file(&mut self, text: &str) -> Result<(), Failure> {
        let (reading, pieces) = (self.reading(), pieces(text));
        let read = |piece: usize| reading.ahead(&pieces[piece]);
        in_order(pieces.len(), read, |piece, read| {
            let mut read = read.into_iter();
            let mut lines = pieces[piece].text.split_inclusive('\n');
            lines.try_for_each(|line| {
                self.line = self.line.saturating_add(1);
                self.one(line, read.next().flatten())
            })
        })?;
        if self.table.is_some() {
            self.line = self.line.saturating_add(1);
            return Err(Failure::Plain(format!(
                "COMMIT expected at line {}",
                self.line
            )));
        }
        Ok(())
    }

    /// Goes on after whatever cannot be used, and returns it.
    fn salvage(&mut self, text: &str) -> Vec<Refused> {
        let mut refused = Vec::new();
        for line in text.split_inclusive('\n') {
            self.line = self.line.saturating_add(1);
            let line = format!("{}\n", line.trim_end());
            let committed = self.table.filter(|_| line == "COMMIT\n");
            if let Some(kind) = committed {
                self.table = None;
                self.sift(kind, &mut refused);
            } else if let Err(failure) = self.one(&line, None) {
                self.skipping |= line.starts_with('*');
                refused.push(self.refused(failure));
            }
        }
        if let Some(kind) = self.table.take() {
            self.line = self.line.saturating_add(1);
            let missing = format!("COMMIT expected at line {}", self.line);
            refused.push(self.refused(Failure::Plain(missing)));
            self.sift(kind, &mut refused);
        }
        refused
    }

    const fn refused(&self, failure: Failure) -> Refused {
        Refused {
            failure,
            line: self.line,
        }
    }

    fn sift(&mut self, kind: TableKind, refused: &mut Vec<Refused>) {
        let out = check::sift(self.rules, kind);
        refused.extend(out.into_iter().map(|failure| self.refused(failure)));
    }

    /// Does what a line says, which may have been read already.
    fn one(&mut self, line: &str, read: Option<Read>) -> Result<(), Failure> {
        if line == "\n" {
            return Ok(());
        }
        if line.contains('\0') {
            return Err(Failure::usage("there is a NUL byte in the line"));
        }
        if line.starts_with('#') {
            if self.options.verbose {
                self.printed.out += line;
            }
            return Ok(());
        }
        match self.table {
            None => match line.strip_prefix('*') {
                Some(name) => self.start(name),
                None if self.skipping => Ok(()),
                None => Err(Failure::Kernel("not within a table")),
            },
            Some(kind) if line == "COMMIT\n" => self.commit(kind),
            Some(kind) => match line.strip_prefix(':') {
                Some(chain) => self.chain(kind, chain),
                None => self.rule(kind, line, read),
            },
        }
    }

    fn start(&mut self, rest: &str) -> Result<(), Failure> {
        let name = ahead::name(rest).ok_or_else(|| {
            Failure::Usage(format!(
                "{}: line {} table name invalid",
                self.tool, self.line
            ))
        })?;
        self.skipping = self.options.table.is_some_and(|only| only != name);
        if self.skipping {
            return Ok(());
        }
        let known = TableKind::from_name(name).filter(|&kind| self.rules.offers(kind));
        let kind = known.ok_or_else(|| {
            Failure::Usage(format!(
                "{}: unable to initialize table '{name}'",
                self.tool
            ))
        })?;
        if self.rules.position(kind).is_none() {
            self.rules.tables.insert(self.made, Table::new(kind));
            self.made += 1;
        }
        if !self.options.noflush {
            self.rules.table_mut(kind).clear();
        }
        self.table = Some(kind);
        Ok(())
    }

    fn commit(&mut self, kind: TableKind) -> Result<(), Failure> {
        check::table(self.rules, kind)?;
        self.table = None;
        Ok(())
    }

    /// `:CHAIN POLICY [PACKETS:BYTES]`
    fn chain(&mut self, kind: TableKind, rest: &str) -> Result<(), Failure> {
        let line = self.line;
        let mut fields = rest.split([' ', '\t', '\n']).filter(|f| !f.is_empty());
        let name = fields.next().ok_or_else(|| {
            Failure::Usage(format!("{}: line {line} chain name invalid", self.tool))
        })?;
        if name.len() > CHAIN_MAX || name.contains('"') {
            return Err(Failure::Usage(format!(
                "Invalid chain name `{name}' ({CHAIN_MAX} chars max)"
            )));
        }
        let noflush = self.options.noflush;
        let table = self.rules.table_mut(kind);
        match table.chain_mut(name) {
            Some(chain) if chain.base.is_some() => {}
            Some(chain) if noflush => chain.rules.clear(),
            Some(_) => {
                return Err(Failure::Usage(format!(
                    "error creating chain '{name}':File exists"
                )));
            }
            None => table.insert(Chain::new(name)),
        }
        let policy = fields
            .next()
            .ok_or_else(|| Failure::Usage(format!("{}: line {line} policy invalid", self.tool)))?;
        if policy == "-" {
            return Ok(());
        }
        let field = fields.next();
        let counters = match (self.options.counters, field) {
            (CounterMode::Ignore, _) | (CounterMode::TakeIfAny, None) => Counters::default(),
            (CounterMode::Take | CounterMode::TakeIfAny, field) => {
                field.and_then(bracketed).ok_or_else(|| {
                    Failure::Usage(format!("invalid policy counters for chain '{name}'"))
                })?
            }
        };
        let cannot = |why| {
            Failure::Other(format!(
                "Can't set policy `{policy}' on `{name}' line {line}: {why}"
            ))
        };
        let base = table.chain_mut(name).and_then(|c| c.base.as_mut());
        let base = base.ok_or_else(|| cannot("Bad built-in chain name"))?;
        base.policy = parse_policy(policy).ok_or_else(|| cannot("Bad policy name"))?;
        base.counters = counters;
        Ok(())
    }

    fn rule(&mut self, kind: TableKind, line: &str, read: Option<Read>) -> Result<(), Failure> {
        let call = match read {
            Some(read) if read.kind == kind => read.call,
            _ => self.reading().line(kind, line, self.line)?,
        };
        self.printed.warnings.extend(call.warnings.iter().cloned());
        self.printed.out += &edit(self.rules, call, &self.printer)?;
        Ok(())
    }

    const fn reading(&self) -> Reading<'a> {
        Reading {
            family: self.printer.family,
            tool: self.tool,
            names: self.names,
            counters: self.options.counters,
        }
    }
}

/// `[PACKETS:BYTES]`
fn bracketed(text: &str) -> Option<Counters> {
    let (packets, bytes) = text.strip_prefix('[')?.strip_suffix(']')?.split_once(':')?;
    Some(Counters {
        packets: leading_number(packets)?,
        bytes: leading_number(bytes)?,
    })
}
