//! `finemesh up` and `finemesh serve`.

use anyhow::{Context, Result};
use service_kit::Security;
use service_kit::signals::Signals;
use tokio::net::TcpListener;

use crate::cli::Target;
use crate::config::{Config, ServerConfig};
use crate::mesh;
use crate::output::say;

/// Serves until SIGTERM or SIGINT, then drains.
pub(crate) async fn serve(config: &Config, target: Target) -> Result<()> {
    let mut signals = Signals::catch()?;
    let address = config.server.address;
    let security = mesh::security(&config.server, target)?;
    let scheme = if security.tls.is_some() {
        "https"
    } else {
        "http"
    };
    let asks_for = asked_for(&config.server, &security);
    // Bound before anything is loaded: a taken port is told at once.
    let listener = TcpListener::bind(address)
        .await
        .with_context(|| format!("server.address: cannot listen on {address}"))?;
    let server = tokio::select! {
        server = mesh::server(config, target) => server?,
        () = signals.recv() => return Ok(()),
    };
    let bound = listener.local_addr()?;
    tracing::info!(target = target.service_name(), address = %bound, asks_for, "serving");
    say(format_args!(
        "{} serves on {scheme}://{bound}",
        target.service_name()
    ))?;
    server
        .serve_secured(listener, security, async move { signals.recv().await })
        .await?;
    Ok(())
}

/// Of its callers, for the log: what is not set is not asked for, and an empty variable is easily overlooked.
fn asked_for(server: &ServerConfig, security: &Security) -> &'static str {
    let tls = server.tls.as_ref();
    let certificates = tls.is_some_and(|tls| !tls.client_ca.as_os_str().is_empty());
    match (certificates, security.access.asks_for_keys()) {
        (true, true) => "certificates and API keys",
        (true, false) => "certificates",
        (false, true) => "API keys",
        (false, false) => "nothing",
    }
}
