//! Packets.

use crate::allowed;
use crate::fast::Fast;

#[test]
fn the_verifier_takes_all_programs() {
    if allowed() {
        Fast::load();
    }
}
