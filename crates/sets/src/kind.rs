//! The types of sets: one row each.

/// One of the parts of a member, which commas separate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// An address.
    Ip,
    /// A network.
    Net,
    /// A protocol and a port, or an ICMP type and code.
    Port,
    /// A port without a protocol (`bitmap:port`).
    BarePort,
    /// A link-layer address.
    Mac,
    /// An interface.
    Iface,
    /// A packet mark.
    Mark,
    /// A set (`list:set`).
    Set,
}

/// How members are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Storage {
    /// As many as `maxelem` says.
    Hash,
    /// Those of a range.
    Bitmap,
    /// Sets in an order.
    List,
}

/// A type of sets.
#[derive(Debug)]
pub struct Kind {
    /// Name, `method:parts`.
    pub name: &'static str,
    /// How members are kept.
    pub storage: Storage,
    /// What a member is made of.
    pub parts: &'static [Part],
    /// Revision that listings show.
    pub revision: u8,
    /// Whether members may be exceptions (`nomatch`).
    pub nomatch: bool,
    /// Whether `netmask` may be given.
    pub netmask: bool,
    /// Whether `bitmask` may be given.
    pub bitmask: bool,
    /// Whether the family is the user's to choose; otherwise [`Kind::inet`] decides.
    pub families: bool,
    /// Whether members are IPv4 addresses where there is no choice.
    pub inet: bool,
}

impl PartialEq for Kind {
    fn eq(&self, other: &Self) -> bool {
        self.name == other.name
    }
}

impl Eq for Kind {}

const HASH: Kind = Kind {
    name: "",
    storage: Storage::Hash,
    parts: &[],
    revision: 0,
    nomatch: false,
    netmask: false,
    bitmask: false,
    families: true,
    inet: false,
};

const BITMAP: Kind = Kind {
    storage: Storage::Bitmap,
    revision: 3,
    families: false,
    inet: true,
    ..HASH
};

const fn hash(name: &'static str, revision: u8, parts: &'static [Part]) -> Kind {
    Kind {
        name,
        revision,
        parts,
        ..HASH
    }
}

const fn with_nets(name: &'static str, revision: u8, parts: &'static [Part]) -> Kind {
    Kind {
        nomatch: true,
        ..hash(name, revision, parts)
    }
}

const fn masked(kind: Kind) -> Kind {
    Kind {
        netmask: true,
        bitmask: true,
        ..kind
    }
}

use Part::{BarePort, Iface, Ip, Mac, Mark, Net, Port};

/// All types, with the revisions of ipset 7.17.
pub static KINDS: [Kind; 16] = [
    masked(hash("hash:ip", 6, &[Ip])),
    with_nets("hash:net", 7, &[Net]),
    masked(hash("hash:ip,port", 7, &[Ip, Port])),
    with_nets("hash:net,port", 8, &[Net, Port]),
    hash("hash:ip,port,ip", 6, &[Ip, Port, Ip]),
    with_nets("hash:ip,port,net", 8, &[Ip, Port, Net]),
    masked(with_nets("hash:net,net", 4, &[Net, Net])),
    with_nets("hash:net,port,net", 3, &[Net, Port, Net]),
    with_nets("hash:net,iface", 8, &[Net, Iface]),
    hash("hash:ip,mark", 3, &[Ip, Mark]),
    hash("hash:ip,mac", 1, &[Ip, Mac]),
    Kind {
        families: false,
        ..hash("hash:mac", 1, &[Mac])
    },
    Kind {
        name: "bitmap:ip",
        parts: &[Ip],
        netmask: true,
        ..BITMAP
    },
    Kind {
        name: "bitmap:ip,mac",
        parts: &[Ip, Mac],
        ..BITMAP
    },
    Kind {
        name: "bitmap:port",
        parts: &[BarePort],
        inet: false,
        ..BITMAP
    },
    Kind {
        storage: Storage::List,
        families: false,
        ..hash("list:set", 3, &[Part::Set])
    },
];

impl Kind {
    /// The type of that name.
    #[must_use]
    pub fn by_name(name: &str) -> Option<&'static Kind> {
        KINDS.iter().find(|k| k.name == name)
    }

    /// Whether a member has such a part.
    #[must_use]
    pub fn has(&self, part: Part) -> bool {
        self.parts.contains(&part)
    }

    /// Whether the MAC address is not part of the key: it may be learnt from a packet.
    #[must_use]
    pub fn learns_mac(&self) -> bool {
        self.storage == Storage::Bitmap && self.has(Mac)
    }
}
