//! Options from words, in the order given, as `getopt_long` finds them.
//!
//! The tools have their own small options; the rules language adds those of matches
//! and targets as a line goes on.

/// Whether an option takes an argument.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Takes {
    /// None.
    Nothing,
    /// One, attached or as the next word.
    One,
    /// One, attached only.
    Attached,
}

/// A long name that was looked up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found<T> {
    /// The option.
    One(T, Takes),
    /// None, or several by this abbreviation.
    Nothing,
}

/// The next thing on the command line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Item<'a, T> {
    /// An option and its argument.
    Option(T, Option<&'a str>),
    /// A word that is no option.
    Word(&'a str),
    /// An option without its argument: the text to complain about.
    Missing(&'a str),
    /// No such option: the word to complain about, and the letter, if it is one.
    Unknown(&'a str, Option<char>),
    /// `--` or the end.
    End,
}

/// Looks options up.
pub trait Table<T> {
    /// A one-letter option.
    fn short(&self, letter: char) -> Option<(T, Takes)>;
    /// A long option by name or abbreviation.
    fn long(&self, name: &str) -> Found<T>;
}

/// A walk over words.
#[derive(Clone, Copy, Debug)]
pub struct Words<'a> {
    words: &'a [&'a str],
    next: usize,
    /// The rest of a word of one-letter options.
    cluster: &'a str,
}

impl<'a> Words<'a> {
    /// A walk from the first word on.
    #[must_use]
    pub fn new(words: &'a [&'a str]) -> Self {
        Words {
            words,
            next: 0,
            cluster: "",
        }
    }

    /// The word that would come next, if it can be an argument: neither an option nor
    /// a negation.
    #[must_use]
    pub fn peek_argument(&self) -> Option<&'a str> {
        let word = self.words.get(self.next).copied()?;
        (!word.starts_with(['-', '!'])).then_some(word)
    }

    /// Takes the next word if it can be an argument.
    pub fn take_argument(&mut self) -> Option<&'a str> {
        let word = self.peek_argument()?;
        self.next += 1;
        Some(word)
    }

    /// Takes the next word whatever it is.
    pub fn take_any(&mut self) -> Option<&'a str> {
        let word = self.words.get(self.next).copied()?;
        self.next += 1;
        Some(word)
    }

    /// Whether words are left.
    #[must_use]
    pub fn is_left(&self) -> bool {
        self.next < self.words.len()
    }

    /// The last word that was read.
    fn last(&self) -> &'a str {
        self.next
            .checked_sub(1)
            .and_then(|i| self.words.get(i))
            .copied()
            .unwrap_or("")
    }

    /// The next option or word.
    pub fn next_item<T>(&mut self, table: &impl Table<T>) -> Item<'a, T> {
        if !self.cluster.is_empty() {
            return self.short(table);
        }
        let Some(word) = self.take_any() else {
            return Item::End;
        };
        match word.strip_prefix("--") {
            Some("") => Item::End,
            Some(name) => self.long(name, table),
            None => match word.strip_prefix('-') {
                None | Some("") => Item::Word(word),
                Some(letters) => {
                    self.cluster = letters;
                    self.short(table)
                }
            },
        }
    }

    fn long<T>(&mut self, text: &'a str, table: &impl Table<T>) -> Item<'a, T> {
        let (name, value) = match text.split_once('=') {
            Some((name, value)) => (name, Some(value)),
            None => (text, None),
        };
        let Found::One(option, takes) = table.long(name) else {
            return Item::Unknown(self.last(), None);
        };
        match (takes, value) {
            (Takes::Nothing, Some(_)) => Item::Unknown(self.last(), None),
            (Takes::One, None) => self.following(option),
            (Takes::Nothing | Takes::Attached, None) | (Takes::One | Takes::Attached, Some(_)) => {
                Item::Option(option, value)
            }
        }
    }

    fn short<T>(&mut self, table: &impl Table<T>) -> Item<'a, T> {
        let mut letters = self.cluster.chars();
        let letter = letters.next().unwrap_or('?');
        let rest = letters.as_str();
        self.cluster = rest;
        let Some((option, takes)) = table.short(letter) else {
            return Item::Unknown(self.last(), Some(letter));
        };
        if takes == Takes::Nothing {
            return Item::Option(option, None);
        }
        self.cluster = "";
        match takes {
            Takes::One if rest.is_empty() => self.following(option),
            _ => Item::Option(option, Some(rest).filter(|r| !r.is_empty())),
        }
    }

    fn following<T>(&mut self, option: T) -> Item<'a, T> {
        let complaint = self.last();
        match self.take_any() {
            Some(word) => Item::Option(option, Some(word)),
            None => Item::Missing(complaint),
        }
    }
}

/// Resolves a long name: an exact one wins, else an abbreviation that fits one option
/// only. `all` yields names with what they stand for, most important first.
pub fn resolve<T: PartialEq + Copy>(
    name: &str,
    all: impl Iterator<Item = (&'static str, T, Takes)>,
) -> Found<T> {
    let mut found = Found::Nothing;
    let mut ambiguous = false;
    for (full, option, takes) in all {
        if full == name {
            return Found::One(option, takes);
        }
        if full.starts_with(name) {
            match found {
                Found::Nothing => found = Found::One(option, takes),
                Found::One(other, _) => ambiguous |= other != option,
            }
        }
    }
    if ambiguous { Found::Nothing } else { found }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Base;

    impl Table<char> for Base {
        fn short(&self, letter: char) -> Option<(char, Takes)> {
            let takes = match letter {
                'n' => Takes::Nothing,
                'A' => Takes::One,
                'L' => Takes::Attached,
                _ => return None,
            };
            Some((letter, takes))
        }
        fn long(&self, name: &str) -> Found<char> {
            resolve(
                name,
                [
                    ("append", 'A', Takes::One),
                    ("list", 'L', Takes::Attached),
                    ("list-rules", 'S', Takes::Attached),
                    ("numeric", 'n', Takes::Nothing),
                    ("src", 's', Takes::One),
                    ("source", 's', Takes::One),
                ]
                .into_iter(),
            )
        }
    }

    fn all<'a>(words: &'a [&'a str]) -> Vec<Item<'a, char>> {
        let mut walk = Words::new(words);
        std::iter::from_fn(|| Some(walk.next_item(&Base)))
            .take_while(|item| *item != Item::End)
            .collect()
    }

    #[test]
    fn clusters_and_attached_arguments() {
        use Item::{Missing, Option, Unknown, Word};
        assert_eq!(all(&["-nL"]), [Option('n', None), Option('L', None)]);
        assert_eq!(all(&["-Ln"]), [Option('L', Some("n"))]);
        assert_eq!(
            all(&["-A", "-n", "x"]),
            [Option('A', Some("-n")), Word("x")]
        );
        assert_eq!(all(&["-A"]), [Missing("-A")]);
        assert_eq!(
            all(&["-nQ"]),
            [Option('n', None), Unknown("-nQ", Some('Q'))]
        );
        assert_eq!(all(&["-", "!"]), [Word("-"), Word("!")]);
        assert_eq!(all(&["-n", "--", "-n"]), [Option('n', None)]);
    }

    #[test]
    fn long_names_and_abbreviations() {
        use Item::{Option, Unknown};
        assert_eq!(all(&["--list"]), [Option('L', None)]);
        assert_eq!(all(&["--lis"]), [Unknown("--lis", None)]);
        assert_eq!(all(&["--num"]), [Option('n', None)]);
        assert_eq!(all(&["--numeric=1"]), [Unknown("--numeric=1", None)]);
        assert_eq!(all(&["--append=x"]), [Option('A', Some("x"))]);
        assert_eq!(all(&["--s", "x"]), [Option('s', Some("x"))]);
    }
}
