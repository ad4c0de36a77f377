//! NATS servers that let in only whom they know.

use std::path::Path;

use rcgen::{CertifiedKey, generate_simple_self_signed};

use crate::nats::{Servers, Settings};
use crate::program::{ServerProcess, refusal};
use crate::{Node, create, put, serve, write_file};

/// A certificate that vouches for itself, and its key, in files of these names.
fn certify(directory: &Path, name: &str) {
    let CertifiedKey { cert, signing_key } = generate_simple_self_signed(["127.0.0.1".to_owned()]).unwrap();
    write_file(&directory.join(format!("{name}.pem")), &cert.pem());
    write_file(&directory.join(format!("{name}.key")), &signing_key.serialize_pem());
}

#[test]
fn node_is_let_in_by_its_password_and_its_certificate_and_knows_the_servers_by_theirs() {
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name).to_str().unwrap().to_owned();
    for name in ["server", "node", "stranger"] {
        certify(directory.path(), name);
    }
    write_file(&directory.path().join("password"), "s3cret\n");
    write_file(&directory.path().join("other"), "guess\n");
    let more = format!(
        "authorization {{ user: node, password: s3cret }}\n\
         tls {{ cert_file: {:?}, key_file: {:?}, ca_file: {:?}, verify: true }}\n",
        path("server.pem"),
        path("server.key"),
        path("node.pem")
    );
    let Some(servers) = Servers::start_with(1, &Settings { more: &more, ..Settings::default() }) else { return };
    let options = |password: &str, ca: &str, certificate: &str| {
        let key = certificate.replace(".pem", ".key");
        let files = [("--nats-password-file", password), ("--nats-ca", ca), ("--nats-cert", certificate), ("--nats-key", &key)];
        let files = files.into_iter().flat_map(|(option, file)| [option.to_owned(), path(file)]);
        ["--nats-user".to_owned(), "node".to_owned()].into_iter().chain(files).collect::<Vec<_>>()
    };
    let urls = servers.urls.replace("nats://", "tls://");
    let data = tempfile::tempdir().unwrap();
    for (password, ca, certificate, why) in [
        ("other", "server.pem", "node.pem", "authorization violation"),
        ("password", "stranger.pem", "node.pem", "invalid peer certificate"),
        ("password", "server.pem", "stranger.pem", "alert"),
    ] {
        let said = refusal(serve(data.path(), &urls, 1).args(options(password, ca, certificate)));
        assert!(said.contains("--nats") && said.contains(why) && !said.contains("s3cret"), "{said}");
        // That will not pass.
        assert!(!said.contains("trying"), "{said}");
    }
    let right = options("password", "server.pem", "node.pem");
    let process = ServerProcess::start(serve(data.path(), &urls, 1).args(&right));
    let node = Node { directory: data, urls, replicas: 1, more: right, variables: Vec::new(), lines: Vec::new(), process };
    let index = create(&node, "n");
    let lsn = put(&node, &index, "a", 1.0);
    assert_eq!(node.get(&format!("{index}/vectors/a?min_lsn={lsn}"))["metadata"]["value"], 1.0);
}

#[test]
fn password_in_a_url_is_refused_and_not_repeated() {
    let directory = tempfile::tempdir().unwrap();
    let said = refusal(&mut serve(directory.path(), "nats://node:s3cret@127.0.0.1:1", 1));
    assert!(said.contains("--nats-password-file") && !said.contains("s3cret"), "{said}");
}
