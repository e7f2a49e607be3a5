//! A captured packet, explained.

use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use tidegate_engine::env::IfIndex;
use tidegate_syntax::RuleOrigin;

use super::advice::Advice;
use super::brief::Brief;
use super::explain::{Explainer, Show};
use super::fail_on_damage;
use super::fate::Fate;
use super::paint::{Paint, Tone};
use super::session::Session;
use super::source::Sources;

/// A captured packet and what became of it.
pub(crate) struct Told {
    /// Its line in a listing.
    pub(crate) line: String,
    /// What it is; nothing when it is no readable IP packet.
    pub(crate) brief: Option<Brief>,
    /// Its bytes from the IP header on.
    pub(crate) bytes: Vec<u8>,
    /// The interface that it came in by.
    pub(crate) input: Option<IfIndex>,
    /// Its end.
    pub(crate) fate: Fate,
    /// The rule or policy that decided.
    pub(crate) origin: Option<RuleOrigin>,
    /// What watched it, if it met the rules.
    pub(crate) explainer: Option<Explainer>,
    /// What is to be said about it.
    pub(crate) advice: Option<Advice>,
}

impl Session {
    /// Explains packet `number` of the captures, after those before it.
    ///
    /// # Errors
    /// There are fewer, or the captures are damaged.
    pub(crate) fn told(&mut self, captures: &[PathBuf], number: u64, paint: Paint) -> Result<Told> {
        let mut sources = Sources::open(captures)?;
        let mut at = 0;
        while let Some((source, frame)) = sources.next_frame() {
            at += 1;
            if at < number {
                // Reported, so that connections get the numbers that the listing has.
                self.reported(source, &frame, |_| ());
                continue;
            }
            let env = self.env.clone();
            let mut told = None;
            let explainer = self.explained(source, &frame, |record| {
                let mut line = String::new();
                // Writing to a String cannot fail.
                let _ = record.line(&mut line, paint);
                let input = env.interface_named(record.interface).map(|i| i.index);
                told = Some(Told {
                    line,
                    brief: record.brief,
                    bytes: frame.ip().unwrap_or_default().to_vec(),
                    input: input.filter(|_| record.direction == "in"),
                    fate: record.fate.clone(),
                    origin: record.origin.cloned(),
                    explainer: None,
                    advice: record.advice.clone(),
                });
            });
            let mut told = told.context("no record of the packet")?;
            told.explainer = explainer;
            return Ok(told);
        }
        fail_on_damage(&mut sources)?;
        bail!("there are {at} packets only");
    }

    /// A packet with everything that it met, for people.
    ///
    /// # Errors
    /// None but those of writing to memory.
    pub(crate) fn text(&self, told: &Told, paint: Paint) -> Result<String> {
        let mut text = told.line.clone();
        match &told.explainer {
            Some(explainer) => text += &explainer.show(&self.show(paint))?,
            None => text += "No rule sees this packet.\n",
        }
        if let Some(advice) = &told.advice {
            text += &format!("{}\n", paint.text(Tone::Doubtful, advice));
        }
        Ok(text)
    }

    /// What explanations are shown with.
    pub(crate) fn show(&self, paint: Paint) -> Show<'_> {
        Show {
            rules: &self.rules,
            engine: &self.engine,
            paint,
        }
    }
}
