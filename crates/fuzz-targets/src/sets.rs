//! Any text as command lines of ipset, and as what it restores.

use std::cell::RefCell;

use tidegate_sets::Sets;
use tidegate_syntax::{Failure, words};
use tidegate_tools::ipset::{SetWork, Users, read_all, save_all};
use tidegate_tools::{Printed, SetStore, Store, Tool, Work};
use tidegate_wire::Family;
use tidegate_xt::NoNames;

/// Most command lines of one input.
const MAX_LINES: usize = 40;
/// Nanoseconds.
const NOW: u64 = 1_000_000_000_000;

struct Kept(RefCell<Sets>);

impl Store for Kept {
    fn with(&self, _: Family, _: bool, _: &mut Work<'_>) -> Result<(), Failure> {
        Ok(())
    }

    fn sets(&self) -> Option<&dyn SetStore> {
        Some(self)
    }
}

impl SetStore for Kept {
    fn with_sets(&self, _: bool, work: SetWork) -> Result<Printed, Failure> {
        Ok(work(&mut self.0.borrow_mut(), &Users::new(), NOW))
    }
}

/// What command lines make of sets can be listed, and is saved as a text that is read as the
/// same sets; so is what is restored from the text as a whole.
pub fn sets(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    if let Ok(sets) = read_all(&text, NOW) {
        stays_itself(&sets);
    }
    let Some(tool) = Tool::from_name("ipset".as_ref()) else {
        return;
    };
    let kept = Kept(RefCell::default());
    for line in text.lines().take(MAX_LINES) {
        let cut = words::split(line);
        let args: Vec<&str> = cut.iter().map(AsRef::as_ref).collect();
        let done = tool.run(&args, "", &kept, &NoNames);
        assert!(done.status <= 2 || done.status == 4, "{done:?}");
    }
    for how in [&["list"][..], &["list", "-o", "xml"]] {
        let listed = tool.run(how, "", &kept, &NoNames);
        assert_eq!(listed.status, 0, "{listed:?}");
    }
    stays_itself(&kept.0.borrow());
}

fn stays_itself(sets: &Sets) {
    let saved = save_all(sets, NOW);
    match read_all(&saved, NOW) {
        Ok(again) => assert_eq!(save_all(&again, NOW), saved, "saved, read and saved again"),
        Err(why) => panic!("what was saved is refused: {why}\n{saved}"),
    }
}
