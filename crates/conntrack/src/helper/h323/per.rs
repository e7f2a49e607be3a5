//! A reader of the aligned packed encoding rules (ITU-T X.691): it walks through a message by
//! a description of its types and notes the few values that were asked for.
//!
//! Descriptions are constants without recursion, every list and string is paid for by bits of
//! the message, and what is noted has a limit: work and memory are bounded by the message.

use alloc::vec::Vec;
use core::ops::Range;

/// Most values that are noted.
const MOST: usize = 64;
/// Most additions to a sequence that are looked at.
const ADDITIONS: usize = 64;

/// A type, as far as it must be known to be read or passed over.
pub(super) enum Type {
    /// Nothing.
    Null,
    /// So many bits, 16 at most: BOOLEAN values.
    Bits(u32),
    /// INTEGER with so many values; 0: unbounded.
    Int(u64),
    /// OCTET STRING, OBJECT IDENTIFIER.
    Octets(Size),
    /// A character string: bits of a character, and how many there are.
    Text(usize, Size),
    /// An address of so many octets and a port after it.
    Place(u8),
    /// SEQUENCE that can be extended: its fields and what was added later.
    Seq(&'static [Field], &'static [Field]),
    /// SEQUENCE that cannot be extended.
    Plain(&'static [Field]),
    /// CHOICE that can be extended: alternatives and those that were added later.
    Choice(&'static [Field], &'static [Field]),
    /// CHOICE that cannot be extended.
    Either(&'static [Field]),
    /// CHOICE between so many alternatives without content, which can be extended.
    Named(u64),
    /// SEQUENCE OF.
    List(&'static Field),
    /// OCTET STRING that holds the encoding of a value.
    Open(&'static Type),
    /// Nothing from here on is read, in this open type or in the message.
    Rest,
}

/// How many elements there are: least and most; most 0: any number.
pub(super) struct Size(pub(super) usize, pub(super) usize);

pub(super) const ANY: Size = Size(0, 0);
pub(super) const OID: Type = Type::Octets(ANY);
pub(super) const REST: Field = req(&Type::Rest);

/// A field, alternative or element.
pub(super) struct Field {
    value: &'static Type,
    optional: bool,
    role: Option<Role>,
}

/// A field that is always there.
pub(super) const fn req(value: &'static Type) -> Field {
    Field {
        value,
        optional: false,
        role: None,
    }
}

/// A field that may be missing.
pub(super) const fn opt(value: &'static Type) -> Field {
    Field {
        optional: true,
        ..req(value)
    }
}

impl Field {
    /// Notes addresses and numbers in the field as this; as an alternative or element the
    /// field itself as well.
    pub(super) const fn role(self, role: Role) -> Field {
        Field {
            role: Some(role),
            ..self
        }
    }
}

/// What a value means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    /// A request for registration.
    Registration,
    /// The answer to it.
    Registered,
    /// A request to end it.
    Unregistration,
    /// A request that a gatekeeper answers with an address of somebody else.
    Question,
    /// Where the sender takes RAS messages.
    Ras,
    /// Where another gatekeeper is.
    Gatekeeper,
    /// Where the sender takes calls.
    Listens,
    /// The same, once it is known.
    Signal,
    /// How long a registration lasts, seconds.
    Life,
    /// Where the sender was called.
    Answers,
    /// Where the sender calls from.
    Calls,
    /// Where the receiver may call.
    Admitted,
    /// Where somebody was found.
    Located,
    /// Where H.245 connections are taken.
    H245,
    /// Where a call goes to.
    Callee,
    /// Where it comes from.
    Caller,
    /// Where else to call.
    Alternative,
    /// The call is to go there.
    Forwarded,
    /// A message of H.245 within another one.
    Tunnelled,
    /// A channel is opened.
    Channel,
    /// Where RTP or RTCP go.
    Media,
    /// The channel is for T.120.
    T120,
    /// Over a connection of its own.
    LanStack,
    /// Where that goes.
    Stack,
    /// The same in an answer.
    AckStack,
}

/// A value that was noted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Found {
    pub(super) role: Role,
    pub(super) what: What,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum What {
    /// The alternative or element begins.
    Begins,
    /// So does an element of a list within it.
    Element,
    /// An integer, less its least value.
    Number(u64),
    /// An address of so many octets, and where it stands; a port follows.
    Place(u8, usize),
}

/// Why reading ended.
enum End {
    /// The rest does not matter.
    Rest,
    /// It is no such message.
    Bad,
}

/// The noted values of the message at `range` of `bytes`; `None` when it is none.
pub(super) fn read(bytes: &[u8], range: Range<usize>, message: &Type) -> Option<Vec<Found>> {
    let mut reader = Reader {
        bytes: bytes.get(..range.end)?,
        at: range.start * 8,
        found: Vec::new(),
    };
    match reader.value(message, None) {
        Ok(()) | Err(End::Rest) => Some(reader.found),
        Err(End::Bad) => None,
    }
}

struct Reader<'a> {
    /// Up to the end of the open type that is being read.
    bytes: &'a [u8],
    /// Bits before the place of reading.
    at: usize,
    found: Vec<Found>,
}

impl Reader<'_> {
    fn value(&mut self, value: &Type, role: Option<Role>) -> Result<(), End> {
        match value {
            Type::Null => Ok(()),
            Type::Bits(n) => self.bits(*n).map(drop),
            Type::Int(values) => {
                let number = self.number(*values)?;
                self.note(role, What::Number(number));
                Ok(())
            }
            Type::Octets(size) => self.text(8, size),
            Type::Text(bits, size) => self.text(*bits, size),
            Type::Place(octets) => {
                self.align();
                self.note(role, What::Place(*octets, self.at / 8));
                self.octets(usize::from(*octets) + 2)
            }
            Type::Seq(fields, added) => {
                let extended = self.bits(1)? == 1;
                self.fields(fields, role)?;
                if extended {
                    self.added(added, role)?;
                }
                Ok(())
            }
            Type::Plain(fields) => self.fields(fields, role),
            Type::Choice(fields, added) => {
                if self.bits(1)? == 1 {
                    let index = self.small()?;
                    let chosen = added.get(index).unwrap_or(&REST);
                    return self.open(|r| r.element(chosen, role));
                }
                self.either(fields, role)
            }
            Type::Either(fields) => self.either(fields, role),
            Type::Named(alternatives) => {
                if self.bits(1)? == 1 {
                    self.small()?;
                    return self.open(|_| Ok(()));
                }
                self.number(*alternatives).map(drop)
            }
            Type::List(element) => {
                for _ in 0..self.length()? {
                    self.note(role, What::Element);
                    self.element(element, role)?;
                }
                Ok(())
            }
            Type::Open(value) => self.open(|r| r.value(value, role)),
            Type::Rest => Err(End::Rest),
        }
    }

    fn note(&mut self, role: Option<Role>, what: What) {
        if let Some(role) = role.filter(|_| self.found.len() < MOST) {
            self.found.push(Found { role, what });
        }
    }

    /// An alternative that was chosen, or an element of a list.
    fn element(&mut self, field: &Field, role: Option<Role>) -> Result<(), End> {
        self.note(field.role, What::Begins);
        self.value(field.value, field.role.or(role))
    }

    fn either(&mut self, fields: &[Field], role: Option<Role>) -> Result<(), End> {
        let index = self.number(fields.len() as u64)?;
        let chosen = fields.get(index as usize).ok_or(End::Bad)?;
        self.element(chosen, role)
    }

    /// The fields of a sequence; bits before them say which of the optional ones are there.
    fn fields(&mut self, fields: &[Field], role: Option<Role>) -> Result<(), End> {
        let optional = fields.iter().filter(|f| f.optional).count();
        let there = self.bits(optional as u32)?;
        let mut left = optional;
        for field in fields {
            if field.optional {
                left -= 1;
                if there >> left & 1 == 0 {
                    continue;
                }
            }
            self.value(field.value, field.role.or(role))?;
        }
        Ok(())
    }

    /// What a later version added to a sequence: each in an open type.
    fn added(&mut self, added: &[Field], role: Option<Role>) -> Result<(), End> {
        let count = self.small()? + 1;
        let mut there = [false; ADDITIONS];
        for place in there.get_mut(..count).ok_or(End::Bad)? {
            *place = self.bits(1)? == 1;
        }
        for (i, _) in there.iter().enumerate().filter(|(_, there)| **there) {
            let field = added.get(i).unwrap_or(&REST);
            self.open(|r| r.value(field.value, field.role.or(role)))?;
        }
        Ok(())
    }

    /// A value in an encoding of its own, whose length stands before it.
    fn open(&mut self, read: impl FnOnce(&mut Self) -> Result<(), End>) -> Result<(), End> {
        let len = self.length()?;
        let end = self.at / 8 + len;
        let inner = self.bytes.get(..end).ok_or(End::Bad)?;
        let outer = core::mem::replace(&mut self.bytes, inner);
        let done = read(self);
        self.bytes = outer;
        self.at = end * 8;
        match done {
            Ok(()) | Err(End::Rest) => Ok(()),
            Err(End::Bad) => Err(End::Bad),
        }
    }

    /// A string of so many bits an element (sections 17 and 30).
    fn text(&mut self, bits: usize, size: &Size) -> Result<(), End> {
        let (least, most) = (size.0, size.1);
        let count = match most {
            0 => self.length()?,
            _ => least + self.number((most - least + 1) as u64)? as usize,
        };
        let fixed = least == most;
        let short = most != 0 && (most * bits < 16 || fixed && most * bits == 16);
        if !short && count > 0 {
            self.align();
        }
        self.pass(count * bits)
    }

    /// A whole number of `values` possible ones, less the least (section 11.5); any number
    /// when there are 0.
    fn number(&mut self, values: u64) -> Result<u64, End> {
        let octets = match values {
            0 => self.length()?,
            1 => return Ok(0),
            2..=255 => {
                let bits = u64::BITS - (values - 1).leading_zeros();
                return self.bits(bits).map(u64::from);
            }
            256 => 1,
            257..=65_536 => 2,
            _ => {
                let most = (u64::BITS - (values - 1).leading_zeros()).div_ceil(8);
                self.bits(u32::BITS - (most - 1).leading_zeros())? as usize + 1
            }
        };
        self.align();
        let start = self.at / 8;
        let number = self.bytes.get(start..start + octets).ok_or(End::Bad)?;
        let number = number.iter().fold(0u64, |n, b| n << 8 | u64::from(*b));
        self.octets(octets)?;
        Ok(number)
    }

    /// A number that is mostly small (section 11.6): which addition, or how many of them.
    fn small(&mut self) -> Result<usize, End> {
        match self.bits(1)? {
            0 => Ok(self.bits(6)? as usize),
            // There are no such messages.
            _ => Err(End::Bad),
        }
    }

    /// A length without limits (section 11.9); lengths in pieces do not fit into a packet.
    fn length(&mut self) -> Result<usize, End> {
        self.align();
        match self.bits(8)? as usize {
            short @ 0..=0x7f => Ok(short),
            long @ 0x80..=0xbf => Ok((long & 0x3f) << 8 | self.bits(8)? as usize),
            _ => Err(End::Bad),
        }
    }

    /// So many bits, 32 at most.
    fn bits(&mut self, count: u32) -> Result<u32, End> {
        let mut value = 0;
        for _ in 0..count {
            let byte = self.bytes.get(self.at / 8).ok_or(End::Bad)?;
            value = value << 1 | u32::from(byte >> (7 - self.at % 8) & 1);
            self.at += 1;
        }
        Ok(value)
    }

    fn align(&mut self) {
        self.at = self.at.next_multiple_of(8);
    }

    fn octets(&mut self, count: usize) -> Result<(), End> {
        self.pass(count * 8)
    }

    fn pass(&mut self, bits: usize) -> Result<(), End> {
        self.at += bits;
        if self.at > self.bytes.len() * 8 {
            return Err(End::Bad);
        }
        Ok(())
    }
}
