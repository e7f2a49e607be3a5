//! Whose packets are, on the running host: a program (`tidegate_ebpf::owner`) notes it within
//! the sender's call, and the kernel is asked who waits for what comes in.
//!
//! The note is there before the packet is, whatever its sender does next; a look at the
//! sockets afterwards would miss those who send and close.

use std::collections::HashMap;
use std::fmt;
use std::fs;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result, anyhow, bail};
use aya::EbpfLoader;
use aya::maps::{self, Map, MapData};
use tidegate_ebpf::owner::{ASKED, KEY, MAPS, NOTE, Note, OWNERS, key, program};
use tidegate_engine::{Owner, Socket, SocketEnds, Sockets};
use tidegate_host::diag::{Diag, Found};
use tidegate_sys::{SenderLink, SenderProgram, SharedWords, namespace_cookie};

use crate::fast::{map, shared};
use crate::sender::refused;

/// Most control groups whose names are kept, and most directories looked at for one.
const MOST_GROUPS: usize = 4096;
const MOST_DIRECTORIES: usize = 20_000;

/// Says whether rules ask; the program does nothing otherwise.
#[derive(Clone)]
pub(crate) struct Asked(Arc<SharedWords>);

impl Asked {
    pub(crate) fn set(&self, asked: bool) {
        self.0.store(0, u64::from(asked));
    }
}

/// The sockets of the guarded namespace.
pub(crate) struct Known {
    owners: maps::HashMap<MapData, [u8; KEY], [u8; NOTE]>,
    diag: Diag,
    /// Where control groups are.
    root: PathBuf,
    /// Their paths by number.
    groups: HashMap<u64, String>,
    /// Ends the program's work when it goes.
    _link: SenderLink,
}

impl fmt::Debug for Known {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Known")
            .field("root", &self.root)
            .finish_non_exhaustive()
    }
}

/// Puts the program to work on the processes of `cgroup`, a directory of cgroup version 2
/// below `root`, of which those in the calling thread's network namespace count.
///
/// # Errors
/// The kernel is too old, or a right is missing.
pub(crate) fn start(root: PathBuf, cgroup: &Path) -> Result<(Known, Asked)> {
    let object = tidegate_ebpf::object(Vec::new(), &MAPS).context("tables of owners")?;
    let mut loaded = EbpfLoader::new()
        .load(&object)
        .context("the kernel does not take the tables of owners")?;
    let (owners, asked) = (
        map(&mut loaded, OWNERS.name)?,
        map(&mut loaded, ASKED.name)?,
    );
    let fds = [(OWNERS.name, fd(&owners)?), (ASKED.name, fd(&asked)?)];
    let of = |wanted: &tidegate_ebpf::Map| {
        let found = fds.iter().find(|(name, _)| *name == wanted.name);
        found.map(|(_, fd)| fd.as_raw_fd())
    };
    let code = program(namespace_cookie()?).link(of);
    let code = code.ok_or_else(|| anyhow!("a table is missing"))?;
    let program = SenderProgram::load(&code).map_err(|e| {
        let said = SenderProgram::objection(&code);
        let last = said.lines().last().unwrap_or_default();
        refused(&format!("a program that notes senders ({last})"), &e)
    })?;
    let group = fs::File::open(cgroup).with_context(|| cgroup.display().to_string())?;
    let link = SenderLink::attach(&program, group.as_fd())
        .map_err(|e| refused("attaching a program to the cgroup", &e))?;
    let asked = Asked(Arc::new(shared(asked, 1)?));
    let known = Known {
        owners: maps::HashMap::try_from(owners)?,
        diag: Diag::new().context("sock_diag")?,
        root,
        groups: HashMap::new(),
        _link: link,
    };
    Ok((known, asked))
}

fn fd(map: &Map) -> Result<BorrowedFd<'_>> {
    match map {
        Map::Array(data) | Map::LruHashMap(data) => Ok(data.fd().as_fd()),
        _ => bail!("a table of another kind"),
    }
}

impl Sockets for Known {
    fn sender(&mut self, ends: &SocketEnds) -> Option<Arc<Socket>> {
        let key = key(ends.proto, ends.local, ends.remote);
        let note = Note::read(self.owners.get(&key, 0).ok()?);
        let mut socket = Socket::of(Some(Owner {
            uid: note.uid,
            ..Owner::default()
        }));
        socket.cgroup = self.path(note.cgroup);
        Some(Arc::new(socket))
    }

    fn receiver(&mut self, ends: &SocketEnds) -> Option<Arc<Socket>> {
        let found: Found = self.diag.receiver(ends).ok()??;
        let owner = Owner {
            uid: found.uid,
            ..Owner::default()
        };
        Some(Arc::new(Socket {
            transparent: found.transparent,
            wildcard: found.wildcard,
            connected: found.connected,
            mark: found.mark,
            ..Socket::of(Some(owner))
        }))
    }
}

impl Known {
    /// The path of a control group; the root's where it is gone.
    fn path(&mut self, number: u64) -> String {
        if !self.groups.contains_key(&number) {
            self.groups = groups(&self.root);
            // Not to be looked for with every packet.
            self.groups.entry(number).or_insert_with(|| "/".to_owned());
        }
        self.groups.get(&number).cloned().unwrap_or_default()
    }
}

/// All control groups by the numbers of their directories.
fn groups(root: &Path) -> HashMap<u64, String> {
    let mut found = HashMap::new();
    let mut waiting = vec![root.to_owned()];
    let mut looked = 0;
    while let Some(at) = waiting.pop() {
        looked += 1;
        if looked > MOST_DIRECTORIES || found.len() >= MOST_GROUPS {
            break;
        }
        if let (Ok(data), Ok(below)) = (fs::metadata(&at), at.strip_prefix(root)) {
            found.insert(data.ino(), format!("/{}", below.display()));
        }
        let inside = fs::read_dir(&at).into_iter().flatten().flatten();
        let directories = inside.filter(|e| e.file_type().is_ok_and(|t| t.is_dir()));
        waiting.extend(directories.map(|e| e.path()));
    }
    found
}
