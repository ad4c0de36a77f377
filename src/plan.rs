//! How a search was answered.

use serde::Serialize;

use crate::types::Lsn;

/// What a search reads of rows, in floats, as far as it can be told before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Effort {
    /// Of rows that are looked at one after the other.
    pub scanned: u64,
    /// Of rows that FAISS's indexes lead to; a row that is fetched for itself counts for what it costs.
    pub indexed: u64,
}

/// What a search did, in numbers. It has no memory of its own, so that every search can say it.
///
/// Each segment is looked at in one of three ways ([`How`]), and counts there. Of several queries, sums: each looks at each segment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "server", derive(utoipa::ToSchema))]
pub struct Plan {
    /// Live rows that match the filter: all that are live, where there is none.
    pub matched: u64,
    /// Segments that were asked through their FAISS indexes, and their rows, dead ones included.
    pub index_segments: u64,
    pub index_rows: u64,
    /// Segments in which each row that matches was visited, and these rows.
    pub matches_segments: u64,
    pub matches_rows: u64,
    /// Segments of which all rows were scanned, and their rows, dead ones included.
    pub scan_segments: u64,
    pub scan_rows: u64,
    /// Rows of all these segments that are in memory, and not sealed yet.
    pub memory_rows: u64,
    /// Segments whose FAISS index found too few rows. They were looked at again, and count where they were then.
    pub second_looks: u64,
    /// Candidates that a graph was searched with: the most, of several segments. `None`: no graph was asked.
    pub ef: Option<u32>,
    /// Lists that an IVF index looked into: the most, of several segments. `None`: no such index was asked.
    pub nprobe: Option<u32>,
}

impl Plan {
    /// Counts a segment of `rows` rows, of which `matched` are alive and match.
    pub(crate) fn count(&mut self, how: How, rows: u64, matched: u64, is_sealed: bool) {
        let (segments, looked_at, of_them) = match how {
            How::Index => (&mut self.index_segments, &mut self.index_rows, rows),
            How::Matches => (&mut self.matches_segments, &mut self.matches_rows, matched),
            How::Scan => (&mut self.scan_segments, &mut self.scan_rows, rows),
        };
        *segments += 1;
        *looked_at += of_them;
        self.matched += matched;
        self.memory_rows += if is_sealed { 0 } else { rows };
    }

    /// Adds what another query did.
    pub(crate) fn add(&mut self, other: &Self) {
        self.matched += other.matched;
        self.index_segments += other.index_segments;
        self.index_rows += other.index_rows;
        self.matches_segments += other.matches_segments;
        self.matches_rows += other.matches_rows;
        self.scan_segments += other.scan_segments;
        self.scan_rows += other.scan_rows;
        self.memory_rows += other.memory_rows;
        self.second_looks += other.second_looks;
        self.ef = self.ef.max(other.ef);
        self.nprobe = self.nprobe.max(other.nprobe);
    }
}

/// How a search came to its answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "server", derive(utoipa::ToSchema))]
pub struct Explanation {
    /// The state that it saw.
    #[cfg_attr(feature = "server", schema(value_type = u64))]
    pub lsn: Lsn,
    pub plan: Plan,
    /// By the order of their rows.
    pub segments: Vec<Access>,
}

/// How a search looked at one segment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "server", derive(utoipa::ToSchema))]
pub struct Access {
    /// Rows in it, dead ones included.
    pub rows: u64,
    /// Live rows that match the filter: all that are live, where there is none.
    pub matched: u64,
    pub how: How,
}

/// Ways to look at a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "server", derive(utoipa::ToSchema))]
#[serde(rename_all = "lowercase")]
pub enum How {
    /// Through its FAISS index, which leaves out what does not match.
    Index,
    /// Each row that matches, by its exact distance.
    Matches,
    /// All rows, by their exact distances; those that do not match are left out.
    Scan,
}
