//! Stores of a cluster of real processes are killed, frozen, parted and started again, again and again, while clients
//! work: nothing acknowledged is lost, every history has an order, and writes go on soon.
//!
//! `make test` runs this for half a minute; `make chaos` for ten, and keeps what it counted in `docs/results/`.

use std::time::Duration;

use skerry_raftstore::time::splitmix64;
use skerry_tests::chaos::{Cluster, Ledger, Load};
use skerry_tests::wait::{Stopwatch, let_pass_async, until_async};
use skerry_tests::{number_from_environment, text_from_environment};

/// How long it goes on when nobody says how long.
const SECONDS: u64 = 30;
/// Clients at work.
const CLIENTS: usize = 8;
/// How soon after its leader has died a region must take writes again, at the default configuration.
const PAUSE_MAX: Duration = Duration::from_secs(3);

/// What is done to a cluster, one thing at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Mishap {
    /// `kill -9` of the store that leads.
    LeaderKilled,
    /// `kill -9` of any store.
    StoreKilled,
    /// `kill -9` of all of them at once.
    AllKilled,
    /// The leader stands still for longer than its lease, and does not know.
    LeaderFrozen,
    /// `kill -9` of the scheduler.
    SchedulerKilled,
    /// Nothing gets through between the leader and the other stores. Clients still reach it.
    LeaderCutOff,
    /// The same in one direction only: the leader is heard and does not hear, or the other way round.
    LeaderHalfCutOff,
    /// Two of the three stores cannot hear each other; the third hears both.
    PairParted,
}

impl Mishap {
    const ALL: [Mishap; 8] = [
        Mishap::LeaderKilled,
        Mishap::StoreKilled,
        Mishap::AllKilled,
        Mishap::LeaderFrozen,
        Mishap::SchedulerKilled,
        Mishap::LeaderCutOff,
        Mishap::LeaderHalfCutOff,
        Mishap::PairParted,
    ];

    /// The one that comes after so many. In turn, so that a short run has them all.
    fn after(number: usize) -> Mishap {
        match number % 12 {
            1 => Mishap::LeaderCutOff,
            2 | 10 => Mishap::LeaderFrozen,
            3 => Mishap::AllKilled,
            4 => Mishap::LeaderHalfCutOff,
            5 => Mishap::SchedulerKilled,
            6 => Mishap::PairParted,
            7 => Mishap::StoreKilled,
            9 => Mishap::LeaderCutOff,
            _ => Mishap::LeaderKilled,
        }
    }
}

/// Does it, and undoes it after a while. Answers when it was done, by the clock of the load.
async fn happen(cluster: &mut Cluster, load: &Load, mishap: Mishap, draw: u64) -> u64 {
    let stores = cluster.stores();
    let any = (draw >> 8) as usize % stores;
    let leader = cluster.leader().await.unwrap_or(any);
    let while_it_lasts = Duration::from_millis(200 + (draw >> 16) % 2_500);
    match mishap {
        Mishap::LeaderKilled => cluster.kill(leader),
        Mishap::StoreKilled => cluster.kill(any),
        Mishap::AllKilled => (0..stores).for_each(|number| cluster.kill(number)),
        Mishap::LeaderFrozen => cluster.freeze(leader),
        Mishap::SchedulerKilled => cluster.kill_scheduler(),
        Mishap::LeaderCutOff | Mishap::LeaderHalfCutOff | Mishap::PairParted => {
            cut_lines(cluster, leader, mishap, draw);
        }
    }
    let moment = load.now();
    let_pass_async(while_it_lasts).await;
    if mishap == Mishap::LeaderFrozen {
        cluster.thaw(leader);
    }
    cluster.mend();
    (0..stores).for_each(|number| cluster.revive(number));
    cluster.revive_scheduler();
    moment
}

/// Cuts what `mishap` says.
fn cut_lines(cluster: &Cluster, leader: usize, mishap: Mishap, draw: u64) {
    let stores = cluster.stores();
    let one_side = (draw >> 40).is_multiple_of(2);
    let of_pair = (leader + 1 + (draw >> 41) as usize % (stores - 1)) % stores;
    for other in (0..stores).filter(|other| *other != leader) {
        let (out, back) = match mishap {
            Mishap::PairParted => (other == of_pair, other == of_pair),
            Mishap::LeaderHalfCutOff => (one_side, !one_side),
            _ => (true, true),
        };
        if out {
            cluster.cut(leader, other);
        }
        if back {
            cluster.cut(other, leader);
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_stores_lose_nothing_and_every_history_has_an_order() {
    let seconds = number_from_environment("CHAOS_SECONDS").unwrap_or(SECONDS);
    let seed = number_from_environment("CHAOS_SEED").unwrap_or(2026);
    let mut cluster = match text_from_environment("CHAOS_NETWORK").is_some() {
        true => Cluster::start_in_network(3, &[]).await.expect("this machine has namespaces"),
        false => Cluster::start_with_lines(3, &[]).await,
    };
    let load = Load::start(cluster.scheduler(), CLIENTS, seed);
    let watch = Stopwatch::start();
    let mut draw = seed;
    let mut happened: Vec<(Mishap, u64)> = Vec::new();
    while watch.elapsed() < Duration::from_secs(seconds) {
        draw = splitmix64(draw);
        let mishap = Mishap::after(happened.len());
        let moment = happen(&mut cluster, &load, mishap, draw).await;
        happened.push((mishap, moment));
        let before = load.acknowledged();
        until_async("clients get on after a mishap", async || {
            (load.acknowledged() > before + 50).then_some(())
        })
        .await;
        cluster.assert_alive();
        let_pass_async(Duration::from_millis((draw >> 32) % 2_000)).await;
    }
    let report = load.stop(cluster.scheduler()).await;
    cluster.until_whole(3).await;
    cluster.stop();
    let mut pauses: Vec<Duration> = happened
        .iter()
        .filter(|(mishap, _)| *mishap == Mishap::LeaderKilled)
        .filter_map(|(_, moment)| report.pause_after(*moment))
        .collect();
    pauses.sort();
    let checked = report.checked;
    for mishap in Mishap::ALL {
        let count = happened.iter().filter(|(other, _)| *other == mishap).count();
        println!("chaos: {mishap:?}: {count} times");
    }
    println!(
        "chaos: {} operations acknowledged, {} unknown, {} refused, on {} keys: every history has an order",
        checked.done, checked.unknown, checked.refused, checked.keys
    );
    println!(
        "chaos: writes resumed after the death of a leader in {:?} (median) to {:?}, of {}",
        pauses.get(pauses.len() / 2).copied().unwrap_or_default(),
        pauses.last().copied().unwrap_or_default(),
        pauses.len()
    );
    assert!(checked.done > 20 * seconds as usize, "too few operations to mean anything");
    assert!(pauses.last().is_none_or(|longest| *longest < PAUSE_MAX), "{pauses:?}");
}

/// What is cut is what the stores speak over: without it a leader is not followed, and another is elected.
async fn assert_succeeded(cluster: Cluster) {
    let mut ledger = Ledger::default();
    ledger.write(&cluster, 0..20, 100).await;
    let former = until_async("a leader is known", async || cluster.leader().await).await;
    cut_lines(&cluster, former, Mishap::LeaderCutOff, 0);
    until_async("another store leads", async || {
        cluster.leader().await.filter(|leader| *leader != former)
    })
    .await;
    ledger.write(&cluster, 10..30, 100).await;
    ledger.assert_kept(&cluster).await;
    cluster.mend();
    until_async("it has what it missed", async || ledger.read_through(&cluster, former).await)
        .await;
    cluster.stop();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_that_is_cut_off_is_succeeded() {
    assert_succeeded(Cluster::start_with_lines(3, &[]).await).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_to_which_no_packet_finds_its_way_is_succeeded() {
    match Cluster::start_in_network(3, &[]).await {
        Ok(cluster) => assert_succeeded(cluster).await,
        Err(reason) => {
            println!("not tried, because this machine has no network namespaces: {reason}")
        }
    }
}
