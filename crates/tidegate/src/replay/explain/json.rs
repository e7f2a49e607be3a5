//! An explanation for programs.

use serde_json::{Value, json};
use tidegate_ir::{Policy, Truth};
use tidegate_syntax::RuleOrigin;

use super::{Explainer, Node, Show, Tried, ending};

/// Where a rule or policy is; number 0 is the policy.
pub(crate) fn origin_json(origin: &RuleOrigin) -> Value {
    json!({
        "table": origin.table.name(),
        "chain": origin.chain,
        "number": origin.number,
        "text": origin.text,
    })
}

impl Explainer {
    /// Everything that happened, in order.
    pub(crate) fn json(&self, show: &Show<'_>) -> Value {
        let steps = self.nodes.iter().map(|node| match node {
            Node::Line(_, text) => json!({ "what": "note", "text": text }),
            Node::Hook(text) => json!({ "what": "hook", "text": text }),
            Node::Table(text) => json!({ "what": "table", "text": text }),
            Node::Rule(tried) => self.rule_json(tried, show),
            Node::Policy(id, policy) => json!({
                "what": "policy",
                "rule": show.rules.origin(self.family, *id).map(origin_json),
                "verdict": match policy {
                    Policy::Accept => "ACCEPT",
                    Policy::Drop => "DROP",
                },
            }),
        });
        Value::Array(steps.collect())
    }

    fn rule_json(&self, tried: &Tried, show: &Show<'_>) -> Value {
        let applies = tried.truth == Truth::True;
        json!({
            "what": "rule",
            "rule": show.rules.origin(self.family, tried.id).map(origin_json),
            "depth": tried.depth,
            "matched": applies,
            "hotdrop": tried.truth == Truth::Hotdrop,
            "why": tried.complaint,
            "did": tried.effects,
            "state": tried.steps,
            "verdict": ending(tried.verdict)
                .filter(|_| applies)
                .map(|e| e.1.trim_start_matches("→ ")),
        })
    }
}
