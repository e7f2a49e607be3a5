//! The window check as the programs have it, run by an interpreter beside the tracker.
