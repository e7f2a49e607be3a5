//! The tools' own options.

use crate::getopt::Takes;

/// Bits of options that go or do not go with a command.
pub(crate) mod bit {
    pub(crate) const NUMERIC: u16 = 1 << 0;
    pub(crate) const SOURCE: u16 = 1 << 1;
    pub(crate) const DESTINATION: u16 = 1 << 2;
    pub(crate) const PROTOCOL: u16 = 1 << 3;
    pub(crate) const JUMP: u16 = 1 << 4;
    pub(crate) const VERBOSE: u16 = 1 << 5;
    pub(crate) const EXACT: u16 = 1 << 6;
    pub(crate) const IN: u16 = 1 << 7;
    pub(crate) const OUT: u16 = 1 << 8;
    pub(crate) const LINE_NUMBERS: u16 = 1 << 9;
    pub(crate) const COUNTERS: u16 = 1 << 10;
    pub(crate) const FRAGMENT: u16 = 1 << 11;
}

/// Names in error texts, by bit, in the order they are checked.
pub(crate) const BIT_NAMES: [&str; 12] = [
    "--numeric",
    "--source",
    "--destination",
    "--protocol",
    "--jump",
    "--verbose",
    "--exact",
    "--in-interface",
    "--out-interface",
    "--line-numbers",
    "--set-counters",
    "--fragments",
];

/// Options that accept `!`.
pub(crate) const INVERTIBLE: u16 =
    bit::SOURCE | bit::DESTINATION | bit::PROTOCOL | bit::IN | bit::OUT | bit::FRAGMENT;

const SPEC: u16 = INVERTIBLE | bit::JUMP | bit::VERBOSE;

/// Bits of the options that go with the commands of these letters (`d`: `-D` by
/// number, `z`: `-Z` by number).
pub(crate) const fn allowed(command: char) -> u16 {
    match command {
        'A' | 'I' | 'R' => SPEC | bit::COUNTERS,
        'D' | 'C' => SPEC,
        'L' => bit::NUMERIC | bit::VERBOSE | bit::EXACT | bit::LINE_NUMBERS,
        'P' => bit::VERBOSE | bit::COUNTERS,
        _ => bit::VERBOSE,
    }
}

/// Letters of long options that have no short one.
pub(crate) const LINE_NUMBERS: char = '0';

/// The tools' own long options with their letters; a letter that is none is no short option.
pub fn long_options() -> impl Iterator<Item = (&'static str, char)> {
    LONG.iter().map(|&(name, letter, _)| (name, letter))
}

/// Long options with their letter and argument. Short ones are the same letters.
pub(crate) const LONG: &[(&str, char, Takes)] = &[
    ("append", 'A', Takes::One),
    ("delete", 'D', Takes::One),
    ("check", 'C', Takes::One),
    ("insert", 'I', Takes::One),
    ("replace", 'R', Takes::One),
    ("list", 'L', Takes::Attached),
    ("list-rules", 'S', Takes::Attached),
    ("flush", 'F', Takes::Attached),
    ("zero", 'Z', Takes::Attached),
    ("new-chain", 'N', Takes::One),
    ("delete-chain", 'X', Takes::Attached),
    ("rename-chain", 'E', Takes::One),
    ("policy", 'P', Takes::One),
    ("source", 's', Takes::One),
    ("destination", 'd', Takes::One),
    ("src", 's', Takes::One),
    ("dst", 'd', Takes::One),
    ("protocol", 'p', Takes::One),
    ("in-interface", 'i', Takes::One),
    ("jump", 'j', Takes::One),
    ("table", 't', Takes::One),
    ("match", 'm', Takes::One),
    ("numeric", 'n', Takes::Nothing),
    ("out-interface", 'o', Takes::One),
    ("verbose", 'v', Takes::Nothing),
    ("wait", 'w', Takes::Attached),
    ("wait-interval", 'W', Takes::Attached),
    ("exact", 'x', Takes::Nothing),
    ("fragments", 'f', Takes::Nothing),
    ("version", 'V', Takes::Nothing),
    ("help", 'h', Takes::Attached),
    ("line-numbers", LINE_NUMBERS, Takes::Nothing),
    ("modprobe", 'M', Takes::One),
    ("set-counters", 'c', Takes::One),
    ("goto", 'g', Takes::One),
    ("ipv4", '4', Takes::Nothing),
    ("ipv6", '6', Takes::Nothing),
];

/// What the options take, by letter.
const SHORT: [Option<Takes>; 128] = {
    let mut table = [None; 128];
    let mut row = 0;
    while row < LONG.len() {
        let (_, letter, takes) = LONG[row];
        if letter != LINE_NUMBERS {
            table[letter as usize] = Some(takes);
        }
        row += 1;
    }
    table
};

/// What the option of this letter takes, if there is one.
pub(crate) fn short(letter: char) -> Option<Takes> {
    SHORT.get(letter as usize).copied().flatten()
}
