//! What happened to a packet, in the little that one line needs.

use tidegate_engine::conntrack::{Attached, CtInfo, InvalidReason, Note};
use tidegate_engine::{Role, Trace, TraceEvent, Tracking};
use tidegate_ir::{CtSpec, Effect, Hook, RuleId, TableKind, Truth, Verdict};

/// Connection-tracking state as rules name it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum State {
    /// Connection tracking did not look at the packet.
    #[default]
    None,
    /// In no connection.
    Invalid(InvalidReason),
    /// Exempted.
    Untracked,
    /// Part of a connection.
    Tracked(Attached),
}

impl State {
    /// The name that `--ctstate` knows, or `-`.
    pub(crate) const fn name(&self) -> &'static str {
        match self {
            State::None => "-",
            State::Invalid(_) => "INVALID",
            State::Untracked => "UNTRACKED",
            State::Tracked(a) => match a.info {
                CtInfo::New => "NEW",
                CtInfo::Established | CtInfo::EstablishedReply => "ESTABLISHED",
                CtInfo::Related | CtInfo::RelatedReply => "RELATED",
            },
        }
    }

    /// The state that connection tracking reported.
    pub(crate) const fn of(tracking: &Tracking) -> Self {
        match tracking {
            Tracking::None | Tracking::Template(_) => State::None,
            Tracking::Untracked => State::Untracked,
            Tracking::Invalid(reason) => State::Invalid(*reason),
            Tracking::Connection(attached) => State::Tracked(*attached),
        }
    }
}

/// The way of one packet. Used again for the next one.
#[derive(Debug, Default)]
pub(crate) struct Walk {
    /// Hooks in the order they were met.
    pub(crate) hooks: Vec<Hook>,
    /// State in connection tracking.
    pub(crate) state: State,
    /// Why its connection ignored it.
    pub(crate) note: Option<Note>,
    /// The rule or policy that let it pass: in the filter table if that has one,
    /// else the last one.
    pub(crate) passed: Option<(TableKind, RuleId)>,
    /// The firewall has made a packet of its own; what follows is about that one.
    answering: bool,
}

impl Walk {
    /// Forgets the last packet.
    pub(crate) fn clear(&mut self) {
        self.hooks.clear();
        self.state = State::None;
        self.note = None;
        self.passed = None;
        self.answering = false;
    }

    fn pass(&mut self, table: TableKind, id: RuleId) {
        let filtered = self.passed.is_some_and(|p| p.0 == TableKind::Filter);
        if table == TableKind::Filter || !filtered {
            self.passed = Some((table, id));
        }
    }
}

impl Trace for Walk {
    const ACTIVE: bool = true;
    const TESTS: bool = false;

    // Where it is called the kind of event is known, and most kinds mean nothing here.
    #[inline(always)]
    fn event(&mut self, event: TraceEvent<'_>) {
        if self.answering {
            return;
        }
        match event {
            TraceEvent::Packet {
                role: Role::Emitted,
                ..
            } => self.answering = true,
            TraceEvent::Hook { hook, .. } => self.hooks.push(hook),
            TraceEvent::Conntrack { tracking, note } => {
                self.state = State::of(tracking);
                self.note = note;
            }
            TraceEvent::Effect(Effect::Ct(CtSpec::Untracked)) if self.state == State::None => {
                self.state = State::Untracked;
            }
            TraceEvent::Rule {
                table,
                rule,
                truth: Truth::True,
                ..
            } => {
                let translates = rule.effects.iter().any(|e| matches!(e, Effect::Nat(_)));
                if rule.verdict == Verdict::Accept || translates {
                    self.pass(table, rule.id);
                }
            }
            TraceEvent::Policy { table, id, .. } => self.pass(table, id),
            TraceEvent::Confirmed(attached) => self.state = State::Tracked(attached),
            TraceEvent::Packet { .. }
            | TraceEvent::Table { .. }
            | TraceEvent::Leaf(_)
            | TraceEvent::Step(_)
            | TraceEvent::Rule { .. }
            | TraceEvent::Effect(_)
            | TraceEvent::Translated { .. }
            | TraceEvent::Routed { .. }
            | TraceEvent::Reassembled(_)
            | TraceEvent::Dropped(_) => {}
        }
    }
}
