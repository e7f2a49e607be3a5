//! `iptables-save` and `ip6tables-save`.

use std::fs;

use jiff::Zoned;
use tidegate_ir::TableKind;
use tidegate_syntax::getopt::Takes;
use tidegate_syntax::{Failure, Table, VERSION, save};
use tidegate_xt::Names;

use super::flags::{self, Flags};
use super::{Call, Printed};

const FLAGS: Flags = &[
    ('c', "counters", Takes::Nothing),
    ('t', "table", Takes::One),
    ('M', "modprobe", Takes::One),
    ('f', "file", Takes::One),
    ('V', "version", Takes::Nothing),
];

/// Prints the ruleset.
pub(super) fn run(call: &Call, words: &[&str]) -> Result<Printed, Failure> {
    let name = call.tool.name();
    let refuse = |err: String| Printed {
        err,
        status: 1,
        ..Printed::default()
    };
    let parsed = match flags::parse(FLAGS, words) {
        Ok(parsed) => parsed,
        Err(why) => {
            return Ok(refuse(format!(
                "{name}: {why}\nLook at manual page `{name}.8' for more information.\n"
            )));
        }
    };
    if parsed.options.iter().any(|o| o.0 == 'V') {
        return Ok(Printed {
            out: format!("{name} v{VERSION} (legacy)\n"),
            ..Printed::default()
        });
    }
    if !parsed.operands.is_empty() {
        return Ok(refuse(
            "Unknown arguments found on commandline\n".to_owned(),
        ));
    }
    let value = |letter| {
        let given = parsed.options.iter().rev().find(|o| o.0 == letter);
        given.and_then(|o| o.1)
    };
    let counters = parsed.options.iter().any(|o| o.0 == 'c');
    let out = text(call, value('t'), counters, &Call::names())?;
    let Some(file) = value('f') else {
        return Ok(Printed {
            out,
            ..Printed::default()
        });
    };
    match fs::write(file, out) {
        Ok(()) => Ok(Printed::default()),
        Err(e) => Ok(refuse(format!("Failed to open file, error: {e}\n"))),
    }
}

fn text(
    call: &Call,
    only: Option<&str>,
    counters: bool,
    names: &dyn Names,
) -> Result<String, Failure> {
    let kind = match only.map(TableKind::from_name) {
        None => None,
        Some(Some(kind)) => Some(kind),
        Some(None) => {
            return Err(Failure::Other(
                "Cannot initialize: Table does not exist (do you need to insmod?)".to_owned(),
            ));
        }
    };
    let store = call.store()?;
    let mut state = store.load(false, names)?;
    let tables: Vec<&Table> = match kind {
        Some(kind) => vec![state.rules.table_mut(kind)],
        None => state.rules.tables.iter().collect(),
    };
    let date = Zoned::now().strftime("%a %b %e %H:%M:%S %Y").to_string();
    let (family, tool) = (call.tool.family, call.tool.name());
    Ok(save::ruleset(
        tables.into_iter(),
        family,
        tool,
        &date,
        counters,
    ))
}
