//! `--explain`: one packet rule by rule.

mod json;

use std::fmt::{self, Write};
use std::sync::Arc;

use tidegate_engine::conntrack::Dir;
use tidegate_engine::env::{Env, IfIndex};
use tidegate_engine::{Engine, Role, Trace, TraceEvent};
use tidegate_ir::{Effect, Hook, Policy, RuleId, Truth, Verdict};
use tidegate_wire::{Family, parse};

use super::brief::Brief;
use super::fate::Fate;
use super::paint::{Paint, Tone};
use super::rules::Rules;
use super::values::Tested;
use super::walk::{State, Walk};
pub(crate) use json::origin_json;

/// One thing to show.
enum Node {
    /// A line on its own, at hook level.
    Line(Tone, String),
    /// A hook begins.
    Hook(String),
    /// A table begins.
    Table(String),
    /// A rule was tested.
    Rule(Tried),
    /// A policy decided.
    Policy(RuleId, Policy),
}

/// A rule as it was tested.
struct Tried {
    id: RuleId,
    /// Jumps around it.
    depth: usize,
    truth: Truth,
    verdict: Verdict,
    /// Why it did not apply.
    complaint: Option<String>,
    /// What it did.
    effects: Vec<String>,
    /// State of its limits and the like.
    steps: Vec<String>,
}

/// Writes down everything that happens to a packet.
pub(crate) struct Explainer {
    /// The same way in brief.
    pub(crate) walk: Walk,
    env: Arc<Env>,
    family: Family,
    nodes: Vec<Node>,
    tests: Vec<Tested>,
    steps: Vec<String>,
    /// Chains that jumps lead through, the base chain first.
    chains: Vec<String>,
    /// A jump was taken: the next chain is one level deeper; a goto: in place.
    deeper: bool,
    now: u64,
    /// The packet as translations left it.
    bytes: Vec<u8>,
}

impl Explainer {
    /// For a packet of `family` at `now`.
    pub(crate) fn new(env: Arc<Env>, family: Family, now: u64) -> Self {
        Explainer {
            walk: Walk::default(),
            env,
            family,
            nodes: Vec::new(),
            tests: Vec::new(),
            steps: Vec::new(),
            chains: Vec::new(),
            deeper: false,
            now,
            bytes: Vec::new(),
        }
    }

    /// The packet's family.
    pub(crate) const fn family(&self) -> Family {
        self.family
    }

    /// The packet as it was when last seen, translations included.
    pub(crate) fn last_bytes(&self) -> Option<&[u8]> {
        (!self.bytes.is_empty()).then_some(&self.bytes)
    }

    /// The rules with stateful tests, whether they applied, and what is known of the state.
    pub(crate) fn stateful(&self) -> impl Iterator<Item = (RuleId, Truth, &[String])> {
        self.nodes.iter().filter_map(|node| match node {
            Node::Rule(tried) if !tried.steps.is_empty() => {
                Some((tried.id, tried.truth, tried.steps.as_slice()))
            }
            _ => None,
        })
    }

    /// Name of an interface.
    pub(crate) fn interface(&self, dev: IfIndex) -> &str {
        self.name(dev)
    }

    fn line(&mut self, tone: Tone, text: impl Into<String>) {
        self.nodes.push(Node::Line(tone, text.into()));
    }

    fn name(&self, dev: IfIndex) -> &str {
        self.env.interface(dev).map_or("?", |i| i.name.as_str())
    }

    fn hook(&mut self, hook: Hook, input: Option<IfIndex>, output: Option<IfIndex>) {
        let mut text = hook.chain_name().to_owned();
        for (label, dev) in [("in", input), ("out", output)] {
            if let Some(dev) = dev {
                let _ = write!(text, "  {label} {}", self.name(dev));
            }
        }
        self.nodes.push(Node::Hook(text));
    }

    /// How deep `chain` lies; returns from finished chains on the way.
    fn depth(&mut self, chain: &str) -> usize {
        if let Some(at) = self.chains.iter().rposition(|c| c == chain) {
            self.chains.truncate(at + 1);
        } else {
            if !self.deeper && self.chains.len() > 1 {
                self.chains.pop();
            }
            self.chains.push(chain.to_owned());
        }
        self.chains.len().saturating_sub(1)
    }

    fn rule(&mut self, chain: &str, rule: &tidegate_ir::Rule, truth: Truth) {
        let depth = self.depth(chain);
        let tests = std::mem::take(&mut self.tests);
        let steps = std::mem::take(&mut self.steps);
        let complaint = (truth != Truth::True)
            .then(|| complaint(&tests, &steps))
            .flatten();
        if truth == Truth::True {
            self.deeper = matches!(rule.verdict, Verdict::Jump(_));
        }
        self.nodes.push(Node::Rule(Tried {
            id: rule.id,
            depth,
            truth,
            verdict: rule.verdict,
            complaint,
            effects: Vec::new(),
            steps,
        }));
    }

    fn effect(&mut self, effect: &Effect) {
        let text = effect_text(effect);
        if let Some(Node::Rule(tried)) = self.nodes.last_mut() {
            tried.effects.push(text);
        }
    }

    fn conntrack(&mut self, tracking: &tidegate_engine::Tracking) {
        let state = State::of(tracking);
        let text = match state {
            State::Invalid(reason) => format!("conntrack: INVALID: {reason}"),
            State::Tracked(a) => {
                let direction = match a.dir {
                    Dir::Original => "original direction",
                    Dir::Reply => "reply direction",
                };
                format!("conntrack: {}, {direction}", state.name())
            }
            State::None | State::Untracked => format!("conntrack: {}", state.name()),
        };
        let tone = match state {
            State::Invalid(_) => Tone::Bad,
            State::None | State::Untracked | State::Tracked(_) => Tone::Doubtful,
        };
        self.line(tone, text);
    }

    fn translated(&mut self, before: &[u8], after: &[u8]) {
        self.bytes = after.to_vec();
        let brief = |bytes: &[u8]| parse(bytes).ok().map(|l| Brief::new(bytes, &l));
        let text = match (brief(before), brief(after)) {
            (Some(a), Some(b)) if a != b => format!("rewritten: {a}\n       to: {b}"),
            _ => "rewritten within the packet (payload, sequence numbers or an inner header)"
                .to_owned(),
        };
        self.line(Tone::Doubtful, text);
    }
}

/// Why a rule did not apply: the last test that failed, with those of the same field
/// that failed right before it.
fn complaint(tests: &[Tested], steps: &[String]) -> Option<String> {
    let (last, before) = tests.split_last()?;
    let related: Vec<&Tested> = before
        .iter()
        .rev()
        .take_while(|t| t.failed && last.field.is_some() && t.field == last.field)
        .collect();
    let in_order: Vec<&Tested> = related.into_iter().rev().collect();
    Some(last.complaint(&in_order, steps))
}

fn effect_text(effect: &Effect) -> String {
    match effect {
        Effect::Assign(field, _) => format!("sets the {}", field.row().name),
        Effect::Queue(spec) if spec.first == spec.last => format!("asks queue {}", spec.first),
        Effect::Queue(spec) => format!("asks one of queues {} to {}", spec.first, spec.last),
        Effect::Tproxy(_) => "looks for a transparent socket".to_owned(),
        Effect::Tee(_) => "sends a copy".to_owned(),
        Effect::Trace => "has the rules it meets logged".to_owned(),
        Effect::Audit => "writes an audit record".to_owned(),
        Effect::Call { writes: true, .. } => "may set the mark or the priority".to_owned(),
        Effect::Call { .. } => "notes it in a table".to_owned(),
        Effect::SecMark(label) => format!("labels the packet {label}"),
        Effect::ConnSecMark { save: true } => "gives its label to the connection".to_owned(),
        Effect::ConnSecMark { save: false } => "takes the connection's label".to_owned(),
        Effect::StripTcpOptions(_) => "overwrites TCP options".to_owned(),
        Effect::TcpEcn(_) => "sets congestion bits".to_owned(),
        Effect::HashMark(_) => "sets the mark to a hash".to_owned(),
        Effect::SynProxy(_) => "answers for the other end if it opens a connection".to_owned(),
        Effect::Npt(_) => "translates the prefix".to_owned(),
        Effect::TcpMss(_) => "clamps the MSS".to_owned(),
        Effect::Log(_) => "writes a log line".to_owned(),
        Effect::Nflog(spec) => format!("copies it to NFLOG group {}", spec.group),
        Effect::Nat(spec) => match spec.manip {
            tidegate_ir::Manip::Src => "translates the source".to_owned(),
            tidegate_ir::Manip::Dst => "translates the destination".to_owned(),
        },
        Effect::Ct(tidegate_ir::CtSpec::Untracked) => "exempts it from tracking".to_owned(),
        Effect::Ct(_) => "sets how it will be tracked".to_owned(),
    }
}

impl Trace for Explainer {
    const ACTIVE: bool = true;

    fn event(&mut self, event: TraceEvent<'_>) {
        self.walk.event(event);
        match event {
            TraceEvent::Packet { bytes, role } => {
                if role == Role::Emitted {
                    let brief = parse(bytes).ok().map(|l| Brief::new(bytes, &l));
                    let text = brief.map_or_else(String::new, |b| b.to_string());
                    self.line(Tone::Strong, format!("the firewall answers: {text}"));
                }
            }
            TraceEvent::Hook {
                hook,
                input,
                output,
            } => self.hook(hook, input, output),
            TraceEvent::Table { table, chain } => {
                self.chains = vec![chain.name.clone()];
                self.deeper = false;
                let text = format!("{} {}", table.name(), chain.name);
                self.nodes.push(Node::Table(text));
            }
            TraceEvent::Leaf(leaf) => self.tests.push(Tested::new(&leaf, self.family)),
            TraceEvent::Step(step) => self.steps.push(step.describe(self.now)),
            TraceEvent::Rule {
                chain, rule, truth, ..
            } => self.rule(&chain.name, rule, truth),
            TraceEvent::Effect(effect) => self.effect(effect),
            TraceEvent::Policy { policy, id, .. } => self.nodes.push(Node::Policy(id, policy)),
            TraceEvent::Conntrack { tracking, note } => {
                self.conntrack(tracking);
                if let Some(note) = note {
                    self.line(Tone::Doubtful, format!("conntrack: {note}"));
                }
            }
            TraceEvent::Translated { before, after } => self.translated(before, after),
            TraceEvent::Confirmed(_) => self.line(Tone::Faint, "the connection enters the table"),
            TraceEvent::Routed { output: Some(dev) } => {
                let text = format!("routing: out by {}", self.name(dev));
                self.line(Tone::Faint, text);
            }
            TraceEvent::Routed { output: None } => {
                self.line(Tone::Faint, "routing: to this host");
            }
            TraceEvent::Reassembled(len) => {
                self.line(
                    Tone::Faint,
                    format!("put together from fragments: {len} bytes"),
                );
            }
            TraceEvent::Dropped(reason) => {
                let fate = Fate::of(tidegate_engine::Disposition::Dropped(reason));
                let why = fate.why().map(|w| format!(": {w}")).unwrap_or_default();
                self.line(Tone::Bad, format!("{}{why}", fate.word()));
            }
        }
    }
}

/// What the pictures need to know besides the events.
pub(crate) struct Show<'a> {
    /// Texts and numbers of the rules.
    pub(crate) rules: &'a Rules,
    /// Counters and connections as they are now.
    pub(crate) engine: &'a Engine,
    /// Colours.
    pub(crate) paint: Paint,
}

impl Explainer {
    /// The picture.
    pub(crate) fn show(&self, show: &Show<'_>) -> Result<String, fmt::Error> {
        let mut out = String::new();
        for node in &self.nodes {
            match node {
                Node::Line(tone, text) => {
                    for line in text.lines() {
                        writeln!(out, "  {}", show.paint.text(*tone, line))?;
                    }
                }
                Node::Hook(text) => {
                    writeln!(out, "{}", show.paint.text(Tone::Strong, text))?;
                }
                Node::Table(text) => writeln!(out, "  {}", show.paint.text(Tone::Strong, text))?,
                Node::Rule(tried) => self.show_rule(&mut out, tried, show)?,
                Node::Policy(id, policy) => {
                    let (tone, word) = match policy {
                        Policy::Accept => (Tone::Good, "ACCEPT"),
                        Policy::Drop => (Tone::Bad, "DROP"),
                    };
                    let counters = self.counters(*id, show);
                    writeln!(
                        out,
                        "      policy {}  {counters}",
                        show.paint.text(tone, word)
                    )?;
                }
            }
        }
        if let State::Tracked(a) = self.walk.state
            && let Some(entry) = show.engine.conntrack().entry(a.id)
        {
            let line = tidegate_engine::conntrack::format::proc_line(entry, self.now);
            writeln!(out, "connection now: {line}")?;
        }
        Ok(out)
    }

    fn counters(&self, id: RuleId, show: &Show<'_>) -> impl fmt::Display + use<> {
        let c = show.engine.counter(self.family, id);
        let text = format!("[{}:{}]", c.packets, c.bytes);
        show.paint.text(Tone::Faint, text)
    }

    fn show_rule(&self, out: &mut String, tried: &Tried, show: &Show<'_>) -> fmt::Result {
        let origin = show.rules.origin(self.family, tried.id);
        let (number, text) = origin.map_or((0, ""), |o| (o.number, o.text.as_str()));
        let indent = 4 + 4 * tried.depth;
        let mark = match tried.truth {
            Truth::True => show.paint.text(Tone::Good, "✓"),
            Truth::False => show.paint.text(Tone::Bad, "✗"),
            Truth::Hotdrop | Truth::HotdropTaken => show.paint.text(Tone::Bad, "!"),
        };
        write!(out, "{:indent$}{mark} {number:>2}  {text}", "")?;
        if tried.truth == Truth::True {
            write!(out, "  {}", self.counters(tried.id, show))?;
        }
        out.push('\n');
        let deeper = indent + 6;
        if let Some(complaint) = &tried.complaint {
            writeln!(
                out,
                "{:deeper$}{}",
                "",
                show.paint.text(Tone::Faint, complaint)
            )?;
        }
        if tried.truth == Truth::True {
            let did = tried.effects.iter().chain(&tried.steps);
            for text in did {
                writeln!(
                    out,
                    "{:deeper$}{}",
                    "",
                    show.paint.text(Tone::Doubtful, text)
                )?;
            }
            if let Some((tone, word)) = ending(tried.verdict) {
                writeln!(out, "{:deeper$}{}", "", show.paint.text(tone, word))?;
            }
        }
        Ok(())
    }
}

/// How a rule that applies ends its chain.
const fn ending(verdict: Verdict) -> Option<(Tone, &'static str)> {
    match verdict {
        Verdict::Accept => Some((Tone::Good, "→ ACCEPT")),
        Verdict::Drop => Some((Tone::Bad, "→ DROP")),
        Verdict::Reject(_) => Some((Tone::Bad, "→ REJECT")),
        Verdict::Return => Some((Tone::Doubtful, "→ back to the calling chain")),
        Verdict::Jump(_) | Verdict::Goto(_) | Verdict::Continue => None,
    }
}
