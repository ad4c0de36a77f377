//! Backups to an S3-compatible server: moto (`pip install 'moto[server]'`), on loopback. Where there is none the test says so and passes: it is
//! looked for in PATH, and `MOTO_SERVER` is a path to it.

use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::sync::Arc;

use faiss_proxy::{Durability, IndexSpec, Store, StoreOptions, TenantId};
use serde_json::Value;

struct S3 {
    process: Child,
    endpoint: String,
}

impl S3 {
    /// `None`: there is no such program here.
    fn start() -> Option<Self> {
        let program = std::env::var("MOTO_SERVER").unwrap_or_else(|_| "moto_server".to_owned());
        // A port that is free now.
        let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap().port();
        let mut command = Command::new(program);
        command.args(["-H", "127.0.0.1", "-p", &port.to_string()]).stdout(Stdio::null()).stderr(Stdio::null());
        let process = command.spawn().ok()?;
        let s3 = Self { process, endpoint: format!("http://127.0.0.1:{port}") };
        while TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_err() {
            std::thread::yield_now();
        }
        ureq::put(format!("{}/bucket", s3.endpoint)).send_empty().unwrap();
        Some(s3)
    }

    fn tool(&self, arguments: &[&str]) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_faiss-proxy"));
        command.env_remove("FAISS_DATA_DIR").env("RUST_LOG", "off");
        command.env("AWS_ENDPOINT", &self.endpoint).env("AWS_ALLOW_HTTP", "true").env("AWS_REGION", "us-east-1");
        command.env("AWS_ACCESS_KEY_ID", "test").env("AWS_SECRET_ACCESS_KEY", "test");
        command.args(arguments).output().unwrap()
    }

    fn lines(&self, arguments: &[&str]) -> Vec<Value> {
        let output = self.tool(arguments);
        assert!(output.status.success(), "{output:?}");
        std::str::from_utf8(&output.stdout).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }
}

impl Drop for S3 {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Stores points, of some MB, so that an object is put in parts.
fn put(data_dir: &Path, from: usize, count: usize) {
    let store = Store::open(StoreOptions::new(data_dir)).unwrap();
    let tenant = TenantId::new("t").unwrap();
    let spec = IndexSpec { name: "n".into(), dimension: 256, index_type: "Flat".into(), ..IndexSpec::default() };
    let index = store.indices(&tenant).first().cloned().unwrap_or_else(|| store.create_index(&tenant, &spec).unwrap());
    for start in (from..from + count).step_by(1000) {
        let mut batch = index.batch();
        for id in start..start + 1000 {
            batch.push(&id.to_string(), &[id as f32; 256], "{}").unwrap();
        }
        index.upsert(batch, Durability::Fsync).unwrap();
    }
    drop(Arc::clone(&index));
    store.close().unwrap();
}

#[test]
fn what_is_backed_up_to_an_s3_compatible_server_is_restored_with_equal_digests() {
    let Some(s3) = S3::start() else {
        eprintln!("SKIPPED: there is no moto_server here: pip install 'moto[server]', and give its path as MOTO_SERVER");
        return;
    };
    let work = tempfile::tempdir().unwrap();
    let (data, new) = (work.path().join("data"), work.path().join("new"));
    let (data, new) = (data.to_str().unwrap(), new.to_str().unwrap());
    let back_up = || s3.lines(&["backup", "--json", "--data-dir", data, "--to", "s3://bucket/a/prefix"]).remove(0);
    put(data.as_ref(), 0, 20_000);
    let first = back_up();
    assert!(first["bytes_moved"].as_u64().unwrap() > 20 << 20, "{first}");
    put(data.as_ref(), 100_000, 1_000);
    let second = back_up();
    assert_eq!((&second["seq"], &second["is_new"]), (&2.into(), &true.into()));
    assert!(second["bytes_moved"].as_u64().unwrap() < 4 << 20, "{second}");
    assert_eq!(back_up()["is_new"], false);

    let restored = s3.lines(&["restore", "--json", "--from", "s3://bucket/a/prefix/", "--data-dir", new]);
    assert_eq!((restored.len(), &restored[0]["vector_count"]), (1, &21_000.into()));
    let digest = |data_dir: &str| s3.lines(&["verify", "--json", "--data-dir", data_dir])[0]["digest"].clone();
    assert!(digest(data).is_string() && digest(data) == digest(new));

    let absent = s3.tool(&["backup", "--data-dir", data, "--to", "s3://no-such-bucket/x"]);
    assert_eq!(absent.status.code(), Some(1), "{absent:?}");
}
