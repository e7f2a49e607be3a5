//! Packets and orders as lines of text, for programs in any language.

use std::fmt::Write;

use serde::{Deserialize, Serialize};
use tidegate_engine::Answer;

use super::{About, Order, Packet, Verdict, Words, verdict};

#[derive(Serialize)]
struct PacketLine<'p> {
    #[serde(flatten)]
    about: &'p About,
    packet: String,
}

/// An order as a line.
#[derive(Deserialize)]
struct OrderLine {
    #[serde(flatten)]
    words: Words,
    packet: Option<String>,
}

impl Packet {
    /// The packet as one line of JSON: [`About`], and its bytes as hexadecimal digits under
    /// `packet`.
    ///
    /// # Errors
    /// It cannot be said in JSON.
    pub fn line(&self) -> serde_json::Result<String> {
        let mut packet = String::with_capacity(self.bytes.len() * 2);
        for byte in &self.bytes {
            // Strings take everything.
            let _ = write!(packet, "{byte:02x}");
        }
        let about = &self.about;
        serde_json::to_string(&PacketLine { about, packet })
    }
}

impl Order {
    /// Reads a line: JSON as in frames, with new bytes as hexadecimal digits under `packet`;
    /// or the verdict alone and perhaps a mark, about the packet `oldest`.
    ///
    /// # Errors
    /// It is no order; the text says why.
    pub fn from_line(line: &str, oldest: Option<u32>) -> Result<Self, String> {
        if line.trim_start().starts_with('{') {
            let read: OrderLine = serde_json::from_str(line).map_err(|e| e.to_string())?;
            let bytes = match read.packet {
                Some(digits) => Some(from_hex(&digits).ok_or("`packet` is not hexadecimal")?),
                None => None,
            };
            return read.words.order(bytes).map_err(str::to_owned);
        }
        let id = oldest.ok_or("a verdict, but no packet waits")?;
        let mut words = line.split_whitespace();
        let word = words.next().unwrap_or_default();
        let verdict = verdict(&word.to_lowercase(), None)
            .ok_or_else(|| format!("`{word}` is not accept, drop or repeat"))?;
        let mark = match words.next() {
            Some(mark) => Some(number(mark).ok_or_else(|| format!("`{mark}` is no mark"))?),
            None => None,
        };
        match words.next() {
            Some(more) => Err(format!("`{more}` after a verdict and a mark")),
            None => Ok(Order::about(id, verdict, mark)),
        }
    }

    /// An order about one packet.
    #[must_use]
    pub fn about(id: u32, verdict: Verdict, mark: Option<u32>) -> Self {
        Order {
            id,
            up_to: false,
            answer: Answer {
                mark,
                ..verdict.into()
            },
        }
    }
}

/// A number as marks are written: decimal, or hexadecimal after `0x`.
#[must_use]
pub fn number(text: &str) -> Option<u32> {
    match text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")) {
        Some(digits) => u32::from_str_radix(digits, 16).ok(),
        None => text.parse().ok(),
    }
}

fn from_hex(digits: &str) -> Option<Vec<u8>> {
    let (pairs, rest) = digits.as_bytes().as_chunks::<2>();
    let value = |digit: u8| char::from(digit).to_digit(16);
    let byte = |&[high, low]: &[u8; 2]| Some((value(high)? << 4 | value(low)?) as u8);
    let bytes = pairs.iter().map(byte).collect::<Option<Vec<u8>>>();
    bytes.filter(|_| rest.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_packet_is_a_line() {
        let packet = Packet {
            about: About {
                queue: 3,
                id: 1,
                hook: "FORWARD".to_owned(),
                family: "ipv4".to_owned(),
                len: 20,
                input: Some("eth0".to_owned()),
                ..About::default()
            },
            bytes: vec![0x45, 0, 0xff],
        };
        let wanted = r#"{"queue":3,"id":1,"hook":"FORWARD","family":"ipv4","mark":0,"len":20,"in":"eth0","packet":"4500ff"}"#;
        assert_eq!(packet.line().unwrap(), wanted);
    }

    #[test]
    fn a_line_is_an_order() {
        let read = |line: &str| Order::from_line(line, Some(5)).unwrap();
        assert_eq!(read("accept"), Order::about(5, Verdict::Accept, None));
        assert_eq!(read(" DROP "), Order::about(5, Verdict::Drop, None));
        assert_eq!(
            read("repeat 0x1f"),
            Order::about(5, Verdict::Repeat, Some(31))
        );
        let json = read(r#"{"id":9,"verdict":"accept","packet":"4500FF"}"#);
        assert_eq!((json.id, json.answer.bytes), (9, Some(vec![0x45, 0, 0xff])));
        let json = read(r#"{"id":9,"verdict":"queue","queue":4,"mark":1}"#);
        assert_eq!(json, Order::about(9, Verdict::Queue(4), Some(1)));
        for line in [
            "",
            "queue",
            "accept x",
            "accept 1 2",
            "accept 4294967296",
            "{",
            r#"{"id":9}"#,
            r#"{"id":9,"verdict":"accept","packet":"450"}"#,
            r#"{"id":9,"verdict":"accept","packet":"zz"}"#,
            r#"{"id":9,"verdict":"accept","up_to":true,"packet":"45"}"#,
        ] {
            assert!(Order::from_line(line, Some(5)).is_err(), "{line}");
        }
        assert!(Order::from_line("accept", None).is_err());
    }
}
