//! Parsed option values and the set of options one rule gives an extension.

/// A parsed option argument.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    /// The option takes no argument.
    Flag,
    /// A number.
    Number(u64),
    /// An inclusive range.
    Range(u64, u64),
    /// A 32-bit value under a mask.
    Masked {
        /// The value.
        value: u32,
        /// Bits that count.
        mask: u32,
    },
    /// Text as given.
    Text(String),
    /// A number that the host's lists have a name for.
    Named(u32, String),
    /// A set of named bits.
    Bits(u32),
    /// Ports and port ranges in the order given.
    Ports(Vec<(u16, u16)>),
    /// An address under a mask; IPv4 in the low 32 bits.
    Net {
        /// The address as given.
        addr: u128,
        /// The mask.
        mask: u128,
    },
    /// An inclusive address range; IPv4 in the low 32 bits.
    Addrs(u128, u128),
    /// A translation's new addresses and ports.
    Nat(Box<NatTo>),
    /// A value that belongs to the numbered part of what the options describe.
    At(u8, Box<Value>),
}

/// What follows `--to-source`, `--to-destination` or `--to-ports`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NatTo {
    /// New addresses, both ends included.
    pub addrs: Option<(u128, u128)>,
    /// New ports, both ends included.
    pub ports: Option<(u16, u16)>,
    /// Base of a shifted port range.
    pub base: Option<u16>,
}

/// One option a rule gives.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Given {
    /// Index in the extension's option table.
    pub opt: usize,
    /// Whether a `!` stood before it.
    pub invert: bool,
    /// Its argument.
    pub value: Value,
}

/// The options a rule gives one extension, in the order of its table.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Args(Vec<Given>);

impl Args {
    /// The option at index `opt`, if given.
    #[must_use]
    pub fn get(&self, opt: usize) -> Option<&Given> {
        self.0.iter().find(|g| g.opt == opt)
    }

    /// Whether the option is given.
    #[must_use]
    pub fn has(&self, opt: usize) -> bool {
        self.get(opt).is_some()
    }

    /// Whether the option is given with a `!`.
    #[must_use]
    pub fn inverted(&self, opt: usize) -> bool {
        self.get(opt).is_some_and(|g| g.invert)
    }

    /// Puts the option in place, replacing an earlier one.
    pub fn set(&mut self, opt: usize, invert: bool, value: Value) {
        self.remove(opt);
        self.add(opt, invert, value);
    }

    /// Puts the option beside earlier ones of its kind.
    pub fn add(&mut self, opt: usize, invert: bool, value: Value) {
        let at = self.0.partition_point(|g| g.opt <= opt);
        // Rules are many, and most have one option.
        self.0.reserve_exact(1);
        self.0.insert(at, Given { opt, invert, value });
    }

    /// Takes the option out.
    pub fn remove(&mut self, opt: usize) -> Option<Given> {
        let at = self.0.iter().position(|g| g.opt == opt)?;
        Some(self.0.remove(at))
    }

    /// All given options in table order.
    pub fn iter(&self) -> impl Iterator<Item = &Given> {
        self.0.iter()
    }

    /// Whether no option is given.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The option's number.
    #[must_use]
    pub fn number(&self, opt: usize) -> Option<u64> {
        self.get(opt)?.value.number()
    }

    /// The option's range; a single number is a range of one.
    #[must_use]
    pub fn range(&self, opt: usize) -> Option<(u64, u64)> {
        self.get(opt)?.value.range()
    }

    /// The option's value and mask.
    #[must_use]
    pub fn masked(&self, opt: usize) -> Option<(u32, u32)> {
        self.get(opt)?.value.masked()
    }

    /// The option's text.
    #[must_use]
    pub fn text(&self, opt: usize) -> Option<&str> {
        self.get(opt)?.value.text()
    }

    /// The option's bit set.
    #[must_use]
    pub fn bits(&self, opt: usize) -> Option<u32> {
        self.get(opt)?.value.bits()
    }

    /// The option's port list.
    #[must_use]
    pub fn ports(&self, opt: usize) -> Option<&[(u16, u16)]> {
        self.get(opt)?.value.ports()
    }

    /// The option's address range as first and last, or network as address and mask.
    #[must_use]
    pub fn addrs(&self, opt: usize) -> Option<(u128, u128)> {
        self.get(opt)?.value.addrs()
    }

    /// The option's translation.
    #[must_use]
    pub fn nat(&self, opt: usize) -> Option<NatTo> {
        self.get(opt)?.value.nat()
    }
}

impl Value {
    /// The number, if it is that.
    #[must_use]
    pub fn number(&self) -> Option<u64> {
        let Value::Number(n) = *self else {
            return None;
        };
        Some(n)
    }

    /// The range; a single number is a range of one, if it is that.
    #[must_use]
    pub fn range(&self) -> Option<(u64, u64)> {
        if let Value::Number(n) = *self {
            return Some((n, n));
        }
        let Value::Range(lo, hi) = *self else {
            return None;
        };
        Some((lo, hi))
    }

    /// The value and mask, if it is that; of a named number all bits count.
    #[must_use]
    pub fn masked(&self) -> Option<(u32, u32)> {
        match *self {
            Value::Masked { value, mask } => Some((value, mask)),
            Value::Named(value, _) => Some((value, u32::MAX)),
            _ => None,
        }
    }

    /// The text, if it is that.
    #[must_use]
    pub fn text(&self) -> Option<&str> {
        let Value::Text(s) = self else {
            return None;
        };
        Some(s)
    }

    /// The bit set, if it is that.
    #[must_use]
    pub fn bits(&self) -> Option<u32> {
        let Value::Bits(b) = *self else {
            return None;
        };
        Some(b)
    }

    /// The port list, if it is that.
    #[must_use]
    pub fn ports(&self) -> Option<&[(u16, u16)]> {
        let Value::Ports(p) = self else {
            return None;
        };
        Some(p)
    }

    /// The address range as first and last, or network as address and mask, if it is that.
    #[must_use]
    pub fn addrs(&self) -> Option<(u128, u128)> {
        if let Value::Net { addr, mask } = *self {
            return Some((addr, mask));
        }
        let Value::Addrs(lo, hi) = *self else {
            return None;
        };
        Some((lo, hi))
    }

    /// The translation, if it is that.
    #[must_use]
    pub fn nat(&self) -> Option<NatTo> {
        let Value::Nat(to) = self else {
            return None;
        };
        Some(**to)
    }
}
