//! One rule's use of a table of `-m hashlimit` (kernel `hashlimit_mt_common`).

use tidegate_ir::{Facts, Field, Shared, Step, StepInput, TableKey, Truth};
use tidegate_wire::{be16, proto};

use super::hashlimit_table::{Config, DPORT, DST, Key, SPORT, SRC, Table};

/// True within the rate.
#[derive(Clone, Debug)]
pub(super) struct HashLimit {
    pub(super) key: TableKey,
    pub(super) config: Config,
}

/// The ports where a protocol has them (`proto_ports_offset`), 0 elsewhere; `None` where
/// the packet ends before.
fn ports(facts: &dyn Facts) -> Option<(u16, u16)> {
    let layout = tidegate_wire::parse(facts.packet()).ok()?;
    let at = match layout.proto {
        proto::TCP | proto::UDP | proto::UDPLITE | proto::SCTP | proto::DCCP | proto::ESP => 0,
        proto::AH => 4,
        _ => return Some((0, 0)),
    };
    if layout.frag_off != 0 {
        return None;
    }
    let l4 = layout.l4(facts.packet());
    Some((be16(l4, at)?, be16(l4, at + 2)?))
}

fn key_of(config: &Config, facts: &mut dyn Facts) -> Option<Key> {
    let mut side = |bit, field, mask: u128| match config.mode & bit {
        0 => 0,
        _ => facts.load(field).unwrap_or(0) & mask,
    };
    let src = side(SRC, Field::Src, config.masks.0);
    let dst = side(DST, Field::Dst, config.masks.1);
    let (mut sport, mut dport) = (0, 0);
    if config.mode & (SPORT | DPORT) != 0 {
        let (s, d) = ports(facts)?;
        sport = if config.mode & SPORT != 0 { s } else { 0 };
        dport = if config.mode & DPORT != 0 { d } else { 0 };
    }
    Some(Key {
        src,
        dst,
        sport,
        dport,
    })
}

impl Step for HashLimit {
    fn call(&mut self, input: &mut StepInput<'_>) -> Truth {
        let table = input.shared.table(&self.key, || Table::new(self.config));
        let within = table.and_then(|table| {
            let key = key_of(&table.config, input.facts)?;
            table.packet(key, &self.config, input.now, input.len)
        });
        within.map_or(Truth::Hotdrop, Truth::from)
    }

    fn describe(&self, _: u64) -> String {
        format!("table {}", self.key.name)
    }

    fn fresh(&self) -> Box<dyn Step> {
        Box::new(self.clone())
    }

    fn load(&self, shared: &mut Shared) {
        shared.table(&self.key, || Table::new(self.config));
    }

    fn tables(&self) -> Vec<TableKey> {
        vec![self.key.clone()]
    }
}
