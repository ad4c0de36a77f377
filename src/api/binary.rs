//! The binary form of a body: JSON, and behind it the vectors that are not in it.
//!
//! Modelled on safetensors (<https://github.com/huggingface/safetensors#format>): 8 bytes N, an unsigned number, little endian; N bytes of JSON;
//! then the vectors, row after row, as f32, little endian; nothing after them. `docs/binary.md` is the page for clients.

/// How a client says that a body has this form, or that it wants an answer to have it.
pub const MEDIA_TYPE: &str = "application/octet-stream";

const LENGTH_BYTES: usize = size_of::<u64>();
const FLOAT_BYTES: usize = size_of::<f32>();

/// A body of this JSON and the bytes of these vectors.
pub fn join(json: &[u8], vectors: &[u8]) -> Vec<u8> {
    [&(json.len() as u64).to_le_bytes()[..], json, vectors].concat()
}

/// The JSON of a body, and the bytes behind it.
///
/// # Errors
/// What is wrong, for people.
pub fn split(body: &[u8]) -> Result<(&[u8], &[u8]), String> {
    let Some((length, rest)) = body.split_first_chunk::<LENGTH_BYTES>() else {
        return Err(format!("begins with {LENGTH_BYTES} bytes that say how long its JSON is, and has {} bytes", body.len()));
    };
    let length = u64::from_le_bytes(*length);
    let split = usize::try_from(length).ok().and_then(|length| rest.split_at_checked(length));
    split.ok_or_else(|| format!("says that its JSON has {length} bytes, and {} come after that", rest.len()))
}

/// Vectors of one dimension, one after the other.
#[derive(Clone, Copy, Debug)]
pub struct Rows<'a> {
    bytes: &'a [u8],
    row_bytes: usize,
}

impl<'a> Rows<'a> {
    /// # Errors
    /// What is wrong, for people, where these are not the bytes of as many vectors.
    pub fn new(bytes: &'a [u8], count: usize, dimension: usize) -> Result<Self, String> {
        // Bounded by far less, but not by their types.
        let expected = dimension.checked_mul(FLOAT_BYTES).and_then(|row_bytes| Some((row_bytes, count.checked_mul(row_bytes)?)));
        match expected {
            Some((row_bytes, expected)) if expected == bytes.len() => Ok(Self { bytes, row_bytes }),
            _ => {
                let came = bytes.len();
                Err(format!("must have {count} x {dimension} x {FLOAT_BYTES} bytes of vectors behind its JSON, and {came} came"))
            }
        }
    }

    /// The bytes of the vector at `at`, which is less than the count.
    pub fn bytes(&self, at: usize) -> &'a [u8] {
        &self.bytes[at * self.row_bytes..][..self.row_bytes]
    }

    /// Copies a vector in place of what `values` held: where the rows begin depends on the JSON, and is seldom where floats may.
    pub fn copy(&self, at: usize, values: &mut Vec<f32>) {
        values.resize(self.row_bytes / FLOAT_BYTES, 0.0);
        bytemuck::cast_slice_mut(values).copy_from_slice(self.bytes(at));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_body_is_these_bytes() {
        let vectors = [1.0_f32, -2.0].map(f32::to_le_bytes).concat();
        let body = join(b"{\"k\":1}", &vectors);
        assert_eq!(body, b"\x07\0\0\0\0\0\0\0{\"k\":1}\0\0\x80\x3f\0\0\0\xc0");
        assert_eq!(split(&body), Ok((&b"{\"k\":1}"[..], &vectors[..])));
        assert_eq!(split(&join(b"", b"")), Ok((&b""[..], &b""[..])));
    }

    #[test]
    fn a_length_is_believed_as_far_as_there_are_bytes() {
        assert!(split(b"\x01\0\0\0\0\0\0").unwrap_err().contains("has 7 bytes"));
        assert!(split(b"\x02\0\0\0\0\0\0\0{").unwrap_err().contains("2 bytes, and 1 come"));
        assert!(split(&[0xff; 64]).unwrap_err().contains("18446744073709551615 bytes, and 56 come"));
    }

    #[test]
    fn rows_are_as_many_as_were_announced_and_are_read_where_they_are() {
        let floats = [0.0_f32, -0.0, f32::MAX, f32::from_bits(1), f32::NAN, 1.0];
        // At an odd address, whatever that of the allocation is.
        let bytes = [&[0][..], &floats.map(f32::to_le_bytes).concat()].concat();
        let rows = Rows::new(&bytes[1..], 3, 2).unwrap();
        let mut values = vec![7.0; 9];
        for (at, row) in floats.chunks(2).enumerate() {
            rows.copy(at, &mut values);
            let bits = |values: &[f32]| values.iter().map(|value| value.to_bits()).collect::<Vec<_>>();
            assert_eq!(bits(&values), bits(row));
        }
        for (count, dimension) in [(2, 2), (4, 2), (3, 1), (0, 2), (usize::MAX, 2), (1, usize::MAX)] {
            let said = Rows::new(&bytes[1..], count, dimension).unwrap_err();
            assert!(said.contains(&format!("{count} x {dimension} x 4 bytes")) && said.contains("24 came"), "{said}");
        }
        assert!(Rows::new(&[], 0, 2).is_ok());
    }
}
