//! Cuts an own cluster into regions of which every one holds as many of the benchmark's keys, before it is measured.

use std::time::Duration;

use serde_json::json;
use skerry_raftstore::time::{Clock, SystemClock};

use super::super::http::Http;
use super::cluster::Cluster;
use super::keys::key_at;
use super::servers::is_whole;
use crate::error::{Error, Result};

/// Keys of one request to the scheduler.
const CUTS_MAX: usize = 500;
/// Between two looks.
const PAUSE: Duration = Duration::from_millis(100);
/// How long a cluster may take until every region has its replicas and a leader.
const TIME_MAX: Duration = Duration::from_secs(300);

/// Cuts at `count - 1` keys, and waits until every region has its `replicas` and a leader.
pub(super) async fn cut(
    schedulers: &[String],
    cluster: &Cluster,
    count: u64,
    replicas: usize,
) -> Result<()> {
    let clock = SystemClock;
    let began = clock.monotonic();
    let http = Http::new(schedulers.to_vec());
    let hexadecimal =
        |key: Vec<u8>| -> String { key.iter().map(|byte| format!("{byte:02X}")).collect() };
    let cuts = (1..count).map(|number| key_at(number as f64 / count as f64));
    let cuts: Vec<String> = cuts.map(|key| hexadecimal(cluster.boundary(&key))).collect();
    for part in cuts.chunks(CUTS_MAX) {
        loop {
            let body = json!({ "split_keys": part, "retry_limit": 100 });
            let done = http.post("/regions/split", &body).await?;
            if done["processed-percentage"].as_u64() == Some(100) {
                break;
            }
            late(clock.monotonic() - began, &format!("not all regions are cut: {done}"))?;
        }
    }
    loop {
        let Err(missing) = is_whole(schedulers, replicas).await else { break };
        late(clock.monotonic() - began, &missing.to_string())?;
        tokio::time::sleep(PAUSE).await;
    }
    let took = (clock.monotonic() - began).as_secs_f64();
    eprintln!("cut into {count} regions in {took:.1} s");
    Ok(())
}

fn late(passed: Duration, missing: &str) -> Result<()> {
    match passed < TIME_MAX {
        true => Ok(()),
        false => Err(Error::Startup(format!("after {} s {missing}", TIME_MAX.as_secs()))),
    }
}
