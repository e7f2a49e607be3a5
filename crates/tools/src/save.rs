//! `iptables-save` and `ip6tables-save`.

use std::fs;

use jiff::Zoned;
use tidegate_ir::TableKind;
use tidegate_syntax::getopt::Takes;
use tidegate_syntax::{Failure, Table, VERSION, save};

use super::flags::{self, Flags, Parsed};
use super::{Prepared, Printed, Store, Tool};

const FLAGS: Flags = &[
    ('c', "counters", Takes::Nothing),
    ('t', "table", Takes::One),
    ('M', "modprobe", Takes::One),
    ('f', "file", Takes::One),
    ('V', "version", Takes::Nothing),
];

fn value<'a>(parsed: &Parsed<'a>, letter: char) -> Option<&'a str> {
    let given = parsed.options.iter().rev().find(|o| o.0 == letter);
    given.and_then(|o| o.1)
}

/// Refusals and the version need no rules.
pub(crate) fn prepare(tool: Tool, words: &[&str]) -> Prepared {
    let name = tool.name();
    let refuse = |err: String| {
        Prepared::Done(Printed {
            err,
            status: 1,
            ..Printed::default()
        })
    };
    let parsed = match flags::parse(FLAGS, words) {
        Ok(parsed) => parsed,
        Err(why) => {
            return refuse(format!(
                "{name}: {why}\nLook at manual page `{name}.8' for more information.\n"
            ));
        }
    };
    if parsed.options.iter().any(|o| o.0 == 'V') {
        return Prepared::Done(Printed {
            out: format!("{name} v{VERSION} (legacy)\n"),
            ..Printed::default()
        });
    }
    if !parsed.operands.is_empty() {
        return refuse("Unknown arguments found on commandline\n".to_owned());
    }
    Prepared::Rules(String::new())
}

/// Prints the ruleset.
pub(crate) fn run(tool: Tool, words: &[&str], store: &dyn Store) -> Result<Printed, Failure> {
    let parsed = flags::parse(FLAGS, words).map_err(Failure::Usage)?;
    let counters = parsed.options.iter().any(|o| o.0 == 'c');
    let wanted = value(&parsed, 't');
    let mut printed = Printed::default();
    store.with(tool.family, false, &mut |rules| {
        let tables: Vec<&Table> = match wanted {
            Some(name) => {
                let known = TableKind::from_name(name).filter(|&kind| rules.offers(kind));
                vec![rules.table_mut(known.ok_or_else(no_table)?)]
            }
            None => rules.tables.iter().collect(),
        };
        let date = Zoned::now().strftime("%a %b %e %H:%M:%S %Y").to_string();
        let tables = tables.into_iter();
        printed.out = save::ruleset(tables, tool.family, tool.name(), &date, counters);
        Ok(false)
    })?;
    Ok(printed)
}

fn no_table() -> Failure {
    Failure::Other("Cannot initialize: Table does not exist (do you need to insmod?)".to_owned())
}

/// Writes what was printed to the file that `-f` names.
pub(crate) fn finish(words: &[&str], printed: Printed) -> Printed {
    let parsed = flags::parse(FLAGS, words).unwrap_or_default();
    let Some(file) = value(&parsed, 'f').filter(|_| printed.status == 0) else {
        return printed;
    };
    match fs::write(file, &printed.out) {
        Ok(()) => Printed::default(),
        Err(e) => Printed {
            err: format!("Failed to open file, error: {e}\n"),
            status: 1,
            ..Printed::default()
        },
    }
}
