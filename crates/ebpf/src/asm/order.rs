//! Where instructions come to stand: what few packets need behind the rest, nothing that no way
//! leads to, and jumps as far as they have to go.

use std::collections::HashMap;

use super::{Asm, Cond, EXIT, Insn, JMP, JMP32, Label, Reg, Src};
use crate::maps::Map;

impl Asm {
    /// Instructions that few packets need, which are put behind all others: what most packets need
    /// lies together then, in fewer lines of the processor's cache. Only a jump leads there, and
    /// another one, or the program's end, away; what comes before goes on with what comes after.
    pub fn aside(&mut self, make: impl FnOnce(&mut Asm)) {
        let from = self.code.len();
        let before = self.labels.len();
        let here: Vec<_> = (0..before)
            .filter(|&l| self.labels[l] == Some(from))
            .collect();
        make(self);
        let end = self.code.len();
        for label in here {
            self.labels[label] = Some(end);
        }
        self.aside.push(from..end);
        debug_assert!(
            self.code
                .last()
                .is_some_and(|i| matches!(i.code, JMP | EXIT))
        );
    }

    /// Goes on with what comes next, after what `make` does, put aside, with packets of which `cond`
    /// holds.
    pub fn rarely(
        &mut self,
        cond: Cond,
        dst: Reg,
        src: impl Into<Src>,
        make: impl FnOnce(&mut Asm),
    ) {
        let (rare, next) = (self.label(), self.label());
        self.jump_if(cond, dst, src, rare);
        self.aside(|a| {
            a.bind(rare);
            make(a);
            a.jump(next);
        });
        self.bind(next);
    }

    /// Puts aside what is to be.
    fn arrange(&mut self) {
        let aside = std::mem::take(&mut self.aside);
        let depth = |at: &usize| aside.iter().filter(|range| range.contains(at)).count();
        let mut order: Vec<_> = (0..self.code.len()).collect();
        order.sort_by_cached_key(depth);
        // Labels may stand at the end.
        let mut moved = vec![order.len(); order.len() + 1];
        for (to, from) in order.iter().enumerate() {
            moved[*from] = to;
        }
        self.code = order.into_iter().map(|from| self.code[from]).collect();
        self.renumber(|at| moved[at]);
    }

    /// Says of everything that has a place where that is now.
    fn renumber(&mut self, now: impl Fn(usize) -> usize) {
        let places = self.jumps.iter_mut().map(|(at, _)| at);
        let loads = self.maps.iter_mut().map(|(at, _)| at);
        for at in places.chain(loads).chain(self.labels.iter_mut().flatten()) {
            *at = now(*at);
        }
    }

    /// Whether something jumps to `label`.
    #[must_use]
    pub fn jumps_to(&self, label: Label) -> bool {
        self.jumps.iter().any(|(_, to)| *to == label)
    }

    /// Takes out what no way leads to, as the kernel refuses programs with such instructions,
    /// and jumps to the next one.
    pub fn prune(&mut self) {
        self.arrange();
        let goes: HashMap<usize, usize> = self
            .jumps
            .iter()
            .filter_map(|(at, label)| Some((*at, self.labels[label.0]?)))
            .collect();
        let mut reached = vec![false; self.code.len()];
        let (mut ways, mut idle) = (vec![0], Vec::new());
        while let Some(at) = ways.pop() {
            if reached.get(at) != Some(&false) {
                continue;
            }
            let code = self.code[at].code;
            let goes = goes.get(&at);
            if code == JMP && goes == Some(&(at + 1)) {
                idle.push(at);
            }
            reached[at] = true;
            ways.extend(goes);
            if code != EXIT && code != JMP {
                ways.push(at + 1);
            }
        }
        for at in idle {
            reached[at] = false;
        }
        // Where everything is afterwards; labels may stand at the end.
        let mut moved = Vec::with_capacity(reached.len() + 1);
        let mut count = 0;
        for there in &reached {
            moved.push(count);
            count += usize::from(*there);
        }
        moved.push(count);
        let mut kept = reached.iter();
        self.code.retain(|_| kept.next() == Some(&true));
        self.jumps.retain(|(at, _)| reached[*at]);
        self.maps.retain(|(at, _)| reached[*at]);
        self.renumber(|at| moved[at]);
    }

    /// How far the jump `at` goes.
    fn distance(&self, at: usize, label: Label) -> i32 {
        let to = self.labels[label.0].expect("every label has a place");
        i32::try_from(to as i64 - at as i64 - 1).expect("a program of less than 2^31")
    }

    /// Conditional jumps that lead further than such can go.
    fn too_far(&self) -> Vec<usize> {
        let far = |&&(at, label): &&(usize, Label)| {
            self.code[at].code != JMP && i16::try_from(self.distance(at, label)).is_err()
        };
        self.jumps.iter().filter(far).map(|(at, _)| *at).collect()
    }

    /// Puts two jumps behind each instruction of `at`, a jump in order: over the second one,
    /// and that one, to where the first went.
    fn widen(&mut self, at: &[usize]) {
        let behind = |place: usize| 2 * at.partition_point(|far| *far < place);
        let mut code = Vec::with_capacity(self.code.len() + 2 * at.len());
        let mut far = at.iter().peekable();
        let jump = |off| Insn {
            code: JMP,
            dst: Reg::R0,
            src: Reg::R0,
            off,
            imm: 0,
        };
        for (place, insn) in self.code.iter().enumerate() {
            if far.next_if_eq(&&place).is_none() {
                code.push(*insn);
                continue;
            }
            code.extend([Insn { off: 1, ..*insn }, jump(1), jump(0)]);
        }
        for (place, _) in &mut self.jumps {
            let is_far = at.binary_search(place).is_ok();
            *place += behind(*place) + if is_far { 2 } else { 0 };
        }
        let loads = self.maps.iter_mut().map(|(place, _)| place);
        for place in loads.chain(self.labels.iter_mut().flatten()) {
            *place += behind(*place);
        }
        self.code = code;
    }

    /// The finished instructions, and which of them load which map. Jumps of more than
    /// 32,767 instructions want Linux 6.6.
    ///
    /// # Panics
    /// A label was never bound: a mistake in the program's generator.
    #[must_use]
    pub fn finish(mut self) -> (Vec<Insn>, Vec<(usize, &'static Map)>) {
        self.arrange();
        loop {
            let mut far = self.too_far();
            if far.is_empty() {
                break;
            }
            far.sort_unstable();
            self.widen(&far);
        }
        for (at, label) in &self.jumps {
            let distance = self.distance(*at, *label);
            let insn = &mut self.code[*at];
            match i16::try_from(distance) {
                Ok(off) => insn.off = off,
                Err(_) => (insn.code, insn.imm) = (JMP32, distance),
            }
        }
        (self.code, self.maps)
    }

    /// The same program for maps that exist already: `map` knows their file descriptors. `None`
    /// when it does not know one.
    #[must_use]
    pub fn bound(mut self, map: impl Fn(&Map) -> Option<i32>) -> Option<Self> {
        for (at, wanted) in std::mem::take(&mut self.maps) {
            self.code[at].imm = map(wanted)?;
        }
        Some(self)
    }

    /// The finished instructions of [`Asm::bound`] as the kernel takes them.
    ///
    /// # Panics
    /// As [`Asm::finish`].
    #[must_use]
    pub fn link(self, map: impl Fn(&Map) -> Option<i32>) -> Option<Vec<u8>> {
        let (code, _) = self.bound(map)?.finish();
        Some(code.iter().flat_map(|i| i.to_bytes()).collect())
    }
}
