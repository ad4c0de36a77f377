//! A mutation, in memory and in bytes. What is logged replays without failing: it was validated and resolved before.
//!
//! In bytes: a tag (u8), the length of what follows (u32, little endian), then the operation. See `docs/format.md`.

use std::borrow::Cow;

use crate::format::codec;
pub(crate) use crate::format::effect::Effect;

const UPSERT: u8 = 1;
const DELETE: u8 = 2;
const KEYED: u8 = 3;

/// Bytes of tag and length.
const PREFIX: usize = 5;

/// One mutation: what an [`Lsn`](crate::Lsn) counts.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Operation<'a> {
    Upsert(Upsert<'a>),
    Delete(Delete<'a>),
    Keyed(Keyed<'a>),
}

/// Points stored together; where an id comes twice, the later one wins.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Upsert<'a> {
    pub(crate) count: u32,
    pub(crate) dimension: u32,
    /// `count` times id and metadata, each as [`codec`] writes a string.
    pub(crate) texts: Cow<'a, [u8]>,
    /// `count * dimension` finite floats.
    pub(crate) vectors: Cow<'a, [f32]>,
}

/// Points deleted together. Ids that do not exist are no error.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Delete<'a> {
    pub(crate) count: u32,
    /// `count` ids, each as [`codec`] writes a string.
    pub(crate) ids: Cow<'a, [u8]>,
}

/// What a request with an idempotency key came to. The answer is in the record of what was done, so that no crash comes between them.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Keyed<'a> {
    pub(crate) key: Cow<'a, str>,
    /// CRC-32 of the request.
    pub(crate) fingerprint: u32,
    pub(crate) effect: Effect,
    /// An upsert or a delete; `None`: nothing was changed, and that is the answer.
    pub(crate) operation: Option<Box<Operation<'a>>>,
}

impl<'a> Operation<'a> {
    /// The operation's bytes in two parts, the second of which is not copied.
    ///
    /// # Panics
    /// Where an operation is 4 GiB or more: limits keep it far below.
    pub(crate) fn encode(&self) -> (Vec<u8>, &[u8]) {
        let mut head = vec![0; PREFIX];
        let tail: &[u8] = match self {
            Self::Upsert(upsert) => {
                head.reserve(upsert.texts.len() + 16);
                codec::encode_into((upsert.count, upsert.dimension), &mut head);
                head.extend_from_slice(&upsert.texts);
                // The format is little endian, and so is every machine that this builds for (checked in `lib.rs`).
                bytemuck::cast_slice(&upsert.vectors)
            }
            Self::Delete(delete) => {
                codec::encode_into(delete.count, &mut head);
                head.extend_from_slice(&delete.ids);
                &[]
            }
            Self::Keyed(keyed) => {
                codec::encode_into((&*keyed.key, keyed.fingerprint, &keyed.effect), &mut head);
                match &keyed.operation {
                    Some(operation) => {
                        let (inner, tail) = operation.encode();
                        head.extend_from_slice(&inner);
                        tail
                    }
                    None => &[],
                }
            }
        };
        head[0] = match self {
            Self::Upsert(_) => UPSERT,
            Self::Delete(_) => DELETE,
            Self::Keyed(_) => KEYED,
        };
        let bytes = u32::try_from(head.len() - PREFIX + tail.len()).expect("an operation is smaller than 4 GiB");
        head[1..PREFIX].copy_from_slice(&bytes.to_le_bytes());
        (head, tail)
    }

    /// Decodes one operation from the front of `bytes`, and gives what follows it.
    ///
    /// # Errors
    /// What is wrong with the bytes, for a person. They passed their checksum, so that is a newer version's or our own mistake.
    pub(crate) fn decode(bytes: &'a [u8]) -> Result<(Self, &'a [u8]), String> {
        let (&[tag, a, b, c, d], rest) = bytes.split_first_chunk().ok_or("an operation is cut short")?;
        let length = u32::from_le_bytes([a, b, c, d]) as usize;
        let (body, rest) = rest.split_at_checked(length).ok_or("an operation is longer than its frame")?;
        let operation = match tag {
            UPSERT => Self::Upsert(Upsert::decode(body)?),
            DELETE => Self::Delete(Delete::decode(body)?),
            KEYED => Self::Keyed(Keyed::decode(body)?),
            _ => return Err(format!("operation of unknown kind {tag}: written by a newer version")),
        };
        Ok((operation, rest))
    }
}

impl Operation<'_> {
    /// Whether an index of this dimension can apply it.
    pub(crate) fn fits(&self, dimension: u32) -> bool {
        match self {
            Self::Upsert(upsert) => upsert.dimension == dimension,
            Self::Delete(_) => true,
            Self::Keyed(keyed) => keyed.operation.as_ref().is_none_or(|operation| operation.fits(dimension)),
        }
    }

    /// Whether it only takes points away, or changes nothing.
    pub(crate) fn is_delete(&self) -> bool {
        match self {
            Self::Upsert(_) => false,
            Self::Delete(_) => true,
            Self::Keyed(keyed) => keyed.operation.as_ref().is_none_or(|operation| operation.is_delete()),
        }
    }
}

impl<'a> Upsert<'a> {
    fn decode(body: &'a [u8]) -> Result<Self, String> {
        let ((count, dimension), rest) = codec::decode::<(u32, u32)>(body)?;
        if dimension == 0 {
            return Err("an upsert of vectors without values".to_owned());
        }
        let floats = (count as usize).checked_mul(dimension as usize).ok_or("an upsert of absurd size")?;
        let vector_bytes = floats.checked_mul(4).filter(|&bytes| bytes <= rest.len()).ok_or("an upsert is cut short")?;
        let (texts, vectors) = rest.split_at(rest.len() - vector_bytes);
        let vectors = match bytemuck::try_cast_slice(vectors) {
            Ok(aligned) => Cow::Borrowed(aligned),
            Err(_) => Cow::Owned(bytemuck::allocation::pod_collect_to_vec(vectors)),
        };
        check_strings(texts, u64::from(count) * 2)?;
        Ok(Self { count, dimension, texts: Cow::Borrowed(texts), vectors })
    }

    /// Id, metadata and vector of each point, in order.
    pub(crate) fn points(&self) -> impl Iterator<Item = (&str, &str, &[f32])> {
        let mut strings = Strings(&self.texts);
        self.vectors
            .chunks_exact(self.dimension as usize)
            .map(move |vector| (strings.next_string(), strings.next_string(), vector))
    }
}

impl<'a> Delete<'a> {
    fn decode(body: &'a [u8]) -> Result<Self, String> {
        let (count, ids) = codec::decode::<u32>(body)?;
        check_strings(ids, u64::from(count))?;
        Ok(Self { count, ids: Cow::Borrowed(ids) })
    }

    pub(crate) fn ids(&self) -> impl Iterator<Item = &str> {
        let mut strings = Strings(&self.ids);
        (0..self.count).map(move |_| strings.next_string())
    }
}

impl<'a> Keyed<'a> {
    fn decode(body: &'a [u8]) -> Result<Self, String> {
        let ((key, fingerprint, effect), rest) = codec::decode::<(&str, u32, Effect)>(body)?;
        let operation = match rest.first() {
            None => None,
            // Not by recursion, whose depth the bytes would decide.
            Some(&KEYED) => return Err("an operation with two keys".to_owned()),
            Some(_) => {
                let (operation, rest) = Operation::decode(rest)?;
                if !rest.is_empty() {
                    return Err("a keyed operation has bytes to spare".to_owned());
                }
                Some(Box::new(operation))
            }
        };
        Ok(Self { key: Cow::Borrowed(key), fingerprint, effect, operation })
    }
}

/// Whether `bytes` are exactly `count` strings.
fn check_strings(mut bytes: &[u8], count: u64) -> Result<(), String> {
    for _ in 0..count {
        (_, bytes) = codec::decode_str(bytes)?;
    }
    if bytes.is_empty() { Ok(()) } else { Err("an operation has bytes to spare".to_owned()) }
}

/// Strings one after the other, which were checked or written by us.
struct Strings<'a>(&'a [u8]);

impl<'a> Strings<'a> {
    fn next_string(&mut self) -> &'a str {
        let (string, rest) = codec::decode_str(self.0).expect("operations are built by us or checked by decode");
        self.0 = rest;
        string
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(strings: &[&str]) -> Vec<u8> {
        let mut bytes = Vec::new();
        for string in strings {
            codec::encode_into(*string, &mut bytes);
        }
        bytes
    }

    fn bytes_of(operation: &Operation<'_>) -> Vec<u8> {
        let (head, tail) = operation.encode();
        [&head[..], tail].concat()
    }

    #[test]
    fn operations_have_the_documented_bytes() {
        let texts = texts(&["a", "{}"]);
        let upsert = Operation::Upsert(Upsert {
            count: 1,
            dimension: 2,
            texts: Cow::Borrowed(&texts),
            vectors: Cow::Borrowed(&[1.0, -2.5]),
        });
        let bytes = bytes_of(&upsert);
        assert_eq!(bytes, [1, 15, 0, 0, 0, 1, 2, 1, b'a', 2, b'{', b'}', 0, 0, 0x80, 0x3f, 0, 0, 0x20, 0xc0]);
        assert_eq!(Operation::decode(&bytes), Ok((upsert, &[][..])));

        let delete = Operation::Delete(Delete { count: 2, ids: Cow::Borrowed(&[1, b'a', 0]) });
        let bytes = bytes_of(&delete);
        assert_eq!(bytes, [2, 4, 0, 0, 0, 2, 1, b'a', 0]);
        assert_eq!(Operation::decode(&bytes), Ok((delete.clone(), &[][..])));

        let effect = Effect { count: 2, superseded: vec![0], unmet: vec![3, 4] };
        let keyed = Keyed { key: "k".into(), fingerprint: 7, effect, operation: Some(Box::new(delete)) };
        let keyed = Operation::Keyed(keyed);
        let bytes = bytes_of(&keyed);
        assert_eq!(bytes[..14], [3, 18, 0, 0, 0, 1, b'k', 7, 2, 1, 0, 2, 3, 4]);
        assert_eq!(bytes[14..], [2, 4, 0, 0, 0, 2, 1, b'a', 0]);
        assert_eq!(Operation::decode(&bytes), Ok((keyed, &[][..])));

        let nothing = Keyed { key: "k".into(), fingerprint: 7, effect: Effect::default(), operation: None };
        let nothing = Operation::Keyed(nothing);
        let bytes = bytes_of(&nothing);
        assert_eq!(bytes, [3, 6, 0, 0, 0, 1, b'k', 7, 0, 0, 0]);
        assert_eq!(Operation::decode(&bytes), Ok((nothing, &[][..])));
    }

    #[test]
    fn a_key_is_around_one_operation_at_most_and_around_no_other_key() {
        let inner = [3, 6, 0, 0, 0, 1, b'k', 7, 0, 0, 0];
        let around = |inner: &[u8]| {
            let body = [&[1, b'k', 7, 0, 0, 0][..], inner].concat();
            [&[3, body.len() as u8, 0, 0, 0][..], &body].concat()
        };
        assert!(Operation::decode(&around(&inner)).is_err_and(|why| why.contains("two keys")));
        let delete = [2, 3, 0, 0, 0, 1, 1, b'a'];
        assert!(Operation::decode(&around(&delete)).is_ok());
        assert!(Operation::decode(&around(&[delete, delete].concat())).is_err_and(|why| why.contains("to spare")));
    }

    #[test]
    fn points_come_in_order() {
        let texts = texts(&["a", "{}", "b", "{\"n\":1}"]);
        let upsert = Upsert { count: 2, dimension: 1, texts: Cow::Borrowed(&texts), vectors: Cow::Borrowed(&[1.0, 2.0]) };
        let points: Vec<_> = upsert.points().collect();
        assert_eq!(points, [("a", "{}", &[1.0][..]), ("b", "{\"n\":1}", &[2.0][..])]);
    }

    #[test]
    fn an_upsert_of_dimension_0_is_an_error_and_no_panic() {
        assert!(Operation::decode(&[1, 6, 0, 0, 0, 1, 0, 1, b'a', 1, b'b']).is_err_and(|why| why.contains("without values")));
    }

    #[test]
    fn every_cut_of_an_operation_is_an_error_and_so_is_an_unknown_one() {
        let texts = texts(&["a", "{}"]);
        let upsert = Upsert { count: 1, dimension: 1, texts: Cow::Borrowed(&texts), vectors: Cow::Borrowed(&[1.0]) };
        let bytes = bytes_of(&Operation::Upsert(upsert));
        for end in 0..bytes.len() {
            assert!(Operation::decode(&bytes[..end]).is_err(), "cut at {end}");
        }
        assert!(Operation::decode(&[9, 0, 0, 0, 0]).is_err_and(|why| why.contains("unknown kind 9")));
        assert!(Operation::decode(&[1, 4, 0, 0, 0, 255, 255, 255, 255]).is_err(), "absurd count");
    }
}
