//! What happened, as data and as text.

use std::fmt::Write as _;

use serde::{Deserialize, Serialize};

use crate::Who;

/// A rule or policy with its counters.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counted {
    /// `INPUT 1`, `nat PREROUTING policy`, `ip6 INPUT 2`: the table unless it is filter,
    /// the family unless it is IPv4.
    pub place: String,
    /// As `iptables-save` prints it.
    pub text: String,
    /// Packets counted.
    pub packets: u64,
    /// Bytes counted.
    pub bytes: u64,
}

/// What happened in a lab, in the order in which it happened.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "event")]
pub enum Event {
    /// A lab is up.
    Begin {
        /// The scenario's id.
        scenario: String,
        /// What it shows.
        title: String,
        /// A sketch of the network.
        network: String,
        /// Who guards.
        firewall: Who,
    },
    /// A step begins.
    Step {
        /// What it is about.
        say: String,
    },
    /// A command ended.
    Command {
        /// Where it was typed.
        host: String,
        /// The command line.
        line: String,
        /// How it ended.
        outcome: String,
        /// How it should have ended.
        expected: String,
        /// What it printed that should have been printed otherwise, or all of it if it
        /// ended otherwise.
        printed: String,
        /// Seconds.
        took: f64,
        /// Everything is as it must be.
        good: bool,
    },
    /// A rule's counters were looked at.
    Counter {
        /// The rule's table, chain and number.
        rule: String,
        /// The rule as `iptables-save` has it.
        text: String,
        /// Packets counted.
        packets: u64,
        /// Bytes counted.
        bytes: u64,
        /// What they should be.
        expected: String,
        /// They are.
        good: bool,
    },
    /// The connection table was looked for something.
    Connection {
        /// What must (not) be there.
        pattern: String,
        /// It must be there.
        wanted: bool,
        /// It is as it must be.
        good: bool,
    },
    /// A step is over: rules with their counters, and connections.
    State {
        /// Number of the step in the scenario.
        step: usize,
        /// What is left depends on timing, or differs on purpose.
        incomparable: bool,
        /// All rules and policies.
        rules: Vec<Counted>,
        /// As `conntrack -L` prints them.
        connections: Vec<String>,
    },
    /// The lab is gone.
    End {
        /// Files, if they were asked for, without their extensions: the packets (`pcapng`),
        /// the guarded host (`toml`), its rules (`rules`, `rules6`).
        capture: Option<String>,
        /// What kept the scenario from being played to its end.
        error: Option<String>,
    },
}

impl Event {
    /// Whether this was checked (`Some`) and is as it must be.
    #[must_use]
    pub fn good(&self) -> Option<bool> {
        match self {
            Event::Command { good, .. }
            | Event::Counter { good, .. }
            | Event::Connection { good, .. } => Some(*good),
            Event::End { error: Some(_), .. } => Some(false),
            Event::Begin { .. } | Event::Step { .. } | Event::State { .. } | Event::End { .. } => {
                None
            }
        }
    }

    /// The event for a person, ending with a newline unless there is nothing to say.
    #[must_use]
    pub fn text(&self) -> String {
        match self {
            Event::Begin {
                scenario,
                title,
                network,
                firewall,
            } => {
                let id = scenario.to_uppercase();
                format!(
                    "{id}  {title}\n\n{}\n\nfirewall: {firewall}\n",
                    indent(network)
                )
            }
            Event::Step { say } if say.is_empty() => String::new(),
            Event::Step { say } => format!("\n{say}\n"),
            Event::Command { .. } => self.command(),
            Event::Counter {
                rule,
                packets,
                bytes,
                expected,
                good,
                ..
            } => {
                let mut line = format!("  {} {rule}: {packets} packets", tick(*good));
                if !good {
                    let _ = write!(line, ", {bytes} bytes; must be {expected}");
                } else if expected.contains("capture") {
                    line.push_str(", as the capture shows");
                }
                line + "\n"
            }
            Event::Connection {
                pattern,
                wanted,
                good,
            } => {
                let what = if *wanted {
                    "connection"
                } else {
                    "no connection"
                };
                let pattern = if pattern.is_empty() {
                    "at all"
                } else {
                    pattern
                };
                format!("  {} {what} {pattern}\n", tick(*good))
            }
            Event::State { .. } => String::new(),
            Event::End { capture, error } => {
                let mut text = String::new();
                if let Some(stem) = capture {
                    let _ = writeln!(
                        text,
                        "\nPackets: {stem}.pcapng. Why was each of them let through or not?\n  \
                         tidegate replay --rules {stem}.rules --rules6 {stem}.rules6 \
                         --host {stem}.toml {stem}.pcapng"
                    );
                }
                if let Some(error) = error {
                    let _ = writeln!(text, "\n  ✗ {error}");
                }
                text
            }
        }
    }

    fn command(&self) -> String {
        let Event::Command {
            host,
            line,
            outcome,
            expected,
            printed,
            took,
            good,
        } = self
        else {
            return String::new();
        };
        let mut text = format!("  {} {host}$ {line}", tick(*good));
        if *took > 0.5 || expected != "works" || !good {
            let width = 72_usize.saturating_sub(text.chars().count());
            let _ = write!(text, "{:width$}  {outcome}", "");
        }
        if *took > 0.5 {
            let _ = write!(text, " ({took:.1} s)");
        }
        if !good && outcome != expected {
            let _ = write!(text, "; must be: {expected}");
        }
        text.push('\n');
        for line in printed.lines() {
            let _ = writeln!(text, "      {line}");
        }
        text
    }
}

/// Rules and connections at the end, for a person.
#[must_use]
pub fn state_text(rules: &[Counted], connections: &[String]) -> String {
    let mut text = String::new();
    if !rules.is_empty() {
        text.push_str("\n packets    bytes  rule\n");
    }
    for rule in rules {
        let (packets, bytes) = (rule.packets, rule.bytes);
        // The table and family; the chain and number are in the rule and its place.
        let table = rule.place.rsplitn(3, ' ').nth(2).unwrap_or_default();
        let table = if table.is_empty() {
            String::new()
        } else {
            format!("{table}: ")
        };
        let _ = writeln!(text, "{packets:8} {bytes:8}  {table}{}", rule.text);
    }
    let _ = writeln!(text, "\n{} connections:", connections.len());
    for line in connections {
        let _ = writeln!(text, "  {line}");
    }
    text
}

const fn tick(good: bool) -> char {
    if good { '✓' } else { '✗' }
}

fn indent(text: &str) -> String {
    let lines: Vec<String> = text.lines().map(|l| format!("    {l}")).collect();
    lines.join("\n")
}
