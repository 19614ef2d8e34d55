//! `skerry demo split`: clients write ever new keys, and few regions become many.
//!
//! 1. A scheduler and some stores start: one region, and a second for keys that nobody uses, with replicas on three of
//!    them.
//! 2. Clients write. A region that has grown beyond its size is cut in two by its leader, which asks the scheduler for
//!    ids; the scheduler spreads the parts and their leaders.
//! 3. When there are eight regions for every store the clients stop, the scheduler comes to rest, and every pair that
//!    was acknowledged is read back.

use std::time::Duration;

use super::REPLICAS;
use super::crowd::Habit;
use super::director::{Director, Stop};
use super::picture::Picture;

/// Regions are cut at a two-hundredth of their usual size.
pub(super) const CONFIG: &str = r#"
[raftstore]
split-check-size = "64KiB"
split-size = "320KiB"
region-size-max = "448KiB"
"#;

/// Regions for every store, and then it has been seen.
const REGIONS_PER_STORE: usize = 8;

const HABIT: Habit =
    Habit { clients: 8, keys: u64::MAX, value_size: 6 << 10, pause: Duration::from_millis(12) };

pub(super) async fn play(director: &mut Director, stores: u16) -> Result<String, Stop> {
    let stores = usize::from(stores);
    director.act(format!("a scheduler and {stores} stores start, with a region or two"));
    director
        .until(|picture, _| {
            picture.up().count() == stores
                && !picture.regions.is_empty()
                && picture.whole(REPLICAS) == picture.regions.len()
        })
        .await?;
    let first = director.picture().regions.len();

    let wanted = REGIONS_PER_STORE * stores;
    director.act("clients write; a region that has grown beyond 448 KiB is cut in two");
    director.admit(HABIT).await?;
    let took = director.until(|picture, _| picture.regions.len() >= wanted).await?;

    director.act("every pair that was acknowledged is read back");
    let check = director.dismiss().await?;
    director.act("the writing has stopped; the scheduler spreads what there is");
    director.until_quiet(|picture| picture.whole(REPLICAS) == picture.regions.len()).await?;

    let regions = director.picture().regions.len();
    director.note("regions_at_first", first);
    director.note("regions", regions);
    director.note("splitting_seconds", took.as_secs_f64());
    Ok(format!(
        "{first} regions became {regions} in {:.1} s of writing; leaders stand {} (stores lead {}). \
         {} keys read back, lost: {}",
        took.as_secs_f64(),
        evenly(director.picture()),
        numbers(director.picture()),
        check.keys,
        check.lost
    ))
}

fn evenly(picture: &Picture) -> &'static str {
    if picture.unevenness(Picture::leaders) <= 2 { "evenly" } else { "unevenly" }
}

fn numbers(picture: &Picture) -> String {
    let leaders = picture.stores.iter().map(|store| picture.leaders(store.id).to_string());
    leaders.collect::<Vec<_>>().join(", ")
}
