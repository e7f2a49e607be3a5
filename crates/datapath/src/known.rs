//! The tuples of all connections, where programs see them.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use anyhow::{Context, Result, bail};
use aya::EbpfLoader;
use aya::maps::{Map, MapData};
use tidegate_ebpf::sender::{Census, Change, KNOWN, WORDS};
use tidegate_engine::Engine;
use tidegate_engine::conntrack::Tuple;
use tidegate_engine::conntrack::register::Register;
use tidegate_sys::SharedWords;

use crate::fast::{map, shared};

/// A table by hash of whether there are tuples: [`KNOWN`].
#[derive(Debug)]
pub(crate) struct Known {
    /// The table's file descriptor.
    pub(crate) table: OwnedFd,
}

#[derive(Debug)]
struct Writer {
    census: Census,
    words: SharedWords,
}

impl Writer {
    fn write(&self, change: Option<Change>) {
        if let Some(Change { word, value }) = change {
            self.words.store(word, value);
        }
    }
}

impl Register for Writer {
    fn enters(&mut self, tuples: &[Tuple; 2]) {
        for tuple in tuples {
            let change = self.census.enters(tuple);
            self.write(change);
        }
    }

    fn leaves(&mut self, tuples: &[Tuple; 2]) {
        for tuple in tuples {
            let change = self.census.leaves(tuple);
            self.write(change);
        }
    }
}

impl Known {
    /// Makes the table, and has the engine keep it.
    ///
    /// # Errors
    /// The kernel is too old, or a right is missing.
    pub(crate) fn start(engine: &mut Engine) -> Result<Self> {
        let object = tidegate_ebpf::object(Vec::new(), &[&KNOWN]).context("a table")?;
        let mut loaded = EbpfLoader::new()
            .load(&object)
            .context("the kernel does not take the table of connections")?;
        let known = map(&mut loaded, KNOWN.name)?;
        let table = descriptor(&known)?;
        let register = Writer {
            census: Census::default(),
            words: shared(known, WORDS)?,
        };
        engine.conntrack_mut().set_register(Box::new(register));
        Ok(Known { table })
    }
}

/// A table's file descriptor, of its own.
pub(crate) fn descriptor(map: &Map) -> Result<OwnedFd> {
    Ok(borrowed(map)?.try_clone_to_owned()?)
}

/// A table's file descriptor.
pub(crate) fn borrowed(map: &Map) -> Result<BorrowedFd<'_>> {
    let data: &MapData = match map {
        Map::Array(data)
        | Map::HashMap(data)
        | Map::LruHashMap(data)
        | Map::PerCpuArray(data)
        | Map::ProgramArray(data)
        | Map::RingBuf(data) => data,
        _ => bail!("a table of another kind"),
    };
    Ok(data.fd().as_fd())
}
