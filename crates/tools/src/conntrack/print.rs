//! What is printed of connections and expectations.

use std::fmt::Write;

use jiff::Timestamp;
use jiff::tz::TimeZone;
use tidegate_conntrack::event::EventKind;
use tidegate_conntrack::format::{
    Columns, Told, expect_line, expect_xml, save_line, tag, told_line, xml_flow,
};
use tidegate_conntrack::{Event, ExpectEvent, Expectation, SECOND, Time, Tuple};

use super::VERSION;
use super::parse::{Output, Request};

/// Writes lines or elements as the options ask for.
pub(super) struct Printer {
    output: Output,
    /// Names of labels, if they are to be shown.
    labels: Option<Vec<(u32, String)>>,
    zone: TimeZone,
    /// The element around all others, once it is opened.
    opened: Option<&'static str>,
}

/// The moment as the time zone's clock shows it.
fn clock(zone: &TimeZone, at: Time) -> jiff::Zoned {
    let at = Timestamp::from_nanosecond(i128::from(at)).unwrap_or(Timestamp::UNIX_EPOCH);
    at.to_zoned(zone.clone())
}

impl Printer {
    pub(super) fn new(request: &Request) -> Printer {
        let output = request.output;
        Printer {
            output,
            labels: request.show_labels.then(|| request.label_names.clone()),
            zone: TimeZone::system(),
            opened: None,
        }
    }

    /// The same without labels.
    pub(super) fn without_labels(self) -> Printer {
        Printer {
            labels: None,
            ..self
        }
    }

    /// A moment as `ctime` writes it.
    fn stamp(&self, at: Time) -> String {
        clock(&self.zone, at)
            .strftime("%a %b %e %H:%M:%S %Y")
            .to_string()
    }

    /// A moment as XML elements.
    fn when(&self, at: Time) -> String {
        let t = clock(&self.zone, at);
        let day_of_week = t.weekday().to_sunday_one_offset();
        let (hour, min, sec) = (t.hour(), t.minute(), t.second());
        let (day, month, year) = (t.day(), t.month(), t.year());
        format!(
            "<when><hour>{hour}</hour><min>{min:02}</min><sec>{sec:02}</sec>\
             <wday>{day_of_week}</wday><day>{day}</day><month>{month}</month>\
             <year>{year}</year></when>"
        )
    }

    fn open(&mut self, out: &mut String, element: &'static str) {
        if self.opened.is_none() {
            *out += "<?xml version=\"1.0\" encoding=\"utf-8\"?>\n";
            let _ = writeln!(out, "<{element}>");
            self.opened = Some(element);
        }
    }

    /// Ends what was begun.
    pub(super) fn close(&mut self, out: &mut String) {
        if let Some(element) = self.opened.take() {
            let _ = writeln!(out, "</{element}>");
        }
    }

    /// A connection, as part of a document when it is XML.
    pub(super) fn flow(&mut self, out: &mut String, told: &Told<'_>) {
        if self.output.xml {
            self.open(out, "conntrack");
        }
        self.lone_flow(out, told);
    }

    /// A connection that stands for itself.
    pub(super) fn lone_flow(&self, out: &mut String, told: &Told<'_>) {
        *out += &self.flow_text(told, "");
        out.push('\n');
    }

    fn flow_text(&self, told: &Told<'_>, when: &str) -> String {
        let labels = self.labels.as_deref();
        if self.output.xml {
            return xml_flow(told, self.output.ktimestamp, labels, when);
        }
        if self.output.save {
            return save_line(told);
        }
        let stamp = |at| self.stamp(at);
        let columns = Columns {
            extended: self.output.extended,
            id: self.output.id,
            stamp: self.output.ktimestamp.then_some(&stamp),
            labels,
        };
        told_line(told, columns)
    }

    /// An event about a connection.
    pub(super) fn event(&mut self, out: &mut String, event: &Event) {
        let Output {
            xml,
            save,
            timestamp,
            ..
        } = self.output;
        let mut when = String::new();
        if xml {
            self.open(out, "conntrack");
            if timestamp {
                when = self.when(event.at);
            }
        } else if !save {
            if timestamp {
                *out += &padded(event.at, '0');
            }
            *out += tag(event.kind);
        }
        *out += &self.flow_text(&Told::of(event), &when);
        if let Some(by) = event.by {
            let _ = write!(out, " [USERSPACE] portid={by} progname=conntrack");
        }
        out.push('\n');
    }

    /// An expectation.
    pub(super) fn expectation(
        &mut self,
        out: &mut String,
        e: &Expectation,
        master: Option<&Tuple>,
        now: Time,
    ) {
        if self.output.xml {
            self.open(out, "expect");
            *out += &expect_xml(e, master, now, None, "");
        } else {
            if self.output.timestamp {
                *out += &padded(now, ' ');
            }
            *out += &expect_line(e, master, now);
        }
        out.push('\n');
    }

    /// An event about an expectation.
    pub(super) fn expect_event(&mut self, out: &mut String, event: &ExpectEvent) {
        let ExpectEvent {
            kind,
            expectation,
            master,
            at,
            ..
        } = event;
        if self.output.xml {
            self.open(out, "expect");
            let name = match kind {
                EventKind::New => "new",
                EventKind::Update => "update",
                EventKind::Destroy => "destroy",
            };
            let when = if self.output.timestamp {
                self.when(*at)
            } else {
                String::new()
            };
            *out += &expect_xml(expectation, master.as_ref(), *at, Some(name), &when);
        } else {
            if self.output.timestamp {
                *out += &padded(*at, ' ');
            }
            *out += tag(*kind);
            *out += &expect_line(expectation, master.as_ref(), *at);
        }
        out.push('\n');
    }
}

/// Seconds and microseconds before an event: padded in front with zeros, or behind with
/// blanks.
fn padded(at: Time, with: char) -> String {
    let (seconds, micros) = (at / SECOND, at % SECOND / 1000);
    if with == '0' {
        format!("[{seconds:08}.{micros:06}]\t")
    } else {
        format!("[{seconds:<8}.{micros:<6}]\t")
    }
}

/// The line that says how many there were.
pub(super) fn total(count: u64, what: &str) -> String {
    format!("conntrack v{VERSION} (conntrack-tools): {count} {what}.\n")
}
