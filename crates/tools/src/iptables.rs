//! `iptables` and `ip6tables`.

use tidegate_syntax::{Command, Failure, Invocation, Printer, Reader, run as carry_out};
use tidegate_xt::Names;

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
