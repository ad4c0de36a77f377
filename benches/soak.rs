//! Whether the server's memory stays what it is while points come and go: churn over HTTP for `FAISS_PROXY_SOAK_SECONDS` (120; an hour is 3,600), what is
//! resident once a second, and a picture of it, `target/tmp/soak.svg`.
//!
//! Half of 20,000 points are there at any time. A second replaces or adds 500 of them and deletes 500, by batches of 50, and asks 100 searches, half of them with a
//! filter; every tenth second an index is made, filled, searched and deleted.

mod harness;

use std::path::Path;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use harness::data::Data;
use harness::{KEY, Server, directory, files, report, resident};
use plotters::prelude::*;

const POINTS: usize = 20_000;
const DIMENSION: usize = 100;
const BATCH: usize = 50;
/// Of a second, in which each is a write, a delete and some searches.
const STEPS: u32 = 10;
const SEARCHES: usize = 10;
const MIB: f64 = (1 << 20) as f64;

/// What there is at one moment.
struct Sample {
    minutes: f64,
    resident: f64,
    /// Of that, what is not mapped from files.
    own: f64,
    on_disk: f64,
}

fn main() {
    let seconds = std::env::var("FAISS_PROXY_SOAK_SECONDS").map_or(120, |seconds| seconds.parse().expect("a number"));
    let (dir, data) = (directory(), Data::clusters(POINTS, DIMENSION));
    let server = Server::start(env!("CARGO_BIN_EXE_faiss-proxy"), dir.path());
    let mut churn = Churn::new(&server, &data);
    let (_never, tick) = mpsc::channel::<()>();
    let began = Instant::now();
    let mut samples = Vec::new();
    for second in 0..seconds {
        for step in 0..STEPS {
            churn.step();
            let due = began + Duration::from_secs(second) + Duration::from_secs(1) * (step + 1) / STEPS;
            // Nobody sends: it waits.
            let _ = tick.recv_timeout(due.saturating_duration_since(Instant::now()));
        }
        if second % 10 == 0 {
            churn.short_lived();
        }
        let (all, own) = resident(&server.id().to_string());
        let on_disk = files(dir.path()).iter().filter_map(|path| path.metadata().ok()).map(|file| file.len()).sum::<u64>();
        let minutes = began.elapsed().as_secs_f64() / 60.0;
        samples.push(Sample { minutes, resident: all as f64 / MIB, own: own as f64 / MIB, on_disk: on_disk as f64 / MIB });
    }
    println!("soak: {} points replaced or added, as many deleted, {} searches", churn.written, churn.searches);
    println!("{:>8} {:>14} {:>14} {:>14}", "minute", "resident, MiB", "own, MiB", "on disk, MiB");
    for sample in samples.chunks(samples.len().div_ceil(12)).filter_map(<[Sample]>::last) {
        println!("{:>8.1} {:>14.1} {:>14.1} {:>14.1}", sample.minutes, sample.resident, sample.own, sample.on_disk);
    }
    // The first quarter fills caches and pools.
    let mean = |samples: &[Sample]| samples.iter().map(|sample| sample.own).sum::<f64>() / samples.len() as f64;
    let quarter = samples.len() / 4;
    let (early, late) = (mean(&samples[quarter..2 * quarter]), mean(&samples[3 * quarter..]));
    report(
        "soak: own memory, last quarter to second",
        format!("{late:.1} MiB"),
        format!("{early:.1} MiB"),
        late / early,
        "<= 1.05",
    );
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join("soak.svg");
    draw(&path, &samples).expect("drawn");
    println!("soak: {}", path.display());
}

fn draw(path: &Path, samples: &[Sample]) -> Result<(), Box<dyn std::error::Error>> {
    let root = SVGBackend::new(path, (1_000, 420)).into_drawing_area();
    root.fill(&WHITE)?;
    let end = samples.last().map_or(1.0, |sample| sample.minutes);
    let most = samples.iter().map(|sample| sample.resident.max(sample.on_disk)).fold(0.0, f64::max);
    let mut chart = ChartBuilder::on(&root)
        .margin(8)
        .x_label_area_size(32)
        .y_label_area_size(56)
        .build_cartesian_2d(0.0..end, 0.0..most * 1.1)?;
    chart.configure_mesh().x_desc("minutes").y_desc("MiB").draw()?;
    let lines = [("resident", BLUE), ("not mapped from files", RED), ("on disk", BLACK)];
    for (at, (name, colour)) in lines.into_iter().enumerate() {
        let point = |sample: &Sample| (sample.minutes, [sample.resident, sample.own, sample.on_disk][at]);
        chart
            .draw_series(LineSeries::new(samples.iter().map(point), &colour))?
            .label(name)
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 20, y)], colour));
    }
    chart.configure_series_labels().border_style(BLACK).background_style(WHITE).draw()?;
    root.present()?;
    Ok(())
}

/// One client that keeps its connection.
struct Churn<'a> {
    agent: ureq::Agent,
    root: String,
    index: String,
    data: &'a Data,
    /// Of splitmix64's sequence.
    random: u64,
    written: usize,
    searches: usize,
}

impl<'a> Churn<'a> {
    fn new(server: &Server, data: &'a Data) -> Self {
        let agent = ureq::Agent::config_builder().proxy(None).build().into();
        let root = format!("http://{}", server.address);
        let mut churn = Self { agent, root, index: String::new(), data, random: 0, written: 0, searches: 0 };
        churn.index = churn.create("HNSW16");
        for first in (0..POINTS / 2).step_by(1_000) {
            churn.upsert(&churn.index, first..first + 1_000);
        }
        churn
    }

    fn send(&self, method: &str, path: &str, body: &serde_json::Value) -> serde_json::Value {
        let request = ureq::http::Request::builder().method(method).uri(format!("{}{path}", self.root));
        let request = request.header("X-API-Key", KEY).header("Content-Type", "application/json");
        let text = serde_json::to_vec(body).expect("serialisable");
        let mut answer = self.agent.run(request.body(text).expect("valid")).expect("the server does it");
        serde_json::from_str(&answer.body_mut().read_to_string().expect("text")).unwrap_or_default()
    }

    fn create(&self, index_type: &str) -> String {
        let body = serde_json::json!({"name": "soak", "dimension": DIMENSION, "index_type": index_type});
        self.send("POST", "/v1/index", &body)["id"].as_str().expect("an id").to_owned()
    }

    fn upsert(&self, index: &str, rows: impl Iterator<Item = usize>) {
        let point = |row: usize| {
            let values = &self.data.rows[row * DIMENSION..][..DIMENSION];
            serde_json::json!({"id": format!("p{row}"), "values": values, "metadata": {"group": row % 20, "text": "some words"}})
        };
        self.send(
            "POST",
            &format!("/v1/index/{index}/vectors"),
            &serde_json::json!({"vectors": rows.map(point).collect::<Vec<_>>()}),
        );
    }

    fn search(&self, index: &str, row: usize, filtered: bool) {
        let mut body = serde_json::json!({"vector": &self.data.rows[row * DIMENSION..][..DIMENSION], "k": 10});
        if filtered {
            body["filter"] = serde_json::json!({"group": row % 20});
        }
        let found = self.send("POST", &format!("/v1/index/{index}/search"), &body);
        assert!(found["results"].is_array(), "{found}");
    }

    fn row(&mut self) -> usize {
        self.random = self.random.wrapping_add(1);
        let bits = harness::floats(1, self.random)[0];
        ((bits + 1.0) / 2.0 * POINTS as f32) as usize % POINTS
    }

    fn step(&mut self) {
        let rows: Vec<usize> = (0..BATCH).map(|_| self.row()).collect();
        self.upsert(&self.index, rows.into_iter());
        let ids: Vec<String> = (0..BATCH).map(|_| format!("p{}", self.row())).collect();
        self.send("POST", &format!("/v1/index/{}/vectors/delete", self.index), &serde_json::json!({"ids": ids}));
        for at in 0..SEARCHES {
            let row = self.row();
            self.search(&self.index, row, at % 2 == 0);
        }
        self.written += BATCH;
        self.searches += SEARCHES;
    }

    fn short_lived(&self) {
        let index = self.create("Flat");
        self.upsert(&index, 0..100);
        self.search(&index, 0, true);
        self.send("DELETE", &format!("/v1/index/{index}"), &serde_json::Value::Null);
    }
}
