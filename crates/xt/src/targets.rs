//! Target extensions, one file each.

pub mod log;
