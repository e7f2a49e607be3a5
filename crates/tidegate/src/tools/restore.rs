//! `iptables-restore` and `ip6tables-restore`.

use std::fs;
use std::io::{self, Read};

use tidegate_syntax::getopt::Takes;
use tidegate_syntax::{CounterMode, Failure, RestoreOptions, VERSION, restore};

use super::flags::{self, Flags, Parsed};
use super::{Call, Printed};

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

/// Reads a rules file into the state, all of it or nothing.
pub(super) fn run(call: &Call, words: &[&str]) -> Result<Printed, Failure> {
    let name = call.tool.name();
    let print = |out: String, err: String, status| Ok(Printed { out, err, status });
    let parsed = match flags::parse(FLAGS, words) {
        Ok(parsed) => parsed,
        Err(why) => {
            let err = format!("{name}: {why}\nTry `{name} -h' for more information.\n");
            return print(String::new(), err, 1);
        }
    };
    let has = |letter| parsed.options.iter().any(|o| o.0 == letter);
    if has('h') {
        return print(format!("Usage: {name}{OPTIONS}"), String::new(), 0);
    }
    if has('V') {
        let out = format!("{name} v{VERSION} (legacy)\n");
        return print(out, String::new(), 0);
    }
    match input(&parsed) {
        Ok(text) => load(call, &parsed, &text),
        Err(why) => print(String::new(), why, 1),
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

fn load(call: &Call, parsed: &Parsed<'_>, text: &str) -> Result<Printed, Failure> {
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
    let names = Call::names();
    let store = call.store()?;
    let mut state = store.load(!has('t'), &names)?;
    match restore(&mut state.rules, text, &options, call.tool.name(), &names) {
        Ok(printed) => {
            if !has('t') {
                state.store()?;
            }
            let err = printed.warnings.iter().map(|w| format!("{w}\n"));
            Ok(Printed {
                err: err.collect(),
                out: printed.out,
                status: 0,
            })
        }
        Err(refused) => Ok(Printed {
            err: refused.render(call.tool.name()),
            status: refused.failure.status(),
            ..Printed::default()
        }),
    }
}
