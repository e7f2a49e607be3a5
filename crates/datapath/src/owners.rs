//! Whose packets are, on the running host: a program (`tidegate_ebpf::owner`) notes it within
//! the sender's call, and the kernel is asked who waits for what comes in.
//!
//! The note is there before the packet is, whatever its sender does next; a look at the
//! sockets afterwards would miss those who send and close.

use std::collections::HashMap;
use std::fmt;
use std::fs;
use std::hash::Hash;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use aya::EbpfLoader;
use aya::maps::{self, Map, MapData};
use tidegate_ebpf::owner::{
    ASKED, CREATORS, Creator, KEY, MAPS, NOTE, Note, OWNERS, creation, key, program,
};
use tidegate_engine::{Owner, Socket, SocketEnds, Sockets};
use tidegate_host::diag::{Diag, Found};
use tidegate_sys::{SenderHook, SenderLink, SenderProgram, SharedWords, namespace_cookie};

use crate::fast::{map, shared};
use crate::sender::{objected, refused};

/// Most control groups whose names are kept, and most directories looked at for one.
const MOST_GROUPS: usize = 4096;
const MOST_DIRECTORIES: usize = 20_000;

/// How long what a process is said to be holds, and who has a socket.
const A_MOMENT: Duration = Duration::from_secs(1);
/// Most answers of a kind that are remembered.
const MOST_RECENT: usize = 4096;

/// Who has a socket of which nothing is known.
const NOBODY: Creator = Creator {
    gid: u32::MAX,
    class: 0,
    process: 0,
};

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
    /// By the inodes of sockets: processes that have had them at the start, and groups.
    before: HashMap<u32, (u32, u32)>,
    /// Who has had sockets from the start, by what they send.
    creators: Recent<[u8; KEY], Creator>,
    /// Further groups of processes and users.
    further: Recent<(u32, u32), Vec<u32>>,
    /// End the programs' work when they go.
    links: (SenderLink, Option<SenderLink>),
}

/// Answers that hold for [`A_MOMENT`], [`MOST_RECENT`] at most.
struct Recent<K, V>(HashMap<K, (Instant, V)>);

impl<K: Copy + Eq + Hash, V: Clone> Recent<K, V> {
    fn new() -> Self {
        Recent(HashMap::new())
    }

    /// What is remembered, or else found.
    fn get(&mut self, now: Instant, key: K, find: impl FnOnce() -> V) -> V {
        let holds = |at: Instant| now.saturating_duration_since(at) < A_MOMENT;
        if let Some((_, found)) = self.0.get(&key).filter(|(at, _)| holds(*at)) {
            return found.clone();
        }
        if self.0.len() >= MOST_RECENT {
            self.0.clear();
        }
        let found = find();
        self.0.insert(key, (now, found.clone()));
        found
    }
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
    let [owners, asked, creators] = MAPS.map(|table| map(&mut loaded, table.name));
    let (owners, asked, creators) = (owners?, asked?, creators?);
    let fds = [
        (OWNERS.name, fd(&owners)?),
        (ASKED.name, fd(&asked)?),
        (CREATORS.name, fd(&creators)?),
    ];
    let of = |wanted: &tidegate_ebpf::Map| {
        let found = fds.iter().find(|(name, _)| *name == wanted.name);
        found.map(|(_, fd)| fd.as_raw_fd())
    };
    let cookie = namespace_cookie()?;
    let group = fs::File::open(cgroup).with_context(|| cgroup.display().to_string())?;
    let link = |hook, code: tidegate_ebpf::Asm| put(hook, code.link(of), &group);
    // Sockets that are there before the program are told by who has them.
    let creations = link(SenderHook::Creation, creation(cookie)).map_err(|e| format!("{e:#}"));
    let before = match &creations {
        Ok(_) => groups_of_sockets(),
        Err(_) => HashMap::new(),
    };
    let link = link(SenderHook::Egress, program(cookie))?;
    let asked = Asked(Arc::new(shared(asked, 1)?));
    let known = Known {
        owners: maps::HashMap::try_from(owners)?,
        diag: Diag::new().context("sock_diag")?,
        root,
        groups: HashMap::new(),
        before,
        creators: Recent::new(),
        further: Recent::new(),
        links: (link, creations.ok()),
    };
    Ok((known, asked))
}

/// Puts a program to work on a control group.
fn put(hook: SenderHook, code: Option<Vec<u8>>, group: &fs::File) -> Result<SenderLink> {
    let code = code.ok_or_else(|| anyhow!("a table is missing"))?;
    let program = SenderProgram::load(hook, &code).map_err(|e| {
        let said = SenderProgram::objection(hook, &code);
        objected("a program that notes senders", &said, &e)
    })?;
    SenderLink::attach(&program, group.as_fd())
        .map_err(|e| refused("attaching a program to the cgroup", &e))
}

fn fd(map: &Map) -> Result<BorrowedFd<'_>> {
    match map {
        Map::Array(data) | Map::LruHashMap(data) | Map::SkStorage(data) => Ok(data.fd().as_fd()),
        _ => bail!("a table of another kind"),
    }
}

impl Sockets for Known {
    fn sender(&mut self, ends: &SocketEnds) -> Option<Arc<Socket>> {
        let key = key(ends.proto, ends.local, ends.remote);
        let note = Note::read(self.owners.get(&key, 0).ok()?);
        let now = Instant::now();
        let creator = match note.creator {
            Some(creator) => creator,
            None => self.creator(now, key, ends),
        };
        let groups = self.further_groups(now, creator.process, note.uid);
        let mut socket = Socket::of(Some(Owner {
            uid: note.uid,
            gid: creator.gid,
            groups,
        }));
        socket.class = creator.class;
        socket.cgroup = self.path(note.cgroup);
        Some(Arc::new(socket))
    }

    fn receiver(&mut self, ends: &SocketEnds) -> Option<Arc<Socket>> {
        let found: Found = self.diag.receiver(ends).ok()??;
        let owner = Owner {
            uid: found.uid,
            ..Owner::default()
        };
        let cgroup = match found.cgroup {
            0 => "/".to_owned(),
            number => self.path(number),
        };
        Some(Arc::new(Socket {
            class: found.class,
            cgroup,
            transparent: found.transparent,
            wildcard: found.wildcard,
            connected: found.connected,
            mark: found.mark,
            ..Socket::of(Some(owner))
        }))
    }
}

impl Known {
    /// Who has had a socket from the start; nobody where that is not known.
    fn creator(&mut self, now: Instant, key: [u8; KEY], ends: &SocketEnds) -> Creator {
        if self.before.is_empty() {
            return NOBODY;
        }
        let (diag, before) = (&mut self.diag, &self.before);
        let find = |diag: &mut Diag| {
            let socket = diag.receiver(ends).ok().flatten()?;
            let &(process, gid) = before.get(&socket.inode)?;
            Some(Creator {
                gid,
                class: socket.class,
                process,
            })
        };
        self.creators.get(now, key, || find(diag).unwrap_or(NOBODY))
    }

    /// The further groups of a process; where it is gone, those that its user has.
    fn further_groups(&mut self, now: Instant, process: u32, uid: u32) -> Vec<u32> {
        self.further.get(now, (process, uid), || {
            let status = fs::read_to_string(format!("/proc/{process}/status"));
            let told = status.ok().and_then(|text| numbers(&text, "Groups:"));
            told.unwrap_or_else(|| groups_of_user(uid))
        })
    }

    /// Whether group and class of senders are known.
    pub(crate) fn knows_groups(&self) -> bool {
        self.links.1.is_some()
    }

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

/// The numbers behind a word of a process's status.
fn numbers(status: &str, word: &str) -> Option<Vec<u32>> {
    let rest = status.lines().find_map(|line| line.strip_prefix(word))?;
    rest.split_whitespace().map(|n| n.parse().ok()).collect()
}

/// The groups that a user is a member of.
fn groups_of_user(uid: u32) -> Vec<u32> {
    let users = fs::read_to_string("/etc/passwd").unwrap_or_default();
    let name = users.lines().find_map(|line| {
        let mut fields = line.split(':');
        let (name, _, number) = (fields.next()?, fields.next()?, fields.next()?);
        (number.parse() == Ok(uid)).then_some(name)
    });
    let Some(name) = name else {
        return Vec::new();
    };
    let groups = fs::read_to_string("/etc/group").unwrap_or_default();
    let group = |line: &str| {
        let mut fields = line.split(':').skip(2);
        let number = fields.next()?.parse().ok()?;
        let is_member = fields.next()?.split(',').any(|member| member == name);
        is_member.then_some(number)
    };
    groups.lines().filter_map(group).collect()
}

/// By the inodes of sockets that processes have: these, and their groups (`fsgid`).
fn groups_of_sockets() -> HashMap<u32, (u32, u32)> {
    let mut found = HashMap::new();
    for process in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let at = process.path();
        let status = fs::read_to_string(at.join("status")).unwrap_or_default();
        let number = process.file_name().to_str().and_then(|n| n.parse().ok());
        let ids = numbers(&status, "Gid:").and_then(|ids| ids.get(3).copied());
        let (Some(number), Some(group)) = (number, ids) else {
            continue;
        };
        for open in fs::read_dir(at.join("fd")).into_iter().flatten().flatten() {
            let inode = fs::read_link(open.path()).ok().and_then(|to| {
                let number = to.to_str()?.strip_prefix("socket:[")?;
                number.strip_suffix(']')?.parse().ok()
            });
            found.extend(inode.map(|inode: u32| (inode, (number, group))));
        }
    }
    found
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_found_once_in_a_moment_for_each_that_asks() {
        let begin = Instant::now();
        let mut recent = Recent::new();
        let mut found = 0;
        let mut ask = |key: u32, now| {
            recent.get(now, key, || {
                found += 1;
                found
            })
        };
        assert_eq!([ask(1, begin), ask(2, begin)], [1, 2]);
        let soon = begin + A_MOMENT / 2;
        assert_eq!([ask(1, soon), ask(2, soon)], [1, 2]);
        let later = begin + A_MOMENT;
        assert_eq!([ask(1, later), ask(2, soon)], [3, 2]);
    }

    #[test]
    fn answers_are_remembered_within_bounds() {
        let now = Instant::now();
        let mut recent = Recent::new();
        for key in 0..3 * MOST_RECENT {
            recent.get(now, key, || ());
            assert!(recent.0.len() <= MOST_RECENT);
        }
    }
}
