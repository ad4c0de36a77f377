//! The metadata index of a segment.

use crate::segment::filter::Filter;
use crate::segment::filter::fields::Fields;

/// A `.fields` file. `input`: rows of its segment (u16), then the file.
///
/// It is refused, or every filter selects rows of the segment, and it is the same when it is written and read again.
pub fn fields(input: &[u8]) {
    let Some((&rows, bytes)) = input.split_first_chunk() else { return };
    let rows = u16::from_le_bytes(rows).into();
    let Some(found) = Fields::decode(bytes, rows) else { return };
    for filter in [
        r#"{"a":1}"#,
        r#"{"a":{"$gte":-3}}"#,
        r#"{"b.c":{"$ne":"x"}}"#,
        r#"{"same":{"$contains":"text"}}"#,
        r#"{"$not":{"a":null}}"#,
    ] {
        let filter = Filter::parse(filter).expect("a filter");
        let selected = found.select(&filter, rows, |_, text| text.extend_from_slice(b"{}"));
        assert!(selected.iter().all(|row| row < rows));
    }
    let written = found.encode();
    let again = Fields::decode(&written, rows).expect("what was written can be read");
    assert_eq!(again.encode(), written);
}
