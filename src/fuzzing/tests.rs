//! The fuzzers' seeds: made by the real encoders, kept in `fuzz/seeds`, and run by every `cargo test`.
//!
//! `FAISS_PROXY_WRITE_SEEDS=1 cargo test --lib fuzzing` writes them anew, after a change of the format.

use std::borrow::Cow;

use roaring::RoaringBitmap;

use super::*;
use crate::format::codec;
use crate::format::frame::FrameKind;
use crate::format::manifest::{Built, IndexFile, SegmentFile, SideFile};
use crate::format::position::Place;
use crate::io::{durable, os::OsIo};
use crate::segment::filter::fields::Fields;
use crate::segment::growing::{Growing, NewRow};
use crate::segment::words::TextEnd;
use crate::wal::operation::{Delete, Effect, Keyed, Upsert};

/// A target's name, the target, and its seeds by name.
type Target = (&'static str, fn(&[u8]), Vec<(&'static str, Vec<u8>)>);

fn targets() -> Vec<Target> {
    let targets: Vec<Target> = vec![
        ("log_scan", log_scan, log_seeds()),
        ("frame", frame, frame_seeds()),
        ("operation", operation, operation_seeds()),
        ("manifest", manifest, manifest_seeds()),
        ("segment", segment, segment_seeds()),
        ("filter", filter, filter_seeds()),
        ("point", point, point_seeds()),
        ("dead", dead, dead_seeds()),
        ("keys", keys, keys_seeds()),
        ("fields", fields, fields_seeds()),
        ("index_type", index_type, index_type_seeds()),
    ];
    targets.into_iter().chain(server_targets()).collect()
}

#[cfg(feature = "server")]
fn server_targets() -> Vec<Target> {
    vec![("request", request, request_seeds())]
}

#[cfg(not(feature = "server"))]
fn server_targets() -> Vec<Target> {
    Vec::new()
}

#[test]
fn every_seed_is_what_the_encoders_write_and_keeps_its_target_s_promises() {
    let is_to_be_written = std::env::var_os("FAISS_PROXY_WRITE_SEEDS").is_some();
    for (target, run, seeds) in targets() {
        let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/seeds").join(target);
        for (name, bytes) in seeds {
            if is_to_be_written {
                durable::create_dirs_durably(&OsIo, &directory).unwrap();
                durable::replace(&OsIo, &directory, name, &[IoSlice::new(&bytes)]).unwrap();
            }
            let kept = durable::read_all(&OsIo, &directory.join(name), 1 << 20).unwrap_or_default();
            assert!(kept == bytes, "fuzz/seeds/{target}/{name} is not what the encoders write: {}", module_path!());
        }
        for entry in OsIo.list(&directory).unwrap() {
            println!("{target}: {}", entry.name);
            run(&durable::read_all(&OsIo, &directory.join(&entry.name), 1 << 20).unwrap());
        }
    }
}

#[test]
fn targets_bear_no_bytes_and_few() {
    for (_, run, _) in targets() {
        for bytes in [&[][..], &[0], &[255], &[0; 64], &[255; 64], &[0; 100]] {
            run(bytes);
        }
    }
}

fn texts(strings: &[&str]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for string in strings {
        codec::encode_into(*string, &mut bytes);
    }
    bytes
}

fn upsert(points: &[(&str, &str)], dimension: u32, vectors: &[f32]) -> Vec<u8> {
    let strings: Vec<&str> = points.iter().flat_map(|(id, metadata)| [*id, *metadata]).collect();
    let texts = texts(&strings);
    let count = points.len() as u32;
    encoded(&Operation::Upsert(Upsert { count, dimension, texts: Cow::Owned(texts), vectors: Cow::Borrowed(vectors) }))
}

fn delete(ids: &[&str]) -> Vec<u8> {
    encoded(&Operation::Delete(Delete { count: ids.len() as u32, ids: texts(ids).into() }))
}

/// A log as `FileLog` writes it, but for random salts and the time.
#[derive(Default)]
struct Log {
    frames: Vec<u8>,
    chain: u32,
    last_lsn: u64,
}

impl Log {
    fn frame(mut self, kind: FrameKind, operations: u64, watermark: u64, payload: &[u8]) -> Self {
        let first_lsn = self.last_lsn + 1;
        let last_lsn = self.last_lsn + operations;
        let mut header = FrameHeader {
            kind,
            payload_bytes: payload.len() as u32,
            offset: FIRST_FRAME as u32 + self.frames.len() as u32,
            salt: LOG.salt,
            first_lsn,
            last_lsn,
            watermark,
            time_us: 1_700_000_000_000_000,
            chain: 0,
        };
        self.frames.extend(header.seal(self.chain, &[payload]));
        self.frames.extend(payload);
        self.frames.resize(self.frames.len().next_multiple_of(FRAME_ALIGN), 0);
        self.chain = header.chain;
        if kind != FrameKind::Part {
            self.last_lsn = last_lsn;
        }
        self
    }

    /// As an input of [`log_scan`] with its first `right` frames made right.
    fn input(self, right: u8) -> Vec<u8> {
        [&[right][..], &self.frames].concat()
    }
}

fn log_seeds() -> Vec<(&'static str, Vec<u8>)> {
    let points = upsert(&[("a", "{}"), ("b", "{\"n\":1}")], 2, &[1.0, 2.0, -0.0, 3.4e38]);
    let group = [&points[..], &delete(&["a", "x"]), &upsert(&[("a", "{}")], 2, &[0.5, 0.25])].concat();
    let (first, second) = group.split_at(20);
    let short = || Log::default().frame(FrameKind::Operations, 1, 0, &points).frame(FrameKind::Operations, 3, 1, &group);
    let large = || short().frame(FrameKind::Part, 1, 1, first).frame(FrameKind::Part, 1, 1, &second[..30]);
    let one = upsert(&[("c", "{}")], 2, &[1.0, 1.0]);
    let pieces = Log::default().frame(FrameKind::Part, 1, 0, &one[..9]).frame(FrameKind::LastPart, 1, 0, &one[9..]);
    let mut torn = short().input(2);
    torn.truncate(torn.len() - 700);
    let mut damaged = short().frame(FrameKind::Marker, 0, 4, &[]).input(0);
    damaged[80] ^= 1;
    let mut zeros = short().frame(FrameKind::Marker, 0, 4, &[]).input(255);
    zeros.resize(zeros.len() + 2048, 0);
    let other_dimension = Log::default().frame(FrameKind::Operations, 1, 0, &upsert(&[("a", "{}")], 3, &[1.0; 3]));
    vec![
        ("group", short().input(255)),
        ("marker-and-zeros", zeros),
        ("pieces", pieces.frame(FrameKind::Operations, 1, 0, &delete(&["c"])).input(255)),
        ("pieces-without-the-last", large().input(255)),
        ("torn", torn),
        ("damaged-below-the-watermark", damaged),
        ("other-dimension", other_dimension.input(255)),
        // The place behind it is behind the end of the file, and was refused by the opening after the next.
        ("cut-in-the-padding", Log::default().frame(FrameKind::Marker, 0, 0, &[]).input(255)[..1 + FRAME_HEADER].to_vec()),
        // Vectors of no floats: cutting them apart panicked.
        ("dimension-0", Log::default().frame(FrameKind::Operations, 1, 0, &upsert(&[("a", "{}")], 0, &[])).input(255)),
    ]
}

fn frame_seeds() -> Vec<(&'static str, Vec<u8>)> {
    let frames = Log::default().frame(FrameKind::Operations, 1, 0, &delete(&["a"])).frames;
    vec![("log-header", LOG.encode().to_vec()), ("frame", frames[..FRAME_HEADER + 8].to_vec())]
}

fn operation_seeds() -> Vec<(&'static str, Vec<u8>)> {
    let points = upsert(&[("a", "{}"), ("ü", "{\"n\":[1,null]}")], 2, &[1.0, f32::NAN, -0.0, f32::MIN_POSITIVE]);
    vec![
        ("several", [&points[..], &delete(&["a", "", "ü"])].concat()),
        ("upsert", upsert(&[("a", "{}")], 1, &[1.0])),
        ("none", upsert(&[], 3, &[])),
        ("delete", delete(&["a"])),
        ("dimension-0", upsert(&[("a", "{}")], 0, &[])),
        ("keyed", keyed(Some(Operation::Delete(Delete { count: 1, ids: texts(&["a"]).into() })))),
        ("keyed-nothing", keyed(None)),
    ]
}

fn keyed(operation: Option<Operation<'_>>) -> Vec<u8> {
    let effect = Effect { count: 1, superseded: vec![0], unmet: vec![2, 300] };
    encoded(&Operation::Keyed(Keyed { key: "k".into(), fingerprint: 7, effect, operation: operation.map(Box::new) }))
}

fn manifest_seeds() -> Vec<(&'static str, Vec<u8>)> {
    let name = SegmentName { first_lsn: 10, epoch: 1 };
    let settings = Settings {
        name: "n".to_owned(),
        dimension: 4,
        index_type: "Flat".to_owned(),
        factory: "Flat".to_owned(),
        metric: 2,
        created_at_us: -1,
        options: "{}".to_owned(),
        created_by: None,
    };
    let new = Manifest {
        index: *INDEX.as_bytes(),
        generation: 1,
        settings,
        position: Position::START,
        log: Vec::new(),
        segments: Vec::new(),
        keys: None,
        shared: None,
        copy: None,
    };
    let position = Position { lsn: 9, chain: 0xdead_beef, at: None };
    let logged = Manifest { generation: 3, position, log: vec![name], ..new.clone() };
    let checkpointed = Manifest {
        position: Position { at: Some((name, 64)), ..position },
        segments: vec![
            SegmentFile { number: 5, checksum: Checksum { bytes: 100, crc: 1 }, dead: None, built: None, fields: None },
            SegmentFile {
                number: 6,
                checksum: Checksum { bytes: 1 << 40, crc: 2 },
                dead: Some(SideFile { number: 7, checksum: Checksum { bytes: 20, crc: 3 } }),
                built: Some(Built::Index(IndexFile {
                    number: 8,
                    checksum: Checksum { bytes: 30, crc: 4 },
                    factory: "HNSW32".to_owned(),
                    recall: 9_900,
                    ef: 64,
                    nprobe: 0,
                    overfetch: 1,
                })),
                fields: Some(SideFile { number: 9, checksum: Checksum { bytes: 50, crc: 5 } }),
            },
        ],
        ..logged.clone()
    };
    let unknown_type = Manifest { settings: Settings { factory: "Fla/".to_owned(), ..new.settings.clone() }, ..new.clone() };
    let no_floats = Manifest { settings: Settings { dimension: 0, ..new.settings.clone() }, ..new.clone() };
    let last_generation = Manifest { generation: u64::MAX, ..new.clone() };
    let last_lsn = Manifest { position: Position { lsn: u64::MAX, ..position }, ..new.clone() };
    let skipped_lsns = Manifest { log: vec![SegmentName { first_lsn: 100, epoch: 1 }], ..logged.clone() };
    let last_epoch = Manifest { log: vec![SegmentName { epoch: u32::MAX, ..name }], ..logged.clone() };
    let place = Place { lsn: 8, chain: 7, sequence: 300 };
    let shared = Manifest { shared: Some(place), ..checkpointed.clone() };
    let copy = Manifest { copy: Some([3; 16]), ..shared.clone() };
    let shared_ahead = Manifest { shared: Some(Place { lsn: 10, ..place }), ..logged.clone() };
    // The number of segments, which is the last byte of the body, claims that millions follow.
    let mut lying = new.encode();
    lying.truncate(lying.len() - 5);
    lying.extend([252, 0, 0, 64, 0, 0, 0, 0, 0]);
    vec![
        ("new", new.encode()),
        ("logged", logged.encode()),
        ("checkpointed", checkpointed.encode()),
        ("dimension-0", no_floats.encode()),
        ("last-generation", last_generation.encode()),
        ("last-lsn", last_lsn.encode()),
        ("skipped-lsns", skipped_lsns.encode()),
        ("last-epoch", last_epoch.encode()),
        ("lying-count", lying),
        ("shared", shared.encode()),
        ("copy", copy.encode()),
        ("shared-ahead-of-the-checkpoint", shared_ahead.encode()),
        // Was taken for a mistake of the request.
        ("unknown-type", unknown_type.encode()),
    ]
}

fn segment_seeds() -> Vec<(&'static str, Vec<u8>)> {
    let bytes_of = |rows: &[(&str, &str, [f32; 3], bool)], scaled| {
        let growing = Growing::new(0, rows.len().max(1), 3, scaled);
        let mut end = TextEnd::default();
        for (position, (id, metadata, vector, extreme)) in rows.iter().enumerate() {
            let lsn = 1 + position as u64;
            growing.store_vectors(position, vector);
            growing.store(position, &mut end, &NewRow { lsn, id, metadata, scale: 0.5, extreme: *extreme });
        }
        let disk = SimIo::new();
        let path = Path::new("/s");
        let selection = [(&Rows::Growing(Arc::new(growing)), (0..rows.len() as u32).collect())];
        sealed::write(&disk, path, INDEX, 1, 3, scaled, &selection).unwrap();
        durable::read_all(&disk, path, 1 << 20).unwrap()
    };
    let rows = [("a", "{}", [1.0, -0.0, 3.4e38], true), ("ü", "{\"n\":\"ü\"}", [0.5, 0.25, 1e-20], false)];
    vec![("plain", bytes_of(&rows, false)), ("scaled", bytes_of(&rows, true)), ("empty", bytes_of(&[], false))]
}

fn filter_seeds() -> Vec<(&'static str, Vec<u8>)> {
    let texts = [
        ("numbers", r#"{"a":1,"b":1.0,"c":9007199254740993,"d":-0}|{"a":1.0,"b":1,"c":9007199254740992.0,"d":0}"#),
        ("arrays", r#"{"a":"x","b":[1,[2]],"c":[]}|{"a":["y","x"],"b":[1,[2]],"c":[[]]}"#),
        ("objects", r#"{"a":{"b":null,"c":true}}|{"a":{"c":true,"b":null},"a":1}"#),
        ("escapes", r#"{"\u00e9":"\ud83d\ude00"}|{"é":"😀"}"#),
        ("operator", r#"{"a":{"$gt":1}}|{}"#),
        (
            "list",
            r#"{"a.b":{"$in":[1,"x",null],"$exists":true},"$or":[{"c":{"$contains":"y"}},{"$not":{"c":2}}]}|{"a":[{"b":1}],"c":"xyz"}"#,
        ),
        ("form-feed", "\u{c}{\"a\":1}|{\"a\":1}"),
        ("all", "{}|"),
    ];
    texts.map(|(name, text)| (name, text.replace('|', "\n").into_bytes())).to_vec()
}

fn point_seeds() -> Vec<(&'static str, Vec<u8>)> {
    let input = |metric: u8, dimension: u8, points: &[(&str, &[f32], &str)]| {
        let mut bytes = vec![metric + 3 * (dimension - 1)];
        for (id, values, metadata) in points {
            bytes.push(id.len() as u8);
            bytes.extend(id.as_bytes());
            bytes.extend(bytemuck::cast_slice::<f32, u8>(values));
            bytes.extend((metadata.len() as u16).to_le_bytes());
            bytes.extend(metadata.as_bytes());
        }
        bytes
    };
    vec![
        ("l2", input(0, 2, &[("a", &[1.0, -2.5], "{}"), ("b", &[f32::MAX, f32::MIN_POSITIVE], " {\"n\":1} ")])),
        ("ip", input(1, 1, &[("ü", &[f32::MAX], "{\"n\":[1,{\"m\":null}],\"é\":\"\\u00fc\"}"), ("", &[1.0], "{}")])),
        ("cosine", input(2, 3, &[("a", &[1e-30, 0.0, -0.0], "{}"), ("a", &[1.0, 2.0, 3.0], "{\"a\":1,\"a\":2}")])),
        ("refused", input(2, 1, &[("a", &[0.0], "{}"), ("b", &[f32::NAN], "{}"), ("c", &[1.0], "{\"a\":}")])),
    ]
}

fn dead_seeds() -> Vec<(&'static str, Vec<u8>)> {
    fn input(rows: u16, positions: impl Iterator<Item = u32>, is_optimised: bool) -> Vec<u8> {
        let mut bitmap: RoaringBitmap = positions.collect();
        if is_optimised {
            bitmap.optimize();
        }
        let mut bytes = rows.to_le_bytes().to_vec();
        bitmap.serialize_into(&mut bytes).unwrap();
        bytes
    }
    vec![
        ("one", input(1, 0..1, false)),
        ("some", input(1_000, (3..4).chain(7..20).chain(999..1_000), false)),
        ("many", input(60_000, 0..50_000, false)),
        ("runs", input(60_000, (5..500).chain(1_000..50_000), true)),
        ("beyond-the-rows", input(10, 9..11, false)),
        ("two-containers", input(u16::MAX, (0..1).chain(70_000..70_001), false)),
    ]
}

fn keys_seeds() -> Vec<(&'static str, Vec<u8>)> {
    let input = |lsn: u64, answers: &[(&str, u64, u32, Effect)]| {
        let mut bytes = lsn.to_le_bytes().to_vec();
        for answer in answers {
            codec::encode_into((answer.0, answer.1, answer.2, &answer.3), &mut bytes);
        }
        bytes
    };
    let effect = Effect { count: 300, superseded: vec![0, 251], unmet: vec![7] };
    vec![
        ("one", input(9, &[("k", 9, 7, Effect::default())])),
        (
            "some",
            input(70_000, &[("a", 4, u32::MAX, effect.clone()), ("é", 300, 0, Effect::default()), ("b", 70_000, 1, effect)]),
        ),
        ("beyond-the-checkpoint", input(8, &[("k", 9, 7, Effect::default())])),
        ("not-rising", input(9, &[("k", 9, 7, Effect::default()), ("l", 9, 7, Effect::default())])),
    ]
}

fn fields_seeds() -> Vec<(&'static str, Vec<u8>)> {
    let input = |metadata: &[&str]| {
        let made = Fields::new(&[].into(), metadata.iter().map(|text| text.as_bytes().into()));
        [&(metadata.len() as u16).to_le_bytes()[..], &made.encode()].concat()
    };
    let same: Vec<&str> = vec!["{\"same\":\"text\"}"; 70];
    vec![
        ("none", input(&[])),
        (
            "some",
            input(&["{\"a\":1,\"b\":{\"c\":[true,null,-2.5,\"ü\"]}}", "{}", "{\"a\":\"x\"}", "{\"a\":12345678901234567890}"]),
        ),
        ("bitmap", input(&same)),
    ]
}

fn index_type_seeds() -> Vec<(&'static str, Vec<u8>)> {
    let input =
        |metric: u8, dimension: u16, text: &str| [&[metric][..], &(dimension - 1).to_le_bytes(), text.as_bytes()].concat();
    vec![
        ("flat", input(0, 4, "Flat")),
        ("graph", input(2, 17, "HNSW16,SQ8")),
        ("graph-as-older-faiss-wrote-it", input(0, 16, "HNSW16_PQ4x6np")),
        ("lists", input(0, 32, "OPQ8_16,IVF1k_HNSW8,PQ8x4fs")),
        ("additive", input(0, 8, "IVF16,PLSQ2x4x6")),
        ("transforms", input(1, 64, "PCAR32,RR,ITQ,LSH16rt")),
        ("graph-of-neighbours", input(0, 8, "NSG64,Flat")),
        ("class", input(1, 24, "IndexIVFPQFastScan")),
        ("other-class", input(0, 24, "IndexBinaryFlat")),
        ("wide", input(0, u16::MAX, "RQ64x12")),
        ("number-beyond-all", input(0, 4, "IVF99999999999999999999M,Flat")),
        // Was repeated in the refusal, as a body of 64 MiB would have been.
        ("long", input(0, 4, &"\u{1}".repeat(4_000))),
        ("long-class", input(0, 4, &format!("Index{}", "x".repeat(4_000)))),
    ]
}

#[cfg(feature = "server")]
fn request_seeds() -> Vec<(&'static str, Vec<u8>)> {
    let input = |kind: u8, text: &str| [&[kind][..], text.as_bytes()].concat();
    let binary = |kind: u8, json: &str, rows: &[f32]| {
        [&[kind][..], &crate::api::binary::join(json.as_bytes(), bytemuck::cast_slice(rows))].concat()
    };
    let options = r#"{"ef_construction":40,"ef_search":16.0,"nprobe":1e1,"min_recall":0.5,"seal_rows":10,"compact_dead_share":1,"unindexed":["a.b"]}"#;
    let points = r#"{"vectors":[{"id":"a","values":[1,-2.5e0],"metadata":{"n":1}},{"id":"a","values":[1e39,0]},{"id":"a","values":[0.1,2]}]}"#;
    vec![
        ("create", input(0, r#"{"name":"n","dimension":3}"#)),
        (
            "create-all",
            input(
                0,
                &format!(
                    r#"{{"name":"é","dimension":8,"index_type":"HNSW32","metric":"cosine","tenant_id":"t","options":{options}}}"#
                ),
            ),
        ),
        ("create-elsewhere", input(0, r#"{"name":"n","dimension":3,"tenant_id":"other"}"#)),
        ("add", input(1, points)),
        ("add-atomic", input(2, points)),
        (
            "add-deep",
            input(1, r#"{"vectors":[{"id":"a","values":[1,2],"metadata":{"a":[[[{"b":null}]]]}},[],{"id":1}],"unknown":{}}"#),
        ),
        ("search", input(3, r#"{"vector":[1,1],"k":2,"filter":{"n":1},"exact":true}"#)),
        ("search-params", input(3, r#"{"vector":[1e-3,1E+2],"params":{"ef":64,"nprobe":1,"rescore":false}}"#)),
        ("path", input(4, "67e55044%2D10b1-426f-9247-bb680e5fe0c8")),
        ("path-escapes", input(4, "%c3%a9%00%2F..")),
        ("cursor", input(5, "1709210096000001.67e55044-10b1-426f-9247-bb680e5fe0c8")),
        (
            "batch",
            input(
                6,
                r#"{"queries":[{"vector":[1,1],"k":2,"filter":{"n":1}},{"vector":[2,1]},{"vector":[1e25,1],"exact":true}]}"#,
            ),
        ),
        ("range", input(7, r#"{"vector":[1,1],"radius":1e0,"limit":2,"filter":{"tags":"a"}}"#)),
        (
            "add-base64",
            input(
                1,
                r#"{"vectors":[{"id":"a","values":"AACAPwAAAMA="},{"id":"b","values":"AACAPw=="},{"id":"c","values":"A"}]}"#,
            ),
        ),
        ("search-base64", input(3, r#"{"vector":"AACAPwAAAMA=","k":2}"#)),
        (
            "add-binary",
            binary(
                10,
                r#"{"vectors":[{"id":"a","metadata":{"n":1}},{"id":"b"},{"id":"a"}]}"#,
                &[1.0, -2.5, f32::NAN, 0.0, 0.1, 2.0],
            ),
        ),
        ("add-binary-long", binary(10, r#"{"vectors":[{"id":"a"}]}"#, &[1.0, 2.0, 3.0])),
        ("search-binary", binary(11, r#"{"k":2,"filter":{"n":{"$lt":3}}}"#, &[1.0, 1.0])),
        ("batch-binary", binary(12, r#"{"queries":[{"k":2,"filter":{"n":1}},{}]}"#, &[1.0, 1.0, 1e25, 1.0])),
        ("range-binary", binary(13, r#"{"radius":1e0,"limit":2}"#, &[1.0, 1.0])),
        ("range-score", input(7, r#"{"vector":[1,1],"min_score":0.5,"include_values":true}"#)),
    ]
}
