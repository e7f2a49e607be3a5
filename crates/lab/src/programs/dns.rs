//! DNS: a server that knows one zone, and look-ups of IPv4 addresses (RFC 1035).

use std::net::Ipv4Addr;

use anyhow::{Context, Result, bail};

use super::udp::{bound, connected};
use super::words::{Words, resolve, waited};

/// Every name ends here.
const ADDRESS: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 80);
const PORT: u16 = 53;
const HEADER: usize = 12;

/// `dns-server`: answers every question for an address with the same one.
pub(super) fn serve(_: &Words) -> Result<()> {
    let socket = bound(PORT, None)?;
    let mut buffer = [0; 512];
    loop {
        let (len, from) = socket.recv_from(&mut buffer)?;
        let question = buffer.get(..len).unwrap_or_default();
        if let Some(answer) = answer(question) {
            let _ = socket.send_to(&answer, from);
        }
    }
}

/// The answer to a message with one question.
fn answer(question: &[u8]) -> Option<Vec<u8>> {
    let (id, body) = (question.get(..2)?, question.get(HEADER..)?);
    let name_end = body.iter().position(|b| *b == 0)? + 1;
    let asked = body.get(..name_end + 4)?;
    let mut answer = id.to_vec();
    // QR, RD, RA; one question, one answer.
    answer.extend([0x81, 0x80, 0, 1, 0, 1, 0, 0, 0, 0]);
    answer.extend(asked);
    // The name of the question, A, IN, a minute, four bytes.
    answer.extend([0xc0, 0x0c, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4]);
    answer.extend(ADDRESS.octets());
    Some(answer)
}

/// `dns-ask`
pub(super) fn ask(words: &Words) -> Result<()> {
    let server = resolve(words.word(0, "SERVER")?, PORT)?;
    let name = words.word(1, "NAME")?;
    let socket = connected(server, None, words.get("sport")?.unwrap_or(0))?;
    let question = question(name)?;
    socket.send(&question)?;
    let mut buffer = [0; 512];
    let len = socket.recv(&mut buffer).map_err(waited)?;
    let answer = buffer.get(..len).unwrap_or_default();
    if answer.get(..2) != question.get(..2) || answer.get(7) == Some(&0) {
        bail!("{name}: no address");
    }
    // One answer: its address is at the end.
    let address: [u8; 4] = *answer.last_chunk().context("a short answer")?;
    println!("{}", Ipv4Addr::from(address));
    Ok(())
}

fn question(name: &str) -> Result<Vec<u8>> {
    // RD; one question.
    let mut message = vec![0x7c, 0x01, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    for label in name.split('.') {
        let len = u8::try_from(label.len())
            .ok()
            .filter(|n| (1..64).contains(n));
        message.push(len.with_context(|| format!("{name} is no name"))?);
        message.extend(label.as_bytes());
    }
    // The root, A, IN.
    message.extend([0, 0, 1, 0, 1]);
    Ok(message)
}

#[cfg(test)]
mod tests {
    use super::*;

    // RFC 1035, section 4.1.
    #[test]
    fn a_question_and_its_answer() {
        let asked = question("www.example.test").unwrap();
        assert_eq!(&asked[12..], b"\x03www\x07example\x04test\0\0\x01\0\x01");
        let told = answer(&asked).unwrap();
        assert_eq!(&told[..2], &asked[..2]);
        assert_eq!(&told[12..asked.len()], &asked[12..]);
        assert_eq!(&told[told.len() - 6..], [0, 4, 192, 0, 2, 80]);
        for cut in 0..asked.len() {
            assert!(answer(&asked[..cut]).is_none());
        }
    }
}
