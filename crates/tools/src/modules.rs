//! `modprobe`, `lsmod` and `modinfo` for the helpers.
//!
//! Helpers are always there for rules with `-j CT --helper`. Loading a helper's module by
//! name does what it did on the kernels that the tutorials are about (up to 4.6, and with
//! `nf_conntrack_helper=1` up to 5.19): connections to the helper's ports get it by
//! themselves. Today's kernels never do that. There is no state besides the settings of
//! the table: a module is loaded while its helper has ports.

use tidegate_conntrack::{Config, Conntrack, Cursor, HelperKind, HelperPort, HelperSettings};

use super::{Printed, Tracker};

/// Places for entries looked at between two packets.
const PIECE: u32 = 256;

/// Most ports a helper may watch (`MAX_PORTS`).
const PORTS_MAX: usize = 8;

/// A parameter of a module besides `ports`.
struct Parameter {
    name: &'static str,
    about: &'static str,
    /// Sets it; `None` when the text is no value for it.
    set: fn(&mut HelperSettings, &str) -> Option<()>,
}

/// A helper's module.
struct Module {
    name: &'static str,
    /// Other names it is loaded by.
    aliases: &'static [&'static str],
    description: &'static str,
    kind: HelperKind,
    /// It takes `ports`.
    ports: bool,
    parameters: &'static [Parameter],
}

const MODULES: [Module; 10] = [
    Module {
        name: "nf_conntrack_ftp",
        aliases: &[
            "ip_conntrack_ftp",
            "nf_nat_ftp",
            "ip_nat_ftp",
            "nfct_helper_ftp",
        ],
        description: "Follows FTP control connections to the data connections they announce",
        kind: HelperKind::Ftp,
        ports: true,
        parameters: &[Parameter {
            name: "loose",
            about: "expect data connections with hosts other than the server and its client (bool)",
            set: |to, text| boolean(text).map(|on| to.ftp_loose = on),
        }],
    },
    Module {
        name: "nf_conntrack_tftp",
        aliases: &[
            "ip_conntrack_tftp",
            "nf_nat_tftp",
            "ip_nat_tftp",
            "nfct_helper_tftp",
        ],
        description: "Expects the answers to TFTP requests, from whatever port",
        kind: HelperKind::Tftp,
        ports: true,
        parameters: &[],
    },
    Module {
        name: "nf_conntrack_irc",
        aliases: &[
            "ip_conntrack_irc",
            "nf_nat_irc",
            "ip_nat_irc",
            "nfct_helper_irc",
        ],
        description: "Expects the DCC connections that IRC clients offer to each other",
        kind: HelperKind::Irc,
        ports: true,
        parameters: &[
            Parameter {
                name: "max_dcc_channels",
                about: "most connections expected at a time, 8 unless given (uint)",
                set: |to, text| {
                    let most = text.parse().ok().filter(|n| *n > 0);
                    most.map(|n| to.irc_max_dcc_channels = n)
                },
            },
            Parameter {
                name: "dcc_timeout",
                about: "seconds they are expected, 300 unless given (uint)",
                set: |to, text| text.parse().ok().map(|n| to.irc_dcc_timeout = n),
            },
        ],
    },
    Module {
        name: "nf_conntrack_netbios_ns",
        aliases: &["ip_conntrack_netbios_ns", "nfct_helper_netbios_ns"],
        description: "Expects the answers to NetBIOS name queries by broadcast",
        kind: HelperKind::NetbiosNs,
        ports: false,
        parameters: &[Parameter {
            name: "timeout",
            about: "seconds answers are expected, 3 unless given (uint)",
            set: |to, text| text.parse().ok().map(|n| to.netbios_timeout = n),
        }],
    },
    Module {
        name: "nf_conntrack_snmp",
        aliases: &["nfct_helper_snmp"],
        description: "Expects the answers to SNMP queries by broadcast",
        kind: HelperKind::Snmp,
        ports: false,
        parameters: &[Parameter {
            name: "timeout",
            about: "seconds answers are expected, 30 unless given (uint)",
            set: |to, text| text.parse().ok().map(|n| to.snmp_timeout = n),
        }],
    },
    Module {
        name: "nf_nat_snmp_basic",
        aliases: &["ip_nat_snmp_basic", "nfct_helper_snmp_trap"],
        description: "Translates the addresses in SNMP traps",
        kind: HelperKind::SnmpTrap,
        ports: false,
        parameters: &[],
    },
    Module {
        name: "nf_conntrack_amanda",
        aliases: &[
            "ip_conntrack_amanda",
            "nf_nat_amanda",
            "ip_nat_amanda",
            "nfct_helper_amanda",
        ],
        description: "Expects the data connections of Amanda backups",
        kind: HelperKind::Amanda,
        ports: false,
        parameters: &[Parameter {
            name: "master_timeout",
            about: "seconds the control connection lives after a reply, 300 unless given (uint)",
            set: |to, text| text.parse().ok().map(|n| to.amanda_master_timeout = n),
        }],
    },
    Module {
        name: "nf_conntrack_sane",
        aliases: &["nfct_helper_sane"],
        description: "Expects the data connections of network scanners",
        kind: HelperKind::Sane,
        ports: true,
        parameters: &[],
    },
    Module {
        name: "nf_conntrack_pptp",
        aliases: &[
            "ip_conntrack_pptp",
            "nf_nat_pptp",
            "ip_nat_pptp",
            "nfct_helper_pptp",
        ],
        description: "Expects the GRE tunnels that PPTP announces",
        kind: HelperKind::Pptp,
        ports: false,
        parameters: &[],
    },
    Module {
        name: "nf_conntrack_sip",
        aliases: &[
            "ip_conntrack_sip",
            "nf_nat_sip",
            "ip_nat_sip",
            "nfct_helper_sip",
        ],
        description: "Expects the calls and media that SIP announces",
        kind: HelperKind::Sip,
        ports: true,
        parameters: &[
            Parameter {
                name: "sip_timeout",
                about: "seconds a signalling connection lives after a packet, 3600 unless given (uint)",
                set: |to, text| text.parse().ok().map(|n| to.sip_timeout = n),
            },
            Parameter {
                name: "sip_direct_signalling",
                about: "expect calls from the registrar only, 1 unless given (int)",
                set: |to, text| boolean(text).map(|on| to.sip_direct_signalling = on),
            },
            Parameter {
                name: "sip_direct_media",
                about: "expect media between the ends of the signalling only, 1 unless given (int)",
                set: |to, text| boolean(text).map(|on| to.sip_direct_media = on),
            },
        ],
    },
];

/// Kernel modules whose work is always done here.
const BUILT_IN: [&str; 24] = [
    "ip_tables",
    "ip6_tables",
    "x_tables",
    "iptable_filter",
    "iptable_nat",
    "iptable_mangle",
    "iptable_raw",
    "iptable_security",
    "ip6table_filter",
    "ip6table_nat",
    "ip6table_mangle",
    "ip6table_raw",
    "ip6table_security",
    "nf_conntrack",
    "nf_conntrack_ipv4",
    "nf_conntrack_ipv6",
    "nf_conntrack_netlink",
    "ip_conntrack",
    "nf_nat",
    "nf_nat_ipv4",
    "nf_nat_ipv6",
    "nf_defrag_ipv4",
    "nf_defrag_ipv6",
    "nf_log_syslog",
];
/// The same for extensions.
const BUILT_IN_FAMILIES: [&str; 3] = ["ipt_", "ip6t_", "xt_"];

fn plain(name: &str) -> String {
    name.replace('-', "_")
}

/// Names of all helpers that modules bring.
pub fn helpers() -> impl Iterator<Item = &'static str> {
    MODULES.iter().map(|m| m.kind.name())
}

fn find(name: &str) -> Option<&'static Module> {
    const ALL: &[Module] = &MODULES;
    let name = plain(name);
    ALL.iter()
        .find(|m| m.name == name || m.aliases.contains(&name.as_str()))
}

fn built_in(name: &str) -> bool {
    let name = plain(name);
    BUILT_IN.contains(&name.as_str()) || BUILT_IN_FAMILIES.iter().any(|f| name.starts_with(f))
}

impl Module {
    fn loaded(&self, config: &Config) -> bool {
        config.helpers.iter().any(|h| h.kind == self.kind)
    }

    fn load(&self, config: &mut Config, ports: &[u16], settings: HelperSettings) {
        for &proto in self.kind.protocols() {
            config.helpers.extend(ports.iter().map(|port| HelperPort {
                kind: self.kind,
                proto,
                port: *port,
            }));
        }
        config.helper = settings;
    }

    /// Forgets ports and parameters.
    fn unload(&self, config: &mut Config) {
        config.helpers.retain(|h| h.kind != self.kind);
        let mut settings = config.helper.clone();
        self.reset(&mut settings);
        config.helper = settings;
    }

    fn reset(&self, settings: &mut HelperSettings) {
        let usual = HelperSettings::default();
        match self.kind {
            HelperKind::Ftp => settings.ftp_loose = usual.ftp_loose,
            HelperKind::Irc => {
                settings.irc_max_dcc_channels = usual.irc_max_dcc_channels;
                settings.irc_dcc_timeout = usual.irc_dcc_timeout;
            }
            HelperKind::NetbiosNs => settings.netbios_timeout = usual.netbios_timeout,
            HelperKind::Snmp => settings.snmp_timeout = usual.snmp_timeout,
            HelperKind::Amanda => settings.amanda_master_timeout = usual.amanda_master_timeout,
            HelperKind::Sip => {
                settings.sip_timeout = usual.sip_timeout;
                settings.sip_direct_signalling = usual.sip_direct_signalling;
                settings.sip_direct_media = usual.sip_direct_media;
            }
            HelperKind::Tftp | HelperKind::SnmpTrap | HelperKind::Sane | HelperKind::Pptp => {}
        }
    }
}

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

/// Ports, and settings changed; what is no parameter is passed over, as the kernel does.
fn read_parameters(
    module: &Module,
    words: &[String],
    settings: &mut HelperSettings,
) -> Option<Vec<u16>> {
    let mut ports = vec![module.kind.port()];
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

/// A parameter that is on or off (`kstrtobool`).
fn boolean(text: &str) -> Option<bool> {
    match text {
        "1" | "y" | "Y" | "t" | "T" | "on" => Some(true),
        "0" | "n" | "N" | "f" | "F" | "off" => Some(false),
        _ => None,
    }
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
    if in_use(module.kind.name()) > 0 {
        return Err(format!(
            "modprobe: FATAL: Module {} is in use.\n",
            module.name
        ));
    }
    if !asked.dry {
        // From here on nothing new gets the helper.
        on_table(tracker, |ct| module.unload(ct.config_mut()))?;
        let mut next = Some(Cursor::default());
        while let Some(cursor) = next {
            next = on_table(tracker, move |ct| {
                ct.retire_helper(module.kind, cursor, PIECE)
            })?;
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
        let used = in_use(module.kind.name());
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
    let ports = module.ports.then(|| {
        let port = module.kind.port();
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
