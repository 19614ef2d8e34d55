//! `skerry server`: one store in a process of its own.

use std::path::PathBuf;

use clap::Args;
use tokio::sync::watch;

use super::{Common, StopSignals, checked, data_directory, say, serve, set, wanted_version};
use crate::error::Result;
use crate::node::{Listeners, Mode, Node, PortFlags};
use crate::storage::ApiVersion;

#[derive(Debug, Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    common: Common,
    /// Keep data on this store alone, without replicas
    #[arg(long)]
    standalone: bool,
    /// Where clients are answered
    #[arg(long, value_name = "HOST:PORT")]
    addr: Option<String>,
    /// Where clients are told to come, if that is another address
    #[arg(long, value_name = "HOST:PORT")]
    advertise_addr: Option<String>,
    /// Where /metrics, /status and /config are answered
    #[arg(long, value_name = "HOST:PORT")]
    status_addr: Option<String>,
    /// The schedulers, separated by commas
    #[arg(long, value_name = "HOST:PORT,...")]
    scheduler_addr: Option<String>,
    /// Keep data here; default `store-1` below `storage.data-dir`
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
    /// 1 or 2; fixed when the store is made
    #[arg(long, value_name = "VERSION")]
    api_version: Option<u32>,
}

pub(super) fn run(arguments: Arguments) -> Result<()> {
    let mode = if arguments.standalone { Mode::Standalone } else { Mode::Replicated };
    let mut loaded = arguments.common.load()?;
    let wanted = wanted_version(&mut loaded, arguments.api_version);
    let mut config = loaded.config;
    set(&mut config.server.addr, arguments.addr);
    set(&mut config.server.advertise_addr, arguments.advertise_addr);
    set(&mut config.server.status_addr, arguments.status_addr);
    set(&mut config.server.scheduler_addr, arguments.scheduler_addr);
    let config = checked(config)?;
    let wanted = wanted.and_then(ApiVersion::from_number);
    let directory =
        arguments.data_dir.unwrap_or_else(|| data_directory(&config.storage, "store-1"));
    serve(&config, async |logger| {
        let mut signals = StopSignals::catch()?;
        let flags = PortFlags { store: "--addr", status: "--status-addr" };
        let listeners = Listeners::bind(&config, flags).await?;
        let (halt, halted) = watch::channel(false);
        let start =
            Node::start(config.clone(), mode, wanted, &directory, listeners, halted, logger);
        let Some(node) = signals.halting(&halt, start).await? else { return Ok(()) };
        let (address, status) = (config.server.advertised(), &config.server.status_addr);
        say(&format!("Ready: store {} at {address}, status http://{status}\n", node.store_id()));
        signals.next().await;
        signals.or_at_once(node.stop()).await
    })
}
