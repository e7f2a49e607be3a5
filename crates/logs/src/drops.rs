//! Packets that went no further, and INVALID ones, for people and for programs.

use std::fmt::Write;

use serde_json::{Map, Value, json};
use tidegate_engine::{DropCounters, DropKind, InvalidKind};

/// Name, count and explanation.
pub type Row = (&'static str, u64, &'static str);

fn dropped(counters: &DropCounters) -> impl Iterator<Item = Row> {
    let kinds = DropKind::ALL.iter();
    kinds.map(|&k| (k.name(), counters.dropped(k), k.what()))
}

fn invalid(counters: &DropCounters) -> impl Iterator<Item = Row> {
    let kinds = InvalidKind::ALL.iter();
    kinds.map(|&k| (k.name(), counters.invalid(k), k.what()))
}

/// A table of what was counted, by reason, and of packets that were `lost` without a
/// decision; what did not occur is left out.
#[must_use]
pub fn drops_text(counters: &DropCounters, lost: &[Row]) -> String {
    let mut out = String::new();
    section(&mut out, "dropped", dropped(counters));
    section(&mut out, "invalid", invalid(counters));
    section(&mut out, "lost", lost.iter().copied());
    out
}

fn section(out: &mut String, title: &str, rows: impl Iterator<Item = Row>) {
    let rows: Vec<Row> = rows.filter(|r| r.1 > 0).collect();
    let total: u64 = rows.iter().map(|r| r.1).sum();
    let names = rows.iter().map(|r| r.0.len()).max().unwrap_or(0);
    let digits = total.to_string().len();
    let names = names.max(title.len());
    // Writing to a String cannot fail.
    let _ = writeln!(out, "{title:names$}  {total:digits$}");
    for (name, count, what) in rows {
        let _ = writeln!(out, "{name:names$}  {count:digits$}  {what}");
    }
}

/// All reasons by name: `{"dropped": {"rule": 3, …}, "invalid": {…}, "lost": {…}}`.
#[must_use]
pub fn drops_json(counters: &DropCounters, lost: &[Row]) -> Value {
    let object = |rows: &mut dyn Iterator<Item = Row>| -> Map<String, Value> {
        rows.map(|(name, count, _)| (name.to_owned(), count.into()))
            .collect()
    };
    json!({
        "dropped": object(&mut dropped(counters)),
        "invalid": object(&mut invalid(counters)),
        "lost": object(&mut lost.iter().copied()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use tidegate_engine::DropReason;
    use tidegate_engine::conntrack::InvalidReason;

    fn counted() -> DropCounters {
        let mut counters = DropCounters::default();
        for _ in 0..1234 {
            counters.count_drop(&DropReason::Martian);
        }
        counters.count_drop(&DropReason::NoRoute);
        counters.count_invalid(&InvalidReason::BadFlags(0));
        counters
    }

    #[test]
    fn columns_are_straight() {
        assert_eq!(
            drops_text(&counted(), &[("refused", 2, "why"), ("stray", 0, "why")]),
            "\
dropped   1235
martian   1234  its addresses cannot be, or not there
no_route     1  no route leads to its destination
invalid    1
tcp_flags  1  TCP flags that no host sends together
lost     2
refused  2  why
"
        );
        assert_eq!(
            drops_text(&DropCounters::default(), &[]),
            "dropped  0\ninvalid  0\nlost  0\n"
        );
    }

    #[test]
    fn programs_get_every_name() {
        let value = drops_json(&counted(), &[("stray", 0, "why")]);
        assert_eq!(value["lost"]["stray"], 0);
        assert_eq!(value["dropped"]["martian"], 1234);
        assert_eq!(value["dropped"]["rule"], 0);
        assert_eq!(value["invalid"]["tcp_flags"], 1);
        let names = |key: &str| value[key].as_object().unwrap().len();
        assert_eq!(names("dropped"), DropKind::ALL.len());
        assert_eq!(names("invalid"), InvalidKind::ALL.len());
    }
}
