//! `iptables` and `ip6tables`.

use tidegate_syntax::{Command, Failure, Printer, Reader, run as carry_out};

use super::{Call, Printed};

/// Reads the command line, works on the state, prints.
pub(super) fn run(call: &Call, words: &[&str]) -> Result<Printed, Failure> {
    let names = Call::names();
    let reader = Reader {
        family: call.tool.family,
        tool: call.tool.name(),
        names: &names,
        restoring: None,
    };
    let asked = reader.read(words)?;
    let mut printed = Printed::default();
    for warning in &asked.warnings {
        printed.err += &format!("{warning}\n");
    }
    if let Command::Print(text) = asked.command {
        printed.out = text;
        return Ok(printed);
    }
    let store = call.store()?;
    let changes = asked.command.changes();
    let mut state = store.load(changes, &names)?;
    let printer = Printer {
        family: call.tool.family,
        names: &names,
    };
    match carry_out(&mut state.rules, asked, &printer) {
        Ok(out) => {
            if changes {
                state.store()?;
            }
            printed.out = out;
        }
        Err(failure) => {
            printed.err += &failure.render(call.tool.name(), None);
            printed.status = failure.status();
        }
    }
    Ok(printed)
}
