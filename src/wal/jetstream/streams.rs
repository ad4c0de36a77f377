//! The streams: what they are called, what stands in them, and how they are made. The one of the catalogue is a KV bucket, so that the command
//! `nats` can show it.

use std::io;
use std::path::Path;
use std::time::Duration;

use serde::Deserialize;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use super::connection::{Connection, PAUSE_WITHOUT_LEADER, Subject, code};
use crate::error::{Error, Result};
use crate::types::{IndexId, TenantId};

/// Among how many streams the logs are spread (docs/decisions/0031-jetstream-layout.md). It is in every subject: another number finds no log.
const LOGS: u8 = 16;

/// For how long the servers know the id of a message, in ns: their own default, longer than anything is sent again.
const DUPLICATE_WINDOW_NS: u64 = 120_000_000_000;

/// For how long a node is taken for alive after it said so: longer than an election of the servers takes. Tests wait for the end of it.
pub(super) const ALIVE: Duration = if cfg!(test) { Duration::from_secs(3) } else { Duration::from_secs(15) };

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stream {
    Catalogue,
    /// Which nodes are alive: a message goes when it is too old. Of nodes that have some of the indices only.
    Nodes,
    /// The logs of those indices whose id leaves this number.
    Logs(u8),
}

impl Stream {
    /// What every node has, and follows.
    pub(super) fn all() -> impl Iterator<Item = Self> {
        std::iter::once(Self::Catalogue).chain((0..LOGS).map(Self::Logs))
    }

    /// In which the log of an index stands.
    pub(super) fn of_log(index: IndexId) -> Self {
        Self::Logs((index.as_u128() % u128::from(LOGS)) as u8)
    }

    pub(super) fn name(self) -> String {
        match self {
            Self::Catalogue => "KV_faiss-catalogue".to_owned(),
            Self::Nodes => "KV_faiss-nodes".to_owned(),
            Self::Logs(number) => format!("faiss-log-{number}"),
        }
    }

    pub(super) fn prefix(self) -> String {
        match self {
            Self::Catalogue => "$KV.faiss-catalogue.".to_owned(),
            Self::Nodes => "$KV.faiss-nodes.".to_owned(),
            Self::Logs(number) => format!("faiss.log.{number}."),
        }
    }

    /// All subjects that it takes.
    pub(super) fn subjects(self) -> Subject {
        Subject { stream: self.name(), name: format!("{}>", self.prefix()) }
    }

    /// Those of indices.
    pub(super) fn subjects_of_indices(self) -> Subject {
        Subject { stream: self.name(), name: format!("{}*.*", self.prefix()) }
    }

    /// Of no index: what is sent to it says that the stream's leader is the leader yet. It keeps one message.
    pub(super) fn proof(self) -> Subject {
        Subject { stream: self.name(), name: format!("{}proof", self.prefix()) }
    }

    /// The one of an index.
    pub(super) fn subject(self, tenant: &TenantId, index: IndexId) -> Subject {
        Subject { stream: self.name(), name: format!("{}{tenant}.{index}", self.prefix()) }
    }

    /// Whose a subject is. `None`: no index's in this stream.
    pub(super) fn index_of(self, subject: &str) -> Option<(TenantId, IndexId)> {
        let (tenant, name) = subject.strip_prefix(&self.prefix())?.split_once('.')?;
        let (tenant, index) = (TenantId::new(tenant).ok()?, IndexId::try_parse(name).ok()?);
        // A UUID may be written in several ways, and is found under one.
        let is_here = self == Self::Catalogue || self == Self::of_log(index);
        (is_here && index.to_string() == name).then_some((tenant, index))
    }

    fn config(self, replicas: usize) -> Value {
        let Subject { stream, name: subjects } = self.subjects();
        let mut config = json!({
            "name": stream, "subjects": [subjects], "retention": "limits", "storage": "file", "num_replicas": replicas, "discard": "new",
            "max_consumers": -1, "max_msgs": -1, "max_bytes": -1, "max_age": 0, "max_msg_size": -1, "max_msgs_per_subject": -1,
            "duplicate_window": DUPLICATE_WINDOW_NS, "allow_direct": true, "deny_delete": true, "deny_purge": false, "allow_rollup_hdrs": true,
        });
        let of_catalogue = json!({ "max_msgs_per_subject": 1 });
        let alive_ns = ALIVE.as_nanos() as u64;
        // Nobody may ask for messages to be known for longer than they are kept.
        let of_nodes = json!({ "max_msgs_per_subject": 1, "max_age": alive_ns, "duplicate_window": alive_ns });
        let more = match self {
            Self::Catalogue => of_catalogue,
            Self::Nodes => of_nodes,
            Self::Logs(_) => json!({}),
        };
        if let (Value::Object(config), Value::Object(more)) = (&mut config, more) {
            config.extend(more);
        }
        config
    }

    /// Makes it where there is none of its name. One that is there is left as it is, for an operator may have changed it; but it must keep what is
    /// put into it.
    ///
    /// # Errors
    /// [`Error::Io`]: no answer, too few servers for so many replicas, or one that is there and is not what is needed.
    pub(super) async fn make(self, connection: &Connection, replicas: usize) -> Result<()> {
        let (name, deadline) = (self.name(), connection.deadline());
        let path = Path::new("nats:").join(&name);
        let failed = |kind, why: String| Error::io("make the stream", &path, io::Error::new(kind, why));
        loop {
            let asked = connection.ask_again::<Made>(format!("$JS.API.STREAM.INFO.{name}"), &json!({}), deadline).await;
            let refusal = match asked {
                Ok(Ok(Made { config })) => {
                    let Some(complaint) = self.complaint(&config) else {
                        if config.num_replicas != replicas {
                            tracing::warn!(stream = name, replicas, found = config.num_replicas, "the stream has other replicas");
                        }
                        return Ok(());
                    };
                    return Err(failed(io::ErrorKind::Unsupported, format!("there is one, and it {complaint}")));
                }
                Ok(Err(refusal)) => refusal,
                Err(why) => return Err(failed(io::ErrorKind::TimedOut, why)),
            };
            if refusal.err_code != code::NO_STREAM {
                return Err(failed(io::ErrorKind::Other, refusal.to_string()));
            }
            let request = format!("$JS.API.STREAM.CREATE.{name}");
            let refusal = match connection.ask_again::<Made>(request, &self.config(replicas), deadline).await {
                Ok(Ok(Made { .. })) => return Ok(()),
                Ok(Err(refusal)) => refusal,
                Err(why) => return Err(failed(io::ErrorKind::TimedOut, why)),
            };
            let more = match refusal.err_code {
                // Another node has just made it, perhaps with other replicas: it is looked at.
                code::STREAM_IS_OTHER if Instant::now() + PAUSE_WITHOUT_LEADER < deadline => {
                    sleep(PAUSE_WITHOUT_LEADER).await;
                    continue;
                }
                code::SUBJECTS_TAKEN => format!("; another stream takes {}", self.subjects().name),
                code if code::TOO_FEW_SERVERS.contains(&code) => {
                    format!("; {replicas} replicas need as many servers in one cluster, each with JetStream and room")
                }
                _ => String::new(),
            };
            return Err(failed(io::ErrorKind::Other, format!("{refusal}{more}")));
        }
    }

    /// Why a stream that is there cannot be used. It would lose what is in it, or other subjects' messages are, or no index can be deleted.
    fn complaint(self, config: &Config) -> Option<String> {
        let subjects = self.subjects().name;
        if config.subjects != [subjects.as_str()] {
            return Some(format!("takes {:?}, not {subjects}", config.subjects));
        }
        if self == Self::Nodes {
            return (config.max_age == 0)
                .then(|| "keeps nodes that are gone for ever (max_age is 0): change its configuration".to_owned());
        }
        // What is full must say so, not drop the oldest.
        let is_limited = config.max_msgs > 0 || config.max_bytes > 0;
        let drops = (is_limited && config.discard != "new").then_some("drops its oldest messages when it is full (discard: old)");
        let keeps_few = self != Self::Catalogue && config.max_msgs_per_subject > 0;
        let refused = drops
            .or(keeps_few.then_some("keeps only some messages of a subject (max_msgs_per_subject)"))
            .or((config.max_age > 0).then_some("drops messages by their age (max_age)"))
            .or((config.retention != "limits").then_some("drops what was read (retention is not limits)"))
            .or((config.storage != "file").then_some("is not on disk (storage is not file)"))
            .or(config.deny_purge.then_some("cannot be purged (deny_purge)"))
            .or((self != Self::Catalogue && !config.allow_rollup_hdrs)
                .then_some("takes no message in the place of others (allow_rollup_hdrs)"))
            .or(config.sealed.then_some("takes no messages (sealed)"));
        refused.map(|why| format!("{why}: change its configuration"))
    }
}

#[derive(Debug, Deserialize)]
struct Made {
    config: Config,
}

/// What matters of how a stream is configured.
#[derive(Debug, Deserialize)]
struct Config {
    #[serde(default)]
    subjects: Vec<String>,
    retention: String,
    storage: String,
    discard: String,
    num_replicas: usize,
    max_msgs: i64,
    max_bytes: i64,
    max_msgs_per_subject: i64,
    max_age: i64,
    #[serde(default)]
    deny_purge: bool,
    #[serde(default)]
    allow_rollup_hdrs: bool,
    #[serde(default)]
    sealed: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn subject_of_an_index_is_known_as_its_and_no_other() {
        let tenant = TenantId::new("a-c_me").unwrap();
        let index = IndexId::from_u128(0x1234_5678_9abc_def0_1234_5678_9abc_deff);
        let log = Stream::of_log(index);
        assert_eq!(log, Stream::Logs(15));
        let name = log.subject(&tenant, index).name;
        assert_eq!(name, "faiss.log.15.a-c_me.12345678-9abc-def0-1234-56789abcdeff");
        assert_eq!(Stream::all().filter_map(|stream| stream.index_of(&name)).collect::<Vec<_>>(), [(tenant.clone(), index)]);
        let key = Stream::Catalogue.subject(&tenant, index).name;
        assert_eq!(key, "$KV.faiss-catalogue.a-c_me.12345678-9abc-def0-1234-56789abcdeff");
        assert_eq!(Stream::Catalogue.index_of(&key), Some((tenant, index)));

        let none_of = |subject: &str| assert_eq!(log.index_of(subject), None, "{subject}");
        none_of("faiss.log.15.a");
        none_of(&log.proof().name);
        none_of("faiss.log.15.a.b");
        none_of("faiss.log.15..12345678-9abc-def0-1234-56789abcdeff");
        none_of("faiss.log.15.A.12345678-9abc-def0-1234-56789abcdeff");
        none_of("faiss.log.15.a.12345678-9ABC-def0-1234-56789abcdeff");
        none_of("faiss.log.15.a.123456789abcdef0123456789abcdeff");
        none_of("faiss.log.15.a.12345678-9abc-def0-1234-56789abcdeff.b");
        // Of another stream.
        none_of("faiss.log.15.a.12345678-9abc-def0-1234-56789abcdef0");
    }
}
