//! `tidegate whatif`: yesterday's packets through tomorrow's rules, beside those of today.

mod report;

use std::collections::HashMap;
use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use tidegate_capture::Frame;
use tidegate_engine::conntrack::Tuple;
use tidegate_host::Host;
use tidegate_ir::RuleId;
use tidegate_wire::{Family, parse};

use super::brief::Brief;
use super::rules::{Loaded, Rules};
use super::session::{Session, Treated};
use super::source::Sources;
use super::{fail_on_damage, infer, progress};
use crate::given::Given;
use report::Report;

/// Connections told apart; more are not counted one by one.
const MOST_CONNECTIONS: usize = 1 << 20;

/// Exit status: something would be treated otherwise.
const DIFFERS: u8 = 5;

const HELP: &str = "\
Every packet of the captures is decided twice, on the captures' own clock: by the old rules
and by the new ones. Connections of which any packet would be treated otherwise are counted
under the two rules that decide on the first such packet; so are its packets and bytes that
would be treated otherwise.

What the other ends would have done is not in a capture: a server's answers to a packet
that the new rules drop are still there, and connections that the old rules refused never
went on.

Examples:
  tidegate whatif --rules new.rules --old /etc/iptables/rules.v4 yesterday.pcap
  tidegate whatif --rules new.rules --host live eth0.pcap wan0.pcap

Exit status: 0 done; 1 the rules, the host or a capture cannot be read or are damaged;
2 the command line is wrong; 5 with --exit-code, something would be treated otherwise.";

/// Arguments of `tidegate whatif`.
#[derive(Debug, clap::Args)]
#[command(
    after_help = HELP,
    group = clap::ArgGroup::new("new").args(["rules", "rules6"]).multiple(true).required(true)
)]
pub(crate) struct Args {
    /// The new IPv4 rules, as iptables-save writes them.
    #[arg(long, value_name = "FILE")]
    rules: Option<PathBuf>,
    /// The new IPv6 rules.
    #[arg(long, value_name = "FILE")]
    rules6: Option<PathBuf>,
    /// The old IPv4 rules; without any old ones, those that the running firewall enforces.
    #[arg(long, value_name = "FILE")]
    old: Option<PathBuf>,
    /// The old IPv6 rules.
    #[arg(long, value_name = "FILE")]
    old6: Option<PathBuf>,
    /// The host that the rules are for, as `tidegate host` describes it; `live` is the
    /// running one. Without it, the captures and the rules must tell.
    #[arg(long, value_name = "FILE")]
    host: Option<PathBuf>,
    /// One JSON object.
    #[arg(long)]
    json: bool,
    /// Exit with 5 when something would be treated otherwise.
    #[arg(long)]
    exit_code: bool,
    /// Captures in pcap or pcapng; several are merged by time.
    #[arg(required = true, value_name = "CAPTURE")]
    captures: Vec<PathBuf>,
}

/// Runs the command.
///
/// # Errors
/// Rules, host or captures cannot be read or are damaged, or output fails.
pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    let given = Given {
        rules: args.old.clone(),
        rules6: args.old6.clone(),
        host: None,
    };
    let old = given.rules()?;
    let new = Rules::read(args.rules.as_deref(), args.rules6.as_deref())?;
    let [old, new] = complete(old, new)?;
    let host = match &args.host {
        Some(path) => Host::read(path)?,
        None => {
            let inferred = infer::infer(&args.captures, &old)?;
            for reason in inferred.reasons {
                eprintln!("tidegate: {reason}");
            }
            inferred.host
        }
    };
    old.meet(&host, false)?;
    new.meet(&host, false)?;
    let mut both = Both {
        old: Session::new(host.clone(), old, &args.captures),
        new: Session::new(host, new, &args.captures),
        found: Found::default(),
    };
    let damage = both.replay(args)?;
    let report = Report::new(&both);
    let mut out = io::stdout().lock();
    match args.json {
        true => writeln!(out, "{}", report.json()?)?,
        false => write!(out, "{}", report.text())?,
    }
    damage?;
    let differs = args.exit_code && !both.found.groups.is_empty();
    Ok(ExitCode::from(if differs { DIFFERS } else { 0 }))
}

/// Both rulesets with the same families: one that the new rules are silent about stays as
/// it is.
fn complete(mut old: Rules, mut new: Rules) -> Result<[Rules; 2]> {
    let has = |rules: &Rules, family| rules.0.iter().any(|l| l.source.family == family);
    for family in [Family::V4, Family::V6] {
        match (has(&old, family), has(&new, family)) {
            (false, true) => old.0.push(Loaded::parse("", "no rules", family)?),
            (true, false) => {
                let kept = old.0.iter().find(|l| l.source.family == family);
                new.0.extend(kept.map(Loaded::copy));
            }
            _ => {}
        }
    }
    Ok([old, new])
}

/// How a packet's treatment changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum Change {
    /// It passed, and would be dropped.
    Dropped,
    /// It passed, and would be rejected.
    Rejected,
    /// It was stopped, and would pass.
    Allowed,
    /// It was rejected, and would be dropped, or the other way round.
    Stopped,
    /// It would leave with other addresses or ports, or elsewhere.
    Translated,
}

/// A change and the rules that decide before and after it.
type Cause = (Change, Family, Option<RuleId>, Option<RuleId>);

/// What has one cause.
#[derive(Debug)]
struct Group {
    cause: Cause,
    connections: u64,
    packets: u64,
    bytes: u64,
    /// Number and nanoseconds of the first packet, and what it is.
    first: (u64, u64, Option<Brief>),
}

#[derive(Default)]
struct Found {
    groups: Vec<Group>,
    by_cause: HashMap<Cause, usize>,
    /// Connections with the group that they are counted in.
    connections: HashMap<Tuple, Option<u32>>,
    /// There were more.
    more: bool,
    packets: u64,
    bytes: u64,
}

/// Both replays.
struct Both {
    old: Session,
    new: Session,
    found: Found,
}

impl Both {
    /// Decides all packets; the inner result tells of damaged captures.
    fn replay(&mut self, args: &Args) -> Result<Result<()>> {
        let mut sources = Sources::open(&args.captures)?;
        let bar = progress(&args.captures, false);
        let mut damage = Ok(());
        while let Some((source, frame)) = sources.next_frame() {
            self.packet(source, &frame);
            if self.found.packets.is_multiple_of(4096) {
                if let Some(bar) = &bar {
                    bar.set_position(sources.offset());
                }
                damage = damage.and(fail_on_damage(&mut sources));
            }
        }
        if let Some(bar) = bar {
            bar.finish_and_clear();
        }
        Ok(damage.and(fail_on_damage(&mut sources)))
    }

    fn packet(&mut self, source: usize, frame: &Frame<'_>) {
        let old = self.old.treated(source, frame);
        let new = self.new.treated(source, frame);
        let found = &mut self.found;
        found.packets += 1;
        let bytes = frame.ip().unwrap_or(&[]);
        found.bytes += bytes.len() as u64;
        let at = found.connection(bytes);
        let Some(change) = Change::between(&old, &new) else {
            return;
        };
        let since = frame.time_ns.saturating_sub(self.old.start.unwrap_or(0));
        let cause = (change, old.family, old.rule, new.rule);
        let number = found.packets;
        let group = at.and_then(|t| *found.connections.get(&t)?);
        let first_of_connection = group.is_none();
        let group = group.map_or_else(
            || {
                let next = found.groups.len();
                let at = *found.by_cause.entry(cause).or_insert(next);
                if at == next {
                    let brief = parse(bytes).ok().map(|l| Brief::new(bytes, &l));
                    found.groups.push(Group {
                        cause,
                        connections: 0,
                        packets: 0,
                        bytes: 0,
                        first: (number, since, brief),
                    });
                }
                at
            },
            |g| g as usize,
        );
        if let Some(slot) = at.and_then(|t| found.connections.get_mut(&t)) {
            *slot = Some(group as u32);
        }
        let group = &mut found.groups[group];
        // What no connection is known of counts as packets alone.
        group.connections += u64::from(first_of_connection && at.is_some());
        group.packets += 1;
        group.bytes += bytes.len() as u64;
    }
}

impl Found {
    /// The connection that a packet belongs to, by its ends: the same for both directions.
    fn connection(&mut self, bytes: &[u8]) -> Option<Tuple> {
        let layout = parse(bytes).ok()?;
        let mut tuple = Tuple::from_packet(bytes, &layout)?;
        if !tuple.has_ports() {
            // The types of question and answer differ.
            tuple.dst_id = 0;
        }
        let turned = ({ tuple.src }, { tuple.src_id }) > ({ tuple.dst }, { tuple.dst_id });
        if turned {
            tuple = Tuple {
                src: tuple.dst,
                dst: tuple.src,
                src_id: tuple.dst_id,
                dst_id: tuple.src_id,
                ..tuple
            };
        }
        if self.connections.len() < MOST_CONNECTIONS {
            self.connections.entry(tuple).or_default();
            return Some(tuple);
        }
        let known = self.connections.contains_key(&tuple);
        self.more |= !known;
        known.then_some(tuple)
    }
}

impl Change {
    /// What changes for a packet; `None` where nothing does, or where either replay takes
    /// it for a copy of one that was decided before.
    fn between(old: &Treated, new: &Treated) -> Option<Self> {
        use super::fate::Fate;
        let stops = |fate: &Fate| matches!(fate, Fate::Drop(_) | Fate::Reject(_));
        match (&old.fate, &new.fate) {
            (Fate::Skipped(_), _) | (_, Fate::Skipped(_)) => None,
            (Fate::Accept, Fate::Drop(_)) => Some(Change::Dropped),
            (Fate::Accept, Fate::Reject(_)) => Some(Change::Rejected),
            (Fate::Accept, Fate::Accept) if old.came_out != new.came_out => {
                Some(Change::Translated)
            }
            (was, Fate::Accept) if stops(was) => Some(Change::Allowed),
            (Fate::Drop(_), Fate::Reject(_)) | (Fate::Reject(_), Fate::Drop(_)) => {
                Some(Change::Stopped)
            }
            _ => None,
        }
    }
}
