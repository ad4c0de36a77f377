//! `faiss-proxy ls` and `faiss-proxy stats`: what is in a data directory, an index a line, or added up.

use std::collections::BTreeMap;

use serde::Serialize;

use super::selection::Selection;
use super::{Failure, print_line};
use crate::engine::Outline;

const INSTEAD: &str = "a server that has it lists its indices on GET /v1/index";

/// # Errors
/// Where the directory cannot be looked at, no index is meant, or a server would refuse one.
pub fn list(selection: &Selection) -> Result<(), Failure> {
    let survey = selection.survey(INSTEAD)?;
    selection.for_each(
        &survey,
        |tenant, id| survey.outline(tenant, id),
        |tenant, id, outline: &Outline| {
            let Outline { name, factory, metric, dimension, checkpoint_points, lsn, checkpoint_lsn, bytes, .. } = outline;
            let beyond = lsn - checkpoint_lsn;
            let name: String = name.chars().map(|c| if c.is_control() { '?' } else { c }).take(60).collect();
            format!(
                "{tenant} {id} {name}\n  {factory} {}, dimension {dimension}, points {checkpoint_points}, bytes {bytes}\n  \
             LSN {lsn}, of which {beyond} in the log alone",
                metric.as_str()
            )
        },
    )
}

/// What a tenant, or all of them, have.
#[derive(Default, Serialize)]
struct Sum {
    indices: u64,
    /// Those of the checkpoints.
    points: u64,
    dead_rows: u64,
    segments: u64,
    /// Mutations that are in the log alone.
    log_mutations: u64,
    /// Bytes of rows, of what FAISS wrote, of metadata indexes, of the log, and of files that no newest manifest names.
    row_bytes: u64,
    faiss_bytes: u64,
    field_bytes: u64,
    log_bytes: u64,
    other_bytes: u64,
    /// Indices that a server would refuse.
    refused: u64,
}

/// A line of JSON.
#[derive(Serialize)]
struct Line<'a> {
    tenant: &'a str,
    #[serde(flatten)]
    sum: &'a Sum,
}

impl Sum {
    fn add(&mut self, outline: &Outline) {
        self.indices += 1;
        self.points += outline.checkpoint_points;
        self.log_mutations += outline.lsn - outline.checkpoint_lsn;
        for segment in &outline.segments {
            self.segments += 1;
            self.dead_rows += segment.dead;
            self.row_bytes += segment.bytes;
            self.faiss_bytes += segment.index_bytes;
            self.field_bytes += segment.fields_bytes;
        }
        self.log_bytes += outline.log.iter().map(|segment| segment.bytes).sum::<u64>();
        self.other_bytes += outline.other_bytes;
    }

    fn text(&self, tenant: &str) -> String {
        let Self { indices, points, dead_rows, segments, log_mutations, refused, .. } = self;
        let Self { row_bytes, faiss_bytes, field_bytes, log_bytes, other_bytes, .. } = self;
        format!(
            "{tenant}\n  indices {indices}, refused {refused}, segments {segments}\n  \
             points {points}, dead rows {dead_rows}, mutations in the log alone {log_mutations}\n  \
             bytes: rows {row_bytes}, FAISS {faiss_bytes}, fields {field_bytes}\n  log {log_bytes}, other {other_bytes}"
        )
    }
}

/// # Errors
/// Where the directory cannot be looked at.
pub fn stats(selection: &Selection) -> Result<(), Failure> {
    let survey = selection.survey("a server that has it gives its figures on GET /v1/metrics")?;
    let fail = |error: crate::error::Error| Failure::new(error.to_string());
    let mut sums: BTreeMap<String, Sum> = BTreeMap::new();
    for tenant in survey.tenants().map_err(fail)?.iter().filter(|tenant| selection.has_tenant(tenant)) {
        let sum = sums.entry(tenant.to_string()).or_default();
        for index in survey.indices(tenant).map_err(fail)?.into_iter().filter(|&index| selection.has_index(index)) {
            match survey.outline(tenant, index) {
                Ok(outline) => sum.add(&outline),
                Err(_) => sum.refused += 1,
            }
        }
    }
    for (tenant, sum) in &sums {
        let json = || serde_json::to_string(&Line { tenant, sum }).map_err(|error| Failure::new(error.to_string()));
        print_line(&if selection.json { json()? } else { sum.text(tenant) })?;
    }
    Ok(())
}
