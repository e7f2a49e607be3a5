//! Commands and options, and which go together.

use tidegate_syntax::getopt::Takes;

/// What is to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Command {
    List,
    Create,
    Add,
    Update,
    Delete,
    Get,
    Events,
    Flush,
    Count,
    Stats,
    Version,
    Help,
}

/// The table it is done to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Connections,
    Expectations,
    Dying,
    Unconfirmed,
}

impl Kind {
    /// The table that a word names, which may be cut short.
    pub(super) fn by_name(word: &str) -> Option<Kind> {
        const NAMES: [(&str, Kind); 4] = [
            ("conntrack", Kind::Connections),
            ("expect", Kind::Expectations),
            ("dying", Kind::Dying),
            ("unconfirmed", Kind::Unconfirmed),
        ];
        let found = NAMES.iter().find(|(name, _)| name.starts_with(word));
        found.map(|f| f.1)
    }
}

/// Options, in the order in which they are complained about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Opt {
    Src,
    Dst,
    ReplySrc,
    ReplyDst,
    Proto,
    Timeout,
    Status,
    Zero,
    EventMask,
    TupleSrc,
    TupleDst,
    MaskSrc,
    MaskDst,
    NatRange,
    Mark,
    Id,
    Family,
    SrcNat,
    DstNat,
    Output,
    Secmark,
    Buffer,
    AnyNat,
    Zone,
    Label,
    LabelAdd,
    LabelDel,
    OrigZone,
    ReplyZone,
}

/// Something on the command line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Main {
    Do(Command),
    Give(Opt),
}

/// Letter, long names and argument of a command or option.
type Row = (Main, Option<char>, &'static [&'static str], Takes);

/// The commands.
const COMMANDS: [Row; 12] = {
    use Takes::{Attached, Nothing};
    [
        (Main::Do(Command::List), Some('L'), &["dump"], Attached),
        (Main::Do(Command::Create), Some('I'), &["create"], Attached),
        (Main::Do(Command::Add), Some('A'), &["add"], Attached),
        (Main::Do(Command::Update), Some('U'), &["update"], Attached),
        (Main::Do(Command::Delete), Some('D'), &["delete"], Attached),
        (Main::Do(Command::Get), Some('G'), &["get"], Attached),
        (Main::Do(Command::Events), Some('E'), &["event"], Attached),
        (Main::Do(Command::Flush), Some('F'), &["flush"], Attached),
        (Main::Do(Command::Count), Some('C'), &["counter"], Attached),
        (Main::Do(Command::Stats), Some('S'), &["stats"], Nothing),
        (Main::Do(Command::Version), Some('V'), &["version"], Nothing),
        (Main::Do(Command::Help), Some('h'), &["help"], Nothing),
    ]
};

/// The options.
const OPTIONS: [Row; 29] = {
    use Takes::{Attached, Nothing, One};
    [
        (Main::Give(Opt::Src), Some('s'), &["src", "orig-src"], One),
        (Main::Give(Opt::Dst), Some('d'), &["dst", "orig-dst"], One),
        (Main::Give(Opt::ReplySrc), Some('r'), &["reply-src"], One),
        (Main::Give(Opt::ReplyDst), Some('q'), &["reply-dst"], One),
        (Main::Give(Opt::Proto), Some('p'), &["protonum"], One),
        (Main::Give(Opt::Timeout), Some('t'), &["timeout"], One),
        (Main::Give(Opt::Status), Some('u'), &["status"], One),
        (Main::Give(Opt::Zero), Some('z'), &["zero"], Nothing),
        (Main::Give(Opt::EventMask), Some('e'), &["event-mask"], One),
        (Main::Give(Opt::TupleSrc), None, &["tuple-src"], One),
        (Main::Give(Opt::TupleDst), None, &["tuple-dst"], One),
        (Main::Give(Opt::MaskSrc), None, &["mask-src"], One),
        (Main::Give(Opt::MaskDst), None, &["mask-dst"], One),
        (Main::Give(Opt::NatRange), Some('a'), &["nat-range"], One),
        (Main::Give(Opt::Mark), Some('m'), &["mark"], One),
        (Main::Give(Opt::Id), Some('i'), &["id"], One),
        (Main::Give(Opt::Family), Some('f'), &["family"], One),
        (Main::Give(Opt::SrcNat), Some('n'), &["src-nat"], Attached),
        (Main::Give(Opt::DstNat), Some('g'), &["dst-nat"], Attached),
        (Main::Give(Opt::Output), Some('o'), &["output"], One),
        (Main::Give(Opt::Secmark), Some('c'), &["secmark"], One),
        (Main::Give(Opt::Buffer), Some('b'), &["buffer-size"], One),
        (Main::Give(Opt::AnyNat), Some('j'), &["any-nat"], Attached),
        (Main::Give(Opt::Zone), Some('w'), &["zone"], One),
        (Main::Give(Opt::Label), Some('l'), &["label"], One),
        (Main::Give(Opt::LabelAdd), None, &["label-add"], One),
        (Main::Give(Opt::LabelDel), None, &["label-del"], Attached),
        (Main::Give(Opt::OrigZone), None, &["orig-zone"], One),
        (Main::Give(Opt::ReplyZone), None, &["reply-zone"], One),
    ]
};

/// Everything that is always on the command line's vocabulary.
pub(super) fn vocabulary() -> impl Iterator<Item = &'static Row> {
    COMMANDS.iter().chain(&OPTIONS)
}

/// Long name of a command.
pub(super) fn command_name(command: Command) -> &'static str {
    let row = COMMANDS.iter().find(|r| r.0 == Main::Do(command));
    row.map_or("", |r| r.2[0])
}

/// Whether an option may or must stand with a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Rule {
    Illegal,
    Optional,
    Mandatory,
}

impl Rule {
    pub(super) const fn of(letter: u8) -> Rule {
        match letter {
            b'm' => Rule::Mandatory,
            b'o' => Rule::Optional,
            _ => Rule::Illegal,
        }
    }
}

/// Options by commands on connections, then on expectations: `m` must, `o` may, `-` may
/// not stand there.
#[rustfmt::skip]
const TOGETHER: [(Opt, &[u8; 14]); 29] = [
    //                  LIUDGEF LIDGEFh
    (Opt::Src,       b"oooooo--mmm---"),
    (Opt::Dst,       b"oooooo--mmm---"),
    (Opt::ReplySrc,  b"oooooo--ooo---"),
    (Opt::ReplyDst,  b"oooooo--ooo---"),
    (Opt::Proto,     b"omoomo--mmm--o"),
    (Opt::Timeout,   b"-moo----m-----"),
    (Opt::Status,    b"oooo----o-----"),
    (Opt::Zero,      b"o-------------"),
    (Opt::EventMask, b"-----o--------"),
    (Opt::TupleSrc,  b"--------m-----"),
    (Opt::TupleDst,  b"--------m-----"),
    (Opt::MaskSrc,   b"o-oo-o--m-----"),
    (Opt::MaskDst,   b"o-oo-o--m-----"),
    (Opt::NatRange,  b"--------------"),
    (Opt::Mark,      b"oooo-o--------"),
    (Opt::Id,        b"--ooo---------"),
    (Opt::Family,    b"o-oo-ooo------"),
    (Opt::SrcNat,    b"oooo-o--------"),
    (Opt::DstNat,    b"oooo-o--------"),
    (Opt::Output,    b"o-oooo-o---o--"),
    (Opt::Secmark,   b"o----o--------"),
    (Opt::Buffer,    b"-----o--------"),
    (Opt::AnyNat,    b"o----o--------"),
    (Opt::Zone,      b"oo-o-o--------"),
    (Opt::Label,     b"o-oo-o--------"),
    (Opt::LabelAdd,  b"-oo-----------"),
    (Opt::LabelDel,  b"--o-----------"),
    (Opt::OrigZone,  b"oo-o-o--------"),
    (Opt::ReplyZone, b"oo-o-o--------"),
];

/// The column of a command in [`TOGETHER`]; `None` takes no options at all.
fn column(command: Command, kind: Kind) -> Option<usize> {
    let expect = kind == Kind::Expectations;
    Some(match (command, expect) {
        (Command::List, false) => 0,
        (Command::Create | Command::Add, false) => 1,
        (Command::Update, _) => 2,
        (Command::Delete, false) => 3,
        (Command::Get, false) => 4,
        (Command::Events, false) => 5,
        (Command::Flush, false) => 6,
        (Command::List, true) => 7,
        (Command::Create | Command::Add, true) => 8,
        (Command::Delete, true) => 9,
        (Command::Get, true) => 10,
        (Command::Events, true) => 11,
        (Command::Flush, true) => 12,
        (Command::Help, _) => 13,
        (Command::Count | Command::Stats | Command::Version, _) => return None,
    })
}

/// The first option that is missing or out of place, as a complaint.
pub(super) fn complaint(command: Command, kind: Kind, given: &[Opt]) -> Option<String> {
    let column = column(command, kind);
    TOGETHER.iter().find_map(|(opt, rules)| {
        let rule = column.map_or(Rule::Illegal, |c| Rule::of(rules[c]));
        let row = OPTIONS.iter().find(|r| r.0 == Main::Give(*opt))?;
        complain(rule, given.contains(opt), row.2[0])
    })
}

/// What is wrong with an option that is there or not.
pub(super) fn complain(rule: Rule, given: bool, name: &str) -> Option<String> {
    match (rule, given) {
        (Rule::Mandatory, false) => Some(format!(
            "You need to supply the `--{name}' option for this command"
        )),
        (Rule::Illegal, true) => Some(format!("Illegal option `--{name}' with this command")),
        _ => None,
    }
}
