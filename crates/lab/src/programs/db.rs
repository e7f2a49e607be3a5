//! What stands in for a database: a server on TCP port 3306 and on a unix socket that
//! answers one query.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};

use anyhow::{Context, Result, bail};

use super::PATIENCE;
use super::connect::{connect, listen, serve_each};
use super::words::{Words, resolve, waited};

const PORT: u16 = 3306;
const SOCKET: &str = "/run/lab/db.sock";

/// `db-server`
pub(super) fn serve(_: &Words) -> Result<()> {
    let local = UnixListener::bind(SOCKET).context(SOCKET)?;
    std::thread::spawn(move || {
        for stream in local.incoming().flatten() {
            let _ = reply(&stream, &stream);
        }
    });
    serve_each(&listen(PORT, None)?, |stream| reply(&stream, &stream))
}

fn reply(from: impl Read, mut to: impl Write) -> Result<()> {
    let mut query = String::new();
    BufReader::new(from.take(1 << 12)).read_line(&mut query)?;
    writeln!(to, "1")?;
    Ok(())
}

/// `db-ask`
pub(super) fn ask(words: &Words) -> Result<()> {
    if words.has("socket") {
        let stream = UnixStream::connect(SOCKET).context(SOCKET)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        return query(&stream, &stream);
    }
    let stream = connect(resolve(words.word(0, "HOST")?, PORT)?, None, 0)?;
    query(&stream, &stream)
}

fn query(from: impl Read, mut to: impl Write) -> Result<()> {
    writeln!(to, "select 1")?;
    let mut answer = String::new();
    BufReader::new(from)
        .read_line(&mut answer)
        .map_err(waited)?;
    if answer != "1\n" {
        bail!("another answer came");
    }
    println!("1");
    Ok(())
}
