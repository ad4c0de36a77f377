//! The manifest: the one root of an index. What it names exists; what it does not name is not part of the index.
//!
//! In bytes: magic (8), format version (u16), minimum reader version (u16), length of the body (u32), the body, CRC-32 of all before.

use serde::{Deserialize, Serialize};

use super::codec::{self, Decode, Encode};
use super::position::{Place, Position, SegmentName};
use super::{crc32, unreadable};
use crate::types::IndexId;

mod v1;
mod v2;

const MAGIC: [u8; 8] = *b"FPXMAN\r\n";

/// Version of the manifests that this code writes of an index on one machine; their oldest reader too. Version 1 had no options and no
/// FAISS indexes, version 2 no idempotency keys and no metadata indexes.
const VERSION: u16 = 3;

/// Version of those of an index whose log is shared, where they are no node's: the same and a place at the end. Who does not know of it must not write
/// to such an index, and of others nothing changes. A snapshot has it. Nodes had it too, before they could tell whose a backup is.
const VERSION_SHARED: u16 = 4;

/// Version of those that a node has of such an index, and the newest that this code reads: the same and which copy it is.
const VERSION_COPY: u16 = 5;

/// Bytes before the body.
const HEAD: usize = 16;

/// No counter of an index gets here in a lifetime: one that a manifest says it has is damage, and counting on would overflow.
const COUNTER_MAX: u64 = 1 << 62;

/// The same for what is counted in 32 bits.
const EPOCH_MAX: u32 = 1 << 30;

/// A reader takes no manifest larger than this: some hundred thousand segments.
pub(crate) const MANIFEST_BYTES_MAX: u64 = 64 << 20;

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Manifest {
    /// UUID of the index; its directory's name.
    pub(crate) index: [u8; 16],
    /// Counts the manifests of this index; this one's file name.
    pub(crate) generation: u64,
    pub(crate) settings: Settings,
    /// The checkpoint holds the effects of every mutation before this place in the log, and of none after it.
    pub(crate) position: Position,
    /// The log's segments, in order; the last one may be appended to.
    pub(crate) log: Vec<SegmentName>,
    /// The rows of the checkpoint, in the order in which they were stored.
    pub(crate) segments: Vec<SegmentFile>,
    /// `None`: no key is remembered.
    pub(crate) keys: Option<SideFile>,
    /// Of an index whose log is shared: a place in that log of which the checkpoint has everything before. `None`: the files are all there is.
    pub(crate) shared: Option<Place>,
    /// Of an index whose log is shared: the UUID of this node's copy of its files. A node's files have other bytes than another's under the same names,
    /// and so have those that take their place when it begins anew. `None`: nobody shares it, or it is no node's, or an earlier version wrote it.
    pub(crate) copy: Option<[u8; 16]>,
}

/// What a manifest of version 3 has, in order.
type Body = ([u8; 16], u64, Settings, Position, Vec<SegmentName>, Vec<SegmentFile>, Option<SideFile>);

/// What an index was created with. As JSON, it stands in the catalogue of a cluster.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode, Serialize, Deserialize)]
pub(crate) struct Settings {
    pub(crate) name: String,
    pub(crate) dimension: u32,
    /// As the client wrote it.
    pub(crate) index_type: String,
    /// FAISS factory string.
    pub(crate) factory: String,
    /// 0 L2, 1 inner product, 2 cosine.
    pub(crate) metric: u8,
    /// UTC, microseconds since 1970.
    pub(crate) created_at_us: i64,
    /// [`IndexOptions`](crate::types::IndexOptions) as JSON: one more is no change of the format.
    pub(crate) options: String,
    /// The idempotency key of the request that created it, if it had one.
    pub(crate) created_by: Option<CreationKey>,
}

/// By which a retry of the request that created an index is known.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode, Serialize, Deserialize)]
pub(crate) struct CreationKey {
    pub(crate) key: String,
    /// CRC-32 of the request.
    pub(crate) fingerprint: u32,
}

/// A segment, which of its rows are dead, and what is built over it.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub(crate) struct SegmentFile {
    pub(crate) number: u64,
    pub(crate) checksum: Checksum,
    pub(crate) dead: Option<SideFile>,
    /// `None`: nothing was tried yet.
    pub(crate) built: Option<Built>,
    /// `None`: no filter has asked for it yet.
    pub(crate) fields: Option<SideFile>,
}

/// What became of building a FAISS index over a segment.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub(crate) enum Built {
    Index(IndexFile),
    /// The segment is searched exactly, for this reason.
    Exact {
        factory: String,
        recall: Option<u16>,
        why: String,
    },
}

/// A file that FAISS wrote, over all rows of a segment, and how it is searched where a query does not say.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub(crate) struct IndexFile {
    pub(crate) number: u64,
    pub(crate) checksum: Checksum,
    /// FAISS factory string that it was built by.
    pub(crate) factory: String,
    /// Share of the ten nearest rows that it finds, in ten-thousandths, as measured when it was built.
    pub(crate) recall: u16,
    pub(crate) ef: u32,
    pub(crate) nprobe: u32,
    pub(crate) overfetch: u32,
}

/// A small file beside the segments: dead rows or the metadata index of one, or the answers to requests that had an idempotency key.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub(crate) struct SideFile {
    pub(crate) number: u64,
    pub(crate) checksum: Checksum,
}

/// How long a file is, and the CRC-32 of all its bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub(crate) struct Checksum {
    pub(crate) bytes: u64,
    pub(crate) crc: u32,
}

impl Manifest {
    /// The first one of an index that has nothing in it. `shared`: where its log begins, if several nodes append to it.
    pub(crate) fn empty(index: IndexId, settings: Settings, shared: Option<Place>) -> Self {
        let (position, log, segments) = (Position::START, Vec::new(), Vec::new());
        Self { index: *index.as_bytes(), generation: 1, settings, position, log, segments, keys: None, shared, copy: None }
    }

    pub(crate) fn file_name(&self) -> String {
        file_name(self.generation)
    }

    pub(crate) fn encode(&self) -> Vec<u8> {
        let Self { index, generation, settings, position, log, segments, keys, shared, copy } = self;
        let version = match (shared, copy) {
            (None, None) => VERSION,
            (Some(_), None) => VERSION_SHARED,
            (Some(_), Some(_)) => VERSION_COPY,
            (None, Some(_)) => unreachable!("an index that nobody shares has no copies"),
        };
        let mut bytes = Vec::new();
        bytes.extend_from_slice(&MAGIC);
        bytes.extend_from_slice(&version.to_le_bytes());
        bytes.extend_from_slice(&version.to_le_bytes());
        bytes.extend_from_slice(&[0; 4]);
        codec::encode_into((index, generation, settings, position, log, segments, keys), &mut bytes);
        if let Some(place) = shared {
            codec::encode_into(place, &mut bytes);
        }
        if let Some(copy) = copy {
            codec::encode_into(copy, &mut bytes);
        }
        let body = u32::try_from(bytes.len() - HEAD).expect("a manifest is far smaller than 4 GiB");
        bytes[12..HEAD].copy_from_slice(&body.to_le_bytes());
        let crc = crc32(&[&bytes]);
        bytes.extend_from_slice(&crc.to_le_bytes());
        bytes
    }

    /// # Errors
    /// What is wrong with the bytes, for a person.
    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, String> {
        let (rest, crc) = bytes.split_last_chunk::<4>().ok_or("the file ends inside its header")?;
        if crc32(&[rest]) != u32::from_le_bytes(*crc) {
            return Err("manifest: checksum mismatch".to_owned());
        }
        let (head, body) = rest.split_first_chunk::<HEAD>().ok_or("the file ends inside its header")?;
        if head[..8] != MAGIC {
            return Err("this is no manifest of faiss-proxy".to_owned());
        }
        let version = u16::from_le_bytes([head[8], head[9]]);
        if let Some(why) = unreadable(version, u16::from_le_bytes([head[10], head[11]]), VERSION_COPY) {
            return Err(why);
        }
        if u32::from_le_bytes([head[12], head[13], head[14], head[15]]) as usize != body.len() {
            return Err("manifest: the body is not as long as the header says".to_owned());
        }
        let (manifest, rest) = match version {
            1 => codec::decode::<v1::Manifest>(body).map(|(manifest, rest)| (manifest.into(), rest))?,
            2 => codec::decode::<v2::Manifest>(body).map(|(manifest, rest)| (manifest.into(), rest))?,
            VERSION => codec::decode::<Body>(body).map(|(body, rest)| (Self::new(body, None, None), rest))?,
            VERSION_SHARED => {
                codec::decode::<(Body, Place)>(body).map(|((body, place), rest)| (Self::new(body, Some(place), None), rest))?
            }
            _ => codec::decode::<(Body, Place, [u8; 16])>(body)
                .map(|((body, place, copy), rest)| (Self::new(body, Some(place), Some(copy)), rest))?,
        };
        if !rest.is_empty() {
            return Err("manifest: bytes to spare".to_owned());
        }
        manifest.check()?;
        Ok(manifest)
    }

    fn new(
        (index, generation, settings, position, log, segments, keys): Body,
        shared: Option<Place>,
        copy: Option<[u8; 16]>,
    ) -> Self {
        Self { index, generation, settings, position, log, segments, keys, shared, copy }
    }

    fn check(&self) -> Result<(), String> {
        if self.settings.dimension == 0 {
            return Err("manifest: an index of dimension 0".to_owned());
        }
        let names = || self.log.iter().chain(self.position.at.iter().map(|(name, _)| name));
        let first_lsns = names().map(|name| name.first_lsn);
        let counters = [self.generation, self.position.lsn].into_iter().chain(first_lsns).chain(self.file_numbers());
        match counters.max() {
            Some(largest) if largest > COUNTER_MAX => return Err(format!("manifest: nothing was counted up to {largest}")),
            _ => {}
        }
        if self.shared.is_some_and(|place| place.lsn > self.position.lsn || place.sequence > COUNTER_MAX) {
            return Err("manifest: its place in the shared log is behind what it holds".to_owned());
        }
        match names().map(|name| name.epoch).max() {
            Some(largest) if largest > EPOCH_MAX => Err(format!("manifest: no log has epoch {largest}")),
            _ => Ok(()),
        }
    }

    /// Numbers of all files in the segments' directory that it names.
    pub(crate) fn file_numbers(&self) -> impl Iterator<Item = u64> {
        self.segment_files().map(|(_, number, _)| number)
    }

    /// Name, number and checksum of every file in the segments' directory that it names.
    pub(crate) fn segment_files(&self) -> impl Iterator<Item = (String, u64, Checksum)> {
        let side = |file: &SideFile, name: fn(u64) -> String| (name(file.number), file.number, file.checksum);
        let segments = self.segments.iter().flat_map(move |segment| {
            let rows = (segment_name(segment.number), segment.number, segment.checksum);
            let dead = segment.dead.as_ref().map(|dead| side(dead, dead_name));
            let index = segment.index().map(|index| (index_name(index.number), index.number, index.checksum));
            let fields = segment.fields.as_ref().map(|fields| side(fields, fields_name));
            std::iter::once(rows).chain(dead).chain(index).chain(fields)
        });
        segments.chain(self.keys.as_ref().map(move |keys| side(keys, keys_name)))
    }

    /// Names of all files that belong to this manifest, from the index's directory.
    pub(crate) fn files(&self) -> impl Iterator<Item = String> {
        let log = self.log.iter().map(|name| format!("{LOG_DIRECTORY}/{}", name.file_name()));
        let segments = self.segment_files().map(|(name, ..)| format!("{SEGMENT_DIRECTORY}/{name}"));
        std::iter::once(self.file_name()).chain(log).chain(segments)
    }
}

impl SegmentFile {
    /// Its FAISS index, where there is one.
    pub(crate) fn index(&self) -> Option<&IndexFile> {
        match &self.built {
            Some(Built::Index(index)) => Some(index),
            _ => None,
        }
    }

    /// Bytes of all its files.
    pub(crate) fn bytes(&self) -> u64 {
        let dead = self.dead.as_ref().map_or(0, |dead| dead.checksum.bytes);
        let fields = self.fields.as_ref().map_or(0, |fields| fields.checksum.bytes);
        self.checksum.bytes + dead + fields + self.index().map_or(0, |index| index.checksum.bytes)
    }
}

/// Where an index keeps its log.
pub(crate) const LOG_DIRECTORY: &str = "wal";

/// Where an index keeps its segments, their dead rows and what FAISS built over them, their metadata indexes; and its keys.
pub(crate) const SEGMENT_DIRECTORY: &str = "segments";

pub(crate) fn file_name(generation: u64) -> String {
    format!("manifest-{generation:020}")
}

/// The generation of a manifest's file name.
pub(crate) fn parse_file_name(name: &str) -> Option<u64> {
    name.strip_prefix("manifest-")?.parse().ok().filter(|&generation| file_name(generation) == name)
}

pub(crate) fn segment_name(number: u64) -> String {
    format!("{number:020}.seg")
}

pub(crate) fn dead_name(number: u64) -> String {
    format!("{number:020}.dead")
}

pub(crate) fn index_name(number: u64) -> String {
    format!("{number:020}.faiss")
}

pub(crate) fn fields_name(number: u64) -> String {
    format!("{number:020}.fields")
}

pub(crate) fn keys_name(number: u64) -> String {
    format!("{number:020}.keys")
}

/// The number of a file of [`SEGMENT_DIRECTORY`].
pub(crate) fn parse_number(name: &str) -> Option<u64> {
    let number = name.split_once('.')?.0.parse().ok()?;
    [segment_name, dead_name, index_name, fields_name, keys_name].iter().any(|name_of| name_of(number) == name).then_some(number)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Manifest {
        let name = SegmentName { first_lsn: 1, epoch: 1 };
        Manifest {
            index: [7; 16],
            generation: 3,
            settings: Settings {
                name: "n".into(),
                dimension: 4,
                index_type: "Flat".into(),
                factory: "Flat".into(),
                metric: 2,
                created_at_us: -1,
                options: "{}".into(),
                created_by: Some(CreationKey { key: "k".into(), fingerprint: 9 }),
            },
            position: Position { lsn: 9, chain: 0xdead_beef, at: Some((name, 1024)) },
            log: vec![name],
            segments: vec![SegmentFile {
                number: 5,
                checksum: Checksum { bytes: 100, crc: 1 },
                dead: Some(SideFile { number: 6, checksum: Checksum { bytes: 20, crc: 2 } }),
                built: Some(Built::Index(IndexFile {
                    number: 7,
                    checksum: Checksum { bytes: 30, crc: 3 },
                    factory: "HNSW32".into(),
                    recall: 9_876,
                    ef: 64,
                    nprobe: 0,
                    overfetch: 1,
                })),
                fields: Some(SideFile { number: 9, checksum: Checksum { bytes: 50, crc: 5 } }),
            }],
            keys: Some(SideFile { number: 8, checksum: Checksum { bytes: 40, crc: 4 } }),
            shared: None,
            copy: None,
        }
    }

    fn shared_sample() -> Manifest {
        Manifest { shared: Some(Place { lsn: 8, chain: 7, sequence: 300 }), ..sample() }
    }

    fn copy_sample() -> Manifest {
        Manifest { copy: Some(*b"a node's copy is"), ..shared_sample() }
    }

    #[test]
    fn manifest_has_the_documented_bytes() {
        let mut expected = b"FPXMAN\r\n".to_vec();
        expected.extend([3, 0, 3, 0, 88, 0, 0, 0]);
        expected.extend([7; 16]);
        expected.push(3); // generation
        expected.extend(*b"\x01n\x04\x04Flat\x04Flat\x02\x01\x02{}\x01\x01k\x09"); // settings; -1 as zigzag is 1
        expected.extend([9, 252, 0xef, 0xbe, 0xad, 0xde, 1, 1, 1, 251, 0, 4]); // position
        expected.extend([1, 1, 1]); // log
        expected.extend([1, 5, 100, 1, 1, 6, 20, 2]); // segments
        expected.extend(*b"\x01\x00\x07\x1e\x03\x06HNSW32\xfb\x94\x26\x40\x00\x01"); // built
        expected.extend([1, 9, 50, 5]); // fields
        expected.extend([1, 8, 40, 4]); // keys
        let crc = crc32(&[&expected]);
        expected.extend(crc.to_le_bytes());
        assert_eq!(sample().encode(), expected);
        assert_eq!(Manifest::decode(&expected), Ok(sample()));

        // Of an index whose log is shared, and of no node.
        expected.truncate(expected.len() - 4);
        expected[8..13].copy_from_slice(&[4, 0, 4, 0, 93]);
        expected.extend([8, 7, 251, 0x2c, 1]);
        let crc = crc32(&[&expected]);
        expected.extend(crc.to_le_bytes());
        assert_eq!(shared_sample().encode(), expected);
        assert_eq!(Manifest::decode(&expected), Ok(shared_sample()));

        // As a node has it.
        expected.truncate(expected.len() - 4);
        expected[8..13].copy_from_slice(&[5, 0, 5, 0, 109]);
        expected.extend(*b"a node's copy is");
        let crc = crc32(&[&expected]);
        expected.extend(crc.to_le_bytes());
        assert_eq!(copy_sample().encode(), expected);
        assert_eq!(Manifest::decode(&expected), Ok(copy_sample()));
    }

    #[test]
    fn a_segment_that_is_searched_exactly_has_the_documented_bytes() {
        let built = Some(Built::Exact { factory: "IVF2,Flat".into(), recall: Some(8_000), why: "no".into() });
        let file = SegmentFile { number: 5, checksum: Checksum { bytes: 100, crc: 1 }, dead: None, built, fields: None };
        let mut bytes = Vec::new();
        codec::encode_into(&file, &mut bytes);
        let mut expected = vec![5, 100, 1, 0]; // number, checksum, no dead rows
        expected.extend(*b"\x01\x01\x09IVF2,Flat\x01\xfb\x40\x1f\x02no"); // built: variant 1, factory, recall, why
        expected.push(0); // no metadata index
        assert_eq!(bytes, expected);
        assert_eq!(codec::decode(&bytes), Ok((file, &[][..])));
    }

    #[test]
    fn any_flipped_bit_and_any_cut_of_a_manifest_is_seen() {
        for bytes in [sample().encode(), shared_sample().encode(), copy_sample().encode()] {
            for bit in 0..bytes.len() * 8 {
                let mut flipped = bytes.clone();
                flipped[bit / 8] ^= 1 << (bit % 8);
                assert!(Manifest::decode(&flipped).is_err(), "bit {bit}");
            }
            for end in 0..bytes.len() {
                assert!(Manifest::decode(&bytes[..end]).is_err(), "cut at {end}");
            }
        }
    }

    #[test]
    fn a_manifest_that_cannot_be_counted_on_from_is_refused() {
        type Damage = fn(&mut Manifest);
        let cases: [(Damage, &str); 11] = [
            (|manifest| manifest.settings.dimension = 0, "dimension 0"),
            (|manifest| manifest.generation = u64::MAX, "counted up to"),
            (|manifest| manifest.position.lsn = u64::MAX, "counted up to"),
            (|manifest| manifest.log[0].first_lsn = u64::MAX, "counted up to"),
            (|manifest| manifest.segments[0].number = u64::MAX, "counted up to"),
            (|manifest| manifest.segments[0].dead.as_mut().unwrap().number = u64::MAX, "counted up to"),
            (
                |manifest| match &mut manifest.segments[0].built {
                    Some(Built::Index(index)) => index.number = u64::MAX,
                    _ => panic!("the sample has an index"),
                },
                "counted up to",
            ),
            (|manifest| manifest.segments[0].fields.as_mut().unwrap().number = u64::MAX, "counted up to"),
            (|manifest| manifest.keys.as_mut().unwrap().number = u64::MAX, "counted up to"),
            (|manifest| manifest.log[0].epoch = u32::MAX, "epoch 4294967295"),
            (|manifest| manifest.shared = Some(Place { lsn: 10, chain: 0, sequence: 1 }), "place in the shared log"),
        ];
        for (damage, expected) in cases {
            let mut manifest = sample();
            damage(&mut manifest);
            assert!(Manifest::decode(&manifest.encode()).is_err_and(|why| why.contains(expected)), "{manifest:?}");
        }
    }

    #[test]
    fn files_are_named_from_the_index_directory() {
        let files: Vec<String> = sample().files().collect();
        assert_eq!(
            files,
            [
                "manifest-00000000000000000003",
                "wal/00000000000000000001-1.wal",
                "segments/00000000000000000005.seg",
                "segments/00000000000000000006.dead",
                "segments/00000000000000000007.faiss",
                "segments/00000000000000000009.fields",
                "segments/00000000000000000008.keys",
            ]
        );
        assert_eq!(parse_file_name(&files[0]), Some(3));
        assert_eq!(parse_number("00000000000000000006.dead"), Some(6));
        // Names that we never give are a stranger's files.
        assert_eq!(parse_file_name("manifest-+0000000000000000003"), None);
        assert_eq!((parse_number("6.dead"), parse_number("+0000000000000000006.seg")), (None, None));
    }
}
