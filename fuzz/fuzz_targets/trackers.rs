//! Packets of every protocol with a tracker.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| tidegate_fuzz_targets::trackers(data));
