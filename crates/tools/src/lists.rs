//! The tables that rules share, shown as the kernel's files under `/proc/net` show them:
//! `recent` for `xt_recent`, which can be written to as well, and `hashlimit` for
//! `ipt_hashlimit` and `ip6t_hashlimit`; the timers of IDLETIMER and the lights of LED.

use tidegate_ir::Shared;
use tidegate_wire::Family;
use tidegate_xt::matches::{hashlimit, hashlimit_table, osf_prints, recent, recent_list};
use tidegate_xt::targets::{idletimer, led};

use super::Printed;

const FAMILIES: [(Family, &str); 2] = [
    (Family::V4, "ipt_hashlimit"),
    (Family::V6, "ip6t_hashlimit"),
];

fn printed(out: String) -> Printed {
    Printed {
        out,
        ..Printed::default()
    }
}

fn failed(err: String) -> Printed {
    Printed {
        err,
        status: 1,
        ..Printed::default()
    }
}

/// `recent` names the lists, `recent NAME` shows one, `recent NAME ORDER...` changes it:
/// `+ADDR`, `-ADDR` or `/` for all. `now` is in nanoseconds.
pub fn recent(shared: &mut Shared, words: &[&str], now: u64) -> Printed {
    let Some((name, orders)) = words.split_first() else {
        return printed(
            shared
                .names(recent::KIND)
                .map(|n| format!("{n}\n"))
                .collect(),
        );
    };
    let key = recent::table(name);
    let Some(list) = shared.get_mut::<recent_list::List>(&key) else {
        return failed(format!("tidegate: no rule names a list {name}\n"));
    };
    if orders.is_empty() {
        return printed(list.text());
    }
    let wrong = orders.iter().find(|order| !list.write(order, now));
    match wrong {
        Some(order) => failed(format!(
            "tidegate: {order} is none of +ADDRESS, -ADDRESS and /\n"
        )),
        None => Printed::default(),
    }
}

/// `hashlimit` names the tables, `hashlimit [ipt_hashlimit/|ip6t_hashlimit/]NAME` shows
/// one; without its family that of both.
#[must_use]
pub fn hashlimit(shared: &Shared, words: &[&str], now: u64) -> Printed {
    let Some(wanted) = words.first() else {
        let names = FAMILIES.iter().flat_map(|(_, kind)| {
            let of_kind = shared.names(kind);
            of_kind.map(move |name| format!("{kind}/{name}\n"))
        });
        return printed(names.collect());
    };
    let shown = FAMILIES.iter().filter_map(|&(family, kind)| {
        let name = match wanted.split_once('/') {
            Some((k, name)) => (k == kind).then_some(name)?,
            None => wanted,
        };
        let table: &hashlimit_table::Table = shared.get(&hashlimit::table(name, family))?;
        Some(table.text(now))
    });
    let shown: Vec<String> = shown.collect();
    if shown.is_empty() {
        return failed(format!("tidegate: no rule names a table {wanted}\n"));
    }
    printed(shown.concat())
}

/// `idletimer` shows all timers of `-j IDLETIMER` with the seconds they have left, `idletimer
/// LABEL` those of one, as `/sys/class/xt_idletimer/timers/LABEL` does. A timer that no
/// packet has started shows `-`.
#[must_use]
pub fn idletimer(shared: &Shared, words: &[&str], now: u64) -> Printed {
    let left = |label: &str| {
        let timer: &idletimer::Timer = shared.get(&idletimer::table(label))?;
        let left = timer.left(now);
        Some(left.map_or_else(|| "-".to_owned(), |n| n.to_string()))
    };
    one_or_all(shared, idletimer::KIND, words, left)
}

/// `led` shows all lights of `-j LED`, whether they shine and how often they have been
/// switched on, `led NAME` one.
#[must_use]
pub fn led(shared: &Shared, words: &[&str], now: u64) -> Printed {
    let state = |name: &str| {
        let light: &led::Light = shared.get(&led::table(name))?;
        let on = if light.is_on(now) { "on" } else { "off" };
        Some(format!("{on} {}", light.flashes))
    };
    one_or_all(shared, led::KIND, words, state)
}

/// `osf` shows the fingerprints of systems for `-m osf`, `osf -f FILE` adds those of a file
/// like `pf.os`, and with `-d` takes them out, as nfnl_osf(8). `input` is the file's text.
pub fn osf(shared: &mut Shared, words: &[&str], input: &str) -> Printed {
    let Some(all) = osf_prints::all(shared) else {
        return Printed::default();
    };
    if words.is_empty() {
        return printed(all.iter().map(|print| format!("{print}\n")).collect());
    }
    match all.change(input, words.contains(&"-d")) {
        Ok(_) => Printed::default(),
        Err(why) => failed(format!("tidegate: {why}\n")),
    }
}

fn one_or_all(
    shared: &Shared,
    kind: &'static str,
    words: &[&str],
    show: impl Fn(&str) -> Option<String>,
) -> Printed {
    match words.first() {
        Some(name) => match show(name) {
            Some(text) => printed(text + "\n"),
            None => failed(format!("tidegate: no rule names a {kind} {name}\n")),
        },
        None => printed(
            shared
                .names(kind)
                .filter_map(|name| Some(format!("{name} {}\n", show(name)?)))
                .collect(),
        ),
    }
}

#[cfg(test)]
mod tests {
    use tidegate_wire::Family;

    use super::*;

    fn words(shared: &mut Shared, words: &[&str]) -> (String, u8) {
        let done = recent(shared, words, 4_000_000);
        (done.out + &done.err, done.status)
    }

    #[test]
    fn a_list_is_read_and_written() {
        let mut shared = Shared::default();
        shared.table(&recent::table("ssh"), || {
            recent_list::List::new(Family::V4, u32::MAX.into())
        });
        assert_eq!(words(&mut shared, &[]), ("ssh\n".to_owned(), 0));
        assert_eq!(
            words(&mut shared, &["ssh", "+10.0.0.1"]),
            (String::new(), 0)
        );
        let line = "src=10.0.0.1 ttl: 0 last_seen: 1 oldest_pkt: 1 1\n";
        assert_eq!(words(&mut shared, &["ssh"]), (line.to_owned(), 0));
        assert_eq!(words(&mut shared, &["ssh", "/"]), (String::new(), 0));
        assert_eq!(words(&mut shared, &["ssh"]), (String::new(), 0));
        assert_eq!(words(&mut shared, &["ssh", "10.0.0.1"]).1, 1);
        assert_eq!(words(&mut shared, &["web"]).1, 1);
    }
}
