//! Options of the save and restore tools.

use tidegate_syntax::getopt::{Found, Item, Table, Takes, Words, resolve};

/// A tool's options: letter, long name, argument.
pub(super) type Flags = &'static [(char, &'static str, Takes)];

struct Lookup(Flags);

impl Table<char> for Lookup {
    fn short(&self, letter: char) -> Option<(char, Takes)> {
        let row = self.0.iter().find(|f| f.0 == letter);
        row.map(|f| (f.0, f.2))
    }

    fn long(&self, name: &str) -> Found<char> {
        resolve(name, self.0.iter().map(|f| (f.1, f.0, f.2)))
    }
}

/// What stands on a command line.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Parsed<'a> {
    /// Options with their arguments.
    pub(super) options: Vec<(char, Option<&'a str>)>,
    /// Everything else.
    pub(super) operands: Vec<&'a str>,
}

/// Reads a command line; options and operands may come in any order.
///
/// # Errors
/// What `getopt` says, without the program's name.
pub(super) fn parse<'a>(flags: Flags, words: &'a [&'a str]) -> Result<Parsed<'a>, String> {
    let lookup = Lookup(flags);
    let mut walk = Words::new(words);
    let mut parsed = Parsed::default();
    loop {
        match walk.next_item(&lookup) {
            Item::End => {
                while let Some(word) = walk.take_any() {
                    parsed.operands.push(word);
                }
                return Ok(parsed);
            }
            Item::Word(word) => parsed.operands.push(word),
            Item::Option('w' | 'W', None) => {
                // The number may be the next word.
                walk.take_argument();
            }
            Item::Option(letter, arg) => parsed.options.push((letter, arg)),
            Item::Missing(word) => {
                return Err(match word.strip_prefix("--") {
                    Some(name) => format!("option '--{name}' requires an argument"),
                    None => {
                        let letter = word.chars().last().unwrap_or('?');
                        format!("option requires an argument -- '{letter}'")
                    }
                });
            }
            Item::Unknown(_, Some(letter)) => return Err(format!("invalid option -- '{letter}'")),
            Item::Unknown(word, None) => return Err(format!("unrecognized option '{word}'")),
        }
    }
}
