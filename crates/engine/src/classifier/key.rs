//! A packet's values in the forms in which a tree compares them.

use tidegate_ir::{Facts, Field};
use tidegate_wire::Family;

/// Fields that one tree can use.
pub(super) const DIMS: usize = 14;
/// Fields among them whose values need more than 32 bits.
pub(super) const WIDE: usize = 6;
/// Forms of values that one tree can use.
pub(super) const LENSES: usize = 32;

/// A field that a tree uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Dim {
    pub(super) field: Field,
    /// Where its whole value is kept, when it needs more than 32 bits.
    pub(super) wide: Option<u8>,
}

impl Dim {
    /// Whether values need more than 32 bits.
    pub(super) fn needs_wide(field: Field, family: Family) -> bool {
        match field {
            Field::Src | Field::Dst | Field::CtOrigSrc | Field::CtOrigDst => family == Family::V6,
            _ => field.row().bits > 32,
        }
    }

    /// The bits that values have.
    pub(super) fn bits(&self) -> u128 {
        let bits = u32::from(self.field.row().bits);
        let bits = if self.wide.is_some() {
            bits
        } else {
            bits.min(32)
        };
        u128::MAX >> (128 - bits)
    }
}

/// How a value becomes a number of up to 32 bits. Whatever an interval encloses, the
/// interval's ends enclose after that, too, or it becomes the interval of all numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    /// Not at all: always 0.
    Nothing,
    /// As it is.
    Whole,
    /// Its upper 16 of 32 bits.
    High,
    /// A hash of its bits under the mask, in 32 bits.
    Hash(u128),
    /// The same in 16 bits.
    ShortHash(u128),
}

/// A field and a form of its values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Lens {
    pub(super) dim: u8,
    pub(super) form: Form,
    /// The largest number there can be.
    pub(super) top: u32,
}

/// The number of the lens that sees nothing; every tree has it.
pub(super) const BLIND: u8 = 0;

impl Lens {
    pub(super) const BLIND: Lens = Lens {
        dim: 0,
        form: Form::Nothing,
        top: 0,
    };

    pub(super) fn new(dim: u8, field: Field, form: Form) -> Lens {
        let top = match form {
            Form::Nothing => 0,
            Form::High | Form::ShortHash(_) => 0xffff,
            Form::Hash(_) => u32::MAX,
            Form::Whole => u32::MAX >> 32u8.saturating_sub(field.row().bits),
        };
        Lens { dim, form, top }
    }

    #[inline]
    pub(super) fn apply(&self, value: u128) -> u32 {
        match self.form {
            Form::Nothing => 0,
            Form::Whole => narrow(value),
            Form::High => narrow(value) >> 16,
            Form::Hash(mask) => hash_wide(value & mask, 0),
            Form::ShortHash(mask) => hash_wide(value & mask, 0) & 0xffff,
        }
    }
}

/// The value in 32 bits, the largest there is when it needs more.
#[inline]
pub(super) fn narrow(value: u128) -> u32 {
    u32::try_from(value).unwrap_or(u32::MAX)
}

/// A packet's values.
#[derive(Clone, Debug)]
pub(super) struct Key {
    pub(super) present: [bool; DIMS],
    pub(super) narrow: [u32; DIMS],
    pub(super) wide: [u128; WIDE],
    /// What the lenses see. An absent field lies in the interval of all numbers only:
    /// its low end is compared with `lo`, its high end with `hi`.
    pub(super) lo: [u32; LENSES],
    pub(super) hi: [u32; LENSES],
}

impl Key {
    #[inline]
    pub(super) fn new(dims: &[Dim], lenses: &[Lens], facts: &mut impl Facts) -> Key {
        let mut key = Key {
            present: [false; DIMS],
            narrow: [0; DIMS],
            wide: [0; WIDE],
            lo: [0; LENSES],
            hi: [0; LENSES],
        };
        for (i, dim) in dims.iter().enumerate().take(DIMS) {
            if let Some(value) = facts.load(dim.field) {
                key.present[i] = true;
                key.narrow[i] = narrow(value);
                if let Some(wide) = dim.wide {
                    key.wide[usize::from(wide) % WIDE] = value;
                }
            }
        }
        for (i, lens) in lenses.iter().enumerate().take(LENSES) {
            let at = usize::from(lens.dim) % DIMS;
            (key.lo[i], key.hi[i]) = match lens.form {
                Form::Nothing => (0, 0),
                _ if !key.present[at] => (0, lens.top),
                Form::Whole => (key.narrow[at], key.narrow[at]),
                Form::High => (key.narrow[at] >> 16, key.narrow[at] >> 16),
                Form::Hash(_) | Form::ShortHash(_) => {
                    let wide = dims.get(at).and_then(|d| d.wide).unwrap_or(0);
                    let seen = lens.apply(key.wide[usize::from(wide) % WIDE]);
                    (seen, seen)
                }
            };
        }
        key
    }
}

/// 32 bits that depend on all bits of a 64-bit number, never 0.
#[inline]
fn mix(x: u64) -> u32 {
    let product = u128::from(x) * 0x9e37_79b9_7f4a_7c15;
    let half = (product >> 64) as u64 ^ product as u64;
    ((half >> 32) as u32).max(1)
}

/// Spreads the values of one cut; other cuts and other trees have another `salt`.
#[inline]
pub(super) fn hash_narrow(cell: u32, salt: u64) -> u32 {
    mix(u64::from(cell) ^ salt)
}

/// The same for values of more than 32 bits.
#[inline]
pub(super) fn hash_wide(cell: u128, salt: u64) -> u32 {
    let high = ((cell >> 64) as u64).wrapping_mul(0xd6e8_feb8_6659_fd93);
    mix(cell as u64 ^ salt ^ high)
}
