//! `tidegate timeout`, and `nfct` with its subsystem `timeout`: timeout policies that
//! rules name with `-j CT --timeout`.
//!
//! Words, listings and messages are those of nfct 1.4.7. Where it takes what is no number
//! for 0 and cuts names, such things are refused here.

use std::fmt::Write;

use tidegate_conntrack::Family;
use tidegate_conntrack::config::Timeouts;
use tidegate_conntrack::policy::{GENERIC, Policies, Policy, PolicyError, Protocol};
use tidegate_conntrack::sysctl::LONGEST;
use tidegate_syntax::Failure;
use tidegate_xt::{Protocols, TimeoutPolicy};

use super::{Printed, Tracker};

/// Where the daemon keeps policies unless told otherwise.
pub const FILE: &str = "/etc/tidegate/timeouts";

const VERSION: &str = "1.4.7";
const MISSING: &str = "No such file or directory";
const BUSY: &str = "Device or resource busy";

const FAMILIES: [(&str, Family, u8); 2] = [("inet", Family::V4, 2), ("inet6", Family::V6, 10)];

const USAGE: &str = "Usage: nfct timeout command [parameters]...

  add NAME FAMILY PROTOCOL STATE SECONDS [STATE SECONDS]...
  list
  get NAME
  delete NAME
  flush
  default-get FAMILY PROTOCOL
  default-set FAMILY PROTOCOL STATE SECONDS [STATE SECONDS]...

FAMILY is inet or inet6; PROTOCOL is generic, gre, icmp, icmpv6, sctp, tcp, udp or udplite.
";

/// Why something was not done, in the tool's words.
type Why = String;

fn net(why: impl std::fmt::Display) -> Why {
    format!("netlink error: {why}")
}

/// Whether a command that was carried out may have changed the policies.
#[must_use]
pub fn changes(words: &[&str]) -> bool {
    words
        .iter()
        .any(|w| matches!(*w, "add" | "delete" | "flush"))
}

/// Carries a command out. `users` says how many rules name a policy: one that rules name
/// stays.
#[must_use]
pub fn run(words: &[&str], tracker: &dyn Tracker, users: &dyn Fn(&str) -> usize) -> Printed {
    let words: Vec<&str> = match words {
        // As nfct was called before 1.4.7, and as it is called since.
        ["timeout", command, rest @ ..] | [command, "timeout", rest @ ..] => {
            [&[*command], rest].concat()
        }
        words => words.to_vec(),
    };
    let done = match words.as_slice() {
        [] | ["help" | "-h" | "--help"] => Ok(USAGE.to_owned()),
        ["version" | "-V" | "--version"] => Ok(format!("nfct v{VERSION}\n")),
        ["add", name, family, protocol, states @ ..] => {
            add(tracker, name, family, protocol, states)
        }
        ["default-set", family, protocol, states @ ..] => {
            default_set(tracker, family, protocol, states)
        }
        ["add" | "default-set", ..] => Err("missing parameters".to_owned()),
        ["list"] => policies(tracker).map(|all| all.iter().map(text).collect()),
        ["get", name] => policies(tracker).and_then(|all| {
            let found = all.by_name(name).map(|(_, policy)| text(policy));
            found.ok_or_else(|| net(MISSING))
        }),
        ["delete", name] => delete(tracker, name, users),
        ["flush"] => flush(tracker, users),
        ["default-get", family, protocol] => default_get(tracker, family, protocol),
        ["get" | "delete" | "default-get"] => Err("missing parameters".to_owned()),
        [command, ..] => Err(format!("Unknown command: {command}\n{USAGE}")
            .trim_end()
            .to_owned()),
    };
    match done {
        Ok(out) => Printed {
            out,
            ..Printed::default()
        },
        Err(why) => Printed {
            err: format!("nfct v{VERSION}: {why}\n"),
            status: 1,
            ..Printed::default()
        },
    }
}

fn unreachable(failure: &Failure) -> Why {
    failure.render("nfct", None).trim_end().to_owned()
}

/// All policies as they are now.
///
/// # Errors
/// The table is out of reach.
pub fn policies(tracker: &dyn Tracker) -> Result<Policies, String> {
    let all = tracker.with(|ct, _| ct.config().policies.clone());
    all.map_err(|f| unreachable(&f))
}

fn timeouts(tracker: &dyn Tracker) -> Result<Timeouts, Why> {
    let now = tracker.with(|ct, _| ct.config().timeouts.clone());
    now.map_err(|f| unreachable(&f))
}

fn family(word: &str) -> Result<Family, Why> {
    let found = FAMILIES.iter().find(|f| f.0 == word);
    found
        .map(|f| f.1)
        .ok_or_else(|| "unknown layer 3 protocol".to_owned())
}

fn protocol(word: &str) -> Result<&'static Protocol, Why> {
    Protocol::by_name(word).ok_or_else(|| "unknown layer 4 protocol".to_owned())
}

/// Sets the states' timeouts that `words` give, name and seconds in turn.
fn set(timeouts: &mut Timeouts, protocol: &Protocol, words: &[&str]) -> Result<(), Why> {
    if words.is_empty() {
        return Err(net("Invalid argument"));
    }
    for pair in words.chunks(2) {
        let name = pair[0];
        let wrong = || {
            let of = protocol.name;
            format!("Wrong state name: `{name}' for protocol `{of}'")
        };
        let state = protocol.state(name).ok_or_else(wrong)?;
        let seconds = pair.get(1).ok_or("missing value for this timeout")?;
        let number = seconds.parse().ok().filter(|n| *n <= LONGEST);
        *state.of(timeouts) =
            number.ok_or_else(|| format!("`{seconds}' is no number of seconds up to {LONGEST}"))?;
    }
    Ok(())
}

/// The policy that words describe; what they leave open is as in `base`.
fn policy(
    base: Timeouts,
    name: &str,
    of_family: &str,
    of_protocol: &str,
    states: &[&str],
) -> Result<Policy, Why> {
    let protocol = protocol(of_protocol)?;
    let mut timeouts = base;
    let family = family(of_family)?;
    set(&mut timeouts, protocol, states)?;
    Ok(Policy {
        name: name.to_owned(),
        family,
        proto: protocol.number,
        timeouts,
    })
}

fn add(
    tracker: &dyn Tracker,
    name: &str,
    family: &str,
    protocol: &str,
    states: &[&str],
) -> Result<String, Why> {
    let policy = policy(timeouts(tracker)?, name, family, protocol, states)?;
    let added = tracker.with(move |ct, _| ct.config_mut().policies.add(policy));
    added.map_err(|f| unreachable(&f))?.map_err(|e| match e {
        PolicyError::Name => "a name has 1 to 31 bytes and no blanks".to_owned(),
        PolicyError::Exists | PolicyError::Full => net(e),
    })?;
    Ok(String::new())
}

fn remove(tracker: &dyn Tracker, names: Vec<String>) -> Result<(), Why> {
    let removed = tracker.with(move |ct, _| {
        for name in &names {
            ct.config_mut().policies.remove(name);
        }
    });
    removed.map_err(|f| unreachable(&f))
}

fn delete(tracker: &dyn Tracker, name: &str, users: &dyn Fn(&str) -> usize) -> Result<String, Why> {
    if policies(tracker)?.by_name(name).is_none() {
        return Err(net(MISSING));
    }
    if users(name) > 0 {
        return Err(net(BUSY));
    }
    remove(tracker, vec![name.to_owned()])?;
    Ok(String::new())
}

/// Those that rules name stay, without a word.
fn flush(tracker: &dyn Tracker, users: &dyn Fn(&str) -> usize) -> Result<String, Why> {
    let all = policies(tracker)?;
    let unused = all.iter().filter(|p| users(&p.name) == 0);
    remove(tracker, unused.map(|p| p.name.clone()).collect())?;
    Ok(String::new())
}

fn default_get(tracker: &dyn Tracker, of_family: &str, of_protocol: &str) -> Result<String, Why> {
    let (family, protocol) = (family(of_family)?, protocol(of_protocol)?);
    Ok(body(family, protocol, timeouts(tracker)?))
}

fn default_set(
    tracker: &dyn Tracker,
    of_family: &str,
    of_protocol: &str,
    states: &[&str],
) -> Result<String, Why> {
    family(of_family)?;
    let protocol = protocol(of_protocol)?;
    let mut all = timeouts(tracker)?;
    set(&mut all, protocol, states)?;
    let done = tracker.with(move |ct, _| ct.config_mut().timeouts = all);
    done.map_err(|f| unreachable(&f))?;
    Ok(String::new())
}

/// A policy as `nfct list timeout` shows it.
fn text(policy: &Policy) -> String {
    let protocol = Protocol::of(policy.proto);
    let body = body(policy.family, protocol, policy.timeouts.clone());
    format!(".{} = {{\n{body}", policy.name)
}

fn body(family: Family, protocol: &Protocol, mut timeouts: Timeouts) -> String {
    let l3 = FAMILIES.iter().find(|f| f.1 == family).map_or(0, |f| f.2);
    let mut out = format!(
        "\t.l3proto = {l3},\n\t.l4proto = {},\n\t.policy = {{\n",
        protocol.number
    );
    for state in protocol.states {
        let _ = writeln!(out, "\t\t.{} = {},", state.name, state.of(&mut timeouts));
    }
    out + "\t},\n};\n"
}

/// Policies as lines of a file, in the words of `add`.
#[must_use]
pub fn file_text(policies: &Policies) -> String {
    let mut out = String::new();
    for policy in policies.iter() {
        let protocol = Protocol::of(policy.proto);
        let family = FAMILIES.iter().find(|f| f.1 == policy.family);
        let family = family.map_or("inet", |f| f.0);
        let _ = write!(out, "{} {family} {}", policy.name, protocol.name);
        let mut timeouts = policy.timeouts.clone();
        for state in protocol.states {
            let name = state.name.to_ascii_lowercase();
            let _ = write!(out, " {name} {}", state.of(&mut timeouts));
        }
        out.push('\n');
    }
    out
}

fn read_line(line: &str) -> Option<Result<Policy, Why>> {
    let words: Vec<&str> = line.split_whitespace().collect();
    match words.as_slice() {
        [] => None,
        [first, ..] if first.starts_with('#') => None,
        [name, family, protocol, states @ ..] => {
            Some(policy(Timeouts::default(), name, family, protocol, states))
        }
        _ => Some(Err("missing parameters".to_owned())),
    }
}

/// Reads such a file; what a line leaves open is as everywhere by default.
///
/// # Errors
/// A line that is none of a policy, with its number.
pub fn read(text: &str) -> Result<Policies, String> {
    let mut all = Policies::default();
    for (number, line) in (1..).zip(text.lines()) {
        let at = |why: &dyn std::fmt::Display| format!("line {number}: {why}");
        if let Some(policy) = read_line(line) {
            let policy = policy.map_err(|why| at(&why))?;
            all.add(policy).map_err(|why| at(&why))?;
        }
    }
    Ok(all)
}

/// Reads as much of such a file as there is sense in.
#[must_use]
pub fn salvage(text: &str) -> Policies {
    let mut all = Policies::default();
    for policy in text.lines().filter_map(read_line).flatten() {
        // What cannot be in force cannot be named.
        let _ = all.add(policy);
    }
    all
}

/// Policies as rules know them.
#[must_use]
pub fn known<'p>(policies: impl Iterator<Item = &'p Policy>) -> Vec<TimeoutPolicy> {
    let known = |p: &Policy| TimeoutPolicy {
        name: p.name.clone(),
        family: p.family,
        protocols: match p.proto {
            GENERIC => Protocols::Untracked,
            one => Protocols::One(one),
        },
    };
    policies.map(known).collect()
}

#[cfg(test)]
mod tests;
