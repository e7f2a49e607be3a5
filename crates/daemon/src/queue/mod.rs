//! Queues that other programs read (`-j NFQUEUE`), over the control socket.
//!
//! A reader sends the request `queue bind NUMBER`, with options. From the answer `O` on,
//! frames of kind `P` bring packets, and frames of kind `V` take what is to become of them;
//! both hold a big-endian 32-bit length, as many bytes of JSON ([`About`], [`Order`]), and
//! then the packet's bytes. An order that is refused is answered by a frame `E` that says
//! why; what is no order ends it all. Packets that wait when the reader goes are discarded.

mod client;
mod lines;
mod serve;

use std::io;

use serde::{Deserialize, Serialize};
use tidegate_engine::{Answer, QUEUE_LEN, QUEUE_LEN_MAX, QueueSettings};

pub use client::Reader;
pub use lines::number;
pub(crate) use serve::{Readers, serve};
pub use tidegate_engine::QueueVerdict as Verdict;

/// Longest packet there is: a header of IPv6 and what its length can say.
const LONGEST: usize = 40 + u16::MAX as usize;
/// Longest JSON of a frame.
const MAX_HEAD: usize = 4096;
/// Longest frame.
pub(crate) const MAX_FRAME: usize = 4 + MAX_HEAD + LONGEST;

/// How a queue is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Binding {
    /// The queue.
    pub queue: u16,
    /// How many packets may wait, and what becomes of others.
    pub settings: QueueSettings,
    /// Bytes of each packet that the reader wants (`NFQA_CFG_PARAMS`).
    pub range: u32,
}

impl Binding {
    /// Whole packets, and as many as the kernel lets wait.
    #[must_use]
    pub fn new(queue: u16) -> Self {
        Binding {
            queue,
            settings: QueueSettings::default(),
            range: u32::MAX,
        }
    }

    /// The words of the request.
    #[must_use]
    pub fn words(&self) -> Vec<String> {
        let mut words = vec!["bind".to_owned(), self.queue.to_string()];
        let numbers = [
            ("--max-len", self.settings.max_len, QUEUE_LEN),
            ("--range", self.range, u32::MAX),
        ];
        for (word, value, usual) in numbers {
            if value != usual {
                words.extend([word.to_owned(), value.to_string()]);
            }
        }
        if self.settings.fail_open {
            words.push("--fail-open".to_owned());
        }
        words
    }

    /// Reads them, without the first.
    ///
    /// # Errors
    /// They make no sense; the text says why.
    pub fn read(words: &[String]) -> Result<Self, String> {
        let (queue, mut words) = words.split_first().ok_or("which queue?")?;
        let number = queue.parse();
        let mut binding =
            Binding::new(number.map_err(|_| format!("`{queue}` is no queue: 0 to 65535"))?);
        while let Some((word, rest)) = words.split_first() {
            words = rest;
            let mut number = |most: u32| {
                let (value, rest) = words
                    .split_first()
                    .ok_or(format!("{word} takes a number"))?;
                words = rest;
                let read = value.parse().ok().filter(|n| *n <= most);
                read.ok_or_else(|| format!("{word}: `{value}` is not a number up to {most}"))
            };
            match word.as_str() {
                "--max-len" => binding.settings.max_len = number(QUEUE_LEN_MAX)?,
                "--range" => binding.range = number(u32::MAX)?,
                "--fail-open" => binding.settings.fail_open = true,
                _ => return Err(format!("`queue bind` knows no `{word}`")),
            }
        }
        Ok(binding)
    }
}

/// What is told of a packet.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct About {
    /// The queue.
    pub queue: u16,
    /// Its number there.
    pub id: u32,
    /// `PREROUTING`, `INPUT`, `FORWARD`, `OUTPUT` or `POSTROUTING`.
    pub hook: String,
    /// `ipv4` or `ipv6`.
    pub family: String,
    /// Packet mark.
    pub mark: u32,
    /// Length of the whole packet in bytes.
    pub len: u32,
    /// Input interface.
    #[serde(rename = "in", skip_serializing_if = "Option::is_none")]
    pub input: Option<String>,
    /// Output interface.
    #[serde(rename = "out", skip_serializing_if = "Option::is_none")]
    pub output: Option<String>,
    /// Ethernet address of who sent it over the link.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mac: Option<String>,
    /// User and group of the local socket that sent it, where rules ask for sockets.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub uid: Option<u32>,
    /// The group.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gid: Option<u32>,
    /// Its connection.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub connection: Option<Connection>,
    /// It stands for several TCP segments with so many bytes of payload.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub segment: Option<u16>,
}

/// A packet's connection.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Connection {
    /// Its number, as `conntrack -o id` shows it.
    pub id: u32,
    /// What the packet is to it: `NEW`, `ESTABLISHED` or `RELATED`.
    pub state: String,
    /// Whether the packet goes against the direction in which the connection was opened.
    pub reply: bool,
    /// The connection's mark.
    pub mark: u32,
}

/// A packet that waits.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Packet {
    /// What is told of it.
    pub about: About,
    /// Its bytes from the network header on, as many as were asked for.
    pub bytes: Vec<u8>,
}

/// What is to become of packets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Order {
    /// The packet's number.
    pub id: u32,
    /// All that wait up to that number are meant.
    pub up_to: bool,
    /// What becomes of it. Several at a time can be given marks, but no other bytes.
    pub answer: Answer,
}

/// An order as JSON.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Words {
    id: u32,
    verdict: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    queue: Option<u16>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    mark: Option<u32>,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    up_to: bool,
}

impl Order {
    fn words(&self) -> Words {
        let (verdict, queue) = match self.answer.verdict {
            Verdict::Drop => ("drop", None),
            Verdict::Accept => ("accept", None),
            Verdict::Repeat => ("repeat", None),
            Verdict::Queue(queue) => ("queue", Some(queue)),
        };
        Words {
            id: self.id,
            verdict: verdict.to_owned(),
            queue,
            mark: self.answer.mark,
            up_to: self.up_to,
        }
    }

    /// The frame's payload.
    ///
    /// # Errors
    /// It cannot be said in JSON.
    pub fn encode(&self) -> io::Result<Vec<u8>> {
        join(&self.words(), self.answer.bytes.as_deref().unwrap_or(&[]))
    }

    /// Reads a frame's payload.
    ///
    /// # Errors
    /// It is no order; the text says why.
    pub fn decode(payload: &[u8]) -> io::Result<Self> {
        let (words, bytes): (Words, _) = split(payload)?;
        let bytes = (!bytes.is_empty()).then(|| bytes.to_vec());
        words.order(bytes).map_err(invalid)
    }
}

impl Words {
    fn order(self, bytes: Option<Vec<u8>>) -> Result<Order, &'static str> {
        let verdict = verdict(&self.verdict, self.queue)
            .ok_or("a verdict is accept, drop, repeat or queue (with a queue)")?;
        if self.up_to && bytes.is_some() {
            return Err("several packets cannot get the same bytes");
        }
        Ok(Order {
            id: self.id,
            up_to: self.up_to,
            answer: Answer {
                verdict,
                mark: self.mark,
                bytes,
            },
        })
    }
}

fn verdict(word: &str, queue: Option<u16>) -> Option<Verdict> {
    match (word, queue) {
        ("accept", None) => Some(Verdict::Accept),
        ("drop", None) => Some(Verdict::Drop),
        ("repeat", None) => Some(Verdict::Repeat),
        ("queue", Some(queue)) => Some(Verdict::Queue(queue)),
        _ => None,
    }
}

impl Packet {
    /// The frame's payload.
    ///
    /// # Errors
    /// It cannot be said in JSON.
    pub fn encode(&self) -> io::Result<Vec<u8>> {
        join(&self.about, &self.bytes)
    }

    /// Reads a frame's payload.
    ///
    /// # Errors
    /// It holds no packet.
    pub fn decode(payload: &[u8]) -> io::Result<Self> {
        let (about, bytes) = split(payload)?;
        let bytes = bytes.to_vec();
        Ok(Packet { about, bytes })
    }
}

fn join(head: &impl Serialize, bytes: &[u8]) -> io::Result<Vec<u8>> {
    let head = serde_json::to_vec(head)?;
    let mut payload = Vec::with_capacity(4 + head.len() + bytes.len());
    payload.extend_from_slice(&(head.len() as u32).to_be_bytes());
    payload.extend_from_slice(&head);
    payload.extend_from_slice(bytes);
    Ok(payload)
}

fn split<'p, H: Deserialize<'p>>(payload: &'p [u8]) -> io::Result<(H, &'p [u8])> {
    let short = || invalid("a frame that ends inside its head");
    let (len, rest) = payload.split_first_chunk().ok_or_else(short)?;
    let len = u32::from_be_bytes(*len) as usize;
    let (head, bytes) = rest.split_at_checked(len).ok_or_else(short)?;
    if len > MAX_HEAD {
        return Err(invalid("a head that is too long"));
    }
    Ok((serde_json::from_slice(head)?, bytes))
}

fn invalid(why: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn order(verdict: Verdict, mark: Option<u32>, bytes: Option<Vec<u8>>) -> Order {
        Order {
            id: 7,
            up_to: false,
            answer: Answer {
                verdict,
                mark,
                bytes,
            },
        }
    }

    #[test]
    fn orders_are_read_as_they_are_written() {
        for order in [
            order(Verdict::Accept, Some(9), Some(vec![0x45, 0])),
            order(Verdict::Drop, None, None),
            order(Verdict::Queue(4), None, None),
            Order {
                up_to: true,
                ..order(Verdict::Repeat, Some(0), None)
            },
        ] {
            assert_eq!(Order::decode(&order.encode().unwrap()).unwrap(), order);
        }
        let written = order(Verdict::Accept, Some(9), Some(b"packet".to_vec()));
        let written = written.encode().unwrap();
        let wanted = br#"{"id":7,"verdict":"accept","mark":9}packet"#;
        assert_eq!(written[..4], [0, 0, 0, 36]);
        assert_eq!(&written[4..], wanted);
    }

    #[test]
    fn what_is_no_order_is_refused() {
        let framed = |json: &str| {
            let mut payload = (json.len() as u32).to_be_bytes().to_vec();
            payload.extend_from_slice(json.as_bytes());
            payload
        };
        for json in [
            "",
            "{}",
            r#"{"id":1}"#,
            r#"{"id":-1,"verdict":"accept"}"#,
            r#"{"id":1,"verdict":"stolen"}"#,
            r#"{"id":1,"verdict":"queue"}"#,
            r#"{"id":1,"verdict":"accept","queue":3}"#,
            r#"{"id":1,"verdict":"accept","what":3}"#,
            r#"{"id":1,"verdict":"accept","mark":4294967296}"#,
        ] {
            assert!(Order::decode(&framed(json)).is_err(), "{json}");
        }
        let mut several = framed(r#"{"id":1,"verdict":"accept","up_to":true}"#);
        assert!(Order::decode(&several).is_ok());
        several.push(0x45);
        assert!(Order::decode(&several).is_err());
    }

    #[test]
    fn bindings_are_read_as_they_are_written() {
        let mut binding = Binding::new(3);
        assert_eq!(binding.words(), ["bind", "3"]);
        assert_eq!(Binding::read(&binding.words()[1..]), Ok(binding));
        binding.range = 96;
        binding.settings.max_len = 2;
        binding.settings.fail_open = true;
        assert_eq!(Binding::read(&binding.words()[1..]), Ok(binding));
        let refused = |words: &str| {
            let words: Vec<String> = words.split(' ').map(str::to_owned).collect();
            Binding::read(&words).unwrap_err()
        };
        for words in ["", "65536", "3 --max-len", "3 --max-len 65537", "3 --what"] {
            assert!(!refused(words).is_empty());
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let _ = (Order::decode(&bytes), Packet::decode(&bytes));
        }
    }
}
