//! Project 2C in stores: logs are cut, and who was away gets a snapshot.

use skerry_raftstore::config::RaftConfig;
use skerry_raftstore::engine::ColumnFamily;
use skerry_raftstore::planted::Planted;
use skerry_tests::lab::looks::SOON;
use skerry_tests::lab::{Lab, Setup, run};
use skerry_tests::sim::trace::MILLISECOND;

use super::generic::Generic;

/// Entries after which logs are cut, as in the course.
const LOG_MAX: u64 = 100;

/// What all tests of this project have.
fn generic() -> Generic {
    Generic { clients: 5, log_max: LOG_MAX, ..Generic::default() }
}

/// The pairs of this test lie in the locks, as in the course.
const LOCK: ColumnFamily = ColumnFamily::Lock;

async fn must_be(lab: &Lab, store: usize, key: &str, value: Option<&str>) {
    let what = format!("store {store} has {key}={value:?}");
    let value = value.map(str::as_bytes);
    lab.until(&what, SOON, |lab| lab.value_in(store, LOCK, key).as_deref() == value).await;
}

#[test]
fn test_one_snapshot_2c() {
    let mut setup = Setup::of(3);
    setup.config = RaftConfig { log_gc_threshold: 10, log_gc_count_max: 10, ..setup.config };
    let summaries = run(&setup, async |lab| {
        let region = lab.region_of(b"").await.id;
        for (key, value) in [("k1", "v1"), ("k2", "v2")] {
            lab.put_in(LOCK, key, value).await;
            for store in 1..=3 {
                must_be(&lab, store, key, Some(value)).await;
            }
        }
        for store in 1..=3 {
            let (_, truncated) = lab.applied_and_truncated(store, region).expect("it is here");
            assert_eq!(truncated, 5, "nothing is cut yet on store {store}");
        }
        lab.separate(&[1]);
        for number in 100..115 {
            lab.put_in(LOCK, format!("k{number}"), format!("v{number}")).await;
        }
        lab.delete_in(LOCK, "k2").await;
        lab.pause(500 * MILLISECOND).await;
        assert_eq!(lab.value_in(1, LOCK, "k100"), None, "store 1 is cut off");
        let (_, before) = lab.applied_and_truncated(1, region).expect("it is here");
        lab.until("the others have cut what store 1 misses", SOON, |lab| {
            let truncated = |store| lab.applied_and_truncated(store, region).expect("it is here").1;
            [2, 3].into_iter().all(|store| truncated(store) > before + 10)
        })
        .await;
        lab.reunite();
        must_be(&lab, 1, "k1", Some("v1")).await;
        must_be(&lab, 1, "k100", Some("v100")).await;
        must_be(&lab, 1, "k2", None).await;
        lab.until("the snapshot is taken in", SOON, |lab| {
            lab.status(1, region).is_some_and(|status| !status.is_installing)
        })
        .await;

        lab.power_off(1);
        lab.power_on(1);
        for (key, value) in [("k1", Some("v1")), ("k100", Some("v100")), ("k2", None)] {
            must_be(&lab, 1, key, value).await;
        }
        lab.put_in(LOCK, "k3", "v3").await;
        must_be(&lab, 1, "k3", Some("v3")).await;
        lab.until("logs are short", SOON, |lab| lab.longest_log() <= 20).await;
    });
    for summary in summaries {
        assert!(summary.counts["snapshot install"] >= 1, "{:?}", summary.counts);
    }
}

#[test]
fn test_snapshot_recover_2c() {
    Generic { clients: 1, crash: true, ..generic() }.run();
}

#[test]
fn test_snapshot_recover_many_clients_2c() {
    Generic { clients: 20, crash: true, ..generic() }.run();
}

#[test]
fn test_snapshot_unreliable_2c() {
    Generic { unreliable: true, ..generic() }.run();
}

#[test]
fn test_snapshot_unreliable_recover_2c() {
    Generic { unreliable: true, crash: true, ..generic() }.run();
}

#[test]
fn test_snapshot_unreliable_recover_concurrent_partition_2c() {
    Generic { unreliable: true, crash: true, partitions: true, ..generic() }.run();
}

/// The labs can fail: a log that is cut too early is found.
#[test]
fn a_log_that_is_cut_before_its_application_is_durable_is_found_by_2c() {
    let planted = Some(Planted::TruncatePastDurable);
    Generic { rounds: 1, planted, ..generic() }.must_fail("a log is cut only where");
}
