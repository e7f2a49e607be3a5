//! Any text as command lines of ipset, and as what it restores.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| tidegate_fuzz_targets::sets(data));
