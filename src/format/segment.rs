//! A sealed segment file: header, vectors, records, scales, text, checksums. The sections' places follow from the header.

use std::ops::Range;

use super::{FORMAT_VERSION, Fields, MIN_READER_VERSION, crc32, put, unreadable};
use crate::types::{IndexId, Lsn};

const MAGIC: [u8; 8] = *b"FPXSEG\r\n";

/// Bytes of the header, and what every section's beginning is a multiple of: a cache line.
pub(crate) const ALIGN: usize = 64;

/// Bytes covered by one checksum of the table at the file's end.
pub(crate) const BLOCK: usize = 1 << 20;

/// Bytes of one row's record.
pub(crate) const RECORD: usize = 24;

/// Set in [`SegmentHeader::flags`] where there is a scale (the inverse of the norm) for each row.
pub(crate) const HAS_SCALES: u32 = 1;

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct SegmentHeader {
    pub(crate) index: IndexId,
    /// Number of this segment within its index; its file's name.
    pub(crate) number: u64,
    pub(crate) dimension: u32,
    pub(crate) rows: u32,
    pub(crate) flags: u32,
    pub(crate) text_bytes: u64,
}

/// Where the sections are, in bytes from the file's beginning.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Layout {
    pub(crate) vectors: Range<usize>,
    pub(crate) records: Range<usize>,
    pub(crate) scales: Range<usize>,
    pub(crate) text: Range<usize>,
    /// One CRC-32 for each [`BLOCK`] bytes before this section, then the CRC-32 of this section so far.
    pub(crate) checksums: Range<usize>,
}

impl SegmentHeader {
    pub(crate) fn encode(&self) -> [u8; ALIGN] {
        let mut bytes = [0; ALIGN];
        put(&mut bytes, 0, MAGIC);
        put(&mut bytes, 8, FORMAT_VERSION.to_le_bytes());
        put(&mut bytes, 10, MIN_READER_VERSION.to_le_bytes());
        put(&mut bytes, 12, self.dimension.to_le_bytes());
        put(&mut bytes, 16, *self.index.as_bytes());
        put(&mut bytes, 32, self.number.to_le_bytes());
        put(&mut bytes, 40, self.text_bytes.to_le_bytes());
        put(&mut bytes, 48, self.rows.to_le_bytes());
        put(&mut bytes, 52, self.flags.to_le_bytes());
        let crc = crc32(&[&bytes[..60]]);
        put(&mut bytes, 60, crc.to_le_bytes());
        bytes
    }

    /// # Errors
    /// What is wrong with the bytes, for a person.
    pub(crate) fn decode(bytes: &[u8; ALIGN]) -> Result<Self, String> {
        let fields = Fields(bytes);
        if bytes[..8] != MAGIC {
            return Err("this is no segment of faiss-proxy".to_owned());
        }
        if fields.u32(60) != crc32(&[&bytes[..60]]) {
            return Err("segment header: checksum mismatch".to_owned());
        }
        if let Some(why) = unreadable(fields.u16(8), fields.u16(10), FORMAT_VERSION) {
            return Err(why);
        }
        Ok(Self {
            index: IndexId::from_bytes(fields.bytes16(16)),
            number: fields.u64(32),
            dimension: fields.u32(12),
            rows: fields.u32(48),
            flags: fields.u32(52),
            text_bytes: fields.u64(40),
        })
    }

    /// `None` where the sizes do not fit into memory.
    pub(crate) fn layout(&self) -> Option<Layout> {
        let rows = self.rows as usize;
        let vectors = section(ALIGN, rows.checked_mul(self.dimension as usize)?.checked_mul(4)?)?;
        let records = section(vectors.end, rows.checked_mul(RECORD)?)?;
        let scales = section(records.end, if self.flags & HAS_SCALES == 0 { 0 } else { rows.checked_mul(4)? })?;
        let text = section(scales.end, usize::try_from(self.text_bytes).ok()?)?;
        let before = text.end.checked_next_multiple_of(ALIGN)?;
        let checksums = before..before.checked_add(before.div_ceil(BLOCK).checked_mul(4)?)?.checked_add(4)?;
        Some(Layout { vectors, records, scales, text, checksums })
    }
}

fn section(after: usize, bytes: usize) -> Option<Range<usize>> {
    let start = after.checked_next_multiple_of(ALIGN)?;
    Some(start..start.checked_add(bytes)?)
}

/// What is kept of a row beside its vector and its text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Record {
    /// The mutation that stored the row.
    pub(crate) lsn: Lsn,
    /// Where the id begins in the text; the metadata follows it.
    pub(crate) text: u64,
    pub(crate) id_bytes: u16,
    /// The vector's norm is beyond what f32 kernels bear: it is scored in f64.
    pub(crate) extreme: bool,
    pub(crate) metadata_bytes: u32,
}

impl Record {
    pub(crate) fn encode(&self) -> [u8; RECORD] {
        let mut bytes = [0; RECORD];
        bytes[..8].copy_from_slice(&self.lsn.to_le_bytes());
        bytes[8..16].copy_from_slice(&self.text.to_le_bytes());
        bytes[16..18].copy_from_slice(&self.id_bytes.to_le_bytes());
        bytes[18] = u8::from(self.extreme);
        bytes[20..].copy_from_slice(&self.metadata_bytes.to_le_bytes());
        bytes
    }

    pub(crate) fn decode(bytes: &[u8; RECORD]) -> Self {
        let u64_at = |at: usize| u64::from_le_bytes(std::array::from_fn(|i| bytes[at + i]));
        Self {
            lsn: u64_at(0),
            text: u64_at(8),
            id_bytes: u16::from_le_bytes([bytes[16], bytes[17]]),
            extreme: bytes[18] != 0,
            metadata_bytes: u32::from_le_bytes([bytes[20], bytes[21], bytes[22], bytes[23]]),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn segment_header_and_record_have_the_documented_bytes() {
        let header = SegmentHeader {
            index: IndexId::from_bytes([7; 16]),
            number: 5,
            dimension: 3,
            rows: 2,
            flags: HAS_SCALES,
            text_bytes: 9,
        };
        let expected: [u8; 64] = [
            b'F', b'P', b'X', b'S', b'E', b'G', b'\r', b'\n', // magic
            1, 0, 1, 0, 3, 0, 0, 0, // version, minimum reader, dimension
            7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, // index
            5, 0, 0, 0, 0, 0, 0, 0, 9, 0, 0, 0, 0, 0, 0, 0, // number, text bytes
            2, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, // rows, flags, reserved
            0x0e, 0x69, 0xfd, 0xfc, // CRC-32 of the 60 bytes before
        ];
        assert_eq!(header.encode(), expected);
        assert_eq!(SegmentHeader::decode(&expected), Ok(header.clone()));
        let layout = header.layout().unwrap();
        assert_eq!(layout, Layout { vectors: 64..88, records: 128..176, scales: 192..200, text: 256..265, checksums: 320..328 });

        let record = Record { lsn: 0x0102, text: 0x0304, id_bytes: 5, extreme: true, metadata_bytes: 6 };
        let bytes = [2, 1, 0, 0, 0, 0, 0, 0, 4, 3, 0, 0, 0, 0, 0, 0, 5, 0, 1, 0, 6, 0, 0, 0];
        assert_eq!(record.encode(), bytes);
        assert_eq!(Record::decode(&bytes), record);
    }

    #[test]
    fn sizes_beyond_memory_have_no_layout() {
        let header = SegmentHeader {
            index: IndexId::nil(),
            number: 1,
            dimension: u32::MAX,
            rows: u32::MAX,
            flags: 0,
            text_bytes: u64::MAX,
        };
        assert_eq!(header.layout(), None);
    }
}
