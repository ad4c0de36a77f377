//! Manifests of format version 1, from before there were options and FAISS indexes. They are read and never written.

use super::super::codec::Decode;
use super::super::position::{Position, SegmentName};
use super::{Checksum, SideFile};

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
}

#[derive(Decode)]
struct SegmentFile {
    number: u64,
    checksum: Checksum,
    dead: Option<SideFile>,
}

impl From<Manifest> for super::Manifest {
    fn from(old: Manifest) -> Self {
        let Manifest { index, generation, settings, position, log, segments } = old;
        let Settings { name, dimension, index_type, factory, metric, created_at_us } = settings;
        let options = "{}".to_owned();
        Self {
            index,
            generation,
            settings: super::Settings { name, dimension, index_type, factory, metric, created_at_us, options, created_by: None },
            position,
            log,
            segments: segments
                .into_iter()
                .map(|SegmentFile { number, checksum, dead }| super::SegmentFile {
                    number,
                    checksum,
                    dead,
                    built: None,
                    fields: None,
                })
                .collect(),
            keys: None,
            shared: None,
            copy: None,
        }
    }
}
