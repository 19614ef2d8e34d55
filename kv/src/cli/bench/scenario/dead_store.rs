//! The store that leads most is killed. From that moment a put is tried in every region until it is accepted; the
//! longest of them is the failover. Meanwhile other clients write, for the picture.
//!
//! Between trials the store is started again, and everything is whole before the next.

use std::collections::BTreeMap;

use skerry_raftstore::time::{Clock, SystemClock};

use super::clients::{Background, put_everywhere};
use super::{Report, Scene};
use crate::cli::bench::cluster::Cluster;
use crate::cli::bench::etcd;
use crate::cli::bench::keys::key_at;
use crate::cli::bench::target::System;
use crate::error::{Error, Result};
use crate::metrics::Metrics;
use crate::net::SchedulerClient;

/// More regions than are ever looked at.
const REGIONS_MAX: i32 = 1 << 20;

pub(super) async fn play(scene: &mut Scene<'_>, report: &mut Report) -> Result<()> {
    let (clock, watched) = (SystemClock, scene.watched());
    let (mut all_back, mut half_back, mut worst) = (Vec::new(), Vec::new(), Vec::new());
    for trial in 0..scene.arguments.trials {
        let leader = leading(scene).await?;
        let target = scene.connect().await?;
        let background = Background::start(&target, scene.arguments.clients);
        tokio::time::sleep(watched).await;
        let killed = clock.monotonic();
        scene.servers.kill(&leader)?;
        let mut times = put_everywhere(&target, scene.arguments.regions).await?;
        times.sort();
        let took = |place: usize| times[place].as_secs_f64();
        all_back.push(took(times.len() - 1));
        half_back.push(took(times.len() / 2));
        tokio::time::sleep(watched).await;
        let witness = background.stop().await;
        worst.push(witness.worst_ms(killed, clock.monotonic()));
        if trial == 0 {
            report.rates = witness.rates(killed);
        }
        eprintln!("{leader} killed: all regions took writes after {:.2} s", took(times.len() - 1));
        scene.servers.restart(&leader)?;
        scene.servers.ready().await?;
    }
    report.add_trials("until every region takes writes", all_back, "s");
    report.add_trials("until half of the regions take writes", half_back, "s");
    report.add_trials("longest operation of other clients", worst, "ms");
    Ok(())
}

/// The server that leads most.
async fn leading(scene: &Scene<'_>) -> Result<String> {
    let addresses = scene.servers.addresses();
    if scene.arguments.target == System::Etcd {
        let place = etcd::leader(&addresses).await?;
        return Ok(scene.servers.stores().swap_remove(place));
    }
    let address = leading_store(&addresses, scene.target.own()?).await?.1;
    let here = |name: &String| scene.servers.address(name).is_ok_and(|it| it == address);
    let found = scene.servers.stores().into_iter().find(here);
    found.ok_or_else(|| Error::Startup(format!("the store at {address} was not started here")))
}

/// The store that leads most of the regions in which clients write: its number and its address.
pub(super) async fn leading_store(
    schedulers: &[String],
    cluster: &Cluster,
) -> Result<(u64, String)> {
    let (first, last) = (cluster.boundary(&key_at(0.0)), cluster.boundary(&key_at(1.0)));
    let is_written = |region: &skerry_proto::metapb::Region| {
        region.start_key <= last && (region.end_key.is_empty() || region.end_key > first)
    };
    let scheduler = SchedulerClient::new(schedulers, Metrics::new())?;
    scheduler.expect_cluster(scheduler.cluster_id().await?);
    let mut led: BTreeMap<u64, u64> = BTreeMap::new();
    for region in scheduler.regions(b"", REGIONS_MAX).await? {
        if !region.region.as_ref().is_some_and(is_written) {
            continue;
        }
        let leader = region.leader.map_or(0, |leader| leader.store_id);
        *led.entry(leader).or_default() += 1;
    }
    let most = led.into_iter().filter(|(store, _)| *store != 0).max_by_key(|(_, count)| *count);
    let (leader, _) = most.ok_or_else(|| Error::Startup("no store leads anything".to_string()))?;
    let store = scheduler.stores().await?.into_iter().find(|store| store.id == leader);
    let address = store.map(|store| store.address).unwrap_or_default();
    Ok((leader, address))
}
