//! One line and the forms it is written in.

use std::fmt::Write;

use jiff::tz::TimeZone;
use jiff::{Timestamp, Zoned};
use tidegate_engine::conntrack::{SECOND, Time};

/// A line on its way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Line {
    /// Nanoseconds since 1970.
    pub(crate) at: Time,
    /// Syslog level, 0 to 7.
    pub(crate) level: u8,
    /// Text without newline.
    pub(crate) text: String,
}

/// Facility `kern` (RFC 5424 table 1).
const KERN: u8 = 0;

impl Line {
    /// Facility and level as one number.
    pub(crate) fn priority(&self) -> u8 {
        KERN * 8 + self.level.min(7)
    }

    fn timestamp(&self) -> Timestamp {
        let (seconds, nanos) = (self.at / SECOND, self.at % SECOND);
        let seconds = i64::try_from(seconds).unwrap_or(0);
        let nanos = i32::try_from(nanos).unwrap_or(0);
        Timestamp::new(seconds, nanos).unwrap_or(Timestamp::UNIX_EPOCH)
    }
}

/// `text` with control characters written as `\x1b` (as reading `/dev/kmsg` shows them):
/// a name in a rule must not make a line of its own or speak to a terminal.
pub(crate) fn printable(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        if c.is_control() {
            let mut bytes = [0; 4];
            for b in c.encode_utf8(&mut bytes).bytes() {
                // Writing to a String cannot fail.
                let _ = write!(out, "\\x{b:02x}");
            }
        } else {
            out.push(c);
        }
    }
    out
}

/// Who writes: what all lines have in common.
#[derive(Debug)]
pub(crate) struct Author {
    pub(crate) tag: String,
    pub(crate) host: String,
    zone: TimeZone,
    /// The second last written, and its text.
    last: (u64, String),
}

impl Author {
    pub(crate) fn new(tag: &str, host: &str) -> Self {
        Author {
            tag: printable(tag),
            host: if host.is_empty() {
                own_host()
            } else {
                printable(host)
            },
            zone: TimeZone::system(),
            last: (u64::MAX, String::new()),
        }
    }

    /// `Nov 25 10:00:00`, local time (RFC 3164 section 4.1.2).
    fn date(&mut self, line: &Line) -> &str {
        let second = line.at / SECOND;
        if self.last.0 != second {
            let local: Zoned = line.timestamp().to_zoned(self.zone.clone());
            self.last = (second, local.strftime("%b %e %H:%M:%S").to_string());
        }
        &self.last.1
    }

    /// What `/dev/log` takes: RFC 3164 without the host.
    pub(crate) fn local(&mut self, line: &Line) -> String {
        let priority = line.priority();
        let date = self.date(line).to_owned();
        format!("<{priority}>{date} {}: {}", self.tag, line.text)
    }

    /// RFC 3164.
    pub(crate) fn rfc3164(&mut self, line: &Line) -> String {
        format!("<{}>{}", line.priority(), self.filed(line))
    }

    /// As syslogs write lines to files.
    pub(crate) fn filed(&mut self, line: &Line) -> String {
        let date = self.date(line).to_owned();
        format!("{date} {} {}: {}", self.host, self.tag, line.text)
    }

    /// RFC 5424 with a time in UTC to the microsecond.
    pub(crate) fn rfc5424(&self, line: &Line) -> String {
        let at = line.timestamp();
        let (host, tag) = (nonempty(&self.host), nonempty(&self.tag));
        format!(
            "<{}>1 {at:.6} {host} {tag} - - - {}",
            line.priority(),
            line.text
        )
    }
}

/// `-` stands for a value that is not known (RFC 5424 section 6.2.3).
fn nonempty(value: &str) -> &str {
    if value.is_empty() { "-" } else { value }
}

fn own_host() -> String {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    match name.trim() {
        "" => "localhost".to_owned(),
        name => printable(name),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn author() -> Author {
        Author {
            zone: TimeZone::UTC,
            ..Author::new("kernel", "fw")
        }
    }

    /// The examples' form: RFC 3164 section 5.4, RFC 5424 section 6.5.
    #[test]
    fn the_forms_of_a_line() {
        let line = Line {
            at: 1_793_862_005 * SECOND + 3_456_789,
            level: 4,
            text: "IN=eth0 OUT= ".to_owned(),
        };
        let mut author = author();
        assert_eq!(
            author.local(&line),
            "<4>Nov  5 07:00:05 kernel: IN=eth0 OUT= "
        );
        assert_eq!(
            author.rfc3164(&line),
            "<4>Nov  5 07:00:05 fw kernel: IN=eth0 OUT= "
        );
        assert_eq!(
            author.rfc5424(&line),
            "<4>1 2026-11-05T07:00:05.003456Z fw kernel - - - IN=eth0 OUT= "
        );
        assert_eq!(
            author.filed(&line),
            "Nov  5 07:00:05 fw kernel: IN=eth0 OUT= "
        );
    }

    #[test]
    fn control_characters_are_shown() {
        assert_eq!(printable("a\x1b[2Jé\n\u{85}"), "a\\x1b[2Jé\\x0a\\xc2\\x85");
    }
}
