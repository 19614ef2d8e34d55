//! A scheduler with its data, for whoever runs one in the process: `skerry scheduler`, a playground, the library.

use std::path::Path;
use std::sync::Arc;

use skerry_raftstore::config::RocksConfig;
use skerry_raftstore::engine::Engine;
use skerry_raftstore::engine::directory::{DataDirectory, Identity, Purpose};
use skerry_raftstore::engine::rocks::RocksEngine;
use skerry_raftstore::time::SystemClock;
use skerry_scheduler::config::SchedulerConfig;
use skerry_scheduler::server::Scheduler;
use slog::Logger;
use tokio::net::TcpListener;

use crate::error::{Error, Result};

/// A scheduler with its data, ready to serve.
pub(crate) struct Opened {
    scheduler: Scheduler,
    engine: Arc<RocksEngine>,
    /// Released last: the lock must outlive the engine.
    _directory: DataDirectory,
}

impl Opened {
    /// Opens or begins the data in `directory`.
    pub(crate) fn open(
        config: &SchedulerConfig,
        directory: &Path,
        logger: Logger,
    ) -> Result<Opened> {
        let directory = DataDirectory::open(directory, Purpose::SCHEDULER)?;
        let path = directory.data_path();
        let engine = Arc::new(RocksEngine::open(&path, &RocksConfig::small(), None)?);
        let shared = Arc::clone(&engine) as Arc<dyn Engine>;
        let scheduler =
            Scheduler::open(config.clone(), shared, Arc::new(SystemClock), logger).map_err(said)?;
        let cluster_id = Some(scheduler.cluster_id().get());
        directory.set_identity(Identity { cluster_id, ..Identity::default() })?;
        Ok(Opened { scheduler, engine, _directory: directory })
    }

    /// Serves until `stop` is ready, then closes the engine.
    pub(crate) async fn serve(
        self,
        listener: TcpListener,
        stop: impl Future<Output = ()> + Send,
    ) -> Result<()> {
        self.scheduler.serve(listener, stop).await.map_err(said)?;
        Ok(self.engine.close(super::VIEWS_TIMEOUT)?)
    }
}

/// The scheduler's errors are whole sentences; those of the engine below it keep their kind.
fn said(error: skerry_scheduler::Error) -> Error {
    match error {
        skerry_scheduler::Error::Engine(error) => Error::Store(error),
        other => Error::Startup(other.to_string()),
    }
}
