//! Services on in-process addresses, which can be killed.

use service_kit::{MeshChannel, Server, in_process};
use tokio::task::JoinHandle;

/// A server that runs inside this process until it is killed or dropped.
#[derive(Debug)]
pub struct Hosted {
    channel: MeshChannel,
    served: JoinHandle<()>,
}

impl Hosted {
    /// Serves under this name.
    #[must_use]
    pub fn start(name: &str, server: Server) -> Self {
        let (listener, channel) = in_process(name);
        let served = async move {
            if let Err(error) = server
                .serve_in_process(listener, std::future::pending())
                .await
            {
                panic!("an in-process server failed: {error}");
            }
        };
        Self {
            channel,
            served: tokio::spawn(served),
        }
    }

    /// A channel to it.
    #[must_use]
    pub fn channel(&self) -> MeshChannel {
        self.channel.clone()
    }

    /// Ends it as a crash would: connections break, later calls find nobody.
    pub async fn kill(&mut self) {
        self.served.abort();
        let _ = (&mut self.served).await;
    }
}

impl Drop for Hosted {
    fn drop(&mut self) {
        self.served.abort();
    }
}
