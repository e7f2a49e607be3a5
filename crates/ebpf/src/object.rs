//! The object file that loaders take: programs, definitions of maps, and which
//! instruction means which map.

use object::write::{Object, Relocation, Symbol, SymbolId, SymbolSection};
use object::{
    Architecture, BinaryFormat, Endianness, RelocationFlags, SectionKind, SymbolFlags, SymbolKind,
    SymbolScope, elf,
};

use crate::asm::Asm;
use crate::btf;
use crate::maps::Map;

/// A program with the name that loaders find it by and its section, which says what kind
/// of program it is (`classifier` for traffic control).
#[derive(Debug)]
pub struct Program {
    /// Name.
    pub name: &'static str,
    /// Section.
    pub section: &'static str,
    /// Instructions.
    pub code: Asm,
}

/// The license that the kernel is told: helpers reserved for GPL programs are not used.
const LICENSE: &[u8] = b"MIT OR Apache-2.0\0";
/// `R_BPF_64_64`: the address of a map.
const MAP_ADDRESS: u32 = 1;

/// An object file with `programs` and all of `maps`.
///
/// # Errors
/// Names that no object file can have.
pub fn object(programs: Vec<Program>, maps: &[&Map]) -> Result<Vec<u8>, object::write::Error> {
    let endian = if cfg!(target_endian = "little") {
        Endianness::Little
    } else {
        Endianness::Big
    };
    let mut file = Object::new(BinaryFormat::Elf, Architecture::Bpf, endian);
    let license = file.add_section(Vec::new(), b"license".to_vec(), SectionKind::Data);
    file.append_section_data(license, LICENSE, 1);
    let mut symbols = Vec::new();
    // Loaders take no empty section.
    if !maps.is_empty() {
        let types = file.add_section(Vec::new(), b".BTF".to_vec(), SectionKind::Other);
        file.append_section_data(types, &btf::btf(maps), 4);
        symbols = define(&mut file, maps);
    }
    for program in programs {
        add_program(&mut file, program, maps, &symbols)?;
    }
    file.write()
}

fn define(file: &mut Object<'_>, maps: &[&Map]) -> Vec<SymbolId> {
    let size = u64::from(btf::DEFINITION);
    let section = file.add_section(Vec::new(), b".maps".to_vec(), SectionKind::Data);
    let define = |map: &&Map| {
        let value = file.append_section_data(section, &[0; btf::DEFINITION as usize], 8);
        file.add_symbol(Symbol {
            name: map.name.as_bytes().to_vec(),
            value,
            size,
            kind: SymbolKind::Data,
            scope: SymbolScope::Dynamic,
            weak: false,
            section: SymbolSection::Section(section),
            flags: SymbolFlags::None,
        })
    };
    maps.iter().map(define).collect()
}

fn add_program(
    file: &mut Object<'_>,
    program: Program,
    maps: &[&Map],
    symbols: &[SymbolId],
) -> Result<(), object::write::Error> {
    let name = program.section.as_bytes().to_vec();
    let section = file.add_section(Vec::new(), name, SectionKind::Text);
    let (code, loads) = program.code.finish();
    let bytes: Vec<u8> = code.iter().flat_map(|i| i.to_bytes()).collect();
    let value = file.append_section_data(section, &bytes, 8);
    file.add_symbol(Symbol {
        name: program.name.as_bytes().to_vec(),
        value,
        size: bytes.len() as u64,
        kind: SymbolKind::Text,
        scope: SymbolScope::Dynamic,
        weak: false,
        section: SymbolSection::Section(section),
        flags: SymbolFlags::Elf {
            st_info: elf::STB_GLOBAL << 4 | elf::STT_FUNC,
            st_other: 0,
        },
    });
    for (at, map) in loads {
        let Some(which) = maps.iter().position(|m| m.name == map.name) else {
            continue;
        };
        let relocation = Relocation {
            offset: value + at as u64 * 8,
            symbol: symbols[which],
            addend: 0,
            flags: RelocationFlags::Elf {
                r_type: MAP_ADDRESS,
            },
        };
        file.add_relocation(section, relocation)?;
    }
    Ok(())
}
