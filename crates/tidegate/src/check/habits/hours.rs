//! Hours of the day in rules, which are UTC.

use jiff::Zoned;
use jiff::tz::TimeZone;
use tidegate_analysis::TooBig;
use tidegate_ir::TableKind;

use super::super::Subject;
use super::super::finding::{Finding, name};
use super::rules;

const DAY: i32 = 24 * 60;

/// Rules with hours on a host that lives by other hours.
pub(super) fn hours(subject: &mut Subject<'_>, findings: &mut Vec<Finding>) -> Result<(), TooBig> {
    let zone = TimeZone::system();
    let now = Zoned::now().with_time_zone(zone.clone());
    let ahead = now.offset().seconds() / 60;
    if ahead == 0 {
        return Ok(());
    }
    for kind in TableKind::ALL {
        for (place, _) in rules(subject, kind) {
            let spec = subject.spec(&place, &[]);
            let said = spec.contains("--kerneltz") || spec.contains("UTC");
            let (Some(from), Some(to)) =
                (after(&spec, "--timestart "), after(&spec, "--timestop "))
            else {
                continue;
            };
            if said || !subject.uses(&place, "time") {
                continue;
            }
            let there = zone.iana_name().unwrap_or("local time");
            let next = zone.following(now.timestamp()).next();
            let changes = next.map_or_else(String::new, |t| {
                format!(" (changes {})", t.timestamp().strftime("%Y-%m-%d"))
            });
            let text = format!(
                "{} means {from} to {to} UTC, which is {} to {} {there} today{changes}",
                name(&place),
                shifted(from, ahead),
                shifted(to, ahead),
            );
            let (start, stop) = (shifted(from, -ahead), shifted(to, -ahead));
            let mended = spec
                .replace(
                    &format!("--timestart {from}"),
                    &format!("--timestart {start}"),
                )
                .replace(&format!("--timestop {to}"), &format!("--timestop {stop}"));
            let comment = format!("-m comment --comment \"{from}-{to} {there}, here in UTC\" -j ");
            let mended = mended.replacen("-j ", &comment, 1);
            let change = format!("-R {} {} {mended}", place.chain, place.number);
            findings.push(
                Finding::new("TG121", Some(place), text)
                    .note("if local hours were meant, the remedy writes them in UTC, as of today")
                    .help(subject.command(kind, &change)),
            );
        }
    }
    Ok(())
}

/// The word behind an option.
fn after<'s>(spec: &'s str, option: &str) -> Option<&'s str> {
    spec.split_once(option)?.1.split(' ').next()
}

/// `hh:mm:ss` with minutes added, around midnight.
fn shifted(clock: &str, minutes: i32) -> String {
    let part = |at: usize| clock.split(':').nth(at).and_then(|p| p.parse::<i32>().ok());
    let (h, m, s) = (
        part(0).unwrap_or(0),
        part(1).unwrap_or(0),
        part(2).unwrap_or(0),
    );
    let at = (h * 60 + m + minutes).rem_euclid(DAY);
    format!("{:02}:{:02}:{s:02}", at / 60, at % 60)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clocks_go_around_midnight() {
        assert_eq!(shifted("23:30:00", 60), "00:30:00");
        assert_eq!(shifted("00:15:59", -330), "18:45:59");
        assert_eq!(
            after("-m time --timestart 08:00:00 -j X", "--timestart "),
            Some("08:00:00")
        );
    }
}
