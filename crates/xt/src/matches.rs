//! Match extensions, one file each.

pub mod comment;
pub mod tcp;
mod transport;
