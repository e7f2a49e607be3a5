//! Messages that another encoder made (`oracle/kernel/h323_vectors.py`).

use super::per::{Found, Role, What};
use super::{call, h225, h245, per};
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

const VECTORS: &str = include_str!("../../../../../oracle/kernel/h323.txt");

fn read(name: &str, message: &[u8]) -> Option<Vec<Found>> {
    let all = 0..message.len();
    match name.split_once('-')?.0 {
        "ras" => per::read(message, all, &h225::RAS_MESSAGE),
        "q931" => call::read(message, all),
        _ => per::read(message, all, &h245::MESSAGE),
    }
}

fn bytes(hex: &str) -> Vec<u8> {
    let digits: Vec<u32> = hex.chars().map(|c| c.to_digit(16).unwrap()).collect();
    digits.chunks(2).map(|d| (d[0] << 4 | d[1]) as u8).collect()
}

/// What was found as the file has it. T.120 counts only where it is alone on its connection,
/// another address only when the call goes there, and then nothing else does.
fn shown(found: &[Found]) -> Vec<String> {
    let (mut t120, mut alone) = (false, false);
    let forwarded = found.iter().any(|f| f.role == Role::Forwarded);
    let mut all = Vec::new();
    let mut life = None;
    for f in found {
        match (f.role, &f.what) {
            (Role::Channel, What::Begins) => (t120, alone) = (false, false),
            (Role::T120, _) => t120 = true,
            (Role::LanStack, _) => alone = t120,
            (Role::Stack, _) if !alone => {}
            (Role::Alternative, _) if !forwarded => {}
            (Role::H245, _) if forwarded => {}
            (role, What::Place(_, at)) => all.push(format!("{role:?}@{at}")),
            (Role::Life, What::Number(n)) => life = Some(format!("Life@{}", n + 1)),
            _ => {}
        }
    }
    all.extend(life);
    all
}

fn vectors() -> impl Iterator<Item = (&'static str, Vec<u8>, Vec<&'static str>)> {
    let lines = VECTORS.lines().filter(|l| !l.starts_with('#'));
    lines.map(|line| {
        let words: Vec<&str> = line.split(' ').collect();
        (words[0], bytes(words[2]), words[3..].to_vec())
    })
}

#[test]
fn places_are_where_another_encoder_put_them() {
    let mut count = 0;
    for (name, message, places) in vectors() {
        let found = read(name, &message).unwrap_or_else(|| panic!("{name} {message:02x?}"));
        assert_eq!(shown(&found), places, "{name} {message:02x?}");
        count += places.len();
    }
    assert!(count > 300, "{count}");
}

#[test]
fn cut_and_damaged_messages_end() {
    for (name, message, _) in vectors() {
        for cut in 0..message.len() {
            let _ = read(name, &message[..cut]);
        }
        for bit in 0..message.len() * 8 {
            let mut bad = message.clone();
            bad[bit / 8] ^= 0x80 >> (bit % 8);
            let found = read(name, &bad).unwrap_or_default();
            assert!(found.len() <= 64);
            let inside = |f: &Found| match f.what {
                What::Place(octets, at) => at + usize::from(octets) + 2 <= bad.len(),
                _ => true,
            };
            assert!(found.iter().all(inside), "{name}");
        }
    }
}

/// A list of as many channels as fit, each of them an address: what is noted has a limit.
#[test]
fn a_list_without_end_is_not_followed() {
    let mut message = alloc::vec![0x06, 0x80, 0, 0, 0, 0];
    message.resize(60_000, 0);
    let found = per::read(&message, 0..message.len(), &h225::RAS_MESSAGE);
    assert!(found.is_none_or(|f| f.len() <= 64));
}
