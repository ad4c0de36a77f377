//! From system calls that may do a part to reads and writes that do all: one loop for each, for the real disk and the simulated one.

use std::io::{self, ErrorKind, IoSlice};

/// Parts that one `pwritev` takes; Linux's `IOV_MAX`.
const PARTS_MAX: usize = 1024;

/// Fills `buffer` from `offset` by calls of `pread`; fewer bytes only where a call gives none, which is the end of the file.
pub(super) fn read(
    buffer: &mut [u8],
    offset: u64,
    mut pread: impl FnMut(&mut [u8], u64) -> io::Result<usize>,
) -> io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match pread(&mut buffer[filled..], offset + filled as u64) {
            Ok(0) => break,
            Ok(n) => filled += n,
            Err(e) if e.kind() == ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(filled)
}

/// Writes all of `parts`, one after the other, from `offset` on by calls of `pwritev`, none of which is given no byte to write.
pub(super) fn write(
    parts: &[IoSlice<'_>],
    offset: u64,
    mut pwritev: impl FnMut(&[IoSlice<'_>], u64) -> io::Result<usize>,
) -> io::Result<()> {
    // Empty parts are left out, so that "0 bytes written" can only mean that the disk takes no more.
    let mut parts: Vec<IoSlice<'_>> = parts.iter().filter(|part| !part.is_empty()).copied().collect();
    let mut rest = parts.as_mut_slice();
    let mut offset = offset;
    while !rest.is_empty() {
        match pwritev(&rest[..rest.len().min(PARTS_MAX)], offset) {
            Ok(0) => return Err(ErrorKind::WriteZero.into()),
            Ok(n) => {
                offset += n as u64;
                IoSlice::advance_slices(&mut rest, n);
            }
            Err(e) if e.kind() == ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::FileExt;

    use super::*;

    /// Whether a call is one of those that a signal interrupts: every third.
    fn is_interrupted(calls: &mut u64) -> bool {
        *calls += 1;
        calls.is_multiple_of(3)
    }

    #[test]
    fn calls_that_do_a_part_or_are_interrupted_come_to_the_whole() {
        let bytes: Vec<u8> = (0..10_000_u32).map(|i| (i % 251) as u8).collect();
        let file = tempfile::tempfile().unwrap();
        for most in [1, 7, 512, 20_000] {
            file.set_len(0).unwrap();
            let parts: Vec<IoSlice<'_>> = bytes.chunks(300).flat_map(|part| [IoSlice::new(&[]), IoSlice::new(part)]).collect();
            let mut calls = 0;
            write(&parts, 5, |parts, at| match is_interrupted(&mut calls) {
                true => Err(ErrorKind::Interrupted.into()),
                false => file.write_at(&parts[0][..parts[0].len().min(most)], at),
            })
            .unwrap();

            let mut found = vec![9; bytes.len() + 100];
            let filled = read(&mut found, 5, |buffer, at| match is_interrupted(&mut calls) {
                true => Err(ErrorKind::Interrupted.into()),
                false => {
                    let most = buffer.len().min(most);
                    file.read_at(&mut buffer[..most], at)
                }
            });
            assert_eq!(filled.unwrap(), bytes.len(), "the file ends there");
            assert_eq!(found[..bytes.len()], bytes[..], "{most} bytes a call");
            assert!(calls >= 2 * (bytes.len() / most) as u64);
        }
    }

    #[test]
    fn a_call_that_fails_after_a_part_is_an_error_and_one_that_writes_nothing_is_too() {
        let three_bytes_and_no_more = |at| if at == 0 { Ok(3) } else { Err(io::Error::other("the disk is gone")) };
        assert!(read(&mut [0; 8], 0, |_, at| three_bytes_and_no_more(at)).is_err());
        assert!(write(&[IoSlice::new(b"12345678")], 0, |_, at| three_bytes_and_no_more(at)).is_err());
        let stuck = write(&[IoSlice::new(b"1")], 0, |_, _| Ok(0)).unwrap_err();
        assert_eq!(stuck.kind(), ErrorKind::WriteZero);
    }
}
