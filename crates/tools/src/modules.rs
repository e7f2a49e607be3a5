//! `modprobe`, `lsmod` and `modinfo` for the helpers.
//!
//! Helpers are always there for rules with `-j CT --helper`. Loading a helper's module by
//! name does what it did on the kernels that the tutorials are about (up to 4.6, and with
//! `nf_conntrack_helper=1` up to 5.19): connections to the helper's ports get it by
//! themselves. Today's kernels never do that. There is no state besides the settings of
//! the table: a module is loaded while its helper has ports.

mod table;

use tidegate_conntrack::{Conntrack, Cursor, HelperSettings};

use super::{Printed, Tracker};
pub use table::helpers;
use table::{MODULES, Module, built_in, find, plain};

/// Places for entries looked at between two packets.
const PIECE: u32 = 256;

/// Most ports a helper may watch (`MAX_PORTS`).
const PORTS_MAX: usize = 8;

fn refused(text: &str) -> Printed {
    Printed {
        err: format!("{text}\n"),
        status: 1,
        ..Printed::default()
    }
}

/// What `modprobe`'s options ask for.
#[derive(Default)]
struct Asked<'a> {
    remove: bool,
    quiet: bool,
    dry: bool,
    verbose: bool,
    all: bool,
    names: Vec<&'a str>,
}

const MODPROBE_HELP: &str = "\
Usage:
\tmodprobe [options] [-a] modulename [module parameters ...]
\tmodprobe [options] -r modulename ...
Options:
\t-a, --all       load every module named
\t-r, --remove    unload
\t-q, --quiet     say nothing about modules that are unknown
\t-n, --dry-run   do nothing
\t-v, --verbose   say what is done
\t-V, --version   show the version
\t-h, --help      show this help

Rules with -j CT --helper need no module. Loading a helper's module by name makes
connections to its ports get the helper by themselves, as kernels up to 4.6 did.
";

impl<'a> Asked<'a> {
    fn read(words: &[&'a str]) -> Result<Asked<'a>, Printed> {
        let mut asked = Asked::default();
        for word in words {
            let letters: Vec<&str> = match word.strip_prefix('-') {
                None | Some("") => {
                    asked.names.push(word);
                    continue;
                }
                Some(long) if long.starts_with('-') => vec![long],
                Some(letters) => letters.split("").filter(|l| !l.is_empty()).collect(),
            };
            for letter in letters {
                asked.option(letter)?;
            }
        }
        if asked.names.is_empty() {
            return Err(refused("modprobe: ERROR: missing parameters. See -h."));
        }
        Ok(asked)
    }

    fn option(&mut self, option: &str) -> Result<(), Printed> {
        match option {
            "r" | "-remove" => self.remove = true,
            "a" | "-all" => self.all = true,
            "q" | "-quiet" => self.quiet = true,
            "n" | "-dry-run" | "-show" => self.dry = true,
            "v" | "-verbose" => self.verbose = true,
            // These choose how kmod finds and checks files.
            "i" | "-ignore-install" | "b" | "-use-blacklist" | "f" | "-force" | "s" | "-syslog" => {
            }
            "h" | "-help" => {
                return Err(Printed {
                    out: MODPROBE_HELP.to_owned(),
                    ..Printed::default()
                });
            }
            "V" | "-version" => {
                return Err(Printed {
                    out: concat!("tidegate ", env!("CARGO_PKG_VERSION"), "\n").to_owned(),
                    ..Printed::default()
                });
            }
            long if long.starts_with('-') => {
                return Err(refused(&format!("modprobe: unrecognized option '-{long}'")));
            }
            letter => {
                return Err(refused(&format!("modprobe: invalid option -- '{letter}'")));
            }
        }
        Ok(())
    }
}

/// `modprobe [-r] NAME [PARAMETER=VALUE ...]`. `in_use` says how many rules use a helper,
/// by its name: those keep its module from being unloaded.
///
/// A module that is loaded already is left as it is, parameters included, as kmod does.
pub fn modprobe(tracker: &dyn Tracker, words: &[&str], in_use: &dyn Fn(&str) -> usize) -> Printed {
    let asked = match Asked::read(words) {
        Ok(asked) => asked,
        Err(printed) => return printed,
    };
    let mut printed = Printed::default();
    let (names, parameters) = if asked.remove || asked.all {
        (asked.names.as_slice(), &[][..])
    } else {
        asked.names.split_at(1)
    };
    for name in names {
        let done = if asked.remove {
            unload(tracker, name, &asked, in_use)
        } else {
            load(tracker, name, parameters, &asked)
        };
        match done {
            Ok(line) if asked.verbose => printed.out += &line,
            Ok(_) => {}
            Err(text) => {
                printed.err += &text;
                printed.status = 1;
            }
        }
    }
    printed
}

/// Work on the table, or why it is out of reach.
fn on_table<T: Send + 'static>(
    tracker: &dyn Tracker,
    work: impl FnOnce(&mut Conntrack) -> T + Send + 'static,
) -> Result<T, String> {
    let done = tracker.with(|ct, _| work(ct));
    done.map_err(|f| f.render("modprobe", None))
}

fn load(
    tracker: &dyn Tracker,
    name: &str,
    parameters: &[&str],
    asked: &Asked<'_>,
) -> Result<String, String> {
    let Some(module) = find(name) else {
        return match (built_in(name), asked.quiet) {
            (true, _) => Ok(String::new()),
            (false, true) => Err(String::new()),
            (false, false) => Err(format!("modprobe: FATAL: Module {name} not found.\n")),
        };
    };
    let words: Vec<String> = parameters.iter().map(|p| (*p).to_owned()).collect();
    let dry = asked.dry;
    let (loaded, good) = on_table(tracker, move |ct| {
        let loaded = module.loaded(ct.config());
        let mut settings = ct.config().helper.clone();
        let read = read_parameters(module, &words, &mut settings);
        let good = read.is_some();
        if let Some(ports) = read.filter(|_| !loaded && !dry) {
            module.load(ct.config_mut(), &ports, settings);
        }
        (loaded, good)
    })?;
    if loaded {
        return Ok(String::new());
    }
    if !good {
        return Err(format!(
            "modprobe: ERROR: could not insert '{}': Invalid argument\n",
            module.name
        ));
    }
    let insmod = ["insmod", module.name].into_iter();
    let words: Vec<&str> = insmod.chain(parameters.iter().copied()).collect();
    Ok(format!("{}\n", words.join(" ")))
}

/// Ports, if they are given, and settings changed; what is no parameter is passed over, as
/// the kernel does.
fn read_parameters(
    module: &Module,
    words: &[String],
    settings: &mut HelperSettings,
) -> Option<Vec<u16>> {
    let mut ports = Vec::new();
    for word in words {
        // A switch alone is on.
        let (name, text) = word.split_once('=').unwrap_or((word, "1"));
        if name == "ports" && module.ports {
            let read: Option<Vec<u16>> = text.split(',').map(|p| p.parse().ok()).collect();
            ports = read.filter(|p| p.len() <= PORTS_MAX)?;
        } else if let Some(parameter) = module.parameters.iter().find(|p| p.name == name) {
            (parameter.set)(settings, text)?;
        }
    }
    Some(ports)
}

fn unload(
    tracker: &dyn Tracker,
    name: &str,
    asked: &Asked<'_>,
    in_use: &dyn Fn(&str) -> usize,
) -> Result<String, String> {
    let Some(module) = find(name) else {
        return Err(match (built_in(name), asked.quiet) {
            (true, _) => format!("modprobe: FATAL: Module {name} is builtin.\n"),
            (false, true) => String::new(),
            (false, false) => format!("modprobe: FATAL: Module {name} not found.\n"),
        });
    };
    if !on_table(tracker, |ct| module.loaded(ct.config()))? {
        return Ok(String::new());
    }
    if module.users(in_use) > 0 {
        return Err(format!(
            "modprobe: FATAL: Module {} is in use.\n",
            module.name
        ));
    }
    if !asked.dry {
        // From here on nothing new gets the helper.
        on_table(tracker, |ct| module.unload(ct.config_mut()))?;
        for &kind in module.kinds {
            let mut next = Some(Cursor::default());
            while let Some(cursor) = next {
                next = on_table(tracker, move |ct| ct.retire_helper(kind, cursor, PIECE))?;
            }
        }
    }
    Ok(format!("rmmod {}\n", module.name))
}

/// `lsmod`: what is loaded by name, and how many rules use it. Sizes are none: nothing
/// is loaded into memory.
pub fn lsmod(ct: &Conntrack, in_use: &dyn Fn(&str) -> usize) -> Printed {
    let mut out = String::from("Module                  Size  Used by\n");
    let mut loaded: Vec<&str> = Vec::new();
    for module in MODULES.iter().filter(|m| m.loaded(ct.config())) {
        let used = module.users(in_use);
        out += &format!("{:<19} {:>8}  {used}\n", module.name, 0);
        loaded.push(module.name);
    }
    let users = loaded.join(",");
    let tail = format!("{} {users}", loaded.len());
    out += &format!("{:<19} {:>8}  {}\n", "nf_conntrack", 0, tail.trim_end());
    Printed {
        out,
        ..Printed::default()
    }
}

/// `modinfo NAME ...`.
#[must_use]
pub fn modinfo(words: &[&str]) -> Printed {
    let mut printed = Printed::default();
    let (mut field, mut names) = (None, Vec::new());
    let mut words = words.iter();
    while let Some(word) = words.next() {
        match *word {
            "-F" | "--field" => field = words.next().copied(),
            "-p" | "--parameters" => field = Some("parm"),
            "-d" | "--description" => field = Some("description"),
            "-l" | "--license" => field = Some("license"),
            "-n" | "--filename" => field = Some("filename"),
            word if word.starts_with('-') => {
                return refused(&format!("modinfo: unrecognized option '{word}'"));
            }
            word => names.push(word),
        }
    }
    if names.is_empty() {
        return refused("modinfo: ERROR: missing module or filename.");
    }
    for name in names {
        match find(name) {
            Some(module) => printed.out += &describe(module, field),
            None if built_in(name) => {
                printed.out += &format!(
                    "name:           {}\nfilename:       (builtin)\n",
                    plain(name)
                );
            }
            None => {
                printed.err += &format!("modinfo: ERROR: Module {name} not found.\n");
                printed.status = 1;
            }
        }
    }
    printed
}

/// All of a module's fields, or the values of one.
fn describe(module: &Module, field: Option<&str>) -> String {
    let mut fields = vec![
        ("filename", "(builtin)".to_owned()),
        ("description", module.description.to_owned()),
        ("license", env!("CARGO_PKG_LICENSE").to_owned()),
        ("name", module.name.to_owned()),
    ];
    let aliases = module.aliases.iter().map(|a| ("alias", (*a).to_owned()));
    let kind = module.kinds.first().filter(|_| module.ports);
    let ports = kind.map(|kind| {
        let port = kind.port();
        let text =
            format!("ports:ports of servers to watch, {port} unless given (array of ushort)");
        ("parm", text)
    });
    let others = module.parameters.iter();
    let others = others.map(|p| ("parm", format!("{}:{}", p.name, p.about)));
    fields.extend(aliases.chain(ports).chain(others));
    let lines = fields.into_iter().filter_map(|(name, value)| match field {
        None => Some(format!("{:<16}{value}\n", format!("{name}:"))),
        Some(wanted) if wanted == name => Some(format!("{value}\n")),
        Some(_) => None,
    });
    lines.collect()
}
