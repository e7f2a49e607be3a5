//! `-m time`: dates, months' days, weekdays and hours (kernel `time_mt`), on the packet's
//! clock in UTC. The kernel's own time zone is UTC here.

use tidegate_ir::Cond;

use super::pure::pure;
use crate::{
    Arg, Args, Case, Context, Error, Extension, Help, Input, Instance, ListCtx, Lower, LowerCtx,
    Opt, Value, bad, ok, saved,
};

const TIME_START: usize = 0;
const TIME_STOP: usize = 1;
const MONTH_DAYS: usize = 2;
const WEEK_DAYS: usize = 3;
const DATE_START: usize = 4;
const DATE_STOP: usize = 5;
const KERNEL_TZ: usize = 6;
const CONTIGUOUS: usize = 7;
const UTC: usize = 8;
const LOCAL_TZ: usize = 9;

const DAY: u64 = 86_400;
const LAST_SECOND: u64 = DAY - 1;
/// The last second of a 32-bit clock.
const LAST_DATE: u64 = i32::MAX as u64;
/// Bit n is day n.
const ALL_MONTH: u32 = 0xffff_fffe;
const ALL_WEEK: u32 = 0xfe;

const WEEK: [&str; 7] = ["Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun"];

const TIME: Arg = Arg::Special {
    arity: 1,
    parse: parse_time,
    show: |v, _| clock(v.number().unwrap_or(0)),
};
const DATE: Arg = Arg::Special {
    arity: 1,
    parse: parse_date,
    show: |v, _| date(v.number().unwrap_or(0), "T"),
};

const OPTIONS: &[Opt] = &[
    Opt::new("timestart", TIME).help("    --timestart time     Start and stop daytime (hh:mm[:ss])\n"),
    Opt::new("timestop", TIME).help("    --timestop time      (between 00:00:00 and 23:59:59)\n"),
    Opt::new(
        "monthdays",
        Arg::Special {
            arity: 1,
            parse: parse_month_days,
            show: |v, _| listed(v.bits().unwrap_or(0), |d| d.to_string()),
        },
    )
    .invertible()
    .help("[!] --monthdays value    List of days on which to match, separated by comma\n                         (Possible days: 1 to 31; defaults to all)\n"),
    Opt::new(
        "weekdays",
        Arg::Special {
            arity: 1,
            parse: parse_week_days,
            show: |v, _| weekdays(v.bits().unwrap_or(0)),
        },
    )
    .invertible()
    .help("[!] --weekdays value     List of weekdays on which to match, sep. by comma\n                         (Possible days: Mon,Tue,Wed,Thu,Fri,Sat,Sun or 1 to 7\n                         Defaults to all weekdays.)\n"),
    Opt::new("datestart", DATE).help("    --datestart time     Start and stop time, to be given in ISO 8601\n"),
    Opt::new("datestop", DATE).help("    --datestop time      (YYYY[-MM[-DD[Thh[:mm[:ss]]]]])\n"),
    Opt::new("kerneltz", Arg::Flag).help("    --kerneltz           Work with the kernel timezone instead of UTC\n"),
    Opt::new("contiguous", Arg::Flag),
    Opt::new("utc", Arg::Flag).excludes(&[KERNEL_TZ]),
    Opt::new("localtz", Arg::Flag)
        .excludes(&[UTC])
        .warning("WARNING: --localtz is being replaced by --kerneltz, since \"local\" is ambiguous. Note the kernel timezone has caveats - see manpage for details."),
];

/// `-m time`.
pub static TIME_MATCH: Extension = Extension {
    name: "time",
    lower: Lower::Match(lower),
    options: OPTIONS,
    help: Help::order(&[
        DATE_START, DATE_STOP, TIME_START, TIME_STOP, MONTH_DAYS, WEEK_DAYS, KERNEL_TZ,
    ]),
    finish,
    save,
    list,
    cases: CASES,
    ..Extension::MATCH
};

/// Digits at the start, and what follows.
fn digits(text: &str) -> Option<(u64, &str)> {
    let end = text
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(text.len());
    Some((text[..end].parse().ok()?, &text[end..]))
}

/// Reads `hh:mm[:ss]`.
fn parse_time(input: &Input<'_>) -> Result<Value, Error> {
    let text = input.text();
    let bad = |part: &str| {
        Error::parameter(format!(
            "invalid time \"{part}\" specified, should be hh:mm[:ss] format and within the boundaries"
        ))
    };
    let mut at = text;
    let mut parts = Vec::new();
    for (i, limit) in [24, 60, 60].into_iter().enumerate() {
        let (n, rest) = digits(at).filter(|d| d.0 < limit).ok_or_else(|| bad(at))?;
        parts.push(n);
        match rest.strip_prefix(':') {
            Some(more) if i < 2 => at = more,
            None if rest.is_empty() && i > 0 => break,
            _ => return Err(bad(at)),
        }
    }
    parts.resize(3, 0);
    Ok(Value::Number(parts[0] * 3600 + parts[1] * 60 + parts[2]))
}

/// Reads `YYYY[-MM[-DD[Thh[:mm[:ss]]]]]`. A day that its month does not have counts on.
fn parse_date(input: &Input<'_>) -> Result<Value, Error> {
    let text = input.text();
    let bad = || {
        Error::parameter(format!(
            "Invalid date \"{text}\" specified. Should be YYYY[-MM[-DD[Thh[:mm[:ss]]]]]"
        ))
    };
    let limits: [(char, u64, u64); 6] = [
        ('-', 1970, 2038),
        ('-', 1, 12),
        ('T', 1, 31),
        (':', 0, 23),
        (':', 0, 59),
        ('\0', 0, 59),
    ];
    let mut parts = [1970, 1, 1, 0, 0, 0];
    let mut at = text;
    for (part, (next, min, max)) in parts.iter_mut().zip(limits) {
        let (n, rest) = digits(at).ok_or_else(bad)?;
        if !(min..=max).contains(&n) {
            return Err(bad());
        }
        *part = n;
        match rest.strip_prefix(next) {
            _ if rest.is_empty() => break,
            Some(more) if next != '\0' => at = more,
            _ => return Err(bad()),
        }
    }
    let [year, month, day, hour, minute, second] = parts;
    let seconds = days(year, month, day) * DAY + hour * 3600 + minute * 60 + second;
    Ok(Value::Number(seconds.min(LAST_DATE)))
}

/// Days from 1970 to a date of the Gregorian calendar.
fn days(year: u64, month: u64, day: u64) -> u64 {
    let (y, m) = if month <= 2 {
        (year - 1, month + 9)
    } else {
        (year, month - 3)
    };
    let leaps = y / 4 - y / 100 + y / 400;
    // March to January have 153 days every five months; 719,468 days lie before 1970.
    y * 365 + leaps + (153 * m + 2) / 5 + day - 1 - 719_468
}

/// The date of a day counted from 1970: year, month, day.
fn calendar(days: u64) -> (u64, u64, u64) {
    let z = days + 719_468;
    let era = z / 146_097;
    let of_era = z % 146_097;
    let year = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year + year / 4 - year / 100);
    let m = (5 * of_year + 2) / 153;
    let day = of_year - (153 * m + 2) / 5 + 1;
    let (month, later) = if m < 10 { (m + 3, 0) } else { (m - 9, 1) };
    (era * 400 + year + later, month, day)
}

fn flipped(bits: u32, input: &Input<'_>, all: u32) -> Value {
    Value::Bits(if input.invert { all & !bits } else { bits })
}

fn parse_month_days(input: &Input<'_>) -> Result<Value, Error> {
    let mut bits = 0;
    for word in input.text().split(',') {
        let day = digits(word).filter(|d| (1..=31).contains(&d.0) && d.1.is_empty());
        let (day, _) = day.ok_or_else(|| {
            Error::parameter(format!("{word} is not a valid day for --monthdays"))
        })?;
        bits |= 1 << day;
    }
    Ok(flipped(bits, input, ALL_MONTH))
}

fn parse_week_days(input: &Input<'_>) -> Result<Value, Error> {
    let mut bits = 0;
    for word in input.text().split(',').filter(|w| !w.is_empty()) {
        if let Some((n, _)) = digits(word) {
            if n == 0 {
                return Err(Error::parameter("No, the week does NOT begin with Sunday."));
            }
            bits |= if n <= 7 { 1 << n } else { 0 };
            continue;
        }
        bits |= 1 << week_day(word)?;
    }
    Ok(flipped(bits, input, ALL_WEEK))
}

/// A name of two or three letters.
fn week_day(word: &str) -> Result<u32, Error> {
    let lower = word.to_ascii_lowercase();
    let fits = |name: &str| {
        let name = name.to_ascii_lowercase();
        lower == name || (lower.len() == 2 && name.starts_with(&lower))
    };
    let at = WEEK.iter().position(|n| fits(n));
    at.map(|at| at as u32 + 1).ok_or_else(|| {
        let shown: String = word.chars().take(3).collect();
        Error::parameter(format!("{shown} is not a valid day specifier"))
    })
}

fn finish(args: &mut Args, _: &Context<'_>) -> Result<(), Error> {
    let number = |args: &Args, opt, usual| args.number(opt).unwrap_or(usual);
    let start = number(args, TIME_START, 0);
    let stop = number(args, TIME_STOP, LAST_SECOND);
    if args.has(CONTIGUOUS) && start < stop {
        return Err(Error::parameter(
            "time: --contiguous only makes sense when stoptime is smaller than starttime",
        ));
    }
    args.remove(UTC);
    if args.remove(LOCAL_TZ).is_some() {
        args.set(KERNEL_TZ, false, Value::Flag);
    }
    let whole = (start, stop) == (0, LAST_SECOND);
    for (opt, value) in [(TIME_START, start), (TIME_STOP, stop)] {
        args.remove(opt);
        if !whole {
            args.set(opt, false, Value::Number(value));
        }
    }
    for (opt, all) in [(MONTH_DAYS, ALL_MONTH), (WEEK_DAYS, ALL_WEEK)] {
        if let Some(bits) = args.bits(opt) {
            args.remove(opt);
            if bits != all {
                args.set(opt, false, Value::Bits(bits));
            }
        }
    }
    if number(args, DATE_START, 0) == 0 {
        args.remove(DATE_START);
    }
    let stop = number(args, DATE_STOP, LAST_DATE);
    args.set(DATE_STOP, false, Value::Number(stop));
    Ok(())
}

fn clock(second: u64) -> String {
    format!(
        "{:02}:{:02}:{:02}",
        second / 3600,
        second / 60 % 60,
        second % 60
    )
}

fn date(seconds: u64, between: &str) -> String {
    let (year, month, day) = calendar(seconds / DAY);
    format!(
        "{year:04}-{month:02}-{day:02}{between}{}",
        clock(seconds % DAY)
    )
}

fn listed(bits: u32, name: impl Fn(usize) -> String) -> String {
    let days = (0..32usize).filter(|d| bits & 1 << d != 0);
    days.map(name).collect::<Vec<_>>().join(",")
}

fn weekdays(bits: u32) -> String {
    listed(bits, |d| {
        WEEK.get(d.wrapping_sub(1))
            .copied()
            .unwrap_or("")
            .to_owned()
    })
}

/// The tool's ordinals, which know no 11th.
fn ordinal(day: usize) -> String {
    let end = match day % 10 {
        1 => "st",
        2 => "nd",
        3 => "rd",
        _ => "th",
    };
    format!("{day}{end}")
}

fn save(x: &Instance, family: tidegate_wire::Family) -> String {
    let one = |opt: usize| {
        let empty = x.args.bits(opt) == Some(0);
        // No day at all: in quotes, so that it can be read again.
        let blank = if empty { " \"\"" } else { "" };
        x.save_option(opt, family) + blank
    };
    [
        TIME_START, TIME_STOP, MONTH_DAYS, WEEK_DAYS, DATE_START, DATE_STOP, KERNEL_TZ, CONTIGUOUS,
    ]
    .map(one)
    .concat()
}

fn list(x: &Instance, _: &ListCtx<'_>) -> String {
    let args = &x.args;
    let mut out = " TIME".to_owned();
    if let (Some(start), Some(stop)) = (args.number(TIME_START), args.number(TIME_STOP)) {
        out += &format!(" from {} to {}", clock(start), clock(stop));
    }
    if let Some(bits) = args.bits(WEEK_DAYS) {
        out += &format!(" on {}", weekdays(bits));
    }
    if let Some(bits) = args.bits(MONTH_DAYS) {
        out += &format!(" on {}", listed(bits, ordinal));
    }
    if let Some(start) = args.number(DATE_START) {
        out += &format!(" starting from {}", date(start, " "));
    }
    if let Some(stop) = args.number(DATE_STOP).filter(|&s| s != LAST_DATE) {
        out += &format!(" until date {}", date(stop, " "));
    }
    if !args.has(KERNEL_TZ) {
        out += " UTC";
    }
    if args.has(CONTIGUOUS) {
        out += " contiguous";
    }
    out
}

fn lower(args: &Args, ctx: &mut LowerCtx<'_>) -> Cond {
    let when = When::new(args);
    pure(ctx, "the time", move |input| {
        when.holds(input.now / 1_000_000_000)
    })
}

/// What is asked about the time.
#[derive(Clone, Copy, Debug)]
struct When {
    dates: (u64, u64),
    times: (u64, u64),
    month_days: u32,
    week_days: u32,
    contiguous: bool,
}

impl When {
    fn new(args: &Args) -> Self {
        let number = |opt, usual| args.number(opt).unwrap_or(usual);
        When {
            dates: (number(DATE_START, 0), number(DATE_STOP, LAST_DATE)),
            times: (number(TIME_START, 0), number(TIME_STOP, LAST_SECOND)),
            month_days: args.bits(MONTH_DAYS).unwrap_or(ALL_MONTH),
            week_days: args.bits(WEEK_DAYS).unwrap_or(ALL_WEEK),
            contiguous: args.has(CONTIGUOUS),
        }
    }

    /// Whether `second` since 1970 fits. A time that ends before it begins lasts over
    /// midnight; contiguous, what follows midnight is still the day before.
    fn holds(self, second: u64) -> bool {
        let (first, last) = self.dates;
        if !(first..=last).contains(&second) {
            return false;
        }
        let of_day = second % DAY;
        let (start, stop) = self.times;
        let mut day = second / DAY;
        if start < stop {
            if !(start..=stop).contains(&of_day) {
                return false;
            }
        } else {
            if of_day < start && of_day > stop {
                return false;
            }
            if self.contiguous && of_day <= stop {
                day = day.saturating_sub(1);
            }
        }
        // 1970 began on a Thursday.
        let week_day = (day + 3) % 7 + 1;
        let (_, _, month_day) = calendar(day);
        self.week_days & 1 << week_day != 0 && self.month_days & 1 << month_day != 0
    }
}

const CASES: &[Case] = &[
    ok("-m time --timestart 01:02:03 --timestop 04:05:06 --weekdays Mon,Tue,Wed,Thu,Fri --datestart 2001-02-03T04:05:06 --datestop 2012-09-08T09:06:05 --kerneltz"),
    saved(
        "-m time --timestart 01:02:03 --timestop 04:05:06 --monthdays 1,2,3,4,5 --weekdays 1,2,3 --datestart 2001-02-03T04:05:06 --datestop 2012-09-08T09:06:05",
        "-m time --timestart 01:02:03 --timestop 04:05:06 --monthdays 1,2,3,4,5 --weekdays Mon,Tue,Wed --datestart 2001-02-03T04:05:06 --datestop 2012-09-08T09:06:05",
    ),
    saved(
        "-m time --timestart 23:00:00 --timestop 01:00:00 --contiguous",
        "-m time --timestart 23:00:00 --timestop 01:00:00 --datestop 2038-01-19T03:14:07 --contiguous",
    )
    .v6(),
    saved("-m time ! --weekdays Sa,Su", "-m time --weekdays Mon,Tue,Wed,Thu,Fri --datestop 2038-01-19T03:14:07"),
    saved(
        "-m time ! --monthdays 31,1",
        "-m time --monthdays 2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,18,19,20,21,22,23,24,25,26,27,28,29,30 --datestop 2038-01-19T03:14:07",
    ),
    saved("-m time", "-m time --datestop 2038-01-19T03:14:07"),
    saved("-m time --timestart 8:00", "-m time --timestart 08:00:00 --timestop 23:59:59 --datestop 2038-01-19T03:14:07"),
    saved("-m time --timestart 08:00 --localtz", "-m time --timestart 08:00:00 --timestop 23:59:59 --datestop 2038-01-19T03:14:07 --kerneltz"),
    saved("-m time --timestart 08:00 --utc", "-m time --timestart 08:00:00 --timestop 23:59:59 --datestop 2038-01-19T03:14:07"),
    saved("-m time --datestart 2001", "-m time --datestart 2001-01-01T00:00:00 --datestop 2038-01-19T03:14:07"),
    saved("-m time --datestart 2001-02-30", "-m time --datestart 2001-03-02T00:00:00 --datestop 2038-01-19T03:14:07"),
    saved("-m time --datestart 2001-02-03T04", "-m time --datestart 2001-02-03T04:00:00 --datestop 2038-01-19T03:14:07"),
    saved("-m time --timestart 10:00 --timestop 10:00", "-m time --timestart 10:00:00 --timestop 10:00:00 --datestop 2038-01-19T03:14:07"),
    saved("-m time --weekdays Mon,Tue,Wed,Thu,Fri,Sat,Sun", "-m time --datestop 2038-01-19T03:14:07"),
    bad("-m time --timestart 01:00:00 --timestop 23:00:00 --contiguous"),
    bad("-m time --monthdays 32"),
    bad("-m time --weekdays Foo"),
    bad("-m time --weekdays M"),
    bad("-m time --weekdays 0"),
    bad("-m time --timestart 24:00"),
    bad("-m time --timestart 8"),
    bad("-m time --timestart 08:60"),
    bad("-m time --timestart 08:00 --utc --localtz"),
    bad("-m time --timestart 08:00 --kerneltz --utc"),
    bad("-m time --datestart 2039"),
    bad("-m time --datestop 1969"),
    bad("-m time --datestart 2001-13"),
    bad("-m time --datestart 2001-02-03X"),
    bad("-m time ! --timestart 10:00"),
];

#[cfg(test)]
mod tests {
    use super::*;

    const ALWAYS: When = When {
        dates: (0, LAST_DATE),
        times: (0, LAST_SECOND),
        month_days: ALL_MONTH,
        week_days: ALL_WEEK,
        contiguous: false,
    };

    #[test]
    fn calendars_agree() {
        assert_eq!(date(951_782_400, " "), "2000-02-29 00:00:00");
        assert_eq!(date(LAST_DATE, "T"), "2038-01-19T03:14:07");
        for day in 0..=24_855 {
            let (y, m, d) = calendar(day);
            assert_eq!(days(y, m, d), day);
        }
    }

    #[test]
    fn the_night_of_a_day_can_belong_to_it() {
        // Wednesday, 1 August 2012, 00:30; then Tuesday at 23:30.
        let (after, before) = (1_343_781_000, 1_343_777_400);
        let mut night = When {
            times: (23 * 3600, 3600),
            week_days: 1 << 2,
            ..ALWAYS
        };
        assert_eq!([after, before].map(|t| night.holds(t)), [false, true]);
        night.contiguous = true;
        assert_eq!([after, before].map(|t| night.holds(t)), [true, true]);
        // Wednesday at 2 in the morning is no night any more.
        assert!(!night.holds(after + 5400));
    }

    #[test]
    fn both_ends_belong_to_a_time() {
        let day = When {
            times: (3600, 7200),
            ..ALWAYS
        };
        let hits = [3599, 3600, 7200, 7201].map(|t| day.holds(1_343_779_200 + t));
        assert_eq!(hits, [false, true, true, false]);
        let first = When {
            month_days: 1 << 1,
            ..ALWAYS
        };
        assert!(first.holds(1_343_779_200) && !first.holds(1_343_779_199));
    }
}
