//! HTTP/1.1 on the same port, and bytes that are neither HTTP nor gRPC.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::time::Duration;

use serde_json::{Value, json};
use skerry_proto::metapb::{Peer, PeerRole};
use skerry_proto::pdpb::*;

use super::harness::{Served, region, within_patience};

/// Sends `bytes` on a connection of their own and reads until the server closes it; with `hang_up` it is
/// told that there will be no more. (It answers no whole request then.)
async fn send(address: SocketAddr, bytes: Vec<u8>, hang_up: bool) -> Vec<u8> {
    let exchange = tokio::task::spawn_blocking(move || {
        let mut connection = TcpStream::connect(address).expect("connect");
        connection.set_read_timeout(Some(Duration::from_secs(20))).expect("a setting");
        // The server may have closed already: what it makes of the bytes is its own business.
        let _ = connection.write_all(&bytes);
        if hang_up {
            let _ = connection.shutdown(Shutdown::Write);
        }
        let mut answer = Vec::new();
        let _ = connection.read_to_end(&mut answer);
        answer
    });
    exchange.await.expect("no panic")
}

/// Status and body of one request.
async fn ask(served: &Served, method: &str, path: &str) -> (u16, String) {
    let request = format!("{method} {path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
    let answer =
        String::from_utf8(send(served.address, request.into(), false).await).expect("text");
    let (head, body) = answer.split_once("\r\n\r\n").expect("a head and a body");
    let status = head.split(' ').nth(1).expect("a status line").parse().expect("a number");
    (status, body.to_string())
}

/// Status and JSON of a request under `/pd/api/v1` with a body.
pub(super) async fn tell(served: &Served, method: &str, path: &str, body: &str) -> (u16, Value) {
    let length = body.len();
    // As `curl -d` does it: with a type that is not JSON's.
    let request = format!(
        "{method} /pd/api/v1{path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\
         Content-Type: application/x-www-form-urlencoded\r\nContent-Length: {length}\r\n\r\n{body}"
    );
    let answer =
        String::from_utf8(send(served.address, request.into(), false).await).expect("text");
    let (head, body) = answer.split_once("\r\n\r\n").expect("a head and a body");
    let status = head.split(' ').nth(1).expect("a status line").parse().expect("a number");
    (status, serde_json::from_str(body).unwrap_or(Value::Null))
}

/// The JSON of a successful GET under `/pd/api/v1`.
pub(super) async fn get(served: &Served, path: &str) -> Value {
    let (status, body) = ask(served, "GET", &format!("/pd/api/v1{path}")).await;
    assert_eq!(status, 200, "{path}: {body}");
    serde_json::from_str(&body).expect("JSON")
}

/// All that a scheduler shows of its state: what a refusal must leave as it was.
pub(super) async fn whole_state(served: &Served) -> Vec<(&'static str, Value)> {
    const PATHS: [&str; 10] = [
        "/cluster",
        "/regions",
        "/stores?state=0&state=1&state=2",
        "/stores/limit",
        "/operators",
        "/operators/records",
        "/schedulers",
        "/schedulers?status=paused",
        "/config",
        "/gc/safepoint",
    ];
    let mut state = Vec::new();
    for path in PATHS {
        state.push((path, get(served, path).await));
    }
    state
}

#[tokio::test(flavor = "multi_thread")]
async fn head_is_405_where_get_is_200() {
    let served = Served::start().await;
    served.bootstrap().await;
    for path in ["/regions", "/stores", "/members", "/health", "/version", "/cluster", "/store/1"] {
        let path = format!("/pd/api/v1{path}");
        assert_eq!(ask(&served, "GET", &path).await.0, 200, "{path}");
        assert_eq!(ask(&served, "HEAD", &path).await, (405, String::new()), "{path}");
        assert_eq!(ask(&served, "POST", &path).await.0, 405, "{path}");
    }
    for path in ["/operators", "/schedulers", "/config", "/config/schedule", "/config/replicate"] {
        let path = format!("/pd/api/v1{path}");
        assert_eq!(ask(&served, "GET", &path).await.0, 200, "{path}");
        assert_eq!(ask(&served, "HEAD", &path).await, (405, String::new()), "{path}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_there_is_404_in_json() {
    let served = Served::start().await;
    served.bootstrap().await;
    for path in
        ["/", "/metrics", "/pd/api/v1/nothing", "/pd/api/v1/store/7", "/pd/api/v1/region/id/7"]
    {
        let (status, body) = ask(&served, "GET", path).await;
        let body: Value = serde_json::from_str(&body).expect("JSON");
        assert_eq!((status, body["error"].is_string()), (404, true), "{path}: {body}");
    }
    assert_eq!(ask(&served, "GET", "/pd/api/v1/store/one").await.0, 400);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_scheduler_describes_itself() {
    let served = Served::start().await;
    let (status, body) = ask(&served, "GET", "/pd/api/v1/regions").await;
    assert_eq!(status, 500, "there is no cluster yet: {body}");
    served.bootstrap().await;
    assert_eq!(
        get(&served, "/cluster").await,
        json!({ "id": served.cluster_id, "max_peer_count": 3 })
    );
    assert_eq!(get(&served, "/version").await["version"], "v8.5.5");
    let status = get(&served, "/status").await;
    assert_eq!(status["version"], "v8.5.5");
    assert_eq!(status["start_timestamp"], 1_700_000_000, "the harness begins then");
    assert_eq!(get(&served, "/config/cluster-version").await, "8.5.5");
    let url = json!([served.url()]);
    let members = get(&served, "/members").await;
    assert_eq!(members["header"]["cluster_id"], served.cluster_id);
    assert_eq!(members["leader"]["client_urls"], url);
    assert_eq!(members["members"], json!([members["leader"]]));
    assert_eq!(get(&served, "/leader").await, members["leader"]);
    let health = get(&served, "/health").await;
    assert_eq!((&health[0]["health"], &health[0]["client_urls"]), (&json!(true), &url));
}

#[tokio::test(flavor = "multi_thread")]
async fn regions_have_the_shape_that_tools_read() {
    let served = Served::start().await;
    served.bootstrap().await;
    let regions = vec![region(2, 2, "", "r\0\u{1}"), region(4, 2, "r\0\u{1}", "")];
    let report = ReportBatchSplitRequest { header: served.header(), regions: regions.clone() };
    served.client().await.report_batch_split(report).await.expect("report");
    let (beats, _answers) = served.heartbeats().await;
    let mut beat = served.report(regions[1].clone());
    (beat.approximate_size, beat.approximate_keys, beat.bytes_written) = (5 << 20, 12, 99);
    beat.pending_peers = beat.leader.into_iter().collect();
    beats.send(beat).await.expect("open");
    while served.region("z").await.leader.is_none() {
        tokio::task::yield_now().await;
    }

    let voter = json!({ "id": 5, "store_id": 1, "role_name": "Voter" });
    let expected = json!({
        "id": 4, "start_key": "720001", "end_key": "", "epoch": { "conf_ver": 1, "version": 2 },
        "peers": [voter], "leader": voter, "pending_peers": [voter],
        "cpu_usage": 0, "written_bytes": 99, "read_bytes": 0, "written_keys": 0, "read_keys": 0,
        "approximate_size": 5, "approximate_keys": 12,
    });
    assert_eq!(get(&served, "/region/id/4").await, expected);
    assert_eq!(get(&served, "/region/key/r%00%01%FF").await, expected);
    assert_eq!(get(&served, "/region/key/r%00").await["id"], 2);
    let all = get(&served, "/regions").await;
    assert_eq!((&all["count"], &all["regions"][1]), (&json!(2), &expected));
    // A region without a leader has no such field, rather than an empty one.
    assert_eq!(all["regions"][0].get("leader"), None);
    assert_eq!(get(&served, "/regions/count").await, json!({ "count": 2 }));

    let stores = get(&served, "/stores").await;
    assert_eq!(stores["count"], 1);
    let status = &stores["stores"][0]["status"];
    assert_eq!((&status["region_count"], &status["leader_count"]), (&json!(2), &json!(1)));
    assert_eq!((&status["region_size"], &status["leader_size"]), (&json!(5), &json!(5)));
}

/// What a playground waits for: who leads, who is a replica, and who of them does not work.
#[tokio::test(flavor = "multi_thread")]
async fn replicas_that_lag_or_are_silent_are_shown_everywhere() {
    let served = Served::start().await;
    served.bootstrap().await;
    let mut led = region(2, 1, "", "");
    let learner = Peer { id: 7, store_id: 4, role: PeerRole::Learner.into() };
    led.peers.push(learner);
    let (beats, _answers) = served.heartbeats().await;
    let mut beat = served.report(led.clone());
    let leader = beat.leader;
    beat.pending_peers = vec![learner];
    beat.down_peers = vec![PeerStats { peer: Some(learner), down_seconds: 9 }];
    beats.send(beat.clone()).await.expect("open");
    while served.region("z").await.leader.is_none() {
        tokio::task::yield_now().await;
    }

    let shown = get(&served, "/region/id/2").await;
    let voter = json!({ "id": 3, "store_id": 1, "role_name": "Voter" });
    let learner = json!({
        "id": 7, "store_id": 4, "role": 1, "role_name": "Learner", "is_learner": true,
    });
    assert_eq!((&shown["leader"], &shown["peers"]), (&voter, &json!([voter, learner])));
    assert_eq!(shown["pending_peers"], json!([learner]));
    assert_eq!(shown["down_peers"], json!([{ "down_seconds": 9, "peer": learner }]));

    let request = ScanRegionsRequest { header: served.header(), ..ScanRegionsRequest::default() };
    let scanned = served.client().await.scan_regions(request).await.expect("scan").into_inner();
    let (pending_peers, down_peers) = (beat.pending_peers, beat.down_peers);
    let expected = Region { region: Some(led), leader, down_peers, pending_peers };
    assert_eq!(scanned.regions, [expected]);
}

#[tokio::test(flavor = "multi_thread")]
async fn stores_have_the_shape_that_tools_read() {
    let served = Served::start().await;
    served.bootstrap().await;
    let silent = get(&served, "/store/1").await;
    assert_eq!(silent["store"]["state_name"], "Disconnected");
    assert_eq!(silent["status"].get("last_heartbeat_ts"), None);
    let stats =
        StoreStats { store_id: 1, capacity: 3 << 30, available: 1 << 30, ..StoreStats::default() };
    let beat = StoreHeartbeatRequest { header: served.header(), stats: Some(stats) };
    served.client().await.store_heartbeat(beat).await.expect("beat");
    let spoken = get(&served, "/store/1").await;
    assert_eq!(
        spoken["store"],
        json!({
            "id": 1, "address": "127.0.0.1:20001", "version": "8.5.5", "status_address": "",
            "git_hash": "", "start_timestamp": 1_699_999_000, "deploy_path": "",
            "last_heartbeat": 1_700_000_000_000_000_000_u64, "state": 0, "node_state": 1,
            "state_name": "Up",
        })
    );
    let status = &spoken["status"];
    assert_eq!((&status["capacity"], &status["available"]), (&json!("3GiB"), &json!("1GiB")));
    assert_eq!(status["start_ts"], "2023-11-14T21:56:40.000Z");
    assert_eq!(status["last_heartbeat_ts"], "2023-11-14T22:13:20.000Z");
    assert_eq!(status["uptime"], "16m40s");
    served.clock.advance_ms(21_000);
    assert_eq!(get(&served, "/store/1").await["store"]["state_name"], "Disconnected");
    assert_eq!(get(&served, "/stores").await["stores"][0]["store"]["state_name"], "Disconnected");
}

/// Broken callers get an error or a closed connection, and nobody else notices.
#[tokio::test(flavor = "multi_thread")]
async fn garbage_harms_nobody() {
    let served = Served::start().await;
    served.bootstrap().await;
    let (requests, mut answers) = served.timestamps().await;
    let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
    let grpc = |body: &[u8]| {
        let head = format!(
            "POST /pdpb.PD/GetRegion HTTP/1.1\r\nHost: a\r\nContent-Type: application/grpc\r\n\
             Content-Length: {}\r\nConnection: close\r\n\r\n",
            body.len()
        );
        [head.as_bytes(), body].concat()
    };
    let random: Vec<u8> =
        (0..64).flat_map(|seed| skerry_raftstore::time::splitmix64(seed).to_le_bytes()).collect();
    let garbage: Vec<Vec<u8>> = vec![
        vec![],
        vec![0; 4_096],
        vec![0xff; 4_096],
        random.clone(),
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03".to_vec(),
        b"GET / HTTP/9.9\r\n\r\n".to_vec(),
        b"GET /pd/api/v1/regions HTTP/1.1\r\nHos".to_vec(),
        preface[..20].to_vec(),
        [preface, &random[..]].concat(),
        // A length prefix of 4 GiB, a message that breaks off, and one that is no protobuf.
        grpc(b"\0\xff\xff\xff\xff"),
        grpc(b"\0\0\0\0\x09\x0a"),
        grpc(b"\0\0\0\0\x04\xff\xff\xff\xff"),
    ];
    for bytes in garbage {
        let shown = bytes.escape_ascii().to_string();
        let hang_up = !bytes.starts_with(b"POST");
        let answer = within_patience(send(served.address, bytes, hang_up)).await;
        let fine = answer.starts_with(b"HTTP/1.1 200")
            && !answer.windows(11).any(|at| at == b"grpc-status");
        assert!(!fine, "{shown} was answered as if it were good: {}", answer.escape_ascii());
        assert_eq!(served.region("any").await.region, Some(region(2, 1, "", "")), "after {shown}");
        requests.send(TsoRequest { header: served.header(), count: 1 }).await.expect("open");
        let answer = within_patience(answers.message()).await.expect("good").expect("open");
        assert_eq!(answer.count, 1);
    }
}
