//! The mesh that a command talks to: a running one, or one started inside this process.

use anyhow::{Context, Result, bail};
use search_proto::index::index_service_client::IndexServiceClient;
use search_proto::search::search_service_client::SearchServiceClient;
use service_kit::tls::ClientTls;
use service_kit::{Dialer, MAX_MESSAGE_BYTES, MeshChannel, PeerAddress, Server};

use crate::cli::{GlobalArgs, Target};
use crate::config::Config;
use crate::mesh;
use crate::needs::Needs;

/// Clients of the public services.
pub(crate) struct Backend {
    pub(crate) search: SearchServiceClient<MeshChannel>,
    pub(crate) index: IndexServiceClient<MeshChannel>,
    arguments: String,
}

impl Backend {
    /// Connects to `--address`, or starts all services in this process.
    pub(crate) async fn open(global: &GlobalArgs, config: &Config, needs: Needs) -> Result<Self> {
        let channel = match &global.address {
            Some(address) => dial(address, global, config)?,
            None => embedded(&mesh::all(config, needs).await?),
        };
        Ok(Self::over(channel, global))
    }

    /// The same for a command that only changes collections: an embedded mesh need not serve them, nor fetch them from afar.
    pub(crate) async fn open_indexer(global: &GlobalArgs, config: &Config) -> Result<Self> {
        let channel = match &global.address {
            Some(address) => dial(address, global, config)?,
            None => embedded(&mesh::server(config, Target::Indexer).await?),
        };
        Ok(Self::over(channel, global))
    }

    fn over(channel: MeshChannel, global: &GlobalArgs) -> Self {
        Self {
            search: SearchServiceClient::new(channel.clone())
                .max_decoding_message_size(MAX_MESSAGE_BYTES)
                .max_encoding_message_size(MAX_MESSAGE_BYTES),
            index: IndexServiceClient::new(channel)
                .max_decoding_message_size(MAX_MESSAGE_BYTES)
                .max_encoding_message_size(MAX_MESSAGE_BYTES),
            arguments: arguments(global),
        }
    }

    /// How to call a command on this mesh: the program and the options that name the mesh.
    pub(crate) fn invocation(&self, command: &str) -> String {
        let program = std::env::args().next().unwrap_or_default();
        format!("{program} {command} {}", self.arguments)
    }
}

/// A channel to `--address`: with TLS, as `peers.tls` has it, where it begins with https://.
pub(crate) fn dial(address: &str, global: &GlobalArgs, config: &Config) -> Result<MeshChannel> {
    let (dialer, authority) = match address.strip_prefix("https://") {
        Some(authority) => {
            let tls = config.peers.tls.clone().unwrap_or_default();
            let tls = ClientTls::load(&tls).context("peers.tls")?;
            (Dialer::tls(tls), authority)
        }
        None => (Dialer::plaintext(), address),
    };
    let dialer = match &global.api_key {
        Some(key) => {
            let peer: PeerAddress = authority.parse().context("--address")?;
            if config.peers.tls_is_missing(address, &peer) {
                bail!(
                    "--address {address} would get the API key in plaintext: use https://, or set `peers.plaintext = true`"
                );
            }
            dialer.with_api_key(key).context("--api-key")?
        }
        None => dialer,
    };
    dialer.channel(authority).context("--address")
}

/// It ends with the process: a command that has its answer has no calls in flight.
fn embedded(server: &Server) -> MeshChannel {
    mesh::pipe("embedded", server)
}

fn arguments(global: &GlobalArgs) -> String {
    let config = global
        .config
        .as_ref()
        .map(|file| format!("--config {} ", file.display()));
    let data = global
        .data
        .as_ref()
        .map(|folder| format!("--data {} ", folder.display()));
    let address = global
        .address
        .as_ref()
        .map(|address| format!("--address {address} "));
    [config, data, address].into_iter().flatten().collect()
}
