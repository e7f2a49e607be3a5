//! A local syslog: lines by facility and level, as a system's own would file them.

use std::fs::File;
use std::io::Write;
use std::os::unix::net::UnixDatagram;
use std::path::Path;

use anyhow::{Context, Result};

use super::words::Words;
use crate::world::HOME;

const SOCKET: &str = "/run/lab/syslog";

/// Facilities and levels by number (RFC 5424, section 6.2.1), as syslog.conf(5) calls them.
const FACILITIES: [&str; 4] = ["kern", "user", "mail", "daemon"];
const LEVELS: [&str; 8] = [
    "emerg", "alert", "crit", "err", "warning", "notice", "info", "debug",
];

/// `log-server`: a message with `<4>` goes to the file `kern.warning.log`.
pub(super) fn serve(_: &Words) -> Result<()> {
    let socket = UnixDatagram::bind(SOCKET).context(SOCKET)?;
    let mut buffer = [0; 1 << 13];
    loop {
        let len = socket.recv(&mut buffer)?;
        let message = String::from_utf8_lossy(buffer.get(..len).unwrap_or_default()).into_owned();
        let (name, text) = sort(&message);
        let path = Path::new(HOME).join(format!("{name}.log"));
        let mut file = File::options().create(true).append(true).open(path)?;
        file.write_all(format!("{text}\n").as_bytes())?;
    }
}

/// Facility and level, and the message without their number.
fn sort(message: &str) -> (String, &str) {
    let parts = message.strip_prefix('<').and_then(|m| m.split_once('>'));
    let found = parts.and_then(|(number, text)| Some((number.parse::<usize>().ok()?, text)));
    let Some((number, text)) = found else {
        return ("unknown".to_owned(), message);
    };
    let facility = FACILITIES.get(number / 8).unwrap_or(&"other");
    let level = LEVELS.get(number % 8).unwrap_or(&"other");
    (format!("{facility}.{level}"), text.trim_end())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_sorted() {
        assert_eq!(
            sort("<4>Nov 25 x kernel: IN="),
            ("kern.warning".to_owned(), "Nov 25 x kernel: IN=")
        );
        assert_eq!(sort("<14>hello\n"), ("user.info".to_owned(), "hello"));
        assert_eq!(sort("hello").0, "unknown");
        assert_eq!(sort("<x>hello").0, "unknown");
    }
}
