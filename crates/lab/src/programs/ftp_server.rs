//! An FTP server with one file to fetch and room for others (RFC 959, RFC 2428).

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::ops::RangeInclusive;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::PATIENCE;
use super::connect::{connect, listen, serve_each};
use super::words::Words;

/// Most bytes of a file that a client may leave, and most files.
const MAX_FILE: u64 = 1 << 26;
const MAX_FILES: usize = 64;
/// How long an upload may pause.
const UPLOAD: Duration = Duration::from_secs(15);
/// Longest command line.
const MAX_LINE: u64 = 1 << 12;

/// The file to fetch.
pub(super) fn content() -> Vec<u8> {
    b"0123456789abcde\n".repeat(400)
}

type Files = Arc<Mutex<BTreeMap<String, Vec<u8>>>>;

/// `ftp-server`
pub(super) fn serve(words: &Words) -> Result<()> {
    let port = words.get("port")?.unwrap_or(21);
    let ports = match words.text("ports") {
        None => 0..=0,
        Some(text) => {
            let (first, last) = text.split_once(':').context("--ports FIRST:LAST")?;
            first.parse()?..=last.parse()?
        }
    };
    let files: Files = Arc::default();
    lock(&files).insert("file".to_owned(), content());
    serve_each(&listen(port, None)?, move |control| {
        Session::new(control, &files, ports.clone(), port)?.run()
    })
}

fn lock(files: &Files) -> std::sync::MutexGuard<'_, BTreeMap<String, Vec<u8>>> {
    files.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Where the next data connection comes from.
enum Data {
    Nowhere,
    Active(SocketAddr),
    Passive(TcpListener),
}

struct Session {
    control: TcpStream,
    files: Files,
    ports: RangeInclusive<u16>,
    /// Own port for data connections in active mode: the one below the control port.
    data_port: u16,
    data: Data,
}

impl Session {
    fn new(
        control: TcpStream,
        files: &Files,
        ports: RangeInclusive<u16>,
        port: u16,
    ) -> Result<Self> {
        Ok(Session {
            control,
            files: Arc::clone(files),
            ports,
            data_port: port.saturating_sub(1),
            data: Data::Nowhere,
        })
    }

    fn run(mut self) -> Result<()> {
        self.say("220 tidegate lab")?;
        let mut reader = BufReader::new(self.control.try_clone()?);
        loop {
            let mut line = String::new();
            if (&mut reader).take(MAX_LINE).read_line(&mut line)? == 0 {
                return Ok(());
            }
            let line = line.trim_end();
            let (verb, rest) = line.split_once(' ').unwrap_or((line, ""));
            let verb = verb.to_uppercase();
            if verb == "QUIT" {
                return self.say("221 bye");
            }
            self.command(&verb, rest)?;
        }
    }

    fn say(&mut self, line: &str) -> Result<()> {
        // In one piece: half a line is no answer to whoever reads along.
        self.control.write_all(format!("{line}\r\n").as_bytes())?;
        Ok(())
    }

    fn command(&mut self, verb: &str, rest: &str) -> Result<()> {
        match verb {
            "USER" => self.say("331 any password"),
            "PASS" => self.say("230 welcome"),
            "SYST" => self.say("215 UNIX Type: L8"),
            "TYPE" | "MODE" | "STRU" | "NOOP" | "CWD" | "OPTS" => self.say("200 fine"),
            "PWD" => self.say("257 \"/\""),
            "SIZE" => {
                let len = lock(&self.files).get(rest).map(Vec::len);
                match len {
                    Some(len) => self.say(&format!("213 {len}")),
                    None => self.say("550 no such file"),
                }
            }
            "PORT" | "EPRT" => self.active(verb, rest),
            "PASV" | "EPSV" => self.passive(verb),
            "LIST" | "NLST" => {
                let listing = self.listing(verb == "LIST");
                self.send(listing.as_bytes())
            }
            "RETR" => {
                let file = lock(&self.files).get(rest).cloned();
                match file {
                    Some(file) => self.send(&file),
                    None => self.say("550 no such file"),
                }
            }
            "STOR" => self.store(rest),
            _ => self.say("502 not here"),
        }
    }

    /// The files, as `ls -l` shows them or by name alone.
    fn listing(&self, long: bool) -> String {
        let files = lock(&self.files);
        let lines = files.iter().map(|(name, content)| match long {
            true => format!(
                "-rw-r--r-- 1 ftp ftp {} Jan 01 2020 {name}\r\n",
                content.len()
            ),
            false => format!("{name}\r\n"),
        });
        lines.collect()
    }

    fn active(&mut self, verb: &str, rest: &str) -> Result<()> {
        let to = if verb == "PORT" {
            port_argument(rest)
        } else {
            eprt_argument(rest)
        };
        match to {
            // A client may name no other host (RFC 2577, section 3).
            Some(to) if to.ip() == plain(self.control.peer_addr()?.ip()) => {
                self.data = Data::Active(to);
                self.say("200 that port")
            }
            _ => self.say("501 not an address of yours"),
        }
    }

    fn passive(&mut self, verb: &str) -> Result<()> {
        let own = plain(self.control.local_addr()?.ip());
        let listener = self
            .ports
            .clone()
            .find_map(|port| listen(port, Some(own)).ok());
        let Some(listener) = listener else {
            return self.say("425 no port is free");
        };
        let port = listener.local_addr()?.port();
        self.data = Data::Passive(listener);
        if verb == "EPSV" {
            return self.say(&format!("229 Entering Extended Passive Mode (|||{port}|)"));
        }
        let IpAddr::V4(own) = own else {
            return self.say("425 EPSV, please");
        };
        let [a, b, c, d] = own.octets();
        let [high, low] = port.to_be_bytes();
        self.say(&format!(
            "227 Entering Passive Mode ({a},{b},{c},{d},{high},{low})."
        ))
    }

    /// Opens the data connection that was agreed on.
    fn open(&mut self) -> Result<TcpStream> {
        match std::mem::replace(&mut self.data, Data::Nowhere) {
            Data::Nowhere => bail!("no PORT and no PASV"),
            Data::Active(to) => {
                let own = plain(self.control.local_addr()?.ip());
                connect(to, Some(own), self.data_port)
            }
            Data::Passive(listener) => {
                let peer = plain(self.control.peer_addr()?.ip());
                let stream = accept(&listener, peer)?;
                stream.set_read_timeout(Some(PATIENCE))?;
                stream.set_write_timeout(Some(PATIENCE))?;
                Ok(stream)
            }
        }
    }

    fn send(&mut self, bytes: &[u8]) -> Result<()> {
        self.say("150 here it comes")?;
        let sent = self.open().and_then(|mut data| Ok(data.write_all(bytes)?));
        self.done(sent)
    }

    fn store(&mut self, name: &str) -> Result<()> {
        self.say("150 go ahead")?;
        let mut bytes = Vec::new();
        let got = self.open().and_then(|data| {
            data.set_read_timeout(Some(UPLOAD))?;
            Ok(data.take(MAX_FILE).read_to_end(&mut bytes)?)
        });
        let mut files = lock(&self.files);
        if got.is_ok() && files.len() < MAX_FILES {
            files.insert(name.trim_start_matches("pub/").to_owned(), bytes);
        }
        drop(files);
        self.done(got.map(drop))
    }

    fn done(&mut self, outcome: Result<()>) -> Result<()> {
        match outcome {
            Ok(()) => self.say("226 done"),
            Err(error) => self.say(&format!("425 {error:#}")),
        }
    }
}

/// IPv4 addresses as such, also where a socket serves both families.
fn plain(address: IpAddr) -> IpAddr {
    address.to_canonical()
}

/// Waits a while for `peer`; others are sent away.
pub(super) fn accept(listener: &TcpListener, peer: IpAddr) -> Result<TcpStream> {
    listener.set_nonblocking(true)?;
    let end = Instant::now() + PATIENCE;
    while Instant::now() < end {
        match listener.accept() {
            Ok((stream, from)) if plain(from.ip()) == peer => {
                stream.set_nonblocking(false)?;
                return Ok(stream);
            }
            Ok(_) | Err(_) => std::thread::sleep(Duration::from_millis(5)),
        }
    }
    bail!("nobody came")
}

/// `h1,h2,h3,h4,p1,p2`
pub(super) fn port_argument(text: &str) -> Option<SocketAddr> {
    let numbers = text.split(',').map(str::parse);
    let numbers: Vec<u8> = numbers.collect::<Result<_, _>>().ok()?;
    let [a, b, c, d, high, low] = *numbers.first_chunk::<6>()?;
    let port = u16::from_be_bytes([high, low]);
    (numbers.len() == 6).then_some(SocketAddr::from((Ipv4Addr::new(a, b, c, d), port)))
}

/// `|1|192.0.2.1|5000|`, `|2|2001:db8::1|5000|`
fn eprt_argument(text: &str) -> Option<SocketAddr> {
    let mut parts = text.strip_prefix('|')?.strip_suffix('|')?.split('|');
    let (_, address, port) = (parts.next()?, parts.next()?, parts.next()?);
    Some(SocketAddr::new(address.parse().ok()?, port.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_of_port_and_eprt() {
        let expected: SocketAddr = "192.0.2.1:5001".parse().unwrap();
        assert_eq!(port_argument("192,0,2,1,19,137"), Some(expected));
        assert_eq!(eprt_argument("|1|192.0.2.1|5001|"), Some(expected));
        let expected: SocketAddr = "[2001:db8::1]:21".parse().unwrap();
        assert_eq!(eprt_argument("|2|2001:db8::1|21|"), Some(expected));
        for wrong in ["", "1,2,3,4,5", "1,2,3,4,5,256", "1,2,3,4,5,6,7"] {
            assert_eq!(port_argument(wrong), None, "{wrong}");
        }
        for wrong in ["", "|", "||", "|1|192.0.2.1|", "|1|192.0.2.1|65536|"] {
            assert_eq!(eprt_argument(wrong), None, "{wrong}");
        }
    }
}
