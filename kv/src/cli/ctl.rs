//! `skerry ctl`: asks and changes a running cluster, as a client would.
//!
//! On a cluster of API version 2 raw commands work in the keyspace DEFAULT: its prefix is added to keys and
//! taken off again. Keys and values are text; bytes that no terminal shows are written as `\xNN`, in both
//! directions. With `--json` every command prints one JSON value.
//!
//! Pairs, regions and timestamps are asked for as client libraries do, over gRPC; what only people want ([`store`],
//! [`operator`], [`balancer`], [`gc`]), over the JSON interface of the same port ([`super::http`]).

use clap::{Args, Subcommand};
use serde_json::{Value, json};
use skerry_proto::types::Ts;

use super::http::{self, Http};
use super::say;
use super::text::{escape, table, unescape};
use crate::error::{Error, Result};
use crate::metrics::Metrics;
use crate::net::SchedulerClient;

mod balancer;
mod gc;
mod operator;
mod raw;
mod store;

/// Where a scheduler is when nobody says otherwise.
pub(super) const DEFAULT_SCHEDULER: &str = "127.0.0.1:2379";

/// More regions than a list for people has any use for.
const REGIONS_MAX: i32 = 100_000;

#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// The schedulers, separated by commas
    #[arg(long, global = true, default_value = DEFAULT_SCHEDULER, value_name = "HOST:PORT,...")]
    scheduler_addr: String,
    /// Print JSON instead of text
    #[arg(long, global = true)]
    json: bool,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Pairs without transactions
    #[command(subcommand)]
    Raw(raw::Command),
    /// Stores
    #[command(subcommand)]
    Store(store::Command),
    /// Regions
    #[command(subcommand)]
    Region(List),
    /// What is done about regions, by itself or by hand
    #[command(subcommand)]
    Operator(operator::Command),
    /// Balancers
    #[command(subcommand)]
    Scheduler(balancer::Command),
    /// How placement works
    #[command(subcommand)]
    Config(balancer::Settings),
    /// Garbage collection: old versions of what transactions wrote
    #[command(subcommand)]
    Gc(gc::Command),
    /// Say whether all is well
    Health,
    /// Print a timestamp of the cluster
    Tso,
}

#[derive(Debug, Subcommand)]
enum List {
    /// List all of them
    List,
}

/// What a command answers, in both forms; which one is printed is decided in one place.
struct Answer {
    text: String,
    json: Value,
}

pub(super) fn run(arguments: Arguments) -> Result<()> {
    let addresses: Vec<String> =
        arguments.scheduler_addr.split(',').map(|address| address.trim().to_string()).collect();
    let runtime = super::runtime(1)?;
    let is_json = arguments.json;
    let answer = runtime.block_on(async {
        let http = Http::new(addresses.clone());
        match arguments.command {
            Command::Store(command) => store::run(command, &http, is_json).await,
            Command::Operator(command) => operator::run(command, &http).await,
            Command::Scheduler(command) => balancer::run(command, &http).await,
            Command::Config(command) => balancer::settings(command, &http).await,
            Command::Gc(command) => gc::run(command, &http).await,
            Command::Health => balancer::health(&http).await,
            Command::Raw(command) => raw::run(command, &connected(&addresses).await?).await,
            Command::Region(List::List) => regions(&connected(&addresses).await?).await,
            Command::Tso => timestamp(&connected(&addresses).await?).await,
        }
    })?;
    say(&if arguments.json { format!("{}\n", answer.json) } else { answer.text });
    Ok(())
}

async fn connected(addresses: &[String]) -> Result<SchedulerClient> {
    let scheduler = SchedulerClient::new(addresses, Metrics::new())?;
    scheduler.expect_cluster(scheduler.cluster_id().await?);
    Ok(scheduler)
}

/// What the scheduler says about something it has done.
fn said(answer: Value) -> Answer {
    Answer { text: shown(&answer) + "\n", json: answer }
}

/// A value in a table: text without its quotes, nothing for what is not there.
fn shown(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

fn titled(heading: &[&str]) -> Vec<String> {
    heading.iter().map(ToString::to_string).collect()
}

async fn regions(scheduler: &SchedulerClient) -> Result<Answer> {
    let regions = scheduler.regions(b"", REGIONS_MAX).await?;
    let heading = ["id", "start", "end", "epoch", "leader", "stores"].map(String::from).to_vec();
    let mut rows = vec![heading];
    let mut list = Vec::new();
    for found in &regions {
        let Some(region) = &found.region else { continue };
        let epoch = region.epoch();
        let leader = found.leader.map_or(0, |leader| leader.store_id);
        let stores: Vec<u64> = region.peers.iter().map(|peer| peer.store_id).collect();
        let bound = |key: &[u8], open: &str| match key {
            [] => open.to_string(),
            key => escape(key),
        };
        rows.push(vec![
            region.id.to_string(),
            bound(&region.start_key, "(first)"),
            bound(&region.end_key, "(last)"),
            format!("{}.{}", epoch.conf_ver, epoch.version),
            if leader == 0 { "none".to_string() } else { format!("store {leader}") },
            stores.iter().map(u64::to_string).collect::<Vec<_>>().join(","),
        ]);
        list.push(json!({
            "id": region.id,
            "start_key": escape(&region.start_key),
            "end_key": escape(&region.end_key),
            "conf_ver": epoch.conf_ver,
            "version": epoch.version,
            "leader_store": leader,
            "stores": stores,
        }));
    }
    Ok(Answer { text: table(&rows), json: Value::from(list) })
}

async fn timestamp(scheduler: &SchedulerClient) -> Result<Answer> {
    let timestamp = scheduler.timestamp().await?;
    let (Ok(physical), Ok(logical)) =
        (u64::try_from(timestamp.physical), u64::try_from(timestamp.logical))
    else {
        return Err(Error::Startup("the scheduler answered a timestamp before 1970".to_string()));
    };
    let ts = Ts::compose(physical, logical).get();
    Ok(Answer {
        text: format!("{ts}\nphysical {physical} ms, logical {logical}\n"),
        json: json!({ "ts": ts, "physical_ms": physical, "logical": logical }),
    })
}
