//! `tidegate import`: rules from elsewhere, and what became of them.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::{Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use anyhow::{Context, Result, bail};
use clap::ValueEnum;
use serde_json::{Value, json};
use tidegate_syntax::{Chain, Salvage, Table, salvage, save};
use tidegate_tools::{HostNames, replace};
use tidegate_wire::Family;

/// Arguments of `tidegate import`.
#[derive(Debug, clap::Args)]
#[command(after_help = HELP)]
pub(crate) struct Args {
    /// A save file of iptables-legacy or iptables-nft; `-` is standard input.
    #[arg(required_unless_present = "running", conflicts_with = "running")]
    file: Option<PathBuf>,
    /// Take the rules that the kernel has now.
    #[arg(long)]
    running: bool,
    /// Which of iptables' two homes in the kernel, if both have rules.
    #[arg(long, value_enum, requires = "running")]
    backend: Option<Backend>,
    /// The rules are IPv6; without this the file tells.
    #[arg(short = '6', long)]
    ipv6: bool,
    /// Write what was understood here, ready for iptables-restore.
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// Print for programs.
    #[arg(long)]
    json: bool,
}

/// What `tidegate import --help` ends with.
const HELP: &str = "\
The table says what was found and understood, and whose rules they look like; what
was not understood is listed with its line. Nothing is put in force: give the file
that --out writes to iptables-restore or to `tidegate up'.

Examples:
  tidegate import /etc/iptables/rules.v4 --out /etc/tidegate/rules.v4
  iptables-save -c | tidegate import -
  tidegate import --running -6 --out rules.v6

Exit status: 0 everything was understood; 1 something was not, or a file cannot be
read or written; 2 the command line is wrong.";

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Backend {
    Legacy,
    Nft,
}

impl Backend {
    const fn name(self) -> &'static str {
        match self {
            Backend::Legacy => "legacy",
            Backend::Nft => "nft",
        }
    }
}

/// How the chains of well-known programs begin.
const MAKERS: &[(&str, &str)] = &[
    ("CILIUM_", "Cilium"),
    ("CNI-", "CNI plugins"),
    ("DOCKER", "Docker"),
    ("FORWARD_direct", "firewalld"),
    ("FWD", "firewalld"),
    ("INPUT_direct", "firewalld"),
    ("IN_", "firewalld"),
    ("KUBE-", "Kubernetes"),
    ("LIBVIRT_", "libvirt"),
    ("NETAVARK", "Podman"),
    ("OUTPUT_direct", "firewalld"),
    ("POST_", "firewalld"),
    ("PRE_", "firewalld"),
    ("cali-", "Calico"),
    ("f2b-", "fail2ban"),
    ("fail2ban-", "fail2ban"),
    ("ts-", "Tailscale"),
    ("ufw-", "ufw"),
    ("ufw6-", "ufw"),
];

/// Reads, prints and writes.
///
/// # Errors
/// Rules cannot be had at all, or written.
pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    let (source, text) = match &args.file {
        Some(path) => (path.display().to_string(), read(path)?),
        None => running(family_of(args, ""), args.backend)?,
    };
    let family = family_of(args, &text);
    let found = salvage(&text, family, &HostNames::default());
    if let Some(path) = &args.out {
        replace(path, save::plain(&found.rules).as_bytes())
            .with_context(|| path.display().to_string())?;
    }
    let report = match args.json {
        true => format!("{:#}\n", as_json(&source, &text, &found)),
        false => report(&source, &text, &found),
    };
    std::io::stdout().write_all(report.as_bytes())?;
    Ok(match found.refused.is_empty() {
        true => ExitCode::SUCCESS,
        false => ExitCode::FAILURE,
    })
}

fn read(path: &Path) -> Result<String> {
    let mut bytes = Vec::new();
    match path.as_os_str() == "-" {
        true => std::io::stdin().read_to_end(&mut bytes).map(drop),
        false => std::fs::read(path).map(|all| bytes = all),
    }
    .with_context(|| path.display().to_string())?;
    String::from_utf8(bytes).with_context(|| path.display().to_string())
}

/// The family that was asked for, or that the file's heading names.
fn family_of(args: &Args, text: &str) -> Family {
    let says_so = |l: &str| l.starts_with('#') && l.contains("ip6tables");
    match args.ipv6 || text.lines().any(says_so) {
        true => Family::V6,
        false => Family::V4,
    }
}

/// What the kernel has now: where it is from, and the rules as text.
fn running(family: Family, backend: Option<Backend>) -> Result<(String, String)> {
    let prefix = match family {
        Family::V4 => "iptables",
        Family::V6 => "ip6tables",
    };
    let mut found = Vec::new();
    let mut missing = Vec::new();
    for one in [Backend::Legacy, Backend::Nft] {
        if backend.is_some_and(|b| b != one) {
            continue;
        }
        let program = format!("{prefix}-{}-save", one.name());
        match Command::new(&program).arg("-c").output() {
            Ok(out) if out.status.success() => {
                let text = String::from_utf8_lossy(&out.stdout).into_owned();
                if text.lines().any(|l| l.contains("-A ")) {
                    found.push((program, text));
                }
            }
            Ok(out) => bail!("{program}: {}", String::from_utf8_lossy(&out.stderr).trim()),
            Err(_) => missing.push(program),
        }
    }
    match found.len() {
        0 if !missing.is_empty() => bail!(
            "cannot ask the kernel: {} not installed",
            missing.join(" and ")
        ),
        0 => bail!("the kernel has no {prefix} rules"),
        1 => Ok(found.remove(0)),
        _ => bail!(
            "the kernel has {prefix} rules of both kinds, and packets pass all of them; \
             choose with --backend legacy or --backend nft"
        ),
    }
}

/// The program whose file this is, as its heading says.
fn heading(text: &str) -> Option<&str> {
    let line = text.lines().find(|l| l.starts_with("# Generated by "))?;
    let rest = line.trim_start_matches("# Generated by ");
    Some(rest.split(" on ").next().unwrap_or(rest))
}

/// Whose chains there are, with how many each.
fn makers(table: &Table) -> BTreeMap<&'static str, usize> {
    let mut all = BTreeMap::new();
    for chain in table.chains().filter(|c| c.base.is_none()) {
        let maker = MAKERS
            .iter()
            .find(|(start, _)| chain.name.starts_with(start));
        if let Some((_, maker)) = maker {
            *all.entry(*maker).or_default() += 1;
        }
    }
    all
}

fn rules(table: &Table) -> usize {
    table.chains().map(|c: &Chain| c.rules.len()).sum()
}

fn report(source: &str, text: &str, found: &Salvage) -> String {
    let mut out = source.to_owned();
    let made = heading(text)
        .map(|h| format!(", made by {h}"))
        .unwrap_or_default();
    let counters = if found.counters {
        ", with counters"
    } else {
        ""
    };
    let _ = writeln!(out, "{made}{counters}");
    let _ = writeln!(
        out,
        "{:<10} {:>7} {:>7}  made by",
        "table", "chains", "rules"
    );
    for table in &found.rules.tables {
        let makers = makers(table).into_iter();
        let makers: Vec<String> = makers.map(|(m, n)| format!("{m} ({n})")).collect();
        let chains = table.chains().count();
        let line = format!(
            "{:<10} {chains:>7} {:>7}  {}",
            table.kind.name(),
            rules(table),
            makers.join(", ")
        );
        let _ = writeln!(out, "{}", line.trim_end());
    }
    let total: usize = found.rules.tables.iter().map(rules).sum();
    let _ = writeln!(
        out,
        "{total} rules understood, {} lines not",
        found.refused.len()
    );
    for refused in &found.refused {
        let line = text.lines().nth(refused.line.saturating_sub(1) as usize);
        let _ = writeln!(out, "line {}: {}", refused.line, line.unwrap_or(""));
        let _ = writeln!(out, "    {}", reason(refused));
    }
    out
}

/// The first line of what the tool says, without its name.
fn reason(refused: &tidegate_syntax::Refused) -> String {
    let said = refused.failure.render("", None);
    let first = said.lines().next().unwrap_or("");
    let bare = first
        .split_once("(legacy): ")
        .map_or(first, |(_, rest)| rest);
    bare.trim_start_matches(": ").to_owned()
}

fn as_json(source: &str, text: &str, found: &Salvage) -> Value {
    let table = |t: &Table| {
        json!({
            "table": t.kind.name(),
            "chains": t.chains().count(),
            "rules": rules(t),
            "made_by": makers(t),
        })
    };
    let refused = |r: &tidegate_syntax::Refused| {
        json!({
            "line": r.line,
            "text": text.lines().nth(r.line.saturating_sub(1) as usize),
            "reason": reason(r),
        })
    };
    json!({
        "source": source,
        "generated_by": heading(text),
        "family": match found.rules.family { Family::V4 => "ipv4", Family::V6 => "ipv6" },
        "counters": found.counters,
        "tables": found.rules.tables.iter().map(table).collect::<Vec<_>>(),
        "not_understood": found.refused.iter().map(refused).collect::<Vec<_>>(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const DOCKER: &str = "\
# Generated by iptables-save v1.8.9 (nf_tables) on Wed Nov 25 10:00:00 2026
*filter
:INPUT ACCEPT [5:300]
:FORWARD DROP [0:0]
:OUTPUT ACCEPT [7:400]
:DOCKER - [0:0]
:DOCKER-USER - [0:0]
:f2b-sshd - [0:0]
[1:60] -A INPUT -p tcp -m multiport --dports 22 -j f2b-sshd
[0:0] -A INPUT -m nosuch --thing -j DROP
[2:120] -A FORWARD -j DOCKER-USER
[0:0] -A FORWARD -o docker0 -j NOWHERE
[0:0] -A DOCKER -p tcp -j TCPMSS --set-mss 1000
[0:0] -A f2b-sshd -j RETURN
COMMIT
*strange
:INPUT ACCEPT [0:0]
-A INPUT -j DROP
COMMIT
*nat
:DOCKER - [0:0]
-A POSTROUTING -s 172.17.0.0/16 ! -o docker0 -j MASQUERADE
COMMIT
";

    #[test]
    fn everything_is_understood_or_named_with_its_line() {
        let found = salvage(DOCKER, Family::V4, &HostNames::default());
        let lines: Vec<u32> = found.refused.iter().map(|r| r.line).collect();
        assert_eq!(lines, [10, 12, 15, 16]);
        let text = save::plain(&found.rules);
        let kept: Vec<&str> = text.lines().filter(|l| l.contains("-A ")).collect();
        assert_eq!(
            kept,
            [
                "[1:60] -A INPUT -p tcp -m multiport --dports 22 -j f2b-sshd",
                "[2:120] -A FORWARD -j DOCKER-USER",
                "[0:0] -A f2b-sshd -j RETURN",
                "[0:0] -A POSTROUTING -s 172.17.0.0/16 ! -o docker0 -j MASQUERADE",
            ]
        );
        assert!(found.counters);
        let report = report("rules.v4", DOCKER, &found);
        for piece in [
            "rules.v4, made by iptables-save v1.8.9 (nf_tables), with counters\n",
            "filter           6       3  Docker (2), fail2ban (1)\n",
            "nat              5       1  Docker (1)\n",
            "4 rules understood, 4 lines not\n",
            "line 10: [0:0] -A INPUT -m nosuch --thing -j DROP\n    Couldn't load match `nosuch'",
            "line 16: *strange\n    iptables-restore: unable to initialize table 'strange'\n",
        ] {
            assert!(report.contains(piece), "{piece:?} in {report}");
        }
    }

    #[test]
    fn a_file_that_was_cut_off_keeps_what_it_has() {
        let found = salvage(
            "*filter\r\n-A INPUT -j DROP\r\n",
            Family::V4,
            &HostNames::default(),
        );
        assert!(save::plain(&found.rules).contains("-A INPUT -j DROP\n"));
        assert_eq!(found.refused.len(), 1);
        assert_eq!(reason(&found.refused[0]), "COMMIT expected at line 3");
    }

    /// What was understood can be restored.
    #[test]
    fn what_is_written_can_be_read() {
        let found = salvage(DOCKER, Family::V4, &HostNames::default());
        let text = save::plain(&found.rules);
        let again = salvage(&text, Family::V4, &HostNames::default());
        assert!(again.refused.is_empty(), "{:?}", again.refused);
        assert_eq!(save::plain(&again.rules), text);
    }

    #[test]
    fn a_loop_empties_its_table_alone() {
        let text = "*filter\n:A - [0:0]\n-A INPUT -j A\n-A A -j A\nCOMMIT\n*mangle\n-A INPUT -j ACCEPT\nCOMMIT\n";
        let found = salvage(text, Family::V4, &HostNames::default());
        assert_eq!(found.refused.len(), 1);
        assert!(!save::plain(&found.rules).contains("-A INPUT -j A\n"));
        assert!(save::plain(&found.rules).contains("-A INPUT -j ACCEPT"));
    }
}
