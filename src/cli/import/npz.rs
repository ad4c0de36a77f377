//! `.npz`: arrays of NumPy's in a zip archive, as `numpy.savez` and `savez_compressed` write them. One of them is read.

use std::io::{self, BufReader, Read, Seek as _, SeekFrom};
use std::path::Path;

use flate2::bufread::DeflateDecoder;
use zip::{CompressionMethod, ZipArchive};

use super::super::Failure;
use super::npy::Npy;
use super::source::{Source, open};

/// Opens the array of this name, or the only one.
///
/// # Errors
/// Where it cannot be read, or is not there.
pub fn open_array(path: &Path, array: Option<&str>) -> Result<Box<dyn Source>, Failure> {
    let failed = |why: String| Failure::new(format!("{}: {why}", path.display()));
    let (file, _) = open(path)?;
    let mut archive = ZipArchive::new(file).map_err(|error| failed(format!("is no .npz file: {error}")))?;
    let names: Vec<String> =
        archive.file_names().flatten().filter_map(|name| Some(name.strip_suffix(".npy")?.to_owned())).collect();
    let name = match (array, &names[..]) {
        (Some(array), _) if names.iter().any(|name| name == array) => array,
        (None, [name]) => name,
        (_, []) => return Err(failed("has no array".to_owned())),
        _ => return Err(failed(format!("has the arrays {}: name one with --array", names.join(", ")))),
    };
    let at = archive.index_for_name(&format!("{name}.npy")).ok_or_else(|| failed(format!("{name} is gone")))?;
    let entry = archive.by_index_raw(at).map_err(|error| failed(format!("{name}: {error}")))?;
    let (start, packed_bytes, bytes, crc) = (entry.data_start(), entry.compressed_size(), entry.size(), entry.crc32());
    let (method, encrypted) = (entry.compression(), entry.encrypted());
    drop(entry);
    let start = start.filter(|_| !encrypted).ok_or_else(|| failed(format!("{name}: is encrypted")))?;
    let mut file = archive.into_inner();
    file.seek(SeekFrom::Start(start)).map_err(|error| failed(error.to_string()))?;
    let packed = file.take(packed_bytes);
    let unpacked: Box<dyn Read> = match method {
        CompressionMethod::Stored => Box::new(packed),
        CompressionMethod::Deflated => Box::new(DeflateDecoder::new(packed)),
        other => return Err(failed(format!("{name}: is compressed by {other}, and only deflate is known"))),
    };
    let checked = Checked { inner: unpacked, bytes_left: bytes, hasher: crc32fast::Hasher::new(), crc };
    Ok(Box::new(Npy::new(BufReader::new(checked), format!("{}: {name}", path.display()), Some(bytes))?))
}

/// So many bytes, whose last is given only where the checksum of all of them is right.
struct Checked<R> {
    inner: R,
    bytes_left: u64,
    hasher: crc32fast::Hasher,
    crc: u32,
}

impl<R: Read> Read for Checked<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let most = usize::try_from(self.bytes_left).unwrap_or(usize::MAX).min(buffer.len());
        let read = self.inner.read(&mut buffer[..most])?;
        self.hasher.update(&buffer[..read]);
        self.bytes_left -= read as u64;
        if self.bytes_left == 0 && read > 0 && self.hasher.clone().finalize() != self.crc {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "the checksum of the array is wrong: the file is damaged"));
        }
        Ok(read)
    }
}
