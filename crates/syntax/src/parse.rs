//! Reading one command line.

use smallvec::SmallVec;
use tidegate_ir::TableKind;
use tidegate_wire::Family;
use tidegate_xt::{Context, Draft, Names, Opt, protocol_match};

use crate::command::{Command, Invocation};
use crate::getopt::{Found, Item, Table, Takes, Words, resolve};
use crate::options::{self, BIT_NAMES, INVERTIBLE};
use crate::{Counters, Failure, Iface, Proto};

mod finish;
mod own;
mod verb;

pub(crate) use verb::check_chain_name;

/// Longest chain name in bytes.
pub(crate) const CHAIN_MAX: usize = 28;

/// Who reads a command line.
pub struct Reader<'a> {
    /// Family of the tool.
    pub family: Family,
    /// The tool's name in its texts, such as `iptables`.
    pub tool: &'a str,
    /// Name databases.
    pub names: &'a dyn Names,
    /// The table of a rules file being restored; `None` on a real command line.
    pub restoring: Option<TableKind>,
}

impl std::fmt::Debug for Reader<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Reader")
            .field("family", &self.family)
            .field("tool", &self.tool)
            .field("restoring", &self.restoring)
            .finish_non_exhaustive()
    }
}

impl Reader<'_> {
    /// Reads the words after the program's name.
    ///
    /// # Errors
    /// The tool's own texts.
    pub fn read(&self, words: &[&str]) -> Result<Invocation, Failure> {
        let unfit = |w: &&&str| w.bytes().any(|b| matches!(b, b'\n' | 0));
        if let Some(word) = words.iter().find(unfit) {
            return Err(Failure::Usage(format!(
                "Newlines and NUL bytes not allowed in arguments: `{}'",
                word.escape_debug()
            )));
        }
        Line::new(self, words).run()
    }
}

/// An option: one of the tool's own by letter, or one of a draft.
#[derive(Clone, Copy, PartialEq)]
enum Id {
    Own(char),
    Of { draft: usize, opt: usize },
}

/// `-A`, `-D`, … with their words.
#[derive(Clone, Copy, Default)]
struct Verb<'w> {
    /// Letter; `d` and `z` stand for `-D` and `-Z` by number.
    letter: char,
    chain: Option<&'w str>,
    number: Option<u32>,
    /// Second name of `-E` and `-P`.
    other: &'w str,
}

/// Where drafts stand in [`Line::drafts`] does not change: options refer to them.
struct Line<'r, 'w> {
    reader: &'r Reader<'r>,
    words: Words<'w>,
    seen: u16,
    invert: bool,
    verb: Option<Verb<'w>>,
    /// `-Z` beside `-L` or `-S`.
    zero: bool,
    table: Option<&'w str>,
    src: Option<(&'w str, bool)>,
    dst: Option<(&'w str, bool)>,
    input: Option<Iface>,
    output: Option<Iface>,
    proto: Option<Proto>,
    fragment: Option<bool>,
    counters: Option<Counters>,
    drafts: SmallVec<[Draft; 3]>,
    /// Index of the target's draft.
    target: Option<usize>,
    jump: Option<(&'w str, bool)>,
    /// Whether `-p`'s own match has been added.
    proto_used: bool,
    warnings: Vec<String>,
    /// Set when there is nothing more to do than to print this.
    print: Option<String>,
}

impl Table<Id> for Line<'_, '_> {
    fn short(&self, letter: char) -> Option<(Id, Takes)> {
        options::short(letter).map(|takes| (Id::Own(letter), takes))
    }

    fn long(&self, name: &str) -> Found<Id> {
        // Nearly always it is the exact name of an extension's option.
        let exact = |(draft, d): (usize, &Draft)| {
            let opt = d.find(name)?;
            Some(Found::One(
                Id::Of { draft, opt },
                takes(d.ext.options.get(opt)?),
            ))
        };
        if let Some(found) = self.drafts.iter().enumerate().rev().find_map(exact) {
            return found;
        }
        let own = options::LONG.iter().map(|o| (o.0, Id::Own(o.1), o.2));
        let theirs = self.drafts.iter().enumerate().rev().flat_map(|(draft, d)| {
            d.ext
                .options
                .iter()
                .enumerate()
                .flat_map(move |(opt, row)| {
                    let id = Id::Of { draft, opt };
                    row.names().map(move |name| (name, id, takes(row)))
                })
        });
        resolve(name, own.chain(theirs))
    }
}

fn takes(option: &Opt) -> Takes {
    match option.arity() {
        // An argument that may be missing is looked for behind the option.
        _ if option.optional => Takes::Nothing,
        0 => Takes::Nothing,
        _ => Takes::One,
    }
}

impl<'r, 'w> Line<'r, 'w> {
    fn new(reader: &'r Reader<'r>, words: &'w [&'w str]) -> Self {
        Line {
            reader,
            words: Words::new(words),
            seen: 0,
            invert: false,
            verb: None,
            zero: false,
            table: None,
            src: None,
            dst: None,
            input: None,
            output: None,
            proto: None,
            fragment: None,
            counters: None,
            drafts: SmallVec::new(),
            target: None,
            jump: None,
            proto_used: false,
            warnings: Vec::new(),
            print: None,
        }
    }

    fn run(mut self) -> Result<Invocation, Failure> {
        loop {
            let before = self.words;
            let mut words = before;
            let item = words.next_item(&self);
            self.words = words;
            match item {
                Item::End => break,
                Item::Option(id, arg) => {
                    self.option(id, arg)?;
                    self.invert = false;
                }
                Item::Word("!") if self.invert => {
                    return Err(Failure::usage("multiple consecutive ! not allowed"));
                }
                Item::Word("!") => self.invert = true,
                Item::Word(word) => return Err(Failure::Bare(format!("Bad argument `{word}'"))),
                Item::Missing(word) => {
                    return Err(Failure::Usage(format!(
                        "option \"{word}\" requires an argument"
                    )));
                }
                // The match of the rule's protocol may know the option.
                Item::Unknown(..) if self.load_protocol() => self.words = before,
                Item::Unknown(word, _) => {
                    return Err(Failure::Usage(format!("unknown option \"{word}\"")));
                }
            }
            if let Some(text) = self.print.take() {
                return Ok(self.invocation(TableKind::Filter, Command::Print(text)));
            }
        }
        self.finish()
    }

    fn context(&self) -> Context<'r> {
        Context {
            family: self.reader.family,
            proto: self.proto.map(|p| (p.number, p.invert)),
            names: self.reader.names,
        }
    }

    fn load_protocol(&mut self) -> bool {
        let found = self
            .proto
            .filter(|_| !self.proto_used)
            .and_then(|p| protocol_match(p.number, self.reader.family));
        if let Some(ext) = found {
            self.drafts.push(Draft::new(ext));
            self.proto_used = true;
        }
        found.is_some()
    }

    fn option(&mut self, id: Id, arg: Option<&'w str>) -> Result<(), Failure> {
        match id {
            Id::Own(letter) => self.own_option(letter, arg.unwrap_or("")),
            Id::Of { draft, opt } => self.draft_option(draft, opt, arg),
        }
    }

    fn draft_option(&mut self, at: usize, opt: usize, arg: Option<&'w str>) -> Result<(), Failure> {
        let ctx = self.context();
        let Some(draft) = self.drafts.get_mut(at) else {
            return Ok(());
        };
        let row = draft.ext.options.get(opt);
        let arity = row.map_or(0, Opt::arity);
        let warning = row.and_then(|o| o.warning);
        self.warnings.extend(warning.map(str::to_owned));
        let mut args: SmallVec<[&str; 2]> = arg.into_iter().collect();
        while args.len() < arity
            && let Some(word) = self.words.take_argument()
        {
            args.push(word);
        }
        let remark = draft.set(opt, self.invert, &args, &ctx)?;
        self.warnings.extend(remark);
        Ok(())
    }

    /// Notes that one of the options with a bit was used.
    fn note(&mut self, bit: u16) -> Result<(), Failure> {
        let name = BIT_NAMES[bit.trailing_zeros() as usize % BIT_NAMES.len()];
        if self.seen & bit != 0 {
            return Err(Failure::Usage(format!(
                "multiple {name} options not allowed"
            )));
        }
        if self.invert && INVERTIBLE & bit == 0 {
            return Err(Failure::Usage(format!("cannot have ! before {name}")));
        }
        self.seen |= bit;
        Ok(())
    }
}

/// The digits at the start (`sscanf` with `%llu`).
pub(crate) fn leading_number(text: &str) -> Option<u64> {
    let end = text
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(text.len());
    text[..end].parse().ok()
}
