//! The commands.

use std::sync::Arc;

use tidegate_conntrack::by_hand::{ByHandError, Change, GivenState};
use tidegate_conntrack::format::Told;
use tidegate_conntrack::{Conntrack, Cursor, Dir, Entry, EntryId, Family, ProtoState, Time, Zone};

use super::options::{Command, Kind};
use super::parse::Request;
use super::print::{Printer, total};
use super::{PIECE, Refusal, Sink, Tracker, say, unreachable, watch};

/// What working on entries led to.
#[derive(Default)]
struct Step {
    out: String,
    err: String,
    /// Whether the last one counts.
    counts: bool,
}

/// Works on one entry after the other.
trait Worker: Send + 'static {
    fn step(
        &mut self,
        ct: &mut Conntrack,
        id: EntryId,
        now: Time,
        request: &Request,
        step: &mut Step,
    );
}

/// `-L`.
struct Lister(Printer);

impl Worker for Lister {
    fn step(
        &mut self,
        ct: &mut Conntrack,
        id: EntryId,
        now: Time,
        request: &Request,
        step: &mut Step,
    ) {
        if let Some(entry) = ct.entry(id) {
            self.0.flow(&mut step.out, &Told::listed(id, entry, now));
            step.counts = true;
        }
        if request.zero {
            ct.zero_counters(id);
        }
    }
}

/// `-U`.
struct Changer(Printer);

impl Worker for Changer {
    fn step(
        &mut self,
        ct: &mut Conntrack,
        id: EntryId,
        now: Time,
        request: &Request,
        step: &mut Step,
    ) {
        let Some(change) = ct.entry(id).and_then(|e| request.change(e, now)) else {
            return;
        };
        if let Err(e) = ct.change_by_hand(now, id, &change) {
            step.err += &format!("Operation failed: {}\n", error(e));
        }
        if let Some(entry) = ct.entry(id) {
            self.0.lone_flow(&mut step.out, &Told::held(id, entry, now));
            step.counts = true;
        }
    }
}

/// `-D`, and without a printer `-F`.
struct Remover(Option<Printer>);

impl Worker for Remover {
    fn step(&mut self, ct: &mut Conntrack, id: EntryId, now: Time, _: &Request, step: &mut Step) {
        if let (Some(printer), Some(entry)) = (&self.0, ct.entry(id)) {
            printer.lone_flow(&mut step.out, &Told::listed(id, entry, now));
        }
        step.counts = ct.delete_by_hand(now, id);
    }
}

/// Carries a request out and says how to exit. `totals` asks for the lines that say how
/// many entries there were.
pub(super) fn run(
    request: &Arc<Request>,
    tracker: &dyn Tracker,
    sink: &mut dyn Sink,
    totals: bool,
) -> Result<u8, Refusal> {
    let mut job = Job {
        request,
        tracker,
        sink,
        totals,
    };
    let expect = request.kind == Kind::Expectations;
    match request.command {
        Command::List if expect => job.list_expectations(),
        Command::List => job.list(),
        Command::Create if expect => job.expect(),
        Command::Create | Command::Add => job.create(),
        Command::Update => job.update(),
        Command::Delete if expect => job.forget_expectation(),
        Command::Delete => job.delete(),
        Command::Get if expect => job.get_expectation(),
        Command::Get => job.get(),
        Command::Events => watch::run(request, tracker, sink),
        Command::Flush => job.flush(),
        Command::Count => job.count(),
        Command::Stats => job.stats(),
        // These need no table.
        Command::Version | Command::Help => Ok(0),
    }
}

struct Job<'a> {
    request: &'a Arc<Request>,
    tracker: &'a dyn Tracker,
    sink: &'a mut dyn Sink,
    totals: bool,
}

impl Job<'_> {
    /// Works on the table as the one who asked, with what has run out taken away.
    fn with<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Conntrack, Time, &Request) -> T + Send + 'static,
    ) -> Result<T, Refusal> {
        let caller = self.tracker.caller().unwrap_or(0);
        let request = Arc::clone(self.request);
        let done = self.tracker.with(move |ct, now| {
            ct.acting_for(None);
            ct.handle_timeout(now);
            ct.acting_for(Some(caller));
            let result = work(ct, now, &request);
            ct.acting_for(None);
            result
        });
        done.map_err(|f| unreachable(&f))
    }

    /// Works on every connection that is asked for, piece by piece; says how many
    /// counted, and hands the worker back.
    fn each<W: Worker>(&mut self, mut worker: W) -> Result<(u64, W), Refusal> {
        let (mut count, mut next) = (0, Some(Cursor::default()));
        while let Some(cursor) = next {
            let (piece, counted);
            (worker, piece, counted, next) = self.with(move |ct, now, request| {
                let (entries, after) = ct.piece(cursor, PIECE);
                let wanted = entries.filter(|(id, e)| request.wants(*id, e));
                let wanted: Vec<EntryId> = wanted.map(|(id, _)| id).collect();
                let (mut piece, mut counted) = (Step::default(), 0);
                for id in wanted {
                    piece.counts = false;
                    worker.step(ct, id, now, request, &mut piece);
                    counted += u64::from(piece.counts);
                }
                (worker, piece, counted, after)
            })?;
            count += counted;
            say(self.sink.err(&piece.err))?;
            say(self.sink.out(&piece.out))?;
        }
        Ok((count, worker))
    }

    fn total(&mut self, count: u64, what: &str) -> Result<(), Refusal> {
        if self.totals {
            say(self.sink.err(&total(count, what)))?;
        }
        Ok(())
    }

    /// A filter on status that asks for nothing is refused, as the kernel does.
    fn check_filter(&self) -> Result<(), Refusal> {
        if self.request.status == Some(0) && self.request.clear == 0 {
            return Err(failed(ByHandError::Invalid));
        }
        Ok(())
    }

    fn list(&mut self) -> Result<u8, Refusal> {
        self.check_filter()?;
        let lister = Lister(Printer::new(self.request));
        let (count, Lister(mut printer)) = match self.request.kind {
            // Nothing waits to be told there, and packets are not listed between hooks.
            Kind::Dying | Kind::Unconfirmed => (0, lister),
            Kind::Connections | Kind::Expectations => self.each(lister)?,
        };
        let mut end = String::new();
        printer.close(&mut end);
        say(self.sink.out(&end))?;
        self.total(count, "flow entries have been shown")?;
        Ok(0)
    }

    fn list_expectations(&mut self) -> Result<u8, Refusal> {
        let (out, count) = self.with(|ct, now, request| {
            let family = request.family.unwrap_or(Family::V4);
            let mut printer = Printer::new(request);
            let (mut out, mut count) = (String::new(), 0);
            for e in ct.expectations().filter(|e| e.tuple.family == family) {
                let master = ct.entry(e.master).map(|m| *m.tuple(Dir::Original));
                printer.expectation(&mut out, e, master.as_ref(), now);
                count += 1;
            }
            printer.close(&mut out);
            (out, count)
        })?;
        say(self.sink.out(&out))?;
        self.total(count, "expectations have been shown")?;
        Ok(0)
    }

    fn create(&mut self) -> Result<u8, Refusal> {
        let new = self.request.new_entry().map_err(failed)?;
        let made = self.with(move |ct, now, _| ct.create_by_hand(now, &new))?;
        let add = self.request.command == Command::Add;
        let count = match made {
            Ok(_) => 1,
            Err(ByHandError::Exists) if add => 0,
            Err(ByHandError::Exists) => {
                return Err(Refusal::other(
                    "Operation failed: Such conntrack exists, try -U to update",
                ));
            }
            Err(e) => return Err(failed(e)),
        };
        let what = if add {
            "flow entries have been added"
        } else {
            "flow entries have been created"
        };
        self.total(count, what)?;
        Ok(0)
    }

    fn update(&mut self) -> Result<u8, Refusal> {
        let (count, _) = self.each(Changer(Printer::new(self.request)))?;
        self.total(count, "flow entries have been updated")?;
        Ok(u8::from(count == 0))
    }

    fn delete(&mut self) -> Result<u8, Refusal> {
        self.check_filter()?;
        // As the tool does.
        let printer = Printer::new(self.request).without_labels();
        let (count, _) = self.each(Remover(Some(printer)))?;
        self.total(count, "flow entries have been deleted")?;
        Ok(u8::from(count == 0))
    }

    fn get(&mut self) -> Result<u8, Refusal> {
        let tuple = self.request.name().map_err(failed)?;
        let found = self.with(move |ct, now, request| {
            let (id, _) = ct.find(&tuple, Zone::default())?;
            let entry = ct.entry(id)?;
            let mut out = String::new();
            let wanted = request.wants(id, entry);
            if wanted {
                Printer::new(request).flow(&mut out, &Told::held(id, entry, now));
            }
            Some((out, wanted))
        })?;
        let (out, wanted) = found
            .ok_or_else(|| Refusal::other("Operation failed: such conntrack doesn't exist"))?;
        say(self.sink.out(&out))?;
        self.total(u64::from(wanted), "flow entries have been shown")?;
        Ok(u8::from(!wanted))
    }

    fn expect(&mut self) -> Result<u8, Refusal> {
        let new = self.request.new_expectation().map_err(failed)?;
        match self.with(move |ct, now, _| ct.expect_by_hand(now, &new))? {
            Ok(()) => Ok(0),
            Err(ByHandError::Missing) => Err(Refusal::other(
                "Operation failed: master conntrack not found",
            )),
            Err(e) => Err(failed(e)),
        }
    }

    fn get_expectation(&mut self) -> Result<u8, Refusal> {
        let tuple = self.request.expected().map_err(failed)?;
        let found = self.with(move |ct, now, request| {
            let e = ct.expectation(&tuple, 0)?;
            let master = ct.entry(e.master).map(|m| *m.tuple(Dir::Original));
            let mut out = String::new();
            Printer::new(request).expectation(&mut out, e, master.as_ref(), now);
            Some(out)
        })?;
        let out = found.ok_or_else(|| failed(ByHandError::Missing))?;
        say(self.sink.out(&out))?;
        Ok(0)
    }

    fn forget_expectation(&mut self) -> Result<u8, Refusal> {
        let tuple = self.request.expected().map_err(failed)?;
        if self.with(move |ct, _, _| ct.forget_expectation(&tuple, 0))? {
            return Ok(0);
        }
        Err(failed(ByHandError::Missing))
    }

    fn flush(&mut self) -> Result<u8, Refusal> {
        let what = if self.request.kind == Kind::Expectations {
            self.with(|ct, _, _| ct.forget_expectations_where(|_| true))?;
            "expectation table has been emptied"
        } else {
            self.each(Remover(None))?;
            "connection tracking table has been emptied"
        };
        let version = super::VERSION;
        say(self.sink.err(&format!(
            "conntrack v{version} (conntrack-tools): {what}.\n"
        )))?;
        Ok(0)
    }

    fn count(&mut self) -> Result<u8, Refusal> {
        let expect = self.request.kind == Kind::Expectations;
        let count = self.with(move |ct, _, _| {
            if expect {
                ct.expectations().count() as u64
            } else {
                u64::from(ct.count())
            }
        })?;
        say(self.sink.out(&format!("{count}\n")))?;
        Ok(0)
    }

    /// One line: the table is one processor's.
    fn stats(&mut self) -> Result<u8, Refusal> {
        let stats = self.with(|ct, _, _| *ct.stats())?;
        let values: &[(&str, u64)] = if self.request.kind == Kind::Expectations {
            &[
                ("expect_new", stats.expect_new),
                ("expect_create", stats.expect_create),
                ("expect_delete", stats.expect_delete),
            ]
        } else {
            &[
                ("found", stats.found),
                ("invalid", stats.invalid),
                ("insert", stats.insert),
                ("insert_failed", stats.insert_failed),
                ("drop", stats.drop),
                ("early_drop", stats.early_drop),
                ("error", stats.error),
                // Chains do not move under a reader here.
                ("search_restart", 0),
                ("clash_resolve", stats.clash_resolve),
                ("chaintoolong", stats.chaintoolong),
            ]
        };
        let values: String = values.iter().map(|(n, v)| format!("{n}={v} ")).collect();
        say(self.sink.out(&format!("cpu={:<4}\t{values}\n", 0)))?;
        Ok(0)
    }
}

impl Request {
    /// What is to change in an entry; nothing when it is like that already.
    fn change(&self, entry: &Entry, now: Time) -> Option<Change> {
        let mark = self.mark.map(|(mark, mask)| (entry.mark & !mask) ^ mark);
        let status = self.status.unwrap_or(0);
        let timeout = self
            .timeout
            .filter(|t| u64::from(*t) != entry.remaining(now));
        let state = self
            .given_state()
            .filter(|given| match (given, &entry.proto) {
                (GivenState::Tcp(to), ProtoState::Tcp(tcp)) => tcp.state != *to,
                (GivenState::Sctp(to, _), ProtoState::Sctp(sctp)) => sctp.state != *to,
                _ => false,
            });
        let change = Change {
            timeout,
            mark: mark.filter(|m| *m != entry.mark),
            status: status & !entry.status.0,
            state,
            labels: self.new_labels(entry.labels()),
        };
        (change != Change::default()).then_some(change)
    }

    /// The labels that an entry is to have instead of those it has.
    fn new_labels(&self, labels: u128) -> Option<u128> {
        let added = self.label_add.map(|add| labels | add);
        let cleared = self.label_del.filter(|_| labels != 0);
        added.or(cleared.map(|del| labels & !del))
    }
}

/// The tool's words for an error.
fn error(e: ByHandError) -> String {
    match e {
        ByHandError::Invalid => "invalid parameters".to_owned(),
        ByHandError::Full => "not enough memory".to_owned(),
        ByHandError::Fixed => {
            "sorry, you must be root or get CAP_NET_ADMIN capability to do this".to_owned()
        }
        ByHandError::Exists | ByHandError::Missing | ByHandError::Busy | ByHandError::NoHelper => {
            e.to_string()
        }
    }
}

fn failed(e: ByHandError) -> Refusal {
    Refusal::other(format!("Operation failed: {}", error(e)))
}
