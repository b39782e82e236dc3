//! Processes that show each other certificates, and a public port that asks for a key.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Command, Output};

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};

use crate::process::{Finemesh, Served, models_are_here};

const KEY: &str = "a-key-for-this-test-alone";

type Settings = Vec<(String, String)>;

/// Writes a CA, and certificates of these names at 127.0.0.1.
fn certificates(folder: &Path, names: &[&str]) {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let ca = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
    std::fs::write(folder.join("ca.crt"), ca.pem()).unwrap();
    for name in names {
        let names = [*name, "127.0.0.1"].map(str::to_owned).to_vec();
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(names).unwrap();
        let signed = params.signed_by(&key, &ca).unwrap();
        std::fs::write(folder.join(format!("{name}.crt")), signed.pem()).unwrap();
        std::fs::write(folder.join(format!("{name}.key")), key.serialize_pem()).unwrap();
    }
}

fn setting(key: &str, value: impl ToString) -> (String, String) {
    (format!("FINEMESH__{key}"), value.to_string())
}

/// Certificate and key, of a server or of a caller.
fn identity(folder: &Path, section: &str, name: &str) -> Settings {
    let file = |ending| folder.join(format!("{name}.{ending}"));
    vec![
        setting(
            &format!("{section}__TLS__CERTIFICATE"),
            file("crt").display(),
        ),
        setting(&format!("{section}__TLS__KEY"), file("key").display()),
    ]
}

fn trusted(folder: &Path, key: &str) -> (String, String) {
    setting(key, folder.join("ca.crt").display())
}

fn start(finemesh: &Finemesh, target: &str, settings: &Settings) -> Served {
    let settings: Vec<(&str, &str)> = settings
        .iter()
        .map(|(key, value)| (key.as_str(), value.as_str()))
        .collect();
    Served::start(finemesh, target, &settings)
}

fn run(settings: &Settings, arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_finemesh"))
        .args(arguments)
        .envs(settings.iter().cloned())
        .output()
        .unwrap()
}

fn told(output: &Output) -> String {
    let streams = [&output.stdout, &output.stderr];
    streams.map(|bytes| String::from_utf8_lossy(bytes)).concat()
}

fn scrape(address: SocketAddr) -> String {
    let mut stream = TcpStream::connect(address).unwrap();
    let request = b"GET /metrics HTTP/1.1\r\nhost: test\r\nconnection: close\r\n\r\n";
    stream.write_all(request).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

#[test]
fn a_mesh_of_certificates_and_keys_lets_in_whom_it_should() {
    if !models_are_here() {
        return;
    }
    let finemesh = Finemesh::new();
    let folder = finemesh.folder();
    certificates(folder, &["orchestrator", "sparse", "stranger"]);
    let corpus = finemesh.file(
        "corpus.jsonl",
        "{\"_id\": \"a\", \"text\": \"a rising sea\"}\n",
    );
    let corpus = corpus.to_str().unwrap();
    finemesh.ok(&["index", "--collection", "c", "--stages", "sparse", corpus]);

    let callers = "{\"finemesh.sparse.v1.SparseRetrieverService\" = [\"orchestrator\"]}";
    let mut of_sparse = identity(folder, "SERVER", "sparse");
    of_sparse.push(trusted(folder, "SERVER__TLS__CLIENT_CA"));
    of_sparse.push(setting("SERVER__ACCESS__CALLERS", callers));
    let sparse = start(&finemesh, "sparse-retriever", &of_sparse);
    assert!(sparse.address.starts_with("https://"), "{}", sparse.address);

    let keys = finemesh.file("keys", KEY);
    let metrics = TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap();
    let as_caller = |name: &str| {
        let mut settings = identity(folder, "SERVER", "orchestrator");
        settings.extend(identity(folder, "PEERS", name));
        settings.push(trusted(folder, "PEERS__TLS__CA"));
        settings.push(setting("PEERS__SPARSE_RETRIEVER", sparse.as_peers()));
        settings
    };
    let mut of_orchestrator = as_caller("orchestrator");
    of_orchestrator.push(setting("SERVER__ACCESS__API_KEYS_FILE", keys.display()));
    of_orchestrator.push(setting("TELEMETRY__PROMETHEUS_ADDRESS", metrics));
    let orchestrator = start(&finemesh, "orchestrator", &of_orchestrator);

    // A search from outside: trusts the CA, shows the key.
    let address = orchestrator.address.as_str();
    let search = [
        "--address",
        address,
        "search",
        "--collection",
        "c",
        "--pipeline",
        "sparse",
        "sea",
    ];
    let ca = trusted(folder, "PEERS__TLS__CA");
    let key = |key: &str| ("FINEMESH_API_KEY".to_owned(), key.to_owned());
    for (settings, expected) in [
        (vec![ca.clone(), key(KEY)], "a rising sea"),
        (vec![ca.clone()], "a key is needed"),
        (vec![ca, key("another-key-than-that")], "the key is unknown"),
        (vec![key(KEY)], "certificate"),
    ] {
        let output = run(&settings, &search);
        assert!(
            told(&output).contains(expected),
            "{expected}: {}",
            told(&output)
        );
        assert_eq!(output.status.success(), expected == "a rising sea");
    }

    // Who has a certificate and is not meant.
    let stranger = start(&finemesh, "orchestrator", &as_caller("stranger"));
    let settings = vec![trusted(folder, "PEERS__TLS__CA")];
    let search = [&["--address", &stranger.address][..], &search[2..]].concat();
    assert!(!run(&settings, &search).status.success());

    // A probe by the configuration of the server, while that listens for metrics.
    let port = address.rsplit_once(':').unwrap().1;
    of_orchestrator.push(setting("SERVER__ADDRESS", format!("0.0.0.0:{port}")));
    let output = run(&of_orchestrator, &["health"]);
    assert!(output.status.success(), "{}", told(&output));
    let text = scrape(metrics);
    let counted = "finemesh_calls_duration_seconds_count{rpc=\"finemesh.search.v1.SearchService/Search\",status=\"OK\"} 1";
    assert!(text.contains(counted), "{text}");
    drop(orchestrator);
    assert!(!run(&of_orchestrator, &["health"]).status.success());
}

#[test]
fn what_others_can_reach_is_plaintext_only_where_it_is_asked_for() {
    let finemesh = Finemesh::new();
    let check = |text: &str| {
        let file = finemesh.file("finemesh.toml", text);
        let output = run(&Settings::new(), &["check-config", file.to_str().unwrap()]);
        (output.status.code().unwrap(), told(&output))
    };
    for (text, expected) in [
        ("[server]\naddress = \"0.0.0.0:7700\"", "server.plaintext"),
        (
            "[peers]\nencoder = [\"dns:///encoder:7700\"]",
            "peers.encoder[0]",
        ),
        (
            "[peers]\nresolve_interval_ms = 1",
            "peers.resolve_interval_ms",
        ),
        ("[server.tls]\ncertificate = \"a\"", "server.tls.key"),
        ("[peers.tls]\nkey = \"a\"", "peers.tls.key"),
        (
            "[server.access.callers]\n\"finemesh.search.v1.SearchService\" = [\"a\"]",
            "server.access.callers",
        ),
        (
            "[server.access.callers]\n\"finemesh.search.v1.Nothing\" = [\"a\"]",
            "server.access.callers.\"finemesh.search.v1.Nothing\"",
        ),
    ] {
        let (code, told) = check(text);
        assert!(code == 64 && told.contains(expected), "{text}: {told}");
    }
    let (code, told) = check(
        "[server]\naddress = \"0.0.0.0:7700\"\nplaintext = true\n[peers]\nplaintext = true\nencoder = [\"dns:///encoder:7700\"]",
    );
    assert_eq!(code, 0, "{told}");
}
