//! A packet's values in the forms in which a tree compares them.

use tidegate_ir::{Facts, Field};
use tidegate_wire::Family;

/// Fields that one tree can use.
pub(super) const DIMS: usize = 16;
/// Fields among them whose values need more than 32 bits.
pub(super) const WIDE: usize = 4;
/// Forms of values that one tree can use.
pub(super) const LENSES: usize = 32;

/// A field that a tree uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Dim {
    pub(super) field: Field,
    /// Where its whole value is kept, when it needs more than 32 bits.
    pub(super) wide: Option<u8>,
    /// The number of the lens that sees the lower half of a narrow value; the next one sees
    /// the upper half.
    pub(super) lens: u8,
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

/// How the value of a field becomes a number of 16 bits. Nothing is seen of an absent field:
/// it lies in no interval but that of all numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Lens {
    pub(super) dim: u8,
    /// How far the bits of a narrow value are moved to the right.
    shift: u8,
    /// The bits of a wide value that are hashed: the number of their mask.
    wide: Option<u16>,
}

/// The number of the lens that sees nothing; every tree has it.
pub(super) const BLIND: u8 = 0;

impl Lens {
    pub(super) const BLIND: Lens = Lens {
        dim: 0,
        shift: 31,
        wide: None,
    };

    /// The lower 16 bits of a narrow value.
    pub(super) fn low(dim: u8) -> Lens {
        Lens {
            dim,
            shift: 0,
            wide: None,
        }
    }

    /// The upper 16 of 32 bits.
    pub(super) fn high(dim: u8) -> Lens {
        Lens {
            shift: 16,
            ..Lens::low(dim)
        }
    }

    /// A hash of a wide value's bits under a mask.
    pub(super) fn hash(dim: u8, mask: u16) -> Lens {
        Lens {
            wide: Some(mask),
            ..Lens::low(dim)
        }
    }

    /// The bounds of what is seen when the field is present and its value lies between `lo`
    /// and `hi`, which share the bits `common`.
    pub(super) fn bounds(&self, lo: u128, hi: u128, common: u128, masks: &[u128]) -> Bounds {
        let told = match self.wide {
            // Numbers grow with the values only while the bits above them stay the same.
            None => {
                let above = |v| narrow(v) >> (self.shift % 32) >> 16;
                above(lo) == above(hi)
            }
            Some(mask) => common & mask_of(masks, mask) == mask_of(masks, mask),
        };
        let end = |v| match self.wide {
            None => (narrow(v) >> (self.shift % 32)) as u16,
            Some(mask) => hash_wide(v & mask_of(masks, mask), 0) as u16,
        };
        if told && lo <= hi {
            [end(lo), !end(hi)]
        } else {
            ALL
        }
    }
}

/// The ends of an interval, the upper one inverted: what lies in it is nowhere less.
pub(super) type Bounds = [u16; 2];

/// The interval of all numbers.
pub(super) const ALL: Bounds = [0, !u16::MAX];

/// How many numbers an interval has beyond one; nothing if it is empty.
pub(super) fn width(bounds: Bounds) -> Option<u16> {
    (!bounds[1]).checked_sub(bounds[0])
}

/// The least and the greatest number of an interval.
pub(super) fn ends(bounds: Bounds) -> (u16, u16) {
    (bounds[0], !bounds[1])
}

/// The narrowest intervals that have all of both.
pub(super) fn enclose<const N: usize>(a: [u16; N], b: [u16; N]) -> [u16; N] {
    std::array::from_fn(|i| a[i].min(b[i]))
}

/// Whether what was seen lies in the intervals.
#[inline]
pub(super) fn lies_in(seen: &[u16], bounds: &[u16]) -> bool {
    let outside = bounds.iter().zip(seen).map(|(b, s)| b.saturating_sub(*s));
    outside.fold(0, |all, lane| all | lane) == 0
}

#[inline]
fn mask_of(masks: &[u128], number: u16) -> u128 {
    masks.get(usize::from(number)).copied().unwrap_or(0)
}

/// The value in 32 bits, the largest there is when it needs more.
#[inline]
pub(super) fn narrow(value: u128) -> u32 {
    u32::try_from(value).unwrap_or(u32::MAX)
}

/// A packet's values; 0 for absent fields.
#[derive(Clone, Debug)]
pub(super) struct Key {
    pub(super) narrow: [u32; DIMS],
    pub(super) wide: [u128; WIDE],
    /// What the lenses see, and that inverted above it; 0 for absent fields. What is read
    /// together is written together.
    seen: [u32; LENSES],
}

impl Key {
    pub(super) const EMPTY: Key = Key {
        narrow: [0; DIMS],
        wide: [0; WIDE],
        seen: [0; LENSES],
    };

    /// Fills an empty key, where it stands: it is large.
    #[inline]
    pub(super) fn fill(
        &mut self,
        dims: &[Dim],
        lenses: &[Lens],
        masks: &[u128],
        facts: &mut impl Facts,
    ) {
        for (i, dim) in dims.iter().enumerate().take(DIMS) {
            let Some(value) = facts.load(dim.field) else {
                continue;
            };
            let short = narrow(value);
            self.narrow[i] = short;
            let Some(wide) = dim.wide else {
                let lens = usize::from(dim.lens);
                self.seen[lens % LENSES] = short & 0xffff | !short << 16;
                self.seen[(lens + 1) % LENSES] = short >> 16 | !short & 0xffff_0000;
                continue;
            };
            self.wide[usize::from(wide) % WIDE] = value;
            self.see_hashes(i, lenses, masks, value);
        }
    }

    /// What a lens sees, and that inverted.
    #[inline]
    pub(super) fn seen(&self, lens: u8) -> Bounds {
        let seen = self.seen[usize::from(lens) % LENSES];
        [seen as u16, (seen >> 16) as u16]
    }

    /// What lenses see of a wide value.
    fn see_hashes(&mut self, dim: usize, lenses: &[Lens], masks: &[u128], value: u128) {
        for (seen, lens) in self.seen.iter_mut().zip(lenses) {
            if let Some(mask) = lens.wide
                && usize::from(lens.dim) == dim
            {
                let hash = hash_wide(value & mask_of(masks, mask), 0);
                *seen = hash & 0xffff | !hash << 16;
            }
        }
    }
}

/// 32 bits that depend on all bits of a 64-bit number, never 0.
#[inline]
fn mix(x: u64) -> u32 {
    let product = u128::from(x) * 0x9e37_79b9_7f4a_7c15;
    let half = (product >> 64) as u64 ^ product as u64;
    ((half >> 32) as u32).max(1)
}

/// Spreads the values of one cut, which is some bits of a field. Other fields and other
/// trees have another `salt`.
#[inline]
pub(super) fn hash_narrow(value: u32, mask: u32, salt: u64) -> u32 {
    mix((u64::from(mask) << 32 | u64::from(value & mask)) ^ salt)
}

/// The same for values of more than 32 bits, whose bits are already chosen.
#[inline]
pub(super) fn hash_wide(cell: u128, salt: u64) -> u32 {
    let high = ((cell >> 64) as u64).wrapping_mul(0xd6e8_feb8_6659_fd93);
    mix(cell as u64 ^ salt ^ high)
}

#[cfg(test)]
mod tests {
    use tidegate_ir::{StepId, Truth};

    use super::*;

    struct Source(Option<u128>);

    impl Facts for Source {
        fn load(&mut self, _: Field) -> Option<u128> {
            self.0
        }
        fn step(&mut self, _: StepId) -> Truth {
            Truth::False
        }
    }

    /// What a lens sees of the values of an interval lies in the lens' interval.
    #[test]
    fn lenses_keep_what_lies_between() {
        let masks = [u128::MAX << 64];
        let lenses = [Lens::low(0), Lens::high(0), Lens::hash(0, 0)];
        let ends = [
            0u128,
            1,
            80,
            0xffff,
            0x1_0000,
            0x1_0001,
            0xffff_fffe,
            0xffff_ffff,
            1 << 64,
        ];
        let seen = |value, lens: &Lens| {
            let mut key = Key::EMPTY;
            let dims = [Dim {
                field: Field::Src,
                wide: lens.wide.map(|_| 0),
                lens: 0,
            }];
            key.fill(&dims, &[*lens], &masks, &mut Source(value));
            key.seen(lens.shift / 16)
        };
        for lens in lenses {
            for (lo, hi) in ends.iter().flat_map(|&lo| ends.map(|hi| (lo, hi))) {
                let common = match lo ^ hi {
                    0 => u128::MAX,
                    differing => !(u128::MAX >> differing.leading_zeros()),
                };
                let bounds = lens.bounds(lo, hi, common, &masks);
                for v in ends.into_iter().filter(|&v| lo <= v && v <= hi) {
                    let seen = seen(Some(v), &lens);
                    assert!(lies_in(&seen, &bounds), "{lens:?} {lo:#x} {v:#x} {hi:#x}");
                }
                let absent = seen(None, &lens);
                assert_eq!(lies_in(&absent, &bounds), bounds == ALL, "{lens:?}");
            }
        }
    }
}
