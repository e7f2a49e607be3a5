//! Packets to look up.

use tidegate_ir::{Cond, Facts, Field, Rule, Rules, StepId, Truth, ctstate};

use crate::random::Random;

/// What rules look at in a packet.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Header {
    pub(crate) src: u128,
    pub(crate) dst: u128,
    pub(crate) input: u128,
    pub(crate) output: u128,
    pub(crate) mark: u32,
    pub(crate) sport: u16,
    pub(crate) dport: u16,
    pub(crate) proto: u8,
    pub(crate) state: u8,
    pub(crate) ttl: u8,
}

impl Facts for Header {
    #[inline]
    fn load(&mut self, field: Field) -> Option<u128> {
        let ports = matches!(self.proto, 6 | 17);
        match field {
            Field::Src => Some(self.src),
            Field::Dst => Some(self.dst),
            Field::Proto => Some(self.proto.into()),
            Field::FragOff => Some(0),
            Field::L4Len => Some(40),
            Field::Sport => ports.then_some(self.sport.into()),
            Field::Dport => ports.then_some(self.dport.into()),
            Field::InName => Some(self.input),
            Field::OutName => Some(self.output),
            Field::Mark => Some(self.mark.into()),
            Field::CtState => Some(self.state.into()),
            Field::Ttl => Some(self.ttl.into()),
            Field::HasCt => Some(1),
            _ => None,
        }
    }
    fn step(&mut self, _: StepId) -> Truth {
        Truth::False
    }
}

/// A number of a field's width, or an address of the family.
fn any(random: &mut Random, field: Field, v6: bool) -> u128 {
    let bits = match field {
        Field::Src | Field::Dst if !v6 => 32,
        f => u32::from(f.row().bits),
    };
    random.between(0, u128::MAX >> (128 - bits))
}

fn inside(random: &mut Random, cond: &Cond) -> Option<(Field, u128)> {
    let Cond::Test(test) = cond else { return None };
    let value = match test.mask() {
        Some((_, wanted)) => wanted,
        None => {
            let list: Vec<_> = test.intervals()?.collect();
            let &(lo, hi) = list.get(random.below(list.len() as u64) as usize)?;
            random.between(lo, hi)
        }
    };
    Some((test.field(), value))
}

/// A packet that the rule's positive tests let pass.
pub(crate) fn like(random: &mut Random, rule: &Rule, v6: bool) -> Header {
    let mut h = Header {
        src: any(random, Field::Src, v6),
        dst: any(random, Field::Dst, v6),
        input: u128::from_be_bytes(*b"eth0\0\0\0\0\0\0\0\0\0\0\0\0"),
        output: u128::from_be_bytes(*b"uplink1\0\0\0\0\0\0\0\0\0"),
        mark: 0,
        sport: 1024 + random.below(64_000) as u16,
        dport: random.below(65_536) as u16,
        proto: random.weighted(&[(70, 6), (25, 17), (5, 1)]),
        state: ctstate::NEW as u8,
        ttl: 64,
    };
    for (field, value) in rule.cond.iter().filter_map(|c| inside(random, c)) {
        match field {
            Field::Src => h.src = value,
            Field::Dst => h.dst = value,
            Field::Proto => h.proto = value as u8,
            Field::Sport => h.sport = value as u16,
            Field::Dport => h.dport = value as u16,
            Field::InName => h.input = value,
            Field::OutName => h.output = value,
            Field::Mark => h.mark = value as u32,
            Field::CtState => h.state = value as u8,
            _ => {}
        }
    }
    h
}

/// Each field from another rule.
pub(crate) fn mixture(random: &mut Random, rules: &Rules, v6: bool) -> Header {
    let mut one = || {
        let at = random.below(rules.len() as u64) as usize;
        like(random, &rules[at], v6)
    };
    let (a, b, c) = (one(), one(), one());
    Header {
        dst: b.dst,
        output: b.output,
        proto: c.proto,
        sport: c.sport,
        dport: c.dport,
        ..a
    }
}

/// Addresses and ports from everywhere.
pub(crate) fn stranger(random: &mut Random, rules: &Rules, v6: bool) -> Header {
    let at = random.below(rules.len() as u64) as usize;
    let h = like(random, &rules[at], v6);
    Header {
        src: any(random, Field::Src, v6),
        dst: any(random, Field::Dst, v6),
        input: 0,
        mark: random.next() as u32,
        dport: random.next() as u16,
        ..h
    }
}
