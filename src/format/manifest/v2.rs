//! Manifests of format version 2, from before there were idempotency keys and metadata indexes. They are read and never written.

use super::super::codec::Decode;
use super::super::position::{Position, SegmentName};
use super::{Built, Checksum, SideFile};

#[derive(Decode)]
pub(super) struct Manifest {
    index: [u8; 16],
    generation: u64,
    settings: Settings,
    position: Position,
    log: Vec<SegmentName>,
    segments: Vec<SegmentFile>,
}

#[derive(Decode)]
struct Settings {
    name: String,
    dimension: u32,
    index_type: String,
    factory: String,
    metric: u8,
    created_at_us: i64,
    options: String,
}

#[derive(Decode)]
struct SegmentFile {
    number: u64,
    checksum: Checksum,
    dead: Option<SideFile>,
    built: Option<Built>,
}

impl From<Manifest> for super::Manifest {
    fn from(old: Manifest) -> Self {
        let Manifest { index, generation, settings, position, log, segments } = old;
        let Settings { name, dimension, index_type, factory, metric, created_at_us, options } = settings;
        let created_by = None;
        Self {
            index,
            generation,
            settings: super::Settings { name, dimension, index_type, factory, metric, created_at_us, options, created_by },
            position,
            log,
            segments: segments
                .into_iter()
                .map(|SegmentFile { number, checksum, dead, built }| super::SegmentFile {
                    number,
                    checksum,
                    dead,
                    built,
                    fields: None,
                })
                .collect(),
            keys: None,
            shared: None,
            copy: None,
        }
    }
}
