//! What clients feel when regions change under them: leaders that go away, a region that is cut, once or into many. All
//! beside the longest operation of an equally long while in which nothing happened.

use std::time::Duration;

use serde_json::json;
use skerry_raftstore::time::{Clock, SystemClock};

use super::clients::Background;
use super::dead_store::leading_store;
use super::{Report, Scene};
use crate::cli::bench::keys::key_at;
use crate::cli::bench::regions;
use crate::cli::http::Http;
use crate::error::{Error, Result};

/// How long after a cut its effects are looked for.
const AFTER_CUT: Duration = Duration::from_millis(500);
/// Between two looks.
const PAUSE: Duration = Duration::from_millis(10);
/// Cuts for each trial: one shows nothing of how often it goes badly.
const CUTS: u32 = 10;
/// How long leaders may take to go.
const LEAVE_TIME_MAX: Duration = Duration::from_secs(60);

/// A store is asked to lead nothing, as before it is stopped for maintenance.
pub(super) async fn evict(scene: &mut Scene<'_>, report: &mut Report) -> Result<()> {
    let (clock, watched) = (SystemClock, scene.watched());
    let schedulers = scene.servers.addresses();
    let http = Http::new(schedulers.clone());
    let (mut gone, mut worst, mut usual, mut failed) = (vec![], vec![], vec![], 0);
    for _ in 0..scene.arguments.trials {
        let (store, _) = leading_store(&schedulers, scene.target.own()?).await?;
        let background = Background::start(&scene.target, scene.arguments.clients);
        tokio::time::sleep(watched).await;
        let began = clock.monotonic();
        let body = json!({ "name": "evict-leader-scheduler", "store_id": store });
        http.post("/schedulers", &body).await?;
        while leads(&http, store).await? {
            if clock.monotonic() - began > LEAVE_TIME_MAX {
                return Err(Error::Startup(format!("store {store} does not give up its leaders")));
            }
            tokio::time::sleep(PAUSE).await;
        }
        gone.push((clock.monotonic() - began).as_secs_f64());
        tokio::time::sleep(watched).await;
        let witness = background.stop().await;
        worst.push(witness.worst_ms(began, clock.monotonic()));
        usual.push(witness.worst_ms(began.saturating_sub(watched), began));
        failed += witness.failed();
        if report.rates.is_empty() {
            report.rates = witness.rates(began);
        }
        http.delete(&format!("/schedulers/evict-leader-scheduler-{store}")).await?;
    }
    report.add_trials("longest operation", worst, "ms");
    report.add_trials("longest operation before", usual, "ms");
    report.add("failed operations", failed as f64, "");
    report.add_trials("until the store leads nothing", gone, "s");
    Ok(())
}

async fn leads(http: &Http, store: u64) -> Result<bool> {
    let regions = http.get("/regions").await?;
    let mut all = regions["regions"].as_array().into_iter().flatten();
    Ok(all.any(|region| region["leader"]["store_id"].as_u64() == Some(store)))
}

/// Regions that all write to are cut, one after the other.
pub(super) async fn split(scene: &mut Scene<'_>, report: &mut Report) -> Result<()> {
    let (clock, watched) = (SystemClock, scene.watched());
    let http = Http::new(scene.servers.addresses());
    let cluster = scene.target.own()?;
    let background = Background::start(&scene.target, scene.arguments.clients);
    tokio::time::sleep(watched).await;
    let mut cuts = Vec::new();
    let count = CUTS * scene.arguments.trials;
    for number in 1..=count {
        // Never twice at the same place, and mostly in large regions.
        let place = (f64::from(number) * 0.618_034).fract();
        let key: String =
            cluster.boundary(&key_at(place)).iter().map(|byte| format!("{byte:02X}")).collect();
        cuts.push(clock.monotonic());
        http.post("/regions/split", &json!({ "split_keys": [key], "retry_limit": 100 })).await?;
        tokio::time::sleep(AFTER_CUT).await;
    }
    let witness = background.stop().await;
    let around: Vec<_> = cuts.iter().map(|cut| (*cut, *cut + AFTER_CUT)).collect();
    let worst = around.iter().map(|(from, to)| witness.worst_ms(*from, *to)).collect();
    let before = cuts[0].saturating_sub(watched);
    let looks = (watched.as_nanos() / AFTER_CUT.as_nanos()) as u32;
    let usual = (0..looks).map(|look| before + AFTER_CUT * look);
    let usual: Vec<_> = usual.map(|from| (from, from + AFTER_CUT)).collect();
    let usual_of_keys = witness.worst_of_keys_ms(&usual);
    let usual = usual.into_iter().map(|(from, to)| witness.worst_ms(from, to)).collect();
    report.rates = witness.rates(cuts[0]);
    let of_keys = witness.worst_of_keys_ms(&around);
    report.add("longest operation of a key around a cut, p99 of keys", of_keys, "ms");
    report.add_trials("longest operation around a cut", worst, "ms");
    report.add("longest operation of a key before, p99 of keys", usual_of_keys, "ms");
    report.add_trials("longest operation of as long a while before", usual, "ms");
    report.add("failed operations", witness.failed() as f64, "");
    Ok(())
}

/// One region that all write to is cut into many at once; until each of them has its replicas and a leader.
pub(super) async fn cut(scene: &mut Scene<'_>, report: &mut Report) -> Result<()> {
    let (clock, watched) = (SystemClock, scene.watched());
    let (schedulers, count) = (scene.servers.addresses(), scene.arguments.regions);
    let replicas = scene.servers.stores().len().min(3);
    let background = Background::start(&scene.target, scene.arguments.clients);
    tokio::time::sleep(watched).await;
    let began = clock.monotonic();
    regions::cut(&schedulers, scene.target.own()?, count, replicas).await?;
    let ended = clock.monotonic();
    tokio::time::sleep(watched).await;
    let witness = background.stop().await;
    report.rates = witness.rates(began);
    let took = (ended - began).as_secs_f64();
    report.add(format!("until one region is {count}, which serve"), took, "s");
    report.add("longest operation meanwhile", witness.worst_ms(began, ended), "ms");
    let before = witness.worst_ms(began.saturating_sub(watched), began);
    report.add("longest operation before", before, "ms");
    report.add("failed operations", witness.failed() as f64, "");
    Ok(())
}
