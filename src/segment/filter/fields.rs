//! The metadata index of a run of rows: for each field, which rows have which value. It answers a filter without reading metadata.
//!
//! What it cannot tell it says: each test gives the rows that meet it *for sure*, and those that *could*. Only where these differ is metadata read.
//! So what is not worth a place in memory is left out: arrays and objects as a whole, the rest of long strings, the elements of long arrays, numbers
//! that an f64 cannot hold, fields beyond [`PATHS_MAX`].

mod stored;

use std::collections::{BTreeMap, HashMap};

use roaring::RoaringBitmap;
use serde_json::value::RawValue;

use super::json::{Json, Number};
use super::{Comparison, Expression, Filter, Path, Test};
use crate::segment::bits::Bits;

/// Fields, those in objects included, of one run of rows. Metadata that maps ids to values has no end of them.
const PATHS_MAX: usize = 1_000;

/// Bytes of a field's path.
const PATH_BYTES_MAX: usize = 512;

/// Bytes of a string that are kept: a UUID, a URL's beginning. Rows whose string is longer are looked at.
const TEXT_BYTES_MAX: usize = 40;

/// Follows the kept bytes of a longer string: no UTF-8 has it.
const IS_CUT: u8 = 0xff;

/// Values that are kept of one field of one row.
const VALUES_MAX: u32 = 256;

/// Rows from which on a value has a bitmap of its own, which is smaller than a list of them.
const BITMAP_ROWS_MIN: usize = 64;

/// Numbers from here on are not all f64.
const EXACT_MAX: f64 = (1_u64 << 53) as f64;

/// The metadata index of rows from 0 to some number.
#[derive(Debug)]
pub(crate) struct Fields {
    fields: HashMap<Box<str>, Field>,
    /// A field that is not in it is in no row. Else it may be one too many.
    is_whole: bool,
}

/// What rows have at one path.
#[derive(Debug)]
struct Field {
    /// Rows that have anything.
    present: RoaringBitmap,
    /// Rows that have an array or an object.
    compound: RoaringBitmap,
    /// Rows of which some value is not kept.
    loose: RoaringBitmap,
    /// Rows that have a string, also in an array.
    textual: RoaringBitmap,
    nulls: RoaringBitmap,
    booleans: [RoaringBitmap; 2],
    numbers: Numbers,
    texts: Texts,
}

/// Rising, without an equal; their rows are in the postings of the same place.
#[derive(Debug)]
struct Numbers {
    keys: Box<[f64]>,
    postings: Postings,
}

/// The same for strings, by their bytes, one behind the other.
#[derive(Debug)]
struct Texts {
    bytes: Box<[u8]>,
    ends: Box<[u32]>,
    postings: Postings,
}

/// Rows of values that are counted from 0.
#[derive(Debug)]
struct Postings {
    /// Where the rows of each value end in `rows`.
    ends: Box<[u32]>,
    rows: Box<[u32]>,
    /// The rows of values that many have, and that have none in `rows`.
    bitmaps: HashMap<u32, RoaringBitmap>,
}

/// Rows that meet an expression for sure, and those that could: the former are among the latter.
struct Selected {
    sure: Bits,
    could: Bits,
}

impl Fields {
    /// Of the rows whose metadata these are.
    pub(crate) fn new<'a>(metadata: impl Iterator<Item = std::borrow::Cow<'a, [u8]>>) -> Self {
        let mut builder = Builder { fields: HashMap::new(), is_whole: true };
        let mut path = String::new();
        for (row, metadata) in (0..).zip(metadata) {
            let text = std::str::from_utf8(&metadata).ok();
            let object: Option<BTreeMap<String, &RawValue>> = text.and_then(|text| serde_json::from_str(text).ok());
            for (key, value) in object.into_iter().flatten() {
                path.clear();
                path.push_str(&key);
                // Dots in a name lead nowhere: only the whole name finds it.
                builder.value(&mut path, value, row, !key.contains('.'));
            }
        }
        let fields = builder.fields.into_iter().map(|(path, entries)| (path, entries.finish())).collect();
        Self { fields, is_whole: builder.is_whole }
    }

    /// The rows from 0 to `len` that match. `metadata` gives that of a row.
    pub(crate) fn select(&self, filter: &Filter, len: usize, mut metadata: impl FnMut(usize, &mut Vec<u8>)) -> Bits {
        let Selected { mut sure, could } = self.evaluate(&filter.expression, len);
        let mut text = Vec::new();
        for row in could.without(&sure).iter() {
            text.clear();
            metadata(row, &mut text);
            if filter.matches(&text) {
                sure.insert(row);
            }
        }
        sure
    }

    fn evaluate(&self, expression: &Expression, len: usize) -> Selected {
        match expression {
            Expression::All(all) => {
                let mut selected = Selected { sure: Bits::all(len), could: Bits::all(len) };
                for one in all {
                    let one = self.evaluate(one, len);
                    selected.sure.and(&one.sure);
                    selected.could.and(&one.could);
                }
                selected
            }
            Expression::Any(any) => {
                let mut selected = Selected { sure: Bits::none(len), could: Bits::none(len) };
                for one in any {
                    let one = self.evaluate(one, len);
                    selected.sure.or(&one.sure);
                    selected.could.or(&one.could);
                }
                selected
            }
            Expression::Not(not) => {
                let Selected { mut sure, mut could } = self.evaluate(not, len);
                sure.negate();
                could.negate();
                Selected { sure: could, could: sure }
            }
            Expression::Test(path, test) => self.test(path, test, len),
        }
    }

    fn test(&self, path: &Path, test: &Test, len: usize) -> Selected {
        let mut sure = Bits::none(len);
        let Some(field) = self.fields.get(path.text.as_str()) else {
            let could = if self.is_whole { Bits::none(len) } else { Bits::all(len) };
            return Selected { sure, could };
        };
        let mut could = Bits::none(len);
        match test {
            Test::Exists => insert(&mut sure, &field.present),
            Test::In(values) => {
                values.iter().for_each(|value| field.equal(value, &mut sure, &mut could));
                insert(&mut could, &field.loose);
            }
            Test::Compare(comparison, wanted) => {
                field.numbers.compare(*comparison, *wanted, &mut sure);
                insert(&mut could, &field.loose);
            }
            Test::Contains(wanted) => {
                match wanted {
                    // A string that is equal has it in it too, and so has an array with it.
                    Json::Text(text) => {
                        field.texts.equal(text, &mut sure, &mut could);
                        insert(&mut could, &field.textual);
                    }
                    _ => insert(&mut could, &field.compound),
                }
                insert(&mut could, &field.loose);
            }
        }
        could.or(&sure);
        Selected { sure, could }
    }

    /// Bytes of memory, about.
    pub(crate) fn memory_bytes(&self) -> usize {
        let fields: usize = self.fields.iter().map(|(path, field)| path.len() + size_of::<Field>() + field.memory_bytes()).sum();
        size_of::<Self>() + fields
    }
}

fn insert(bits: &mut Bits, rows: &RoaringBitmap) {
    rows.iter().for_each(|row| bits.insert(row as usize));
}

impl Field {
    /// Rows that have this value, or an array with it.
    fn equal(&self, value: &Json, sure: &mut Bits, could: &mut Bits) {
        match value {
            Json::Null => insert(sure, &self.nulls),
            Json::Bool(boolean) => insert(sure, &self.booleans[usize::from(*boolean)]),
            Json::Number(number) => self.numbers.equal(*number, sure),
            Json::Text(text) => self.texts.equal(text, sure, could),
            Json::Array(_) | Json::Object(_) => insert(could, &self.compound),
        }
    }

    fn memory_bytes(&self) -> usize {
        let sets = [&self.present, &self.compound, &self.loose, &self.textual, &self.nulls, &self.booleans[0], &self.booleans[1]];
        let sets: usize = sets.map(RoaringBitmap::serialized_size).iter().sum();
        let keys = size_of_val(&*self.numbers.keys) + self.texts.bytes.len() + size_of_val(&*self.texts.ends);
        sets + keys + self.numbers.postings.memory_bytes() + self.texts.postings.memory_bytes()
    }
}

impl Numbers {
    fn equal(&self, number: Number, into: &mut Bits) {
        if let Ok(at) = self.keys.binary_search_by(|&key| Number::of(key).cmp(&number)) {
            self.postings.insert(at..at + 1, into);
        }
    }

    fn compare(&self, comparison: Comparison, wanted: Number, into: &mut Bits) {
        let less = self.keys.partition_point(|&key| Number::of(key) < wanted);
        let at_most = self.keys.partition_point(|&key| Number::of(key) <= wanted);
        let range = match comparison {
            Comparison::Greater => at_most..self.keys.len(),
            Comparison::GreaterOrEqual => less..self.keys.len(),
            Comparison::Less => 0..less,
            Comparison::LessOrEqual => 0..at_most,
        };
        self.postings.insert(range, into);
    }
}

impl Texts {
    fn equal(&self, text: &str, sure: &mut Bits, could: &mut Bits) {
        let key = text_key(text);
        let find = |at: &u32| self.key(*at as usize).cmp(&key);
        let (mut low, mut high) = (0, self.ends.len() as u32);
        while low < high {
            let middle = low + (high - low) / 2;
            match find(&middle) {
                std::cmp::Ordering::Less => low = middle + 1,
                std::cmp::Ordering::Greater => high = middle,
                std::cmp::Ordering::Equal => {
                    let at = middle as usize;
                    return self.postings.insert(at..at + 1, if key.last() == Some(&IS_CUT) { could } else { sure });
                }
            }
        }
    }

    fn key(&self, at: usize) -> &[u8] {
        let start = at.checked_sub(1).map_or(0, |before| self.ends[before]);
        &self.bytes[start as usize..self.ends[at] as usize]
    }
}

/// What is kept of a string.
fn text_key(text: &str) -> Vec<u8> {
    let bytes = text.as_bytes();
    match bytes.get(..TEXT_BYTES_MAX).filter(|_| bytes.len() > TEXT_BYTES_MAX) {
        Some(kept) => [kept, &[IS_CUT]].concat(),
        None => bytes.to_vec(),
    }
}

impl Postings {
    /// The distinct keys of `pairs`, rising, and the rows of each.
    fn of<K: PartialEq>(mut pairs: Vec<(K, u32)>, order: impl Fn(&K, &K) -> std::cmp::Ordering) -> (Vec<K>, Self) {
        pairs.sort_unstable_by(|a, b| order(&a.0, &b.0).then(a.1.cmp(&b.1)));
        pairs.dedup();
        let (mut keys, mut ends, mut rows) = (Vec::<K>::new(), Vec::new(), Vec::new());
        let mut bitmaps = HashMap::new();
        // The rows of the present key begin here.
        let mut start = 0;
        let mut end_key = |rows: &mut Vec<u32>, keys: usize, start: &mut usize| {
            if rows.len() - *start >= BITMAP_ROWS_MIN
                && let Ok(bitmap) = RoaringBitmap::from_sorted_iter(rows[*start..].iter().copied())
            {
                bitmaps.insert(keys as u32 - 1, bitmap);
                rows.truncate(*start);
            }
            *start = rows.len();
            ends.push(rows.len() as u32);
        };
        for (key, row) in pairs {
            if keys.last().is_some_and(|last| *last != key) {
                end_key(&mut rows, keys.len(), &mut start);
                keys.push(key);
            } else if keys.is_empty() {
                keys.push(key);
            }
            rows.push(row);
        }
        if !keys.is_empty() {
            end_key(&mut rows, keys.len(), &mut start);
        }
        (keys, Self { ends: ends.into(), rows: rows.into(), bitmaps })
    }

    fn insert(&self, keys: std::ops::Range<usize>, into: &mut Bits) {
        let Some(last) = keys.end.checked_sub(1).filter(|_| !keys.is_empty()) else { return };
        let start = keys.start.checked_sub(1).map_or(0, |before| self.ends[before]);
        self.rows[start as usize..self.ends[last] as usize].iter().for_each(|&row| into.insert(row as usize));
        // The fewer of the two are looked at.
        if keys.len() < self.bitmaps.len() {
            keys.filter_map(|key| self.bitmaps.get(&(key as u32))).for_each(|rows| insert(into, rows));
        } else {
            let within = self.bitmaps.iter().filter(|(key, _)| keys.contains(&(**key as usize)));
            within.for_each(|(_, rows)| insert(into, rows));
        }
    }

    fn memory_bytes(&self) -> usize {
        let bitmaps: usize = self.bitmaps.values().map(|rows| size_of::<RoaringBitmap>() + 8 + rows.serialized_size()).sum();
        size_of_val(&*self.ends) + size_of_val(&*self.rows) + bitmaps
    }
}

struct Builder {
    fields: HashMap<Box<str>, Entries>,
    is_whole: bool,
}

/// What was found of one field so far. Rows rise.
#[derive(Default)]
struct Entries {
    present: RoaringBitmap,
    compound: RoaringBitmap,
    loose: RoaringBitmap,
    textual: RoaringBitmap,
    nulls: RoaringBitmap,
    booleans: [RoaringBitmap; 2],
    numbers: Vec<(f64, u32)>,
    texts: Vec<(Box<[u8]>, u32)>,
    /// Values of the last row.
    row_values: u32,
}

impl Builder {
    /// A value at a path. `below`: paths go on into objects.
    fn value(&mut self, path: &mut String, raw: &RawValue, row: u32, below: bool) {
        match raw.get().as_bytes().first() {
            Some(b'{') => {
                self.note(path, row, |entries| entries.mark_compound(row));
                if below {
                    self.object(path, raw, row);
                }
            }
            Some(b'[') => {
                self.note(path, row, |entries| entries.mark_compound(row));
                let elements: Vec<&RawValue> = serde_json::from_str(raw.get()).unwrap_or_default();
                for element in elements {
                    match element.get().as_bytes().first() {
                        Some(b'{') if below => self.object(path, element, row),
                        Some(b'{' | b'[') => {}
                        _ => self.scalar(path, element, row),
                    }
                }
            }
            _ => self.scalar(path, raw, row),
        }
    }

    fn object(&mut self, path: &mut String, raw: &RawValue, row: u32) {
        let fields: BTreeMap<String, &RawValue> = serde_json::from_str(raw.get()).unwrap_or_default();
        let length = path.len();
        for (key, value) in fields.into_iter().filter(|(key, _)| !key.contains('.')) {
            path.push('.');
            path.push_str(&key);
            self.value(path, value, row, true);
            path.truncate(length);
        }
    }

    fn scalar(&mut self, path: &str, raw: &RawValue, row: u32) {
        let value = Json::read(raw, 0);
        self.note(path, row, |entries| {
            entries.row_values += 1;
            let is_kept = match value {
                _ if entries.row_values > VALUES_MAX => false,
                Some(Json::Null) => {
                    entries.nulls.insert(row);
                    true
                }
                Some(Json::Bool(boolean)) => {
                    entries.booleans[usize::from(boolean)].insert(row);
                    true
                }
                Some(Json::Number(number)) => number.exact().map(|number| entries.numbers.push((number, row))).is_some(),
                Some(Json::Text(text)) => {
                    entries.textual.insert(row);
                    entries.texts.push((text_key(&text).into(), row));
                    true
                }
                _ => false,
            };
            if !is_kept {
                entries.loose.insert(row);
            }
        });
    }

    fn note(&mut self, path: &str, row: u32, note: impl FnOnce(&mut Entries)) {
        if !self.fields.contains_key(path) {
            if self.fields.len() >= PATHS_MAX || path.len() > PATH_BYTES_MAX {
                self.is_whole = false;
                return;
            }
            self.fields.insert(path.into(), Entries::default());
        }
        if let Some(entries) = self.fields.get_mut(path) {
            if entries.present.insert(row) {
                entries.row_values = 0;
            }
            note(entries);
        }
    }
}

impl Entries {
    fn mark_compound(&mut self, row: u32) {
        self.compound.insert(row);
    }

    fn finish(self) -> Field {
        let (keys, postings) = Postings::of(self.numbers, f64::total_cmp);
        let numbers = Numbers { keys: keys.into(), postings };
        let (keys, postings) = Postings::of(self.texts, Ord::cmp);
        let ends = keys.iter().scan(0, |end, key| {
            *end += key.len() as u32;
            Some(*end)
        });
        let texts = Texts { ends: ends.collect(), bytes: keys.concat().into(), postings };
        let Self { mut present, mut compound, mut loose, mut textual, mut nulls, mut booleans, .. } = self;
        // Many of them have all rows, or none.
        for rows in [&mut present, &mut compound, &mut loose, &mut textual, &mut nulls].into_iter().chain(&mut booleans) {
            rows.optimize();
        }
        Field { present, compound, loose, textual, nulls, booleans, numbers, texts }
    }
}

impl Number {
    /// An f64 that [`exact`](Self::exact) gave.
    fn of(exact: f64) -> Self {
        if exact.trunc() == exact { Self::Whole(exact as i128) } else { Self::Float(exact) }
    }

    /// As an f64, where that is exactly this number and no other is the same.
    fn exact(self) -> Option<f64> {
        let float = match self {
            Self::Whole(whole) => whole as f64,
            Self::Float(float) => float,
        };
        (float.abs() < EXACT_MAX).then_some(float)
    }
}
