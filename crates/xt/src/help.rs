//! The help text of one extension.

use crate::{Extension, Lower};

/// What `-m NAME -h` or `-j NAME -h` prints after the tool's own help and an empty line.
#[must_use]
pub fn help(ext: &Extension) -> String {
    let kind = match ext.lower {
        Lower::Match(_) => "match",
        Lower::Target(_) => "target",
    };
    let mut out = match ext.help.title {
        Some(title) => format!("{title}\n"),
        None => format!("{} {kind} options:\n", ext.name),
    };
    if ext.help.order.is_empty() {
        out.extend(ext.options.iter().map(|o| o.help));
    } else {
        let rows = ext.help.order.iter().filter_map(|&i| ext.options.get(i));
        out.extend(rows.map(|o| o.help));
    }
    out + ext.help.tail
}
