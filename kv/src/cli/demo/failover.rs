//! `skerry demo failover`: the store that leads most is killed while clients write.
//!
//! 1. Some stores start, with four regions for each, and clients write all over them.
//! 2. The store that leads most is killed. Its regions elect other leaders; clients find those and go on. How long the
//!    unluckiest write had to wait is measured.
//! 3. The store is started again and catches up.
//! 4. Everything that was ever acknowledged is read back: lost: 0.

use std::time::Duration;

use super::balance::{begin, is_whole};
use super::crowd::Habit;
use super::director::{Director, Stop};
use super::picture::{Picture, Store};

/// A store that is silent is soon shown as disconnected; its replicas are waited for.
pub(super) const CONFIG: &str = "
[scheduler]
store-disconnected-ms = 1000
";

const REGIONS_PER_STORE: usize = 4;

const HABIT: Habit =
    Habit { clients: 16, keys: 100, value_size: 256, pause: Duration::from_millis(20) };

/// Writing before the kill, and after.
const WRITING: Duration = Duration::from_secs(3);

pub(super) async fn play(director: &mut Director, stores: u16) -> Result<String, Stop> {
    let stores = usize::from(stores);
    begin(director, stores, REGIONS_PER_STORE * stores).await?;
    director.act("clients write to all regions");
    director.admit(HABIT).await?;
    director.until(|_, count| count.acknowledged > 0).await?;
    director.mark();
    director.pass(WRITING).await?;
    let calm = director.count();

    let victim = leads_most(director.picture(), director.seed());
    let led = director.picture().leaders(victim.id);
    director.act(format!(
        "store {}, which leads {led} regions, is killed; the others elect new leaders",
        victim.id
    ));
    director.mark();
    director.stage().kill(&victim.address);
    let electing = director
        .until(|picture, _| picture.leaders(victim.id) == 0 && picture.up().count() < stores)
        .await?;
    director.act("clients have found the new leaders and go on");
    director.pass(WRITING).await?;
    let gap = director.count();

    director.act(format!("store {} is started again and catches up", victim.id));
    director.stage().revive(&victim.address)?;
    let catching_up =
        director.until(|picture, _| picture.up().count() == stores && is_whole(picture)).await?;
    director.act("every pair that was acknowledged is read back");
    let check = director.dismiss().await?;
    director.act("the writing has stopped; the scheduler spreads the leaders again");
    director.until_quiet(is_whole).await?;

    director.note("killed_store", victim.id);
    director.note("regions_led_by_killed", led);
    director.note("longest_wait_before_ms", milliseconds(calm.longest));
    director.note("gap_ms", milliseconds(gap.longest));
    director.note("acknowledged_before", calm.acknowledged);
    director.note("acknowledged_after", director.count().acknowledged - calm.acknowledged);
    director.note("catching_up_seconds", catching_up.as_secs_f64());
    Ok(format!(
        "{} writes were acknowledged before store {} was killed, {} after. The unluckiest waited {} ms (before: \
         {} ms); the scheduler saw new leaders of all {led} regions after {:.1} s. {} keys read back, lost: {}",
        calm.acknowledged,
        victim.id,
        director.count().acknowledged - calm.acknowledged,
        milliseconds(gap.longest),
        milliseconds(calm.longest),
        electing.as_secs_f64(),
        check.keys,
        check.lost
    ))
}

/// Of several, the seed chooses.
fn leads_most(picture: &Picture, seed: u64) -> Store {
    let most = picture.stores.iter().map(|store| picture.leaders(store.id)).max().unwrap_or(0);
    let mut candidates: Vec<_> =
        picture.stores.iter().filter(|store| picture.leaders(store.id) == most).collect();
    let place = seed as usize % candidates.len();
    candidates.swap_remove(place).clone()
}

fn milliseconds(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}
