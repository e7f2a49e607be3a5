//! NFLOG's packets in capture files, one per group.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;

use tidegate_capture::{Direction, LinkType, Reader, WriteError, Writer};
use tidegate_engine::{Device, Nflog};

use crate::config;
use crate::handle::Packet;
use crate::line::printable;
use crate::rotate::{Naming, Rotating};
use crate::status::Meter;

/// Bytes held back at most.
const HELD: usize = 256 << 10;
/// Interfaces of a section, after which another begins.
const INTERFACES: usize = 1000;
/// Bytes that a block takes besides packet and comment, an interface's description
/// included.
const AROUND: usize = 256;

/// All groups.
#[derive(Debug)]
pub(crate) struct Captures {
    config: config::Captures,
    groups: BTreeMap<u16, Group>,
}

impl Captures {
    pub(crate) fn new(config: config::Captures) -> Self {
        Captures {
            config,
            groups: BTreeMap::new(),
        }
    }

    /// Takes a packet.
    pub(crate) fn write(&mut self, packet: &Packet, meter: &Meter) {
        let number = packet.copy.group;
        if !self.groups.contains_key(&number) {
            if self.groups.len() >= self.config.groups {
                let why = format!("group {number} is one too many");
                return meter.failure(1, &why);
            }
            self.groups.insert(number, Group::new(&self.config, number));
        }
        if let Some(group) = self.groups.get_mut(&number) {
            group.write(packet, meter);
        }
    }

    /// Writes out what is held back.
    pub(crate) fn flush(&mut self, meter: &Meter) {
        for group in self.groups.values_mut() {
            group.flush(meter);
        }
    }
}

/// A section being written.
struct Section {
    writer: Writer<Vec<u8>>,
    interfaces: BTreeMap<String, u32>,
}

impl Section {
    fn new() -> Result<Self, WriteError> {
        let application = concat!("tidegate ", env!("CARGO_PKG_VERSION"));
        Ok(Section {
            writer: Writer::new(Vec::new(), application)?,
            interfaces: BTreeMap::new(),
        })
    }

    fn packet(&mut self, packet: &Packet, comment: &str) -> Result<(), WriteError> {
        let copy = &packet.copy;
        let (name, direction) = device(copy);
        let id = match self.interfaces.get(name) {
            Some(id) => *id,
            None => {
                let id = self.writer.add_interface(Some(name), LinkType::Raw)?;
                self.interfaces.insert(name.to_owned(), id);
                id
            }
        };
        self.writer
            .packet(id, packet.at, direction, &copy.bytes, copy.len, comment)
    }
}

/// One group's file.
struct Group {
    file: Rotating,
    section: Option<Section>,
    /// Packets held back.
    held: u64,
}

impl std::fmt::Debug for Group {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Group")
            .field("file", &self.file)
            .finish_non_exhaustive()
    }
}

impl Group {
    fn new(config: &config::Captures, number: u16) -> Self {
        let path = config.directory.join(format!("nflog-{number}.pcapng"));
        Group {
            file: Rotating::new(&path, config.size, config.keep, Naming::BeforeExtension),
            section: None,
            held: 0,
        }
    }

    fn write(&mut self, packet: &Packet, meter: &Meter) {
        let comment = comment(&packet.copy);
        let size = packet.copy.bytes.len() + comment.len() + AROUND;
        let taken = self
            .make_room(size, meter)
            .and_then(|()| self.encode(packet, &comment).map_err(into_io));
        match taken {
            Ok(()) => self.held += 1,
            Err(e) => meter.failure(1, &e),
        }
        if self.pending() >= HELD {
            self.flush(meter);
        }
    }

    fn pending(&mut self) -> usize {
        let section = self.section.as_mut();
        section.map_or(0, |s| s.writer.get_mut().len())
    }

    /// Sees to a file that the next block fits in.
    fn make_room(&mut self, size: usize, meter: &Meter) -> io::Result<()> {
        let fresh = self.file.ensure()?;
        if fresh {
            // What was not written out belonged to another file.
            self.section = None;
            if !ends_well(&mut self.file)? {
                self.file.rotate()?;
            }
        }
        let many = |s: &Section| s.interfaces.len() >= INTERFACES;
        let pending = self.pending();
        let full = !self.file.has_room(pending, size)?;
        if full || self.section.as_ref().is_some_and(many) {
            self.flush(meter);
            self.section = None;
        }
        if full && !self.file.has_room(0, size)? {
            self.file.rotate()?;
        }
        Ok(())
    }

    fn encode(&mut self, packet: &Packet, comment: &str) -> Result<(), WriteError> {
        let section = match &mut self.section {
            Some(section) => section,
            None => self.section.insert(Section::new()?),
        };
        section.packet(packet, comment)
    }

    fn flush(&mut self, meter: &Meter) {
        let Some(section) = &mut self.section else {
            return;
        };
        let bytes = std::mem::take(section.writer.get_mut());
        if bytes.is_empty() {
            return;
        }
        match self.file.append(&bytes) {
            Ok(()) => meter.success(self.held),
            Err(e) => {
                meter.failure(self.held, &e);
                // Its head may be among what is lost.
                self.section = None;
            }
        }
        self.held = 0;
    }
}

fn into_io(e: WriteError) -> io::Error {
    match e {
        WriteError::Io(e) => e,
        other => io::Error::other(other),
    }
}

/// Whether another section may follow: the last process may have died while it wrote.
fn ends_well(file: &mut Rotating) -> io::Result<bool> {
    if file.len()? == 0 {
        return Ok(true);
    }
    let path = file.path();
    let mut reader = Reader::new(path.display().to_string(), File::open(path)?);
    loop {
        match reader.next_frame() {
            Ok(Some(_)) => {}
            Ok(None) => return Ok(true),
            Err(_) => return Ok(false),
        }
    }
}

/// The interface a packet is filed under, and its direction there.
fn device(copy: &Nflog) -> (&str, Direction) {
    match (&copy.input, &copy.output) {
        (Some(device), _) => (&device.name, Direction::In),
        (None, Some(device)) => (&device.name, Direction::Out),
        (None, None) => ("", Direction::Unknown),
    }
}

/// What the rule knew, in the words of a LOG line.
fn comment(copy: &Nflog) -> String {
    let name = |device: &Option<Device>| device.as_ref().map_or(String::new(), |d| d.name.clone());
    let mut out = copy.prefix.trim_end().to_owned();
    if !out.is_empty() {
        out.push(' ');
    }
    out += &format!(
        "{} IN={} OUT={}",
        copy.hook.chain_name(),
        name(&copy.input),
        name(&copy.output)
    );
    if copy.mark != 0 {
        out += &format!(" MARK=0x{:x}", copy.mark);
    }
    printable(&out)
}
