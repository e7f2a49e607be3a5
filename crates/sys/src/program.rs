//! Programs that are put behind maps which exist already, and swapped without a gap
//! (`bpf(2)`): `aya` makes new maps with each object file and cannot replace a program.

use std::ffi::CStr;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

const MAP_UPDATE_ELEM: libc::c_long = 2;
const PROG_LOAD: libc::c_long = 5;
const PROG_TEST_RUN: libc::c_long = 10;
const LINK_CREATE: libc::c_long = 28;
const LINK_UPDATE: libc::c_long = 29;
/// Where a program runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SenderHook {
    /// When a local socket sends (`BPF_PROG_TYPE_CGROUP_SKB`, `BPF_CGROUP_INET_EGRESS`).
    Egress,
    /// When a program opens a socket (`BPF_PROG_TYPE_CGROUP_SOCK`,
    /// `BPF_CGROUP_INET_SOCK_CREATE`).
    Creation,
}

impl SenderHook {
    /// Type of program, and of place.
    const fn numbers(self) -> (u32, u32) {
        match self {
            SenderHook::Egress => (8, 1),
            SenderHook::Creation => (9, 2),
        }
    }
}

/// Helpers reserved for GPL programs are not used.
const LICENSE: &CStr = c"MIT OR Apache-2.0";

/// `union bpf_attr`, of which unused bytes are zero.
#[repr(C, align(8))]
struct Attr([u8; 128]);

impl Attr {
    fn new(numbers: &[(usize, u32)], addresses: &[(usize, u64)]) -> Self {
        let mut attr = Attr([0; 128]);
        for (at, number) in numbers {
            attr.put(*at, &number.to_ne_bytes());
        }
        for (at, address) in addresses {
            attr.put(*at, &address.to_ne_bytes());
        }
        attr
    }

    fn put(&mut self, at: usize, bytes: &[u8]) {
        self.0[at..at + bytes.len()].copy_from_slice(bytes);
    }

    fn number(&self, at: usize) -> u32 {
        let mut bytes = [0; 4];
        bytes.copy_from_slice(&self.0[at..at + 4]);
        u32::from_ne_bytes(bytes)
    }

    /// # Safety
    /// Addresses in it are those of memory that is as long as the command takes it to be,
    /// and written to by the kernel only if the caller may.
    unsafe fn call(&mut self, command: libc::c_long) -> io::Result<i32> {
        let (at, len) = (self.0.as_mut_ptr(), self.0.len());
        // SAFETY: `at` points to `len` bytes of ours; the rest is the caller's word.
        let done = unsafe { libc::syscall(libc::SYS_bpf, command, at, len) };
        if done < 0 {
            return Err(io::Error::last_os_error());
        }
        i32::try_from(done).map_err(io::Error::other)
    }

    /// # Safety
    /// As [`Attr::call`]; the command returns a new file descriptor.
    unsafe fn open(mut self, command: libc::c_long) -> io::Result<OwnedFd> {
        // SAFETY: the caller's word.
        let fd = unsafe { self.call(command) }?;
        // SAFETY: the kernel has just made it for us.
        Ok(unsafe { OwnedFd::from_raw_fd(fd) })
    }
}

/// A program's description to the kernel: its type, where it will be attached, its
/// instructions of eight bytes each.
fn description((kind, attach): (u32, u32), code: &[u8]) -> Attr {
    Attr::new(
        &[(0, kind), (4, (code.len() / 8) as u32), (68, attach)],
        &[
            (8, code.as_ptr() as u64),
            (16, LICENSE.as_ptr() as u64),
            // prog_name
            (48, u64::from_ne_bytes(*b"tidegate")),
        ],
    )
}

fn load(kind: (u32, u32), code: &[u8]) -> io::Result<OwnedFd> {
    // SAFETY: the addresses are of memory that outlives the call and is only read.
    unsafe { description(kind, code).open(PROG_LOAD) }
}

/// The verifier's last words about a program that it does not take.
fn objection(kind: (u32, u32), code: &[u8]) -> String {
    let mut log = vec![0_u8; 1 << 20];
    let mut attr = description(kind, code);
    attr.put(24, &1_u32.to_ne_bytes());
    attr.put(28, &(log.len() as u32).to_ne_bytes());
    attr.put(32, &(log.as_mut_ptr() as u64).to_ne_bytes());
    // SAFETY: as in `load`; the kernel writes to the log, of which it knows the length.
    let loaded = unsafe { attr.call(PROG_LOAD) };
    if let Ok(fd) = loaded {
        // SAFETY: the kernel has just made it for us.
        drop(unsafe { OwnedFd::from_raw_fd(fd) });
    }
    let text: Vec<u8> = log.into_iter().take_while(|b| *b != 0).collect();
    let text = String::from_utf8_lossy(&text).into_owned();
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(12)..].join("\n")
}

/// What a program answers for a frame with a link-layer header, on this network namespace's
/// loopback (`BPF_PROG_TEST_RUN`).
fn run(program: &OwnedFd, frame: &[u8]) -> io::Result<u32> {
    let mut attr = Attr::new(
        &[
            (0, program.as_raw_fd() as u32),
            (8, frame.len() as u32),
            (32, 1),
        ],
        &[(16, frame.as_ptr() as u64)],
    );
    // SAFETY: the frame is read only, as many bytes as it has; nothing is asked to be
    // written but numbers in `attr`.
    unsafe { attr.call(PROG_TEST_RUN) }?;
    Ok(attr.number(4))
}

/// A program that sees what local sockets send, or that there are such.
#[derive(Debug)]
pub struct SenderProgram(OwnedFd, SenderHook);

impl SenderProgram {
    /// Loads it from its instructions, eight bytes each.
    ///
    /// # Errors
    /// The kernel's verifier refuses, or a right is missing (`CAP_BPF`, `CAP_NET_ADMIN`).
    pub fn load(hook: SenderHook, code: &[u8]) -> io::Result<Self> {
        load(hook.numbers(), code).map(|fd| SenderProgram(fd, hook))
    }

    /// The verifier's last words about a program that it does not take.
    #[must_use]
    pub fn objection(hook: SenderHook, code: &[u8]) -> String {
        objection(hook.numbers(), code)
    }

    /// What it answers for a frame with a link-layer header, on this network namespace's
    /// loopback: 1 to let it pass, 0 to drop it (`BPF_PROG_TEST_RUN`).
    ///
    /// # Errors
    /// The frame is too short or too long.
    pub fn run(&self, frame: &[u8]) -> io::Result<u32> {
        run(&self.0, frame)
    }
}

/// Where a [`FrontProgram`] sees frames.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FrontKind {
    /// In traffic control (`BPF_PROG_TYPE_SCHED_CLS`).
    Classifier,
    /// Before the kernel (`BPF_PROG_TYPE_XDP`).
    Xdp,
}

impl FrontKind {
    /// `enum bpf_prog_type` and `enum bpf_attach_type`.
    const fn numbers(self) -> (u32, u32) {
        match self {
            FrontKind::Classifier => (3, 0),
            FrontKind::Xdp => (6, 37),
        }
    }
}

/// A program that others go on to with a tail call.
#[derive(Debug)]
pub struct FrontProgram(OwnedFd);

/// One that has been loaded.
impl From<OwnedFd> for FrontProgram {
    fn from(fd: OwnedFd) -> Self {
        FrontProgram(fd)
    }
}

impl FrontProgram {
    /// Loads it from its instructions, eight bytes each.
    ///
    /// # Errors
    /// The kernel's verifier refuses, or a right is missing (`CAP_BPF`, `CAP_NET_ADMIN`).
    pub fn load(kind: FrontKind, code: &[u8]) -> io::Result<Self> {
        load(kind.numbers(), code).map(FrontProgram)
    }

    /// The verifier's last words about a program that it does not take.
    #[must_use]
    pub fn objection(kind: FrontKind, code: &[u8]) -> String {
        objection(kind.numbers(), code)
    }

    /// Puts the program at the first place of a table of programs, from where tail calls
    /// find it.
    ///
    /// # Errors
    /// The table is for programs of another kind.
    pub fn put(&self, table: BorrowedFd<'_>) -> io::Result<()> {
        let (key, value) = (0_u32, self.0.as_raw_fd() as u32);
        let mut attr = Attr::new(
            &[(0, table.as_raw_fd() as u32)],
            &[
                (8, (&raw const key) as u64),
                (16, (&raw const value) as u64),
            ],
        );
        // SAFETY: key and value of a table of programs have four bytes each, and are only read.
        unsafe { attr.call(MAP_UPDATE_ELEM) }.map(|_| ())
    }

    /// What it answers for a frame (`BPF_PROG_TEST_RUN`).
    ///
    /// # Errors
    /// The frame is too short or too long.
    pub fn run(&self, frame: &[u8]) -> io::Result<u32> {
        run(&self.0, frame)
    }
}

/// A program at work on a cgroup and those below it, until this is dropped.
#[derive(Debug)]
pub struct SenderLink(OwnedFd);

impl SenderLink {
    /// Attaches `program` to a directory of cgroup version 2.
    ///
    /// # Errors
    /// Not such a directory, or a right is missing.
    pub fn attach(program: &SenderProgram, cgroup: BorrowedFd<'_>) -> io::Result<Self> {
        let attr = Attr::new(
            &[
                (0, program.0.as_raw_fd() as u32),
                (4, cgroup.as_raw_fd() as u32),
                (8, program.1.numbers().1),
            ],
            &[],
        );
        // SAFETY: there are no addresses in it.
        unsafe { attr.open(LINK_CREATE) }.map(SenderLink)
    }

    /// Puts another program in the place of the one at work, with no packet in between.
    ///
    /// # Errors
    /// The cgroup is gone.
    pub fn replace(&self, program: &SenderProgram) -> io::Result<()> {
        let (link, new) = (self.0.as_raw_fd() as u32, program.0.as_raw_fd() as u32);
        let mut attr = Attr::new(&[(0, link), (4, new)], &[]);
        // SAFETY: there are no addresses in it.
        unsafe { attr.call(LINK_UPDATE) }.map(|_| ())
    }
}

/// A number that no other network namespace has (`SO_NETNS_COOKIE`): that of the calling
/// thread's.
///
/// # Errors
/// Linux before 5.14.
pub fn namespace_cookie() -> io::Result<u64> {
    let socket = std::os::unix::net::UnixDatagram::unbound()?;
    let mut cookie = 0_u64;
    let mut len = size_of::<u64>() as libc::socklen_t;
    // SAFETY: `cookie` has as many bytes as `len` says.
    let done = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_NETNS_COOKIE,
            (&raw mut cookie).cast(),
            &raw mut len,
        )
    };
    match done {
        0 => Ok(cookie),
        _ => Err(io::Error::last_os_error()),
    }
}
