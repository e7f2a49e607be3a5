//! Scenarios as data: what is typed where, and what must happen.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result};
use serde::Deserialize;

use crate::Who;

macro_rules! scenarios {
    ($($name:literal),* $(,)?) => {
        /// Name and text of every scenario, in the order they are listed.
        const KNOWN: &[(&str, &str)] = &[
            $(($name, include_str!(concat!("../../../scenarios/live/", $name, ".toml")))),*
        ];
    };
}

scenarios! {
    "a1", "a2", "a3", "a4", "a5", "a6", "a7", "a8", "a9", "a10", "b1", "b2", "b3", "b4", "b5", "b6", "b6-masq", "b6-dnat",
    "c1", "c2", "c3", "c4", "c5", "c6", "c7", "d2", "d3", "d5", "d6", "d7", "d8", "d9", "synproxy", "adopt", "crash",
}

/// A scenario.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Scenario {
    /// Its id.
    #[serde(skip)]
    pub(crate) name: String,
    /// One line that says what it shows.
    pub(crate) title: String,
    /// Name of the topology.
    pub(crate) topology: String,
    /// Programs that run from the beginning.
    #[serde(default, rename = "server")]
    pub(crate) servers: Vec<Server>,
    /// What happens, in order.
    #[serde(rename = "step")]
    pub(crate) steps: Vec<Step>,
}

/// A program that stays.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Server {
    /// Its host.
    pub(crate) on: String,
    /// The command line.
    pub(crate) run: String,
    /// It is there when something listens on this port (`22/tcp`, `53/udp`) or on a
    /// socket of this path.
    pub(crate) port: String,
}

/// Something typed, and what must come of it.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Step {
    /// What this step is about, for people.
    #[serde(default)]
    pub(crate) say: String,
    /// Where it is typed; the guarded host if empty.
    #[serde(default)]
    pub(crate) on: String,
    /// Commands, one a line; `#` begins a line that is not typed.
    #[serde(default, rename = "type")]
    pub(crate) lines: String,
    /// Commands that are typed at the same time, and must end as they say.
    #[serde(default)]
    pub(crate) meanwhile: Vec<Aside>,
    /// How each of them must end (see `Outcome::is`); `works` if nothing is said.
    #[serde(default)]
    pub(crate) expect: Option<PerFirewall<String>>,
    /// Words that must be printed, in this order on one line; one entry a line.
    #[serde(default)]
    pub(crate) prints: Option<PerFirewall<Vec<String>>>,
    /// What rules and policies must have counted: `"INPUT 1"`, `"nat PREROUTING 2"`,
    /// `"ip6 INPUT policy"`.
    #[serde(default)]
    pub(crate) counters: BTreeMap<String, Count>,
    /// Words that a connection listed by `conntrack -L` must have, in this order.
    #[serde(default)]
    pub(crate) connections: Vec<String>,
    /// Words of connections that must not be there; `""` stands for any.
    #[serde(default)]
    pub(crate) no_connections: Vec<String>,
    /// The step is for this firewall alone.
    #[serde(default)]
    pub(crate) only: Option<Who>,
    /// What is left depends on timing, or differs on purpose: not for comparing the kernel
    /// with Tidegate.
    #[serde(default)]
    pub(crate) incomparable: bool,
    /// Seconds a command may take.
    #[serde(default)]
    pub(crate) limit: Option<u64>,
}

/// A command typed while a step's own commands are.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Aside {
    /// Where.
    pub(crate) on: String,
    /// The command line.
    #[serde(rename = "type")]
    pub(crate) line: String,
    /// How it must end.
    #[serde(default = "works")]
    pub(crate) expect: String,
}

fn works() -> String {
    "works".to_owned()
}

/// What a rule must have counted since the counters were last zeroed.
#[derive(Clone, Debug, Deserialize)]
#[serde(untagged)]
pub(crate) enum Count {
    /// This many packets.
    Exactly(u64),
    /// `some`: one or more; else a selection of the packets on the wires (see
    /// `filter`): as many packets, and as many bytes.
    Selected(String),
}

/// The same for every firewall, or by firewall.
#[derive(Clone, Debug, Deserialize)]
#[serde(untagged)]
pub(crate) enum PerFirewall<T> {
    /// For every firewall.
    Same(T),
    /// By firewall.
    Each {
        /// For the kernel's.
        kernel: T,
        /// For Tidegate.
        tidegate: T,
    },
}

impl<T> PerFirewall<T> {
    pub(crate) const fn of(&self, who: Who) -> &T {
        match (self, who) {
            (PerFirewall::Same(value), _)
            | (
                PerFirewall::Each {
                    tidegate: value, ..
                },
                Who::Tidegate,
            )
            | (PerFirewall::Each { kernel: value, .. }, Who::Kernel | Who::None) => value,
        }
    }
}

impl Scenario {
    /// The scenario called `name`, in upper or lower case.
    ///
    /// # Errors
    /// There is none.
    pub(crate) fn named(name: &str) -> Result<Self> {
        let name = name.to_lowercase();
        let known = KNOWN.iter().find(|(n, _)| *n == name);
        let (name, text) = known
            .with_context(|| format!("there is no scenario {name}; see `tidegate lab list`"))?;
        let mut scenario: Scenario =
            toml::from_str(text).with_context(|| format!("scenario {name}"))?;
        scenario.name = (*name).to_owned();
        Ok(scenario)
    }

    /// The ports above the well-known ones that the scenario names; not the ends of ranges
    /// that ports are drawn from (`5000:5100`).
    pub(crate) fn ports(&self) -> BTreeSet<u16> {
        let lines = self.steps.iter().map(|step| step.lines.as_str());
        let servers = self
            .servers
            .iter()
            .flat_map(|s| [s.run.as_str(), s.port.as_str()]);
        let asides = self.steps.iter().flat_map(|step| &step.meanwhile);
        let asides = asides.map(|aside| aside.line.as_str());
        lines
            .chain(servers)
            .chain(asides)
            .flat_map(|text| text.split(|c: char| !c.is_ascii_digit() && c != ':'))
            .filter_map(|number| number.parse().ok())
            .collect()
    }

    /// Names of all.
    pub(crate) fn names() -> impl Iterator<Item = &'static str> {
        KNOWN.iter().map(|(name, _)| *name)
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::filter::Filter;
    use crate::outcome::Outcome;
    use crate::topology::Topology;

    #[test]
    fn every_file_is_a_scenario() {
        let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../scenarios/live");
        let files = std::fs::read_dir(dir).unwrap();
        let files = files.map(|f| f.unwrap().file_name().into_string().unwrap());
        let files: BTreeSet<String> = files.filter(|f| f.ends_with(".toml")).collect();
        let known: BTreeSet<String> = Scenario::names().map(|n| format!("{n}.toml")).collect();
        assert_eq!(files, known);
    }

    #[test]
    fn every_scenario_can_be_played() {
        for name in Scenario::names() {
            let scenario = Scenario::named(name).unwrap();
            let topology = Topology::named(&scenario.topology).unwrap();
            let hosts = topology.hosts();
            for server in &scenario.servers {
                assert!(hosts.contains(&server.on.as_str()), "{name}: {}", server.on);
            }
            for step in &scenario.steps {
                assert!(
                    step.on.is_empty() || hosts.contains(&step.on.as_str()),
                    "{name}: {}",
                    step.on
                );
                for aside in &step.meanwhile {
                    assert!(hosts.contains(&aside.on.as_str()), "{name}: {}", aside.on);
                    assert!(Outcome::knows(&aside.expect), "{name}: {}", aside.expect);
                }
                for who in [Who::Kernel, Who::Tidegate] {
                    if let Some(expect) = &step.expect {
                        assert!(Outcome::knows(expect.of(who)), "{name}: {expect:?}");
                    }
                }
                for count in step.counters.values() {
                    if let Count::Selected(text) = count
                        && text != "some"
                    {
                        Filter::parse(text).unwrap();
                    }
                }
            }
        }
    }
}
