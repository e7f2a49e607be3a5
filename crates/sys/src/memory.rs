//! Memory in large pages.

use std::alloc::{GlobalAlloc, Layout};

use tikv_jemallocator::Jemalloc;

/// Bytes of a large page.
const PAGE: usize = 2 << 20;
/// From so many bytes on, memory is asked for in large pages.
const MUCH: usize = PAGE / 2;
/// Bytes of a small page.
const SMALL: usize = 4096;

/// An allocator (jemalloc) that asks for large pages where much memory is wanted at once.
///
/// The C library's lets threads that read a long rules file side by side wait for each other,
/// asks the kernel for every single page of theirs, and keeps twice the memory afterwards.
///
/// The tables of connections and rules are read all over, while the processor remembers
/// the places of a few thousand pages: with small ones, each packet would wait for the
/// places of its connection's as well. Where the system has no large pages
/// (`/sys/kernel/mm/transparent_hugepage/enabled` says `never`), nothing is different.
#[derive(Clone, Copy, Debug, Default)]
pub struct LargePages;

/// The same layout, beginning with a large page if it is for much memory.
fn placed(layout: Layout) -> Layout {
    if layout.size() < MUCH {
        return layout;
    }
    Layout::from_size_align(layout.size(), layout.align().max(PAGE)).unwrap_or(layout)
}

/// Asks for large pages for what lies at `at`; whether there are any is the kernel's affair.
fn advise(at: *mut u8, size: usize) {
    if size < MUCH || at.is_null() {
        return;
    }
    let skipped = at.addr().next_multiple_of(SMALL) - at.addr();
    let len = size.saturating_sub(skipped);
    // SAFETY: the advice changes no contents; the address is a page's, and what follows
    // belongs to the allocator up to the end of the last page.
    unsafe { libc::madvise(at.wrapping_add(skipped).cast(), len, libc::MADV_HUGEPAGE) };
}

// SAFETY: all memory is jemalloc's; what is aligned more strictly than asked for is aligned as
// asked for, and has the size class, by which it is freed and moved, of its size alone.
unsafe impl GlobalAlloc for LargePages {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: as the caller promises, the size is not zero.
        let at = unsafe { Jemalloc.alloc(placed(layout)) };
        advise(at, layout.size());
        at
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // Not placed: there are zeroed pages only where the allocator may choose the place.
        // SAFETY: as the caller promises, the size is not zero.
        let at = unsafe { Jemalloc.alloc_zeroed(layout) };
        advise(at, layout.size());
        at
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        // SAFETY: `at` came from jemalloc, which knows its size and place.
        unsafe { Jemalloc.dealloc(at, layout) };
    }

    unsafe fn realloc(&self, at: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // SAFETY: as for `dealloc`; the caller promises that `size` is not zero.
        let at = unsafe { Jemalloc.realloc(at, layout, size) };
        advise(at, size);
        at
    }
}

/// Gives the system back all memory that nobody uses, which the allocator otherwise keeps for a
/// while: what the process holds afterwards is what it needs.
pub fn give_back() {
    // "All arenas" has this number; the thread's own store goes first.
    for command in [c"thread.tcache.flush", c"arena.4096.purge"] {
        let nothing = std::ptr::null_mut();
        let none = std::ptr::null_mut();
        // SAFETY: the name is a C string, and these commands take and return nothing.
        unsafe { tikv_jemalloc_sys::mallctl(command.as_ptr(), nothing, none, nothing, 0) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_keeps_what_is_written_as_it_grows_and_shrinks() {
        for (from, to) in [(10, 3 * PAGE), (3 * PAGE, 5 * PAGE), (5 * PAGE, 100)] {
            let layout = Layout::from_size_align(from, 8).unwrap();
            // SAFETY: every block is written inside its size, moved and freed once, with
            // the layout it has.
            unsafe {
                let at = LargePages.alloc(layout);
                assert!(!at.is_null() && at.addr().is_multiple_of(8));
                at.write_bytes(7, from);
                let moved = LargePages.realloc(at, layout, to);
                let kept = std::slice::from_raw_parts(moved, from.min(to));
                assert!(kept.iter().all(|&b| b == 7));
                LargePages.dealloc(moved, Layout::from_size_align(to, 8).unwrap());
            }
        }
    }

    #[test]
    fn zeroed_memory_is_zero() {
        let layout = Layout::from_size_align(4 * PAGE, 16).unwrap();
        // SAFETY: the block is read inside its size and freed once.
        unsafe {
            let at = LargePages.alloc_zeroed(layout);
            let all = std::slice::from_raw_parts(at, layout.size());
            assert!(all.iter().all(|&b| b == 0));
            LargePages.dealloc(at, layout);
        }
    }

    /// Bytes of this process in memory.
    fn resident() -> usize {
        let text = std::fs::read_to_string("/proc/self/statm").unwrap();
        let pages: usize = text.split(' ').nth(1).unwrap().parse().unwrap();
        pages * SMALL
    }

    #[test]
    fn what_was_freed_is_given_back() {
        const MANY: usize = 100_000;
        // Of a size that no large page is asked for, and much more than other tests have.
        let layout = Layout::from_size_align(1_024, 8).unwrap();
        // SAFETY: every block is written inside its size and freed once.
        let blocks = (0..MANY).map(|_| unsafe {
            let at = LargePages.alloc(layout);
            at.write_bytes(7, layout.size());
            at
        });
        let blocks: Vec<*mut u8> = blocks.collect();
        let full = resident();
        for at in blocks {
            // SAFETY: as above.
            unsafe { LargePages.dealloc(at, layout) };
        }
        give_back();
        let left = resident();
        assert!(left + MANY * layout.size() / 2 < full, "{left} of {full}");
    }
}
