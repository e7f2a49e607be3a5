//! Guards the network namespace it is started in with a rules file until SIGTERM:
//! `guard [--open] [--fast] [--xdp] [--interface NAME]... [RULES4 [RULES6]]`. Prints what LOG logs and,
//! at SIGUSR1 and at the end, a report. With `--fast` programs in the kernel take part, with
//! `--xdp` frames come by `AF_XDP`. With `--open` the interfaces are opened when it is killed.
//! At SIGUSR2 it leaves its place to the next one.

use std::sync::Arc;
use std::{env, fs};

use anyhow::{Context, Result, anyhow};
use signal_hook::consts::{SIGINT, SIGTERM, SIGUSR1, SIGUSR2};
use signal_hook::iterator::Signals;
use tidegate_datapath::{Crash, Datapath, Observer, Options, Ring};
use tidegate_engine::conntrack::Time;
use tidegate_engine::{Config, Output, TrackWhen};
use tidegate_syntax::{lower, parse_rules};
use tidegate_wire::Family;
use tidegate_xt::NoNames;

/// How the guardian process is called.
const GUARDIAN: &str = "--guardian";

struct Printer;

impl Observer for Printer {
    fn output(&mut self, _: Time, output: &Output) {
        if let Output::Log { line, .. } = output {
            println!("{line}");
        }
    }
}

fn main() -> Result<()> {
    let mut options = Options::default();
    let mut files = Vec::new();
    let mut words = env::args().skip(1);
    while let Some(word) = words.next() {
        match word.as_str() {
            GUARDIAN => return tidegate_datapath::watch().map(|_| ()),
            "--interface" => {
                let name = words.next().context("--interface needs a name")?;
                options.interfaces.get_or_insert_default().push(name);
            }
            "--open" => {
                options.crash = Crash::Open;
                options.guardian = vec![GUARDIAN.into()];
            }
            "--fast" => options.fast = true,
            "--xdp" => options.ring = Ring::Xdp,
            _ => files.push(word),
        }
    }
    let config = Config {
        track: TrackWhen::Needed,
        ..Config::default()
    };
    let mut signals = Signals::new([SIGTERM, SIGINT, SIGUSR1, SIGUSR2])?;
    let datapath = Datapath::start(options, config, Box::new(Printer))?;
    for (file, family) in files.iter().zip([Family::V4, Family::V6]) {
        let text = fs::read_to_string(file).with_context(|| file.clone())?;
        let rules = parse_rules(&text, family, &NoNames)
            .map_err(|e| anyhow!("{file}: line {}: {}", e.line, e.render("guard")))?;
        let lowered = lower(&rules).map_err(|e| anyhow!("{file}: {}", e.render("guard", None)))?;
        let rules = Arc::new(lowered.ruleset);
        datapath.with(move |engine, _| engine.load(rules))?;
    }
    datapath.guard()?;
    println!("guarding");
    for signal in signals.forever() {
        if signal == SIGUSR2 {
            datapath.leave(Box::new(|_, _| std::process::exit(0)))?;
            continue;
        }
        println!("{:#?}", datapath.report());
        if signal != SIGUSR1 {
            break;
        }
    }
    datapath.stop()
}
