//! The signals that end a process: SIGTERM (an orchestrator of containers) and SIGINT (a terminal).

use std::io;

use tokio::signal::unix::{Signal, SignalKind, signal};

/// The signals that end a process, caught from the moment this exists.
#[derive(Debug)]
pub struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    /// Starts catching; until then the signals kill the process.
    ///
    /// # Errors
    /// When the process may not install handlers.
    pub fn catch() -> io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
        })
    }

    /// Returns when one of them arrives.
    pub async fn recv(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => tracing::info!("SIGTERM: draining"),
            _ = self.interrupt.recv() => tracing::info!("SIGINT: draining"),
        }
    }
}
