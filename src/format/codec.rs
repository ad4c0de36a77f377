//! The only file that names `bincode`. Why it is pinned, and what would replace it: `docs/decisions/0001-bincode.md`.
//!
//! The format does not lean on the crate's defaults: little endian, integers as bincode's *varint*, strings as varint length and UTF-8.
//! Golden bytes below hold it.

use bincode::config::{Configuration, Limit, LittleEndian, NoLimit, Varint};

pub(crate) use bincode::{BorrowDecode, Decode, Encode};

/// No value that we decode takes more memory than this.
const DECODE_BYTES_MAX: usize = 256 << 20;

/// No value takes this many times the bytes that encode it. The worst is a manifest's segment: 56 bytes in memory, 4 on disk.
const EXPANSION_MAX: usize = 32;

fn config() -> Configuration<LittleEndian, Varint, NoLimit> {
    bincode::config::standard().with_little_endian().with_variable_int_encoding()
}

/// Appends the encoding of `value`.
pub(crate) fn encode_into(value: impl Encode, out: &mut Vec<u8>) {
    // A Vec takes every write, and none of our types refuses to be encoded.
    bincode::encode_into_std_write(value, out, config()).expect("encoding into memory");
}

/// Decodes one value from the front of `bytes`, and gives what follows it.
///
/// # Errors
/// What is wrong with the bytes, for a person.
pub(crate) fn decode<'a, T: BorrowDecode<'a, ()>>(bytes: &'a [u8]) -> Result<(T, &'a [u8]), String> {
    const SMALL: usize = 1 << 10;
    const MEDIUM: usize = 1 << 15;
    const LARGE: usize = 1 << 20;
    // The crate allocates what a list's count claims before it reads an element, if only that is within the limit: so the limit is
    // what this many bytes can hold. It is part of the configuration's type, hence the steps.
    if bytes.len() <= SMALL {
        decode_within::<T, { EXPANSION_MAX * SMALL }>(bytes)
    } else if bytes.len() <= MEDIUM {
        decode_within::<T, { EXPANSION_MAX * MEDIUM }>(bytes)
    } else if bytes.len() <= LARGE {
        decode_within::<T, { EXPANSION_MAX * LARGE }>(bytes)
    } else {
        decode_within::<T, DECODE_BYTES_MAX>(bytes)
    }
}

fn decode_within<'a, T: BorrowDecode<'a, ()>, const BYTES_MAX: usize>(bytes: &'a [u8]) -> Result<(T, &'a [u8]), String> {
    let config: Configuration<LittleEndian, Varint, Limit<BYTES_MAX>> = config().with_limit();
    let (value, used) = bincode::borrow_decode_from_slice(bytes, config).map_err(|error| error.to_string())?;
    bytes.get(used..).map(|rest| (value, rest)).ok_or_else(|| "decoded past the end".to_owned())
}

/// [`decode`] of a string, which the log has by the thousand: a short one, whose length is a single byte, goes without the machinery.
///
/// # Errors
/// What is wrong with the bytes, for a person.
#[inline]
pub(crate) fn decode_str(bytes: &[u8]) -> Result<(&str, &[u8]), String> {
    match bytes.split_first() {
        Some((&length, rest)) if length <= 250 => {
            let (string, rest) = rest.split_at_checked(length.into()).ok_or("a string is cut short")?;
            let string = std::str::from_utf8(string).map_err(|error| error.to_string())?;
            Ok((string, rest))
        }
        _ => decode(bytes),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn encoding_has_the_documented_bytes() {
        let mut out = Vec::new();
        encode_into((250_u32, 251_u32, 70_000_u64, "né"), &mut out);
        assert_eq!(out, [250, 251, 251, 0, 252, 0x70, 0x11, 1, 0, 3, b'n', 0xc3, 0xa9]);
    }

    #[test]
    fn strings_decode_alike_whatever_their_length() {
        for length in [0, 1, 250, 251, 70_000] {
            let string = "x".repeat(length);
            let mut bytes = Vec::new();
            encode_into(string.as_str(), &mut bytes);
            bytes.push(7);
            assert_eq!(decode_str(&bytes), Ok((string.as_str(), &[7][..])));
            assert_eq!(decode_str(&bytes), decode::<&str>(&bytes));
            assert!(decode_str(&bytes[..length]).is_err());
        }
        assert!(decode_str(&[2, 0xff, 0xfe]).is_err(), "not UTF-8");
    }

    #[test]
    fn short_or_lying_bytes_are_an_error_and_allocate_nothing() {
        assert!(decode::<(u32, &str)>(&[1]).is_err());
        let huge = [253, 255, 255, 255, 255, 255, 255, 255, 127];
        assert!(decode::<Vec<u64>>(&huge).is_err());
        // A count of a million, which would fit into memory but not into these bytes.
        let large = [252, 0x40, 0x42, 0x0f, 0];
        assert!(decode::<Vec<u64>>(&large).is_err_and(|why| why.contains("LimitExceeded")));
        assert!(decode::<&str>(&[2, 0xff, 0xfe]).is_err(), "not UTF-8");
    }
}
