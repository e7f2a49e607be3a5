//! `iptables-restore` and `ip6tables-restore`.

use std::fs;
use std::io::{self, Read};

use tidegate_syntax::getopt::Takes;
use tidegate_syntax::{CounterMode, Failure, RestoreOptions, Ruleset, VERSION, restore};

use tidegate_xt::Names;

use super::flags::{self, Flags, Parsed};
use super::{Prepared, Printed, Store, Tool};

const FLAGS: Flags = &[
    ('c', "counters", Takes::Nothing),
    ('v', "verbose", Takes::Nothing),
    ('V', "version", Takes::Nothing),
    ('t', "test", Takes::Nothing),
    ('h', "help", Takes::Nothing),
    ('n', "noflush", Takes::Nothing),
    ('M', "modprobe", Takes::One),
    ('T', "table", Takes::One),
    ('w', "wait", Takes::Attached),
    ('W', "wait-interval", Takes::Attached),
    ('4', "ipv4", Takes::Nothing),
    ('6', "ipv6", Takes::Nothing),
];

const OPTIONS: &str =
    " [-c] [-v] [-V] [-t] [-h] [-n] [-w secs] [-W usecs] [-T table] [-M command] [file]
\t   [ --counters ]
\t   [ --verbose ]
\t   [ --version]
\t   [ --test ]
\t   [ --help ]
\t   [ --noflush ]
\t   [ --wait=<seconds>
\t   [ --table=<TABLE> ]
\t   [ --modprobe=<command> ]
";

/// Help, refusals, and the text to restore.
pub(crate) fn prepare(tool: Tool, words: &[&str]) -> Prepared {
    let name = tool.name();
    let done = |out: String, err: String, status| Prepared::Done(Printed { out, err, status });
    let parsed = match flags::parse(FLAGS, words) {
        Ok(parsed) => parsed,
        Err(why) => {
            let err = format!("{name}: {why}\nTry `{name} -h' for more information.\n");
            return done(String::new(), err, 1);
        }
    };
    let has = |letter| parsed.options.iter().any(|o| o.0 == letter);
    if has('h') {
        return done(format!("Usage: {name}{OPTIONS}"), String::new(), 0);
    }
    if has('V') {
        let out = format!("{name} v{VERSION} (legacy)\n");
        return done(out, String::new(), 0);
    }
    match input(&parsed) {
        Ok(text) => Prepared::Rules(text),
        Err(why) => done(String::new(), why, 1),
    }
}

/// The text to restore.
fn input(parsed: &Parsed<'_>) -> Result<String, String> {
    let text = match parsed.operands.as_slice() {
        [] => {
            let mut text = String::new();
            io::stdin().read_to_string(&mut text).map(|_| text)
        }
        [file] => fs::read_to_string(file),
        _ => return Err("Unknown arguments found on commandline\n".to_owned()),
    };
    text.map_err(|e| {
        let file = parsed.operands.first().unwrap_or(&"standard input");
        let why = e.to_string();
        let why = why.split(" (os error").next().unwrap_or(&why);
        format!("Can't open {file}: {why}\n")
    })
}

/// Reads a rules file into the rules, all of it or nothing.
pub(crate) fn run(
    tool: Tool,
    words: &[&str],
    text: &str,
    store: &dyn Store,
    names: &dyn Names,
) -> Result<Printed, Failure> {
    let parsed = flags::parse(FLAGS, words).map_err(Failure::Usage)?;
    let has = |letter| parsed.options.iter().any(|o| o.0 == letter);
    let counters = if has('c') {
        CounterMode::Take
    } else {
        CounterMode::Ignore
    };
    let options = RestoreOptions {
        counters,
        noflush: has('n'),
        verbose: has('v'),
        table: parsed.options.iter().find(|o| o.0 == 'T').and_then(|o| o.1),
    };
    let change = !has('t');
    let mut printed = Printed::default();
    let emptied: Vec<_> = options.empties(text).collect();
    let mut work = |rules: &mut Ruleset| match restore(rules, text, &options, tool.name(), names) {
        Ok(done) => {
            printed.err = done.warnings.iter().map(|w| format!("{w}\n")).collect();
            printed.out = done.out;
            Ok(change)
        }
        Err(refused) => {
            printed.err = refused.render(tool.name());
            printed.status = refused.failure.status();
            Ok(false)
        }
    };
    store.with_emptied(tool.family, change, &emptied, &mut work)?;
    Ok(printed)
}
