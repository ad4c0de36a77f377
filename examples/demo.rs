//! `make demo`: loads real word vectors over HTTP into a running server, and asks for the neighbours of a few words.

use std::error::Error;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

use clap::Parser;
use serde_json::{Value, json};

#[path = "words/reader.rs"]
mod reader;

/// Points in one request.
const BATCH_POINTS: usize = 500;

/// Loads English words and their vectors into a running faiss-proxy, and prints the nearest words to a few.
#[derive(Parser)]
struct Arguments {
    /// Where the server listens.
    #[arg(long, env = "FAISS_PROXY_URL", default_value = "http://127.0.0.1:8000")]
    url: String,
    /// A key that the server knows. `serve --dev` knows the default.
    #[arg(long, env = "FAISS_PROXY_API_KEY", default_value = "test-key-1", hide_env_values = true)]
    api_key: String,
    /// The words file; `examples/words/README.md` tells how to make a larger one.
    #[arg(long, default_value = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/words/words-5000.bin"))]
    words: PathBuf,
    /// Leave the index in the server.
    #[arg(long)]
    keep: bool,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    match run(&arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{}", advice(&arguments, error.as_ref()));
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments) -> Result<(), Box<dyn Error>> {
    let words = reader::read(&arguments.words).map_err(|error| format!("cannot read {}: {error}", arguments.words.display()))?;
    let server = Server::new(arguments);

    let spec = json!({"name": "words", "dimension": words.dimension, "index_type": "Flat", "metric": "cosine"});
    let index = server.post("/v1/index", &spec)?;
    let path = format!("/v1/index/{}", index["id"].as_str().ok_or("the answer to the create has no id")?);
    println!("Created index 'words' at {}{path}", arguments.url);

    // Whatever happens from here on, the index is deleted again: a demo leaves nothing behind unless it is told to.
    let outcome = load(&server, &path, &words).and_then(|()| ask_for_neighbours(&server, &path, &words));
    if arguments.keep {
        println!("\nThe index stays. Delete it with: curl -X DELETE -H 'X-API-Key: …' {}{path}", arguments.url);
        return outcome;
    }
    let deleted = server.delete(&path);
    outcome?;
    deleted?;
    println!("\nDeleted the index again (--keep leaves it).");
    Ok(())
}

fn load(server: &Server, path: &str, words: &reader::Words) -> Result<(), Box<dyn Error>> {
    let started = Instant::now();
    let mut added = 0;
    for first in (0..words.words.len()).step_by(BATCH_POINTS) {
        let last = words.words.len().min(first + BATCH_POINTS);
        let points: Vec<Value> = (first..last)
            .map(|n| {
                let word = &words.words[n];
                json!({
                    "id": word,
                    "values": words.vector(n),
                    "metadata": {"rank": n + 1, "length": word.chars().count()},
                })
            })
            .collect();
        let answer = server.post(&format!("{path}/vectors"), &json!({"vectors": points}))?;
        if answer["failed_count"] != 0 {
            return Err(format!("the server refused some words: {}", answer["errors"]).into());
        }
        added += answer["added_count"].as_u64().unwrap_or(0);
    }
    println!(
        "Stored {added} words, each batch of {BATCH_POINTS} safe on disk before it was answered, in {:.2} s.\n",
        started.elapsed().as_secs_f64()
    );
    Ok(())
}

fn ask_for_neighbours(server: &Server, path: &str, words: &reader::Words) -> Result<(), Box<dyn Error>> {
    for word in ["king", "paris", "music", "seven", "water"] {
        print_neighbours(server, path, words, word, None)?;
    }
    println!();
    print_neighbours(server, path, words, "king", Some(json!({"length": 4})))
}

/// Prints the five nearest words to `word`, which is itself in the index and left out, and their cosines.
fn print_neighbours(
    server: &Server,
    path: &str,
    words: &reader::Words,
    word: &str,
    filter: Option<Value>,
) -> Result<(), Box<dyn Error>> {
    let vector = words.vector_of(word).ok_or_else(|| format!("{word:?} is not in the words file"))?;
    let answer = server.post(&format!("{path}/search"), &json!({"vector": vector, "k": 6, "filter": filter}))?;
    let neighbours: Vec<String> = answer["results"]
        .as_array()
        .ok_or("the answer to the search has no results")?
        .iter()
        .filter(|hit| hit["id"] != word)
        .take(5)
        .map(|hit| format!("{} {:.2}", hit["id"].as_str().unwrap_or("?"), hit["score"].as_f64().unwrap_or(f64::NAN)))
        .collect();
    let condition = filter.map(|filter| format!(" where {filter}")).unwrap_or_default();
    println!("{:28} {}", format!("{word}{condition}:"), neighbours.join(", "));
    Ok(())
}

/// The calls that the demo makes of the HTTP contract.
struct Server {
    agent: ureq::Agent,
    url: String,
    api_key: String,
}

impl Server {
    fn new(arguments: &Arguments) -> Self {
        // No proxy: the server is on this machine or near it. And a 4xx is an answer whose reason is worth reading.
        let agent = ureq::Agent::config_builder().proxy(None).http_status_as_error(false).build().into();
        Self { agent, url: arguments.url.trim_end_matches('/').to_owned(), api_key: arguments.api_key.clone() }
    }

    fn post(&self, path: &str, body: &Value) -> Result<Value, Box<dyn Error>> {
        let request = self.agent.post(format!("{}{path}", self.url)).header("X-API-Key", &self.api_key);
        let response = request.header("Content-Type", "application/json").send(body.to_string())?;
        Ok(serde_json::from_str(&success(response)?)?)
    }

    fn delete(&self, path: &str) -> Result<(), Box<dyn Error>> {
        let request = self.agent.delete(format!("{}{path}", self.url)).header("X-API-Key", &self.api_key);
        success(request.call()?)?;
        Ok(())
    }
}

/// The body of an answer that is a success; else its status and reason.
fn success(mut response: ureq::http::Response<ureq::Body>) -> Result<String, Box<dyn Error>> {
    let status = response.status();
    let body = response.body_mut().read_to_string()?;
    if status.is_success() { Ok(body) } else { Err(format!("the server answered {status}: {body}").into()) }
}

/// What went wrong, and what to do about it.
fn advice(arguments: &Arguments, error: &(dyn Error + 'static)) -> String {
    let unreachable = match error.downcast_ref::<ureq::Error>() {
        Some(ureq::Error::Io(error)) => error.kind() == std::io::ErrorKind::ConnectionRefused,
        Some(ureq::Error::ConnectionFailed | ureq::Error::HostNotFound) => true,
        _ => false,
    };
    if unreachable {
        format!(
            "No server answers at {}.\nStart one in another terminal with 'make run', wait until it says that it \
             listens, and run 'make demo' again.\nFAISS_PROXY_URL or --url names a server elsewhere.",
            arguments.url
        )
    } else if error.to_string().contains("answered 401") {
        format!("{error}\nGive a key that this server knows with FAISS_PROXY_API_KEY or --api-key.")
    } else {
        error.to_string()
    }
}
