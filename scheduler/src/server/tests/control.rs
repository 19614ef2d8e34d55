//! What a person changes over HTTP: operators, stores, balancers, settings. What is refused leaves everything as it
//! was.
//!
//! The scheduler does nothing by itself here: scheduling is halted, so what is seen is what was asked for.

use serde_json::{Value, json};
use skerry_proto::metapb::Peer;
use skerry_proto::pdpb::*;
use skerry_raftstore::time::Clock;

use super::harness::{Served, region, store};
use super::http::{get, tell, whole_state};

/// Four stores that are up; region 2 has replicas on the first three and is led from store 1.
pub(super) async fn cluster_of_four() -> Served {
    let served = Served::start().await;
    served.bootstrap().await;
    let halt = tell(&served, "POST", "/config", r#"{"schedule.halt-scheduling": true}"#).await;
    assert_eq!(halt.0, 200, "{}", halt.1);
    for id in 1..=4 {
        if id > 1 {
            let request = PutStoreRequest { header: served.header(), store: Some(store(id)) };
            served.client().await.put_store(request).await.expect("PutStore");
        }
        served.store_beat(id).await;
    }
    let mut whole = region(2, 1, "", "");
    whole.peers.extend((2..=3).map(|store_id| Peer { id: 10 + store_id, store_id, role: 0 }));
    let (beats, _answers) = served.heartbeats().await;
    beats.send(served.report(whole)).await.expect("open");
    while served.region("z").await.leader.is_none() {
        tokio::task::yield_now().await;
    }
    served
}

/// Checks that each request is refused with this status, that its sentence has these words, and that none of them
/// has changed anything.
async fn assert_refused(served: &Served, refusals: &[(&str, &str, &str, u16, &str)]) {
    let before = whole_state(served).await;
    for (method, path, body, wanted, words) in refusals {
        let (status, answer) = tell(served, method, path, body).await;
        let sentence = answer["error"].as_str().unwrap_or_default().to_string();
        assert_eq!(status, *wanted, "{method} {path} {body}: {answer}");
        assert!(sentence.contains(words), "{method} {path} {body}: {sentence}");
    }
    assert_eq!(whole_state(served).await, before);
}

async fn assert_done(served: &Served, method: &str, path: &str, body: Value) -> Value {
    let text = if body.is_null() { String::new() } else { body.to_string() };
    let (status, answer) = tell(served, method, path, &text).await;
    assert_eq!(status, 200, "{method} {path} {body}: {answer}");
    answer
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operator_is_created_listed_and_cancelled() {
    let served = cluster_of_four().await;
    let wish = json!({ "name": "add-peer", "region_id": 2, "store_id": 4 });
    assert_eq!(assert_done(&served, "POST", "/operators", wish).await, "The operator is created.");
    let shown = get(&served, "/operators/2").await;
    let sentence = shown.as_str().expect("a sentence").to_string();
    assert!(sentence.starts_with("admin-add-peer of r2: add learner"), "{sentence}");
    assert_eq!(get(&served, "/operators").await, json!([sentence]));
    assert_eq!(get(&served, "/operators?kind=admin").await, json!([sentence]));
    assert_eq!(get(&served, "/operators?kind=leader").await, json!([]));
    let object = get(&served, "/operators?object=true").await;
    assert_eq!((&object[0]["region_id"], &object[0]["done"]), (&json!(2), &json!(0)));
    assert_eq!(object[0]["steps"].as_array().map(Vec::len), Some(2));
    assert_eq!(object[0]["why"], "somebody asked for it");
    assert_eq!(get(&served, "/operators/records").await, json!([]));

    // One operator a region.
    let again = r#"{"name": "remove-peer", "region_id": 2, "store_id": 3}"#;
    let second = [("POST", "/operators", again, 400, "has an operator already")];
    assert_refused(&served, &second).await;

    assert_done(&served, "DELETE", "/operators/2", Value::Null).await;
    assert_eq!(get(&served, "/operators").await, json!([]));
    let ended = get(&served, "/operators/2").await;
    assert!(ended.as_str().expect("a sentence").ends_with("cancelled: by hand"), "{ended}");
    assert_refused(&served, &[("DELETE", "/operators/2", "", 404, "has no operator")]).await;
    assert_eq!(get(&served, "/operators/records").await, json!([ended]));
    let second = served.clock.wall_ms() / 1_000;
    let record = &get(&served, &format!("/operators/records?object=true&from={second}")).await[0];
    assert_eq!(
        (&record["ending"], &record["region_id"]),
        (&json!("cancelled: by hand"), &json!(2))
    );
    let later = get(&served, &format!("/operators/records?from={}", second + 1)).await;
    assert_eq!(later, json!([]));
    let nonsense = [("GET", "/operators/records?from=noon", "", 400, "seconds since 1970")];
    assert_refused(&served, &nonsense).await;
    let lines = get(&served, "/operators/2/explain").await["lines"].to_string();
    assert!(lines.contains("scheduling is halted") && lines.contains("by hand"), "{lines}");
}

#[tokio::test(flavor = "multi_thread")]
async fn all_kinds_of_operators_are_understood() {
    let served = cluster_of_four().await;
    let wishes = [
        json!({ "name": "transfer-leader", "region_id": 2, "to_store_id": 2 }),
        json!({ "name": "transfer-peer", "region_id": 2, "from_store_id": 3, "to_store_id": 4 }),
        json!({ "name": "transfer-region", "region_id": 2, "to_store_ids": [1, 2, 4] }),
        json!({ "name": "add-learner", "region_id": 2, "store_id": 4 }),
        json!({ "name": "remove-peer", "region_id": 2, "store_id": 3 }),
        json!({ "name": "split-region", "region_id": 2, "policy": "approximate" }),
        json!({ "name": "split-region", "region_id": 2, "policy": "usekey", "keys": ["6D"] }),
    ];
    for wish in wishes {
        let wanted = format!("admin-{} of r2", wish["name"].as_str().expect("text"));
        assert_done(&served, "POST", "/operators", wish).await;
        let shown = get(&served, "/operators/2").await.to_string();
        assert!(shown.contains(&wanted), "{shown}");
        assert_done(&served, "DELETE", "/operators/2", Value::Null).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operator_that_makes_no_sense_is_refused_by_name() {
    let served = cluster_of_four().await;
    // Stores 3 and 4 stand in one zone, of which no region may have two replicas.
    for (id, zone) in [(1, "a"), (2, "b"), (3, "c"), (4, "c")] {
        let path = format!("/store/{id}/label");
        assert_done(&served, "POST", &path, json!({ "zone": zone })).await;
    }
    let strict = json!({ "location-labels": "zone", "isolation-level": "zone" });
    assert_done(&served, "POST", "/config/replicate", strict).await;
    let refusals = [
        (r#"{"name": "add-peer", "region_id": 2, "store_id": 4}"#, 400, "zone"),
        (
            r#"{"name": "transfer-peer", "region_id": 2, "from_store_id": 1, "to_store_id": 4}"#,
            400,
            "zone",
        ),
        (r#"{"name": "add-peer", "region_id": 2, "store_id": 3}"#, 400, "has a replica already"),
        (r#"{"name": "add-peer", "region_id": 2, "store_id": 9}"#, 404, "invalid store ID 9"),
        (r#"{"name": "add-peer", "region_id": 9, "store_id": 4}"#, 404, "region 9 not found"),
        (r#"{"name": "add-peer", "region_id": 2}"#, 400, "needs store_id"),
        (r#"{"name": "add-peer", "region_id": "2", "store_id": 4}"#, 400, "invalid type"),
        (r#"{"name": "add-peer", "region_id": -2, "store_id": 4}"#, 400, "invalid value"),
        (r#"{"name": "add-peer", "region_id": 2, "store": 4}"#, 400, "unknown field"),
        (r#"{"name": "transfer-leader", "region_id": 2, "to_store_id": 4}"#, 400, "has no replica"),
        (r#"{"name": "transfer-leader", "region_id": 2, "to_store_id": 1}"#, 400, "already"),
        (
            r#"{"name": "transfer-region", "region_id": 2, "to_store_ids": []}"#,
            400,
            "needs a replica",
        ),
        (r#"{"name": "split-region", "region_id": 2, "policy": "half"}"#, 400, "there are scan"),
        (
            r#"{"name": "split-region", "region_id": 2, "policy": "usekey", "keys": ["xy"]}"#,
            400,
            "hexadecimal",
        ),
        (
            r#"{"name": "merge-region", "source_region_id": 2, "target_region_id": 4}"#,
            400,
            "not merged",
        ),
        (r#"{"name": "fly-region", "region_id": 2}"#, 400, "no operator is called"),
        ("{}", 400, "no operator is called"),
        ("[]", 400, "not what is expected"),
        ("{", 400, "not what is expected"),
    ];
    let refusals =
        refusals.map(|(body, status, words)| ("POST", "/operators", body, status, words));
    assert_refused(&served, &refusals).await;
    assert_eq!(get(&served, "/operators").await, json!([]));
    assert_eq!(get(&served, "/region/id/2").await["peers"].as_array().map(Vec::len), Some(3));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_is_emptied_taken_back_and_tuned() {
    let served = cluster_of_four().await;
    assert_done(&served, "DELETE", "/store/3", Value::Null).await;
    let leaving = get(&served, "/store/3").await;
    assert_eq!(leaving["store"]["state_name"], "Offline");
    let progress = &leaving["status"]["leaving"];
    assert_eq!((&progress["left"], &progress["at_first"]), (&json!(1), &json!(1)));
    assert!(progress["summary"].as_str().expect("text").starts_with("1 of 1 regions left"));
    assert_eq!(get(&served, "/regions/check/offline-peer").await["count"], 1);
    assert_eq!(get(&served, "/stores?state=1").await["count"], 1);
    assert_eq!(get(&served, "/stores/check?state=up").await["count"], 3);
    assert_done(&served, "POST", "/store/3/state?state=Up", Value::Null).await;
    assert_eq!(get(&served, "/store/3").await["store"]["state_name"], "Up");
    assert_eq!(get(&served, "/store/3").await["status"].get("leaving"), None);
    // Too few are left: it is said at once.
    assert_done(&served, "DELETE", "/store/4", Value::Null).await;
    let warned = assert_done(&served, "POST", "/store/3/state?state=Offline", Value::Null).await;
    assert!(warned.as_str().expect("text").contains("3 replicas are wanted"), "{warned}");

    assert_done(&served, "POST", "/store/1/weight", json!({ "leader": 2, "region": 0.5 })).await;
    assert_done(&served, "POST", "/store/1/label", json!({ "zone": "a", "host": "x" })).await;
    assert_done(&served, "POST", "/store/1/label", json!({ "host": "" })).await;
    assert_done(&served, "POST", "/store/1/limit", json!({ "type": "add-peer", "rate": 7 })).await;
    let served = served.lose_power().await;
    let tuned = get(&served, "/store/1").await;
    let status = &tuned["status"];
    assert_eq!((&status["leader_weight"], &status["region_weight"]), (&json!(2.0), &json!(0.5)));
    assert_eq!(tuned["store"]["labels"], json!([{ "key": "zone", "value": "a" }]));
    let limits = get(&served, "/stores/limit").await;
    assert_eq!(limits["1"], json!({ "add-peer": 7, "remove-peer": 60 }));
    assert_eq!(get(&served, "/store/3").await["store"]["state_name"], "Offline");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_no_store_can_be_is_refused() {
    let served = cluster_of_four().await;
    let before = get(&served, "/stores").await;
    let refusals = [
        ("DELETE", "/store/9", "", 404, "invalid store ID 9"),
        ("DELETE", "/store/one", "", 400, "not an id"),
        ("DELETE", "/store/1?force=true", "", 400, "its disk is not gone"),
        ("POST", "/store/1/state?state=Tombstone", "", 400, "by itself"),
        ("POST", "/store/1/state?state=Asleep", "", 400, "Up or Offline"),
        ("POST", "/store/9/state?state=Up", "", 404, "invalid store ID 9"),
        ("POST", "/store/1/label", r#"{"zone": 1}"#, 400, "invalid type"),
        ("POST", "/store/1/label", r#"{"zo ne": "a"}"#, 400, "is no label"),
        ("POST", "/store/9/label", r#"{"zone": "a"}"#, 404, "invalid store ID 9"),
        ("POST", "/store/1/weight", r#"{"leader": -1}"#, 400, "allowed is from 0.01"),
        ("POST", "/store/1/weight", r#"{"leader": "2"}"#, 400, "invalid type"),
        ("POST", "/store/1/limit", r#"{"rate": 0}"#, 400, "allowed is from 1"),
        (
            "POST",
            "/store/1/limit",
            r#"{"rate": 5, "type": "move"}"#,
            400,
            "add-peer or remove-peer",
        ),
        ("POST", "/store/1/limit", "{}", 400, "missing field"),
        ("GET", "/stores?state=7", "", 400, "state is \"7\""),
        ("GET", "/stores/check?state=asleep", "", 400, "no state is called"),
    ];
    assert_refused(&served, &refusals).await;
    assert_eq!(get(&served, "/stores").await, before);
}

#[tokio::test(flavor = "multi_thread")]
async fn balancers_are_turned_on_and_off_and_rest() {
    let served = cluster_of_four().await;
    let usual =
        ["balance-leader-scheduler", "balance-region-scheduler", "balance-hot-region-scheduler"];
    assert_eq!(get(&served, "/schedulers").await, json!(usual));
    let evict = |store: u64| json!({ "name": "evict-leader-scheduler", "store_id": store });
    assert_done(&served, "POST", "/schedulers", evict(1)).await;
    assert_done(&served, "POST", "/schedulers", evict(2)).await;
    let shown = get(&served, "/schedulers/diagnostic/evict-leader-scheduler").await;
    assert_eq!(shown["stores"], json!([1, 2]));
    assert_done(&served, "DELETE", "/schedulers/evict-leader-scheduler-1", Value::Null).await;
    let shown = get(&served, "/schedulers/diagnostic/evict-leader").await;
    assert_eq!(shown["stores"], json!([2]));
    assert_done(&served, "DELETE", "/schedulers/evict-leader-scheduler", Value::Null).await;
    assert_eq!(get(&served, "/schedulers").await, json!(usual));

    let pause = |seconds: u64| json!({ "delay": seconds });
    assert_done(&served, "POST", "/schedulers/balance-leader-scheduler", pause(30)).await;
    assert_eq!(get(&served, "/schedulers?status=paused").await, json!(usual[..1]));
    served.clock.advance_ms(30_000);
    assert_eq!(get(&served, "/schedulers?status=paused").await, json!([]));
    assert_done(&served, "POST", "/schedulers/all", pause(30)).await;
    assert_eq!(get(&served, "/schedulers?status=paused").await, json!(usual));
    assert_done(&served, "POST", "/schedulers/all", pause(0)).await;
    assert_eq!(get(&served, "/schedulers?status=paused").await, json!([]));

    let refusals = [
        ("POST", "/schedulers", r#"{"name": "evict-leader-scheduler"}"#, 400, "needs a store"),
        ("POST", "/schedulers", r#"{"name": "evict-leader", "store_id": 9}"#, 404, "invalid store"),
        ("POST", "/schedulers", r#"{"name": "balance-moon"}"#, 400, "no balancer is called"),
        ("POST", "/schedulers", r#"{"store_id": 1}"#, 400, "missing field"),
        ("DELETE", "/schedulers/shuffle-leader", "", 400, "is not on"),
        ("POST", "/schedulers/balance-leader", r#"{"delay": 90000}"#, 400, "allowed is up to"),
        ("POST", "/schedulers/balance-leader", r#"{"delay": "long"}"#, 400, "invalid type"),
        ("GET", "/schedulers?status=lost", "", 400, "allowed is paused"),
    ];
    assert_refused(&served, &refusals).await;
    assert_eq!(get(&served, "/schedulers").await, json!(usual));
}

#[tokio::test(flavor = "multi_thread")]
async fn settings_are_changed_whole_or_not_at_all() {
    let served = cluster_of_four().await;
    let change = json!({
        "schedule.leader-schedule-limit": 8, "max-store-down-time": "90s",
        "replication": { "max-replicas": 5, "location-labels": "zone, host" },
    });
    assert_done(&served, "POST", "/config", change).await;
    assert_done(&served, "POST", "/config/replicate", json!({ "isolation-level": "zone" })).await;
    let served = served.lose_power().await;
    let schedule = get(&served, "/config/schedule").await;
    assert_eq!(
        (&schedule["leader-schedule-limit"], &schedule["max-store-down-time"]),
        (&json!(8), &json!("1m30s"))
    );
    let replication = json!({
        "max-replicas": 5, "location-labels": "zone,host", "isolation-level": "zone",
    });
    assert_eq!(get(&served, "/config/replicate").await, replication);
    let whole = get(&served, "/config").await;
    assert_eq!(whole, json!({ "schedule": schedule, "replication": replication }));

    let refusals = [
        (r#"{"leader-schedule-limit": 9, "max-replicas": 0}"#, "max_peer_count is 0"),
        (r#"{"leader-schedule-limit": 9, "low-space-ratio": 7}"#, "low-space-ratio is 7"),
        (r#"{"leader-schedule-limit": "nine"}"#, "invalid type"),
        (r#"{"max-replicas": "three"}"#, "not a number"),
        (r#"{"max-store-down-time": "soon"}"#, "not a time"),
        (r#"{"max-store-down-time": 10}"#, "not a time"),
        (r#"{"isolation-level": "rack"}"#, "none of location-labels"),
        (r#"{"moon-phase": 1}"#, "no setting is called"),
        ("7", "not what is expected"),
    ];
    let refusals = refusals.map(|(body, words)| ("POST", "/config", body, 400, words));
    assert_refused(&served, &refusals).await;
    assert_eq!(get(&served, "/config").await, whole);
}

/// Tools that move much data quiet the scheduler for some minutes, and may die meanwhile.
#[tokio::test(flavor = "multi_thread")]
async fn settings_are_changed_for_a_while() {
    let served = cluster_of_four().await;
    let before = get(&served, "/config").await;
    let change = json!({ "schedule.leader-schedule-limit": 1, "halt-scheduling": true });
    assert_done(&served, "POST", "/config?ttlSecond=300", change).await;
    let temporary = json!({
        "leader-schedule-limit": { "value": 1, "seconds_left": 300 },
        "halt-scheduling": { "value": true, "seconds_left": 300 },
    });
    let whole = get(&served, "/config").await;
    assert_eq!(whole["temporary"], temporary);
    assert_eq!(whole["schedule"], before["schedule"], "what stays is what it was");
    let change = json!({ "leader-schedule-limit": 1 });
    assert_done(&served, "POST", "/config?ttlSecond=0", change).await;
    let temporary = get(&served, "/config").await["temporary"].clone();
    assert_eq!(temporary, json!({ "halt-scheduling": { "value": true, "seconds_left": 300 } }));
    let refusals = [
        ("/config?ttlSecond=300", r#"{"max-replicas": 5}"#, "for a while"),
        ("/config?ttlSecond=300", r#"{"moon-phase": 1}"#, "no setting is called"),
        ("/config?ttlSecond=soon", r#"{"halt-scheduling": false}"#, "a number of seconds"),
        ("/config?ttlSecond=-1", r#"{"halt-scheduling": false}"#, "a number of seconds"),
        ("/config?ttlSecond=99999999", r#"{"halt-scheduling": false}"#, "within 30 days"),
    ];
    let refusals = refusals.map(|(path, body, words)| ("POST", path, body, 400, words));
    assert_refused(&served, &refusals).await;
    let served = served.lose_power().await;
    assert_eq!(get(&served, "/config").await, before, "a restart ends it");
}

#[tokio::test(flavor = "multi_thread")]
async fn it_is_counted_how_much_lies_in_a_range_and_where() {
    let served = cluster_of_four().await;
    let statistics = get(&served, "/stats/region?start_key=&end_key=").await;
    let everywhere = |each: u64| json!({ "1": each, "2": each, "3": each });
    let expected = json!({
        "count": 1, "empty_count": 1, "storage_size": 1, "storage_keys": 0,
        "store_leader_count": { "1": 1 }, "store_leader_size": { "1": 1 },
        "store_leader_keys": { "1": 0 }, "store_peer_count": everywhere(1),
        "store_peer_size": everywhere(1), "store_peer_keys": everywhere(0),
    });
    assert_eq!(statistics, expected);
    let count = get(&served, "/stats/region?count").await;
    assert_eq!((&count["count"], &count["storage_size"]), (&json!(1), &json!(0)));
    assert_eq!(get(&served, "/stats/region?start_key=z&end_key=z").await["count"], 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn regions_are_found_by_what_is_wrong_with_them() {
    let served = cluster_of_four().await;
    const NONE: [u64; 0] = [];
    let ids = |answer: Value| -> Vec<u64> {
        let regions = answer["regions"].as_array().expect("a list").clone();
        regions.iter().map(|region| region["id"].as_u64().expect("a number")).collect()
    };
    assert_eq!(ids(get(&served, "/regions/check/miss-peer").await), NONE);
    assert_done(&served, "POST", "/config", json!({ "max-replicas": 5 })).await;
    assert_eq!(ids(get(&served, "/regions/check/miss-peer").await), [2]);
    assert_done(&served, "POST", "/config", json!({ "max-replicas": 1 })).await;
    assert_eq!(ids(get(&served, "/regions/check/extra-peer").await), [2]);
    assert_eq!(ids(get(&served, "/regions/check/empty-region").await), [2]);
    assert_eq!(ids(get(&served, "/regions/check/undersized-region").await), [2]);
    assert_eq!(ids(get(&served, "/regions/check/oversized-region").await), NONE);
    let bars = get(&served, "/regions/check/hist-size?bound=4").await;
    assert_eq!(bars, json!([{ "start": 0, "end": 3, "count": 1 }]));
    let bars = get(&served, "/regions/check/hist-keys").await;
    assert_eq!(bars, json!([{ "start": 0, "end": 9_999, "count": 1 }]));
    assert_eq!(ids(get(&served, "/regions/store/3").await), [2]);
    assert_eq!(ids(get(&served, "/regions/store/4").await), NONE);
    assert_eq!(get(&served, "/regions/range-holes").await, json!([]));

    let mut parts = vec![region(2, 2, "", "g"), region(4, 2, "g", "p"), region(6, 2, "p", "")];
    parts[0].peers.truncate(1);
    let report = ReportBatchSplitRequest { header: served.header(), regions: parts };
    served.client().await.report_batch_split(report).await.expect("report");
    assert_eq!(ids(get(&served, "/regions/key?key=%67&end_key=z&limit=2").await), [4, 6]);
    assert_eq!(ids(get(&served, "/regions/sibling/4").await), [2, 6]);
    assert_eq!(ids(get(&served, "/regions/size?limit=1").await), [2]);
    let all = get(&served, "/regions/key?limit=1000").await;
    for without in ["/regions/key?limit=-1", "/regions/key?limit=0"] {
        assert_eq!(get(&served, without).await, all);
    }
    let refusals = [
        ("GET", "/regions/check/sad-peer", "", 404, "not checked"),
        ("GET", "/regions/beauty", "", 404, "not ordered"),
        ("GET", "/regions/store/9", "", 404, "invalid store ID 9"),
        ("GET", "/regions/key?limit=many", "", 400, "limit"),
        ("GET", "/regions/check/hist-size?bound=0", "", 400, "bound"),
        ("POST", "/regions/split", r#"{"split_keys": []}"#, 400, "no keys"),
        ("POST", "/regions/split", r#"{"split_keys": ["zz"]}"#, 400, "hexadecimal"),
    ];
    assert_refused(&served, &refusals).await;
    let scattered =
        assert_done(&served, "POST", "/regions/scatter", json!({ "regions_id": [77] })).await;
    assert_eq!(scattered["processed-percentage"], 0);
    assert!(scattered["failed"]["77"].as_str().expect("a reason").contains("unknown"));
    // Clients of the wire look at the header alone.
    let scatter = |regions_id| ScatterRegionRequest {
        header: served.header(),
        regions_id,
        ..ScatterRegionRequest::default()
    };
    let mut client = served.client().await;
    for (regions, is_error) in [(vec![77], true), (vec![77, 2], false)] {
        let answer = client.scatter_region(scatter(regions)).await.expect("an answer");
        let error = answer.into_inner().header.and_then(|header| header.error);
        assert_eq!(error.is_some(), is_error, "{error:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_cluster_tells_its_safe_point_and_whether_it_is_whole() {
    let served = cluster_of_four().await;
    let raise = UpdateGcSafePointRequest { header: served.header(), safe_point: 77 };
    served.client().await.update_gc_safe_point(raise).await.expect("raise");
    assert_eq!(get(&served, "/gc/safepoint").await["gc_safe_point"], 77);
    // As PD says it where stores do not report it; clients take that for an answer.
    let not_known =
        json!({ "is_real_time": false, "min_resolved_ts": 0, "persist_interval": "0s" });
    for path in ["/min-resolved-ts", "/min-resolved-ts?scope=1,2", "/min-resolved-ts/1"] {
        assert_eq!(get(&served, path).await, not_known, "{path}");
    }
    let unknown = [("GET", "/min-resolved-ts/9", "", 404, "invalid store ID 9")];
    assert_refused(&served, &unknown).await;
    let status = get(&served, "/cluster/status").await;
    assert_eq!(status["is_initialized"], true);
    assert_eq!(status["raft_bootstrap_time"], "2023-11-14T22:13:20.000Z");
}
