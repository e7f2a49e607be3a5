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

/// How the value of a field becomes a number of up to 32 bits. What is seen of an absent
/// field lies in no interval but that of all numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Lens {
    pub(super) dim: u8,
    /// How far the bits of a narrow value are moved to the right.
    shift: u8,
    /// Which are left then; of a wide value, which bits of its hash.
    mask: u32,
    /// Stands for absence; the largest number seen of a value is one less.
    pub(super) absent: u32,
    /// The bits of a wide value that are hashed: the number of their mask.
    wide: Option<u16>,
}

/// The number of the lens that sees nothing; every tree has it.
pub(super) const BLIND: u8 = 0;

impl Lens {
    pub(super) const BLIND: Lens = Lens {
        dim: 0,
        shift: 0,
        mask: 0,
        absent: 0xffff,
        wide: None,
    };

    /// A narrow value as it is, or as much of it as 16 bits hold.
    pub(super) fn whole(dim: u8, short: bool) -> Lens {
        let most = if short { 0xffff } else { u32::MAX };
        Lens {
            dim,
            mask: most,
            absent: most,
            ..Lens::BLIND
        }
    }

    /// The upper 16 of 32 bits.
    pub(super) fn high(dim: u8) -> Lens {
        Lens {
            shift: 16,
            ..Lens::whole(dim, true)
        }
    }

    /// A hash of a wide value's bits under a mask.
    pub(super) fn hash(dim: u8, mask: u16, short: bool) -> Lens {
        Lens {
            wide: Some(mask),
            ..Lens::whole(dim, short)
        }
    }

    /// What is seen of a narrow value.
    #[inline]
    fn apply_narrow(&self, value: u32) -> u32 {
        (value >> (self.shift % 32) & self.mask).min(self.absent - 1)
    }

    /// What is seen of the bits of a wide value.
    #[inline]
    fn apply_wide(&self, bits: u128) -> u32 {
        (hash_wide(bits, 0) & self.mask).min(self.absent - 1)
    }

    /// The interval that what is seen lies in when the field is present and its value lies
    /// between `lo` and `hi`, which share the bits `common`.
    pub(super) fn interval(&self, lo: u128, hi: u128, common: u128, masks: &[u128]) -> (u32, u32) {
        let told = match self.wide {
            // Numbers grow with the values only while the bits above them stay the same.
            None => {
                let above = |v| narrow(v) >> (self.shift % 32) & !self.mask;
                above(lo) == above(hi)
            }
            Some(mask) => common & mask_of(masks, mask) == mask_of(masks, mask),
        };
        let end = |v| match self.wide {
            None => self.apply_narrow(narrow(v)),
            Some(mask) => self.apply_wide(v & mask_of(masks, mask)),
        };
        if told && lo <= hi {
            (end(lo), end(hi))
        } else {
            (0, self.absent - 1)
        }
    }
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
    /// What the lenses see.
    pub(super) seen: [u32; LENSES],
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
        // All bits where the field is absent.
        let mut absent = [0; DIMS];
        for (i, dim) in dims.iter().enumerate().take(DIMS) {
            let Some(value) = facts.load(dim.field) else {
                absent[i] = u32::MAX;
                continue;
            };
            self.narrow[i] = narrow(value);
            if let Some(wide) = dim.wide {
                self.wide[usize::from(wide) % WIDE] = value;
            }
        }
        for (seen, lens) in self.seen.iter_mut().zip(lenses) {
            let at = usize::from(lens.dim) % DIMS;
            let number = match lens.wide {
                None => lens.apply_narrow(self.narrow[at]),
                Some(mask) => {
                    let wide = dims.get(at).and_then(|dim| dim.wide).unwrap_or(0);
                    lens.apply_wide(self.wide[usize::from(wide) % WIDE] & mask_of(masks, mask))
                }
            };
            *seen = (number | absent[at]) & lens.absent;
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
        let lenses = [
            Lens::whole(0, false),
            Lens::whole(0, true),
            Lens::high(0),
            Lens::hash(0, 0, false),
            Lens::hash(0, 0, true),
            Lens::BLIND,
        ];
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
        let dims = [Dim {
            field: Field::Src,
            wide: Some(0),
        }];
        let seen = |value, lens: &Lens| {
            let mut key = Key::EMPTY;
            let lens = std::slice::from_ref(lens);
            key.fill(&dims, lens, &masks, &mut Source(value));
            key.seen[0]
        };
        for lens in lenses {
            for (lo, hi) in ends.iter().flat_map(|&lo| ends.map(|hi| (lo, hi))) {
                let common = match lo ^ hi {
                    0 => u128::MAX,
                    differing => !(u128::MAX >> differing.leading_zeros()),
                };
                let (least, most) = lens.interval(lo, hi, common, &masks);
                for v in ends.into_iter().filter(|&v| lo <= v && v <= hi) {
                    let seen = seen(Some(v), &lens);
                    assert!(
                        least <= seen && seen <= most,
                        "{lens:?} {lo:#x} {v:#x} {hi:#x}"
                    );
                }
                assert!(seen(None, &lens) > most, "{lens:?}");
            }
        }
    }
}
