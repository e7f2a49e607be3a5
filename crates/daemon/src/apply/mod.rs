//! `tidegate apply`: rules that are tried before they are put in force, and come off again
//! unless somebody who is not locked out says that they shall stay.

mod check;
mod left;
mod packets;
mod remedy;
mod session;
mod stage;
mod trial;
mod witness;

use std::fmt::Write;
use std::net::IpAddr;
use std::time::Duration;

use anyhow::Result;
use serde::{Deserialize, Serialize};
use similar::TextDiff;
use tidegate_engine::TrackWhen;
use tidegate_syntax::{Ruleset, save};
use tidegate_tools::Printed;

use crate::config::Config;
use crate::plane::Plane;
use crate::sockets;
use check::{Ground, Kind, Stopped};
use left::Left;

pub use session::Session;
pub(crate) use stage::Seen;
pub use stage::Step as StageStep;
pub(crate) use trial::Trials;

/// Exit status: nothing was changed, since somebody would be locked out.
pub const WOULD_LOCK_OUT: u8 = 3;
/// Status of an answer: the rules are on trial.
pub const ON_TRIAL: u8 = 10;

/// What `tidegate apply` asks the daemon for.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Order {
    /// IPv4 rules, as `iptables-restore` takes them.
    pub v4: Option<String>,
    /// IPv6 rules.
    pub v6: Option<String>,
    /// Connections that must live.
    pub sessions: Vec<Session>,
    /// Seconds until the rules before come back.
    pub seconds: u32,
    /// Apply also what locks somebody out.
    pub force: bool,
    /// Only say what would happen.
    pub dry_run: bool,
    /// Say it in JSON.
    pub json: bool,
    /// What to do with rules on stage; `None` for an order about rules in force.
    #[serde(default)]
    pub stage: Option<StageStep>,
}

/// What is found out about an order.
#[derive(Debug, Serialize)]
struct Report {
    /// Lines that change, as a unified diff.
    diff: String,
    findings: Vec<Finding>,
    notes: Vec<String>,
    /// `unchanged`, `refused`, `dry-run` or `on-trial`.
    outcome: &'static str,
    seconds: u32,
}

/// Somebody who would be locked out.
#[derive(Debug, Serialize)]
struct Finding {
    code: &'static str,
    client: std::net::SocketAddr,
    server: std::net::SocketAddr,
    text: String,
    remedy: Option<String>,
}

/// Carries out an order.
pub(crate) fn run(
    order: Order,
    config: &Config,
    plane: &dyn Plane,
    trials: &std::sync::Arc<Trials>,
) -> Result<Printed> {
    let mut order = order;
    match order.stage {
        None => {}
        Some(StageStep::Promote) => [order.v4, order.v6] = trials.stage.texts()?,
        Some(step) => return trials.staging(step, [order.v4, order.v6], order.json),
    }
    if !order.dry_run {
        trials.none_running()?;
    }
    let texts = [order.v4, order.v6];
    let [now, next] = trials.candidate(&texts)?;
    let mut report = Report {
        diff: diff(&now, &next),
        findings: Vec::new(),
        notes: Vec::new(),
        outcome: "unchanged",
        seconds: order.seconds,
    };
    if !report.diff.is_empty() {
        let (sessions, manage) = (order.sessions, managed(config));
        let track: TrackWhen = config.datapath.track.into();
        let sockets = if plane.has_packets() {
            sockets::established(true)
        } else {
            Vec::new()
        };
        let (ground, wanted, left) = plane.with(move |engine, at| {
            let (ground, wanted) = Ground::take(engine, at, &sessions, &manage);
            (ground, wanted, Left::take(engine, &sockets))
        })?;
        let ground = ground.tracking(track);
        report.notes.extend(left.notes(&ground, &next)?);
        report
            .notes
            .extend(wanted.iter().filter_map(check::Wanted::note));
        let stopped = check::check(&ground, &next, &wanted)?;
        report.findings = stopped.iter().map(Finding::new).collect();
        report.outcome = match (stopped.is_empty() || order.force, order.dry_run) {
            (false, _) => "refused",
            (true, true) => "dry-run",
            (true, false) => {
                let time = Duration::from_secs(u64::from(order.seconds));
                trials.begin(&texts, time)?;
                if order.stage.is_some() {
                    trials.stage.clear()?;
                }
                "on-trial"
            }
        };
    }
    Ok(report.printed(order.json))
}

/// Management addresses with each port that they must reach.
fn managed(config: &Config) -> Vec<(IpAddr, u16)> {
    let manage = &config.manage;
    let with_ports = |&from: &IpAddr| manage.ports.iter().map(move |&port| (from, port));
    manage.addresses.iter().flat_map(with_ports).collect()
}

/// Lines of the rules that change.
fn diff(now: &[Ruleset; 2], next: &[Ruleset; 2]) -> String {
    let mut text = String::new();
    for ((now, next), name) in now.iter().zip(next).zip(["ipv4", "ipv6"]) {
        let (now, next) = (lines(now), lines(next));
        if now != next {
            let (from, to) = (format!("{name} in force"), format!("{name} new"));
            let compared = TextDiff::configure()
                .timeout(Duration::from_secs(2))
                .diff_lines(&now, &next);
            let unified = compared
                .unified_diff()
                .context_radius(1)
                .header(&from, &to)
                .to_string();
            text.push_str(&unified);
        }
    }
    text
}

/// Rules without counters.
pub(crate) fn lines(rules: &Ruleset) -> String {
    let mut text = String::new();
    for table in &rules.tables {
        let _ = writeln!(text, "*{}", table.kind.name());
        for chain in table.chains() {
            text.push_str(&save::chain_line(chain, false));
            text.push('\n');
        }
        for chain in table.chains() {
            for rule in &chain.rules {
                text.push_str(&save::rule(&chain.name, &rule.spec, rules.family, None));
                text.push('\n');
            }
        }
    }
    text
}

impl check::Wanted {
    /// Who it is.
    fn subject(&self) -> String {
        let (client, server) = (self.client, self.server);
        match self.kind {
            Kind::Session { .. } => format!("your session {client} → {server}"),
            Kind::Fresh => format!("a new connection like it, {} → {server},", client.ip()),
            Kind::Manage => format!("management address {} → {server}", client.ip()),
        }
    }

    fn note(&self) -> Option<String> {
        let unknown = self.kind == Kind::Session { known: false };
        unknown.then(|| {
            format!(
                "TG002 {} is unknown to connection tracking: its next packet counts as NEW",
                self.subject()
            )
        })
    }
}

impl Finding {
    fn new(stopped: &Stopped) -> Self {
        let wanted = &stopped.wanted;
        let whose = if stopped.from_client {
            ""
        } else {
            " (the server's packets)"
        };
        Finding {
            code: "TG001",
            client: wanted.client,
            server: wanted.server,
            text: format!(
                "TG001 lockout: {}{whose} would be {} {}.",
                wanted.subject(),
                stopped.verdict,
                stopped.by
            ),
            remedy: stopped.remedy.as_ref().map(remedy::Remedy::text),
        }
    }
}

impl Report {
    fn printed(&self, json: bool) -> Printed {
        let status = match self.outcome {
            "refused" => WOULD_LOCK_OUT,
            "on-trial" => ON_TRIAL,
            "dry-run" if !self.findings.is_empty() => WOULD_LOCK_OUT,
            _ => 0,
        };
        if json {
            let out = serde_json::to_string(self).unwrap_or_default() + "\n";
            return Printed {
                out,
                status,
                ..Printed::default()
            };
        }
        Printed {
            out: self.diff.clone(),
            err: self.said(),
            status,
        }
    }

    /// What is said beside the diff.
    fn said(&self) -> String {
        let mut text = String::new();
        for line in &self.notes {
            let _ = writeln!(text, "{line}");
        }
        let mut remedies: Vec<&str> = Vec::new();
        for finding in &self.findings {
            let _ = writeln!(text, "{}", finding.text);
            remedies.extend(finding.remedy.as_deref());
        }
        remedies.dedup();
        let _ = match self.outcome {
            "unchanged" => writeln!(text, "The rules are in force already."),
            "refused" => {
                let _ = writeln!(text, "Not applied.");
                for remedy in &remedies {
                    let _ = writeln!(text, "{remedy},");
                }
                writeln!(
                    text,
                    "{}use --force-lockout.",
                    if remedies.is_empty() {
                        "No single rule helps: "
                    } else {
                        "or "
                    }
                )
            }
            "on-trial" => writeln!(text, "On trial for {} s.", self.seconds),
            _ => Ok(()),
        };
        text
    }
}
