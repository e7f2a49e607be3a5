//! Definitions of maps.

/// Kinds of maps (`enum bpf_map_type`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// `BPF_MAP_TYPE_HASH`
    Hash = 1,
    /// `BPF_MAP_TYPE_ARRAY`
    Array = 2,
    /// `BPF_MAP_TYPE_ARRAY` with but one value in the kernel's eyes, which all entries are parts
    /// of: programs have its address at hand and look nothing up. With too many entries for that it
    /// is an [`Kind::Array`] ([`Map::is_whole`]).
    Whole = 0x102,
    /// `BPF_MAP_TYPE_PROG_ARRAY`
    Programs = 3,
    /// `BPF_MAP_TYPE_PERCPU_ARRAY`
    PerCpuArray = 6,
    /// `BPF_MAP_TYPE_LRU_HASH`: the entry that nobody has used for longest makes room.
    Recent = 9,
    /// `BPF_MAP_TYPE_XSKMAP`
    Sockets = 17,
    /// `BPF_MAP_TYPE_SK_STORAGE`: a value with each socket, which goes with it; a connection
    /// that a listener takes begins with a copy of its listener's. No entries are counted.
    OfSocket = 24,
    /// `BPF_MAP_TYPE_RINGBUF`: entries are bytes, keys and values have no size.
    Ring = 27,
}

/// A map.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Map {
    /// Name, unique in a program.
    pub name: &'static str,
    /// Kind.
    pub kind: Kind,
    /// Bytes of a key.
    pub key: u32,
    /// Bytes of a value.
    pub value: u32,
    /// Most entries, unless the loader is told otherwise.
    pub entries: u32,
    /// Values begin with a spin lock (`struct bpf_spin_lock`).
    pub locked: bool,
    /// User space maps it into its memory (`BPF_F_MMAPABLE`).
    pub shared: bool,
}

/// `BPF_F_MMAPABLE`
const MMAPABLE: u32 = 1 << 10;
/// `BPF_F_NO_PREALLOC` and `BPF_F_CLONE`
const OF_SOCKET: u32 = 1 | 1 << 9;

/// The verifier takes what is below this for an offset (`BPF_MAX_VAR_OFF`).
const MOST_WHOLE: u64 = 1 << 29;

impl Map {
    /// Whether the kernel takes so many `entries` for one value.
    #[must_use]
    pub fn is_whole(&self, entries: u32) -> bool {
        self.kind == Kind::Whole && u64::from(self.value) * u64::from(entries) < MOST_WHOLE
    }

    /// Bytes of a value, and how many there are, in the kernel's eyes.
    #[must_use]
    pub fn extent(&self) -> (u32, u32) {
        match self.is_whole(self.entries) {
            true => (self.value * self.entries, 1),
            false => (self.value, self.entries),
        }
    }

    /// Number of its kind.
    #[must_use]
    pub fn number(&self) -> u32 {
        match self.kind {
            Kind::Whole => Kind::Array as u32,
            kind => kind as u32,
        }
    }

    /// Flags that it is created with.
    #[must_use]
    pub fn flags(&self) -> u32 {
        let shared = if self.shared { MMAPABLE } else { 0 };
        match self.kind {
            Kind::OfSocket => shared | OF_SOCKET,
            _ => shared,
        }
    }
}
