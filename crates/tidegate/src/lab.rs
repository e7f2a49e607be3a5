//! `tidegate lab`: small networks to try the firewall in.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Result, bail};
use serde_json::json;
use tidegate_lab::{Event, Options, Programs, Who, state_text};

/// Arguments of `tidegate lab`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Scenarios to play, by id; `all` for all of them, `list` to list them; `shell`, and
    /// perhaps the id of a scenario, to type in a lab.
    #[arg(required = true, value_name = "NAME")]
    names: Vec<String>,
    /// Who guards the guarded host.
    #[arg(long, value_enum, default_value_t)]
    firewall: Who,
    /// Play twice, with the kernel's firewall and with Tidegate, and compare rules,
    /// counters and connections after every step.
    #[arg(long, conflicts_with = "firewall")]
    compare: bool,
    /// Which servers and clients are tried.
    #[arg(long, value_enum, default_value = "auto")]
    programs: Programs,
    /// Write the packets on the wires to this directory, one file a scenario.
    #[arg(long, value_name = "DIR")]
    capture: Option<PathBuf>,
    /// With `shell`: type on this host instead of the guarded one.
    #[arg(long, value_name = "HOST")]
    on: Option<String>,
    /// Print one JSON object a scenario instead of text.
    #[arg(long)]
    json: bool,
}

/// Plays.
pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    let known = tidegate_lab::list()?;
    if args.names == ["list"] {
        for (name, title) in known {
            println!("{name:6} {title}");
        }
        return Ok(ExitCode::SUCCESS);
    }
    let mut names = args.names.clone();
    if names == ["all"] {
        names = known.into_iter().map(|(name, _)| name).collect();
    }
    let options = Options {
        firewall: args.firewall,
        programs: args.programs,
        capture: args.capture.as_deref().map(directory).transpose()?,
    };
    if let Some((first, rest)) = names.split_first()
        && first == "shell"
    {
        let name = rest.first().map(String::as_str);
        return tidegate_lab::shell(name, args.on.as_deref(), &options);
    }
    let mut bad = Vec::new();
    for name in &names {
        let good = if args.compare {
            compare(name, &options, args.json)?
        } else {
            play(name, &options, args.json)?.good
        };
        if !good {
            bad.push(name.as_str());
        }
    }
    if !bad.is_empty() {
        bail!("not as it must be: {}", bad.join(" "));
    }
    Ok(ExitCode::SUCCESS)
}

/// An existing directory, by its whole path: a lab has another working directory.
fn directory(path: &Path) -> Result<PathBuf> {
    std::fs::create_dir_all(path)?;
    Ok(path.canonicalize()?)
}

/// A scenario that was played.
struct Played {
    good: bool,
    events: Vec<Event>,
}

fn play(name: &str, options: &Options, as_json: bool) -> Result<Played> {
    let mut events = Vec::new();
    let good = tidegate_lab::play(name, options, &mut |event| {
        if !as_json {
            if matches!(event, Event::End { .. }) {
                print!("{}", last_state(&events));
            }
            print!("{}", event.text());
        }
        events.push(event.clone());
    })?;
    if as_json {
        let firewall = options.firewall;
        let report =
            json!({ "scenario": name, "firewall": firewall, "good": good, "events": events });
        println!("{report}");
    } else {
        let checked: Vec<bool> = events.iter().filter_map(Event::good).collect();
        let right = checked.iter().filter(|good| **good).count();
        let id = name.to_uppercase();
        println!("\n{id}: {right} of {} as it must be\n", checked.len());
    }
    Ok(Played { good, events })
}

/// Rules and connections as they were last seen.
fn last_state(events: &[Event]) -> String {
    let states = events.iter().rev().find_map(|event| match event {
        Event::State {
            rules, connections, ..
        } => Some(state_text(rules, connections)),
        _ => None,
    });
    states.unwrap_or_default()
}

/// Plays with the kernel's firewall and with Tidegate and compares what is left.
fn compare(name: &str, options: &Options, as_json: bool) -> Result<bool> {
    let run = |firewall| {
        let options = Options {
            firewall,
            ..options.clone()
        };
        play(name, &options, as_json)
    };
    let (kernel, tidegate) = (run(Who::Kernel)?, run(Who::Tidegate)?);
    let found = tidegate_lab::differences(name, &kernel.events, &tidegate.events)?;
    if as_json {
        println!("{}", json!({ "scenario": name, "differences": found }));
    } else if found.is_empty() {
        println!("{}: the kernel and Tidegate agree\n", name.to_uppercase());
    } else {
        println!(
            "{}: the kernel and Tidegate differ\n  {}\n",
            name.to_uppercase(),
            found.join("\n  ")
        );
    }
    Ok(kernel.good && tidegate.good && found.is_empty())
}
