//! A packet in one table: what its rules read, count and write.

use tidegate_conntrack::{Conntrack, HelperKind, Template, Time, Zone};
use tidegate_ir::{
    Chain, CtSpec, Effect, Expr, Field, Hook, Rule, RuleId, Shared, Step, StepId, TableKind,
    ZoneDir, ZoneId, ZoneSpec,
};

use crate::act::Copy;
use crate::effects;
use crate::engine::Outside;
use crate::env::Env;
use crate::facts::View;
use crate::flow::Recorder;
use crate::log;
use crate::outcome::{DropReason, Output};
use crate::packet::{Packet, Tracking};
use crate::random::Random;
use crate::tables::{Continue, Counter, Decision, Host, counter_of};
use crate::trace::{Trace, TraceEvent, Watch};
use crate::usual::Usual;

/// A packet in one table, with everything its rules can read and write.
pub(crate) struct AtTable<'r, T> {
    pub(crate) packet: &'r mut Packet,
    /// What has been read of it.
    pub(crate) usual: Usual,
    pub(crate) conntrack: &'r mut Conntrack,
    pub(crate) env: &'r Env,
    pub(crate) counters: &'r mut Vec<Counter>,
    pub(crate) steps: &'r mut Vec<Box<dyn Step>>,
    pub(crate) shared: &'r mut Shared,
    pub(crate) random: &'r mut Random,
    pub(crate) outside: &'r mut Outside,
    pub(crate) trace: &'r mut T,
    pub(crate) recorder: &'r mut Recorder,
    pub(crate) outputs: &'r mut Vec<Output>,
    /// Copies to be sent once the table has decided.
    pub(crate) copies: Vec<Copy>,
    pub(crate) now: Time,
    pub(crate) hook: Hook,
    /// The rule or policy that counted last: the one that decides.
    pub(crate) last: Option<RuleId>,
}

impl<T: Trace> Host for AtTable<'_, T> {
    type Trace = T;

    #[inline]
    fn view(&mut self) -> (View<'_>, Watch<'_, T>) {
        let view = View {
            packet: self.packet,
            usual: &mut self.usual,
            conntrack: self.conntrack,
            env: self.env,
            steps: self.steps,
            shared: self.shared,
            random: self.random,
            outside: self.outside,
            now: self.now,
            rehearsed: false,
        };
        let watch = Watch {
            trace: self.trace,
            recorder: self.recorder,
        };
        (view, watch)
    }

    #[inline]
    fn counter(&mut self, id: RuleId) -> &mut Counter {
        self.recorder.counted(id);
        self.last = Some(id);
        counter_of(self.counters, id)
    }

    #[inline]
    fn packet_len(&self) -> u32 {
        self.packet.layout.len
    }

    #[inline]
    fn is_traced(&self) -> bool {
        self.packet.traced
    }

    fn log_rule(&mut self, table: TableKind, chain: &Chain, kind: &str, number: usize) {
        self.trace_line(table, chain, kind, number);
    }

    fn run_effects(&mut self, rule: &Rule) -> Continue {
        let done = self.carry_out(rule);
        self.usual.forget();
        done
    }
}

impl<T: Trace> AtTable<'_, T> {
    /// Does what a rule is there for, effect by effect.
    fn carry_out(&mut self, rule: &Rule) -> Continue {
        for effect in &rule.effects {
            self.recorder.affected(effect);
            let decided = match effect {
                Effect::Assign(field, expr) => {
                    self.assign(*field, *expr);
                    None
                }
                Effect::Log(spec) => {
                    let line = log::line(spec, self.packet, self.env);
                    self.outputs.push(Output::Log {
                        level: spec.level,
                        line,
                        prefix: spec.prefix.clone(),
                        hook: self.hook,
                        input: self.packet.in_dev,
                        output: self.packet.out_dev,
                    });
                    None
                }
                Effect::Nflog(spec) => {
                    let copy = log::copy(spec, self.packet, self.hook, self.env);
                    self.outputs.push(Output::Nflog(Box::new(copy)));
                    None
                }
                Effect::TcpMss(mss) => {
                    let mtu = self.path_mtu();
                    let clamped = effects::clamp_mss(self.packet, *mss, mtu);
                    clamped
                        .err()
                        .map(|()| Decision::Drop(DropReason::Target(rule.id)))
                }
                Effect::Ct(spec) => {
                    self.set_tracking(spec);
                    None
                }
                Effect::Nat(spec) => Some(self.set_up_nat(spec, rule.id)),
                Effect::Call { step, .. } => {
                    self.call(*step);
                    None
                }
                other => self.act(other, rule.id),
            };
            if T::ACTIVE {
                self.trace.event(TraceEvent::Effect(effect));
            }
            if let Some(decision) = decided {
                return Continue::Decided(decision);
            }
        }
        Continue::Verdict
    }

    fn call(&mut self, step: StepId) {
        // Effects before it may have written what it reads.
        self.usual.forget();
        let mut writes = Vec::new();
        self.view().0.run_step(step, &mut writes);
        for (field, expr) in writes {
            self.assign(field, expr);
        }
    }

    fn assign(&mut self, field: Field, expr: Expr) {
        let connection = self.packet.tracking.connection().copied();
        let ct_mark = connection
            .and_then(|a| self.conntrack.entry(a.id))
            .map(|e| e.mark);
        let other = match expr {
            Expr::Mix {
                from: Field::CtMark,
                ..
            } => match ct_mark {
                Some(mark) => u128::from(mark),
                None => return,
            },
            Expr::Mix {
                from: Field::Mark, ..
            } => u128::from(self.packet.mark),
            Expr::Mix { .. } | Expr::Masked { .. } | Expr::AddClamped(_) => 0,
        };
        match (field, connection, ct_mark) {
            (Field::CtMark, Some(a), Some(old)) => {
                let new = expr.apply(u128::from(old), other) as u32;
                self.conntrack.set_mark(a.id, new);
            }
            (Field::CtMark, _, _) => {}
            _ => effects::assign_packet(self.packet, field, expr, other),
        }
    }

    /// The smaller MTU of the way out and the way back to the sender.
    fn path_mtu(&self) -> u32 {
        let mtu = |dev| self.env.interface(dev).map(|i| i.mtu);
        let out = self.packet.out_dev.and_then(mtu);
        let back = self
            .env
            .route(self.packet.family(), self.packet.src(), 0, 0)
            .and_then(|r| r.dev)
            .and_then(mtu);
        out.into_iter().chain(back).min().unwrap_or(u32::MAX)
    }

    /// A packet that already has a connection or a template keeps it.
    fn set_tracking(&mut self, spec: &CtSpec) {
        if !matches!(self.packet.tracking, Tracking::None | Tracking::Invalid(_)) {
            return;
        }
        self.packet.tracking = match spec {
            CtSpec::Untracked => Tracking::Untracked,
            CtSpec::Template {
                zone,
                helper,
                timeout,
                ..
            } => Tracking::Template(Template {
                zone: zone.map_or_else(Zone::default, |z| self.zone(z)),
                helper: helper.as_deref().and_then(HelperKind::by_name),
                timeouts: timeout.as_deref().and_then(|name| {
                    let policies = &self.conntrack.config().policies;
                    policies.by_name(name).map(|(id, _)| id)
                }),
                proxied: false,
            }),
        };
    }

    fn zone(&self, spec: ZoneSpec) -> Zone {
        let id = match spec.id {
            ZoneId::Number(n) => n,
            ZoneId::FromMark => self.packet.mark as u16,
        };
        let dirs = match spec.dir {
            ZoneDir::Both => Zone::BOTH,
            ZoneDir::Original => Zone::ORIG,
            ZoneDir::Reply => Zone::REPLY,
        };
        Zone { id, dirs }
    }
}
