//! Commands (`-A`, `-D`, …) on a line, and the words that belong to them.

use tidegate_xt::{find_target, number};

use super::{Line, Verb};
use crate::Failure;
use crate::getopt::Takes;
use crate::options;

impl<'w> Line<'_, 'w> {
    pub(super) fn verb(&mut self, letter: char, arg: &'w str) -> Result<(), Failure> {
        if let Some(old) = &self.verb {
            let both = [old.letter.to_ascii_uppercase(), letter];
            let zero_too = matches!(both, ['L' | 'S', 'Z'] | ['Z', 'L' | 'S']);
            if !zero_too || self.zero {
                return Err(Failure::Usage(format!(
                    "Cannot use -{letter} with -{}",
                    both[0]
                )));
            }
            self.zero = true;
        }
        if self.invert {
            return Err(Failure::usage("unexpected '!' flag"));
        }
        let mut verb = Verb {
            letter,
            ..Verb::default()
        };
        verb.chain = match (options::short(letter), arg) {
            (Some(Takes::Attached), "") => self.words.take_argument(),
            (_, arg) => Some(arg),
        };
        self.verb_words(&mut verb)?;
        match &mut self.verb {
            Some(shown) if letter == 'Z' => shown.chain = verb.chain.or(shown.chain),
            _ => self.verb = Some(verb),
        }
        Ok(())
    }

    /// Takes the words after the chain.
    fn verb_words(&mut self, verb: &mut Verb<'w>) -> Result<(), Failure> {
        match verb.letter {
            'D' | 'I' | 'R' | 'L' | 'S' | 'Z' if verb.chain.is_some() => {
                if let Some(word) = self.words.take_argument() {
                    verb.number = Some(rule_number(word)?);
                    verb.letter = match verb.letter {
                        'D' => 'd',
                        letter => letter,
                    };
                } else if verb.letter == 'R' {
                    return Err(Failure::usage("-R requires a rule number"));
                }
            }
            'E' => {
                verb.other = self.words.take_argument().ok_or_else(|| {
                    Failure::usage("-E requires old-chain-name and new-chain-name")
                })?;
            }
            'P' => {
                verb.other = self
                    .words
                    .take_argument()
                    .ok_or_else(|| Failure::usage("-P requires a chain and a policy"))?;
            }
            'N' => self.check_new_chain(verb.chain.unwrap_or(""))?,
            _ => {}
        }
        Ok(())
    }

    fn check_new_chain(&self, name: &str) -> Result<(), Failure> {
        check_chain_name(name)?;
        let clash = name.is_empty() || find_target(name, self.reader.family).is_some();
        if clash {
            return Err(Failure::usage("chain name may not clash with target name"));
        }
        Ok(())
    }
}

/// Whether a new chain may have this name, other names aside.
///
/// # Errors
/// The tool's text.
pub(crate) fn check_chain_name(name: &str) -> Result<(), Failure> {
    if let Some(first @ ('-' | '!')) = name.chars().next() {
        return Err(Failure::Usage(format!(
            "chain name not allowed to start with `{first}'"
        )));
    }
    // A double quote could not be read back from a rules file.
    if name.contains(|c: char| c.is_whitespace() || c == '"') {
        return Err(Failure::Usage(format!("Invalid chain name `{name}'")));
    }
    Ok(())
}

fn rule_number(word: &str) -> Result<u32, Failure> {
    number::whole(word, 1, i32::MAX as u64)
        .and_then(|n| u32::try_from(n).ok())
        .ok_or_else(|| Failure::Usage(format!("Invalid rule number `{word}'")))
}
