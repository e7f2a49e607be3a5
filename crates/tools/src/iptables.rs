//! `iptables` and `ip6tables`.

use std::sync::mpsc::channel;

use tidegate_sets::Sets;
use tidegate_syntax::{
    Action, Command, Failure, Invocation, Printer, Reader, run as carry_out, tables_of,
};
use tidegate_xt::{Names, sets};

use super::ipset::{Users, unusable};
use super::{Prepared, Printed, Store, Tool};

fn read(tool: Tool, words: &[&str], names: &dyn Names) -> Result<Invocation, Failure> {
    Reader {
        family: tool.family,
        tool: tool.name(),
        names,
        restoring: None,
    }
    .read(words)
}

/// Help and version need no rules.
pub(crate) fn prepare(tool: Tool, words: &[&str], names: &dyn Names) -> Result<Prepared, Failure> {
    let asked = read(tool, words, names)?;
    let warned = warnings(&asked);
    Ok(match asked.command {
        Command::Print(out) => Prepared::Done(Printed {
            out,
            err: warned,
            status: 0,
        }),
        _ => Prepared::Rules(String::new()),
    })
}

fn warnings(asked: &Invocation) -> String {
    asked.warnings.iter().map(|w| format!("{w}\n")).collect()
}

/// Why a new rule cannot be had, if it looks into a set that is not there, or not for its
/// family. A whole file of rules may be written before its sets.
fn without_set(
    tool: Tool,
    asked: &Invocation,
    store: &dyn Store,
) -> Result<Option<Failure>, Failure> {
    let (Command::Rules { action, rules, .. }, Some(sets)) = (&asked.command, store.sets()) else {
        return Ok(None);
    };
    if matches!(action, Action::Delete | Action::Check) {
        return Ok(None);
    }
    let named = rules.iter().flat_map(|rule| tables_of(rule, tool.family));
    let named: Vec<_> = named.filter(|key| key.kind == sets::KIND).collect();
    if named.is_empty() {
        return Ok(None);
    }
    let (tell, told) = channel();
    let look = move |sets: &mut Sets, _: &Users, _| {
        let why = named
            .iter()
            .find_map(|key| unusable(Some(sets), &key.name, tool.family));
        // Whoever asked waits.
        let _ = tell.send(why);
        Printed::default()
    };
    sets.with_sets(false, Box::new(look))?;
    Ok(told.try_recv().ok().flatten())
}

/// Reads the command line, works on the rules, prints.
pub(crate) fn run(
    tool: Tool,
    words: &[&str],
    store: &dyn Store,
    names: &dyn Names,
) -> Result<Printed, Failure> {
    let asked = read(tool, words, names)?;
    let mut printed = Printed {
        err: warnings(&asked),
        ..Printed::default()
    };
    if let Some(why) = without_set(tool, &asked, store)? {
        return Err(why);
    }
    if store.edit(tool.family, &asked)? {
        return Ok(printed);
    }
    let changes = asked.command.changes();
    let printer = Printer {
        family: tool.family,
        names,
    };
    let mut asked = Some(asked);
    store.with(tool.family, changes, &mut |rules| {
        let Some(asked) = asked.take() else {
            return Ok(false);
        };
        match carry_out(rules, asked, &printer) {
            Ok(out) => {
                printed.out = out;
                Ok(changes)
            }
            Err(failure) => {
                printed.err += &failure.render(tool.name(), None);
                printed.status = failure.status();
                Ok(false)
            }
        }
    })?;
    Ok(printed)
}
