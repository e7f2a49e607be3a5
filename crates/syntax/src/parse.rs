//! Reading one command line.

use tidegate_ir::TableKind;
use tidegate_wire::Family;
use tidegate_xt::{Context, Draft, Names, Opt, find_match, find_target, number, protocol_match};

use crate::command::{Action, Command, Invocation, View};
use crate::getopt::{Found, Item, Table, Takes, Words, resolve};
use crate::options::{self, BIT_NAMES, INVERTIBLE, bit};
use crate::{Counters, Failure, Iface, Net, Proto, Spec, Target, address, help};

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
        if let Some(word) = words.iter().find(|w| w.contains('\n')) {
            return Err(Failure::Usage(format!(
                "Newlines not allowed in arguments: `{}'",
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
    drafts: Vec<Draft>,
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
            drafts: Vec::new(),
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
        let arity = draft.ext.options.get(opt).map_or(0, Opt::arity);
        let mut args: Vec<&str> = arg.into_iter().collect();
        while args.len() < arity
            && let Some(word) = self.words.take_argument()
        {
            args.push(word);
        }
        draft.set(opt, self.invert, &args, &ctx)?;
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

    fn own_option(&mut self, letter: char, arg: &'w str) -> Result<(), Failure> {
        match letter {
            'A' | 'C' | 'D' | 'I' | 'R' | 'N' | 'E' | 'P' | 'L' | 'S' | 'F' | 'X' | 'Z' => {
                self.verb(letter, arg)
            }
            's' | 'd' | 'p' | 'i' | 'o' | 'f' => self.header_option(letter, arg),
            'j' | 'g' => self.jump(arg, letter == 'g'),
            'm' => self.match_option(arg),
            'c' => self.counters(arg),
            'n' => self.note(bit::NUMERIC),
            'x' => self.note(bit::EXACT),
            options::LINE_NUMBERS => self.note(bit::LINE_NUMBERS),
            'v' if self.seen & bit::VERBOSE != 0 => Ok(()),
            'v' => self.note(bit::VERBOSE),
            't' => self.table_option(arg),
            'w' => self.wait(arg),
            'W' => self.wait_interval(arg),
            'h' => {
                self.print = Some(self.help());
                Ok(())
            }
            'V' => {
                self.print = Some(help::version(self.reader.tool, self.invert));
                Ok(())
            }
            '4' => self.only_for(Family::V4),
            '6' => self.only_for(Family::V6),
            // -M: there are no modules to load.
            _ => Ok(()),
        }
    }

    fn header_option(&mut self, letter: char, arg: &'w str) -> Result<(), Failure> {
        let invert = self.invert;
        match letter {
            's' => {
                self.note(bit::SOURCE)?;
                self.src = Some((arg, invert));
            }
            'd' => {
                self.note(bit::DESTINATION)?;
                self.dst = Some((arg, invert));
            }
            'p' => {
                self.note(bit::PROTOCOL)?;
                self.proto = address::proto(arg, invert, self.reader.names)?;
            }
            'i' => {
                self.note(bit::IN)?;
                self.input = self.iface(arg)?;
            }
            'o' => {
                self.note(bit::OUT)?;
                self.output = self.iface(arg)?;
            }
            _ => {
                if self.reader.family == Family::V6 {
                    return Err(Failure::usage(
                        "`-f' is not supported in IPv6, use -m frag instead",
                    ));
                }
                self.note(bit::FRAGMENT)?;
                self.fragment = Some(invert);
            }
        }
        Ok(())
    }

    fn iface(&mut self, name: &str) -> Result<Option<Iface>, Failure> {
        let (iface, warning) = address::iface(name, self.invert)?;
        self.warnings.extend(warning);
        Ok(iface)
    }

    fn match_option(&mut self, name: &str) -> Result<(), Failure> {
        if self.invert {
            return Err(Failure::usage("unexpected ! flag before --match"));
        }
        // The protocol's names work as well as the match's own.
        let name = match name {
            "icmpv6" | "ipv6-icmp" => "icmp6",
            name => name,
        };
        let ext = find_match(name, self.reader.family).ok_or_else(|| {
            Failure::Usage(format!(
                "Couldn't load match `{name}':No such file or directory\n"
            ))
        })?;
        self.drafts.push(Draft::new(ext));
        Ok(())
    }

    fn jump(&mut self, name: &'w str, goto: bool) -> Result<(), Failure> {
        self.note(bit::JUMP)?;
        if !goto {
            if name.is_empty() {
                return Err(Failure::usage("Invalid target name (too short)"));
            }
            if name.len() > CHAIN_MAX {
                return Err(Failure::Usage(format!(
                    "Invalid target name `{name}' ({CHAIN_MAX} chars max)"
                )));
            }
            if name.contains(char::is_whitespace) {
                return Err(Failure::Usage(format!("Invalid target name `{name}'")));
            }
            if let Some(ext) = find_target(name, self.reader.family) {
                self.target = Some(self.drafts.len());
                self.drafts.push(Draft::new(ext));
            }
        }
        self.jump = Some((name, goto));
        Ok(())
    }

    fn counters(&mut self, arg: &'w str) -> Result<(), Failure> {
        self.note(bit::COUNTERS)?;
        let name = "--set-counters";
        let attached = arg
            .char_indices()
            .skip(1)
            .find(|c| c.1 == ',')
            .map(|(at, _)| (&arg[..at], &arg[at + 1..]));
        let (packets, bytes) = match attached {
            Some(both) => both,
            None => {
                let bytes = self.words.take_argument().ok_or_else(|| {
                    Failure::Usage(format!("{name} requires packet and byte counter"))
                })?;
                (arg, bytes)
            }
        };
        let read = |text: &str, which: &str| {
            leading_number(text)
                .ok_or_else(|| Failure::Usage(format!("{name} {which} counter not numeric")))
        };
        self.counters = Some(Counters {
            packets: read(packets, "packet")?,
            bytes: read(bytes, "byte")?,
        });
        Ok(())
    }

    fn table_option(&mut self, name: &'w str) -> Result<(), Failure> {
        if self.invert {
            return Err(Failure::usage("unexpected ! flag before --table"));
        }
        if self.reader.restoring.is_some() {
            return Err(Failure::Usage(format!(
                "The -t option cannot be used in {}.\n",
                self.reader.tool
            )));
        }
        self.table = Some(name);
        Ok(())
    }

    fn wait(&mut self, arg: &'w str) -> Result<(), Failure> {
        let seconds = match arg {
            "" => self.words.take_argument(),
            arg => Some(arg),
        };
        match seconds {
            Some(s) if number::whole(s, 0, u64::from(u32::MAX)).is_none() => {
                Err(Failure::usage("wait seconds not numeric"))
            }
            _ => Ok(()),
        }
    }

    fn wait_interval(&mut self, arg: &'w str) -> Result<(), Failure> {
        if arg.is_empty() && self.words.take_argument().is_none() {
            return Err(Failure::usage("wait interval value required"));
        }
        self.warnings
            .push("Ignoring deprecated --wait-interval option.".to_owned());
        Ok(())
    }

    fn only_for(&mut self, family: Family) -> Result<(), Failure> {
        if family == self.reader.family {
            return Ok(());
        }
        if self.reader.restoring.is_none() {
            return Err(Failure::Bare(String::new()));
        }
        self.print = Some(String::new());
        Ok(())
    }

    fn help(&mut self) -> String {
        if self.drafts.is_empty() {
            self.load_protocol();
        }
        let extensions: Vec<_> = self.drafts.iter().map(|d| d.ext).collect();
        help::text(self.reader.tool, self.reader.family, &extensions)
    }

    fn verb(&mut self, letter: char, arg: &'w str) -> Result<(), Failure> {
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

    fn finish(mut self) -> Result<Invocation, Failure> {
        let verb = self.verb.unwrap_or_default();
        let drop = self.jump.is_some_and(|j| j.0 == "DROP") || verb.other == "DROP";
        let nat = match self.reader.restoring {
            Some(kind) => kind == TableKind::Nat,
            None => self.table == Some("nat"),
        };
        if drop && nat {
            return Err(Failure::usage(
                "\nThe \"nat\" table is not intended for filtering, the use of DROP is therefore inhibited.\n\n",
            ));
        }
        let spec = self.finish_drafts()?;
        if self.words.is_left() {
            return Err(Failure::usage("unknown arguments found on commandline"));
        }
        if verb.letter == char::default() {
            return Err(Failure::usage("no command specified"));
        }
        if self.invert {
            return Err(Failure::usage("nothing appropriate following !"));
        }
        let rules = match verb.letter {
            'A' | 'I' | 'R' | 'D' | 'C' => self.expand(spec)?,
            _ => Vec::new(),
        };
        self.check_options(verb.letter)?;
        if let Some(chain) = verb.chain {
            self.check_chain(verb.letter, chain)?;
        }
        if verb.letter == 'R' && rules.len() != 1 {
            return Err(Failure::usage(
                "Replacement rule does not specify a unique address",
            ));
        }
        let kind = self.table_kind()?;
        let command = self.command(verb, rules);
        Ok(self.invocation(kind, command))
    }

    fn table_kind(&self) -> Result<TableKind, Failure> {
        if let Some(kind) = self.reader.restoring {
            return Ok(kind);
        }
        let name = self.table.unwrap_or("filter");
        TableKind::from_name(name).ok_or_else(|| {
            Failure::Version(format!(
                "can't initialize {} table `{name}': Table does not exist (do you need to insmod?)",
                self.reader.tool
            ))
        })
    }

    /// The rule without addresses.
    fn finish_drafts(&mut self) -> Result<Spec, Failure> {
        let ctx = self.context();
        let mut spec = Spec {
            input: self.input.take(),
            output: self.output.take(),
            proto: self.proto,
            fragment: self.fragment,
            ..Spec::any()
        };
        let mut target = None;
        for (i, draft) in std::mem::take(&mut self.drafts).into_iter().enumerate() {
            if self.target == Some(i) {
                target = Some(draft);
            } else {
                spec.matches.push(draft.finish(&ctx)?);
            }
        }
        spec.target = match (self.jump, target) {
            (_, Some(draft)) => Target::Extension(draft.finish(&ctx)?),
            (None, None) => Target::None,
            (Some((name, goto)), None) => Target::Chain {
                name: name.to_owned(),
                goto,
            },
        };
        Ok(spec)
    }

    /// One rule per source and destination.
    fn expand(&self, spec: Spec) -> Result<Vec<Spec>, Failure> {
        let side = |given: Option<(&str, bool)>| -> Result<Vec<Option<Net>>, Failure> {
            match given {
                Some((list, invert)) => {
                    address::nets(list, invert, self.reader.family, self.reader.names)
                }
                None => Ok(vec![None]),
            }
        };
        let (sources, destinations) = (side(self.src)?, side(self.dst)?);
        let pairs = sources
            .iter()
            .flat_map(|&s| destinations.iter().map(move |&d| (s, d)));
        let (mut rules, mut spec) = (Vec::new(), Some(spec));
        let last = sources.len() * destinations.len();
        for (i, (src, dst)) in pairs.enumerate() {
            let rule = if i + 1 == last {
                spec.take()
            } else {
                spec.clone()
            };
            rules.extend(rule.map(|rule| Spec { src, dst, ..rule }));
        }
        Ok(rules)
    }

    fn check_options(&self, letter: char) -> Result<(), Failure> {
        let wrong = self.seen & !options::allowed(letter);
        if wrong == 0 {
            return Ok(());
        }
        let name = BIT_NAMES[wrong.trailing_zeros() as usize % BIT_NAMES.len()];
        Err(Failure::Usage(format!(
            "Illegal option `{name}' with this command"
        )))
    }

    fn check_chain(&self, letter: char, chain: &str) -> Result<(), Failure> {
        if letter == 'E' {
            return Ok(());
        }
        if chain.len() > CHAIN_MAX {
            return Err(Failure::Usage(format!(
                "chain name `{chain}' too long (must be under {} chars)",
                CHAIN_MAX + 1
            )));
        }
        if !matches!(letter, 'A' | 'I' | 'R' | 'D' | 'C') {
            return Ok(());
        }
        let wrong = match chain {
            "PREROUTING" | "INPUT" if self.seen & bit::OUT != 0 => "--out-interface",
            "POSTROUTING" | "OUTPUT" if self.seen & bit::IN != 0 => "--in-interface",
            _ => return Ok(()),
        };
        Err(Failure::Usage(format!("Can't use {wrong} with {chain}")))
    }

    fn command(&self, verb: Verb<'_>, rules: Vec<Spec>) -> Command {
        let chain = verb.chain.map(str::to_owned);
        let named = chain.clone().unwrap_or_default();
        let number = verb.number;
        let with_rules = |action| Command::Rules {
            action,
            chain: named.clone(),
            rules,
            counters: self.counters.unwrap_or_default(),
        };
        match verb.letter {
            'A' => with_rules(Action::Append),
            'I' => with_rules(Action::Insert(number.unwrap_or(1))),
            'R' => with_rules(Action::Replace(number.unwrap_or(1))),
            'C' => with_rules(Action::Check),
            'D' => with_rules(Action::Delete),
            'd' => Command::DeleteNumber {
                chain: named,
                number: number.unwrap_or(1),
            },
            'L' | 'S' => Command::Show {
                as_rules: verb.letter == 'S',
                chain,
                number,
                zero: self.zero,
            },
            'F' => Command::Flush(chain),
            'Z' => Command::Zero { chain, number },
            'N' => Command::NewChain(named),
            'X' => Command::DeleteChain(chain),
            'E' => Command::Rename {
                old: named,
                new: verb.other.to_owned(),
            },
            _ => Command::Policy {
                chain: named,
                policy: verb.other.to_owned(),
                counters: self.counters,
            },
        }
    }

    fn invocation(&mut self, table: TableKind, command: Command) -> Invocation {
        let has = |bit| self.seen & bit != 0;
        Invocation {
            table,
            command,
            view: View {
                verbose: has(bit::VERBOSE),
                numeric: has(bit::NUMERIC),
                exact: has(bit::EXACT),
                line_numbers: has(bit::LINE_NUMBERS),
            },
            warnings: std::mem::take(&mut self.warnings),
        }
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

/// The digits at the start (`sscanf` with `%llu`).
pub(crate) fn leading_number(text: &str) -> Option<u64> {
    let end = text
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(text.len());
    text[..end].parse().ok()
}
