//! SYN cookies (RFC 4987 section 3.6): a sequence number in which the proxy finds again
//! what it said to a client it has forgotten.

use crate::Family;
use core::hash::Hasher as _;
use siphasher::sip::SipHasher24;

/// Bits of a cookie below the count of minutes.
const BITS: u32 = 24;
const MASK: u32 = (1 << BITS) - 1;
/// A cookie is good in the minute in which it was made and in the next one
/// (`MAX_SYNCOOKIE_AGE`).
const MINUTES: u32 = 2;
/// The segment sizes that a cookie can tell (`msstab` of either family).
const SIZES4: [u16; 4] = [536, 1300, 1440, 1460];
const SIZES6: [u16; 4] = [1220, 1420, 1440, 8940];

/// Who opens a connection, and to where.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Client {
    /// Family of the addresses.
    pub family: Family,
    /// The client's and the server's address.
    pub addresses: [u128; 2],
    /// The client's and the server's port.
    pub ports: [u16; 2],
    /// Sequence number of the client's SYN.
    pub seq: u32,
}

/// Makes cookies and reads them. Who does not know the key cannot make one.
#[derive(Clone, Debug)]
pub struct Cookies {
    hashers: [SipHasher24; 2],
}

impl Cookies {
    /// Cookies of a key that is drawn from another one, which it tells nothing about.
    #[must_use]
    pub fn new(key: &[u8; 16]) -> Cookies {
        let word = |which: u64| {
            let mut hasher = SipHasher24::new_with_key(key);
            hasher.write(b"SYN cookies");
            hasher.write_u64(which);
            hasher.finish()
        };
        let hasher = |which| SipHasher24::new_with_keys(word(which), word(which + 1));
        Cookies {
            hashers: [hasher(0), hasher(2)],
        }
    }

    /// The sequence number to answer `client` with in this minute; it tells the largest
    /// segment size it can that is not above `mss`.
    #[must_use]
    pub fn make(&self, client: &Client, minute: u32, mss: u16) -> u32 {
        let sizes = sizes(client.family);
        let class = sizes.iter().rposition(|&size| mss >= size).unwrap_or(0);
        let told = self.hash(1, client, minute).wrapping_add(class as u32) & MASK;
        self.start(client)
            .wrapping_add(minute << BITS)
            .wrapping_add(told)
    }

    /// The segment size that a sequence number tells if it was made for `client` not long
    /// before `minute`.
    #[must_use]
    pub fn read(&self, client: &Client, minute: u32, number: u32) -> Option<u16> {
        let rest = number.wrapping_sub(self.start(client));
        let age = minute.wrapping_sub(rest >> BITS) & (u32::MAX >> BITS);
        if age >= MINUTES {
            return None;
        }
        let told = self.hash(1, client, minute.wrapping_sub(age));
        let class = rest.wrapping_sub(told) & MASK;
        sizes(client.family).get(class as usize).copied()
    }

    fn start(&self, client: &Client) -> u32 {
        self.hash(0, client, 0).wrapping_add(client.seq)
    }

    fn hash(&self, which: usize, client: &Client, minute: u32) -> u32 {
        let mut hasher = self.hashers[which & 1];
        for address in client.addresses {
            match client.family {
                Family::V4 => hasher.write_u32(address as u32),
                Family::V6 => hasher.write_u128(address),
            }
        }
        for port in client.ports {
            hasher.write_u16(port);
        }
        hasher.write_u32(minute);
        hasher.finish() as u32
    }
}

const fn sizes(family: Family) -> &'static [u16; 4] {
    match family {
        Family::V4 => &SIZES4,
        Family::V6 => &SIZES6,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CLIENT: Client = Client {
        family: Family::V4,
        addresses: [0x0a00_0001, 0xc000_0201],
        ports: [40000, 80],
        seq: 12345,
    };

    #[test]
    fn what_was_told_is_found_again() {
        let cookies = Cookies::new(&[7; 16]);
        for (mss, told) in [
            (0, 536),
            (536, 536),
            (1299, 536),
            (1400, 1300),
            (1460, 1460),
            (9000, 1460),
        ] {
            let number = cookies.make(&CLIENT, 1000, mss);
            assert_eq!(cookies.read(&CLIENT, 1000, number), Some(told));
            assert_eq!(cookies.read(&CLIENT, 1001, number), Some(told));
        }
        let six = Client {
            family: Family::V6,
            ..CLIENT
        };
        let number = cookies.make(&six, 5, 1440);
        assert_eq!(cookies.read(&six, 5, number), Some(1440));
    }

    #[test]
    fn an_old_one_or_anothers_is_none() {
        let cookies = Cookies::new(&[7; 16]);
        let number = cookies.make(&CLIENT, 1000, 1460);
        assert_eq!(cookies.read(&CLIENT, 1002, number), None);
        assert_eq!(cookies.read(&CLIENT, 999, number), None);
        let others = [
            Client {
                seq: 99_999,
                ..CLIENT
            },
            Client {
                ports: [40001, 80],
                ..CLIENT
            },
            Client {
                addresses: [0x0a00_0002, 0xc000_0201],
                ..CLIENT
            },
        ];
        for other in others {
            assert_eq!(cookies.read(&other, 1000, number), None, "{other:?}");
        }
        assert_eq!(Cookies::new(&[8; 16]).read(&CLIENT, 1000, number), None);
    }

    /// Four of 16 million numbers of a minute are good, of two minutes.
    #[test]
    fn guessing_is_hopeless() {
        let cookies = Cookies::new(&[7; 16]);
        let mut step = 0u32;
        let good = (0..200_000).filter(|_| {
            step = step.wrapping_add(2_654_435_761);
            cookies.read(&CLIENT, 1000, step).is_some()
        });
        assert!(good.count() <= 1);
    }
}
