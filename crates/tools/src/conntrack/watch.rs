//! `-E`: events as they happen.

use std::time::Duration;

use super::options::Kind;
use super::parse::Request;
use super::print::{Printer, total};
use super::{Batch, Refusal, Sink, Tracker, say, unreachable};

/// How often to look whether to stop.
const LOOK: Duration = Duration::from_millis(100);

const LOST: &str = "WARNING: We have hit ENOBUFS! We are losing events.\n";

/// Prints events until the sink says stop.
pub(super) fn run(
    request: &Request,
    tracker: &dyn Tracker,
    sink: &mut dyn Sink,
) -> Result<u8, Refusal> {
    if let Some(size) = request.buffer {
        say(sink.err(&format!(
            "NOTICE: Netlink socket buffer size has been set to {size} bytes.\n"
        )))?;
    }
    let feed = tracker.subscribe().map_err(|f| unreachable(&f))?;
    // From this moment on at the latest the table records.
    tracker.with(|_, _| ()).map_err(|f| unreachable(&f))?;
    let mut printer = Printer::new(request);
    let (mut shown, mut lost_so_far) = (0, 0);
    while !sink.stopped() {
        let Ok(batch) = feed.next(LOOK) else {
            break;
        };
        let mut text = String::new();
        let mut lost = feed.lost();
        if let Some(batch) = batch {
            lost += batch.lost;
            shown += print(request, &mut printer, &batch, &mut text);
        }
        if lost > 0 {
            lost_so_far += lost;
            say(sink.err(&format!(
                "{LOST}They came faster than they were read: {lost_so_far} so far.\n"
            )))?;
        }
        if !text.is_empty() {
            say(sink.out(&text))?;
        }
    }
    let mut text = String::new();
    printer.close(&mut text);
    say(sink.out(&text))?;
    let what = match request.kind {
        Kind::Expectations => "expectation events",
        _ => "flow events",
    };
    say(sink.err(&total(shown, &format!("{what} have been shown"))))?;
    if lost_so_far > 0 {
        say(sink.err(&total(lost_so_far, &format!("{what} have been lost"))))?;
    }
    Ok(0)
}

/// Prints what is asked for of a batch; says how many events that were.
fn print(request: &Request, printer: &mut Printer, batch: &Batch, out: &mut String) -> u64 {
    let mut shown = 0;
    if request.kind == Kind::Expectations {
        for event in &batch.expectations {
            printer.expect_event(out, event);
            shown += 1;
        }
        return shown;
    }
    let wanted = |kind| request.events.as_ref().is_none_or(|k| k.contains(&kind));
    for event in &batch.flows {
        if wanted(event.kind) && request.wants(event.id, &event.entry) {
            printer.event(out, event);
            shown += 1;
        }
    }
    shown
}
