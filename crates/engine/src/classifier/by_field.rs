//! A rule's tests as a tree in the making asks for them.

use tidegate_ir::Test;

/// Fields of one rule that a tree looks at, the first ones; nearly all rules have fewer.
const FEW: usize = 7;

/// A rule's tests by field; the narrowest, where there are several.
///
/// Small, because there is one for each rule while a tree is made.
#[derive(Clone, Copy)]
pub(super) struct Tests<'r> {
    dims: [u8; FEW],
    tests: [Option<&'r Test>; FEW],
}

impl<'r> Tests<'r> {
    pub(super) const NONE: Tests<'static> = Tests {
        dims: [u8::MAX; FEW],
        tests: [None; FEW],
    };

    /// The test of a field.
    #[inline]
    pub(super) fn get(&self, dim: usize) -> Option<&'r Test> {
        let at = self.dims.iter().position(|&d| usize::from(d) == dim)?;
        self.tests[at]
    }

    /// Puts a test there if it is the field's first one, and there is room, or if it is the
    /// narrower one.
    pub(super) fn put(&mut self, dim: usize, test: &'r Test, is_narrower: impl Fn(&Test) -> bool) {
        let mut places = self.dims.iter_mut().zip(&mut self.tests);
        let own = |(d, t): &(&mut u8, &mut Option<_>)| usize::from(**d) == dim || t.is_none();
        if let Some((d, place)) = places.find(own)
            && place.is_none_or(is_narrower)
        {
            (*d, *place) = (dim as u8, Some(test));
        }
    }
}
