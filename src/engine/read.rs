//! Reading points without searching: some by their ids, all in pages, how many match.

use std::collections::BinaryHeap;
use std::sync::Arc;

use super::apply::row_of;
use super::index::Index;
use super::search::{self, Part};
use super::view::{View, locate};
use crate::error::{Error, Result};
use crate::segment::filter::Filter;
use crate::types::{Lsn, PageQuery, Point, PointPage, ScanPage, ScanPosition, ScanQuery};

impl Index {
    /// The point of this id, if there is one.
    ///
    /// # Errors
    /// [`Error::Closed`]: the memory of this machine gives back other bytes than were put into it.
    pub fn get(&self, id: &str) -> Result<Option<Point>> {
        let (view, row) = self.shared.look_up(|ids, view| row_of(ids, &view.segments, id));
        let place = row.and_then(|row| locate(&view.segments, row));
        place.map(|(at, position)| point(&view, at, position, true)).transpose()
    }

    /// The points of these ids that exist, in the order of the ids, and the LSN of the one state in which they were found.
    ///
    /// # Errors
    /// [`Error::Invalid`]: more ids than a batch has points. [`Error::Closed`]: as [`get`](Self::get).
    pub fn fetch(&self, ids: &[&str]) -> Result<(Vec<Point>, Lsn)> {
        if ids.len() > self.limits.batch_points_max {
            let detail = format!("at most {} ids are fetched at once", self.limits.batch_points_max);
            return Err(Error::invalid("ids", "batch_too_large", detail));
        }
        let (view, rows) =
            self.shared.look_up(|map, view| ids.iter().filter_map(|id| row_of(map, &view.segments, id)).collect::<Vec<_>>());
        let places = rows.into_iter().filter_map(|row| locate(&view.segments, row));
        let points = places.map(|(at, position)| point(&view, at, position, true)).collect::<Result<_>>()?;
        Ok((points, view.lsn))
    }

    /// The point that was of this id in the state at an LSN, if there was one.
    ///
    /// # Errors
    /// [`Error::Gone`]: that state is no longer kept. [`Error::Invalid`] naming `as_of_lsn`: there is none yet. [`Error::Closed`]: as [`get`](Self::get).
    pub fn get_as_of(&self, id: &str, lsn: Lsn) -> Result<Option<Point>> {
        let (view, place) = self.locate_at(id, lsn)?;
        place.map(|(at, position)| point(&view, at, position, true)).transpose()
    }

    /// How many points match, and the LSN of the state in which they do.
    pub fn count(&self, filter: &Filter) -> (u64, Lsn) {
        count(&self.shared.view.load_full(), filter)
    }

    /// How many points matched in the state at an LSN, which is given back.
    ///
    /// # Errors
    /// As [`get_as_of`](Self::get_as_of).
    pub fn count_as_of(&self, filter: &Filter, lsn: Lsn) -> Result<(u64, Lsn)> {
        Ok(count(&self.view_at(Some(lsn))?, filter))
    }

    /// A page of the points that match, by rising bytes of their ids. From page to page, whatever is written meanwhile: no point comes twice, and
    /// none is missed that was there all the time.
    ///
    /// Each page looks at the id of every point that matches, and holds `limit` of them.
    ///
    /// # Errors
    /// [`Error::Invalid`] naming `limit`. [`Error::Closed`]: as [`get`](Self::get).
    pub fn page(&self, query: &PageQuery) -> Result<PointPage> {
        let limit = query.limit;
        self.check_page(limit)?;
        let view = self.shared.view.load_full();
        let after = query.after.as_ref().map(String::as_bytes);
        // The first `limit`, and one more that tells whether there are more. The last of them is the greatest.
        let mut first: BinaryHeap<(Vec<u8>, usize, usize)> = BinaryHeap::new();
        let mut id = Vec::new();
        for part in parts(&view, query.filter.as_ref()) {
            for position in part.visible() {
                id.clear();
                part.segment.rows.id(position, &mut id);
                if after.is_some_and(|after| *id <= *after) {
                    continue;
                }
                if first.len() <= limit {
                    first.push((std::mem::take(&mut id), part.at, position));
                } else if let Some(mut last) = first.peek_mut()
                    && id < last.0
                {
                    (id, *last) = (std::mem::take(&mut last.0), (std::mem::take(&mut id), part.at, position));
                }
            }
        }
        let has_more = first.len() > limit;
        let mut rows = first.into_sorted_vec();
        rows.truncate(limit);
        let points = rows.into_iter().map(|(_, at, position)| point(&view, at, position, query.include_values));
        let points = points.collect::<Result<Vec<Point>>>()?;
        let next = points.last().filter(|_| has_more).map(|last| last.id.clone());
        Ok(PointPage { points, next, lsn: view.lsn })
    }

    /// A page of the points that match, by rising LSNs; those of one mutation in its order. All pages of a scan are of one state: that of the first page,
    /// which is the present one.
    ///
    /// # Errors
    /// [`Error::Invalid`] naming `limit` or `cursor`. [`Error::Gone`]: the state of the first page is no longer kept. [`Error::Closed`]: as [`get`](Self::get).
    pub fn scan(&self, query: &ScanQuery) -> Result<ScanPage> {
        self.check_page(query.limit)?;
        let view = self.view_at(query.after.map(|after| after.state)).map_err(|error| match error {
            Error::Invalid { code, detail, .. } => Error::invalid("cursor", code, detail),
            error => error,
        })?;
        let after = query.after.unwrap_or(ScanPosition { state: view.lsn, lsn: 0, given: 0 });
        let (mut position, mut to_skip) = (after, after.given);
        let mut points = Vec::new();
        for (at, segment) in view.segments.iter().enumerate() {
            let first = segment.stored_at(after.lsn.saturating_sub(1));
            if first == segment.len {
                continue;
            }
            for row in Part::new(&view, at, query.filter.as_ref()).visible_from(first) {
                let lsn = segment.rows.record(row).lsn;
                if to_skip > 0 && lsn == after.lsn {
                    to_skip -= 1;
                } else if points.len() == query.limit {
                    return Ok(ScanPage { points, next: Some(position), lsn: view.lsn });
                } else {
                    position.given = if lsn == position.lsn { position.given + 1 } else { 1 };
                    position.lsn = lsn;
                    points.push(point(&view, at, row, query.include_values)?);
                }
            }
        }
        Ok(ScanPage { points, next: None, lsn: view.lsn })
    }

    fn check_page(&self, limit: usize) -> Result<()> {
        if limit == 0 || limit > self.limits.batch_points_max {
            let detail = format!("must be 1 to {}, and not {limit}", self.limits.batch_points_max);
            return Err(Error::invalid("limit", "invalid_limit", detail));
        }
        Ok(())
    }

    /// Gives every point of the present state to `visit`, one after the other, by rising LSNs, until it fails; those of one mutation in its order.
    /// Gives the LSN of that state. One point is held at a time.
    ///
    /// # Errors
    /// What `visit` gave. [`Error::Closed`]: as [`get`](Self::get).
    pub fn visit<E: From<Error>>(&self, mut visit: impl FnMut(Point) -> Result<(), E>) -> Result<Lsn, E> {
        let view = self.shared.view.load_full();
        for (at, segment) in view.segments.iter().enumerate() {
            segment.live_positions().try_for_each(|position| visit(point(&view, at, position, true)?))?;
        }
        Ok(view.lsn)
    }
}

fn count(view: &Arc<View>, filter: &Filter) -> (u64, Lsn) {
    (parts(view, Some(filter)).map(|part| part.count as u64).sum(), view.lsn)
}

fn parts<'a>(view: &'a Arc<View>, filter: Option<&'a Filter>) -> impl Iterator<Item = Part<'a>> {
    (0..view.segments.len()).map(move |at| Part::new(view, at, filter))
}

fn point(view: &View, at: usize, position: usize, with_values: bool) -> Result<Point> {
    let segment = &view.segments[at];
    let (id, metadata) = search::texts(segment, position)?;
    let mut values = Vec::new();
    if with_values {
        segment.rows.vector(position, &mut values);
    }
    Ok(Point { id, values, metadata, lsn: segment.rows.record(position).lsn })
}
