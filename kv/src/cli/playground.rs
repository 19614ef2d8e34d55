//! `skerry playground`: a whole cluster in one process, for a laptop, a test, a first look.
//!
//! 1. Every port is bound, then the scheduler opens its data and serves, then the stores start as they would
//!    anywhere: they speak to the scheduler and to each other over the loopback. Store 2 listens one port above
//!    store 1, and so on.
//! 2. `Ready:` is printed when every region has its replicas and a leader ([`ready`]), with three commands that
//!    can be pasted.
//! 3. A signal stops the stores first, then the scheduler; also while some of them are still being started.

use std::path::{Path, PathBuf};

use clap::Args;
use skerry_raftstore::time;
use slog::Logger;
use tokio::sync::{oneshot, watch};

use super::placement::Opened;
use super::{Common, StopSignals, checked, say, serve, set, wanted_version};
use crate::config::Config;
use crate::error::{Error, Result};
use crate::logging::LogLevel;
use crate::node::{Listeners, Mode, Node, PortFlags};
use crate::server::listen;
use crate::storage::ApiVersion;

mod ready;

/// What to do about a taken port.
const SCHEDULER_PORT: &str = "--scheduler-addr, or move all ports with --port-offset";
const STORE_PORT: &str = "--store-addr, or move all ports with --port-offset";
const STATUS_PORT: &str = "--status-addr, or move all ports with --port-offset";

#[derive(Debug, Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    common: Common,
    /// How many stores; each region has a replica on three of them, or on all if there are fewer
    #[arg(long, default_value_t = 3, value_name = "COUNT", value_parser = clap::value_parser!(u16).range(1..=9))]
    stores: u16,
    /// One store without replication
    #[arg(long, conflicts_with = "stores")]
    standalone: bool,
    /// Where the scheduler listens
    #[arg(long, value_name = "HOST:PORT")]
    scheduler_addr: Option<String>,
    /// Where the first store answers clients; the others listen on the ports behind it
    #[arg(long, value_name = "HOST:PORT")]
    store_addr: Option<String>,
    /// Where the first store answers /metrics, /status and /config
    #[arg(long, value_name = "HOST:PORT")]
    status_addr: Option<String>,
    /// Add this to every port
    #[arg(long, default_value_t = 0, value_name = "NUMBER")]
    port_offset: u16,
    /// Keep data below this directory; default `./data`
    #[arg(long, value_name = "DIR", conflicts_with = "ephemeral")]
    data_dir: Option<PathBuf>,
    /// Keep data in a temporary directory that is removed at the end
    #[arg(long)]
    ephemeral: bool,
    /// 1 or 2; fixed when the data directory is made
    #[arg(long, value_name = "VERSION")]
    api_version: Option<u32>,
}

pub(super) fn run(arguments: Arguments) -> Result<()> {
    let plan = Plan::of(&arguments)?;
    let temporary = match arguments.ephemeral {
        true => Some(tempfile::Builder::new().prefix("skerry-").tempdir().map_err(|error| {
            Error::Startup(format!("no temporary directory can be made: {error}"))
        })?),
        false => None,
    };
    let data = match &temporary {
        Some(directory) => directory.path().to_path_buf(),
        None => PathBuf::from(&plan.config.storage.data_dir),
    };
    serve(&plan.config, async |logger| play(&plan, &data, logger).await)
}

/// What is to be started.
struct Plan {
    /// Of the first store and the scheduler.
    config: Config,
    /// Of each store.
    stores: Vec<Config>,
    mode: Mode,
    /// The API version that was asked for.
    wanted: Option<ApiVersion>,
}

impl Plan {
    fn of(arguments: &Arguments) -> Result<Plan> {
        let (config, wanted) = configured(arguments)?;
        let (mode, count) = match arguments.standalone {
            true => (Mode::Standalone, 1),
            false => (Mode::Replicated, arguments.stores),
        };
        let stores = (0..count).map(|number| store_config(&config, number));
        let stores = stores.collect::<Result<Vec<Config>>>()?;
        Ok(Plan { config, stores, mode, wanted })
    }
}

/// The configuration of a store, from that of the first.
fn store_config(first: &Config, number: u16) -> Result<Config> {
    let mut config = first.clone();
    config.server.addr = shift(&config.server.addr, number)?;
    config.server.status_addr = shift(&config.server.status_addr, number)?;
    if !config.server.advertise_addr.is_empty() {
        config.server.advertise_addr = shift(&config.server.advertise_addr, number)?;
    }
    Ok(config)
}

/// Defaults, overridden by the file, overridden by flags; and the API version, if one was asked for.
fn configured(arguments: &Arguments) -> Result<(Config, Option<ApiVersion>)> {
    let mut loaded = arguments.common.load()?;
    let wanted = wanted_version(&mut loaded, arguments.api_version);
    let mut config = loaded.config;
    if !loaded.given.contains("log.level") {
        // The terminal belongs to the one who plays.
        config.log.level = LogLevel::Warn;
    }
    set(&mut config.scheduler.addr, arguments.scheduler_addr.clone());
    set(&mut config.server.addr, arguments.store_addr.clone());
    set(&mut config.server.status_addr, arguments.status_addr.clone());
    let data_dir = arguments.data_dir.as_ref().map(|directory| directory.display().to_string());
    set(&mut config.storage.data_dir, data_dir);
    let config = checked(config)?;
    let config = checked(shifted(config, arguments.port_offset)?)?;
    Ok((config, wanted.and_then(ApiVersion::from_number)))
}

/// Moves all ports by `offset`; the store is told where the scheduler is.
fn shifted(mut config: Config, offset: u16) -> Result<Config> {
    for address in
        [&mut config.scheduler.addr, &mut config.server.addr, &mut config.server.status_addr]
    {
        *address = shift(address, offset)?;
    }
    for address in [&mut config.scheduler.advertise_addr, &mut config.server.advertise_addr] {
        if !address.is_empty() {
            *address = shift(address, offset)?;
        }
    }
    config.server.scheduler_addr = match config.scheduler.advertise_addr.as_str() {
        "" => config.scheduler.addr.clone(),
        advertised => advertised.to_string(),
    };
    Ok(config)
}

fn shift(address: &str, offset: u16) -> Result<String> {
    let (host, port) = address.rsplit_once(':').expect("the configuration was checked");
    let port: u16 = port.parse().expect("the configuration was checked");
    let port = port.checked_add(offset).ok_or_else(|| {
        Error::Startup(format!("port {port} moved by {offset} would be beyond 65535"))
    })?;
    Ok(format!("{host}:{port}"))
}

async fn play(plan: &Plan, data: &Path, logger: Logger) -> Result<()> {
    let mut signals = StopSignals::catch()?;
    let scheduler_port = listen(&plan.config.scheduler.addr, SCHEDULER_PORT).await?;
    let mut ports = Vec::new();
    for config in &plan.stores {
        let flags = PortFlags { store: STORE_PORT, status: STATUS_PORT };
        ports.push(Listeners::bind(config, flags).await?);
    }
    let opened = Opened::open(&plan.config.scheduler, &data.join("scheduler"), logger.clone())?;
    let (stop, stopped) = oneshot::channel::<()>();
    let scheduler = tokio::spawn(async {
        // An error means that the sender is gone: the playground is ending.
        let stop = async { stopped.await.unwrap_or_default() };
        if let Err(error) = opened.serve(scheduler_port, stop).await {
            time::fatal(&error.to_string());
        }
    });
    let mut nodes = Vec::new();
    let played = until_asked_to_stop(plan, ports, data, &logger, &mut signals, &mut nodes).await;
    let stopping = async {
        for node in nodes {
            node.stop().await?;
        }
        let _ = stop.send(());
        scheduler.await.map_err(|error| Error::Startup(format!("the scheduler failed: {error}")))
    };
    let stopped = signals.or_at_once(stopping).await;
    played.and(stopped)
}

/// Starts the stores and says when they are ready. A signal ends it at any moment; what was started is in `nodes`.
async fn until_asked_to_stop(
    plan: &Plan,
    ports: Vec<Listeners>,
    data: &Path,
    logger: &Logger,
    signals: &mut StopSignals,
    nodes: &mut Vec<Node>,
) -> Result<()> {
    let (halt, halted) = watch::channel(false);
    let start = start_stores(plan, ports, data, logger, &halted, nodes);
    signals.halting(&halt, start).await?;
    if *halted.borrow() {
        return Ok(());
    }
    tokio::select! {
        ready = ready::until_ready(&plan.config, plan.stores.len(), data, logger) => ready?,
        () = signals.next() => return Ok(()),
    }
    say(&invitation(&plan.config, plan.stores.len(), data));
    signals.next().await;
    Ok(())
}

/// Starts the stores one after the other, until it is halted; none waits for another one's replicas.
async fn start_stores(
    plan: &Plan,
    ports: Vec<Listeners>,
    data: &Path,
    logger: &Logger,
    halted: &watch::Receiver<bool>,
    nodes: &mut Vec<Node>,
) -> Result<()> {
    for ((config, ports), number) in plan.stores.iter().zip(ports).zip(1..) {
        let directory = data.join(format!("store-{number}"));
        let (config, halted) = (config.clone(), halted.clone());
        let logger = logger.new(slog::o!("at" => config.server.addr.clone()));
        let (mode, wanted) = (plan.mode, plan.wanted);
        match Node::start(config, mode, wanted, &directory, ports, halted, logger).await? {
            Some(node) => nodes.push(node),
            None => return Ok(()),
        }
    }
    Ok(())
}

/// The line that programs wait for, and three commands for people.
fn invitation(config: &Config, stores: usize, data: &Path) -> String {
    let binary = std::env::current_exe().unwrap_or_else(|_| PathBuf::from("skerry"));
    // Whole, because the other terminal may stand in another directory.
    let binary = quoted(&binary.display().to_string());
    let scheduler = &config.server.scheduler_addr;
    let ctl = match scheduler == super::ctl::DEFAULT_SCHEDULER {
        true => format!("{binary} ctl"),
        false => format!("{binary} ctl --scheduler-addr {scheduler}"),
    };
    let others = match stores {
        1 => String::new(),
        _ => format!(" and {} more on the ports behind it", stores - 1),
    };
    format!(
        "Ready: scheduler {scheduler}, store {store}{others}, status http://{status}, data in {data}\n  \
         {ctl} raw put hello world\n  {ctl} raw get hello\n  \
         curl http://{scheduler}/pd/api/v1/stores\n",
        store = config.server.advertised(),
        status = config.server.status_addr,
        data = data.display(),
    )
}

/// A word as a shell takes it for one word.
fn quoted(word: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"/._-+".contains(&byte);
    match word.bytes().all(plain) {
        true => word.to_string(),
        false => format!("'{}'", word.replace('\'', r"'\''")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_with_spaces_or_quotes_is_still_one_word_of_a_shell() {
        assert_eq!(quoted("/opt/skerry-0.1/skerry"), "/opt/skerry-0.1/skerry");
        assert_eq!(quoted("/home/a b/skerry"), "'/home/a b/skerry'");
        assert_eq!(quoted("it's"), r"'it'\''s'");
    }

    #[test]
    fn one_offset_moves_every_port_and_the_store_finds_the_scheduler() {
        let config = shifted(Config::default(), 100).expect("ports have room");
        assert_eq!(config.scheduler.addr, "127.0.0.1:2479");
        assert_eq!(config.server.addr, "127.0.0.1:20260");
        assert_eq!(config.server.status_addr, "127.0.0.1:20280");
        assert_eq!(config.server.scheduler_addr, "127.0.0.1:2479");
        let beyond = shifted(Config::default(), 60_000).expect_err("20160 + 60000 is no port");
        assert!(beyond.to_string().contains("moved by 60000"), "{beyond}");
    }

    #[test]
    fn the_invitation_names_the_scheduler_only_when_it_must() {
        let usual = invitation(&Config::default(), 1, Path::new("data"));
        assert!(usual.starts_with("Ready: scheduler 127.0.0.1:2379, store 127.0.0.1:20160"));
        assert!(usual.contains(" ctl raw put hello world\n"), "{usual}");
        let moved = shifted(Config::default(), 1).expect("ports have room");
        let moved = invitation(&moved, 1, Path::new("data"));
        assert!(moved.contains(" ctl --scheduler-addr 127.0.0.1:2380 raw get hello\n"), "{moved}");
    }
}
