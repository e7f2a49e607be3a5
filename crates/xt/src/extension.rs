//! The contract: what one match or target extension is.

use tidegate_ir::{Cond, Effect, Hook, Step, StepId, TableKind, Verdict};
use tidegate_wire::Family;

use crate::{Args, Case, Error, Instance, Names, Opt, Refusal, TimeoutPolicy, Vector, names};

/// One match or target.
///
/// A value of this type is the whole truth about an extension: parsing, saving,
/// listing, help, legality and meaning come from it.
#[derive(Debug)]
pub struct Extension {
    /// Name after `-m` or `-j`.
    pub name: &'static str,
    /// Match or target, and its meaning.
    pub lower: Lower,
    /// Families it exists for.
    pub families: Families,
    /// The option table, in the order of saved rules.
    pub options: &'static [Opt],
    /// Order of the options in the help text when it is not the table's, and lines
    /// that belong to no option.
    pub help: Help,
    /// Where the kernel accepts it.
    pub legal: Legal,
    /// Looks at all options together and brings them into their normal form.
    pub finish: fn(&mut Args, &Context<'_>) -> Result<(), Error>,
    /// The text in `-S` and save, each piece with a blank before it.
    pub save: fn(&Instance, Family) -> String,
    /// The text in `-L`, each piece with a blank before it.
    pub list: fn(&Instance, &ListCtx<'_>) -> String,
    /// Rules and how they are saved.
    pub cases: &'static [Case],
    /// Packets and whether they match.
    pub vectors: &'static [Vector],
}

impl Extension {
    /// A match for both families, accepted everywhere, saved in table order: the rest is
    /// to be filled in.
    pub const MATCH: Extension = Extension {
        name: "",
        lower: Lower::Match(|_, _| Cond::Const(true)),
        families: Families::Both,
        options: &[],
        help: Help::TABLE,
        legal: Legal::ANYWHERE,
        finish: |_, _| Ok(()),
        save: crate::save_all,
        list: |_, _| String::new(),
        cases: &[],
        vectors: &[],
    };

    /// A target that does nothing, to be filled in.
    pub const TARGET: Extension = Extension {
        lower: Lower::Target(|_, _| Outcome::verdict(Verdict::Continue)),
        ..Extension::MATCH
    };
}

/// What an extension means.
#[derive(Clone, Copy)]
pub enum Lower {
    /// A match: its presence guard (if any), then its tests.
    Match(fn(&Args, &mut LowerCtx<'_>) -> Cond),
    /// A target.
    Target(fn(&Args, &mut LowerCtx<'_>) -> Outcome),
}

impl std::fmt::Debug for Lower {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Lower::Match(_) => "Match",
            Lower::Target(_) => "Target",
        })
    }
}

/// What a target does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// Effects in order.
    pub effects: Vec<Effect>,
    /// The verdict after them.
    pub verdict: Verdict,
}

impl Outcome {
    /// A verdict and nothing else.
    #[must_use]
    pub fn verdict(verdict: Verdict) -> Self {
        Outcome {
            effects: Vec::new(),
            verdict,
        }
    }

    /// One effect, then `verdict`.
    #[must_use]
    pub fn effect(effect: Effect, verdict: Verdict) -> Self {
        Outcome {
            effects: vec![effect],
            verdict,
        }
    }
}

/// What is known of a host's sockets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Sockets {
    /// Nothing.
    #[default]
    Unknown,
    /// Users and control groups of those that send, and who waits for a packet.
    Users,
    /// Packets can be handed to any of them, too.
    Handing,
    /// And groups and classes of those that send.
    Groups,
    /// All that rules can ask.
    All,
}

/// What lowering needs and collects.
#[derive(Debug)]
pub struct LowerCtx<'a> {
    /// Family of the ruleset.
    pub family: Family,
    /// Where stateful tests go (`Ruleset::steps`).
    pub steps: &'a mut Vec<Box<dyn Step>>,
    /// What matches do once all of the rule holds, before its target.
    pub effects: Vec<Effect>,
    /// What is known of the host's sockets where the rule will be met.
    pub sockets: Sockets,
    /// The rule asks for sockets.
    pub asks_sockets: bool,
    /// The rule has fragments put together (`nf_defrag_ipv4_enable`).
    pub reassembles: bool,
    /// Why the rule cannot be decided here, if so: what it asks for is known to the
    /// kernel alone.
    pub refused: Option<&'static str>,
}

impl<'a> LowerCtx<'a> {
    /// For rules of `family` met where so much is known of sockets.
    pub fn new(family: Family, steps: &'a mut Vec<Box<dyn Step>>, sockets: Sockets) -> Self {
        LowerCtx {
            family,
            steps,
            effects: Vec::new(),
            sockets,
            asks_sockets: false,
            reassembles: false,
            refused: None,
        }
    }
}

impl LowerCtx<'_> {
    /// Says that the rule asks so much of sockets; where less is known it is refused, and
    /// `why` says so.
    pub fn ask_sockets(&mut self, wanted: Sockets, why: &'static str) {
        self.asks_sockets = true;
        if self.sockets < wanted {
            self.refused = Some(why);
        }
    }

    /// Registers a stateful test.
    pub fn step(&mut self, step: impl Step + 'static) -> Cond {
        Cond::Call(self.register(step))
    }

    /// Registers what a target does; `writes` says whether it may set mark or priority.
    pub fn effect(&mut self, step: impl Step + 'static, writes: bool) -> Effect {
        let step = self.register(step);
        Effect::Call { step, writes }
    }

    fn register(&mut self, step: impl Step + 'static) -> StepId {
        let id = StepId(u32::try_from(self.steps.len()).unwrap_or(u32::MAX));
        self.steps.push(Box::new(step));
        id
    }

    /// Says that a target cannot act; its rule is read and saved, but never loaded.
    pub fn refuse_target(&mut self, why: &'static str) -> Outcome {
        self.refused = Some(why);
        Outcome::verdict(Verdict::Continue)
    }

    /// Says that the rule cannot be decided; it is read and saved, but never loaded.
    pub fn refuse(&mut self, why: &'static str) -> Cond {
        self.refused = Some(why);
        Cond::Const(false)
    }
}

/// Families an extension exists for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Families {
    /// Both.
    Both,
    /// One of them.
    Only(Family),
}

impl Families {
    /// Whether `family` is among them.
    #[must_use]
    pub fn contains(self, family: Family) -> bool {
        match self {
            Families::Both => true,
            Families::Only(f) => f == family,
        }
    }
}

/// Help text beyond the options' own lines.
#[derive(Clone, Copy, Debug)]
pub struct Help {
    /// First line, when it is not the usual one.
    pub title: Option<&'static str>,
    /// Option indices in printing order; empty for the table's order.
    pub order: &'static [usize],
    /// Lines after the options.
    pub tail: &'static str,
}

impl Help {
    /// The table's order and nothing more.
    pub const TABLE: Help = Help {
        title: None,
        order: &[],
        tail: "",
    };

    /// The options in another order.
    #[must_use]
    pub const fn order(order: &'static [usize]) -> Self {
        Help {
            order,
            ..Help::TABLE
        }
    }

    /// The table's order and lines after the options.
    #[must_use]
    pub const fn tail(tail: &'static str) -> Self {
        Help {
            tail,
            ..Help::TABLE
        }
    }

    /// With another first line.
    #[must_use]
    pub const fn titled(mut self, title: &'static str) -> Self {
        self.title = Some(title);
        self
    }
}

/// What is around an option while it is read.
pub struct Context<'a> {
    /// Family of the tool.
    pub family: Family,
    /// The rule's `-p` so far: number and whether it is inverted.
    pub proto: Option<(u8, bool)>,
    /// Name databases.
    pub names: &'a dyn Names,
}

impl std::fmt::Debug for Context<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Context")
            .field("family", &self.family)
            .field("proto", &self.proto)
            .finish_non_exhaustive()
    }
}

impl Context<'_> {
    /// Name of the rule's protocol, for service lookups.
    #[must_use]
    pub fn proto_name(&self) -> Option<String> {
        let (number, _) = self.proto?;
        names::known_protocol_name(number)
            .map(str::to_owned)
            .or_else(|| self.names.protocol_name(number))
    }
}

/// How a rule is listed.
pub struct ListCtx<'a> {
    /// Family of the ruleset.
    pub family: Family,
    /// `-n`: no names.
    pub numeric: bool,
    /// The rule's protocol, for service names.
    pub proto: u8,
    /// Name databases.
    pub names: &'a dyn Names,
}

impl ListCtx<'_> {
    /// A port as number or service name.
    #[must_use]
    pub fn port(&self, port: u64, proto: Option<&str>) -> String {
        let name = u16::try_from(port)
            .ok()
            .filter(|_| !self.numeric)
            .and_then(|p| self.names.service_name(p, proto));
        name.unwrap_or_else(|| port.to_string())
    }

    /// An address as text or host name.
    #[must_use]
    pub fn addr(&self, addr: u128) -> String {
        let name = (!self.numeric)
            .then(|| self.names.host_name(addr, self.family))
            .flatten();
        name.unwrap_or_else(|| crate::text::addr(addr, self.family))
    }
}

/// Where the kernel accepts an extension (`xt_check_match`, `xt_check_target`).
#[derive(Clone, Copy, Debug)]
pub struct Legal {
    /// Tables; empty for all.
    pub tables: &'static [TableKind],
    /// Hooks; empty for all.
    pub hooks: &'static [Hook],
    /// Protocols one of which the rule must name, not inverted; empty for none.
    pub protos: &'static [u8],
    /// Anything else the kernel checks.
    pub extra: fn(&Args, &Place<'_>) -> Result<(), Refusal>,
}

impl Legal {
    /// Accepted everywhere.
    pub const ANYWHERE: Legal = Legal {
        tables: &[],
        hooks: &[],
        protos: &[],
        extra: |_, _| Ok(()),
    };

    /// Accepted in one table only.
    #[must_use]
    pub const fn tables(tables: &'static [TableKind]) -> Self {
        Legal {
            tables,
            ..Legal::ANYWHERE
        }
    }

    /// Accepted at some hooks only.
    #[must_use]
    pub const fn hooks(hooks: &'static [Hook]) -> Self {
        Legal {
            hooks,
            ..Legal::ANYWHERE
        }
    }

    /// Accepted with these protocols only.
    #[must_use]
    pub const fn protos(protos: &'static [u8]) -> Self {
        Legal {
            protos,
            ..Legal::ANYWHERE
        }
    }
}

/// Where a rule stands, for the kernel's checks.
#[derive(Clone, Copy, Debug)]
pub struct Place<'a> {
    /// Family.
    pub family: Family,
    /// Table.
    pub table: TableKind,
    /// Hooks from which packets can reach the rule: a base chain's own, a user
    /// chain's all callers'.
    pub hooks: &'a [Hook],
    /// The rule's `-p`: number (0 for none) and whether it is inverted.
    pub proto: (u8, bool),
    /// The rule's matches.
    pub matches: &'a [Instance],
    /// Timeout policies that rules can name.
    pub timeouts: &'a [TimeoutPolicy],
}
