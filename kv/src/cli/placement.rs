//! `skerry scheduler`: the placement driver in a process of its own; a playground starts it beside a store.

use std::path::Path;
use std::sync::Arc;

use clap::Args;
use skerry_raftstore::config::RocksConfig;
use skerry_raftstore::engine::Engine;
use skerry_raftstore::engine::directory::{DataDirectory, Identity, Purpose};
use skerry_raftstore::engine::rocks::RocksEngine;
use skerry_raftstore::time::SystemClock;
use skerry_scheduler::config::SchedulerConfig;
use skerry_scheduler::server::Scheduler;
use slog::Logger;
use tokio::net::TcpListener;

use super::{Common, StopSignals, checked, data_directory, say, serve, set};
use crate::error::{Error, Result};
use crate::server::listen;

#[derive(Debug, Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    common: Common,
    /// Where to listen, for gRPC and HTTP alike
    #[arg(long, value_name = "HOST:PORT")]
    addr: Option<String>,
    /// Where clients and stores are told to come, if that is another address
    #[arg(long, value_name = "HOST:PORT")]
    advertise_addr: Option<String>,
    /// Keep data here; default `scheduler` below `storage.data-dir`
    #[arg(long, value_name = "DIR")]
    data_dir: Option<std::path::PathBuf>,
}

pub(super) fn run(arguments: Arguments) -> Result<()> {
    let mut config = arguments.common.load()?.config;
    set(&mut config.scheduler.addr, arguments.addr);
    set(&mut config.scheduler.advertise_addr, arguments.advertise_addr);
    let config = checked(config)?;
    let directory =
        arguments.data_dir.unwrap_or_else(|| data_directory(&config.storage, "scheduler"));
    serve(&config, async |logger| {
        let mut signals = StopSignals::catch()?;
        let listener = listen(&config.scheduler.addr, "--addr").await?;
        let opened = Opened::open(&config.scheduler, &directory, logger)?;
        say(&format!("Ready: scheduler {}\n", config.scheduler.addr));
        opened.serve(listener, async { signals.next().await }).await
    })
}

/// A scheduler with its data, ready to serve.
pub(super) struct Opened {
    scheduler: Scheduler,
    engine: Arc<RocksEngine>,
    /// Released last: the lock must outlive the engine.
    _directory: DataDirectory,
}

impl Opened {
    pub(super) fn open(
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
    pub(super) async fn serve(
        self,
        listener: TcpListener,
        stop: impl Future<Output = ()> + Send,
    ) -> Result<()> {
        self.scheduler.serve(listener, stop).await.map_err(said)?;
        Ok(self.engine.close(crate::node::VIEWS_TIMEOUT)?)
    }
}

/// The scheduler's errors are whole sentences; those of the engine below it keep their kind.
fn said(error: skerry_scheduler::Error) -> Error {
    match error {
        skerry_scheduler::Error::Engine(error) => Error::Store(error),
        other => Error::Startup(other.to_string()),
    }
}
