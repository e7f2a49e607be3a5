//! Findings, and how they are printed.

use annotate_snippets::{AnnotationKind, Group, Level as Tone, Renderer, Snippet};
use serde_json::{Value, json};
use tidegate_daemon::sockets::Listener;

use super::lints::{Level, lint};
use super::source::{Place, Source};

/// Something that was found.
#[derive(Clone, Debug)]
pub(crate) struct Finding {
    /// Code of its lint.
    pub(crate) code: &'static str,
    /// What is wrong, in one line.
    pub(crate) text: String,
    /// Where.
    pub(crate) place: Option<Place>,
    /// Other rules that have to do with it, and how.
    pub(crate) others: Vec<(Place, String)>,
    /// More about it.
    pub(crate) notes: Vec<String>,
    /// What to do, as commands or words.
    pub(crate) help: Vec<String>,
}

impl Finding {
    /// A finding at a place.
    pub(crate) fn new(code: &'static str, place: Option<Place>, text: impl Into<String>) -> Self {
        Finding {
            code,
            text: text.into(),
            place,
            others: Vec::new(),
            notes: Vec::new(),
            help: Vec::new(),
        }
    }

    /// With another rule.
    pub(crate) fn other(mut self, place: Place, how: impl Into<String>) -> Self {
        self.others.push((place, how.into()));
        self
    }

    /// With a note.
    pub(crate) fn note(mut self, text: impl Into<String>) -> Self {
        self.notes.push(text.into());
        self
    }

    /// With a remedy.
    pub(crate) fn help(mut self, text: impl Into<String>) -> Self {
        self.help.push(text.into());
        self
    }

    /// Names the local services that cannot be reached over lo.
    pub(crate) fn listeners(&mut self, all: &[Listener]) {
        let local = all.iter().filter(|l| l.at.ip().is_loopback());
        let names: Vec<String> = local.map(Listener::to_string).collect();
        if self.code == "TG020" && !names.is_empty() {
            self.notes
                .push(format!("listening on lo now: {}", names.join(", ")));
        }
    }

    /// How bad it is.
    pub(crate) fn level(&self) -> Level {
        lint(self.code).map_or(Level::Note, |l| l.level)
    }

    /// For programs.
    pub(crate) fn json(&self, source: &Source) -> Value {
        let place = |p: &Place| {
            json!({
                "table": p.table.name(),
                "chain": p.chain,
                "number": p.number,
                "line": source.line(p).map(|l| l.number),
            })
        };
        let others = self.others.iter().map(|(p, how)| {
            let mut at = place(p);
            at["how"] = json!(how);
            at
        });
        json!({
            "code": self.code,
            "level": self.level().name(),
            "text": self.text,
            "file": source.name,
            "place": self.place.as_ref().map(place),
            "others": others.collect::<Vec<_>>(),
            "notes": self.notes,
            "help": self.help,
        })
    }

    /// For people.
    pub(crate) fn render(&self, source: &Source, renderer: &Renderer) -> String {
        let tone = match self.level() {
            Level::Error => Tone::ERROR,
            Level::Warning => Tone::WARNING,
            Level::Note => Tone::NOTE,
        };
        let mut group = Group::with_title(tone.primary_title(self.text.as_str()).id(self.code));
        let mut bare = Vec::new();
        let own = self.place.iter().map(|p| (p, "", AnnotationKind::Primary));
        let others = self.others.iter();
        let others = others.map(|(p, how)| (p, how.as_str(), AnnotationKind::Context));
        for (place, how, kind) in own.chain(others) {
            match source.line(place) {
                Some(line) => {
                    let text = &source.text[line.bytes.clone()];
                    let mark = kind.span(0..text.len());
                    group = group.element(
                        Snippet::source(text)
                            .line_start(line.number)
                            .path(source.name.as_str())
                            .annotation(if how.is_empty() {
                                mark
                            } else {
                                mark.label(how)
                            }),
                    );
                }
                None => bare.push(format!("{}: {how}", name(place))),
            }
        }
        for note in bare.iter().chain(&self.notes) {
            group = group.element(Tone::NOTE.message(note.as_str()));
        }
        for help in &self.help {
            group = group.element(Tone::HELP.message(help.as_str()));
        }
        let report = [group];
        renderer.render(&report)
    }
}

/// `filter INPUT 3`
pub(crate) fn name(place: &Place) -> String {
    match place.number {
        0 => format!("{} {} policy", place.table.name(), place.chain),
        n => format!("{} {} {n}", place.table.name(), place.chain),
    }
}
