//! Who guards the guarded host.

use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Child;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::Who;
use crate::host::Host;
use crate::shell;
use crate::world::{BIN, HOME};

/// Enough for a command that only talks to a firewall.
const SHORT: Duration = Duration::from_secs(5);

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

/// `modprobe nf_conntrack_ftp` for a kernel that has the helper built in and assigns
/// helpers by rules alone.
const MODPROBE: &str = r#"#!/bin/sh
# Loading and unloading the FTP helper, as rules: kernels since 6.? assign helpers by rules alone.
act=-A; ports=21
for word; do
  case $word in
    -r) act=-D ;;
    ports=*) ports=${word#ports=} ;;
    nf_conntrack_ftp|loose=*) ;;
    *) echo "modprobe: FATAL: Module $word not found" >&2; exit 1 ;;
  esac
done
[ $act = -D ] && ports=$(cat /run/lab/ftp-ports 2>/dev/null)
echo "$ports" >/run/lab/ftp-ports
for port in $(echo "$ports" | tr , ' '); do
  for family in iptables ip6tables; do
    for chain in PREROUTING OUTPUT; do
      $family -t raw $act $chain -p tcp --dport "$port" -j CT --helper ftp || exit 1
    done
  done
done
"#;

/// What keeps a firewall going.
#[derive(Debug, Default)]
pub(crate) struct Firewall {
    daemon: Option<Child>,
}

impl Firewall {
    /// Puts `who` in charge of `host` and its tools first on the search path.
    ///
    /// # Errors
    /// It is not installed, or does not start.
    pub(crate) fn start(who: Who, host: &Host) -> Result<Self> {
        match who {
            Who::None => Ok(Firewall::default()),
            Who::Kernel => kernel(host),
            Who::Tidegate => tidegate(host),
        }
    }

    /// Ends it.
    pub(crate) fn stop(&mut self, host: &Host) {
        if let Some(mut daemon) = self.daemon.take() {
            // In order, so that what it does at its end is done in labs, too.
            let _ = shell::run(host, "tidegate down", SHORT);
            let _ = daemon.kill();
            let _ = daemon.wait();
        }
    }
}

/// Writes an executable script.
pub(crate) fn script(name: &str, text: &str) -> Result<()> {
    let path = Path::new(BIN).join(name);
    std::fs::write(&path, text)?;
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755))?;
    Ok(())
}

fn kernel(host: &Host) -> Result<Firewall> {
    for tool in LEGACY {
        let (base, rest) = tool.split_once('-').unwrap_or((tool, ""));
        let dash = if rest.is_empty() { "" } else { "-" };
        let name = format!("{base}-legacy{dash}{rest}");
        let found = find(&name).with_context(|| {
            format!("{name} is not installed: `--firewall kernel` needs Debian's iptables")
        })?;
        symlink(found, Path::new(BIN).join(tool))?;
    }
    script("modprobe", MODPROBE)?;
    // Tracking begins with the first rule that needs it; begin with one table.
    let run = shell::run(host, "iptables -L -n", SHORT)?;
    if run.status != Some(0) {
        bail!(
            "the kernel's iptables does not work here: {}",
            run.err.trim()
        );
    }
    Ok(Firewall::default())
}

/// Tidegate's configuration in a lab: nothing outside of it is read or written.
const CONFIG: &str = r#"
[rules]
v4 = "/run/lab/rules.v4"
v6 = "/run/lab/rules.v6"
"#;

/// Commands of Tidegate that are called by names which belong to the system's tools.
const BY_NAME: &[&str] = &["conntrack", "modprobe", "lsmod", "modinfo", "sysctl"];

fn tidegate(host: &Host) -> Result<Firewall> {
    let linked = shell::run(host, &format!("tidegate link {BIN}"), SHORT)?;
    if linked.status != Some(0) {
        bail!("tidegate link: {}", linked.err.trim());
    }
    for name in BY_NAME {
        if !Path::new(BIN).join(name).exists() {
            script(name, &format!("#!/bin/sh\nexec tidegate {name} \"$@\"\n"))?;
        }
    }
    let config = Path::new(HOME).join("tidegate.toml");
    if !config.exists() {
        std::fs::write(&config, CONFIG)?;
    }
    let log = Path::new(HOME).join("tidegate.log");
    let line = format!(
        "exec tidegate up --config {} >{} 2>&1",
        config.display(),
        log.display()
    );
    let mut daemon = shell::start(host, &line)?;
    let end = Instant::now() + Duration::from_secs(10);
    while shell::run(host, "tidegate status", SHORT)?.status != Some(0) {
        if daemon.try_wait()?.is_some() || Instant::now() > end {
            let said = std::fs::read_to_string(&log).unwrap_or_default();
            bail!("`tidegate up' does not start: {}", said.trim());
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(Firewall {
        daemon: Some(daemon),
    })
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
