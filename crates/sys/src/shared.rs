//! Memory that the kernel's programs and this process both write to.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU64, Ordering};

/// The values of a BPF array map made to be shared (`BPF_F_MMAPABLE`), as 64-bit words.
#[derive(Debug)]
pub struct SharedWords {
    first: NonNull<AtomicU64>,
    words: usize,
}

// SAFETY: the mapping belongs to the process, not to a thread, and is reached through
// atomic operations only.
unsafe impl Send for SharedWords {}
// SAFETY: as above.
unsafe impl Sync for SharedWords {}

impl SharedWords {
    /// Maps the first `words` words of the map `fd`.
    ///
    /// # Errors
    /// Not such a map, or a smaller one.
    pub fn map(fd: BorrowedFd<'_>, words: usize) -> io::Result<Self> {
        let len = words
            .checked_mul(size_of::<u64>())
            .filter(|&len| len > 0)
            .ok_or(io::ErrorKind::InvalidInput)?;
        // SAFETY: the kernel chooses an address that nothing else is at.
        let at = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                len,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED,
                fd.as_raw_fd(),
                0,
            )
        };
        if at == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let first = NonNull::new(at.cast()).ok_or(io::ErrorKind::AddrNotAvailable)?;
        Ok(SharedWords { first, words })
    }

    fn word(&self, at: usize) -> Option<&AtomicU64> {
        // SAFETY: `at` is inside the mapping, which is aligned to pages, holds plain
        // numbers, and lives as long as `self`.
        (at < self.words).then(|| unsafe { self.first.add(at).as_ref() })
    }

    /// A word; 0 beyond the end.
    #[must_use]
    pub fn load(&self, at: usize) -> u64 {
        self.word(at).map_or(0, |w| w.load(Ordering::Acquire))
    }

    /// Sets a word; beyond the end nothing happens.
    pub fn store(&self, at: usize, value: u64) {
        if let Some(word) = self.word(at) {
            // A read of another word that comes after this must not be done before.
            word.store(value, Ordering::SeqCst);
        }
    }
}

impl Drop for SharedWords {
    fn drop(&mut self) {
        let len = self.words * size_of::<u64>();
        // SAFETY: this is the mapping that `map` made, and nobody refers to it any more.
        unsafe { libc::munmap(self.first.as_ptr().cast(), len) };
    }
}
