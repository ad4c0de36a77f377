//! Clients that write, delete, search, checkpoint, compact, create and delete indices over HTTP at once, and what they were told.

use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;
use std::sync::mpsc::channel;
use std::thread;

use faiss_proxy::Durability;
use rustix::process::Signal;
use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Value, json};

use crate::program::{ServerProcess, program};
use crate::record::script::{Ack, Found, INDICES, SEAL_ROWS, Step, Told, WRITERS, Writer, writers};
use crate::record::{Before, NewPoint};
use crate::support::{Call, KEY, Response};

pub fn serve(data_dir: &Path) -> Command {
    let mut command = program(data_dir);
    command.args(["--dev", "--listen", "127.0.0.1:0"]);
    command
}

pub fn call(address: SocketAddr, method: &str, path: &str) -> Call {
    Call::new(address, method, path).key(KEY)
}

/// Two indices, an exact one and one over which FAISS indexes are built all the time, and their writers.
pub struct Site {
    paths: [String; 2],
    pub told: Vec<Told>,
    side: Side,
}

/// An index that is created and deleted, again and again.
#[derive(Default)]
struct Side {
    /// Created, and not yet asked to be deleted.
    alive: Option<String>,
    deleted: Vec<String>,
}

impl Site {
    pub fn create(server: &ServerProcess) -> Self {
        let paths = INDICES.map(|shape| {
            let spec = json!({
                "name": shape.index_type, "dimension": shape.dimension, "index_type": shape.index_type,
                "options": {"seal_rows": SEAL_ROWS},
            });
            created(&call(server.address, "POST", "/v1/index").json(&spec).send())
        });
        Self { paths, told: writers(1).into_iter().map(Told::new).collect(), side: Side::default() }
    }

    /// Runs everybody until the server is gone. `at_ack` is told after each acknowledgement how many there were. Gives that number.
    pub fn run(&mut self, server: &ServerProcess, mut at_ack: impl FnMut(usize)) -> usize {
        let address = server.address;
        let Self { paths, told, side } = self;
        let (sender, acks) = channel();
        thread::scope(|scope| {
            for (path, told) in paths.iter().zip(told.chunks_mut(WRITERS)) {
                for told in told {
                    let sender = sender.clone();
                    scope.spawn(move || {
                        let _end = EndOnPanic(server);
                        // A kill keeps what was written: it may be acknowledged before it is synced.
                        let durabilities = [Durability::Fsync, Durability::Interval].into_iter().cycle();
                        for answer in durabilities.map_while(|durability| step(address, path, told, durability).ok()) {
                            answer.unwrap_or_else(|response| panic!("{response:?}"));
                            let _ = sender.send(());
                        }
                    });
                }
            }
            drop(sender);
            scope.spawn(|| {
                let _end = EndOnPanic(server);
                rewrite(address, paths, side)
            });
            scope.spawn(|| {
                let _end = EndOnPanic(server);
                search(address, paths)
            });
            let _end = EndOnPanic(server);
            let mut count = 0;
            for () in acks {
                count += 1;
                at_ack(count);
            }
            count
        })
    }

    /// Checks what a restarted server has; the writers go on from there.
    pub fn settle(&mut self, server: &ServerProcess) {
        let address = server.address;
        for (path, told) in self.paths.iter().zip(self.told.chunks_mut(WRITERS)) {
            let found = read(address, path, told);
            let document = call(address, "GET", path).send().json();
            assert_eq!(document["vector_count"], found.len(), "points that nobody stored: {document}");
            let lsn = document["lsn"].as_u64().unwrap();
            told.iter_mut().for_each(|told| assert_eq!(told.settle(&found, lsn, Before::Kill), 0));
            if !found.is_empty() {
                let mut vector = vec![0.0; told[0].writer.dimension];
                vector[0] = 1.0;
                let hits = hits(
                    &call(address, "POST", &format!("{path}/search")).json(&json!({"vector": vector, "k": found.len()})).send(),
                );
                assert!(hits.iter().eq(found.keys()), "a search finds others than there are");
            }
        }
        let list = call(address, "GET", "/v1/index?limit=1000").send().json();
        let listed: Vec<String> = list["indices"]
            .as_array()
            .unwrap()
            .iter()
            .map(|index| format!("/v1/index/{}", index["id"].as_str().unwrap()))
            .collect();
        assert!(self.side.alive.iter().chain(&self.paths).all(|path| listed.contains(path)), "an index is lost: {listed:?}");
        assert!(!self.side.deleted.iter().any(|path| listed.contains(path)), "a deleted index is there: {listed:?}");
        let others: Vec<_> = listed.iter().filter(|path| !self.paths.contains(path)).collect();
        assert!(others.len() <= 1, "more than the one in flight: {others:?}");
        for path in others {
            assert_eq!(call(address, "DELETE", path).send().status, 204);
        }
        self.side = Side::default();
    }

    pub fn path(&self, index: usize) -> &str {
        &self.paths[index]
    }

    /// An index with its writers.
    pub fn index(&mut self, index: usize) -> (&str, &mut [Told]) {
        (&self.paths[index], &mut self.told[index * WRITERS..][..WRITERS])
    }
}

/// The path of the index that this answer says was created.
pub fn created(response: &Response) -> String {
    assert_eq!(response.status, 201, "{response:?}");
    format!("/v1/index/{}", response.json()["id"].as_str().unwrap())
}

/// A thread that panics takes the server with it: the others would else go on for ever.
struct EndOnPanic<'a>(&'a ServerProcess);

impl Drop for EndOnPanic<'_> {
    fn drop(&mut self) {
        if thread::panicking() {
            self.0.signal(Signal::KILL);
        }
    }
}

/// Makes the writer's next step. An answer that is none of success is given back.
///
/// # Errors
/// The server is gone.
pub fn step(address: SocketAddr, path: &str, told: &mut Told, durability: Durability) -> io::Result<Result<(), Response>> {
    let word = if durability == Durability::Fsync { "fsync" } else { "interval" };
    let (lsn, response) = match told.writer.step(told.acked() + 1) {
        Step::Put(points) => {
            let vectors: Vec<Value> = points.iter().map(document).collect();
            let path = format!("{path}/vectors?durability={word}");
            let (_, response) = call(address, "POST", &path).json(&json!({"vectors": vectors})).try_send()?;
            if response.status != 201 {
                return Ok(Err(response));
            }
            let answer = response.json();
            assert_eq!(answer["added_count"], points.len(), "{answer}");
            (answer["lsn"].as_u64().unwrap(), response)
        }
        Step::Delete(ids) => {
            let [id] = &ids[..] else { panic!("a delete over HTTP is of one id") };
            let (_, response) = call(address, "DELETE", &format!("{path}/vectors/{id}?durability={word}")).try_send()?;
            // The answer bears no LSN, which is above that of the step before.
            (told.acks.last().map_or(0, |ack| ack.lsn), response)
        }
    };
    if ![201, 204, 404].contains(&response.status) {
        return Ok(Err(response));
    }
    told.acks.push(Ack { lsn, durability });
    Ok(Ok(()))
}

pub fn document(NewPoint { id, values, metadata }: &NewPoint) -> Value {
    json!({"id": id, "values": values, "metadata": serde_json::from_str::<Value>(metadata).unwrap()})
}

/// Everything that is there of the writers' ids.
pub fn read(address: SocketAddr, path: &str, told: &[Told]) -> Found {
    let read_own = |writer: Writer| -> Found {
        let point_of = |id: String| {
            let found = point(&call(address, "GET", &format!("{path}/vectors/{id}")).send())?;
            Some((id, found))
        };
        writer.every_id().filter_map(point_of).collect()
    };
    thread::scope(|scope| {
        let readers: Vec<_> = told.iter().map(|told| scope.spawn(move || read_own(told.writer))).collect();
        readers.into_iter().flat_map(|reader| reader.join().unwrap()).collect()
    })
}

/// The bits of the values and the metadata of a point, if there is one.
pub fn point(response: &Response) -> Option<(Vec<u32>, String)> {
    #[derive(Deserialize)]
    struct Point {
        values: Vec<Box<RawValue>>,
        metadata: Box<RawValue>,
    }
    if response.status == 404 {
        return None;
    }
    assert_eq!(response.status, 200, "{response:?}");
    let point: Point = serde_json::from_str(&response.body).unwrap();
    let bits = point.values.iter().map(|value| value.get().parse::<f32>().unwrap().to_bits()).collect();
    Some((bits, point.metadata.get().to_owned()))
}

/// The ids that a search found, sorted.
pub fn hits(response: &Response) -> Vec<String> {
    assert_eq!(response.status, 200, "{response:?}");
    let found = response.json();
    let mut ids: Vec<String> =
        found["results"].as_array().unwrap().iter().map(|hit| hit["id"].as_str().unwrap().to_owned()).collect();
    ids.sort_unstable();
    ids
}

/// Searches until the server is gone.
fn search(address: SocketAddr, paths: &[String; 2]) {
    for (path, shape) in paths.iter().zip(INDICES).cycle() {
        let query = json!({"vector": vec![0.5; shape.dimension], "k": 50});
        let Ok((_, response)) = call(address, "POST", &format!("{path}/search")).json(&query).try_send() else { return };
        let mut ids = hits(&response);
        let count = ids.len();
        ids.dedup();
        assert_eq!(ids.len(), count, "an id came twice");
    }
}

/// Checkpoints, compacts, erases, creates and deletes until the server is gone.
fn rewrite(address: SocketAddr, paths: &[String; 2], side: &mut Side) {
    let rewrites = ["checkpoint", "compact", "compact?erase=true"];
    let send = |call: Call, status: u16| {
        let (_, response) = call.try_send().ok()?;
        assert_eq!(response.status, status, "{response:?}");
        Some(response)
    };
    // `None`: the server is gone.
    let mut turn = || {
        for (path, rewrite) in paths.iter().flat_map(|path| rewrites.map(|rewrite| (path, rewrite))) {
            send(call(address, "POST", &format!("{path}/{rewrite}")), 200)?;
        }
        let spec = json!({"name": "side", "dimension": 1});
        let path = created(&send(call(address, "POST", "/v1/index").json(&spec), 201)?);
        side.alive = Some(path.clone());
        let points = json!({"vectors": [{"id": "a", "values": [1]}]});
        send(call(address, "POST", &format!("{path}/vectors")).json(&points), 201)?;
        side.alive = None;
        send(call(address, "DELETE", &path), 204)?;
        side.deleted.push(path);
        Some(())
    };
    while turn().is_some() {}
}
