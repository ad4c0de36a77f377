//! The record of one backup: what makes it one. It names every object with its length and its digest, and the record before it by its digest.

use std::fmt;
use std::ops::Range;

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::value::RawValue;
use sha2::{Digest as _, Sha256};
use uuid::Uuid;

use crate::format::manifest::{Checksum, SEGMENT_DIRECTORY, parse_file_name, parse_number};
use crate::format::position::SegmentName;
use crate::types::{IndexId, Lsn, TenantId};

/// Version of the records that this code writes, and the newest that it reads.
const FORMAT: u32 = 1;

/// A reader takes no record larger than this.
pub(super) const RECORD_BYTES_MAX: u64 = 64 << 20;

/// Where the records of an index are, below its name in a repository.
pub(super) const RECORDS: &str = "backups";

/// Where its manifests are.
const MANIFESTS: &str = "manifests";

/// Where the pieces of its log are.
const LOG: &str = "wal";

/// A SHA-256, as `sha256sum` prints it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Digest([u8; 32]);

impl Digest {
    pub(super) fn of(bytes: &[u8]) -> Self {
        Self::from(Sha256::new_with_prefix(bytes))
    }
}

impl From<Sha256> for Digest {
    fn from(hasher: Sha256) -> Self {
        Self(hasher.finalize().into())
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Serialize for Digest {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Digest {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let (pairs, rest) = text.as_bytes().as_chunks::<2>();
        let digit = |byte: u8| char::from(byte).to_digit(16).filter(|_| !byte.is_ascii_uppercase());
        let bytes = pairs.iter().map(|&[high, low]| Some((digit(high)? << 4 | digit(low)?) as u8));
        let bytes = bytes.collect::<Option<Vec<u8>>>().filter(|_| rest.is_empty());
        bytes.and_then(|bytes| bytes.try_into().ok()).map(Self).ok_or_else(|| D::Error::custom("no SHA-256"))
    }
}

/// What one backup is of, and where in the repository it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Record {
    pub(super) format: u32,
    /// Counts the backups of this index in this repository, from 1; the record's name.
    pub(super) seq: u64,
    /// Of the file of the record before; none of the first.
    pub(super) previous: Option<Digest>,
    /// When it was made: RFC 3339, UTC.
    pub(super) time: String,
    pub(super) tenant: String,
    pub(super) index: IndexId,
    /// Which copy of an index whose log nodes share. `None`: of an index that is one machine's own.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) copy: Option<Uuid>,
    /// The state that it restores to.
    pub(super) lsn: Lsn,
    /// The state that its manifest has without any log.
    pub(super) checkpoint_lsn: Lsn,
    pub(super) manifest: Object,
    /// The segments and what belongs to them.
    pub(super) files: Vec<Object>,
    /// In order.
    pub(super) log: Vec<LogSegment>,
}

/// An object that is a file of the index.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Object {
    /// Below the index's name.
    pub(super) name: String,
    pub(super) bytes: u64,
    pub(super) crc32: u32,
    pub(super) sha256: Digest,
}

/// The part of a log segment that was backed up, in pieces.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct LogSegment {
    /// Of the file.
    pub(super) name: String,
    /// Nothing will come after what was backed up: the segment has a successor.
    pub(super) is_closed: bool,
    /// One after the other from the beginning of the file.
    pub(super) pieces: Vec<Piece>,
}

/// A run of bytes of a log segment, up to the end of a frame.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Piece {
    pub(super) from: u64,
    pub(super) to: u64,
    /// Every mutation up to this one is before its end.
    pub(super) lsn: Lsn,
    /// Chain value at its end.
    pub(super) chain: u32,
    /// When the last frame before its end was committed: UTC, microseconds since 1970.
    pub(super) time_us: Option<u64>,
    pub(super) sha256: Digest,
}

/// The file of a record: so that one that is damaged is known even where none follows it.
#[derive(Serialize, Deserialize)]
struct Envelope<'a> {
    /// Of the record's bytes, as they stand.
    sha256: Digest,
    #[serde(borrow)]
    record: &'a RawValue,
}

impl Object {
    /// The manifest of a generation.
    pub(super) fn manifest(file_name: &str, bytes: &[u8]) -> Self {
        let crc32 = crate::format::crc32(&[bytes]);
        Self { name: format!("{MANIFESTS}/{file_name}"), bytes: bytes.len() as u64, crc32, sha256: Digest::of(bytes) }
    }

    pub(super) fn checksum(&self) -> Checksum {
        Checksum { bytes: self.bytes, crc: self.crc32 }
    }
}

impl LogSegment {
    /// Bytes from the file's beginning.
    pub(super) fn bytes(&self) -> u64 {
        self.pieces.last().map_or(0, |last| last.to)
    }

    pub(super) fn segment_name(&self) -> Option<SegmentName> {
        SegmentName::parse(&self.name)
    }

    /// The name of the object that a run of its bytes is.
    pub(super) fn object(&self, range: Range<u64>) -> String {
        format!("{LOG}/{}/{:020}-{:020}", self.name, range.start, range.end)
    }
}

impl Record {
    pub(super) const FORMAT: u32 = FORMAT;

    pub(super) fn file_name(seq: u64) -> String {
        format!("{seq:020}.json")
    }

    pub(super) fn parse_file_name(name: &str) -> Option<u64> {
        name.strip_suffix(".json")?.parse().ok().filter(|&seq| Self::file_name(seq) == name)
    }

    pub(super) fn encode(&self) -> Vec<u8> {
        let record = serde_json::value::to_raw_value(self).expect("a record is JSON");
        let envelope = Envelope { sha256: Digest::of(record.get().as_bytes()), record: &record };
        let mut bytes = serde_json::to_vec(&envelope).expect("a record is JSON");
        bytes.push(b'\n');
        bytes
    }

    /// The record `seq` of an index, if these bytes are it.
    ///
    /// # Errors
    /// What is wrong with the bytes, for a person.
    pub(super) fn decode(bytes: &[u8], tenant: &TenantId, index: IndexId, seq: u64) -> Result<Self, String> {
        let envelope: Envelope = serde_json::from_slice(bytes).map_err(|error| format!("no record of a backup: {error}"))?;
        let text = envelope.record.get();
        if Digest::of(text.as_bytes()) != envelope.sha256 {
            return Err("the record's digest is not that of its bytes".to_owned());
        }
        #[derive(Deserialize)]
        struct Version {
            format: u32,
        }
        let version: Version = serde_json::from_str(text).map_err(|error| format!("no record of a backup: {error}"))?;
        if version.format > FORMAT {
            let found = version.format;
            return Err(format!("it is of format {found}, and this version reads up to {FORMAT}; use a newer faiss-proxy"));
        }
        let record: Self = serde_json::from_str(text).map_err(|error| format!("no record of a backup: {error}"))?;
        if record.tenant != tenant.as_str() || record.index != index || record.seq != seq {
            return Err(format!("this is the record of backup {} of {}/{}", record.seq, record.tenant, record.index));
        }
        record.check()?;
        Ok(record)
    }

    /// Names become paths: only those that this program gives are taken.
    fn check(&self) -> Result<(), String> {
        let manifest = self.manifest.name.strip_prefix(MANIFESTS).and_then(|name| name.strip_prefix('/'));
        if manifest.and_then(parse_file_name).is_none() {
            return Err(format!("{:?} is no name of a manifest", self.manifest.name));
        }
        for file in &self.files {
            let name = file.name.strip_prefix(SEGMENT_DIRECTORY).and_then(|name| name.strip_prefix('/'));
            if name.and_then(parse_number).is_none() {
                return Err(format!("{:?} is no name of a file of an index", file.name));
            }
        }
        for segment in &self.log {
            if segment.segment_name().is_none() {
                return Err(format!("{:?} is no name of a log segment", segment.name));
            }
            let mut end = 0;
            for piece in &segment.pieces {
                if piece.from != end || piece.to <= end {
                    return Err(format!("bytes {} to {} of {} do not follow {end}", piece.from, piece.to, segment.name));
                }
                end = piece.to;
            }
            if end == 0 {
                return Err(format!("{} has no bytes", segment.name));
            }
        }
        if self.checkpoint_lsn > self.lsn || (self.seq == 1) != self.previous.is_none() {
            return Err("its numbers contradict each other".to_owned());
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Record {
        let object = |name: &str| Object { name: name.into(), bytes: 3, crc32: 7, sha256: Digest::of(b"abc") };
        let piece = |from, to| Piece { from, to, lsn: 9, chain: 5, time_us: Some(1), sha256: Digest::of(b"p") };
        Record {
            format: FORMAT,
            seq: 2,
            previous: Some(Digest::of(b"")),
            time: "2026-11-28T00:00:00.000000Z".into(),
            tenant: "t".into(),
            index: IndexId::nil(),
            copy: None,
            lsn: 9,
            checkpoint_lsn: 4,
            manifest: object("manifests/manifest-00000000000000000003"),
            files: vec![object("segments/00000000000000000001.seg")],
            log: vec![LogSegment {
                name: "00000000000000000001-1.wal".into(),
                is_closed: false,
                pieces: vec![piece(0, 512), piece(512, 1024)],
            }],
        }
    }

    fn tenant() -> TenantId {
        TenantId::new("t").unwrap()
    }

    fn decode(record: &Record) -> Result<Record, String> {
        Record::decode(&record.encode(), &tenant(), IndexId::nil(), 2)
    }

    #[test]
    fn a_record_has_the_documented_bytes() {
        let digest = |text: &str| Digest::of(text.as_bytes()).to_string();
        assert_eq!(digest("abc"), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad", "FIPS 180-2, B.1");
        let record = format!(
            concat!(
                r#"{{"format":1,"seq":2,"previous":"{}","time":"2026-11-28T00:00:00.000000Z","tenant":"t","#,
                r#""index":"00000000-0000-0000-0000-000000000000","lsn":9,"checkpoint_lsn":4,"#,
                r#""manifest":{{"name":"manifests/manifest-00000000000000000003","bytes":3,"crc32":7,"sha256":"{abc}"}},"#,
                r#""files":[{{"name":"segments/00000000000000000001.seg","bytes":3,"crc32":7,"sha256":"{abc}"}}],"#,
                r#""log":[{{"name":"00000000000000000001-1.wal","is_closed":false,"pieces":["#,
                r#"{{"from":0,"to":512,"lsn":9,"chain":5,"time_us":1,"sha256":"{p}"}},"#,
                r#"{{"from":512,"to":1024,"lsn":9,"chain":5,"time_us":1,"sha256":"{p}"}}]}}]}}"#,
            ),
            digest(""),
            abc = digest("abc"),
            p = digest("p"),
        );
        let file = |record: &str| format!("{{\"sha256\":\"{}\",\"record\":{record}}}\n", digest(record));
        assert_eq!(String::from_utf8(sample().encode()).unwrap(), file(&record));
        assert_eq!(decode(&sample()), Ok(sample()));

        // Of a node.
        let of_node = Record { copy: Some(Uuid::from_u128(7)), ..sample() };
        let record =
            record.replace(r#""lsn":9,"checkpoint"#, r#""copy":"00000000-0000-0000-0000-000000000007","lsn":9,"checkpoint"#);
        assert_eq!(String::from_utf8(of_node.encode()).unwrap(), file(&record));
        assert_eq!(decode(&of_node), Ok(of_node.clone()));

        let segment = &sample().log[0];
        assert_eq!(segment.object(512..1024), "wal/00000000000000000001-1.wal/00000000000000000512-00000000000000001024");
    }

    #[test]
    fn any_flipped_bit_of_a_record_is_seen_but_for_white_space() {
        let bytes = sample().encode();
        for bit in 0..(bytes.len() - 1) * 8 {
            let mut flipped = bytes.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert!(Record::decode(&flipped, &tenant(), IndexId::nil(), 2).is_err(), "bit {bit}");
        }
    }

    #[test]
    fn a_record_that_leads_out_of_its_place_or_contradicts_itself_is_refused() {
        type Damage = fn(&mut Record);
        let cases: [(Damage, &str); 12] = [
            (|record| record.format = 2, "newer faiss-proxy"),
            (|record| record.seq = 3, "backup 3 of"),
            (|record| record.tenant = "u".into(), "of u/"),
            (|record| record.index = IndexId::max(), "backup 2 of t/ffff"),
            (|record| record.manifest.name = "manifests/../../x".into(), "no name of a manifest"),
            (|record| record.files[0].name = "segments/../../../etc/passwd".into(), "no name of a file"),
            (|record| record.files[0].name = "/segments/00000000000000000001.seg".into(), "no name of a file"),
            (|record| record.log[0].name = "../00000000000000000001-1.wal".into(), "no name of a log segment"),
            (|record| record.log[0].pieces[1].from = 511, "do not follow"),
            (|record| record.log[0].pieces.clear(), "no bytes"),
            (|record| record.previous = None, "contradict"),
            (|record| record.checkpoint_lsn = 10, "contradict"),
        ];
        for (damage, expected) in cases {
            let mut record = sample();
            damage(&mut record);
            assert!(decode(&record).is_err_and(|why| why.contains(expected)), "{record:?}: {:?}", decode(&record));
        }
    }
}
