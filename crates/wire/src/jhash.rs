//! Bob Jenkins' lookup3 (public domain) over words, as the kernel calls it: `jhash2`, and
//! `jhash_1word` and `jhash_3words`, which are the same for so many words.

/// Hash of `words`.
#[must_use]
pub fn jhash(words: &[u32], seed: u32) -> u32 {
    let start = seed
        .wrapping_add(0xdead_beef)
        .wrapping_add((words.len() as u32) << 2);
    let mut state = [start; 3];
    let mut rest = words;
    while rest.len() > 3 {
        add(&mut state, &rest[..3]);
        state = mix(state);
        rest = &rest[3..];
    }
    if rest.is_empty() {
        return state[2];
    }
    add(&mut state, rest);
    last(state)
}

fn add(state: &mut [u32; 3], words: &[u32]) {
    for (sum, word) in state.iter_mut().zip(words) {
        *sum = sum.wrapping_add(*word);
    }
}

fn mix([mut a, mut b, mut c]: [u32; 3]) -> [u32; 3] {
    // Each step mixes two of the three; the third joins in the next.
    let step = |x: &mut u32, y: &mut u32, z: &mut u32, turn: u32| {
        *x = x.wrapping_sub(*z) ^ z.rotate_left(turn);
        *z = z.wrapping_add(*y);
    };
    for [first, second, third] in [[4, 6, 8], [16, 19, 4]] {
        step(&mut a, &mut b, &mut c, first);
        step(&mut b, &mut c, &mut a, second);
        step(&mut c, &mut a, &mut b, third);
    }
    [a, b, c]
}

fn last([mut a, mut b, mut c]: [u32; 3]) -> u32 {
    let step = |x: u32, y: u32, turn| (x ^ y).wrapping_sub(y.rotate_left(turn));
    for [first, second, third] in [[14, 11, 25], [16, 4, 14]] {
        c = step(c, b, first);
        a = step(a, c, second);
        b = step(b, a, third);
    }
    step(c, b, 24)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As `jhash2` of length 0.
    #[test]
    fn of_nothing_it_is_the_start() {
        assert_eq!(jhash(&[], 0), 0xdead_beef);
        assert_eq!(jhash(&[], 1), 0xdead_bef0);
    }

    /// One bit of any word changes about half of the bits.
    #[test]
    fn every_bit_counts() {
        for len in 1..=7 {
            let words = [7; 7];
            let hash = jhash(&words[..len], 3);
            for bit in 0..32 * len {
                let mut other = words;
                other[bit / 32] ^= 1 << (bit % 32);
                let changed = (jhash(&other[..len], 3) ^ hash).count_ones();
                assert!(
                    (4..=28).contains(&changed),
                    "{len} words, bit {bit}: {changed}"
                );
            }
        }
    }
}
