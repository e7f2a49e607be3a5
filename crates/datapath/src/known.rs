//! The tuples of all connections, where programs see them.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use aya::EbpfLoader;
use aya::maps::{Map, MapData};
use std::os::fd::AsFd;
use tidegate_ebpf::sender::{KNOWN, PLACES, place};
use tidegate_engine::Engine;
use tidegate_engine::conntrack::Tuple;
use tidegate_engine::conntrack::register::Register;
use tidegate_sys::SharedWords;

use crate::fast::{map, shared};

/// A table by hash of how many tuples there are: [`KNOWN`].
#[derive(Debug)]
pub(crate) struct Known {
    /// The table's file descriptor.
    pub(crate) table: OwnedFd,
}

#[derive(Debug)]
struct Counters(Arc<SharedWords>);

impl Register for Counters {
    fn enters(&mut self, tuples: &[Tuple; 2]) {
        for at in tuples.iter().map(place) {
            self.0.store(at, self.0.load(at).saturating_add(1));
        }
    }

    fn leaves(&mut self, tuples: &[Tuple; 2]) {
        for at in tuples.iter().map(place) {
            self.0.store(at, self.0.load(at).saturating_sub(1));
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
        let words = Arc::new(shared(known, PLACES)?);
        let register = Box::new(Counters(words));
        engine.conntrack_mut().set_register(register);
        Ok(Known { table })
    }
}

/// A table's file descriptor.
pub(crate) fn descriptor(map: &Map) -> Result<OwnedFd> {
    let data: &MapData = match map {
        Map::Array(data)
        | Map::HashMap(data)
        | Map::LruHashMap(data)
        | Map::PerCpuArray(data)
        | Map::ProgramArray(data)
        | Map::RingBuf(data) => data,
        _ => bail!("a table of another kind"),
    };
    Ok(data.fd().as_fd().try_clone_to_owned()?)
}
