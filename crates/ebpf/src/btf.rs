//! Type information for maps (Linux `btf.rst`): the kernel looks for locks in values by
//! their type, and loaders read from it what maps there are.

use crate::maps::Map;

const INT: u32 = 1;
const PTR: u32 = 2;
const ARRAY: u32 = 3;
const STRUCT: u32 = 4;
const VAR: u32 = 14;
const DATASEC: u32 = 15;

const MAGIC: u16 = 0xeb9f;
const HEADER: u32 = 24;
/// `BTF_VAR_GLOBAL_ALLOCATED`
const GLOBAL: u32 = 1;

#[derive(Default)]
struct Types {
    strings: Vec<u8>,
    types: Vec<u8>,
    last: u32,
}

impl Types {
    fn name(&mut self, name: &str) -> u32 {
        let at = self.strings.len() as u32;
        self.strings.extend_from_slice(name.as_bytes());
        self.strings.push(0);
        at
    }

    /// A type: name, kind, count of members, size or type, and what follows.
    fn add(&mut self, name: &str, kind: u32, count: u32, size: u32, rest: &[u32]) -> u32 {
        let name = if name.is_empty() { 0 } else { self.name(name) };
        let words = [name, kind << 24 | count, size];
        for word in words.iter().chain(rest) {
            self.types.extend_from_slice(&word.to_ne_bytes());
        }
        self.last += 1;
        self.last
    }

    fn array(&mut self, of: u32, index: u32, len: u32) -> u32 {
        self.add("", ARRAY, 0, 0, &[of, index, len])
    }

    fn structure(&mut self, name: &str, size: u32, members: &[(&str, u32, u32)]) -> u32 {
        let mut rest = Vec::new();
        for (name, ty, offset) in members {
            rest.extend([self.name(name), *ty, offset * 8]);
        }
        self.add(name, STRUCT, members.len() as u32, size, &rest)
    }
}

/// The section `.BTF` for `maps`, which lie one after the other in `.maps`,
/// [`DEFINITION`] bytes each.
pub(crate) fn btf(maps: &[&Map]) -> Vec<u8> {
    let mut t = Types {
        strings: vec![0],
        ..Types::default()
    };
    let word = t.add("u32", INT, 0, 4, &[32]);
    let byte = t.add("u8", INT, 0, 1, &[8]);
    let lock = t.structure("bpf_spin_lock", 4, &[("val", word, 0)]);
    let mut variables = Vec::new();
    for (i, map) in maps.iter().enumerate() {
        // Arrays want an integer as key; others take any type.
        let key = if map.key == 4 {
            word
        } else {
            t.array(byte, word, map.key)
        };
        let (size, entries) = map.extent();
        let value = if map.locked {
            let rest = t.array(byte, word, size - 4);
            t.structure("value", size, &[("lock", lock, 0), ("rest", rest, 4)])
        } else {
            t.array(byte, word, size)
        };
        // Numbers are lengths of arrays that pointers point to.
        let mut number = |n: u32| {
            let array = t.array(word, word, n);
            t.add("", PTR, 0, array, &[])
        };
        let kind = number(map.number());
        let most = number(entries);
        let flags = number(map.flags());
        let key = t.add("", PTR, 0, key, &[]);
        let value = t.add("", PTR, 0, value, &[]);
        let members = [
            ("type", kind, 0),
            ("key", key, 8),
            ("value", value, 16),
            ("max_entries", most, 24),
            ("map_flags", flags, 32),
        ];
        let definition = t.structure("", DEFINITION, &members);
        let var = t.add(map.name, VAR, 0, definition, &[GLOBAL]);
        variables.extend([var, i as u32 * DEFINITION, DEFINITION]);
    }
    let size = maps.len() as u32 * DEFINITION;
    t.add(".maps", DATASEC, maps.len() as u32, size, &variables);
    let mut bytes = Vec::new();
    bytes.extend_from_slice(&MAGIC.to_ne_bytes());
    // Version 1, no flags.
    bytes.extend_from_slice(&[1, 0]);
    let (types, strings) = (t.types.len() as u32, t.strings.len() as u32);
    for word in [HEADER, 0, types, types, strings] {
        bytes.extend_from_slice(&word.to_ne_bytes());
    }
    bytes.extend(t.types);
    bytes.extend(t.strings);
    bytes
}

/// Bytes of a map's definition: five pointers.
pub(crate) const DEFINITION: u32 = 40;
