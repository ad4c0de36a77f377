//! Bytes: how headers, frames, segments and manifests look on disk. `docs/format.md` has the tables. Nothing here does I/O.

pub(crate) mod codec;
pub(crate) mod effect;
pub(crate) mod frame;
pub(crate) mod header;
pub(crate) mod manifest;
pub(crate) mod position;
pub(crate) mod segment;

/// Version of the logs and segments that this code writes, and the newest that it reads. Manifests have their own.
pub(crate) const FORMAT_VERSION: u16 = 1;

/// Oldest reader that understands what this code writes.
pub(crate) const MIN_READER_VERSION: u16 = 1;

/// CRC-32 (IEEE 802.3, as in zlib) of several slices as if they were one.
pub(crate) fn crc32(parts: &[&[u8]]) -> u32 {
    crc32_from(0, parts)
}

/// Goes on from the CRC of what came before.
pub(crate) fn crc32_from(before: u32, parts: &[&[u8]]) -> u32 {
    let mut hasher = crc32fast::Hasher::new_with_initial(before);
    for part in parts {
        hasher.update(part);
    }
    hasher.finalize()
}

/// Says why a reader of kinds of files up to `newest` cannot read one of these versions, if it cannot.
pub(crate) fn unreadable(version: u16, min_reader: u16, newest: u16) -> Option<String> {
    (min_reader > newest).then(|| {
        format!(
            "written by a newer version: format version {version} needs a reader of version {min_reader} or newer, and this one reads \
             up to {newest}; use a newer faiss-proxy"
        )
    })
}

/// Little-endian fields of a fixed 64-byte header, by offset. The offsets are constants of this module's children.
pub(crate) struct Fields<'a>(pub(crate) &'a [u8; 64]);

impl Fields<'_> {
    fn array<const N: usize>(&self, at: usize) -> [u8; N] {
        let mut bytes = [0; N];
        bytes.copy_from_slice(&self.0[at..at + N]);
        bytes
    }

    pub(crate) fn u16(&self, at: usize) -> u16 {
        u16::from_le_bytes(self.array(at))
    }

    pub(crate) fn u32(&self, at: usize) -> u32 {
        u32::from_le_bytes(self.array(at))
    }

    pub(crate) fn u64(&self, at: usize) -> u64 {
        u64::from_le_bytes(self.array(at))
    }

    pub(crate) fn bytes16(&self, at: usize) -> [u8; 16] {
        self.array(at)
    }
}

/// Puts a field into a fixed 64-byte header.
pub(crate) fn put<const N: usize>(header: &mut [u8; 64], at: usize, field: [u8; N]) {
    header[at..at + N].copy_from_slice(&field);
}
