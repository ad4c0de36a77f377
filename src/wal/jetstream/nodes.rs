//! Which nodes are alive, as a KV bucket whose entries do not live long: each node writes its own again and again, and looks who else is there. What one
//! asks another goes by core NATS, a request and its answer.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::{Arc, Weak};
use std::time::Duration;

use async_nats::{Message, Subscriber};
use bytes::Bytes;
use futures_util::StreamExt as _;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use serde_json::json;
use tokio::task::AbortHandle;
use tokio::time::{Instant, sleep};

use super::cluster::JetStream;
use super::connection::{Connection, Done, Subject};
use super::streams::{ALIVE, Stream};
use crate::error::{Error, Result};
use crate::types::{IndexId, Lsn, TenantId};
use crate::wal::nodes::{Member, Nodes};

/// Between two looks at who is there.
const LOOK: Duration = ALIVE.checked_div(15).expect("it is not 0");

/// Looks between two times that a node says that it is alive: it may miss one, and is taken for dead after the second.
const LOOKS_A_RENEWAL: u32 = 5;

/// Under which a node is asked whether it has an index; its key follows.
const QUESTION: &str = "faiss.node.has.";

/// The nodes that use the same servers, as one of them reaches them.
#[derive(Debug)]
pub(crate) struct JetStreamNodes {
    connection: Connection,
    replicas: usize,
    /// Of each node that joined here: what says that it is alive, and what answers.
    tasks: Mutex<BTreeMap<String, [AbortHandle; 2]>>,
}

/// What a node is asked.
#[derive(Debug, Serialize, Deserialize)]
struct Question {
    tenant: String,
    index: IndexId,
    lsn: Lsn,
}

#[derive(Debug, Serialize, Deserialize)]
struct Answer {
    has: bool,
}

/// Of a stream, which subjects have a message.
#[derive(Debug, Deserialize)]
struct Info {
    state: Subjects,
}

#[derive(Debug, Deserialize)]
struct Subjects {
    #[serde(default)]
    subjects: BTreeMap<String, u64>,
}

impl JetStream {
    /// The nodes that use the same servers. Their stream has so many replicas where it has to be made.
    pub(crate) fn nodes(&self, replicas: usize) -> JetStreamNodes {
        JetStreamNodes { connection: self.connection.clone(), replicas, tasks: Mutex::default() }
    }
}

impl Nodes for JetStreamNodes {
    fn join(&self, node: &str, member: &Arc<dyn Member>) -> Result<()> {
        let connection = &self.connection;
        let failed = |why: String| Error::io("join the nodes of", Path::new("nats:"), std::io::Error::other(why));
        let joined = connection.block(async {
            Stream::Nodes.make(connection, self.replicas).await?;
            let questions = connection.client.subscribe(format!("{QUESTION}{}", key(node)));
            let questions = questions.await.map_err(|error| failed(error.to_string()))?;
            renew(connection, node, connection.deadline()).await.map_err(failed)?;
            let nodes = alive(connection, connection.deadline()).await.map_err(failed)?;
            let staying = stay(connection.clone(), node.to_owned(), Arc::downgrade(member));
            let answering = answer(connection.clone(), questions, Arc::downgrade(member));
            let tasks = [connection.runtime.spawn(staying).abort_handle(), connection.runtime.spawn(answering).abort_handle()];
            Ok::<_, Error>((tasks, nodes))
        });
        let (tasks, nodes) = joined?;
        member.alive(nodes);
        self.tasks.lock().insert(node.to_owned(), tasks);
        Ok(())
    }

    fn leave(&self, node: &str) -> Result<()> {
        if let Some(tasks) = self.tasks.lock().remove(node) {
            tasks.iter().for_each(AbortHandle::abort);
        }
        self.connection.empty(&subject(node))
    }

    fn has(&self, node: &str, tenant: &TenantId, index: IndexId, lsn: Lsn) -> bool {
        let question = json!(Question { tenant: tenant.to_string(), index, lsn });
        // Once: who asks comes again.
        let asked = self.connection.ask_again::<Answer>(format!("{QUESTION}{}", key(node)), &question, Instant::now());
        matches!(self.connection.block(asked), Ok(Ok(Answer { has: true })))
    }
}

/// Says again and again that the node is alive, and tells it who is, as long as its member is there.
async fn stay(connection: Connection, node: String, member: Weak<dyn Member>) {
    for look in 1_u32.. {
        sleep(LOOK).await;
        if member.strong_count() == 0 {
            return;
        }
        let deadline = Instant::now() + LOOK;
        if look % LOOKS_A_RENEWAL == 0
            && let Err(why) = renew(&connection, &node, deadline).await
        {
            tracing::warn!(node, why, "cannot tell other nodes that this one is alive");
        }
        match alive(&connection, deadline).await {
            Ok(nodes) => member.upgrade().into_iter().for_each(|member| member.alive(nodes.clone())),
            Err(why) => tracing::debug!(why, "cannot see which nodes are alive; those of before stay"),
        }
    }
}

async fn renew(connection: &Connection, node: &str, deadline: Instant) -> Result<(), String> {
    // The key says all; the value is for who looks by the tools of NATS.
    let stored = connection.ask_again::<Done>(subject(node).name, &json!({ "url": node }), deadline).await?;
    stored.map(|Done {}| ()).map_err(|refusal| refusal.to_string())
}

/// As the leader of their stream has it.
async fn alive(connection: &Connection, deadline: Instant) -> Result<BTreeSet<String>, String> {
    let prefix = Stream::Nodes.prefix();
    let request = format!("$JS.API.STREAM.INFO.{}", Stream::Nodes.name());
    let asked = connection.ask_again::<Info>(request, &json!({ "subjects_filter": format!("{prefix}>") }), deadline).await?;
    let Info { state } = asked.map_err(|refusal| refusal.to_string())?;
    Ok(state.subjects.keys().filter_map(|subject| node_of(subject.strip_prefix(&prefix)?)).collect())
}

async fn answer(connection: Connection, mut questions: Subscriber, member: Weak<dyn Member>) {
    while let Some(Message { payload, reply, .. }) = questions.next().await {
        let (Some(reply), Some(member)) = (reply, member.upgrade()) else { continue };
        let Ok(Question { tenant, index, lsn }) = serde_json::from_slice(&payload) else { continue };
        let Ok(tenant) = TenantId::new(&tenant) else { continue };
        // It may open the index.
        let asked = connection.runtime.spawn_blocking(move || member.has(&tenant, index, lsn));
        let said = json!(Answer { has: asked.await.unwrap_or(false) });
        if let Err(error) = connection.client.publish(reply, Bytes::from(said.to_string())).await {
            tracing::debug!(%error, "cannot answer another node");
        }
    }
}

fn subject(node: &str) -> Subject {
    Subject { stream: Stream::Nodes.name(), name: format!("{}{}", Stream::Nodes.prefix(), key(node)) }
}

/// A node's address, `http://HOST:PORT`, as a key that every tool of NATS takes: `HOST=PORT`.
fn key(node: &str) -> String {
    node.strip_prefix(SCHEME).unwrap_or(node).replace(':', "=")
}

fn node_of(key: &str) -> Option<String> {
    key.contains('=').then(|| format!("{SCHEME}{}", key.replace('=', ":")))
}

const SCHEME: &str = "http://";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn address_reads_back_from_its_key() {
        for (node, expected) in [
            ("http://127.0.0.1:8001", "127.0.0.1=8001"),
            ("http://node-a.example:80", "node-a.example=80"),
            ("http://[::1]:8000", "[==1]=8000"),
        ] {
            assert_eq!(key(node), expected);
            assert_eq!(node_of(expected).as_deref(), Some(node));
        }
        assert_eq!(node_of("strange"), None);
    }
}
