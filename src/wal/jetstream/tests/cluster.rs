use std::time::Instant;

use super::*;
use crate::wal::cluster::Entry;
use crate::wal::conformance::cluster::{Clusters, Followed, acme, id, set, write};
use crate::wal::jetstream::streams::Stream;

impl Clusters for Servers {
    fn reach(&self) -> Arc<dyn Cluster> {
        self.cluster()
    }

    fn followers(&self) -> usize {
        self.consumers().len()
    }
}

impl Servers {
    /// Stream and name of each.
    fn consumers(&self) -> Vec<String> {
        let of_stream = |stream: Stream| {
            let name = stream.name();
            let answer = self.ask(&format!("$JS.API.CONSUMER.NAMES.{name}"), &json!({}));
            let names: Vec<String> = serde_json::from_value(answer["consumers"].clone()).unwrap_or_default();
            names.into_iter().map(move |consumer| format!("{name}.{consumer}"))
        };
        Stream::all().flat_map(of_stream).collect()
    }

    fn config(&self, stream: &str) -> Value {
        self.ask(&format!("$JS.API.STREAM.INFO.{stream}"), &json!({}))["config"].clone()
    }

    /// What no node publishes.
    fn publish_raw(&self, subject: &str, operation: Option<&str>) {
        self.runtime.block_on(async {
            let client = async_nats::connect(self.url()).await.unwrap();
            let mut headers = HeaderMap::new();
            headers.insert("Nats-Msg-Id", uuid::Uuid::new_v4().to_string().as_str());
            if let Some(operation) = operation {
                headers.insert("KV-Operation", operation);
            }
            let answer = client.request_with_headers(subject.to_owned(), headers, "raw".into()).await.unwrap();
            assert!(!String::from_utf8_lossy(&answer.payload).contains("error"), "{answer:?}");
        });
    }

    fn refused(&self, replicas: usize) -> String {
        self.reach_by(&self.url(), replicas).unwrap_err().to_string()
    }
}

#[test]
fn all_that_comes_after_the_server_was_killed_is_told() {
    let Some(mut servers) = Servers::start() else { return };
    let cluster = servers.cluster();
    let entry = set(&cluster, &acme(), id(1), 0, b"1");
    let mut followed = Followed::begin(&cluster);
    followed.until_entry(&acme(), id(1), &entry);
    let mut revision = entry.revision;
    for round in 2..5_u8 {
        servers.kill_and_restart();
        let entry = set(&cluster, &acme(), id(1), revision, &[round]);
        let sequence = write(&cluster, &acme(), id(round.into()), &["1", "2"]);
        followed.until_entry(&acme(), id(1), &entry);
        followed.until_frame(&acme(), id(round.into()), sequence);
        revision = entry.revision;
    }
}

#[test]
fn who_was_cut_off_is_told_what_it_missed() {
    let Some(servers) = Servers::start() else { return };
    let proxy = Proxy::start(servers.address);
    let (here, there): (Arc<dyn Cluster>, _) = (Arc::new(servers.reach_by(&proxy.url(), 1).unwrap()), servers.cluster());
    let first = set(&there, &acme(), id(1), 0, b"1");
    let mut followed = Followed::begin(&here);
    followed.until_complete();
    proxy.cut();
    let entry = set(&there, &acme(), id(1), first.revision, b"2");
    let sequence = write(&there, &acme(), id(1), &["1"]);
    proxy.mend();
    followed.until_entry(&acme(), id(1), &entry);
    followed.until_frame(&acme(), id(1), sequence);
}

/// As where the server that had it in its memory is gone, and the others go on.
#[test]
fn consumer_that_is_gone_is_missed_and_made_anew() {
    let Some(servers) = Servers::start() else { return };
    let cluster = servers.cluster();
    let mut followed = Followed::begin(&cluster);
    followed.until_complete();
    // All of them are there some time later.
    let end = Instant::now() + Duration::from_secs(60);
    while servers.consumers().len() < Stream::all().count() {
        assert!(Instant::now() < end);
    }
    for consumer in servers.consumers() {
        servers.ask(&format!("$JS.API.CONSUMER.DELETE.{consumer}"), &json!({}));
    }
    let entry = set(&cluster, &acme(), id(1), 0, b"1");
    let sequence = write(&cluster, &acme(), id(1), &["1"]);
    followed.until_entry(&acme(), id(1), &entry);
    followed.until_frame(&acme(), id(1), sequence);
}

/// More than a server sends before it asks how far we are.
#[test]
fn large_catalogue_is_told_whole() {
    let Some(servers) = Servers::start() else { return };
    let cluster = servers.cluster();
    for number in 0..40 {
        set(&cluster, &acme(), id(number), 0, &vec![7; 400_000]);
    }
    let mut followed = Followed::begin(&cluster);
    followed.until_complete();
    assert_eq!(followed.entries.len(), 40);
}

#[test]
fn message_that_is_of_no_index_is_passed_over() {
    let Some(servers) = Servers::start() else { return };
    let cluster = servers.cluster();
    servers.publish_raw("faiss.log.1.acme.nonsense", None);
    servers.publish_raw(&format!("faiss.log.1.ACME.{}", id(1)), None);
    servers.publish_raw(&format!("faiss.log.1.acme.{}", id(2)), None);
    servers.publish_raw("$KV.faiss-catalogue.x", None);
    servers.publish_raw(&format!("$KV.faiss-catalogue.acme.{}", id(2)), Some("NONSENSE"));
    assert!(matches!(cluster.entry(&acme(), id(2)), Err(Error::Io(_))));
    let entry = set(&cluster, &acme(), id(1), 0, b"1");
    let sequence = write(&cluster, &acme(), id(1), &["1"]);
    let mut followed = Followed::begin(&cluster);
    followed.until_complete();
    followed.until_frame(&acme(), id(1), sequence);
    assert_eq!(followed.entries.into_iter().collect::<Vec<_>>(), [((acme(), id(1)), entry)]);
    assert_eq!(followed.frames.into_iter().collect::<Vec<_>>(), [((acme(), id(1)), sequence)]);
}

/// `nats kv put`, `nats kv del` and `nats kv purge` publish these.
#[test]
fn catalogue_is_a_bucket_for_the_tools_of_nats() {
    let Some(servers) = Servers::start() else { return };
    let cluster = servers.cluster();
    let config = servers.config("KV_faiss-catalogue");
    let expected = json!({
        "subjects": ["$KV.faiss-catalogue.>"], "max_msgs_per_subject": 1, "discard": "new", "allow_rollup_hdrs": true, "deny_delete": true,
        "deny_purge": false, "allow_direct": true, "storage": "file", "num_replicas": 1,
    });
    let found = |name: &str| config.get(name).cloned().unwrap_or(json!(false));
    expected.as_object().unwrap().iter().for_each(|(name, value)| assert_eq!(found(name), *value, "{name}: {config}"));

    let mut followed = Followed::begin(&cluster);
    for (number, operation) in [(1, "DEL"), (2, "PURGE")] {
        let subject = format!("$KV.faiss-catalogue.acme.{}", id(number));
        servers.publish_raw(&subject, None);
        let put = cluster.entry(&acme(), id(number)).unwrap().unwrap();
        assert_eq!(put.about.as_deref(), Some(&b"raw"[..]));
        servers.publish_raw(&subject, Some(operation));
        let deleted = cluster.entry(&acme(), id(number)).unwrap().unwrap();
        assert_eq!(deleted, Entry { revision: deleted.revision, about: None });
        assert_eq!(cluster.set_entry(&acme(), id(number), deleted.revision, b"").unwrap(), None);
        followed.until_entry(&acme(), id(number), &deleted);
    }
}

#[test]
fn answer_that_is_lost_is_asked_for_again_and_an_entry_is_written_once() {
    let Some(servers) = Servers::start() else { return };
    let proxy = Proxy::start(servers.address);
    let cluster: Arc<dyn Cluster> = Arc::new(servers.reach_by(&proxy.url(), 1).unwrap());
    proxy.lose_acknowledgements(1);
    let first = set(&cluster, &acme(), id(1), 0, b"1");
    let second = set(&cluster, &acme(), id(1), first.revision, b"2");
    assert_eq!((proxy.lost(), second.revision), (1, first.revision + 1));
}

/// Of a subject of which only the newest is kept, nobody can see what was before it.
#[test]
fn entry_whose_answer_was_lost_is_not_known_where_another_was_written_over_it() {
    let runtime = runtime();
    let headers = |previous: u64| {
        let headers = format!("NATS/1.0\r\nNats-Msg-Id: other\r\nNats-Expected-Last-Subject-Sequence: {previous}\r\n\r\n");
        let headers = base64::engine::general_purpose::STANDARD.encode(headers);
        Says::Json(json!({ "message": { "seq": 9, "hdrs": headers, "data": "" } }).to_string())
    };
    for (previous, is_known) in [(0, true), (7, false)] {
        let fake = Fake::start("2.14.0", [Says::Nothing, refuses(10071), headers(previous)]);
        let connection = Connection::connect(runtime.handle(), &access(&fake.url()), patience()).unwrap();
        let cluster = JetStream { connection, frame_bytes_max: FRAME_BYTES_MAX };
        match cluster.set_entry(&acme(), id(1), 0, b"1") {
            Ok(None) => assert!(is_known),
            Err(Error::OutcomeUnknown(_)) => assert!(!is_known),
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn streams_that_are_there_are_left_as_they_are() {
    let Some(servers) = Servers::start() else { return };
    let cluster = servers.cluster();
    let entry = set(&cluster, &acme(), id(3), 0, b"1");
    write(&cluster, &acme(), id(3), &["1"]);
    let name = "faiss-log-3";
    let mut changed = servers.config(name);
    changed["max_bytes"] = json!(1 << 30);
    changed["description"] = json!("by an operator");
    servers.ask(&format!("$JS.API.STREAM.UPDATE.{name}"), &changed);
    let changed = servers.config(name);
    // Of several nodes that start at once, too.
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                let cluster = servers.cluster();
                assert_eq!(cluster.entry(&acme(), id(3)).unwrap().as_ref(), Some(&entry));
                assert_eq!(read(&mut *cluster.open(&acme(), id(3), Place::START).unwrap()).unwrap(), expected(&["1"]));
            });
        }
    });
    assert_eq!(servers.config(name), changed);
}

#[test]
fn nodes_that_start_at_once_make_the_streams_together() {
    let Some(servers) = Servers::start() else { return };
    std::thread::scope(|scope| {
        for number in 0..4 {
            let servers = &servers;
            scope.spawn(move || set(&servers.cluster(), &acme(), id(number), 0, b"1"));
        }
    });
    assert_eq!(servers.ask("$JS.API.STREAM.NAMES", &json!({}))["total"], json!(Stream::all().count()));
}

#[test]
fn stream_that_is_not_what_is_needed_is_refused_by_its_name() {
    let Some(servers) = Servers::start() else { return };
    let name = "faiss-log-5";
    let refused = [
        (json!({ "subjects": ["faiss.log.5.*"] }), "takes [\"faiss.log.5.*\"], not faiss.log.5.>"),
        (json!({ "max_msgs": 10 }), "discard: old"),
        (json!({ "max_bytes": 1000, "discard": "old" }), "discard: old"),
        (json!({ "max_msgs_per_subject": 3, "discard": "new" }), "max_msgs_per_subject"),
        (json!({ "max_age": 60_000_000_000_u64 }), "max_age"),
        (json!({ "retention": "workqueue" }), "retention"),
        (json!({ "storage": "memory" }), "storage"),
        (json!({ "deny_purge": true }), "deny_purge"),
        (json!({}), "allow_rollup_hdrs"),
    ];
    for (settings, why) in refused {
        let mut stream = json!({ "name": name, "subjects": ["faiss.log.5.>"], "storage": "file" });
        stream.as_object_mut().unwrap().extend(settings.as_object().unwrap().clone());
        servers.ask(&format!("$JS.API.STREAM.CREATE.{name}"), &stream);
        let error = servers.refused(1);
        assert!(error.contains(name) && error.contains(why), "{error}");
        servers.ask(&format!("$JS.API.STREAM.DELETE.{name}"), &json!({}));
    }
    servers.ask("$JS.API.STREAM.CREATE.other", &json!({ "name": "other", "subjects": ["faiss.log.9.x"], "storage": "file" }));
    let error = servers.refused(1);
    assert!(error.contains("faiss-log-9") && error.contains("another stream takes faiss.log.9.>"), "{error}");
    servers.ask("$JS.API.STREAM.DELETE.other", &json!({}));
    servers.cluster();
}

#[test]
fn more_replicas_than_there_are_servers_are_refused_by_their_number() {
    let Some(servers) = Servers::start() else { return };
    let error = servers.refused(3);
    assert!(error.contains("3 replicas need as many servers"), "{error}");
    servers.cluster();
}
