//! `skerry demo balance`: a store joins, another one dies, and regions flow.
//!
//! 1. Some stores start, with twelve regions for each. A few clients write all the time.
//! 2. One more store joins: the scheduler moves replicas to it until all hold alike.
//! 3. A store is killed, chosen by the seed. After four seconds of silence it counts as down: what it held is made anew
//!    from the other replicas, on stores that live.

use std::time::Duration;

use serde_json::json;
use skerry_raftstore::time::splitmix64;

use super::REPLICAS;
use super::crowd::Habit;
use super::director::{Director, Stop};
use super::picture::{Picture, Region};
use crate::error::Error;

/// Stores are given up sooner than anybody would in earnest, and replicas move so few at a time that one can see it.
pub(super) const CONFIG: &str = "
[scheduler]
store-disconnected-ms = 2000
store-down-ms = 4000
region-schedule-limit = 2
replica-schedule-limit = 2
leader-schedule-limit = 2
";

const REGIONS_PER_STORE: usize = 12;

const HABIT: Habit =
    Habit { clients: 4, keys: 200, value_size: 1 << 10, pause: Duration::from_millis(25) };

pub(super) async fn play(director: &mut Director, stores: u16) -> Result<String, Stop> {
    let stores = usize::from(stores);
    begin(director, stores, REGIONS_PER_STORE * stores).await?;
    director.admit(HABIT).await?;

    let before = director.picture().clone();
    let newcomer = director.stage().add_store()?;
    director.act(format!("a store joins at {newcomer}: replicas move to it until all hold alike"));
    let joined = |picture: &Picture| picture.up().count() == stores + 1;
    let filling = director
        .until_quiet(|picture| {
            joined(picture) && is_whole(picture) && picture.unevenness(Picture::replicas) <= 3
        })
        .await?;
    let moved = replicas_new(&before, director.picture());

    let before = director.picture().clone();
    let place = splitmix64(director.seed()) as usize % before.stores.len();
    let victim = before.stores[place].clone();
    let held = before.replicas(victim.id);
    director.act(format!(
        "store {} is killed; after 4 s of silence its {held} replicas are made anew elsewhere",
        victim.id
    ));
    director.stage().kill(&victim.address);
    let healing = director
        .until_quiet(|picture| {
            let is_left = picture.replicas(victim.id) > 0;
            !is_left && picture.up().count() == stores && is_whole(picture)
        })
        .await?;
    let renewed = replicas_new(&before, director.picture());

    director.act("every pair that was acknowledged is read back");
    let check = director.dismiss().await?;
    director.until_quiet(is_whole).await?;
    let regions = director.picture().regions.len();
    director.note("regions", regions);
    director.note("moved_to_newcomer", moved);
    director.note("filling_seconds", filling.as_secs_f64());
    director.note("killed_store", victim.id);
    director.note("held_by_killed", held);
    director.note("healing_seconds", healing.as_secs_f64());
    Ok(format!(
        "A store joined: {moved} replicas of {regions} regions were moved in {:.1} s. \
         Store {} was killed: {renewed} replicas were made anew in {:.1} s, 4 s of patience with it. \
         {} keys read back, lost: {}",
        filling.as_secs_f64(),
        victim.id,
        healing.as_secs_f64(),
        check.keys,
        check.lost
    ))
}

/// Starts, cuts the keys into so many regions, and waits until they stand evenly.
pub(super) async fn begin(
    director: &mut Director,
    stores: usize,
    regions: usize,
) -> Result<(), Stop> {
    director.act(format!("a scheduler and {stores} stores start, with a region or two"));
    director.until(|picture, _| picture.up().count() == stores && is_whole(picture)).await?;
    director.act(format!("the keys are cut into {regions} regions, and these are spread"));
    // Clients write keys of hexadecimal digits: equal steps through those.
    let cut = |number: usize| {
        let digits = format!("{:04x}", number * 0x1_0000 / regions);
        digits.bytes().map(|byte| format!("{byte:02X}")).collect::<String>()
    };
    let cuts: Vec<String> = (1..regions).map(cut).collect();
    let done =
        director.ask("/regions/split", &json!({ "split_keys": cuts, "retry_limit": 10 })).await?;
    if done["processed-percentage"] != 100 {
        return Err(Stop::Failed(Error::Startup(format!("the region was not cut: {done}"))));
    }
    director
        .until_quiet(|picture| {
            picture.regions.len() >= regions
                && is_whole(picture)
                && picture.unevenness(Picture::replicas) <= 3
        })
        .await?;
    Ok(())
}

/// Whether every region has all its replicas.
pub(super) fn is_whole(picture: &Picture) -> bool {
    !picture.regions.is_empty() && picture.whole(REPLICAS) == picture.regions.len()
}

/// Replicas on stores where their regions had none before.
fn replicas_new(before: &Picture, after: &Picture) -> usize {
    let known = |region: &Region, store: u64| {
        let former = before.regions.iter().find(|it| it.id == region.id);
        former.is_some_and(|former| former.replica(store).is_some())
    };
    let new = |region: &Region| {
        region.replicas.iter().filter(|replica| !known(region, replica.store)).count()
    };
    after.regions.iter().map(new).sum()
}
