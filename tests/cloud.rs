//! Backups to an S3-compatible server.

#[path = "support/s3.rs"]
mod s3;

use std::path::Path;
use std::process::{Command, Output};
use std::sync::Arc;

use faiss_proxy::{Durability, IndexSpec, Store, StoreOptions, TenantId};
use s3::S3;
use serde_json::Value;

fn tool(s3: &S3, arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_faiss-proxy"));
    command.env_remove("FAISS_DATA_DIR").env("RUST_LOG", "off").envs(s3.variables());
    command.args(arguments).output().unwrap()
}

fn lines(s3: &S3, arguments: &[&str]) -> Vec<Value> {
    let output = tool(s3, arguments);
    assert!(output.status.success(), "{output:?}");
    std::str::from_utf8(&output.stdout).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect()
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
    let Some(s3) = S3::start() else { return };
    let work = tempfile::tempdir().unwrap();
    let (data, new) = (work.path().join("data"), work.path().join("new"));
    let (data, new) = (data.to_str().unwrap(), new.to_str().unwrap());
    let back_up = || lines(&s3, &["backup", "--json", "--data-dir", data, "--to", "s3://bucket/a/prefix"]).remove(0);
    put(data.as_ref(), 0, 20_000);
    let first = back_up();
    assert!(first["bytes_moved"].as_u64().unwrap() > 20 << 20, "{first}");
    put(data.as_ref(), 100_000, 1_000);
    let second = back_up();
    assert_eq!((&second["seq"], &second["is_new"]), (&2.into(), &true.into()));
    assert!(second["bytes_moved"].as_u64().unwrap() < 4 << 20, "{second}");
    assert_eq!(back_up()["is_new"], false);

    let restored = lines(&s3, &["restore", "--json", "--from", "s3://bucket/a/prefix/", "--data-dir", new]);
    assert_eq!((restored.len(), &restored[0]["vector_count"]), (1, &21_000.into()));
    let digest = |data_dir: &str| lines(&s3, &["verify", "--json", "--data-dir", data_dir])[0]["digest"].clone();
    assert!(digest(data).is_string() && digest(data) == digest(new));

    let absent = tool(&s3, &["backup", "--data-dir", data, "--to", "s3://no-such-bucket/x"]);
    assert_eq!(absent.status.code(), Some(1), "{absent:?}");
}
