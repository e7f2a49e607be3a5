//! An FTP client that lists, fetches, stores and looks again (RFC 959, RFC 2428).

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use anyhow::{Context, Result, bail};

use super::PATIENCE;
use super::connect::{connect, listen};
use super::ftp_server::{content, port_argument};
use super::words::{Words, resolve, waited};

/// `ftp-client`: everything must be right, or it fails.
pub(super) fn transfer(words: &Words) -> Result<()> {
    let to = resolve(words.word(0, "HOST")?, words.get("port")?.unwrap_or(21))?;
    let mut client = Client::login(to, words.has("active"), words.has("extended"))?;
    let only = words.text("only");
    if only == Some("announce") {
        // A data connection that never comes.
        client.agree()?;
    }
    if let Some(seconds) = words.get::<u32>("slow")? {
        client.send_slowly("STOR pub/up", seconds.min(600) * PIECES)?;
    }
    for (name, work) in WORK {
        if only.is_none_or(|only| only == *name) {
            work(&mut client).with_context(|| (*name).to_owned())?;
        }
    }
    // Whatever was rewritten on the way: the control connection goes on.
    client.command("PWD")?;
    client.command("NOOP")?;
    client.command("QUIT")?;
    println!("done");
    Ok(())
}

type Work = fn(&mut Client) -> Result<()>;

/// What a client does after logging in; `--only` chooses one, or none of them.
const WORK: &[(&str, Work)] = &[
    ("list", |client| {
        let listing = client.receive("LIST")?;
        if !String::from_utf8_lossy(&listing).contains("file") {
            bail!("the listing names no file");
        }
        Ok(())
    }),
    ("get", |client| {
        let file = client.receive("RETR file")?;
        if file != content() {
            bail!(
                "the file has {} bytes, or others than it should",
                file.len()
            );
        }
        Ok(())
    }),
    ("put", |client| client.send("STOR pub/up", &content())),
];

/// Pieces of a slow upload in a second.
const PIECES: u32 = 10;

/// Patience with a connection that may be interrupted.
const LONG: Duration = Duration::from_secs(15);

struct Client {
    control: TcpStream,
    answers: BufReader<TcpStream>,
    active: bool,
    extended: bool,
}

/// A data connection that is, or will be.
enum Data {
    Open(TcpStream),
    Awaited(TcpListener),
}

impl Client {
    fn login(to: SocketAddr, active: bool, extended: bool) -> Result<Self> {
        let control = connect(to, None, 0)?;
        control.set_read_timeout(Some(PATIENCE * 2))?;
        let answers = BufReader::new(control.try_clone()?);
        let mut client = Client {
            control,
            answers,
            active,
            extended: extended || to.is_ipv6(),
        };
        client.answer()?;
        client.command("USER anonymous")?;
        client.command("PASS lab@")?;
        client.command("TYPE I")?;
        Ok(client)
    }

    fn command(&mut self, line: &str) -> Result<String> {
        self.control.write_all(format!("{line}\r\n").as_bytes())?;
        self.answer().with_context(|| line.to_owned())
    }

    /// The last line of an answer, if it is a good one.
    fn answer(&mut self) -> Result<String> {
        loop {
            let mut line = String::new();
            if self.answers.read_line(&mut line).map_err(waited)? == 0 {
                bail!("the server is gone");
            }
            let last = line.as_bytes().get(3) == Some(&b' ');
            match line.bytes().next() {
                Some(b'1'..=b'3') if last => return Ok(line),
                Some(b'4' | b'5') if last => bail!("{}", line.trim_end()),
                _ => {}
            }
        }
    }

    fn receive(&mut self, command: &str) -> Result<Vec<u8>> {
        let data = self.agree()?;
        self.command(command)?;
        let mut bytes = Vec::new();
        self.open(data)?.read_to_end(&mut bytes).map_err(waited)?;
        self.answer()?;
        Ok(bytes)
    }

    fn send(&mut self, command: &str, bytes: &[u8]) -> Result<()> {
        let data = self.agree()?;
        self.command(command)?;
        self.open(data)?.write_all(bytes)?;
        self.answer()?;
        Ok(())
    }

    /// Sends the same again and again, `pieces` times.
    fn send_slowly(&mut self, command: &str, pieces: u32) -> Result<()> {
        let data = self.agree()?;
        self.command(command)?;
        let mut data = self.open(data)?;
        data.set_write_timeout(Some(LONG))?;
        for _ in 0..pieces {
            data.write_all(&content()).map_err(waited)?;
            std::thread::sleep(Duration::from_secs(1) / PIECES);
        }
        drop(data);
        self.control.set_read_timeout(Some(LONG))?;
        self.answer()?;
        let size = self.command("SIZE up")?;
        let sent = content().len() * usize::try_from(pieces)?;
        if size.trim_end() != format!("213 {sent}") {
            bail!(
                "{sent} bytes were sent; the server says {}",
                size.trim_end()
            );
        }
        Ok(())
    }

    /// Agrees on the next data connection.
    fn agree(&mut self) -> Result<Data> {
        let (own, peer) = (
            self.control.local_addr()?.ip(),
            self.control.peer_addr()?.ip(),
        );
        if self.active {
            let listener = listen(0, Some(own))?;
            let port = listener.local_addr()?.port();
            let line = match own {
                IpAddr::V4(own) if !self.extended => {
                    let [a, b, c, d] = own.octets();
                    let [high, low] = port.to_be_bytes();
                    format!("PORT {a},{b},{c},{d},{high},{low}")
                }
                IpAddr::V4(_) => format!("EPRT |1|{own}|{port}|"),
                IpAddr::V6(_) => format!("EPRT |2|{own}|{port}|"),
            };
            self.command(&line)?;
            return Ok(Data::Awaited(listener));
        }
        let verb = if self.extended { "EPSV" } else { "PASV" };
        let answer = self.command(verb)?;
        let inner = answer.split(['(', ')']).nth(1).unwrap_or_default();
        let to = if self.extended {
            let port = inner.trim_matches('|').parse().ok();
            port.map(|port| SocketAddr::new(peer, port))
        } else {
            port_argument(inner)
        };
        let to = to.with_context(|| format!("not understood: {}", answer.trim_end()))?;
        connect(to, None, 0).map(Data::Open)
    }

    fn open(&self, data: Data) -> Result<TcpStream> {
        match data {
            Data::Open(stream) => Ok(stream),
            Data::Awaited(listener) => {
                let peer = self.control.peer_addr()?.ip();
                let stream = super::ftp_server::accept(&listener, peer)?;
                stream.set_read_timeout(Some(PATIENCE))?;
                Ok(stream)
            }
        }
    }
}
