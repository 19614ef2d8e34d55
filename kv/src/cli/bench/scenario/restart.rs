//! A store is killed and started again on its data: how long until it says that it is ready, and until it takes writes
//! in its regions.

use skerry_raftstore::time::{Clock, SystemClock};

use super::clients::put_everywhere;
use super::{Report, Scene};
use crate::error::Result;

/// Regions that are written to, at most; of more, these are evenly spread.
const PLACES_MAX: u64 = 1_000;

pub(super) async fn play(scene: &mut Scene<'_>, report: &mut Report) -> Result<()> {
    let clock = SystemClock;
    let places = scene.arguments.regions.min(PLACES_MAX);
    put_everywhere(&scene.target, places).await?;
    let (mut ready, mut written) = (Vec::new(), Vec::new());
    for _ in 0..scene.arguments.trials {
        let store = scene.servers.stores().remove(0);
        scene.servers.kill(&store)?;
        let target = scene.target.clone();
        let began = clock.monotonic();
        scene.servers.restart(&store)?;
        let puts = tokio::spawn(async move { put_everywhere(&target, places).await });
        scene.servers.ready().await?;
        ready.push((clock.monotonic() - began).as_secs_f64());
        let joined = puts
            .await
            .map_err(|error| crate::error::Error::Startup(format!("a client failed: {error}")));
        let longest = joined??.into_iter().max().unwrap_or_default();
        written.push(longest.as_secs_f64());
    }
    report.add_trials(&format!("until {places} regions took a write"), written, "s");
    report.add_trials("until it says that it is ready", ready, "s");
    let taken = scene.servers.vitals_of(&scene.servers.stores()[0])?;
    report.add("memory", taken.resident as f64 / f64::from(1 << 20), "MiB");
    Ok(())
}
