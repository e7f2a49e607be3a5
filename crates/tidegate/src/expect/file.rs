//! Files of expectations.

use std::borrow::Cow;
use std::fs;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use anyhow::{Context, Result, anyhow, bail};
use tidegate_host::Host;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::watch::Watched;
use crate::packets::Described;

/// What is expected of packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// They arrive.
    Allow,
    /// They do not.
    Deny,
    /// They are dropped without an answer.
    Drop,
    /// They are rejected.
    Reject,
}

impl Verdict {
    const ALL: [Verdict; 4] = [
        Verdict::Allow,
        Verdict::Deny,
        Verdict::Drop,
        Verdict::Reject,
    ];

    /// Its key in a file.
    pub(super) const fn key(self) -> &'static str {
        match self {
            Verdict::Allow => "allow",
            Verdict::Deny => "deny",
            Verdict::Drop => "drop",
            Verdict::Reject => "reject",
        }
    }
}

/// What is expected beside a verdict.
#[derive(Clone, Debug, Default)]
pub(super) struct More {
    /// The packet opens a connection that is followed to its end.
    pub(super) course: bool,
    /// How it is rejected, as `--reject-with` names it.
    pub(super) with: Option<String>,
    /// State.
    pub(super) state: Option<String>,
    /// Sender after translation: address, or address and port.
    pub(super) from: Option<String>,
    /// Receiver after translation.
    pub(super) to: Option<String>,
    /// Interface it leaves by; `local` where this host gets it.
    pub(super) out: Option<String>,
    /// Text in a LOG line.
    pub(super) log: Option<String>,
    /// The rule that decides: `INPUT 3`, `INPUT policy`, `nat PREROUTING 1`.
    pub(super) rule: Option<String>,
}

/// A packet, and the words and the line that describe it.
#[derive(Clone, Debug)]
pub(super) struct Packet {
    pub(super) words: String,
    pub(super) line: usize,
    pub(super) described: Described,
}

/// Packets of which the same is expected.
#[derive(Clone, Debug)]
pub(super) struct Case {
    pub(super) name: String,
    /// What went before.
    pub(super) given: Vec<Packet>,
    pub(super) packets: Vec<(Verdict, Packet)>,
    pub(super) more: More,
    pub(super) capture: Option<Captured>,
}

/// A capture, of which these packets and no others are stopped.
#[derive(Clone, Debug)]
pub(super) struct Captured {
    pub(super) path: PathBuf,
    pub(super) stopped: Vec<u64>,
    pub(super) line: usize,
}

/// A file.
pub(super) struct File {
    pub(super) path: PathBuf,
    pub(super) rules: Option<PathBuf>,
    pub(super) rules6: Option<PathBuf>,
    pub(super) host: Option<Host>,
    pub(super) cases: Vec<Case>,
}

/// Keys of a file that are no part of a host's description.
const OWN: [&str; 3] = ["rules", "rules6", "test"];

impl File {
    /// Reads it. All files that it depends on are noted, itself included.
    ///
    /// # Errors
    /// It cannot be read or understood; file and line are named.
    pub(super) fn read(path: &Path, watched: &mut Watched) -> Result<Self> {
        watched.note(path);
        let shown = path.display().to_string();
        let text = fs::read_to_string(path).with_context(|| shown.clone())?;
        let table =
            DeTable::parse(&text).map_err(|e| anyhow!("{shown}: {}", e.to_string().trim_end()))?;
        let beside = path.parent().unwrap_or(Path::new("."));
        let mut reader = Reader {
            shown,
            ends: text.match_indices('\n').map(|n| n.0).collect(),
            text: &text,
            beside,
            watched,
        };
        reader.file(path, table.get_ref())
    }
}

type Item<'t> = &'t Spanned<DeValue<'t>>;

struct Reader<'t> {
    shown: String,
    text: &'t str,
    /// Where its lines end.
    ends: Vec<usize>,
    beside: &'t Path,
    watched: &'t mut Watched,
}

impl Reader<'_> {
    fn line(&self, at: usize) -> usize {
        self.ends.partition_point(|&end| end < at) + 1
    }

    fn wrong(&self, at: usize, why: impl std::fmt::Display) -> anyhow::Error {
        anyhow!("{}:{}: {why}", self.shown, self.line(at))
    }

    fn text(&self, item: Item<'_>) -> Result<String> {
        let text = item.get_ref().as_str().map(str::to_owned);
        text.ok_or_else(|| self.wrong(item.span().start, "a text in quotes should stand here"))
    }

    /// A path beside the file.
    fn path(&mut self, item: Item<'_>) -> Result<PathBuf> {
        let path = self.beside.join(self.text(item)?);
        self.watched.note(&path);
        if !path.exists() {
            return Err(self.wrong(
                item.span().start,
                format!("{}: no such file", path.display()),
            ));
        }
        Ok(path)
    }

    fn file(&mut self, path: &Path, table: &DeTable<'_>) -> Result<File> {
        let (mut rules, mut rules6, mut host, mut cases) = (None, None, None, Vec::new());
        let mut inline = false;
        for (key, value) in table {
            match (key.get_ref().as_ref(), value.get_ref()) {
                ("rules", _) => rules = Some(self.path(value)?),
                ("rules6", _) => rules6 = Some(self.path(value)?),
                ("host", DeValue::String(_)) => {
                    let path = self.path(value)?;
                    host = Some(Host::read(&path)?);
                }
                ("test", DeValue::Array(tests)) => {
                    for test in tests {
                        cases.push(self.case(test)?);
                    }
                }
                ("host" | "interface" | "route" | "rule" | "sysctl", _) => inline = true,
                (other, _) => {
                    let why = format!(
                        "unknown key `{other}`: rules, rules6, host, [[test]], or what describes a host"
                    );
                    return Err(self.wrong(key.span().start, why));
                }
            }
        }
        if inline && host.is_some() {
            bail!(
                "{}: a host is described twice, in a file and here",
                self.shown
            );
        }
        if inline {
            host = Some(self.inline_host()?);
        }
        if rules.is_none() && rules6.is_none() {
            bail!("{}: names no rules (rules = \"FILE\")", self.shown);
        }
        Ok(File {
            path: path.to_owned(),
            rules,
            rules6,
            host,
            cases,
        })
    }

    fn inline_host(&self) -> Result<Host> {
        let mut table: toml::Table = toml::from_str(self.text)?;
        for key in OWN {
            table.remove(key);
        }
        Host::parse(&toml::to_string(&table)?).with_context(|| self.shown.clone())
    }

    fn case(&mut self, item: Item<'_>) -> Result<Case> {
        let at = item.span().start;
        let DeValue::Table(table) = item.get_ref() else {
            return Err(self.wrong(at, "a [[test]] table should stand here"));
        };
        let mut case = Case {
            name: format!("line {}", self.line(at)),
            given: Vec::new(),
            packets: Vec::new(),
            more: More::default(),
            capture: None,
        };
        let mut stopped = None;
        for (key, value) in table {
            let name = key.get_ref().as_ref();
            if let Some(verdict) = Verdict::ALL.into_iter().find(|v| v.key() == name) {
                let packets = self.packets(value)?;
                case.packets
                    .extend(packets.into_iter().map(|p| (verdict, p)));
                continue;
            }
            let more = &mut case.more;
            match name {
                "name" => case.name = self.text(value)?,
                "given" => case.given = self.packets(value)?,
                "course" => more.course = self.truth(value)?,
                "with" => more.with = Some(self.text(value)?),
                "state" => more.state = Some(self.text(value)?),
                "from" => more.from = Some(self.text(value)?),
                "to" => more.to = Some(self.text(value)?),
                "out" => more.out = Some(self.text(value)?),
                "log" => more.log = Some(self.text(value)?),
                "rule" => more.rule = Some(self.text(value)?),
                "stopped" => stopped = Some(self.numbers(value)?),
                "capture" => {
                    case.capture = Some(Captured {
                        path: self.path(value)?,
                        stopped: Vec::new(),
                        line: self.line(value.span().start),
                    });
                }
                other => {
                    let why = format!(
                        "unknown key `{other}`: name, given, allow, deny, drop, reject, course, with, \
                         state, from, to, out, log, rule, capture, stopped"
                    );
                    return Err(self.wrong(key.span().start, why));
                }
            }
        }
        self.complete(at, case, stopped)
    }

    fn complete(&self, at: usize, mut case: Case, stopped: Option<Vec<u64>>) -> Result<Case> {
        match (&mut case.capture, stopped) {
            (Some(capture), stopped) => capture.stopped = stopped.unwrap_or_default(),
            (None, Some(_)) => return Err(self.wrong(at, "`stopped` is said of a `capture`")),
            (None, None) => {}
        }
        if case.capture.is_none() && case.packets.is_empty() {
            return Err(self.wrong(at, "expects nothing: allow, deny, drop, reject or capture"));
        }
        if case.more.with.is_some() && case.packets.iter().any(|p| p.0 != Verdict::Reject) {
            return Err(self.wrong(at, "`with` is said of `reject`"));
        }
        Ok(case)
    }

    /// One description or a list of them.
    fn packets(&self, item: Item<'_>) -> Result<Vec<Packet>> {
        match item.get_ref() {
            DeValue::Array(items) => items.iter().map(|i| self.packet(i)).collect(),
            _ => Ok(vec![self.packet(item)?]),
        }
    }

    fn packet(&self, item: Item<'_>) -> Result<Packet> {
        let words = self.text(item)?;
        let at = item.span().start;
        let described =
            Described::from_str(&words).map_err(|e| self.wrong(at, format!("{e:#}")))?;
        Ok(Packet {
            words,
            line: self.line(at),
            described,
        })
    }

    fn truth(&self, item: Item<'_>) -> Result<bool> {
        let value = item.get_ref().as_bool();
        value.ok_or_else(|| self.wrong(item.span().start, "true or false should stand here"))
    }

    fn numbers(&self, item: Item<'_>) -> Result<Vec<u64>> {
        let wrong = || {
            self.wrong(
                item.span().start,
                "a list of packet numbers should stand here",
            )
        };
        let items = item.get_ref().as_array().ok_or_else(wrong)?;
        let number = |i: Item<'_>| match i.get_ref() {
            DeValue::Integer(n) => n.to_string().parse().ok(),
            _ => None,
        };
        let all: Option<Vec<u64>> = items.iter().map(number).collect();
        let mut all = all.ok_or_else(wrong)?;
        all.sort_unstable();
        Ok(all)
    }
}

/// Text for people, shortened.
pub(super) fn shortened(text: &str) -> Cow<'_, str> {
    match text.char_indices().nth(120) {
        Some((at, _)) => Cow::Owned(format!("{}…", &text[..at])),
        None => Cow::Borrowed(text),
    }
}
