//! `skerry scheduler`: the placement driver in a process of its own; a playground starts it beside a store.

use clap::Args;

use super::{Common, StopSignals, checked, data_directory, say, serve, set};
use crate::error::Result;
use crate::server::listen;

pub(super) use crate::node::scheduler::Opened;

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
