//! From words to what they ask for.

use tidegate_conntrack::event::EventKind;
use tidegate_conntrack::{Family, Status};
use tidegate_syntax::getopt::{Found, Item, Table, Takes, Words, resolve};
use tidegate_xt::{List, Names};

use super::Refusal;
use super::options::{self, Command, Kind, Main, Opt, vocabulary};
use super::protocols::{Given, PROTOCOLS, Part, Protocol};
use super::values::{self, number32};

/// Addresses of one direction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Ends {
    pub(super) src: Option<u128>,
    pub(super) dst: Option<u128>,
}

impl Ends {
    /// Whether both are there.
    pub(super) fn whole(&self) -> bool {
        self.src.is_some() && self.dst.is_some()
    }
}

/// An address and port that connections are translated to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct NatTo {
    pub(super) addr: u128,
    pub(super) port: Option<u16>,
}

/// What to print.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Output {
    pub(super) xml: bool,
    pub(super) extended: bool,
    pub(super) timestamp: bool,
    pub(super) id: bool,
    pub(super) ktimestamp: bool,
    pub(super) labels: bool,
    pub(super) save: bool,
}

/// A command line, understood.
#[derive(Clone, Debug)]
pub(super) struct Request {
    pub(super) command: Command,
    pub(super) kind: Kind,
    /// What to say on standard error before anything else.
    pub(super) warnings: String,
    given: Vec<Opt>,
    pub(super) family: Option<Family>,
    pub(super) orig: Ends,
    pub(super) reply: Ends,
    /// Of an expectation.
    pub(super) tuple: Ends,
    pub(super) mask: Ends,
    pub(super) proto: Option<u8>,
    pub(super) parts: Given,
    pub(super) timeout: Option<u32>,
    /// Status bits that must be set, or are to be set.
    pub(super) status: Option<u32>,
    /// Status bits that must be clear.
    pub(super) clear: u32,
    pub(super) mark: Option<(u32, u32)>,
    pub(super) id: Option<u32>,
    pub(super) zone: Option<u16>,
    pub(super) orig_zone: Option<u16>,
    pub(super) reply_zone: Option<u16>,
    pub(super) src_nat: Option<Option<NatTo>>,
    pub(super) dst_nat: Option<Option<NatTo>>,
    pub(super) any_nat: Option<Option<NatTo>>,
    pub(super) zero: bool,
    /// Bytes that events may wait in.
    pub(super) buffer: Option<u64>,
    pub(super) output: Output,
    /// Kinds of events; `None` is all.
    pub(super) events: Option<Vec<EventKind>>,
    /// Labels that must all be set.
    pub(super) labels: Vec<u32>,
    /// Labels to set.
    pub(super) label_add: Option<u128>,
    /// Labels to clear.
    pub(super) label_del: Option<u128>,
    /// Labels are shown.
    pub(super) show_labels: bool,
    /// The labels that have a name.
    pub(super) label_names: Vec<(u32, String)>,
}

/// What is wrong when labels are used on a machine without a list of their names.
const NO_LABELS: &str = "nfct_labelmap_new: No such file or directory\n";

/// A status word: a bit that is set, one that is clear, or something to say.
#[derive(Clone, Copy)]
enum StatusWord {
    Set(u32),
    Clear(u32),
    Ignored(&'static str),
}

const STATUS: [(&str, StatusWord); 9] = [
    ("ASSURED", StatusWord::Set(Status::ASSURED)),
    ("SEEN_REPLY", StatusWord::Set(Status::SEEN_REPLY)),
    ("UNSET", StatusWord::Set(0)),
    ("FIXED_TIMEOUT", StatusWord::Set(Status::FIXED_TIMEOUT)),
    ("EXPECTED", StatusWord::Set(Status::EXPECTED)),
    ("OFFLOAD", StatusWord::Set(1 << 14)),
    ("HW_OFFLOAD", StatusWord::Set(1 << 15)),
    ("UNREPLIED", StatusWord::Clear(Status::SEEN_REPLY)),
    ("SRC_NAT", StatusWord::Ignored("src-nat")),
];
const DST_NAT: (&str, StatusWord) = ("DST_NAT", StatusWord::Ignored("dst-nat"));

type Flag = fn(&mut Output) -> &mut bool;

const OUTPUTS: [(&str, Option<Flag>); 8] = [
    ("xml", Some(|o| &mut o.xml)),
    ("extended", Some(|o| &mut o.extended)),
    ("timestamp", Some(|o| &mut o.timestamp)),
    ("id", Some(|o| &mut o.id)),
    ("ktimestamp", Some(|o| &mut o.ktimestamp)),
    ("labels", Some(|o| &mut o.labels)),
    ("userspace", None),
    ("save", Some(|o| &mut o.save)),
];

const EVENTS: [(&str, &[EventKind]); 4] = [
    (
        "ALL",
        &[EventKind::New, EventKind::Update, EventKind::Destroy],
    ),
    ("NEW", &[EventKind::New]),
    ("UPDATES", &[EventKind::Update]),
    ("DESTROY", &[EventKind::Destroy]),
];

/// Something on the command line: of the tool, or of the protocol named so far.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Token {
    Main(Main),
    Part(Part),
}

/// The options there are at one point of the command line.
struct Options(Option<&'static Protocol>);

impl Table<Token> for Options {
    fn short(&self, letter: char) -> Option<(Token, Takes)> {
        let row = vocabulary().find(|r| r.1 == Some(letter))?;
        Some((Token::Main(row.0), row.3))
    }

    fn long(&self, name: &str) -> Found<Token> {
        let own = vocabulary().flat_map(|(main, _, names, takes)| {
            names.iter().map(|n| (*n, Token::Main(*main), *takes))
        });
        let parts = self.0.map_or(&[][..], |p| p.options);
        let parts = parts.iter().flat_map(|o| {
            o.names
                .iter()
                .map(|n| (*n, Token::Part(o.part), Takes::One))
        });
        resolve(name, own.chain(parts))
    }
}

impl Request {
    fn new() -> Request {
        Request {
            command: Command::Help,
            kind: Kind::Connections,
            warnings: String::new(),
            given: Vec::new(),
            family: None,
            orig: Ends::default(),
            reply: Ends::default(),
            tuple: Ends::default(),
            mask: Ends::default(),
            proto: None,
            parts: Given::default(),
            timeout: None,
            status: None,
            clear: 0,
            mark: None,
            id: None,
            zone: None,
            orig_zone: None,
            reply_zone: None,
            src_nat: None,
            dst_nat: None,
            any_nat: None,
            zero: false,
            buffer: None,
            output: Output::default(),
            events: None,
            labels: Vec::new(),
            label_add: None,
            label_del: None,
            show_labels: false,
            label_names: Vec::new(),
        }
    }

    /// Reads a command line.
    ///
    /// # Errors
    /// What is wrong with it; what was warned of before is part of the text.
    pub(super) fn read(words: &[&str], names: &dyn Names) -> Result<Request, Refusal> {
        let mut request = Request::new();
        let named = |n| Some((n, names.id_name(List::Labels, n)?));
        request.label_names = (0..u128::BITS).filter_map(named).collect();
        let done = request.walk(words, names);
        match done {
            Ok(()) => Ok(request),
            Err(refusal) => Err(refusal.after(&request.warnings)),
        }
    }

    fn walk(&mut self, words: &[&str], names: &dyn Names) -> Result<(), Refusal> {
        let mut walk = Words::new(words);
        let mut command = None;
        let mut protocol = None;
        loop {
            let (token, arg) = match walk.next_item(&Options(protocol)) {
                Item::End => break,
                Item::Word(_) => continue,
                Item::Option(token, arg) => (token, arg),
                Item::Missing(word) => {
                    let text = format!("option `{word}' requires an argument");
                    return Err(Refusal::usage(text));
                }
                Item::Unknown(word, _) => {
                    return Err(Refusal::usage(format!("unknown option `{word}'")));
                }
            };
            match token {
                Token::Main(Main::Do(new)) => {
                    if command.replace(new).is_some() {
                        return Err(Refusal::usage("Invalid commands combination"));
                    }
                    // What is attached counts for nothing, but then no table follows.
                    let table = match arg {
                        None => walk.take_argument(),
                        Some(_) => None,
                    };
                    self.begin(new, table)?;
                }
                Token::Main(Main::Give(opt)) => {
                    let optional =
                        matches!(opt, Opt::SrcNat | Opt::DstNat | Opt::AnyNat | Opt::LabelDel);
                    let arg = match arg {
                        None if optional => walk.take_argument(),
                        arg => arg,
                    };
                    if opt == Opt::Proto {
                        let number = protocol_number(arg.unwrap_or(""), names)?;
                        self.proto = Some(number);
                        protocol = Protocol::by_number(number);
                    }
                    match opt {
                        Opt::Label | Opt::LabelAdd | Opt::LabelDel => {
                            self.take_labels(opt, arg, names)?;
                        }
                        _ => self.take(opt, arg)?,
                    }
                }
                Token::Part(part) => {
                    if let Some(protocol) = protocol {
                        self.parts.take(protocol, part, arg.unwrap_or(""))?;
                    }
                }
            }
        }
        self.command = command.unwrap_or(Command::Help);
        self.check(protocol)
    }

    /// A command, and the table that followed it.
    fn begin(&mut self, command: Command, table: Option<&str>) -> Result<(), Refusal> {
        if matches!(command, Command::Version | Command::Help) {
            return Ok(());
        }
        if let Some(word) = table {
            let unknown = || Refusal::usage(format!("unknown type `{word}'"));
            self.kind = Kind::by_name(word).ok_or_else(unknown)?;
        }
        let name = options::command_name(command);
        match (self.kind, command) {
            (Kind::Expectations, Command::Add | Command::Update) => {
                Err(Refusal::usage(format!("Can't do --{name} on expectations")))
            }
            (Kind::Dying | Kind::Unconfirmed, c) if c != Command::List => Err(Refusal::usage(
                "Can't do that command with tables `dying' and `unconfirmed'",
            )),
            _ => Ok(()),
        }
    }

    fn family(&mut self, family: Family) -> Result<(), Refusal> {
        match self.family.replace(family) {
            Some(other) if other != family => Err(Refusal::usage("mismatched address family")),
            _ => Ok(()),
        }
    }

    fn address(&mut self, text: &str) -> Result<u128, Refusal> {
        let (family, addr) = values::address(text)?;
        self.family(family)?;
        Ok(addr)
    }

    /// An address that may come with the length of a network's prefix.
    fn network(&mut self, text: &str) -> Result<(u128, Option<u128>), Refusal> {
        let (addr, len) = match text.split_once('/') {
            Some((addr, len)) => (addr, Some(len).filter(|l| !l.is_empty())),
            None => (text, None),
        };
        let (family, addr) = values::address(addr)?;
        self.family(family)?;
        let mask = len.map(|len| values::prefix(family, len)).transpose()?;
        Ok((addr, mask))
    }

    fn lone_address(&mut self, text: &str, option: &str) -> Result<u128, Refusal> {
        if text.contains('/') {
            return Err(Refusal::usage(format!(
                "CIDR notation unavailable for `--{option}'"
            )));
        }
        self.address(text)
    }

    fn nat(&mut self, arg: Option<&str>) -> Result<Option<Option<NatTo>>, Refusal> {
        let Some(text) = arg else {
            return Ok(Some(None));
        };
        let (family, addr, port) = values::nat(text)?;
        self.family(family)?;
        Ok(Some(Some(NatTo { addr, port })))
    }

    fn take(&mut self, opt: Opt, arg: Option<&str>) -> Result<(), Refusal> {
        let text = arg.unwrap_or("");
        match opt {
            Opt::NatRange => {
                self.warnings += "WARNING: ignoring -a, deprecated option.\n";
                return Ok(());
            }
            Opt::Src => {
                let mask;
                (self.orig.src, mask) = some(self.network(text)?);
                self.mask_by_prefix(Opt::MaskSrc, mask);
            }
            Opt::Dst => {
                let mask;
                (self.orig.dst, mask) = some(self.network(text)?);
                self.mask_by_prefix(Opt::MaskDst, mask);
            }
            Opt::TupleSrc => {
                let mask;
                (self.tuple.src, mask) = some(self.network(text)?);
                self.mask_by_prefix(Opt::MaskSrc, mask);
            }
            Opt::TupleDst => {
                let mask;
                (self.tuple.dst, mask) = some(self.network(text)?);
                self.mask_by_prefix(Opt::MaskDst, mask);
            }
            Opt::ReplySrc => self.reply.src = Some(self.lone_address(text, "reply-src")?),
            Opt::ReplyDst => self.reply.dst = Some(self.lone_address(text, "reply-dst")?),
            Opt::MaskSrc => self.mask.src = Some(self.address(text)?),
            Opt::MaskDst => self.mask.dst = Some(self.address(text)?),
            Opt::Proto => {}
            Opt::Timeout => self.timeout = Some(values::number(text, 10) as u32),
            Opt::Status => self.take_status(text)?,
            Opt::Zero => self.zero = true,
            Opt::EventMask => {
                let kinds = values::words(text, &EVENTS)?.concat();
                self.events.get_or_insert_default().extend(kinds);
            }
            Opt::Mark => self.mark = Some(values::mark(text)),
            Opt::Id => self.id = Some(number32(text)),
            Opt::Family => self.take_family(text)?,
            Opt::SrcNat => self.src_nat = self.nat(arg)?,
            Opt::DstNat => self.dst_nat = self.nat(arg)?,
            Opt::AnyNat => self.any_nat = self.nat(arg)?,
            Opt::Output => self.take_output(text)?,
            Opt::Zone => self.zone = Some(number32(text) as u16),
            Opt::OrigZone => self.orig_zone = Some(number32(text) as u16),
            Opt::ReplyZone => self.reply_zone = Some(number32(text) as u16),
            Opt::Buffer => {
                let size = values::number(text, 10).saturating_mul(2);
                self.buffer = Some(size.clamp(2304, 1 << 31));
            }
            Opt::Label | Opt::LabelAdd | Opt::LabelDel | Opt::Secmark => {}
        }
        self.given.push(opt);
        Ok(())
    }

    fn mask_by_prefix(&mut self, opt: Opt, mask: Option<u128>) {
        if mask.is_none() {
            return;
        }
        if opt == Opt::MaskSrc {
            self.mask.src = mask;
        } else {
            self.mask.dst = mask;
        }
        self.given.push(opt);
    }

    fn take_family(&mut self, text: &str) -> Result<(), Refusal> {
        match text {
            "ipv4" => self.family(Family::V4),
            "ipv6" => self.family(Family::V6),
            _ => Err(unsupported(text)),
        }
    }

    fn take_output(&mut self, text: &str) -> Result<(), Refusal> {
        for flag in values::words(text, &OUTPUTS)?.into_iter().flatten() {
            *flag(&mut self.output) = true;
        }
        if self.output.labels {
            self.need_labels();
        }
        let alone = Output {
            save: true,
            ..Output::default()
        };
        if self.output.save && self.output != alone {
            return Err(Refusal::other(
                "cannot combine save output with any other output type, use -o save only",
            ));
        }
        Ok(())
    }

    /// Labels are shown wherever they are asked about.
    fn need_labels(&mut self) {
        self.show_labels = true;
        if self.label_names.is_empty() && !self.warnings.contains(NO_LABELS) {
            self.warnings += NO_LABELS;
        }
    }

    fn take_labels(
        &mut self,
        opt: Opt,
        arg: Option<&str>,
        names: &dyn Names,
    ) -> Result<(), Refusal> {
        self.need_labels();
        let mut numbers = Vec::new();
        for name in arg.into_iter().flat_map(|text| text.split(',')) {
            let unknown = || Refusal::usage(format!("unknown label '{name}'"));
            numbers.push(names.id(List::Labels, name).ok_or_else(unknown)?);
        }
        let bits = numbers
            .iter()
            .fold(0, |bits, &n| bits | 1u128.checked_shl(n).unwrap_or(0));
        match opt {
            Opt::Label => self.labels.extend(numbers),
            Opt::LabelAdd => *self.label_add.get_or_insert(0) |= bits,
            _ if arg.is_none() => self.label_del = Some(u128::MAX),
            _ => *self.label_del.get_or_insert(0) |= bits,
        }
        if self.label_add.is_some() && self.label_del.is_some() {
            return Err(Refusal::other(
                "cannot use --label-add and --label-del at the same time",
            ));
        }
        self.given.push(opt);
        Ok(())
    }

    fn take_status(&mut self, text: &str) -> Result<(), Refusal> {
        let mut names = STATUS.to_vec();
        names.push(DST_NAT);
        for word in values::words(text, &names)? {
            let set = self.status.get_or_insert(0);
            match word {
                StatusWord::Set(bit) => *set |= bit,
                StatusWord::Clear(bit) => self.clear |= bit,
                StatusWord::Ignored(option) => {
                    let name = option.to_uppercase().replace('-', "_");
                    self.warnings += &format!("WARNING: ignoring {name}, use --{option} instead\n");
                }
            }
        }
        Ok(())
    }

    /// What must and must not go together.
    fn check(&self, protocol: Option<&'static Protocol>) -> Result<(), Refusal> {
        if self.any_nat.is_some() && (self.src_nat.is_some() || self.dst_nat.is_some()) {
            return Err(Refusal::usage(
                "cannot specify `--src-nat' or `--dst-nat' with `--any-nat'",
            ));
        }
        let wrong = options::complaint(self.command, self.kind, &self.given)
            .or_else(|| self.missing_addresses())
            .or_else(|| protocol?.complaint(self.command, self.kind, &self.parts))
            .or_else(|| self.stray_mask())
            .or_else(|| {
                let filtered = self
                    .given
                    .iter()
                    .any(|o| !matches!(o, Opt::Zero | Opt::Output));
                (self.zero && filtered).then(|| "Can't use -z with filtering parameters".to_owned())
            });
        match wrong {
            Some(text) => Err(Refusal::usage(text)),
            None => Ok(()),
        }
    }

    /// One connection is named by both addresses of a direction.
    fn missing_addresses(&self) -> Option<String> {
        let names_one = matches!(self.command, Command::Create | Command::Add | Command::Get);
        if !names_one || self.kind != Kind::Connections || self.orig.whole() || self.reply.whole() {
            return None;
        }
        let started = |ends: &Ends| ends.src.is_some() || ends.dst.is_some();
        let which = if started(&self.reply) && !started(&self.orig) {
            "`--reply-src' and `--reply-dst'"
        } else {
            "`--src' and `--dst'"
        };
        Some(format!("you have to specify {which}"))
    }

    fn stray_mask(&self) -> Option<String> {
        if self.kind != Kind::Connections {
            return None;
        }
        let pairs = [
            (self.mask.src, self.orig.src, "src"),
            (self.mask.dst, self.orig.dst, "dst"),
        ];
        let (.., name) = pairs.into_iter().find(|p| p.0.is_some() && p.1.is_none())?;
        Some(format!("Can't use --mask-{name} without --{name}"))
    }
}

fn some<T>((value, mask): (T, Option<T>)) -> (Option<T>, Option<T>) {
    (Some(value), mask)
}

fn unsupported(text: &str) -> Refusal {
    Refusal::usage(format!("`{text}' unsupported protocol"))
}

/// A protocol by its name, in any case, or number.
fn protocol_number(text: &str, names: &dyn Names) -> Result<u8, Refusal> {
    let lower = text.to_ascii_lowercase();
    if let Some(known) = PROTOCOLS.iter().find(|p| p.name == lower) {
        return Ok(known.number);
    }
    if lower != "all"
        && let Some(number) = names.protocol(&lower)
    {
        return Ok(number);
    }
    let (digits, radix) = match lower.strip_prefix("0x") {
        Some(hex) => (hex, 16),
        None if lower.len() > 1 && lower.starts_with('0') => (lower.as_str(), 8),
        None => (lower.as_str(), 10),
    };
    let number = u8::from_str_radix(digits, radix).ok();
    number
        .filter(|_| !digits.starts_with('+'))
        .ok_or_else(|| unsupported(text))
}
