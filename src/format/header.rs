//! The header of a log segment: 64 bytes, at offset 0, padded with zeros to the first frame at [`FIRST_FRAME`].

use super::{FORMAT_VERSION, Fields, MIN_READER_VERSION, crc32, put, unreadable};
use crate::types::{IndexId, Lsn};

const MAGIC: [u8; 8] = *b"FPXLOG\r\n";

/// Offset of the first frame of a segment.
pub(crate) const FIRST_FRAME: u64 = super::frame::FRAME_ALIGN as u64;

/// What a log segment says of itself. Written and synced before the segment has its name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct LogHeader {
    pub(crate) index: IndexId,
    /// Rises by at least one with every segment that this index starts.
    pub(crate) epoch: u32,
    /// LSN of the first mutation that this segment will hold: the one after `predecessor_last_lsn`.
    pub(crate) first_lsn: Lsn,
    /// The predecessor ends after this LSN, whatever bytes follow in it. 0 where there is none.
    pub(crate) predecessor_last_lsn: Lsn,
    /// The chain value after the predecessor's last frame; the first frame here goes on from it. 0 where there is none.
    pub(crate) predecessor_chain: u32,
    /// Random (half of a version 4 UUID); every frame repeats it, so that no older file's bytes can pass for this one's.
    pub(crate) salt: u64,
}

impl LogHeader {
    pub(crate) fn encode(&self) -> [u8; 64] {
        let mut bytes = [0; 64];
        put(&mut bytes, 0, MAGIC);
        put(&mut bytes, 8, FORMAT_VERSION.to_le_bytes());
        put(&mut bytes, 10, MIN_READER_VERSION.to_le_bytes());
        put(&mut bytes, 12, self.epoch.to_le_bytes());
        put(&mut bytes, 16, *self.index.as_bytes());
        put(&mut bytes, 32, self.first_lsn.to_le_bytes());
        put(&mut bytes, 40, self.predecessor_last_lsn.to_le_bytes());
        put(&mut bytes, 48, self.salt.to_le_bytes());
        put(&mut bytes, 56, self.predecessor_chain.to_le_bytes());
        let crc = crc32(&[&bytes[..60]]);
        put(&mut bytes, 60, crc.to_le_bytes());
        bytes
    }

    /// # Errors
    /// What is wrong with the bytes, for a person.
    pub(crate) fn decode(bytes: &[u8; 64]) -> Result<Self, String> {
        let fields = Fields(bytes);
        if bytes[..8] != MAGIC {
            return Err("this is no log segment of faiss-proxy".to_owned());
        }
        if fields.u32(60) != crc32(&[&bytes[..60]]) {
            return Err("log header: checksum mismatch".to_owned());
        }
        if let Some(why) = unreadable(fields.u16(8), fields.u16(10), FORMAT_VERSION) {
            return Err(why);
        }
        let (first_lsn, predecessor_last_lsn) = (fields.u64(32), fields.u64(40));
        if predecessor_last_lsn.checked_add(1) != Some(first_lsn) {
            return Err(format!("log header: LSN {first_lsn} does not follow {predecessor_last_lsn}"));
        }
        Ok(Self {
            index: IndexId::from_bytes(fields.bytes16(16)),
            epoch: fields.u32(12),
            first_lsn,
            predecessor_last_lsn,
            predecessor_chain: fields.u32(56),
            salt: fields.u64(48),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    pub(super) fn sample() -> LogHeader {
        LogHeader {
            index: IndexId::from_bytes([7; 16]),
            epoch: 3,
            first_lsn: 42,
            predecessor_last_lsn: 41,
            predecessor_chain: 0xdead_beef,
            salt: 0x0102_0304_0506_0708,
        }
    }

    #[test]
    fn log_header_has_the_documented_bytes() {
        let expected: [u8; 64] = [
            b'F', b'P', b'X', b'L', b'O', b'G', b'\r', b'\n', // magic
            1, 0, 1, 0, 3, 0, 0, 0, // version, minimum reader, epoch
            7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, // index
            42, 0, 0, 0, 0, 0, 0, 0, 41, 0, 0, 0, 0, 0, 0, 0, // first LSN, predecessor's last LSN
            8, 7, 6, 5, 4, 3, 2, 1, // salt
            0xef, 0xbe, 0xad, 0xde, // predecessor's chain
            0xbe, 0x5f, 0x7f, 0x67, // CRC-32 of the 60 bytes before
        ];
        assert_eq!(sample().encode(), expected);
        assert_eq!(LogHeader::decode(&expected), Ok(sample()));
    }

    #[test]
    fn any_flipped_bit_of_a_log_header_is_seen() {
        let bytes = sample().encode();
        for bit in 0..512 {
            let mut flipped = bytes;
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert!(LogHeader::decode(&flipped).is_err(), "bit {bit}");
        }
    }

    #[test]
    fn first_lsn_that_does_not_follow_the_predecessor_s_last_is_refused() {
        for (first_lsn, predecessor_last_lsn) in [(0, 0), (43, 41), (41, 41), (0, u64::MAX)] {
            let bytes = LogHeader { first_lsn, predecessor_last_lsn, ..sample() }.encode();
            assert!(LogHeader::decode(&bytes).is_err_and(|why| why.contains("does not follow")), "{first_lsn}");
        }
    }

    #[test]
    fn newer_minimum_reader_is_refused_by_its_number() {
        let mut bytes = sample().encode();
        bytes[10] = 9;
        let crc = crc32(&[&bytes[..60]]);
        put(&mut bytes, 60, crc.to_le_bytes());
        assert!(LogHeader::decode(&bytes).is_err_and(|why| why.contains("version 9")));
    }
}
