//! A second, much simpler reader of log segments (`docs/format.md`): what of a damaged one may be lost, and what must be told of it.

/// Frames begin at multiples of this.
const SECTOR: usize = 512;

/// The frames of a log segment whose headers check, wherever they stand.
pub struct Log {
    frames: Vec<Frame>,
    /// Last LSN of the segment before.
    predecessor_last_lsn: u64,
    bytes: Vec<u8>,
}

struct Frame {
    end: usize,
    last_lsn: u64,
    watermark: u64,
}

impl Log {
    /// `None` where the segment's own header does not check.
    pub fn read(bytes: &[u8]) -> Option<Self> {
        let head = checked(bytes, 0, b"FPXLOG\r\n")?;
        let (predecessor_last_lsn, salt) = (u64_at(head, 40), u64_at(head, 48));
        let frame = |at: usize| {
            let head = checked(bytes, at, b"FPXF")?;
            let belongs = u64_at(head, 16) == salt && u32_at(head, 12) as usize == at;
            let end = at + (64 + u32_at(head, 8) as usize).next_multiple_of(SECTOR);
            belongs.then(|| Frame { end, last_lsn: u64_at(head, 32), watermark: u64_at(head, 40) })
        };
        let frames = (SECTOR..bytes.len()).step_by(SECTOR).filter_map(frame).collect();
        Some(Self { frames, predecessor_last_lsn, bytes: bytes.to_vec() })
    }

    /// Everything up to here was synced, says what is left of the segment: it must be there, or the index refuses.
    pub fn vouched_lsn(&self) -> u64 {
        self.frames.iter().map(|frame| frame.watermark).max().unwrap_or(0).max(self.predecessor_last_lsn)
    }

    /// Bytes, without the zeros at the end, that follow the frame of an LSN: what opening must report where that is the last one.
    pub fn bytes_after(&self, lsn: u64) -> usize {
        let end = self.frames.iter().find(|frame| frame.last_lsn == lsn).map_or(SECTOR, |frame| frame.end);
        let rest = self.bytes.get(end..).unwrap_or_default();
        rest.iter().rposition(|&byte| byte != 0).map_or(0, |last| last + 1)
    }
}

/// A header of 64 bytes that begins with `magic` and has the right checksum.
fn checked<'a>(bytes: &'a [u8], at: usize, magic: &[u8]) -> Option<&'a [u8]> {
    let head = bytes.get(at..at + 64)?;
    (head.starts_with(magic) && u32_at(head, 60) == crc32fast::hash(&head[..60])).then_some(head)
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap())
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap())
}
