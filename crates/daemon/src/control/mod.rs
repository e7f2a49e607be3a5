//! The control socket: how tools reach the running firewall.
//!
//! A client connects, sends one [`Request`] and gets [`Frame`]s until the exit status. What
//! was read where the command was typed may be long: it follows the request as it is.
//! A frame is one byte for its kind, the payload's length as a big-endian 32-bit
//! number, and the payload.

mod auth;
mod client;
mod reply;
mod server;
mod slots;

use std::io::{self, Read, Write};
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

pub use auth::Allowed;
pub use client::{Call, Enough, Unreachable, call};
pub use reply::Reply;
pub(crate) use server::Answer;
pub use server::Server;

/// Where the socket is unless told otherwise.
pub const DEFAULT_SOCKET: &str = "/run/tidegate/control.sock";
/// Names the socket for clients.
pub const SOCKET_VARIABLE: &str = "TIDEGATE_SOCKET";
/// Longest request: a rules file of several hundred thousand rules.
pub const MAX_REQUEST: usize = 128 << 20;
/// Output is sent in pieces of at most this many bytes.
const PIECE: usize = 64 << 10;

/// What a client asks for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Request {
    /// Tool or command.
    pub name: String,
    /// Its arguments.
    pub words: Vec<String>,
    /// What was read where the command was typed.
    pub input: String,
}

/// A request's first frame, as JSON.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Head {
    name: String,
    #[serde(default)]
    words: Vec<String>,
    /// Short input can stand here.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    input: String,
    /// Input follows in a frame of its own, as it is. Daemons from before know requests
    /// without it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    follows: bool,
}

impl Request {
    /// Writes the request.
    ///
    /// # Errors
    /// As [`Frame::write`].
    pub fn write(&self, to: &mut impl Write) -> io::Result<()> {
        let head = Head {
            name: self.name.clone(),
            words: self.words.clone(),
            input: String::new(),
            follows: !self.input.is_empty(),
        };
        Frame::Request(serde_json::to_vec(&head)?).write(to)?;
        match head.follows {
            true => send(b'I', self.input.as_bytes(), to),
            false => Ok(()),
        }
    }

    /// Reads a request.
    ///
    /// # Errors
    /// As [`Frame::read`]; it is no request, or not UTF-8.
    pub fn read(from: &mut impl Read) -> io::Result<Self> {
        let invalid = |why| io::Error::new(io::ErrorKind::InvalidData, why);
        let Frame::Request(body) = Frame::read(from, MAX_REQUEST)? else {
            return Err(invalid("not a request"));
        };
        let head: Head = serde_json::from_slice(&body)?;
        let input = match head.follows {
            false => head.input,
            true => match Frame::read(from, MAX_REQUEST - body.len())? {
                Frame::Input(bytes) => {
                    String::from_utf8(bytes).map_err(|_| invalid("input that is not UTF-8"))?
                }
                _ => return Err(invalid("not the input of a request")),
            },
        };
        Ok(Request {
            name: head.name,
            words: head.words,
            input,
        })
    }
}

/// One piece of an exchange.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Frame {
    /// A [`Request`] as JSON.
    Request(Vec<u8>),
    /// What follows a request.
    Input(Vec<u8>),
    /// For standard output.
    Out(Vec<u8>),
    /// For standard error.
    Err(Vec<u8>),
    /// For the reader of a queue: a packet ([`crate::queue`]).
    Packet(Vec<u8>),
    /// From the reader of a queue: what becomes of packets.
    Verdict(Vec<u8>),
    /// The end, with the exit status.
    Exit(u8),
}

impl Frame {
    /// Writes the frame.
    ///
    /// # Errors
    /// The other end is gone or does not read.
    pub fn write(&self, to: &mut impl Write) -> io::Result<()> {
        let (kind, payload) = match self {
            Frame::Request(bytes) => (b'Q', bytes.as_slice()),
            Frame::Input(bytes) => (b'I', bytes.as_slice()),
            Frame::Out(bytes) => (b'O', bytes.as_slice()),
            Frame::Err(bytes) => (b'E', bytes.as_slice()),
            Frame::Packet(bytes) => (b'P', bytes.as_slice()),
            Frame::Verdict(bytes) => (b'V', bytes.as_slice()),
            Frame::Exit(status) => (b'X', std::slice::from_ref(status)),
        };
        send(kind, payload, to)
    }

    /// Reads a frame of at most `limit` bytes.
    ///
    /// # Errors
    /// The other end is gone, or sends what is no frame.
    pub fn read(from: &mut impl Read, limit: usize) -> io::Result<Self> {
        let mut head = [0; 5];
        from.read_exact(&mut head)?;
        let [kind, len @ ..] = head;
        let len = u32::from_be_bytes(len) as usize;
        if len > limit {
            return Err(too_long(len));
        }
        // Memory is taken as bytes come in, not as the header claims.
        let mut payload = Vec::new();
        from.take(len as u64).read_to_end(&mut payload)?;
        if payload.len() < len {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        match (kind, payload.as_slice()) {
            (b'Q', _) => Ok(Frame::Request(payload)),
            (b'I', _) => Ok(Frame::Input(payload)),
            (b'O', _) => Ok(Frame::Out(payload)),
            (b'E', _) => Ok(Frame::Err(payload)),
            (b'P', _) => Ok(Frame::Packet(payload)),
            (b'V', _) => Ok(Frame::Verdict(payload)),
            (b'X', &[status]) => Ok(Frame::Exit(status)),
            _ => Err(io::Error::new(
                io::ErrorKind::InvalidData,
                "not a message of tidegate's control protocol",
            )),
        }
    }
}

fn send(kind: u8, payload: &[u8], to: &mut impl Write) -> io::Result<()> {
    let len = u32::try_from(payload.len()).map_err(|_| too_long(payload.len()))?;
    let mut head = [kind; 5];
    head[1..].copy_from_slice(&len.to_be_bytes());
    to.write_all(&head)?;
    to.write_all(payload)?;
    to.flush()
}

fn too_long(len: usize) -> io::Error {
    let text = format!("a message of {len} bytes is longer than allowed");
    io::Error::new(io::ErrorKind::InvalidData, text)
}

/// Where a client looks for the socket: `TIDEGATE_SOCKET`, else the usual place, else
/// the user's own runtime directory.
#[must_use]
pub fn socket_path() -> PathBuf {
    if let Some(path) = std::env::var_os(SOCKET_VARIABLE).filter(|p| !p.is_empty()) {
        return path.into();
    }
    let usual = PathBuf::from(DEFAULT_SOCKET);
    match own_socket() {
        Some(own) if !usual.exists() && own.exists() => own,
        _ => usual,
    }
}

/// The socket of a daemon that an ordinary user runs.
#[must_use]
pub fn own_socket() -> Option<PathBuf> {
    let directory = std::env::var_os("XDG_RUNTIME_DIR").filter(|d| !d.is_empty())?;
    Some(PathBuf::from(directory).join("tidegate/control.sock"))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn frames() -> impl Strategy<Value = Frame> {
        let bytes = || prop::collection::vec(any::<u8>(), 0..300);
        prop_oneof![
            bytes().prop_map(Frame::Request),
            bytes().prop_map(Frame::Input),
            bytes().prop_map(Frame::Out),
            bytes().prop_map(Frame::Err),
            bytes().prop_map(Frame::Packet),
            bytes().prop_map(Frame::Verdict),
            any::<u8>().prop_map(Frame::Exit),
        ]
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(frames in prop::collection::vec(frames(), 0..8)) {
            let mut wire = Vec::new();
            for frame in &frames {
                frame.write(&mut wire).unwrap();
            }
            let mut rest = wire.as_slice();
            for frame in &frames {
                prop_assert_eq!(&Frame::read(&mut rest, 1000).unwrap(), frame);
            }
            prop_assert!(rest.is_empty());
        }

        #[test]
        fn any_bytes_are_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..600)) {
            let mut rest = bytes.as_slice();
            while Frame::read(&mut rest, 500).is_ok() {}
        }
    }

    #[test]
    fn a_length_is_not_believed_before_the_bytes_come() {
        let mut wire: &[u8] = &[b'Q', 0xff, 0xff, 0xff, 0xff, 1, 2, 3];
        let refused = Frame::read(&mut wire, MAX_REQUEST).unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::InvalidData);
        let mut wire: &[u8] = &[b'Q', 0x07, 0, 0, 0, 1, 2, 3];
        let refused = Frame::read(&mut wire, MAX_REQUEST).unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::UnexpectedEof);
    }

    #[test]
    fn input_follows_a_request_as_it_is() {
        for input in ["", "*filter\n\"COMMIT\"\n\u{e9}"] {
            let request = Request {
                name: "iptables-restore".to_owned(),
                words: vec!["-n".to_owned()],
                input: input.to_owned(),
            };
            let mut wire = Vec::new();
            request.write(&mut wire).unwrap();
            assert!(wire.ends_with(input.as_bytes()));
            assert_eq!(Request::read(&mut wire.as_slice()).unwrap(), request);
            // Half of it is nothing.
            let half = &wire[..wire.len() - 1];
            assert!(Request::read(&mut { half }).is_err());
        }
        let mut wire = Vec::new();
        let short = br#"{"name":"ipset","input":"list"}"#.to_vec();
        Frame::Request(short).write(&mut wire).unwrap();
        assert_eq!(Request::read(&mut wire.as_slice()).unwrap().input, "list");
        let mut wire = Vec::new();
        let promised = br#"{"name":"ipset","follows":true}"#.to_vec();
        Frame::Request(promised).write(&mut wire).unwrap();
        Frame::Exit(0).write(&mut wire).unwrap();
        assert!(Request::read(&mut wire.as_slice()).is_err());
    }
}
