//! What can be known of a segment file that is damaged: the ids of rows that are whole. Changes nothing, and nothing of it may be served.

use std::ops::Range;

use crate::format::segment::{ALIGN, BLOCK, Layout, RECORD, Record, SegmentHeader};

/// Positions and ids of the rows whose record and id are in blocks that check; none where the header or the table of checksums does not. `bytes` are those of
/// the file.
pub(crate) fn ids(bytes: &[u8]) -> Vec<(usize, String)> {
    let header = bytes.first_chunk::<ALIGN>().and_then(|head| SegmentHeader::decode(head).ok());
    let Some(layout) = header.and_then(|header| header.layout()) else { return Vec::new() };
    let Some(is_sound) = sound_blocks(bytes, &layout) else { return Vec::new() };
    let are_sound = |range: &Range<usize>| {
        let blocks = is_sound.get(range.start / BLOCK..range.end.div_ceil(BLOCK));
        blocks.is_some_and(|blocks| blocks.iter().all(|&is_sound| is_sound))
    };
    let rows = layout.records.len() / RECORD;
    let id_of = |position: usize| {
        let start = layout.records.start + position * RECORD;
        let range = Some(start..start + RECORD).filter(are_sound)?;
        let record = Record::decode(bytes.get(range)?.first_chunk()?);
        let start = layout.text.start.checked_add(usize::try_from(record.text).ok()?)?;
        let range = Some(start..start.checked_add(record.id_bytes.into())?)
            .filter(|range| range.end <= layout.text.end && are_sound(range))?;
        let id = std::str::from_utf8(bytes.get(range)?).ok()?;
        Some((position, id.to_owned()))
    };
    (0..rows).filter_map(id_of).collect()
}

/// Of each block before the table whether it checks; `None`: the table does not.
fn sound_blocks(bytes: &[u8], layout: &Layout) -> Option<Vec<bool>> {
    let table = bytes.get(layout.checksums.clone())?;
    let (entries, own) = table.split_last_chunk::<4>()?;
    if crc32fast::hash(entries) != u32::from_le_bytes(*own) {
        return None;
    }
    let (entries, _) = entries.as_chunks::<4>();
    let blocks = bytes[..layout.checksums.start].chunks(BLOCK);
    Some(blocks.zip(entries).map(|(block, entry)| crc32fast::hash(block) == u32::from_le_bytes(*entry)).collect())
}
