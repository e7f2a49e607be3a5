//! A small reader of rules (`-p`, `-m`, `-j` and extension options) and of packets,
//! enough to prove extensions without a command-line tool.

use std::collections::HashMap;

use tidegate_ir::{
    Cond, Facts, Field, Hook, Shared, Step, StepId, StepInput, TableKind, Truth, ctstate, exthdr,
};
use tidegate_wire::{Family, Layout, be16, ext6, proto as ip};
use tidegate_xt::{
    Context, Draft, Error, Instance, LowerCtx, Names, NoNames, Place, Protocols, Refusal,
    TimeoutPolicy, find_match, find_target, names, protocol_match,
};

/// Services the test data names.
struct TestNames;

impl Names for TestNames {
    fn service(&self, name: &str, _: Option<&str>) -> Option<u16> {
        let known = [
            ("ftp-data", 20),
            ("ftp", 21),
            ("ssh", 22),
            ("domain", 53),
            ("http", 80),
        ];
        known.iter().find(|s| s.0 == name).map(|s| s.1)
    }

    fn id(&self, list: names::List, name: &str) -> Option<u32> {
        let owner = matches!(list, names::List::Users | names::List::Groups);
        (owner && name == "root").then_some(0)
    }
}

/// Why a rule was refused.
#[derive(Clone, Debug)]
pub(crate) enum Fault {
    /// By this reader.
    Reader(String),
    /// By the tool.
    Tool(Error),
    /// By the kernel.
    Kernel(Refusal),
}

impl From<&str> for Fault {
    fn from(text: &str) -> Self {
        Fault::Reader(text.to_owned())
    }
}

impl Fault {
    /// What the tool prints after its name.
    pub(crate) fn text(&self) -> &str {
        match self {
            Fault::Reader(text) => text,
            Fault::Tool(error) => &error.text,
            Fault::Kernel(refusal) => refusal.errno.message(),
        }
    }
}

/// A rule as its parts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Rule {
    pub(crate) proto: Option<(u8, bool)>,
    pub(crate) matches: Vec<Instance>,
    pub(crate) target: Option<Instance>,
}

/// Splits a rule into words like a shell.
pub(crate) fn words(line: &str) -> Vec<String> {
    let mut out = Vec::new();
    let mut word: Option<String> = None;
    let mut quote = None;
    let mut chars = line.chars();
    while let Some(c) = chars.next() {
        match (quote, c) {
            (None, ' ') => out.extend(word.take()),
            (None, '"' | '\'') => {
                quote = Some(c);
                word.get_or_insert_default();
            }
            (Some(q), c) if c == q => quote = None,
            (Some('"') | None, '\\') => word.get_or_insert_default().extend(chars.next()),
            (_, c) => word.get_or_insert_default().push(c),
        }
    }
    out.extend(word);
    out
}

fn proto(word: &str) -> Result<u8, Fault> {
    match word.parse() {
        Ok(n) => Ok(n),
        Err(_) => names::known_protocol(word).ok_or("unknown protocol".into()),
    }
}

struct Reader<'a> {
    family: Family,
    words: &'a [String],
    at: usize,
    proto: Option<(u8, bool)>,
    matches: Vec<Draft>,
    target: Option<Draft>,
}

impl Reader<'_> {
    fn next(&mut self) -> Result<String, Fault> {
        let word = self.words.get(self.at).cloned();
        self.at += 1;
        word.ok_or("requires an argument".into())
    }

    fn run(&mut self) -> Result<(), Fault> {
        let mut invert = false;
        while self.at < self.words.len() {
            let word = self.next()?;
            match word.as_str() {
                "!" => {
                    invert = true;
                    continue;
                }
                "-p" => self.proto = Some((proto(&self.next()?)?, invert)),
                "-m" => {
                    let name = self.next()?;
                    let found = find_match(&name, self.family);
                    self.matches.push(Draft::new(found.ok_or("no such match")?));
                }
                "-j" => {
                    let name = self.next()?;
                    let found = find_target(&name, self.family);
                    self.target = Some(Draft::new(found.ok_or("no such target")?));
                }
                option => self.option(option, invert)?,
            }
            invert = false;
        }
        if self.proto == Some((0, true)) {
            return Err("rule would never match protocol".into());
        }
        Ok(())
    }

    fn option(&mut self, word: &str, invert: bool) -> Result<(), Fault> {
        let name = word.strip_prefix("--").ok_or("bad argument")?;
        let ctx = Context {
            family: self.family,
            proto: self.proto,
            names: &TestNames,
        };
        let known = self
            .matches
            .iter()
            .chain(&self.target)
            .any(|d| d.find(name).is_some());
        if let (false, Some((number, false))) = (known, self.proto) {
            self.matches
                .extend(protocol_match(number, self.family).map(Draft::new));
        }
        let drafts = self.target.iter_mut().chain(self.matches.iter_mut().rev());
        let (draft, opt) = drafts
            .filter_map(|d| d.find(name).map(|o| (d, o)))
            .next()
            .ok_or("unknown option")?;
        let mut args = Vec::new();
        let optional = draft.ext.options[opt].optional;
        for n in 0..draft.ext.options[opt].arity() {
            match self.words.get(self.at) {
                None if n == 0 && !optional => return Err("requires an argument".into()),
                Some(w) if n == 0 && !optional || !w.starts_with(['-', '!']) => {
                    args.push(w.as_str())
                }
                None | Some(_) => break,
            }
            self.at += 1;
        }
        draft
            .set(opt, invert, &args, &ctx)
            .map(drop)
            .map_err(Fault::Tool)
    }
}

/// Reads a rule and asks whether the kernel would take it.
pub(crate) fn parse(family: Family, place: (TableKind, Hook), line: &str) -> Result<Rule, Fault> {
    let words = words(line);
    let mut reader = Reader {
        family,
        words: &words,
        at: 0,
        proto: None,
        matches: Vec::new(),
        target: None,
    };
    reader.run()?;
    let ctx = Context {
        family,
        proto: reader.proto,
        names: &NoNames,
    };
    let finish = |d: Draft| d.finish(&ctx).map_err(Fault::Tool);
    let matches = reader
        .matches
        .into_iter()
        .map(finish)
        .collect::<Result<Vec<_>, _>>()?;
    let target = reader.target.map(finish).transpose()?;
    let here = Place {
        family,
        table: place.0,
        hooks: &[place.1],
        proto: reader.proto.unwrap_or((0, false)),
        matches: &matches,
        timeouts: &policies(),
    };
    for instance in matches.iter().chain(&target) {
        instance.check(&here).map_err(Fault::Kernel)?;
    }
    Ok(Rule {
        proto: reader.proto,
        matches,
        target,
    })
}

/// Policies for rules to name.
fn policies() -> [TimeoutPolicy; 3] {
    let policy = |name: &str, family, protocols| TimeoutPolicy {
        name: name.to_owned(),
        family,
        protocols,
    };
    [
        policy("tcp4", Family::V4, Protocols::One(6)),
        policy("udp6", Family::V6, Protocols::One(17)),
        policy("rest", Family::V4, Protocols::Untracked),
    ]
}

/// Writes a rule as `-S` does.
pub(crate) fn save(rule: &Rule, family: Family) -> String {
    let mut out = Vec::new();
    if let Some((number, invert)) = rule.proto {
        let name = names::known_protocol_name(number);
        let name = name.map_or(number.to_string(), str::to_owned);
        out.push(format!("{}-p {name}", if invert { "! " } else { "" }));
    }
    for (flag, x) in rule
        .matches
        .iter()
        .map(|m| ("-m", m))
        .chain(rule.target.iter().map(|t| ("-j", t)))
    {
        out.push(format!("{flag} {}{}", x.ext.name, x.save(family)));
    }
    out.join(" ")
}

/// The condition of a rule, `-p` included, and its stateful tests.
pub(crate) fn condition(rule: &Rule, family: Family) -> (Cond, Vec<Box<dyn Step>>) {
    let mut steps = Vec::new();
    let mut ctx = LowerCtx::new(family, &mut steps, tidegate_xt::Sockets::All);
    let mut all = Vec::new();
    if let Some((number, invert)) = rule.proto {
        all.push(Cond::eq(Field::Proto, number.into()).inverted_if(invert));
    }
    all.extend(rule.matches.iter().map(|m| m.condition(&mut ctx)));
    (Cond::all(all), steps)
}

/// A packet and what surrounds it.
pub(crate) struct Packet {
    bytes: Vec<u8>,
    layout: Layout,
    facts: HashMap<Field, u128>,
    steps: Vec<Box<dyn Step>>,
}

impl Packet {
    pub(crate) fn new(hex: &str, facts: &[(Field, u128)], steps: Vec<Box<dyn Step>>) -> Self {
        let digits: String = hex.split_whitespace().collect();
        let byte = |i| u8::from_str_radix(&digits[i..i + 2], 16).expect("hexadecimal");
        let bytes: Vec<u8> = (0..digits.len()).step_by(2).map(byte).collect();
        let layout = tidegate_wire::parse(&bytes).expect("a packet the kernel takes in");
        Packet {
            bytes,
            layout,
            facts: facts.iter().copied().collect(),
            steps,
        }
    }

    pub(crate) fn family(&self) -> Family {
        self.layout.family
    }

    fn l4(&self) -> Option<&[u8]> {
        let end = self.layout.len as usize;
        let l4 = self.bytes.get(usize::from(self.layout.l4)..end)?;
        self.layout.has_l4().then_some(l4)
    }

    fn tos(&self) -> u8 {
        match self.layout.family {
            Family::V4 => self.bytes[1],
            Family::V6 => (self.bytes[0] << 4) | (self.bytes[1] >> 4),
        }
    }

    /// The first of the extension headers of that number, and the bytes from it on.
    fn ext(&self, header: u8) -> ext6::Found {
        ext6::find(&self.bytes, header)
    }

    /// The kinds of headers, walked by hand.
    fn ext_headers(&self) -> Option<u128> {
        let (mut next, mut at, mut bits) = (self.bytes[6], 40, 0);
        loop {
            bits |= match next {
                ip::HOPOPTS => exthdr::HOP,
                ip::DSTOPTS => exthdr::DST,
                ip::ROUTING => exthdr::ROUTE,
                ip::FRAGMENT => exthdr::FRAG,
                ip::AH => exthdr::AUTH,
                ip::ESP => return Some((bits | exthdr::ESP).into()),
                ip::NONE => return Some((bits | exthdr::NONE).into()),
                _ => return Some((bits | exthdr::PROTO).into()),
            };
            let size = ext6::size(next, *self.bytes.get(at + 1)?);
            next = self.bytes[at];
            at += size;
        }
    }

    /// Whether the options hold `kind`, read as `tcp_find_option` does: lengths 0 and
    /// padding advance by one, nothing ends the list early.
    fn tcp_option(&self, kind: u8) -> Option<u128> {
        let l4 = self.l4()?;
        let end = usize::from(*l4.get(12)? >> 4) * 4;
        let options = l4.get(20..end)?;
        let mut at = 0;
        while let Some(&k) = options.get(at) {
            if k == kind {
                return Some(1);
            }
            let len = options.get(at + 1).copied().unwrap_or(1);
            at += if k < 2 { 1 } else { usize::from(len.max(1)) };
        }
        Some(0)
    }
}

impl Facts for Packet {
    fn load(&mut self, field: Field) -> Option<u128> {
        let byte = |at: usize| self.l4()?.get(at).map(|&b| b.into());
        let word = |at: usize| be16(self.l4()?, at).map(u128::from);
        let outside = self.facts.get(&field).copied();
        match field {
            Field::Src => Some(self.layout.src(&self.bytes)),
            Field::Dst => Some(self.layout.dst(&self.bytes)),
            Field::Proto => Some(self.layout.proto.into()),
            Field::Tos => Some(self.tos().into()),
            Field::Ttl => Some(self.layout.ttl(&self.bytes).into()),
            Field::Length => Some(self.layout.len.into()),
            Field::FragOff => Some(self.layout.frag_off.into()),
            Field::L4Len => self.l4().map(|l| l.len() as u128),
            Field::Sport => word(0),
            Field::Dport => word(2),
            Field::IcmpTypeCode => word(0),
            Field::TcpFlags => byte(13),
            Field::TcpOption(kind) => self.tcp_option(kind),
            Field::Mark | Field::Priority | Field::HasCt => outside.or(Some(0)),
            Field::CtState => outside.or(Some(ctstate::INVALID)),
            Field::InName | Field::OutName => outside.or(Some(0)),
            Field::TcpMss => {
                let l4 = self.l4()?;
                let options = l4.get(20..usize::from(*l4.get(12)? >> 4) * 4)?;
                // No option stands before it in the test data.
                (options.first() == Some(&2)).then(|| be16(options, 2).map(u128::from))?
            }
            Field::L4 { at, len } => number(
                self.l4()?
                    .get(at.into()..usize::from(at) + usize::from(len))?,
            ),
            Field::Ext { header, at, len } => match self.ext(header) {
                ext6::Found::At(start) => {
                    let first = start + usize::from(at);
                    number(self.bytes.get(first..first + usize::from(len))?)
                }
                ext6::Found::No | ext6::Found::Cut => None,
            },
            Field::HasExt(header) => Some(match self.ext(header) {
                ext6::Found::No => 0,
                ext6::Found::At(_) => 1,
                ext6::Found::Cut => 2,
            }),
            Field::ExtHeaders => self.ext_headers(),
            Field::Socket => outside.or(Some(tidegate_ir::socket::NONE)),
            Field::InGroup
            | Field::OutGroup
            | Field::Realm
            | Field::Cpu
            | Field::SocketUid
            | Field::SocketGid
            | Field::SocketClass
            | Field::PktType
            | Field::SrcMac
            | Field::ReversePath(_)
            | Field::CtOrigPackets
            | Field::CtOrigBytes
            | Field::CtReplPackets
            | Field::CtReplBytes
            | Field::CtMasterSrc
            | Field::CtMasterHelper
            | Field::CtStatus
            | Field::CtDir
            | Field::CtMark
            | Field::CtLabels
            | Field::CtProto
            | Field::CtOrigSrc
            | Field::CtOrigDst
            | Field::CtReplSrc
            | Field::CtReplDst
            | Field::CtOrigSport
            | Field::CtOrigDport
            | Field::CtReplSport
            | Field::CtReplDport
            | Field::CtExpire
            | Field::SrcType
            | Field::DstType
            | Field::SrcTypeIn
            | Field::DstTypeIn
            | Field::SrcTypeOut
            | Field::DstTypeOut => outside,
        }
    }

    fn step(&mut self, id: StepId) -> Truth {
        let mut steps = std::mem::take(&mut self.steps);
        let truth = steps[id.0 as usize].call(&mut StepInput {
            now: 0,
            random: 0,
            len: self.layout.len,
            facts: self,
            shared: &mut Shared::default(),
            writes: &mut Vec::new(),
        });
        self.steps = steps;
        truth
    }

    fn packet(&self) -> &[u8] {
        &self.bytes[..self.layout.len as usize]
    }
}

fn number(bytes: &[u8]) -> Option<u128> {
    Some(bytes.iter().fold(0, |n, &b| n << 8 | u128::from(b)))
}
