//! Config, telemetry, status mapping, channels, health, serve and drain. Knows gRPC; knows nothing of search.
//!
//! In the order in which a process meets them: [`config`] is read, [`telemetry`] is started, [`client`] channels are
//! made, [`server`] serves behind its layers (trace, [`criticality`], overload, [`deadline`], panics) until [`signals`] end
//! it, and errors become a [`status`] at the edge. What is in flight, refused, and waits is counted ([`load_metrics`]).

pub mod access;
mod around;
pub mod client;
pub mod compute;
pub mod config;
pub mod criticality;
pub mod deadline;
pub mod discovery;
mod guarded;
mod health;
mod limit;
mod malformed;
mod overload;
mod panics;
pub mod readiness;
mod reloaded;
pub mod replica;
mod rpcs;
pub mod server;
pub mod signals;
pub mod status;
pub mod telemetry;
pub mod tls;
mod trace;
mod transport;
mod turns;

pub use client::{Dialer, MeshChannel, with_deadline};
pub use config::{ConfigError, EXIT_CONFIG, Problems};
pub use deadline::{deadline_of, now};
pub use discovery::{Channels, PeerAddress};
pub use readiness::Readiness;
pub use reloaded::FileError;
pub use server::{MAX_MESSAGE_BYTES, Security, Server, ServerBuilder, ServerLimits};
pub use telemetry::{Telemetry, TelemetryConfig};
pub use transport::{InProcessListener, in_process};
