//! The metadata index of a run of rows: for each field, which rows have which value. It answers a filter without reading metadata.
//!
//! What it cannot tell it says: each test gives the rows that meet it *for sure*, and those that *could*. Only where these differ is metadata read.
//! So what is not worth a place in memory is left out: arrays and objects as a whole, the rest of long strings, the elements of long arrays, numbers
//! that an f64 cannot hold, fields beyond [`PATHS_MAX`], and those that the index's creator left out.

mod stored;

use std::collections::{BTreeMap, HashMap};
use std::ops::Range;
use std::sync::Arc;

use roaring::RoaringBitmap;
use serde_json::value::RawValue;

use super::json::{Json, Number};
use super::postings::Postings;
use super::row_set::RowSet;
use super::{Comparison, Expression, Filter, Path, Test};
use crate::config::UNINDEXED_BYTES_MAX;
use crate::segment::bits::Bits;

/// Fields, those in objects included, of one run of rows. Metadata that maps ids to values has no end of them.
const PATHS_MAX: usize = 1_000;

/// Bytes of a field's path.
const PATH_BYTES_MAX: usize = UNINDEXED_BYTES_MAX;

/// Bytes of a string that are kept: a UUID, a URL's beginning. Rows whose string is longer are looked at.
const TEXT_BYTES_MAX: usize = 40;

/// Follows the kept bytes of a longer string: no UTF-8 has it.
const IS_CUT: u8 = 0xff;

/// Values that are kept of one field of one row.
const VALUES_MAX: u32 = 256;

/// Numbers from here on are not all f64.
const EXACT_MAX: f64 = (1_u64 << 53) as f64;

/// The metadata index of rows from 0 to some number.
#[derive(Debug)]
pub(crate) struct Fields {
    fields: HashMap<Box<str>, Field>,
    /// Paths that are left out, and all under them.
    unindexed: Arc<[String]>,
    /// Any other field that is not in it is in no row. Else it may be one too many.
    is_whole: bool,
}

/// What rows have at one path.
#[derive(Debug)]
struct Field {
    /// Rows that have anything.
    present: RowSet,
    /// Rows that have an array or an object.
    compound: RowSet,
    /// Rows of which some value is not kept.
    loose: RowSet,
    /// Rows that have a string, also in an array.
    textual: RowSet,
    nulls: RowSet,
    booleans: [RowSet; 2],
    numbers: Numbers,
    texts: Texts,
}

/// Rising, without an equal; their rows are in the postings of the same place.
#[derive(Debug)]
struct Numbers {
    keys: Box<[f64]>,
    postings: Postings,
    /// No row has two of them.
    are_single: bool,
}

/// The same for strings, by their bytes, one behind the other.
#[derive(Debug)]
struct Texts {
    bytes: Box<[u8]>,
    ends: Box<[u32]>,
    postings: Postings,
}

/// Rows that meet an expression for sure, and those that could: the former are among the latter.
struct Selected {
    sure: Bits,
    could: Bits,
}

impl Fields {
    /// Of the rows whose metadata these are. The fields at the paths of `unindexed`, and those under them, are left out.
    pub(crate) fn new<'a>(unindexed: &Arc<[String]>, metadata: impl Iterator<Item = std::borrow::Cow<'a, [u8]>>) -> Self {
        let mut builder = Builder { unindexed, fields: HashMap::new(), is_whole: true };
        let mut path = String::new();
        let mut len = 0;
        for (row, metadata) in (0..).zip(metadata) {
            len = row as usize + 1;
            let text = std::str::from_utf8(&metadata).ok();
            let object: Option<BTreeMap<String, &RawValue>> = text.and_then(|text| serde_json::from_str(text).ok());
            for (key, value) in object.into_iter().flatten() {
                path.clear();
                path.push_str(&key);
                // Dots in a name lead nowhere: only the whole name finds it.
                builder.value(&mut path, value, row, !key.contains('.'));
            }
        }
        let fields = builder.fields.into_iter().map(|(path, entries)| (path, entries.finish(len))).collect();
        Self { fields, unindexed: Arc::clone(unindexed), is_whole: builder.is_whole }
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
                for (at, one) in all.iter().enumerate() {
                    let one = match self.range(all, at) {
                        Ranged::No => self.evaluate(one, len),
                        Ranged::Within(field, keys) => field.within(keys, len),
                        Ranged::Before => continue,
                    };
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

    /// Whether the `at`th of these, which must all hold, is one end of a range of numbers. Both ends are met by the same number where no row has two;
    /// so the range is looked up as one, and not each end, of which many rows can be on the right side.
    fn range(&self, all: &[Expression], at: usize) -> Ranged<'_> {
        let Expression::Test(path, Test::Compare(..)) = &all[at] else { return Ranged::No };
        let Some(field) = self.fields.get(path.text.as_str()).filter(|field| field.numbers.are_single) else { return Ranged::No };
        let ends = |some: &[Expression]| {
            let ends = some.iter().filter_map(|one| match one {
                Expression::Test(other, Test::Compare(comparison, wanted)) if other.text == path.text => {
                    Some(field.numbers.keys(*comparison, *wanted))
                }
                _ => None,
            });
            ends.reduce(|a, b| a.start.max(b.start)..a.end.min(b.end))
        };
        match (ends(&all[..at]), ends(&all[at..])) {
            (None, Some(keys)) => Ranged::Within(field, keys),
            _ => Ranged::Before,
        }
    }

    fn test(&self, path: &Path, test: &Test, len: usize) -> Selected {
        let mut sure = Bits::none(len);
        let Some(field) = self.fields.get(path.text.as_str()) else {
            let is_absent = self.is_whole && !is_left_out(&self.unindexed, &path.text);
            let could = if is_absent { Bits::none(len) } else { Bits::all(len) };
            return Selected { sure, could };
        };
        let mut could = Bits::none(len);
        match test {
            Test::Exists => field.present.insert_into(&mut sure),
            Test::In(values) => {
                values.iter().for_each(|value| field.equal(value, &mut sure, &mut could));
                field.loose.insert_into(&mut could);
            }
            Test::Compare(comparison, wanted) => return field.within(field.numbers.keys(*comparison, *wanted), len),
            Test::Contains(wanted) => {
                match wanted {
                    // A string that is equal has it in it too, and so has an array with it.
                    Json::Text(text) => {
                        field.texts.equal(text, &mut sure, &mut could);
                        field.textual.insert_into(&mut could);
                    }
                    _ => field.compound.insert_into(&mut could),
                }
                field.loose.insert_into(&mut could);
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

/// What one of several conditions is to a range of numbers.
enum Ranged<'a> {
    No,
    /// The first of its ends; the keys that all of them leave.
    Within(&'a Field, Range<usize>),
    /// Another one of its ends.
    Before,
}

/// Whether a path is one of these or leads to something under one.
fn is_left_out(unindexed: &[String], path: &str) -> bool {
    let is_under = |rest: &str| rest.is_empty() || rest.starts_with('.');
    unindexed.iter().any(|left_out| path.strip_prefix(left_out.as_str()).is_some_and(is_under))
}

impl Field {
    /// Rows that have this value, or an array with it.
    fn equal(&self, value: &Json, sure: &mut Bits, could: &mut Bits) {
        match value {
            Json::Null => self.nulls.insert_into(sure),
            Json::Bool(boolean) => self.booleans[usize::from(*boolean)].insert_into(sure),
            Json::Number(number) => self.numbers.equal(*number, sure),
            Json::Text(text) => self.texts.equal(text, sure, could),
            Json::Array(_) | Json::Object(_) => self.compound.insert_into(could),
        }
    }

    /// Rows that have one of these numbers.
    fn within(&self, keys: Range<usize>, len: usize) -> Selected {
        let mut sure = Bits::none(len);
        self.numbers.postings.insert(keys, &mut sure);
        let mut could = sure.clone();
        self.loose.insert_into(&mut could);
        Selected { sure, could }
    }

    fn memory_bytes(&self) -> usize {
        let sets = [&self.present, &self.compound, &self.loose, &self.textual, &self.nulls, &self.booleans[0], &self.booleans[1]];
        let sets: usize = sets.map(RowSet::memory_bytes).iter().sum();
        let keys = size_of_val(&*self.numbers.keys) + self.texts.bytes.len() + size_of_val(&*self.texts.ends);
        sets + keys + self.numbers.postings.memory_bytes() + self.texts.postings.memory_bytes()
    }
}

impl Numbers {
    /// Of `len` rows.
    fn new(keys: Box<[f64]>, postings: Postings, len: usize) -> Self {
        let are_single = postings.are_single(len);
        Self { keys, postings, are_single }
    }

    fn equal(&self, number: Number, into: &mut Bits) {
        if let Ok(at) = self.keys.binary_search_by(|&key| Number::of(key).cmp(&number)) {
            self.postings.insert(at..at + 1, into);
        }
    }

    /// Which keys compare so.
    fn keys(&self, comparison: Comparison, wanted: Number) -> Range<usize> {
        let less = self.keys.partition_point(|&key| Number::of(key) < wanted);
        let at_most = self.keys.partition_point(|&key| Number::of(key) <= wanted);
        match comparison {
            Comparison::Greater => at_most..self.keys.len(),
            Comparison::GreaterOrEqual => less..self.keys.len(),
            Comparison::Less => 0..less,
            Comparison::LessOrEqual => 0..at_most,
        }
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

struct Builder<'a> {
    unindexed: &'a [String],
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

impl Builder<'_> {
    /// A value at a path. `below`: paths go on into objects.
    fn value(&mut self, path: &mut String, raw: &RawValue, row: u32, below: bool) {
        if is_left_out(self.unindexed, path) {
            return;
        }
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

    /// Of `len` rows.
    fn finish(self, len: usize) -> Field {
        let (keys, postings) = Postings::of(self.numbers, len, f64::total_cmp);
        let numbers = Numbers::new(keys.into(), postings, len);
        let (keys, postings) = Postings::of(self.texts, len, Ord::cmp);
        let ends = keys.iter().scan(0, |end, key| {
            *end += key.len() as u32;
            Some(*end)
        });
        let texts = Texts { ends: ends.collect(), bytes: keys.concat().into(), postings };
        let set = |rows| RowSet::new(rows, len);
        Field {
            present: set(self.present),
            compound: set(self.compound),
            loose: set(self.loose),
            textual: set(self.textual),
            nulls: set(self.nulls),
            booleans: self.booleans.map(set),
            numbers,
            texts,
        }
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
