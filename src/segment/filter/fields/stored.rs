//! The metadata index in a file: the arrays as they are in memory, little endian, each behind its length. `docs/format.md` has every byte.

use std::collections::HashMap;

use bytemuck::Pod;
use roaring::RoaringBitmap;

use super::{Field, Fields, Numbers, Postings, Texts};

impl Fields {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = vec![u8::from(self.is_whole)];
        let mut fields: Vec<(&str, &Field)> = self.fields.iter().map(|(path, field)| (&**path, field)).collect();
        // The same index is the same bytes.
        fields.sort_unstable_by_key(|&(path, _)| path);
        put_length(fields.len(), &mut out);
        for (path, field) in fields {
            put_array(path.as_bytes(), &mut out);
            let Field { present, compound, loose, textual, nulls, booleans: [no, yes], numbers, texts } = field;
            for rows in [present, compound, loose, textual, nulls, no, yes] {
                put_rows(rows, &mut out);
            }
            put_array(&numbers.keys, &mut out);
            numbers.postings.encode(&mut out);
            put_array(&texts.ends, &mut out);
            put_array(&texts.bytes, &mut out);
            texts.postings.encode(&mut out);
        }
        out
    }

    /// `None` where this is no metadata index of `rows` rows.
    pub(crate) fn decode(bytes: &[u8], rows: usize) -> Option<Self> {
        let mut reader = Reader { bytes, rows };
        let is_whole = match reader.take(1)? {
            [0] => false,
            [1] => true,
            _ => return None,
        };
        let count = reader.length()?;
        let mut fields = HashMap::new();
        for _ in 0..count {
            let path = std::str::from_utf8(reader.bytes()?).ok()?.into();
            let [present, compound, loose, textual, nulls, no, yes] = reader.row_sets()?;
            let numbers = Numbers { keys: reader.array()?, postings: reader.postings()? };
            let texts = Texts { ends: reader.array()?, bytes: reader.array()?, postings: reader.postings()? };
            let are_sound = numbers.are_sound() && texts.are_sound();
            let field = Field { present, compound, loose, textual, nulls, booleans: [no, yes], numbers, texts };
            if !are_sound || fields.insert(path, field).is_some() {
                return None;
            }
        }
        reader.bytes.is_empty().then_some(Self { fields, is_whole })
    }
}

impl Numbers {
    /// Looked for by halves, so they must rise.
    fn are_sound(&self) -> bool {
        self.keys.len() == self.postings.ends.len() && self.keys.is_sorted_by(|a, b| a < b)
    }
}

impl Texts {
    fn are_sound(&self) -> bool {
        let are_places = self.ends.is_sorted() && self.ends.last().map_or(0, |&end| end as usize) == self.bytes.len();
        are_places
            && self.ends.len() == self.postings.ends.len()
            && (1..self.ends.len()).all(|at| self.key(at - 1) < self.key(at))
    }
}

impl Postings {
    fn encode(&self, out: &mut Vec<u8>) {
        put_array(&self.ends, out);
        put_array(&self.rows, out);
        let mut bitmaps: Vec<(&u32, &RoaringBitmap)> = self.bitmaps.iter().collect();
        bitmaps.sort_unstable_by_key(|&(key, _)| key);
        put_length(bitmaps.len(), out);
        for (key, rows) in bitmaps {
            out.extend_from_slice(&key.to_le_bytes());
            put_rows(rows, out);
        }
    }
}

/// A length is a u32: nothing here is longer, since rows are counted in 32 bits.
fn put_length(length: usize, out: &mut Vec<u8>) {
    out.extend_from_slice(&(length as u32).to_le_bytes());
}

fn put_array<T: Pod>(values: &[T], out: &mut Vec<u8>) {
    put_length(values.len(), out);
    out.extend_from_slice(bytemuck::cast_slice(values));
}

fn put_rows(rows: &RoaringBitmap, out: &mut Vec<u8>) {
    put_length(rows.serialized_size(), out);
    rows.serialize_into(out).expect("serialising into memory");
}

struct Reader<'a> {
    /// What is still to be read.
    bytes: &'a [u8],
    rows: usize,
}

impl<'a> Reader<'a> {
    fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.bytes.split_at_checked(count)?;
        self.bytes = rest;
        Some(taken)
    }

    fn number(&mut self) -> Option<u32> {
        self.take(4)?.try_into().ok().map(u32::from_le_bytes)
    }

    fn length(&mut self) -> Option<usize> {
        self.number().map(|length| length as usize)
    }

    fn bytes(&mut self) -> Option<&'a [u8]> {
        let length = self.length()?;
        self.take(length)
    }

    fn array<T: Pod>(&mut self) -> Option<Box<[T]>> {
        let length = self.length()?.checked_mul(size_of::<T>())?;
        // Not aligned in the file.
        Some(bytemuck::allocation::pod_collect_to_vec(self.take(length)?).into())
    }

    fn row_set(&mut self) -> Option<RoaringBitmap> {
        let rows = RoaringBitmap::deserialize_from(self.bytes()?).ok()?;
        rows.max().is_none_or(|last| (last as usize) < self.rows).then_some(rows)
    }

    fn row_sets<const N: usize>(&mut self) -> Option<[RoaringBitmap; N]> {
        let mut sets = std::array::from_fn(|_| RoaringBitmap::new());
        for set in &mut sets {
            *set = self.row_set()?;
        }
        Some(sets)
    }

    fn postings(&mut self) -> Option<Postings> {
        let (ends, rows): (Box<[u32]>, Box<[u32]>) = (self.array()?, self.array()?);
        let mut bitmaps = HashMap::new();
        for _ in 0..self.length()? {
            let (key, rows) = (self.number()?, self.row_set()?);
            if key as usize >= ends.len() || bitmaps.insert(key, rows).is_some() {
                return None;
            }
        }
        let are_places = ends.is_sorted() && ends.last().map_or(0, |&end| end as usize) == rows.len();
        let are_rows = rows.iter().all(|&row| (row as usize) < self.rows);
        (are_places && are_rows).then_some(Postings { ends, rows, bitmaps })
    }
}

#[cfg(test)]
mod tests {
    use std::borrow::Cow;

    use super::*;
    use crate::segment::filter::Filter;

    fn metadata(row: usize) -> String {
        let long = "long".repeat(row % 20);
        format!(
            r#"{{"n":{},"tag":"t{}","o":{{"x":[{},null,true]}},"s":"{long}{}","d.t":1.5}}"#,
            row % 7,
            row % 3,
            row % 300,
            row % 50
        )
    }

    fn fields(rows: usize) -> Fields {
        Fields::new((0..rows).map(|row| Cow::Owned(metadata(row).into_bytes())))
    }

    #[test]
    fn what_is_written_answers_as_what_it_was_written_of() {
        let made = fields(2_000);
        let bytes = made.encode();
        let read = Fields::decode(&bytes, 2_000).unwrap();
        assert_eq!(read.encode(), bytes);
        assert_eq!(read.memory_bytes(), made.memory_bytes());
        for filter in [
            r#"{"n":3}"#,
            r#"{"n":{"$gt":4.5}}"#,
            r#"{"tag":"t1","o.x":16}"#,
            r#"{"s":{"$ne":"longlong2"}}"#,
            r#"{"d.t":{"$lte":2}}"#,
        ] {
            let filter = Filter::parse(filter).unwrap();
            let select =
                |fields: &Fields| fields.select(&filter, 2_000, |row, text| text.extend_from_slice(metadata(row).as_bytes()));
            assert!(select(&made).count() > 0);
            assert_eq!(select(&read), select(&made));
        }
    }

    #[test]
    fn a_metadata_index_has_the_documented_bytes() {
        let fields = Fields::new([r#"{"a":1}"#, r#"{"a":"é"}"#].map(|text| Cow::Borrowed(text.as_bytes())).into_iter());
        let none = [8, 0, 0, 0, 0x3a, 0x30, 0, 0, 0, 0, 0, 0];
        let mut expected = vec![1, 1, 0, 0, 0, 1, 0, 0, 0, b'a'];
        // Present: both rows. Textual: the second.
        expected.extend([20, 0, 0, 0, 0x3a, 0x30, 0, 0, 1, 0, 0, 0, 0, 0, 1, 0, 16, 0, 0, 0, 0, 0, 1, 0]);
        expected.extend([none, none].concat());
        expected.extend([18, 0, 0, 0, 0x3a, 0x30, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 16, 0, 0, 0, 1, 0]);
        expected.extend([none, none, none].concat());
        // Numbers: 1.0, in row 0.
        expected.extend([1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xf0, 0x3f]);
        expected.extend([1, 0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
        // Strings: where they end, their bytes; in row 1.
        expected.extend([1, 0, 0, 0, 2, 0, 0, 0, 2, 0, 0, 0, 0xc3, 0xa9]);
        expected.extend([1, 0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(fields.encode(), expected);
    }

    #[test]
    fn every_cut_is_seen_and_no_flipped_bit_is_a_panic() {
        let bytes = fields(130).encode();
        for end in 0..bytes.len() {
            assert!(Fields::decode(&bytes[..end], 130).is_none(), "cut at {end}");
        }
        assert!(Fields::decode(&bytes, 129).is_none(), "rows that there are not");
        let filter = Filter::parse(r#"{"$or":[{"n":{"$gte":3}},{"s":"1"},{"o.x":{"$contains":2}}]}"#).unwrap();
        let mut read = 0;
        for bit in 0..bytes.len() * 8 {
            let mut flipped = bytes.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            if let Some(fields) = Fields::decode(&flipped, 130) {
                read += 1;
                let found = fields.select(&filter, 130, |row, text| text.extend_from_slice(metadata(row).as_bytes()));
                assert!(found.count() <= 130);
            }
        }
        println!("{} bits, {read} of them flipped give an index", bytes.len() * 8);
    }
}
