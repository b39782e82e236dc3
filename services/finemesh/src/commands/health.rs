//! `finemesh health`: a probe for those who run processes, as Kubernetes' own does not speak TLS.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use service_kit::tls::{ClientTls, ClientTlsConfig};
use service_kit::{Dialer, MeshChannel};
use tonic::{Code, Status};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

use crate::backend;
use crate::cli::{GlobalArgs, HealthArgs};
use crate::config::Config;
use crate::error::readable;
use crate::output::say;

/// A server that has not said how it is in this time is not well.
const PATIENCE: Duration = Duration::from_secs(5);

/// Asks the server of `--address`, or the one that is configured, on this machine. An error where it does not serve.
pub(crate) async fn health(global: &GlobalArgs, config: &Config, args: HealthArgs) -> Result<()> {
    let channel = match &global.address {
        Some(address) => backend::dial(address, global, config)?,
        None => own_server(config)?,
    };
    let mut request = tonic::Request::new(HealthCheckRequest {
        service: args.service,
    });
    request.set_timeout(PATIENCE);
    let answer = HealthClient::new(channel).check(request).await;
    let status = match answer {
        Ok(answer) => answer.into_inner().status(),
        Err(status) if args.live && is_an_answer(&status) => ServingStatus::Unknown,
        Err(status) => return Err(readable(status)),
    };
    if status != ServingStatus::Serving && !args.live {
        bail!("the server says {}", status.as_str_name());
    }
    Ok(say(format_args!("{}", status.as_str_name()))?)
}

/// Whether there is somebody who said no: to the name of the service, or to the certificate of the probe.
fn is_an_answer(status: &Status) -> bool {
    status.code() == Code::NotFound || status.message().contains("received fatal alert")
}

/// Its certificate is not looked at: who listens there is this machine's affair, and nothing is told.
fn own_server(config: &Config) -> Result<MeshChannel> {
    let server = &config.server;
    let dialer = match &server.tls {
        None => Dialer::plaintext(),
        Some(own) => {
            let of_a_caller = config.peers.tls.clone();
            let of_a_caller = of_a_caller.filter(|tls| !tls.certificate.as_os_str().is_empty());
            let identity = of_a_caller.unwrap_or(ClientTlsConfig {
                certificate: own.certificate.clone(),
                key: own.key.clone(),
                ..ClientTlsConfig::default()
            });
            Dialer::tls(ClientTls::of_a_probe(&identity).context("peers.tls")?)
        }
    };
    let address = SocketAddr::new(reachable(server.address.ip()), server.address.port());
    Ok(dialer.channel(&address.to_string())?)
}

/// Where a server is reached that listens on all addresses.
fn reachable(listening: IpAddr) -> IpAddr {
    match listening {
        IpAddr::V4(address) if address.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(address) if address.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        address => address,
    }
}
