//! A whole file as read-only memory.
#![expect(unsafe_code, reason = "one of the two files that may: the other is segment/faiss.rs")]
#![expect(clippy::disallowed_types, reason = "a map is made of an open file of the real disk")]

use std::fmt;
use std::fs;
use std::io;
use std::ops::Deref;

use memmap2::{Advice, Mmap};

/// A copy starts at a multiple of this, as a map does (which starts at a page): FAISS's kernels and casts to `f32` count on it.
pub const ALIGNMENT_BYTES: usize = 64;

/// The bytes of a file that does not change. Share it through an [`std::sync::Arc`].
///
/// The file's name may be removed while it is mapped; its bytes go when the last map does.
pub struct Map {
    bytes: Bytes,
}

enum Bytes {
    Mapped(Mmap),
    Copied {
        memory: Box<[u8]>,
        /// The first aligned byte of `memory`, which is boxed so that it never moves.
        start: usize,
        length: usize,
    },
}

impl Map {
    /// Maps the whole of `file`.
    pub(super) fn mapped(file: &fs::File) -> io::Result<Self> {
        if file.metadata()?.len() == 0 {
            // `mmap` refuses a length of 0.
            return Ok(Self::copied(&[]));
        }
        // SAFETY: a slice over a map is sound while nobody changes or cuts the file. A file is mapped only after it was written
        // whole and named by a manifest, and from then on no code of ours writes to it or cuts it: it is only read and, in the
        // end, unlinked, which leaves the mapped pages alone. The lock on the data directory keeps a second server away. That
        // somebody else edits files under a running server cannot be ruled out from here; docs/durability.md forbids it.
        let map = unsafe { Mmap::map(file)? };
        Ok(Self { bytes: Bytes::Mapped(map) })
    }

    /// A copy of `bytes` in memory of its own, aligned to [`ALIGNMENT_BYTES`].
    pub fn copied(bytes: &[u8]) -> Self {
        let length = bytes.len();
        let mut memory = vec![0; length + ALIGNMENT_BYTES - 1].into_boxed_slice();
        let start = memory.as_ptr().align_offset(ALIGNMENT_BYTES);
        memory[start..start + length].copy_from_slice(bytes);
        Self { bytes: Bytes::Copied { memory, start, length } }
    }

    /// Asks the kernel to read the file now, in large pages where it can: a check of every byte then waits for the disk once and not at each page.
    pub fn read_ahead(&self) {
        if let Bytes::Mapped(map) = &self.bytes {
            // Advice only: where it is not taken, the pages are small and are read when they are touched.
            #[cfg(target_os = "linux")]
            let _ = map.advise(Advice::HugePage);
            let _ = map.advise(Advice::WillNeed);
        }
    }
}

impl Deref for Map {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match &self.bytes {
            Bytes::Mapped(map) => map,
            Bytes::Copied { memory, start, length } => &memory[*start..*start + *length],
        }
    }
}

impl fmt::Debug for Map {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = if matches!(self.bytes, Bytes::Mapped(_)) { "mapped" } else { "copied" };
        write!(f, "Map({kind}, {} bytes)", self.len())
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn copy_is_aligned_whatever_its_length() {
        for length in [0, 1, 63, 64, 65, 4096, 100_001] {
            let bytes: Vec<u8> = (0..length).map(|i| i as u8).collect();
            let map = Map::copied(&bytes);
            assert_eq!(map[..], bytes[..]);
            assert_eq!(map.as_ptr().align_offset(ALIGNMENT_BYTES), 0, "{length}");
        }
    }

    #[test]
    fn map_gives_the_bytes_of_the_file_and_outlives_its_name() {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(b"seven").unwrap();
        let map = Map::mapped(file.as_file()).unwrap();
        map.read_ahead();
        file.close().unwrap();
        assert_eq!(&map[..], b"seven");
        assert_eq!(map.as_ptr().align_offset(ALIGNMENT_BYTES), 0);
        assert_eq!(format!("{map:?}"), "Map(mapped, 5 bytes)");
    }

    #[test]
    fn empty_file_maps_to_no_bytes() {
        assert!(Map::mapped(tempfile::NamedTempFile::new().unwrap().as_file()).unwrap().is_empty());
    }

    #[test]
    fn map_can_be_shared_between_threads() {
        fn shareable<T: Send + Sync>() {}
        shareable::<Map>();
    }
}
