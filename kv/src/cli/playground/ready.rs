//! Waits until a playground is what was asked for: every region has its replicas and a leader.
//!
//! The scheduler is asked what it knows, again and again. If it takes longer than a person expects, a line on stderr
//! says what is missing, and why if it is the disk: a store that is nearly full is given no replicas.

use std::path::Path;
use std::time::Duration;

use skerry_proto::metapb::PeerRole;
use skerry_proto::pdpb;
use skerry_scheduler::filter::is_nearly_full;
use slog::Logger;

use crate::config::Config;
use crate::error::Result;
use crate::metrics::Metrics;
use crate::net::SchedulerClient;
use crate::storage::ApiVersion;

/// Between two questions.
const PAUSE: Duration = Duration::from_millis(20);
/// Questions between two lines on stderr: one every five seconds.
const QUESTIONS_PER_LINE: u32 = 250;
/// More regions than a playground will have.
const REGIONS_MAX: i32 = 1 << 20;

/// Returns when every region has a leader and as many replicas as are wanted and as there are `stores` for. They
/// keep their files in `data`.
pub(super) async fn until_ready(
    config: &Config,
    stores: usize,
    data: &Path,
    logger: &Logger,
) -> Result<()> {
    let replicas = stores.min(config.scheduler.replicas_max as usize);
    let scheduler = SchedulerClient::new(&config.server.schedulers(), Metrics::new())?;
    let cluster_id = scheduler.patiently(logger, || scheduler.cluster_id()).await?;
    scheduler.expect_cluster(cluster_id);
    let version = ApiVersion::from_number(config.storage.api_version).unwrap_or_default();
    let mut questions = 0;
    loop {
        let regions = scheduler.patiently(logger, || scheduler.regions(b"", REGIONS_MAX)).await;
        let missing = match regions {
            Ok(regions) => missing(&regions, version, replicas),
            // It has no region yet.
            Err(failure) => Some(failure.to_string()),
        };
        let Some(missing) = missing else { return Ok(()) };
        questions += 1;
        if questions % QUESTIONS_PER_LINE == 0 {
            eprintln!("skerry: waiting, {missing}{}", full_disk(data).unwrap_or_default());
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// What is still missing, in words.
fn missing(regions: &[pdpb::Region], version: ApiVersion, replicas: usize) -> Option<String> {
    let (count, wanted) = (regions.len(), version.region_count());
    if count < wanted {
        return Some(format!("{count} of {wanted} regions are there"));
    }
    let is_led = |region: &&pdpb::Region| region.leader.is_some_and(|leader| leader.id != 0);
    let led = regions.iter().filter(is_led).count();
    let whole = regions.iter().filter(|region| has_replicas(region, replicas)).count();
    (led < count || whole < count).then(|| {
        format!("of {count} regions {led} have a leader and {whole} their {replicas} replicas")
    })
}

/// Why replicas may be missing, in words, if the disk is nearly full.
fn full_disk(data: &Path) -> Option<String> {
    let disk = rustix::fs::statvfs(data).ok()?;
    let bytes = |blocks: u64| blocks.saturating_mul(disk.f_frsize);
    let (capacity, free) = (bytes(disk.f_blocks), bytes(disk.f_bavail));
    is_nearly_full(capacity, free).then(|| {
        format!(
            "; the disk of {} is nearly full ({} MiB are free), and such a store is given no replicas: make room, or \
             name another place with --data-dir",
            data.display(),
            free >> 20,
        )
    })
}

fn has_replicas(region: &pdpb::Region, replicas: usize) -> bool {
    let peers = region.region.iter().flat_map(|region| &region.peers);
    let voters = peers.filter(|peer| peer.role() == PeerRole::Voter).count();
    voters >= replicas && region.pending_peers.is_empty()
}
