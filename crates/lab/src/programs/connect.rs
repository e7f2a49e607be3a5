//! TCP: a server that greets and echoes, and a client that wants to be greeted.

use std::io::{self, BufRead, BufReader, ErrorKind, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use socket2::{Domain, Socket, Type};

use super::PATIENCE;
use super::words::{Words, any, resolve, waited};

const GREETING: &str = "hello";

/// Listens on a port of every address, IPv4 and IPv6, or of one.
pub(super) fn listen(port: u16, bind: Option<IpAddr>) -> Result<TcpListener> {
    let address = bind.unwrap_or_else(|| any("::".parse().unwrap_or(IpAddr::from([0; 16]))));
    let address = SocketAddr::new(address, port);
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
    socket.set_reuse_address(true)?;
    if address.is_ipv6() {
        socket.set_only_v6(false)?;
    }
    socket
        .bind(&address.into())
        .with_context(|| format!("port {port}"))?;
    socket.listen(128)?;
    Ok(socket.into())
}

/// Connects from a chosen address and port.
pub(super) fn connect(to: SocketAddr, from: Option<IpAddr>, sport: u16) -> Result<TcpStream> {
    let socket = Socket::new(Domain::for_address(to), Type::STREAM, None)?;
    if from.is_some() || sport != 0 {
        socket.set_reuse_address(true)?;
        let from = SocketAddr::new(from.unwrap_or_else(|| any(to.ip())), sport);
        socket
            .bind(&from.into())
            .with_context(|| format!("{from}"))?;
    }
    socket
        .connect_timeout(&to.into(), PATIENCE)
        .map_err(|error| waited(named(&socket, error)))
        .with_context(|| format!("{to}"))?;
    let stream = TcpStream::from(socket);
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    Ok(stream)
}

/// Why a connection failed. The kernel can say that one has, by poll(2), some microseconds before
/// `SO_ERROR` says why: an ICMP error that comes just as connect(2) ends.
fn named(socket: &Socket, error: io::Error) -> io::Error {
    if error.raw_os_error().is_some() || error.kind() == ErrorKind::TimedOut {
        return error;
    }
    let told = (0..100).find_map(|_| {
        std::thread::sleep(Duration::from_millis(1));
        socket.take_error().ok().flatten()
    });
    told.unwrap_or(error)
}

/// Handles each connection in a thread of its own.
pub(super) fn serve_each(
    listener: &TcpListener,
    handle: impl Fn(TcpStream) -> Result<()> + Send + Clone + 'static,
) -> Result<()> {
    for stream in listener.incoming() {
        let (Ok(stream), handle) = (stream, handle.clone()) else {
            continue;
        };
        std::thread::spawn(move || {
            if let Err(error) = handle(stream) {
                eprintln!("{error:#}");
            }
        });
    }
    Ok(())
}

/// `tcp-server`
pub(super) fn serve(words: &Words) -> Result<()> {
    let listener = listen(words.port(0)?, words.get("bind")?)?;
    serve_each(&listener, |mut stream| {
        stream.write_all(format!("{GREETING}\n").as_bytes())?;
        let mut reader = BufReader::new(stream.try_clone()?);
        let mut line = String::new();
        while reader.read_line(&mut line)? > 0 {
            stream.write_all(line.as_bytes())?;
            line.clear();
        }
        Ok(())
    })
}

/// `tcp-connect`: connects, says a line, expects it back, closes. With `--keep` it goes
/// on saying a line every tenth of a second for that long.
pub(super) fn ask(words: &Words) -> Result<()> {
    let to = resolve(words.word(0, "HOST")?, words.port(1)?)?;
    let stream = connect(to, words.get("from")?, words.get("sport")?.unwrap_or(0))?;
    let keep: f64 = words.get("keep")?.unwrap_or(0.0);
    let mut reader = BufReader::new(stream.try_clone()?);
    expect(&mut reader, GREETING)?;
    let mut writer = stream;
    let rounds = (keep.clamp(0.0, 3600.0) * 10.0).round() as u32;
    for round in 0..=rounds {
        if round > 0 {
            std::thread::sleep(Duration::from_millis(100));
        }
        writer.write_all(format!("line {round}\n").as_bytes())?;
        expect(&mut reader, &format!("line {round}"))?;
    }
    println!("connected to {to} from {}", writer.local_addr()?);
    Ok(())
}

fn expect(reader: &mut impl BufRead, wanted: &str) -> Result<()> {
    let mut line = String::new();
    reader.read_line(&mut line).map_err(waited)?;
    if line.trim_end() != wanted {
        bail!("`{wanted}' was to come, and `{}' came", line.trim_end());
    }
    Ok(())
}
