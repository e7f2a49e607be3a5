//! Programs and tables in the kernel.

use std::fs;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result, anyhow, bail};
use aya::Ebpf;
use aya::maps::{Array, HashMap, Map, MapData, PerCpuArray};
use aya::programs::links::{FdLink, PinnedLink};
use aya::programs::tc::TcAttachOptions;
use aya::programs::{LinkOrder, SchedClassifier, TcAttachType, Xdp, XdpMode};
use aya::util::nr_cpus;
use rustix::fs::statfs;
use tidegate_ebpf::fast::{EARLY, EGRESS, INGRESS, INSIDE, Secrets, TAIL, programs};
use tidegate_ebpf::layout::{
    CONNECTIONS, DOOR, DOORS, FATES, GATE, GATES, GLOBAL, GLOBALS, HOP, HOPS, MOST_PLACES, TURN,
    TURNS, global, tables,
};
use tidegate_ebpf::object;
use tidegate_ebpf::stop::{EARLY_STOPS, STOPS, TRAIL};
use tidegate_sys::{Namespace, SharedWords, random};

use super::index::{self, Index};
use crate::known::{borrowed, descriptor};
use crate::{Options, Ring};

/// Where links are kept alive for the time after a crash.
const PINS: &str = "/sys/fs/bpf";
/// The tables of [`Shared`].
const SHARED: [&tidegate_ebpf::Map; 6] = [&GLOBALS, &DOORS, &FATES, &TRAIL, &STOPS, &EARLY_STOPS];
/// Tables that are pinned as well, for a successor.
pub(super) const PINNED: [&str; 3] = [GATES.name, CONNECTIONS.name, GLOBALS.name];
/// `BPF_FS_MAGIC`
const BPF_FS: i64 = 0xcafe_4a11;

/// The loaded programs.
pub(crate) struct Kernel {
    programs: Ebpf,
    /// Tables that nobody here reads: one of programs is emptied when nobody holds it any more.
    _tables: Ebpf,
    doors: HashMap<MapData, u32, [u32; DOOR]>,
    secrets: Secrets,
    globals: Arc<SharedWords>,
    /// Where links and tables are pinned; `None`: there is no such file system.
    pins: Option<Pins>,
}

/// Pins, all of which end in the same word.
struct Pins {
    place: PathBuf,
    own: String,
}

impl Pins {
    fn path(&self, name: &str) -> PathBuf {
        self.place.join(format!("{name}-{}", self.own))
    }

    /// Pins the tables.
    fn keep(tables: &Ebpf) -> Result<Option<Self>> {
        if !statfs(PINS).is_ok_and(|s| s.f_type == BPF_FS) {
            return Ok(None);
        }
        let [token] = words::<1>()?;
        let pins = Pins {
            place: place()?,
            own: format!("{token:08x}"),
        };
        let there = fs::create_dir_all(&pins.place);
        there.with_context(|| pins.place.display().to_string())?;
        for name in PINNED {
            let map = tables.map(name).with_context(|| name.to_owned())?;
            map.pin(pins.path(name))?;
        }
        Ok(Some(pins))
    }
}

/// What an orderly end leaves: nothing.
impl Drop for Pins {
    fn drop(&mut self) {
        for name in PINNED {
            let _ = remove(&self.path(name));
        }
        // There may be a predecessor's.
        let _ = fs::remove_dir(&self.place);
    }
}

/// The tables that a running datapath writes.
pub(crate) struct Tables {
    pub(crate) index: Index,
    pub(crate) connections: Array<MapData, [u8; tidegate_ebpf::layout::CONNECTION]>,
    pub(crate) gates: SharedWords,
    pub(crate) turns: SharedWords,
    pub(crate) processors: usize,
    pub(crate) globals: Arc<SharedWords>,
    pub(crate) hops: SharedWords,
    pub(crate) fates: PerCpuArray<MapData, u64>,
    pub(crate) secrets: Secrets,
}

/// What programs that these go on to share with them.
pub(crate) struct Shared {
    pub(crate) tables: Vec<(&'static str, OwnedFd)>,
    pub(crate) globals: Arc<SharedWords>,
    /// One of them is for XDP.
    pub(crate) early: bool,
}

/// Programs at work on an interface.
#[derive(Debug)]
pub(crate) struct Attached {
    index: u32,
    /// Ingress last, and taken off first, so that nothing is sent on that egress does not
    /// know.
    links: Vec<Link>,
    /// Before the kernel. Not kept after a crash: the others do the same.
    early: Option<Link>,
}

impl Attached {
    /// Takes away what is before the kernel; `false` when nothing was.
    pub(crate) fn leave_early(&mut self) -> bool {
        self.early.take().is_some()
    }
}

#[derive(Debug)]
enum Link {
    Pinned(PinnedLink),
    Held(#[allow(dead_code, reason = "ends with its holder")] FdLink),
}

fn words<const N: usize>() -> Result<[u32; N]> {
    Ok(long_words()?.map(|word| word as u32))
}

fn long_words<const N: usize>() -> Result<[u64; N]> {
    let mut found = [0; N];
    for word in &mut found {
        let mut bytes = [0; 8];
        random(&mut bytes).context("random bytes")?;
        *word = u64::from_ne_bytes(bytes);
    }
    Ok(found)
}

impl Kernel {
    /// Loads programs and tables.
    ///
    /// # Errors
    /// The kernel is too old or built without what they need, or a right is missing.
    pub(crate) fn load(injected: [u8; 6], options: &Options) -> Result<(Kernel, Tables, Shared)> {
        let [tag] = words::<1>()?;
        let [a, b, ..] = tag.to_ne_bytes();
        let places = options.offloaded.clamp(1, MOST_PLACES);
        let secrets = Secrets {
            injected,
            // Locally administered, for one.
            known: [a & 0xfc | 2, b],
            sent_on: words()?,
            // Odd, so that no bit of a key is lost.
            hash: long_words()?.map(|word| word | 1),
            places,
            early: options.ring == Ring::Xdp,
        };
        let definitions = tables(places);
        let definitions: Vec<_> = definitions.iter().collect();
        let object = object(Vec::new(), &definitions).context("the fast path's tables")?;
        let mut made =
            Ebpf::load(&object).context("the kernel does not take the fast path's tables")?;
        let mut loaded = load(&secrets, &made)?;
        for name in [INGRESS, EGRESS, INSIDE, TAIL] {
            let program = program(&mut loaded, name)?;
            program
                .load()
                .with_context(|| format!("the kernel does not take the program {name}"))?;
        }
        if options.ring == Ring::Xdp {
            let program = early_program(&mut loaded)?;
            program
                .load()
                .context("the kernel does not take the program for XDP")?;
        }
        let known = SHARED.into_iter().map(|map| {
            let found = made.map(map.name).context(map.name)?;
            Ok((map.name, descriptor(found)?))
        });
        let known: Result<Vec<_>> = known.collect();
        let known = known?;
        let pins = Pins::keep(&made)?;
        let doors = HashMap::try_from(map(&mut made, "doors")?)?;
        let tables = Tables::take(&mut made, secrets)?;
        let shared = Shared {
            tables: known,
            globals: Arc::clone(&tables.globals),
            early: options.ring == Ring::Xdp,
        };
        let kernel = Kernel {
            doors,
            programs: loaded,
            _tables: made,
            secrets,
            globals: Arc::clone(&tables.globals),
            pins,
        };
        Ok((kernel, tables, shared))
    }

    /// What is lost when there is nowhere to keep links.
    pub(crate) fn note(&self) -> Option<String> {
        self.pins.is_none().then(|| {
            format!(
                "when the daemon is killed established connections stop too: there is no BPF \
                 file system at {PINS}"
            )
        })
    }

    /// The program that received frames meet first.
    #[cfg(test)]
    pub(crate) fn front(&mut self, front: tidegate_ebpf::fast::Front) -> Result<OwnedFd> {
        use tidegate_ebpf::fast::Front;
        let fd = match front {
            Front::Tcx => program(&mut self.programs, INGRESS)?.fd()?,
            Front::Xdp => early_program(&mut self.programs)?.fd()?,
        };
        Ok(fd.as_fd().try_clone_to_owned()?)
    }

    /// What our pins' names end in.
    pub(crate) fn own_pins(&self) -> Option<&str> {
        self.pins.as_ref().map(|p| p.own.as_str())
    }

    /// Whether the programs leave everything to those of a predecessor behind them.
    pub(crate) fn wait(&self, waits: bool) {
        self.globals.store(global::WAITS, u64::from(waits));
    }

    /// Ethernet source of frames that are let in.
    pub(crate) fn injected(&self) -> [u8; 6] {
        self.secrets.injected
    }

    /// Sets the programs to work on interface `index` named `name`; what goes up goes to
    /// the far ends of `doors`, received packets to that named `far` in `helper`.
    pub(crate) fn attach(
        &mut self,
        device: (u32, &str),
        doors: [u32; DOOR],
        far: &str,
        helper: &Namespace,
    ) -> Result<Attached> {
        let tail = program(&mut self.programs, TAIL)?;
        let end = helper.run(|| link(tail, far, TcAttachType::Ingress).map_err(io::Error::other));
        let end = Link::Held(end.context("the program behind our socket")?);
        self.attach_both(device, doors, INGRESS, vec![end])
    }

    /// The same for loopback, of which only what it sends goes up: to `door`.
    pub(crate) fn attach_inside(&mut self, device: (u32, &str), door: u32) -> Result<Attached> {
        self.attach_both(device, [door; DOOR], INSIDE, Vec::new())
    }

    /// Puts a program before the kernel, by the driver: what the datapath lets in passes
    /// generic programs once more.
    ///
    /// # Errors
    /// The driver does not take it.
    pub(crate) fn attach_early(&mut self, attached: &mut Attached) -> Result<()> {
        let program = early_program(&mut self.programs)?;
        let made = program.attach_to_if_index(attached.index, XdpMode::Driver);
        let id = made.map_err(|e| crate::xdp::refused(&e))?;
        attached.early = Some(Link::Held(program.take_link(id)?.try_into()?));
        Ok(())
    }

    fn attach_both(
        &mut self,
        (index, name): (u32, &str),
        doors: [u32; DOOR],
        ingress: &str,
        links: Vec<Link>,
    ) -> Result<Attached> {
        let mut attached = Attached {
            index,
            links,
            early: None,
        };
        self.doors.insert(index, doors, 0)?;
        let all = [
            (EGRESS, TcAttachType::Egress),
            (ingress, TcAttachType::Ingress),
        ];
        let done = all.into_iter().try_for_each(|(which, at)| {
            let made = link(program(&mut self.programs, which)?, name, at);
            let made = made.with_context(|| format!("attaching the program {which}"))?;
            attached.links.push(match self.pins.as_ref() {
                Some(pins) => Link::Pinned(made.pin(pins.path(&format!("{index}-{which}")))?),
                None => Link::Held(made),
            });
            Ok(())
        });
        match done {
            Ok(()) => Ok(attached),
            Err(e) => {
                let _ = self.detach(attached);
                Err(e)
            }
        }
    }

    /// Takes the programs from an interface.
    pub(crate) fn detach(&mut self, attached: Attached) -> Result<()> {
        drop(attached.early);
        for link in attached.links.into_iter().rev() {
            if let Link::Pinned(link) = link {
                link.unpin()?;
            }
        }
        // Not there when the interface could not be guarded.
        let _ = self.doors.remove(&attached.index);
        Ok(())
    }
}

/// Programs for tables that have been made; they are yet to be given to the kernel.
fn load(secrets: &Secrets, made: &Ebpf) -> Result<Ebpf> {
    let find = |wanted: &tidegate_ebpf::Map| {
        let table = borrowed(made.map(wanted.name)?).ok()?;
        Some(table.as_raw_fd())
    };
    let programs = programs(secrets, find).context("a table is missing")?;
    let object = object(programs, &[]).context("the fast path's programs")?;
    Ebpf::load(&object).context("the kernel does not take the fast path's programs")
}

impl Tables {
    fn take(made: &mut Ebpf, secrets: Secrets) -> Result<Self> {
        let places = secrets.places;
        let globals = Arc::new(shared(map(made, "globals")?, GLOBAL)?);
        let slots = shared(map(made, "flows")?, index::words(places))?;
        let all = TURNS.entries as usize;
        let processors = nr_cpus().map_err(|(what, e)| anyhow!("{what}: {e}"))?;
        Ok(Tables {
            index: Index::new(slots, Arc::clone(&globals), (secrets.hash, places)),
            connections: Array::try_from(map(made, "connections")?)?,
            gates: shared(map(made, "gates")?, places as usize * GATE)?,
            turns: shared(map(made, "turns")?, all * TURN)?,
            // On others programs do nothing.
            processors: processors.min(all),
            globals,
            hops: shared(map(made, "hops")?, HOPS.entries as usize * HOP)?,
            fates: PerCpuArray::try_from(map(made, "fates")?)?,
            secrets,
        })
    }
}

/// The values of an array that programs share with this process.
pub(crate) fn shared(map: Map, words: usize) -> Result<SharedWords> {
    let Map::Array(data) = map else {
        bail!("only arrays can be shared");
    };
    SharedWords::map(data.fd().as_fd(), words).context("sharing memory with programs")
}

/// A table by its name, which is not there any more after that.
pub(crate) fn map(loaded: &mut Ebpf, name: &str) -> Result<Map> {
    loaded
        .take_map(name)
        .ok_or_else(|| anyhow!("no table {name}"))
}

fn program<'a>(loaded: &'a mut Ebpf, name: &str) -> Result<&'a mut SchedClassifier> {
    let program = loaded.program_mut(name);
    let program = program.ok_or_else(|| anyhow!("no program {name}"))?;
    Ok(program.try_into()?)
}

fn early_program(loaded: &mut Ebpf) -> Result<&mut Xdp> {
    let program = loaded.program_mut(EARLY);
    let program = program.ok_or_else(|| anyhow!("no program {EARLY}"))?;
    Ok(program.try_into()?)
}

/// Puts a program first at a device.
pub(crate) fn link(
    program: &mut SchedClassifier,
    device: &str,
    at: TcAttachType,
) -> Result<FdLink> {
    let order = TcAttachOptions::TcxOrder(LinkOrder::first());
    let id = program.attach_with_options(device, at, order)?;
    Ok(program.take_link(id)?.try_into()?)
}

/// The directory for this network namespace's links.
pub(super) fn place() -> Result<PathBuf> {
    let own = fs::metadata("/proc/thread-self/ns/net").context("/proc")?;
    Ok(Path::new(PINS).join(format!("tidegate-{}", own.ino())))
}

pub(super) fn remove(path: &Path) -> Result<bool> {
    match fs::remove_file(path) {
        Ok(()) => Ok(true),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(e) => bail!("{}: {e}", path.display()),
    }
}
