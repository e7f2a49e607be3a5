//! Who guards the guarded host.

use std::fmt::Write as _;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::Who;
use crate::host::Host;
use crate::shell;
use crate::world::{BIN, HOME};

/// Enough for a command that only talks to a firewall.
const SHORT: Duration = Duration::from_secs(10);

/// Tools of iptables that the kernel run needs, and what they are called as Debian has
/// them.
const LEGACY: &[&str] = &[
    "iptables",
    "iptables-save",
    "iptables-restore",
    "ip6tables",
    "ip6tables-save",
    "ip6tables-restore",
];

const KERNEL_MODPROBE: &str = include_str!("kernel-modprobe.sh");
const KERNEL_SERVICE: &str = include_str!("kernel-service.sh");
const TIDEGATE_SERVICE: &str = include_str!("tidegate-service.sh");

/// Tidegate's configuration in a lab: nothing outside of it is read or written. The datapath
/// comes last, so that scenarios can add to it.
const CONFIG: &str = r#"
[rules]
v4 = "/run/lab/rules.v4"
v6 = "/run/lab/rules.v6"

[state]
every = 1

[log]
syslog = "/run/lab/syslog"

[log.nflog]
directory = "/run/lab"

[datapath]
"#;

/// Variables that set the datapath in a lab, and the settings that they are.
const DATAPATH: [(&str, &str); 2] = [("TIDEGATE_DATAPATH", "kind"), ("TIDEGATE_RING", "ring")];

/// Commands of Tidegate that are called by names which belong to the system's tools.
const BY_NAME: &[&str] = &["conntrack", "modprobe", "lsmod", "modinfo", "sysctl"];

/// Puts `who` in charge of `host` and its tools first on the search path.
///
/// # Errors
/// It is not installed, or does not start.
pub(crate) fn start(who: Who, host: &Host) -> Result<()> {
    match who {
        Who::None => Ok(()),
        Who::Kernel => kernel(host),
        Who::Tidegate => tidegate(host),
    }
}

/// Ends it in order; whatever it does not end in order ends with the lab.
pub(crate) fn stop(who: Who, host: &Host) {
    if who == Who::Tidegate {
        let _ = shell::run(host, "service iptables stop", SHORT);
    }
}

/// Writes an executable script.
pub(crate) fn script(name: &str, text: &str) -> Result<()> {
    let path = Path::new(BIN).join(name);
    std::fs::write(&path, text)?;
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755))?;
    Ok(())
}

fn kernel(host: &Host) -> Result<()> {
    for tool in LEGACY {
        let (base, rest) = tool.split_once('-').unwrap_or((tool, ""));
        let dash = if rest.is_empty() { "" } else { "-" };
        let name = format!("{base}-legacy{dash}{rest}");
        let found = find(&name).with_context(|| {
            format!("{name} is not installed: `--firewall kernel` needs Debian's iptables")
        })?;
        symlink(found, Path::new(BIN).join(tool))?;
    }
    script("modprobe", KERNEL_MODPROBE)?;
    script("service", KERNEL_SERVICE)?;
    check(host, "iptables -L -n").context("the kernel's iptables does not work here")
}

fn tidegate(host: &Host) -> Result<()> {
    check(host, &format!("tidegate link {BIN}"))?;
    for name in BY_NAME {
        if !Path::new(BIN).join(name).exists() {
            script(name, &format!("#!/bin/sh\nexec tidegate {name} \"$@\"\n"))?;
        }
    }
    script("service", TIDEGATE_SERVICE)?;
    let mut config = CONFIG.to_owned();
    for (variable, setting) in DATAPATH {
        if let Ok(value) = std::env::var(variable) {
            let value = value.escape_default();
            let _ = writeln!(config, "{setting} = \"{value}\"");
        }
    }
    std::fs::write(Path::new(HOME).join("tidegate.toml"), config)?;
    check(host, "service iptables start").context("`tidegate up' does not start")
}

fn check(host: &Host, line: &str) -> Result<()> {
    let run = shell::run(host, line, SHORT)?;
    if run.status != Some(0) {
        bail!("{line}: {}", run.err.trim());
    }
    Ok(())
}

/// Where a program is on the user's search path, or where administrators' tools are.
pub(crate) fn find(program: &str) -> Option<PathBuf> {
    let path = shell::search_path();
    let mut dirs = path.split(':').filter(|d| *d != BIN);
    dirs.find_map(|dir| {
        let file = Path::new(dir).join(program);
        let mode = file.metadata().ok().filter(std::fs::Metadata::is_file)?;
        (mode.permissions().mode() & 0o111 != 0).then_some(file)
    })
}
