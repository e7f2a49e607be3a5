//! CRC-32C, the SCTP checksum (RFC 9260 appendix A).

/// Reflected Castagnoli polynomial.
const POLY: u32 = 0x82f6_3b78;

const TABLE: [u32; 256] = {
    let mut out = [0; 256];
    let mut i = 0;
    while i < 256 {
        let mut v = i as u32;
        let mut bit = 0;
        while bit < 8 {
            v = (v >> 1) ^ if v & 1 == 1 { POLY } else { 0 };
            bit += 1;
        }
        out[i] = v;
        i += 1;
    }
    out
};

/// The checksum of `parts` one after the other; SCTP sends it least significant
/// byte first.
#[must_use]
pub fn checksum(parts: &[&[u8]]) -> u32 {
    let bytes = parts.iter().copied().flatten();
    !bytes.fold(!0, |crc: u32, &b| {
        (crc >> 8) ^ TABLE[usize::from(crc as u8 ^ b)]
    })
}

/// The checksum field, as a little-endian number, that an SCTP packet should have;
/// `None` when the common header is not whole.
#[must_use]
pub fn sctp(l4: &[u8]) -> Option<u32> {
    let (head, tail) = (l4.get(..8)?, l4.get(12..)?);
    Some(checksum(&[head, &[0; 4], tail]))
}

#[cfg(test)]
mod tests {
    use super::checksum;

    // RFC 3720 appendix B.4.
    #[test]
    fn rfc3720_vectors() {
        assert_eq!(checksum(&[&[0; 32]]), 0x8a91_36aa);
        assert_eq!(checksum(&[&[0xff; 16], &[0xff; 16]]), 0x62a8_ab43);
    }

    // The usual check value of CRC-32C.
    #[test]
    fn check_value() {
        assert_eq!(checksum(&[b"1234", b"56789"]), 0xe306_9283);
    }
}
