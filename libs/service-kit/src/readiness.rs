//! Whether a service can answer: set by the service, watched by the health service and by whoever waits for it.

use tokio::sync::watch;

/// A flag that can be waited for. Clones share it.
#[derive(Debug, Clone)]
pub struct Readiness {
    ready: watch::Sender<bool>,
}

impl Readiness {
    /// Not ready yet.
    #[must_use]
    pub fn starting() -> Self {
        Self {
            ready: watch::Sender::new(false),
        }
    }

    /// Ready from the start.
    #[must_use]
    pub fn ready() -> Self {
        Self {
            ready: watch::Sender::new(true),
        }
    }

    /// Changes it; those that wait are woken when it differs from before.
    pub fn set(&self, ready: bool) {
        self.ready
            .send_if_modified(|now| std::mem::replace(now, ready) != ready);
    }

    /// Whether it is ready now.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        *self.ready.borrow()
    }

    /// Returns once it is ready.
    pub async fn wait(&self) {
        let mut watch = self.ready.subscribe();
        // `self` holds the sender: the channel cannot close while this waits.
        let _ = watch.wait_for(|ready| *ready).await;
    }

    /// Sees each change from now on; the current value counts as unseen.
    pub(crate) fn watch(&self) -> watch::Receiver<bool> {
        let mut watch = self.ready.subscribe();
        watch.mark_changed();
        watch
    }
}
