//! The points of an index of a server, at one state, page by page.

use serde::Deserialize;
use serde_json::json;

use super::Failure;
use super::server::{Document, Points, Server};
use crate::types::{IndexId, Lsn, Point};

/// Points of a page: with 64 KiB of metadata each they are 64 MiB.
const PAGE_POINTS_MAX: usize = 1_000;

/// Bytes of the vectors of a page, where it has more than one point.
const PAGE_VECTORS_BYTES: usize = 4 << 20;

/// A scan whose first page is there: it says which state the others will be of.
#[derive(Debug)]
pub struct Scan {
    server: Server,
    /// Of the first page, and with a cursor of each other.
    path: String,
    first: Points,
    pub tenant: String,
    pub dimension: usize,
    /// Points of the state.
    pub count: u64,
}

impl Scan {
    /// # Errors
    /// Where the server does not know the index, or cannot be reached.
    pub fn begin(server: Server, id: IndexId) -> Result<Self, Failure> {
        #[derive(Deserialize)]
        struct Counted {
            count: u64,
        }
        let index = format!("/v1/index/{id}");
        let Document { tenant_id: tenant, dimension, .. } = server.get(&index)?;
        let limit = (PAGE_VECTORS_BYTES / size_of::<f32>()).checked_div(dimension).unwrap_or(0).clamp(1, PAGE_POINTS_MAX);
        let path = format!("{index}/vectors?order=lsn&include_values=true&limit={limit}");
        let first = server.points(&path, None)?;
        let (head, _) = server.read(&path, &first, dimension)?;
        let Counted { count } = server.post(&format!("{index}/count"), &json!({ "as_of_lsn": head.lsn }), None)?;
        Ok(Self { server, path, first, tenant, dimension, count })
    }

    /// Gives every point to `each`, by rising LSNs, as many as were counted. Gives the state that they are of.
    ///
    /// # Errors
    /// What `each` gave; where the server cannot be reached, or no longer has that state.
    pub fn visit(self, each: &mut dyn FnMut(Point) -> Result<(), Failure>) -> Result<Lsn, Failure> {
        let (mut path, mut page) = (self.path.clone(), self.first);
        let mut given = 0;
        loop {
            let (head, rows) = self.server.read(&path, &page, self.dimension)?;
            for (at, point) in head.vectors.iter().enumerate() {
                let mut values = Vec::new();
                rows.copy(at, &mut values);
                each(Point { id: point.id.to_string(), values, metadata: point.metadata.get().to_owned(), lsn: point.lsn })?;
            }
            given += head.vectors.len() as u64;
            let is_last = head.next_cursor.is_none();
            if given > self.count || (is_last && given < self.count) {
                return Err(Failure::new(format!("{path}: {given} points came, and {} were counted", self.count)));
            }
            let Some(cursor) = &head.next_cursor else { return Ok(head.lsn) };
            path = format!("{}&cursor={cursor}", self.path);
            page = self.server.points(&path, None)?;
        }
    }
}
