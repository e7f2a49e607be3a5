//! Lines of a rules file that are read before their turn: a line means the same wherever
//! it stands in its table, and reading lines is most of what a long file costs.

use tidegate_ir::TableKind;
use tidegate_wire::Family;
use tidegate_xt::Names;

use super::CounterMode;
use crate::{Failure, Invocation, Reader, words};

/// Bytes of a piece, and what must follow for there to be another one.
const PIECE: usize = 64 << 10;

/// A line that has been read as one of this table.
pub(super) struct Read {
    pub(super) kind: TableKind,
    pub(super) call: Invocation,
}

/// Some lines of a file.
pub(super) struct Piece<'t> {
    pub(super) text: &'t str,
    /// The table that they seem to belong to, where there is one.
    kind: Option<TableKind>,
}

/// The pieces of a file; a single one that nothing is known of, where it is not long.
pub(super) fn pieces(text: &str) -> Vec<Piece<'_>> {
    let mut pieces = Vec::new();
    let mut rest = text;
    let mut kind = None;
    while rest.len() > 2 * PIECE {
        // A piece ends with a line, and where another table begins.
        let end = memchr::memchr(b'\n', &rest.as_bytes()[PIECE..]);
        let end = end.map_or(rest.len(), |at| PIECE + at + 1);
        let (mut piece, _) = rest.split_at(end);
        let own = table(piece);
        if let Some(at) = memchr::memmem::find(piece.as_bytes(), b"\n*") {
            piece = &piece[..=at];
        }
        kind = own.or(kind);
        rest = &rest[piece.len()..];
        pieces.push(Piece { text: piece, kind });
    }
    pieces.push(Piece {
        text: rest,
        kind: None,
    });
    pieces
}

/// The table that a piece begins.
fn table(piece: &str) -> Option<TableKind> {
    piece
        .strip_prefix('*')
        .and_then(name)
        .and_then(TableKind::from_name)
}

/// The name after the `*` of a table's first line.
pub(super) fn name(rest: &str) -> Option<&str> {
    let line = rest.split('\n').next()?;
    line.split([' ', '\t']).find(|word| !word.is_empty())
}

/// The names of the tables of a file.
pub(super) fn tables(text: &str) -> impl Iterator<Item = &str> {
    let later = memchr::memmem::find_iter(text.as_bytes(), b"\n*").map(|at| at + 1);
    let first = text.starts_with('*').then_some(0);
    let starts = first.into_iter().chain(later);
    starts.filter_map(|at| name(&text[at + 1..]))
}

/// How lines are read.
#[derive(Clone, Copy)]
pub(super) struct Reading<'a> {
    pub(super) family: Family,
    pub(super) tool: &'a str,
    pub(super) names: &'a dyn Names,
    pub(super) counters: CounterMode,
}

impl Reading<'_> {
    /// The lines of a piece, as far as they are rules that can be read; those that cannot
    /// are refused when it is their turn.
    pub(super) fn ahead(&self, piece: &Piece<'_>) -> Vec<Option<Read>> {
        let Some(kind) = piece.kind else {
            return Vec::new();
        };
        let read = |line: &str| {
            let other = line.starts_with(['\n', '#', '*', ':']) || line == "COMMIT\n";
            let call = (!other).then(|| self.line(kind, line, 0))?.ok()?;
            Some(Read { kind, call })
        };
        piece.text.split_inclusive('\n').map(read).collect()
    }

    /// Reads a rule of a table.
    ///
    /// # Errors
    /// What the tool says.
    pub(super) fn line(
        &self,
        kind: TableKind,
        line: &str,
        number: u32,
    ) -> Result<Invocation, Failure> {
        let (counters, rest) = match line.strip_prefix('[') {
            Some(rest) => {
                let split = rest.split_once(':').and_then(|(packets, rest)| {
                    let (bytes, rest) = rest.split_once(']')?;
                    Some(([packets, bytes], rest))
                });
                let (counters, rest) =
                    split.ok_or_else(|| Failure::Usage(format!("Bad line {number}: need ]")))?;
                let take = self.counters != CounterMode::Ignore;
                (take.then_some(counters), rest)
            }
            None => (None, line),
        };
        let cut = words::split(rest);
        let mut all = words::Few::new();
        if let Some([packets, bytes]) = counters {
            all.extend(["--set-counters", packets, bytes]);
        }
        all.extend(cut.iter().map(AsRef::as_ref));
        let reader = Reader {
            family: self.family,
            tool: self.tool,
            names: self.names,
            restoring: Some(kind),
        };
        reader.read(&all)
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Options, parse, salvage};
    use super::*;
    use crate::save;
    use tidegate_xt::NoNames;

    const FAMILY: Family = Family::V4;

    /// A file of some pieces: two tables, and of everything that lines can be.
    fn long() -> Vec<String> {
        let table = |name: &str, chain: &str, target: &str| {
            let mut lines = vec![format!("*{name}"), ":own - [0:0]".to_owned()];
            for n in 0..4000 {
                let (a, b) = (n / 200, n % 200);
                lines.push(match n % 9 {
                    0 => format!("# {n} \u{e4}\u{f6}\u{fc}"),
                    1 => format!("[{n}:60] -A {chain} -s 10.0.{a}.{b} -j {target}"),
                    2 => format!("-I {chain} 1 -d 10.1.{a}.{b}/32 -j own"),
                    3 => format!("-A own -m comment --comment \"* {n}\" -j RETURN"),
                    4 => String::new(),
                    _ => format!("-A {chain} -p tcp -m tcp --dport {n} -j {target}"),
                });
            }
            lines.push(format!("-D {chain} 1"));
            lines.push("COMMIT".to_owned());
            lines
        };
        let mut all = table("filter", "FORWARD", "DROP");
        all.extend(table("nat", "PREROUTING", "ACCEPT"));
        all
    }

    fn text(lines: &[String]) -> String {
        lines.iter().map(|line| format!("{line}\n")).collect()
    }

    #[test]
    fn pieces_are_the_file() {
        let text = text(&long());
        let pieces = pieces(&text);
        assert!(pieces.len() > 4, "{}", pieces.len());
        let whole: String = pieces.iter().map(|p| p.text).collect();
        assert_eq!(whole, text);
        for piece in &pieces {
            assert!(piece.text.ends_with('\n'));
            assert!(!piece.text.contains("\n*"));
        }
        let kinds = pieces.iter().filter_map(|p| p.kind);
        let kinds: std::collections::HashSet<_> = kinds.collect();
        assert_eq!(kinds, [TableKind::Filter, TableKind::Nat].into());
    }

    /// Salvaging reads line by line.
    #[test]
    fn a_long_file_means_what_its_lines_mean() {
        let text = text(&long());
        let at_once = parse(&text, FAMILY, &NoNames).unwrap();
        let one_by_one = salvage(&text, FAMILY, &NoNames);
        assert_eq!(one_by_one.refused, []);
        assert_eq!(save::plain(&at_once), save::plain(&one_by_one.rules));
        let filter = at_once.table(TableKind::Filter).unwrap();
        assert_eq!(filter.chain("own").unwrap().rules.len(), 445);
    }

    /// The first bad line is the one that is told of, whatever has been read before.
    #[test]
    fn a_long_file_is_refused_for_its_first_bad_line() {
        let bad = [
            "[1:2 -A FORWARD",
            "-A FORWARD --no-such",
            "-A NOWHERE -j DROP",
            "-A FORWARD -s host.invalid",
            "-A FORWARD -j DROP\0",
            "*raw",
        ];
        for (at, bad) in [2, 1500, 3500, 4003, 6000, 8003].into_iter().zip(bad) {
            let mut lines = long();
            bad.clone_into(&mut lines[at]);
            lines.insert(at + 1, "-A NOWHERE -j DROP".to_owned());
            let text = text(&lines);
            let refused = parse(&text, FAMILY, &NoNames).unwrap_err();
            assert_eq!(refused.line as usize, at + 1, "{bad}");
            let one_by_one = salvage(&text, FAMILY, &NoNames).refused;
            assert_eq!(Some(&refused), one_by_one.first(), "{bad}");
        }
    }

    #[test]
    fn tables_that_a_file_names_are_emptied() {
        let text = "# *raw\n*filter\nCOMMIT\n* nat \n-A x --comment \"\n*mangle\nCOMMIT\n*odd\n";
        let empties = |options: &Options<'_>| options.empties(text).collect::<Vec<_>>();
        let all = [TableKind::Filter, TableKind::Nat, TableKind::Mangle];
        assert_eq!(empties(&Options::default()), all);
        let nat = Options {
            table: Some("nat"),
            ..Options::default()
        };
        assert_eq!(empties(&nat), [TableKind::Nat]);
        let noflush = Options {
            noflush: true,
            ..Options::default()
        };
        assert_eq!(empties(&noflush), []);
    }
}
