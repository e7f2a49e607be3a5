//! How a command ended, as a person would say it.

use std::fmt;

/// How a command ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// Exit status 0.
    Works,
    /// It waited in vain, or had to be ended.
    TimesOut,
    /// An error that the kernel reported, by its name.
    Errno(&'static str),
    /// Anything else.
    Fails,
}

/// What programs print for errors (the C library's texts), and the errors' names.
const ERRORS: &[(&str, &str)] = &[
    ("operation not permitted", "EPERM"),
    ("permission denied", "EACCES"),
    ("connection refused", "ECONNREFUSED"),
    ("connection reset", "ECONNRESET"),
    ("no route to host", "EHOSTUNREACH"),
    ("host unreachable", "EHOSTUNREACH"),
    ("host is unreachable", "EHOSTUNREACH"),
    ("network is unreachable", "ENETUNREACH"),
    ("network unreachable", "ENETUNREACH"),
    ("host is down", "EHOSTDOWN"),
    ("protocol not available", "ENOPROTOOPT"),
    ("protocol error", "EPROTO"),
];

/// What programs print when nobody answered.
const SILENCE: &[&str] = &[
    "timed out",
    "timeout",
    "no servers could be reached",
    "no answer",
    "100% packet loss",
    // ETIMEDOUT, as MariaDB prints errors.
    "(110)",
];

impl Outcome {
    /// Judges by exit status (`None`: it had to be ended) and by what was printed.
    pub(crate) fn of(status: Option<i32>, printed: &str) -> Self {
        match status {
            Some(0) => return Outcome::Works,
            None => return Outcome::TimesOut,
            Some(_) => {}
        }
        let printed = printed.to_lowercase();
        let has = |text: &str| printed.contains(text);
        if let Some((_, name)) = ERRORS.iter().find(|(text, _)| has(text)) {
            return Outcome::Errno(name);
        }
        if SILENCE.iter().any(|text| has(text)) {
            return Outcome::TimesOut;
        }
        Outcome::Fails
    }

    /// Whether this is what `expected` says: `works`, `times out`, `refused`
    /// (`ECONNREFUSED`), `fails` (in whatever way), an error's name, `any`; alternatives
    /// are separated by ` or `.
    pub(crate) fn is(&self, expected: &str) -> bool {
        expected
            .split(" or ")
            .any(|word| match (word.trim(), self) {
                ("any", _) => true,
                ("works", Outcome::Works) => true,
                ("fails", outcome) => *outcome != Outcome::Works,
                ("times out", Outcome::TimesOut) => true,
                ("refused", Outcome::Errno(name)) => *name == "ECONNREFUSED",
                (name, Outcome::Errno(found)) => name == *found,
                _ => false,
            })
    }

    /// Whether `expected` is made of words that [`Outcome::is`] knows.
    #[cfg(test)]
    pub(crate) fn knows(expected: &str) -> bool {
        const WORDS: [&str; 5] = ["any", "works", "fails", "times out", "refused"];
        expected.split(" or ").all(|word| {
            let word = word.trim();
            WORDS.contains(&word) || ERRORS.iter().any(|(_, name)| *name == word)
        })
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Outcome::Works => "works",
            Outcome::TimesOut => "times out",
            Outcome::Errno("ECONNREFUSED") => "refused",
            Outcome::Errno(name) => name,
            Outcome::Fails => "fails",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // What the programs of Debian 12 print.
    #[test]
    fn programs_are_understood() {
        for (status, printed, word) in [
            (Some(0), "", "works"),
            (None, "", "times out"),
            (
                Some(1),
                "ping: sendmsg: Operation not permitted\n--- 1 packets transmitted, 0 received, 100% packet loss",
                "EPERM",
            ),
            (
                Some(4),
                "Connecting to 192.0.2.1:80... failed: Connection refused.",
                "refused",
            ),
            (
                Some(9),
                ";; connection timed out; no servers could be reached",
                "times out",
            ),
            (
                Some(9),
                ";; communications error to 192.0.2.1#53: connection refused\n;; no servers could be reached",
                "refused",
            ),
            (
                Some(1),
                "2 packets transmitted, 0 received, 100% packet loss, time 1000ms",
                "times out",
            ),
            (
                Some(1),
                "From 192.0.2.1 icmp_seq=1 Destination Host Unreachable",
                "EHOSTUNREACH",
            ),
            (
                Some(2),
                "iptables v1.8.9 (legacy): Couldn't load match `x'",
                "fails",
            ),
        ] {
            let outcome = Outcome::of(status, printed);
            assert!(outcome.is(word), "{printed}: {outcome}");
        }
    }

    #[test]
    fn alternatives_and_everything_else() {
        assert!(Outcome::Errno("EPERM").is("EPERM or times out"));
        assert!(Outcome::TimesOut.is("EPERM or times out"));
        assert!(!Outcome::Works.is("EPERM or times out"));
        assert!(Outcome::Errno("EPERM").is("fails"));
        assert!(!Outcome::Works.is("fails"));
        assert!(Outcome::knows("EPERM or times out") && !Outcome::knows("sometimes"));
    }
}
