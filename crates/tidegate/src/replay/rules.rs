//! The rules under replay, with the text of each.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result, anyhow};
use tidegate_engine::Engine;
use tidegate_host::Host;
use tidegate_ir::RuleId;
use tidegate_sets::Sets;
use tidegate_syntax::{
    Counters, Failure, RuleOrigin, Ruleset, Sockets, lower, lower_knowing, parse_rules,
};
use tidegate_wire::Family;

use tidegate_tools::{HostNames, ipset, rules_and_sets};
use tidegate_xt::sets::{KIND, all};

/// One family's rules: as written and as run.
#[derive(Debug)]
pub(crate) struct Loaded {
    /// As written, for printing.
    pub(crate) source: Ruleset,
    /// As the engine runs them.
    pub(crate) lowered: Arc<tidegate_ir::Ruleset>,
    /// Table, chain, number and text of every counter.
    pub(crate) origin: Vec<RuleOrigin>,
    /// What the rules look into.
    pub(crate) sets: Sets,
    /// What is said where a rule asks for sockets and nobody knows them.
    blind: Option<String>,
}

/// The rules of both families.
#[derive(Debug)]
pub(crate) struct Rules(pub(crate) Vec<Loaded>);

impl Rules {
    /// Reads files as `iptables-save` writes them.
    ///
    /// # Errors
    /// A file cannot be read, or says something that `iptables-restore` refuses; a set is missing.
    pub(crate) fn read(v4: Option<&Path>, v6: Option<&Path>) -> Result<Self> {
        Self::written(v4, v6)?.complete()
    }

    /// The same; sets that the rules look into may be missing.
    ///
    /// # Errors
    /// A file cannot be read, or says something that `iptables-restore` refuses.
    pub(crate) fn written(v4: Option<&Path>, v6: Option<&Path>) -> Result<Self> {
        let mut loaded = Vec::new();
        for (path, family) in [(v4, Family::V4), (v6, Family::V6)] {
            if let Some(path) = path {
                loaded.push(Loaded::read(path, family)?);
            }
        }
        Ok(Rules(loaded))
    }

    /// The same, if the sets that rules look into are there.
    ///
    /// # Errors
    /// One is not.
    pub(crate) fn complete(self) -> Result<Self> {
        match self.0.iter().find_map(Loaded::missing_set) {
            Some(name) => Err(anyhow!(
                "rules look into the set {name}, which is not there: give it at the end of the \
                 rules' file, below a line `# tidegate-state ipset 0`, as `ipset save` prints it"
            )),
            None => Ok(self),
        }
    }

    /// Whether the rules can be decided on `host`; with `told`, whose packets are is said
    /// with each.
    ///
    /// # Errors
    /// A rule asks for sockets, and none is known.
    pub(crate) fn meet(&self, host: &Host, told: bool) -> Result<()> {
        let blind = self.0.iter().find_map(|loaded| loaded.blind.as_deref());
        match blind.filter(|_| !told && host.sockets.is_none()) {
            Some(why) => Err(anyhow!(
                "{} (give the host's sockets in its description, `[[socket]]`, or say `uid N` of \
                 a packet)",
                why.trim_end()
            )),
            None => Ok(()),
        }
    }

    /// Puts rules and sets into an engine.
    pub(crate) fn load(&self, engine: &mut Engine) {
        let sets = self.0.iter().flat_map(|loaded| loaded.sets.iter());
        if let Some(all) = all(engine.shared_mut()) {
            for (name, set) in sets {
                // Both families may have been given the same.
                let _ = all.create(name, set.clone());
            }
        }
        for loaded in &self.0 {
            engine.load(loaded.lowered.clone());
        }
    }

    /// Where a rule or policy comes from.
    pub(crate) fn origin(&self, family: Family, id: RuleId) -> Option<&RuleOrigin> {
        let loaded = self.0.iter().find(|l| l.source.family == family)?;
        loaded.origin.get(id.0 as usize)
    }
}

impl Loaded {
    pub(crate) fn read(path: &Path, family: Family) -> Result<Self> {
        let file = path.display().to_string();
        let text = fs::read_to_string(path).with_context(|| file.clone())?;
        Self::parse(&text, &file, family)
    }

    /// Reads rules as `iptables-save` writes them; `file` is what errors name.
    ///
    /// # Errors
    /// `iptables-restore` refuses them; file and line are named.
    pub(crate) fn parse(text: &str, file: &str, family: Family) -> Result<Self> {
        let tool = match family {
            Family::V4 => "iptables-restore",
            Family::V6 => "ip6tables-restore",
        };
        let (rules, sets) = rules_and_sets(text, family);
        let source = parse_rules(&rules, family, &HostNames::default())
            .map_err(|e| anyhow!("{file}: line {}: {}", e.line, e.render(tool).trim_end()))?;
        let mut loaded =
            Self::new(source).map_err(|e| anyhow!("{file}: {}", e.render(tool, None)))?;
        loaded.set(&sets, file)?;
        Ok(loaded)
    }

    /// Lowers rules.
    ///
    /// # Errors
    /// Chains call each other in a circle.
    pub(crate) fn new(source: Ruleset) -> Result<Self, Failure> {
        let lowered = lower_knowing(&source, Sockets::All)?;
        let blind = match lowered.ruleset.asks_sockets {
            true => lower(&source).err(),
            false => None,
        };
        Ok(Loaded {
            blind: blind.map(|why| why.render("tidegate", None)),
            source,
            lowered: Arc::new(lowered.ruleset),
            origin: lowered.origin,
            sets: Sets::default(),
        })
    }

    /// Takes sets as `ipset save` writes them; `file` is what errors name.
    ///
    /// # Errors
    /// `ipset restore` refuses them.
    pub(crate) fn set(&mut self, sets: &str, file: &str) -> Result<()> {
        // Their members stay: how long, is nothing that packets of another time tell.
        let read = ipset::read_all(sets, u64::MAX);
        self.sets = read.map_err(|why| anyhow!("{file}: {why}"))?;
        Ok(())
    }

    /// A set that rules look into and that is not there.
    fn missing_set(&self) -> Option<String> {
        let steps = self.lowered.steps.iter();
        let mut named = steps.flat_map(|s| s.tables()).filter(|k| k.kind == KIND);
        let missing = named.find(|key| self.sets.get(&key.name).is_none());
        missing.map(|key| key.name)
    }

    /// The same rules again.
    pub(crate) fn copy(&self) -> Self {
        Loaded {
            source: self.source.clone(),
            lowered: self.lowered.clone(),
            origin: self.origin.clone(),
            sets: self.sets.clone(),
            blind: self.blind.clone(),
        }
    }

    /// The rules as written, with what the engine has counted.
    pub(crate) fn counted(&self, engine: &Engine) -> Ruleset {
        let mut rules = self.source.clone();
        let family = rules.family;
        for (id, slot) in rules.slots_mut().into_iter().enumerate() {
            let counter = engine.counter(family, RuleId(id as u32));
            *slot.counters = Counters {
                packets: counter.packets,
                bytes: counter.bytes,
            };
        }
        rules
    }
}
