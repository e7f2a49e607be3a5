//! What `tidegate status` says.

use std::fmt::Write;
use std::path::PathBuf;

use jiff::{SpanRound, Timestamp, Unit};
use serde::Serialize;
use tidegate_host::foreign::{Foreign, kernel_rules};

use crate::apply::Seen;
use crate::files::Drift;
use crate::forecast::Forecast;
use crate::offload::Offloaded;
use crate::plane::PlaneReport;

/// A family's rules.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct RulesStatus {
    /// `ipv4` or `ipv6`.
    pub(crate) family: &'static str,
    /// Rules in force.
    pub(crate) rules: usize,
    /// The file they were read from.
    pub(crate) file: Option<PathBuf>,
    /// Whether they have been changed since.
    pub(crate) changed: bool,
}

/// The daemon at a moment.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct Status {
    /// Process.
    pub(crate) pid: u32,
    /// When it started, RFC 3339.
    pub(crate) since: Timestamp,
    /// How often another program should have taken its place and did not.
    pub(crate) failed_upgrades: u32,
    /// Its control socket.
    pub(crate) socket: PathBuf,
    /// The datapath.
    #[serde(flatten)]
    pub(crate) plane: PlaneReport,
    /// Connections that programs in the kernel have, where there are programs.
    pub(crate) offloaded: Option<Offloaded>,
    /// Seconds until rules on trial come off unless they are confirmed.
    pub(crate) trial: Option<u32>,
    /// Rules on stage.
    pub(crate) staged: Option<Seen>,
    /// Rules of both families.
    pub(crate) rules: Vec<RulesStatus>,
    /// Connections tracked.
    pub(crate) connections: u32,
    /// Most there may be (`nf_conntrack_max`); 0 is unlimited.
    pub(crate) connections_max: u32,
    /// How often NAT found no free port.
    pub(crate) nat_exhausted: u64,
    /// How full the table is, and where that leads.
    pub(crate) forecast: Forecast,
    /// Helpers that connections get by their port.
    pub(crate) helpers: Vec<String>,
    /// A maximum that leaves long chains.
    pub(crate) chains: Option<Chains>,
    /// Rules in force that are not those in the files.
    pub(crate) drift: Vec<Drift>,
    /// Packet filters of the kernel.
    pub(crate) foreign: Vec<ForeignRules>,
}

/// More connections may come than the table's buckets are for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Chains {
    /// Always the same.
    pub(crate) code: &'static str,
    /// Connections a bucket when the table is full.
    pub(crate) length: u32,
    /// Buckets.
    pub(crate) buckets: u32,
    /// The command that makes more of them.
    pub(crate) remedy: String,
}

impl Chains {
    /// Longest chains that are nothing to speak of.
    const LONG: u32 = 8;
    /// Those that the remedy leaves, as the kernel had them by default.
    const GOOD: u32 = 4;

    /// With so many connections at most in so many buckets.
    pub(crate) fn of(max: u32, buckets: u32) -> Option<Self> {
        let length = max / buckets.max(1);
        (length > Self::LONG).then(|| Chains {
            code: "TG031",
            length,
            buckets,
            remedy: format!(
                "tidegate sysctl -w net.netfilter.nf_conntrack_buckets={}",
                max / Self::GOOD
            ),
        })
    }

    fn text(&self) -> String {
        format!(
            "nf_conntrack_max is {} times the buckets ({}): so long are the chains of a full table\n            Do: {}",
            self.length, self.buckets, self.remedy
        )
    }
}

/// A packet filter of the kernel beside this one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct ForeignRules {
    /// Always the same.
    pub(crate) code: &'static str,
    /// Which table.
    pub(crate) table: String,
    /// How many rules, where that is known.
    pub(crate) rules: Option<usize>,
    /// The command that removes them.
    pub(crate) remedy: String,
}

impl ForeignRules {
    /// All that there are now.
    pub(crate) fn all() -> Vec<Self> {
        let found = kernel_rules().into_iter();
        let one = |f: Foreign| ForeignRules {
            code: "TG110",
            table: f.table,
            rules: f.rules,
            remedy: f.removal,
        };
        found.map(one).collect()
    }

    fn text(&self) -> String {
        let count = self
            .rules
            .map_or(String::new(), |n| format!(" ({n} rules)"));
        format!(
            "the kernel also has {}{count}: packets pass it as well, and a drop there is not visible here\n            \
             Do: {}",
            self.table, self.remedy
        )
    }
}

impl Status {
    /// For people.
    pub(crate) fn text(&self, now: Timestamp) -> String {
        let mut text = String::new();
        let since = self.since.strftime("%Y-%m-%d %H:%M:%S UTC");
        let up = self.since.until(now).unwrap_or_default();
        let up = up.round(
            SpanRound::new()
                .smallest(Unit::Second)
                .largest(Unit::Day)
                .days_are_24_hours(),
        );
        let up = up.map_or_else(|_| String::new(), |s| format!(" ({s:#})"));
        let _ = writeln!(text, "tidegate    up since {since}{up}, pid {}", self.pid);
        let _ = writeln!(text, "enforcing   {}", self.enforcing());
        if let Some(share) = self.in_kernel() {
            let _ = writeln!(text, "in kernel   {share}");
        }
        if let Some(there) = &self.offloaded {
            let Offloaded { connections, most } = there;
            let _ = writeln!(
                text,
                "offloaded   {connections} connections of at most {most}"
            );
        }
        for rules in &self.rules {
            let _ = writeln!(text, "rules       {}", rules.text());
        }
        if let Some(left) = self.trial {
            let _ = writeln!(
                text,
                "ON TRIAL    the rules before come back in {left} s unless `tidegate confirm` is given"
            );
        }
        if let Some(seen) = &self.staged {
            let _ = writeln!(
                text,
                "ON STAGE    rules without effect since {}: of {} packets they would have stopped {}, let in {} \
                 (tidegate apply --show); every packet walks both rulesets meanwhile, none is left to the kernel",
                seen.since.strftime("%Y-%m-%d %H:%M:%S UTC"),
                seen.packets,
                seen.stopped,
                seen.let_in
            );
        }
        let max = match self.connections_max {
            0 => "unlimited".to_owned(),
            max => max.to_string(),
        };
        let _ = writeln!(text, "connections {} of {max}", self.connections);
        text += &self.forecast.text(self.connections_max);
        if self.nat_exhausted > 0 {
            let times = self.nat_exhausted;
            let _ = writeln!(text, "NAT         found no free port {times} times");
        }
        if !self.helpers.is_empty() {
            let _ = writeln!(text, "helpers     {}", self.helpers.join(", "));
        }
        if let Some(chains) = &self.chains {
            let _ = writeln!(text, "TG031       {}", chains.text());
        }
        for drift in &self.drift {
            let _ = writeln!(text, "TG100       {}", drift.text());
        }
        for foreign in &self.foreign {
            let _ = writeln!(text, "TG110       {}", foreign.text());
        }
        for gap in &self.plane.gaps {
            let _ = writeln!(text, "NOT enforced: {gap}");
        }
        text
    }

    /// The share of received packets that programs in the kernel dealt with, and why the
    /// others came up, most frequent first.
    fn in_kernel(&self) -> Option<String> {
        let fates = &self.plane.fates;
        let all: u64 = fates.iter().map(|f| f.packets).sum();
        let done: u64 = fates.iter().filter(|f| f.done).map(|f| f.packets).sum();
        if fates.is_empty() {
            return None;
        }
        let tenths = done.saturating_mul(1000).checked_div(all).unwrap_or(0);
        let (whole, tenth) = (tenths / 10, tenths % 10);
        let mut text = format!("{whole}.{tenth} % of {all} received packets");
        let mut up: Vec<_> = fates.iter().filter(|f| !f.done && f.packets > 0).collect();
        up.sort_by_key(|f| std::cmp::Reverse(f.packets));
        for (i, fate) in up.into_iter().enumerate() {
            let before = if i == 0 { "; up:" } else { "," };
            let _ = write!(text, "{before} {} {}", fate.packets, fate.what);
        }
        Some(text)
    }

    fn enforcing(&self) -> String {
        let names: Vec<&str> = self.plane.guarded.iter().map(|g| g.name.as_str()).collect();
        match (self.plane.kind, names.is_empty()) {
            ("none", _) => "nothing".to_owned(),
            (kind, true) => format!("{kind} datapath, no interface to guard"),
            (kind, false) => format!("{kind} datapath on {}", names.join(", ")),
        }
    }
}

impl RulesStatus {
    fn text(&self) -> String {
        let from = match &self.file {
            Some(file) => format!(" from {}", file.display()),
            None => String::new(),
        };
        let changed = if self.changed { ", changed since" } else { "" };
        format!("{}: {}{from}{changed}", self.family, self.rules)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plane::{Fate, Guarded};

    fn rules() -> Vec<RulesStatus> {
        vec![
            RulesStatus {
                family: "ipv4",
                rules: 12,
                file: Some("/etc/iptables/rules.v4".into()),
                changed: true,
            },
            RulesStatus {
                family: "ipv6",
                rules: 0,
                file: None,
                changed: false,
            },
        ]
    }

    #[test]
    fn a_person_reads_what_is_enforced_and_what_is_not() {
        let guarded = |name: &str| Guarded {
            name: name.to_owned(),
            ..Guarded::default()
        };
        let fate = |done, what, packets| Fate {
            done,
            what,
            packets,
        };
        let status = Status {
            pid: 7,
            since: "2026-11-25T10:00:00Z".parse().unwrap(),
            failed_upgrades: 0,
            socket: "/run/x".into(),
            plane: PlaneReport {
                kind: "userspace",
                guarded: vec![guarded("eth0"), guarded("lo")],
                gaps: vec!["wlan0 has no Ethernet header".to_owned()],
                fates: vec![
                    fate(true, "forwarded", 999),
                    fate(false, "fragments", 0),
                    fate(false, "odd", 1),
                    fate(false, "unknown", 2),
                ],
                lost: Vec::new(),
            },
            offloaded: Some(Offloaded {
                connections: 2,
                most: 65536,
            }),
            trial: Some(7),
            staged: None,
            rules: rules(),
            connections: 3,
            connections_max: 65536,
            nat_exhausted: 0,
            forecast: Forecast {
                fill: Some(0.1),
                new_per_second: 2.5,
                growth_per_second: 0.0,
                full_in_seconds: None,
                not_assured: 40.0,
                top: Vec::new(),
                code: None,
                remedy: None,
            },
            helpers: vec!["ftp on 21".to_owned()],
            chains: Chains::of(1_048_576, 65_536),
            drift: vec![Drift {
                code: "TG100",
                file: "/etc/iptables/rules.v4".into(),
                only_running: 2,
                only_saved: 0,
                docker: 1,
            }],
            foreign: vec![ForeignRules {
                code: "TG110",
                table: "nft table inet x".to_owned(),
                rules: Some(3),
                remedy: "nft delete table inet x".to_owned(),
            }],
        };
        assert_eq!(
            status.text("2026-11-26T11:02:03Z".parse().unwrap()),
            "\
tidegate    up since 2026-11-25 10:00:00 UTC (1d 1h 2m 3s), pid 7
enforcing   userspace datapath on eth0, lo
in kernel   99.7 % of 1002 received packets; up: 2 unknown, 1 odd
offloaded   2 connections of at most 65536
rules       ipv4: 12 from /etc/iptables/rules.v4, changed since
rules       ipv6: 0
ON TRIAL    the rules before come back in 7 s unless `tidegate confirm` is given
connections 3 of 65536
filling     0.1 %, 2.5 new a second, 40 % not assured
helpers     ftp on 21
TG031       nf_conntrack_max is 16 times the buckets (65536): so long are the chains of a full table
            Do: tidegate sysctl -w net.netfilter.nf_conntrack_buckets=262144
TG100       running is not /etc/iptables/rules.v4: +2 -0 lines (1 in chains of Docker, which makes them itself)
            Do: tidegate save to keep what runs, or tidegate reload to have the file again
TG110       the kernel also has nft table inet x (3 rules): packets pass it as well, and a drop there is not visible here
            Do: nft delete table inet x
NOT enforced: wlan0 has no Ethernet header
"
        );
    }
}
