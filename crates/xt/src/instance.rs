//! An extension as one rule uses it.

use tidegate_ir::Cond;
use tidegate_wire::Family;

use crate::{
    Args, Context, Error, Extension, Input, ListCtx, Lower, LowerCtx, Outcome, Place, Refusal,
};

/// An extension and the options a rule gives it.
#[derive(Clone, Debug)]
pub struct Instance {
    /// The extension.
    pub ext: &'static Extension,
    /// Its options in normal form.
    pub args: Args,
}

impl PartialEq for Instance {
    fn eq(&self, other: &Self) -> bool {
        std::ptr::eq(self.ext, other.ext) && self.args == other.args
    }
}

impl Eq for Instance {}

impl Instance {
    /// The options as `-S` and save show them, each with a blank before it. The tool
    /// itself prints `-m NAME` or `-j NAME` first.
    #[must_use]
    pub fn save(&self, family: Family) -> String {
        (self.ext.save)(self, family)
    }

    /// The text at the end of a line of `-L`, each piece with a blank before it.
    #[must_use]
    pub fn list(&self, ctx: &ListCtx<'_>) -> String {
        (self.ext.list)(self, ctx)
    }

    /// Whether the kernel would accept the extension there.
    ///
    /// # Errors
    /// What the kernel answers, and why.
    pub fn check(&self, place: &Place<'_>) -> Result<(), Refusal> {
        let legal = &self.ext.legal;
        let name = self.ext.name;
        if !legal.tables.is_empty() && !legal.tables.contains(&place.table) {
            return Err(Refusal::invalid(format!(
                "{name} is not valid in table {}",
                place.table.name()
            )));
        }
        let outside = place.hooks.iter().find(|h| !legal.hooks.contains(h));
        if let (false, Some(hook)) = (legal.hooks.is_empty(), outside) {
            return Err(Refusal::invalid(format!(
                "{name} is not valid in {}",
                hook.chain_name()
            )));
        }
        let (proto, inverted) = place.proto;
        if !legal.protos.is_empty() && (inverted || !legal.protos.contains(&proto)) {
            return Err(Refusal::invalid(format!("{name} needs its own protocol")));
        }
        (legal.extra)(&self.args, place)
    }

    /// The condition of a match; true for a target.
    #[must_use]
    pub fn condition(&self, ctx: &mut LowerCtx<'_>) -> Cond {
        match self.ext.lower {
            Lower::Match(f) => f(&self.args, ctx),
            Lower::Target(_) => Cond::Const(true),
        }
    }

    /// What a target does; `None` for a match.
    #[must_use]
    pub fn outcome(&self, ctx: &mut LowerCtx<'_>) -> Option<Outcome> {
        match self.ext.lower {
            Lower::Match(_) => None,
            Lower::Target(f) => Some(f(&self.args, ctx)),
        }
    }

    /// One option as saved: ` [! ]--name value`; empty when not given.
    #[must_use]
    pub fn save_option(&self, opt: usize, family: Family) -> String {
        let (Some(given), Some(row)) = (self.args.get(opt), self.ext.options.get(opt)) else {
            return String::new();
        };
        let bang = if given.invert { " !" } else { "" };
        let value = row.arg.show(&given.value, family);
        let blank = if value.is_empty() { "" } else { " " };
        format!("{bang} --{}{blank}{value}", row.saved)
    }
}

/// The usual way to save: every given option in table order.
#[must_use]
pub fn save_all(instance: &Instance, family: Family) -> String {
    instance
        .args
        .iter()
        .map(|g| instance.save_option(g.opt, family))
        .collect()
}

/// An extension while its options are read.
#[derive(Clone, Debug)]
pub struct Draft {
    /// The extension.
    pub ext: &'static Extension,
    args: Args,
    seen: u32,
}

impl Draft {
    /// Starts reading options of `ext`.
    #[must_use]
    pub fn new(ext: &'static Extension) -> Self {
        Draft {
            ext,
            args: Args::default(),
            seen: 0,
        }
    }

    /// Index of the option with exactly this long name.
    #[must_use]
    pub fn find(&self, name: &str) -> Option<usize> {
        self.ext
            .options
            .iter()
            .position(|o| o.names().any(|n| n == name))
    }

    /// Reads one option, and says what the tool remarks about its value.
    ///
    /// `args` are the words after it: as many as its arity, fewer when the command
    /// line ends or (from the second word on) when a word starts with `-` or `!`.
    ///
    /// # Errors
    /// The tool's text for a misuse of the option.
    pub fn set(
        &mut self,
        opt: usize,
        invert: bool,
        args: &[&str],
        ctx: &Context<'_>,
    ) -> Result<Option<String>, Error> {
        let Some(row) = self.ext.options.get(opt) else {
            return Ok(None);
        };
        let name = self.ext.name;
        let own_text = if row.twice.is_some() { row.excludes } else { 0 };
        if !row.repeats && self.seen & (1 << opt | own_text) != 0 {
            return Err(Error::parameter(row.twice.map_or_else(
                || format!("{name}: option \"--{}\" can only be used once.\n", row.name),
                str::to_owned,
            )));
        }
        if invert && !row.invertible {
            return Err(Error::parameter(format!(
                "{name}: option \"--{}\" cannot be inverted.\n",
                row.name
            )));
        }
        let input = Input {
            ext: name,
            opt: row,
            invert,
            args,
            given: &self.args,
            ctx,
        };
        let value = row.arg.parse(&input)?;
        let remark = row.remark.and_then(|about| about(&value, ctx.family));
        self.seen |= 1 << opt;
        for other in (0..self.ext.options.len()).filter(|o| row.replaces & (1 << o) != 0) {
            self.args.remove(other);
        }
        if row.repeats {
            self.args.add(opt, invert, value);
        } else {
            self.args.set(opt, invert, value);
        }
        Ok(remark)
    }

    /// Checks the options together and gives the finished instance.
    ///
    /// # Errors
    /// The tool's text for missing or contradicting options.
    pub fn finish(mut self, ctx: &Context<'_>) -> Result<Instance, Error> {
        // The extension's own complaint comes first.
        (self.ext.finish)(&mut self.args, ctx)?;
        self.check_table()?;
        Ok(Instance {
            ext: self.ext,
            args: self.args,
        })
    }

    fn check_table(&self) -> Result<(), Error> {
        let name = self.ext.name;
        for (i, row) in self.ext.options.iter().enumerate() {
            let seen = self.seen & (1 << i) != 0;
            if row.mandatory && !seen {
                return Err(Error::parameter(format!(
                    "{name}: option \"--{}\" must be specified\n",
                    row.name
                )));
            }
            if !seen {
                continue;
            }
            if let Some(other) = self.first_of(row.needs & !self.seen) {
                return Err(Error::parameter(format!(
                    "{name}: option \"--{}\" also requires \"--{other}\".\n",
                    row.name
                )));
            }
            if let Some(other) = self.first_of(row.excludes & self.seen) {
                return Err(Error::parameter(format!(
                    "{name}: option \"--{}\" cannot be used together with \"--{other}\".\n",
                    row.name
                )));
            }
        }
        Ok(())
    }

    fn first_of(&self, bits: u32) -> Option<&'static str> {
        let options = self.ext.options.iter().enumerate();
        options
            .filter(|(i, _)| bits & (1 << i) != 0)
            .map(|(_, o)| o.name)
            .next()
    }
}
