//! CRC-32C, the SCTP checksum (RFC 9260 appendix A).

/// Reflected Castagnoli polynomial.
const POLY: u32 = 0x82f6_3b78;

const TABLE: [u32; 256] = table();

const fn table() -> [u32; 256] {
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
}

/// The checksum of `data`; SCTP sends it least significant byte first.
pub(crate) fn checksum(data: &[u8]) -> u32 {
    !data.iter().fold(!0, |crc: u32, &b| {
        (crc >> 8) ^ TABLE[usize::from(crc as u8 ^ b)]
    })
}

#[cfg(test)]
mod tests {
    use super::checksum;

    // RFC 3720 appendix B.4.
    #[test]
    fn rfc3720_vectors() {
        assert_eq!(checksum(&[0; 32]), 0x8a91_36aa);
        assert_eq!(checksum(&[0xff; 32]), 0x62a8_ab43);
        assert_eq!(checksum(b"123456789"), 0xe306_9283);
    }
}
