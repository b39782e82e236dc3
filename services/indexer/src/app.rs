//! The service: the indexer behind its bounds, and word to those who serve what it writes.

use std::sync::Arc;

use futures::Stream;
use futures::future::BoxFuture;
use search_core::CollectionName;
use segment::store::Store;
use service_kit::Readiness;
use tokio::sync::{Semaphore, SemaphorePermit, mpsc};

use crate::config::Config;
use crate::encode::Encoders;
use crate::error::IndexError;
use crate::progress::{Event, Summary};
use crate::run::{Deletion, Indexer};
use crate::settings::{IndexSettings, StageSettings};
use crate::source::LineBatch;

/// Called after each commit and waited for, so that retrievers in the same process have the snapshot when its writer hears
/// of it.
pub type CommitHook = Arc<dyn Fn(CollectionName) -> BoxFuture<'static, ()> + Send + Sync>;

/// The indexer service.
pub struct App {
    indexer: Indexer,
    runs: Semaphore,
    max_runs: usize,
    readiness: Readiness,
    after_commit: Option<CommitHook>,
}

impl App {
    /// A service over the collections in `store`. It is ready at once.
    #[must_use]
    pub fn start(
        config: Config,
        store: Store,
        encoders: Encoders,
        after_commit: Option<CommitHook>,
    ) -> Arc<Self> {
        let max_runs = config.max_concurrent_runs;
        Arc::new(Self {
            indexer: Indexer::new(config, store, encoders),
            runs: Semaphore::new(max_runs),
            max_runs,
            readiness: Readiness::ready(),
            after_commit,
        })
    }

    /// Whether it can work.
    #[must_use]
    pub fn readiness(&self) -> &Readiness {
        &self.readiness
    }

    /// [`Indexer::index`] within the service's bounds.
    pub async fn index(
        &self,
        settings: IndexSettings,
        lines: impl Stream<Item = Result<LineBatch, IndexError>> + Send + Unpin,
        events: mpsc::Sender<Event>,
    ) -> Result<Summary, IndexError> {
        let _run = self.begin_run()?;
        let collection = settings.collection.clone();
        let summary = self.indexer.index(settings, lines, events).await?;
        self.tell(collection, summary.snapshot).await;
        Ok(summary)
    }

    /// [`Indexer::set_stages`] within the service's bounds.
    pub async fn set_stages(
        &self,
        wishes: StageSettings,
        events: mpsc::Sender<Event>,
    ) -> Result<Summary, IndexError> {
        let _run = self.begin_run()?;
        let collection = wishes.collection.clone();
        let summary = self.indexer.set_stages(wishes, events).await?;
        self.tell(collection, summary.snapshot).await;
        Ok(summary)
    }

    fn begin_run(&self) -> Result<SemaphorePermit<'_>, IndexError> {
        let permit = self.runs.try_acquire();
        permit.map_err(|_| IndexError::TooManyRuns {
            limit: self.max_runs,
        })
    }

    /// [`Indexer::delete`], and word of it.
    pub async fn delete(
        &self,
        collection: &CollectionName,
        ids: Vec<String>,
    ) -> Result<Deletion, IndexError> {
        let deletion = self.indexer.delete(collection, ids).await?;
        self.tell(collection.clone(), deletion.snapshot).await;
        Ok(deletion)
    }

    async fn tell(&self, collection: CollectionName, snapshot: Option<u64>) {
        let Some(number) = snapshot else { return };
        tracing::info!(%collection, number, "committed");
        if let Some(after_commit) = &self.after_commit {
            after_commit(collection).await;
        }
    }
}
