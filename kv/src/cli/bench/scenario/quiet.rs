//! What servers cost while nobody asks for anything; and how many timestamps they give while everybody does.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use skerry_raftstore::time::{Clock, SystemClock};
use tokio::task::JoinSet;

use super::{Report, Scene};
use crate::error::Result;

/// Servers are watched once they have written nothing for as long: until then leaders and replicas are on their way.
const SETTLE: Duration = Duration::from_secs(5);
/// How often that is awaited.
const SETTLE_MAX: usize = 36;
/// Connections of the clients that want timestamps.
const CONNECTIONS: usize = 4;

pub(super) async fn idle(scene: &mut Scene<'_>, report: &mut Report) -> Result<()> {
    let watched = scene.watched();
    for _ in 0..SETTLE_MAX {
        let before = scene.servers.vitals();
        tokio::time::sleep(SETTLE).await;
        if scene.servers.vitals().since(&before).written == 0 {
            break;
        }
    }
    let before = scene.servers.vitals();
    tokio::time::sleep(watched).await;
    let taken = scene.servers.vitals().since(&before);
    let cpu = 100.0 * taken.cpu / watched.as_secs_f64();
    report.add("processor, all servers", cpu, "% of a core");
    report.add("memory, all servers", taken.resident as f64 / f64::from(1 << 20), "MiB");
    report.add("written to disks", taken.written as f64 / watched.as_secs_f64(), "B/s");
    Ok(())
}

/// Clients that each want one timestamp after the other; what is wanted at the same time travels together.
pub(super) async fn timestamps(scene: &mut Scene<'_>, report: &mut Report) -> Result<()> {
    let (clock, watched) = (SystemClock, scene.watched());
    let mut lines = Vec::new();
    for _ in 0..CONNECTIONS {
        lines.push(scene.connect().await?);
    }
    let (is_over, given) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let mut clients = JoinSet::new();
    let before = scene.servers.vitals();
    let began = clock.monotonic();
    for number in 0..usize::from(scene.arguments.clients) {
        let line = lines[number % CONNECTIONS].clone();
        let (is_over, given) = (is_over.clone(), given.clone());
        clients.spawn(async move {
            while !is_over.load(Ordering::Relaxed) {
                line.own()?.timestamp().await?;
                given.fetch_add(1, Ordering::Relaxed);
            }
            Result::Ok(())
        });
    }
    tokio::time::sleep(watched).await;
    let (count, took) = (given.load(Ordering::Relaxed), clock.monotonic() - began);
    let taken = scene.servers.vitals().since(&before);
    is_over.store(true, Ordering::Relaxed);
    while let Some(ended) = clients.join_next().await {
        ended
            .map_err(|error| crate::error::Error::Startup(format!("a client failed: {error}")))??;
    }
    report.add("timestamps", count as f64 / took.as_secs_f64(), "/s");
    report.add("processor of the servers", taken.cpu * 1e6 / count.max(1) as f64, "us each");
    Ok(())
}
