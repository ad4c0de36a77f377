//! A frame: one group commit in the log. 64 bytes of header, the payload, zeros up to a multiple of [`FRAME_ALIGN`].

use super::{Fields, crc32, crc32_from, put};
use crate::types::Lsn;

/// Frames begin at multiples of this, so that writing one never touches a sector that holds an acknowledged one.
pub(crate) const FRAME_ALIGN: usize = 512;

/// Bytes of a frame's header.
pub(crate) const FRAME_HEADER: usize = 64;

/// The most payload that a reader believes in. Writers stay under it ([`Limits::frame_bytes_max`](crate::config::Limits)).
pub(crate) const PAYLOAD_BYTES_MAX: usize = 64 << 20;

/// The most bytes of an operation that spans frames that a reader puts together.
pub(crate) const OPERATION_BYTES_MAX: usize = 1 << 30;

const MAGIC: [u8; 4] = *b"FPXF";

/// What the payload is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FrameKind {
    /// One or more whole operations.
    Operations = 1,
    /// A piece of one operation that goes on in the next frame.
    Part = 2,
    /// The last piece of an operation that began in an earlier frame.
    LastPart = 3,
    /// Nothing: the frame is there for its watermark. `first_lsn` is `last_lsn + 1`.
    Marker = 4,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct FrameHeader {
    pub(crate) kind: FrameKind,
    pub(crate) payload_bytes: u32,
    /// Where in its file this frame begins.
    pub(crate) offset: u32,
    /// The salt of the segment's header.
    pub(crate) salt: u64,
    /// LSN of the first operation.
    pub(crate) first_lsn: Lsn,
    /// LSN of the last operation.
    pub(crate) last_lsn: Lsn,
    /// Highest LSN known to be synced when this frame was written.
    pub(crate) watermark: Lsn,
    /// When the group was committed: UTC, microseconds since 1970, never less than in the frame before while the log is
    /// open. Data, not logic.
    pub(crate) time_us: u64,
    /// CRC-32 of the first 56 bytes of this header and the payload, gone on from the chain value of the frame before.
    pub(crate) chain: u32,
}

impl FrameHeader {
    /// The header's bytes; its `chain` is computed from `before`, the chain value of the frame before, and set.
    pub(crate) fn seal(&mut self, before: u32, payload: &[&[u8]]) -> [u8; FRAME_HEADER] {
        let mut bytes = [0; FRAME_HEADER];
        put(&mut bytes, 0, MAGIC);
        put(&mut bytes, 4, [self.kind as u8, 0, 0, 0]);
        put(&mut bytes, 8, self.payload_bytes.to_le_bytes());
        put(&mut bytes, 12, self.offset.to_le_bytes());
        put(&mut bytes, 16, self.salt.to_le_bytes());
        put(&mut bytes, 24, self.first_lsn.to_le_bytes());
        put(&mut bytes, 32, self.last_lsn.to_le_bytes());
        put(&mut bytes, 40, self.watermark.to_le_bytes());
        put(&mut bytes, 48, self.time_us.to_le_bytes());
        self.chain = crc32_from(crc32_from(before, &[&bytes[..56]]), payload);
        put(&mut bytes, 56, self.chain.to_le_bytes());
        let crc = crc32(&[&bytes[..60]]);
        put(&mut bytes, 60, crc.to_le_bytes());
        bytes
    }

    /// `None` where the bytes are no frame header: whether of a torn frame, of zeros or of anything else cannot be known from them.
    pub(crate) fn decode(bytes: &[u8; FRAME_HEADER]) -> Option<Self> {
        let fields = Fields(bytes);
        if bytes[..4] != MAGIC || fields.u32(60) != crc32(&[&bytes[..60]]) {
            return None;
        }
        let kind = match bytes[4] {
            1 => FrameKind::Operations,
            2 => FrameKind::Part,
            3 => FrameKind::LastPart,
            4 => FrameKind::Marker,
            _ => return None,
        };
        Some(Self {
            kind,
            payload_bytes: fields.u32(8),
            offset: fields.u32(12),
            salt: fields.u64(16),
            first_lsn: fields.u64(24),
            last_lsn: fields.u64(32),
            watermark: fields.u64(40),
            time_us: fields.u64(48),
            chain: fields.u32(56),
        })
    }

    /// Whether `payload` is what this header was sealed with, after a frame of chain value `before`.
    pub(crate) fn chains(&self, bytes: &[u8; FRAME_HEADER], before: u32, payload: &[u8]) -> bool {
        self.chain == crc32_from(crc32_from(before, &[&bytes[..56]]), &[payload])
    }

    /// Bytes of the whole frame in the file.
    pub(crate) fn frame_bytes(&self) -> u64 {
        frame_bytes(self.payload_bytes as usize)
    }
}

/// Bytes in the file of a frame with this much payload.
pub(crate) fn frame_bytes(payload_bytes: usize) -> u64 {
    (FRAME_HEADER + payload_bytes).next_multiple_of(FRAME_ALIGN) as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> FrameHeader {
        FrameHeader {
            kind: FrameKind::Operations,
            payload_bytes: 5,
            offset: 512,
            salt: 0x0102_0304_0506_0708,
            first_lsn: 7,
            last_lsn: 9,
            watermark: 6,
            time_us: 0x1112,
            chain: 0,
        }
    }

    #[test]
    fn frame_header_has_the_documented_bytes() {
        let mut header = sample();
        let bytes = header.seal(0x1234, &[b"he", b"llo"]);
        let expected: [u8; 64] = [
            b'F', b'P', b'X', b'F', 1, 0, 0, 0, 5, 0, 0, 0, 0, 2, 0, 0, // magic, kind, payload bytes, offset
            8, 7, 6, 5, 4, 3, 2, 1, // salt
            7, 0, 0, 0, 0, 0, 0, 0, 9, 0, 0, 0, 0, 0, 0, 0, // first and last LSN
            6, 0, 0, 0, 0, 0, 0, 0, 0x12, 0x11, 0, 0, 0, 0, 0, 0, // watermark, time
            0xab, 0x93, 0x96, 0xf6, // chain
            0x3f, 0xb0, 0xc2, 0x4b, // CRC-32 of the 60 bytes before
        ];
        assert_eq!(bytes, expected);
        let decoded = FrameHeader::decode(&bytes).unwrap();
        assert_eq!(decoded, header);
        assert!(decoded.chains(&bytes, 0x1234, b"hello"));
        assert!(!decoded.chains(&bytes, 0x1235, b"hello"), "another predecessor");
        assert!(!decoded.chains(&bytes, 0x1234, b"hellO"), "another payload");
    }

    #[test]
    fn any_flipped_bit_of_a_frame_header_is_seen() {
        let bytes = sample().seal(0, &[b"hello"]);
        for bit in 0..512 {
            let mut flipped = bytes;
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(FrameHeader::decode(&flipped), None, "bit {bit}");
        }
    }
}
