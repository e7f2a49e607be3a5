//! HTTP/1.0: one page, and a client for it.

use std::io::{BufRead, BufReader, Read, Write};

use anyhow::{Context, Result, bail};

use super::connect::{connect, listen, serve_each};
use super::words::{Words, resolve, waited};

/// Most bytes of a page.
const MAX_PAGE: u64 = 1 << 24;

fn page() -> String {
    "hello ".repeat(600)
}

/// `web-server`
pub(super) fn serve(words: &Words) -> Result<()> {
    let listener = listen(words.port(0)?, None)?;
    serve_each(&listener, |mut stream| {
        let mut reader = BufReader::new(stream.try_clone()?.take(1 << 16));
        let mut line = String::new();
        // The request ends with an empty line.
        while reader.read_line(&mut line)? > 2 {
            line.clear();
        }
        let page = page();
        write!(
            stream,
            "HTTP/1.0 200 OK\r\nContent-Type: text/plain\r\nContent-Length: {}\r\n\r\n{page}",
            page.len()
        )?;
        Ok(())
    })
}

/// `web-get`
pub(super) fn get(words: &Words) -> Result<()> {
    let url = words.word(0, "URL")?;
    let rest = url
        .strip_prefix("http://")
        .context("only http:// is known")?;
    let (place, path) = rest.split_once('/').unwrap_or((rest, ""));
    let (host, port) = match place.rsplit_once(':') {
        Some((host, port)) if !port.contains(']') => (host, port.parse()?),
        _ => (place, 80),
    };
    let host = host.trim_matches(['[', ']']);
    let mut stream = connect(resolve(host, port)?, None, 0)?;
    write!(stream, "GET /{path} HTTP/1.0\r\nHost: {place}\r\n\r\n")?;
    let mut answer = Vec::new();
    let mut limited = stream.take(MAX_PAGE);
    limited.read_to_end(&mut answer).map_err(waited)?;
    let answer = String::from_utf8_lossy(&answer);
    let (head, body) = answer
        .split_once("\r\n\r\n")
        .context("no answer of HTTP's kind")?;
    let status = head.lines().next().unwrap_or_default();
    if status.split(' ').nth(1) != Some("200") {
        bail!("{status}");
    }
    println!("{} bytes", body.len());
    Ok(())
}
