//! What fields hold on the way, said in terms of the packet at the start.

use std::collections::BTreeMap;

use tidegate_ir::{CtSpec, Effect, Expr, Field, NatSpec, RuleId, ctstate};

use crate::space::full;

/// What a field holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Bound {
    /// `(value of `from` at the start & keep) ^ xor`; absent where that is.
    Of {
        /// Whose value.
        from: Field,
        /// Bits of it that stay.
        keep: u128,
        /// Bits flipped afterwards.
        xor: u128,
    },
    /// This value.
    Const(u128),
    /// The packet does not have it.
    Absent,
    /// It may hold anything, or nothing.
    Unknown,
}

impl Bound {
    /// What `field` held at the start.
    #[must_use]
    pub const fn same(field: Field) -> Self {
        Bound::Of {
            from: field,
            keep: full(field),
            xor: 0,
        }
    }

    /// `(this & keep) ^ xor`.
    fn masked(self, field: Field, keep: u128, xor: u128) -> Self {
        let all = full(field);
        match self {
            Bound::Const(value) => Bound::Const((value & keep ^ xor) & all),
            Bound::Of { .. } | Bound::Unknown if keep & all == 0 && has_always(field) => {
                Bound::Const(xor & all)
            }
            Bound::Of {
                from,
                keep: kept,
                xor: flipped,
            } => Bound::Of {
                from,
                keep: kept & keep & all,
                xor: (flipped & keep ^ xor) & all,
            },
            Bound::Absent | Bound::Unknown => self,
        }
    }
}

/// Fields that the host fills in anew where a rule looks at them.
const fn is_of_the_moment(field: Field) -> bool {
    let by_route = matches!(
        field,
        Field::InGroup | Field::OutGroup | Field::Realm | Field::Cpu
    );
    by_route || field.is_of_socket()
}

/// Written fields that no packet is without.
const fn has_always(field: Field) -> bool {
    matches!(field, Field::Mark | Field::Priority)
}

/// What all fields hold, and what has been decided about the packet's connection. Fields
/// that are not bound hold what they held at the start.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Lens {
    bound: BTreeMap<Field, Bound>,
    /// A rule has set up the connection's properties before tracking.
    pub template: bool,
    /// Translation of the destination, by which rule.
    pub dnat: Option<(RuleId, NatSpec)>,
    /// Translation of the source, by which rule.
    pub snat: Option<(RuleId, NatSpec)>,
}

impl Lens {
    /// What the field holds.
    #[must_use]
    pub fn get(&self, field: Field) -> Bound {
        if is_of_the_moment(field) {
            return Bound::Unknown;
        }
        let bound = self.bound.get(&field).copied();
        bound.unwrap_or(Bound::same(field))
    }

    /// Binds a field.
    pub fn set(&mut self, field: Field, to: Bound) {
        if to == Bound::same(field) {
            self.bound.remove(&field);
        } else {
            self.bound.insert(field, to);
        }
    }

    /// The field's value, if it is always the same.
    #[must_use]
    pub fn value(&self, field: Field) -> Option<u128> {
        match self.get(field) {
            Bound::Const(value) => Some(value),
            Bound::Of { .. } | Bound::Absent | Bound::Unknown => None,
        }
    }

    /// What an effect leaves of it, for the fields that `looked` names. An error names fields
    /// of the start: packets with all of them come out as [`mixed`](Self::mixed), others as
    /// they are.
    pub(crate) fn after(
        &self,
        effect: &Effect,
        looked: impl Iterator<Item = Field> + Clone,
    ) -> Result<Lens, Vec<Field>> {
        let mut next = self.clone();
        match effect {
            Effect::Assign(field, expr) => {
                if looked.clone().any(|f| f == *field) {
                    next.set(*field, self.written(*field, *expr)?);
                }
                for other in looked.filter(|f| f != field && effect.changes(*f)) {
                    next.set(other, Bound::Unknown);
                }
            }
            Effect::Ct(CtSpec::Untracked) if self.template => {}
            Effect::Ct(CtSpec::Untracked) => {
                next.set(Field::CtState, Bound::Const(ctstate::UNTRACKED));
            }
            Effect::Ct(CtSpec::Template { .. }) => {
                let free = self.value(Field::CtState) != Some(ctstate::UNTRACKED);
                next.template |= free;
            }
            _ => {
                for field in looked.filter(|f| effect.changes(*f)) {
                    next.set(field, Bound::Unknown);
                }
            }
        }
        Ok(next)
    }

    fn written(&self, field: Field, expr: Expr) -> Result<Bound, Vec<Field>> {
        let old = self.get(field);
        match (expr, old) {
            (_, Bound::Absent) => Ok(Bound::Absent),
            (Expr::Masked { keep, xor }, _) => Ok(old.masked(field, keep, xor)),
            (Expr::AddClamped(_), Bound::Const(v)) => Ok(Bound::Const(expr.apply(v, 0))),
            (Expr::AddClamped(_), _) => Ok(Bound::Unknown),
            (Expr::Mix { from, keep, .. }, _) => match self.get(from) {
                // Nothing happens.
                Bound::Absent => Ok(old),
                Bound::Const(other) => Ok(old.masked(field, keep, expr.apply(0, other))),
                other => {
                    let sources = [other, old].into_iter().filter_map(|b| match b {
                        Bound::Of { from, .. } if !has_always(from) => Some(from),
                        Bound::Of { .. } | Bound::Const(_) | Bound::Absent | Bound::Unknown => None,
                    });
                    let sources: Vec<Field> = sources.collect();
                    match sources.is_empty() {
                        true => Ok(mixed(other, old, expr)),
                        false => Err(sources),
                    }
                }
            },
        }
    }

    /// What an assignment makes of packets that have all fields it asks for.
    pub(crate) fn mixed(&self, effect: &Effect) -> Lens {
        let mut next = self.clone();
        if let Effect::Assign(field, expr @ Expr::Mix { from, .. }) = effect {
            let new = mixed(self.get(*from), self.get(*field), *expr);
            next.set(*field, new);
        }
        next
    }
}

/// The value of [`Expr::Mix`], where only one of the two may vary.
fn mixed(other: Bound, old: Bound, expr: Expr) -> Bound {
    let Expr::Mix {
        mask,
        shift: 0,
        keep,
        ..
    } = expr
    else {
        return Bound::Unknown;
    };
    let stays = match old {
        Bound::Const(v) => v & keep,
        _ if keep & u128::from(u32::MAX) == 0 => 0,
        _ => return Bound::Unknown,
    };
    match other {
        Bound::Of {
            from,
            keep: kept,
            xor,
        } => Bound::Of {
            from,
            keep: kept & mask,
            xor: xor & mask ^ stays,
        },
        Bound::Const(_) | Bound::Absent | Bound::Unknown => Bound::Unknown,
    }
}

/// Names a [`Lens`] of a space.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct LensId(u32);

impl LensId {
    /// Everything holds what it held at the start.
    pub const CLEAR: LensId = LensId(0);
}

/// All lenses in use, one of a kind.
#[derive(Debug)]
pub(crate) struct Lenses {
    all: Vec<std::sync::Arc<Lens>>,
    by: hashbrown::HashMap<std::sync::Arc<Lens>, LensId>,
}

impl Default for Lenses {
    fn default() -> Self {
        let clear = std::sync::Arc::new(Lens::default());
        Lenses {
            all: vec![clear.clone()],
            by: [(clear, LensId::CLEAR)].into_iter().collect(),
        }
    }
}

impl Lenses {
    pub(crate) fn get(&self, id: LensId) -> std::sync::Arc<Lens> {
        self.all[id.0 as usize].clone()
    }

    /// The lens's name, and whether it is new.
    pub(crate) fn intern(&mut self, lens: Lens) -> (LensId, bool) {
        if let Some(id) = self.by.get(&lens) {
            return (*id, false);
        }
        let id = LensId(self.all.len() as u32);
        let lens = std::sync::Arc::new(lens);
        self.all.push(lens.clone());
        self.by.insert(lens, id);
        (id, true)
    }
}
