//! Where rules stand in their file, and what the file says about findings.

use std::collections::{BTreeSet, HashMap};
use std::ops::Range;

use tidegate_ir::TableKind;

/// A rule, or number 0: the policy of a chain.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Place {
    /// Table.
    pub(crate) table: TableKind,
    /// Chain.
    pub(crate) chain: String,
    /// Number from 1; 0 is the policy.
    pub(crate) number: u32,
}

/// One line of the file.
#[derive(Clone, Debug)]
pub(crate) struct Line {
    /// Number from 1.
    pub(crate) number: usize,
    /// Bytes of the file, without the newline.
    pub(crate) bytes: Range<usize>,
    /// Codes allowed there.
    allowed: BTreeSet<String>,
}

/// A rules file as text.
#[derive(Debug, Default)]
pub(crate) struct Source {
    /// Name.
    pub(crate) name: String,
    /// Contents.
    pub(crate) text: String,
    lines: HashMap<Place, Line>,
    allowed: BTreeSet<String>,
}

/// `# tidegate: allow(TG010, TG020)`; with `allow-file` for the whole file.
fn allowance(line: &str) -> Option<(bool, Vec<String>)> {
    let said = line
        .trim_start_matches('#')
        .trim()
        .strip_prefix("tidegate:")?
        .trim();
    let (file, rest) = match said.strip_prefix("allow-file") {
        Some(rest) => (true, rest),
        None => (false, said.strip_prefix("allow")?),
    };
    let codes = rest.trim().strip_prefix('(')?.split_once(')')?.0;
    Some((
        file,
        codes.split(',').map(|c| c.trim().to_owned()).collect(),
    ))
}

impl Source {
    /// Reads where rules stand. Files that insert, delete or replace rules have numbers
    /// of their own: their rules have no lines here.
    pub(crate) fn new(name: &str, text: &str) -> Self {
        let mut source = Source {
            name: name.to_owned(),
            text: text.to_owned(),
            ..Source::default()
        };
        let mut table = None;
        let mut numbers: HashMap<String, u32> = HashMap::new();
        let mut allowed = BTreeSet::new();
        let mut at = 0;
        for (index, whole) in text.split_inclusive('\n').enumerate() {
            let line = whole.trim_end_matches('\n');
            let bytes = at..at + line.len();
            at += whole.len();
            if let Some((file, codes)) = line.strip_prefix('#').and_then(allowance) {
                let to = if file {
                    &mut source.allowed
                } else {
                    &mut allowed
                };
                to.extend(codes);
                continue;
            }
            if let Some(name) = line.strip_prefix('*') {
                table = TableKind::from_name(name.trim());
                numbers.clear();
            }
            let Some((table, (chain, policy))) = table.zip(chain_of(line)) else {
                continue;
            };
            let number = match policy {
                true => 0,
                false => {
                    let number = numbers.entry(chain.clone()).or_default();
                    *number += 1;
                    *number
                }
            };
            let place = Place {
                table,
                chain,
                number,
            };
            let line = Line {
                number: index + 1,
                bytes,
                allowed: std::mem::take(&mut allowed),
            };
            source.lines.insert(place, line);
        }
        if edits(text) {
            source.lines.retain(|p, _| p.number == 0);
        }
        source
    }

    /// The line of a rule.
    pub(crate) fn line(&self, place: &Place) -> Option<&Line> {
        self.lines.get(place)
    }

    /// The rule or policy on a line.
    pub(crate) fn at(&self, number: usize) -> Option<Place> {
        let here = self.lines.iter().find(|(_, l)| l.number == number);
        here.map(|(place, _)| place.clone())
    }

    /// Whether somebody has said that a finding is as it should be.
    pub(crate) fn allows(&self, code: &str, place: Option<&Place>) -> bool {
        let here = place.and_then(|p| self.line(p));
        self.allowed.contains(code) || here.is_some_and(|l| l.allowed.contains(code))
    }
}

/// The chain that a line is about, and whether it is the chain's own line.
fn chain_of(line: &str) -> Option<(String, bool)> {
    if let Some(rest) = line.strip_prefix(':') {
        return Some((rest.split_whitespace().next()?.to_owned(), true));
    }
    let rest = match line.strip_prefix('[') {
        Some(rest) => rest.split_once(']')?.1.trim_start(),
        None => line,
    };
    let mut words = rest.split_whitespace();
    let appends = words.next().is_some_and(|w| w == "-A" || w == "--append");
    let chain = words.next().filter(|_| appends)?;
    Some((chain.trim_matches('"').to_owned(), false))
}

fn edits(text: &str) -> bool {
    let words = ["-I ", "-D ", "-R ", "-F", "-X"];
    text.lines().any(|l| words.iter().any(|w| l.starts_with(w)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_have_their_lines_and_allowances() {
        let text = "# tidegate: allow-file(TG080)\n*filter\n:INPUT DROP [0:0]\n\
            [1:2] -A INPUT -i lo -j ACCEPT\n# tidegate: allow(TG010, TG124)\n-A INPUT -j LOG\nCOMMIT\n";
        let source = Source::new("x", text);
        let place = |number| Place {
            table: TableKind::Filter,
            chain: "INPUT".to_owned(),
            number,
        };
        assert_eq!(source.line(&place(1)).map(|l| l.number), Some(4));
        let line = source.line(&place(2)).unwrap();
        assert_eq!(&text[line.bytes.clone()], "-A INPUT -j LOG");
        assert!(source.allows("TG124", Some(&place(2))));
        assert!(!source.allows("TG124", Some(&place(1))));
        assert!(source.allows("TG080", None) && !source.allows("TG010", None));
        assert_eq!(source.line(&place(0)).map(|l| l.number), Some(3));
    }
}
