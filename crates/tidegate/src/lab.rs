//! `tidegate lab`: small networks to try the firewall in.

use std::path::PathBuf;
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
        if !play(name, &options, args.json)? {
            bad.push(name.as_str());
        }
    }
    if !bad.is_empty() {
        bail!("not as it must be: {}", bad.join(" "));
    }
    Ok(ExitCode::SUCCESS)
}

/// An existing directory, by its whole path: a lab has another working directory.
fn directory(path: &std::path::Path) -> Result<PathBuf> {
    std::fs::create_dir_all(path)?;
    Ok(path.canonicalize()?)
}

fn play(name: &str, options: &Options, as_json: bool) -> Result<bool> {
    let (mut events, mut state) = (Vec::new(), None);
    let (mut checked, mut right) = (0, 0);
    let good = tidegate_lab::play(name, options, &mut |event| {
        if as_json {
            events.push(event.clone());
            return;
        }
        if let Some(good) = event.good() {
            checked += 1;
            right += u32::from(good);
        }
        if let Event::State { rules, connections } = event {
            state = Some(state_text(rules, connections));
        }
        if matches!(event, Event::End { .. }) {
            print!("{}", state.take().unwrap_or_default());
        }
        print!("{}", event.text());
    })?;
    if as_json {
        let report = json!({ "scenario": name, "good": good, "events": events });
        println!("{report}");
    } else {
        println!(
            "\n{}: {right} of {checked} as it must be\n",
            name.to_uppercase()
        );
    }
    Ok(good)
}
