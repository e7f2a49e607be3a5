//! A table in this process, and commands on it.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use tidegate_conntrack::{Config, Conntrack, SECOND, Time};
use tidegate_syntax::Failure;
use tidegate_tools::conntrack::{Feed, Hub, Tracker, TrackerWork};
use tidegate_tools::{HostNames, Prepared, Printed, Store, Tool, Work};
use tidegate_wire::Family;

/// Half a second after a moment that some captured outputs show.
pub(crate) const NOW: Time = 1_795_227_335 * SECOND + SECOND / 2;

/// A table whose clock stands still until it is told to go on.
pub(crate) struct Local {
    ct: Mutex<Conntrack>,
    clock: AtomicU64,
    pub(crate) hub: Hub,
}

impl Local {
    pub(crate) fn new(config: Config) -> Local {
        Local {
            ct: Mutex::new(Conntrack::new(config)),
            clock: AtomicU64::new(NOW),
            hub: Hub::default(),
        }
    }

    pub(crate) fn small() -> Local {
        Local::new(Config {
            buckets: 64,
            ..Config::default()
        })
    }

    /// Lets time pass.
    pub(crate) fn wait(&self, nanos: Time) {
        self.clock.fetch_add(nanos, Ordering::SeqCst);
    }

    pub(crate) fn change<T>(&self, work: impl FnOnce(&mut Conntrack, Time) -> T) -> T {
        let mut ct = self.ct.lock().unwrap();
        let done = work(&mut ct, self.clock.load(Ordering::SeqCst));
        self.hub.publish(&mut ct);
        done
    }

    /// A command line as a shell reads it, with something on standard input for `-R -`.
    pub(crate) fn run(&self, line: &str, input: &str) -> Printed {
        let words = words(line);
        self.run_words(&words.iter().map(String::as_str).collect::<Vec<_>>(), input)
    }

    pub(crate) fn run_words(&self, words: &[&str], input: &str) -> Printed {
        let names = HostNames::default();
        if let ["-R" | "--load-file", "-", ..] = words {
            return tool().run(words, input, self, &names);
        }
        match tool().prepare(words, &names) {
            Prepared::Done(printed) => printed,
            Prepared::Rules(input) => tool().run(words, &input, self, &names),
        }
    }

    /// What a command prints that must succeed, without the total.
    pub(crate) fn lines(&self, line: &str) -> Vec<String> {
        let printed = self.run(line, "");
        assert_eq!(printed.status, 0, "{line}: {}", printed.err);
        printed.out.lines().map(str::to_owned).collect()
    }
}

pub(crate) fn tool() -> Tool {
    Tool::from_name("conntrack".as_ref()).unwrap()
}

/// Words of a line; quotes keep blanks together.
pub(crate) fn words(line: &str) -> Vec<String> {
    let (mut words, mut word, mut quoted) = (Vec::new(), None::<String>, false);
    for c in line.chars() {
        match c {
            '"' | '\'' => {
                quoted = !quoted;
                word.get_or_insert_default();
            }
            ' ' if !quoted => words.extend(word.take()),
            _ => word.get_or_insert_default().push(c),
        }
    }
    words.extend(word);
    words
}

impl Tracker for Local {
    fn submit(&self, work: TrackerWork) -> Result<(), Failure> {
        self.change(work);
        Ok(())
    }

    fn subscribe(&self) -> Result<Feed, Failure> {
        Ok(self.hub.subscribe())
    }

    fn caller(&self) -> Option<u32> {
        Some(4711)
    }
}

impl Store for Local {
    fn with(&self, _: Family, _: bool, _: &mut Work<'_>) -> Result<(), Failure> {
        Err(Failure::Plain("there are no rules here".to_owned()))
    }

    fn tracker(&self) -> Option<&dyn Tracker> {
        Some(self)
    }
}
