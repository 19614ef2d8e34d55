//! The three streams: timestamps, lookups, heartbeats; and their end when the server stops.

use skerry_proto::pdpb::*;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Code;

use skerry_proto::eraftpb::ConfChangeType;
use skerry_proto::metapb::{Peer, PeerRole, RegionEpoch};

use super::harness::{Served, region, store, within_patience};

/// The smallest and the largest version of an answer.
fn versions(answer: &TsoResponse) -> (i64, i64) {
    let timestamp = answer.timestamp.as_ref().expect("every answer has one");
    assert_eq!(timestamp.suffix_bits, 0);
    assert!(timestamp.logical < 1 << 18);
    let largest = (timestamp.physical << 18) | timestamp.logical;
    let count = i64::from(answer.count);
    assert!(timestamp.logical >= count, "the whole run is in one millisecond");
    (largest - count + 1, largest)
}

#[tokio::test(flavor = "multi_thread")]
async fn timestamps_come_one_answer_a_request_in_order() {
    let served = Served::start().await;
    // Opening the stream waits for response headers, and no request has been sent yet.
    let (requests, mut answers) = served.timestamps().await;
    let counts: Vec<u32> = (1..=500).map(|number| number % 64 + 1).collect();
    for count in &counts {
        let request = TsoRequest { header: served.header(), count: *count };
        requests.send(request).await.expect("the stream is open");
    }
    let mut newest = 0;
    for count in counts {
        let answer = within_patience(answers.message()).await.expect("good").expect("open");
        assert_eq!(answer.header.as_ref().expect("always").cluster_id, served.cluster_id);
        assert_eq!(answer.count, count);
        let (smallest, largest) = versions(&answer);
        assert!(smallest > newest, "{smallest} after {newest}");
        newest = largest;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn many_streams_and_calls_never_get_the_same_timestamp() {
    let served = std::sync::Arc::new(Served::start().await);
    let mut tasks = Vec::new();
    for _ in 0..4 {
        let served = std::sync::Arc::clone(&served);
        tasks.push(tokio::spawn(async move {
            let (requests, mut answers) = served.timestamps().await;
            let mut runs = Vec::new();
            for _ in 0..100 {
                let request = TsoRequest { header: served.header(), count: 50 };
                requests.send(request).await.expect("open");
                let answer = within_patience(answers.message()).await.expect("good").expect("open");
                runs.push(versions(&answer));
            }
            runs
        }));
    }
    let mut client = served.client().await;
    let lowest = client.get_min_ts(GetMinTsRequest { header: served.header() }).await;
    let lowest = lowest.expect("GetMinTS").into_inner().timestamp.expect("always");
    let lowest = (lowest.physical << 18) | lowest.logical;
    let mut runs = vec![(lowest, lowest)];
    for task in tasks {
        runs.extend(task.await.expect("no panic"));
    }
    runs.sort_unstable();
    assert!(runs.windows(2).all(|pair| pair[0].1 < pair[1].0), "two runs overlap");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_request_for_timestamps_ends_the_stream_behind_the_good_ones() {
    let served = Served::start().await;
    let good = TsoRequest { header: served.header(), count: 1 };
    let other = RequestHeader { cluster_id: 1, ..RequestHeader::default() };
    let cases = [
        (TsoRequest { header: served.header(), count: 0 }, Code::InvalidArgument),
        (TsoRequest { header: served.header(), count: 1 << 18 }, Code::InvalidArgument),
        (TsoRequest { header: Some(other), count: 1 }, Code::FailedPrecondition),
        (TsoRequest { header: None, count: 1 }, Code::FailedPrecondition),
    ];
    for (bad, code) in cases {
        let (requests, mut answers) = served.timestamps().await;
        for request in [good.clone(), bad, good.clone()] {
            requests.send(request).await.expect("open");
        }
        let first = within_patience(answers.message()).await.expect("good").expect("open");
        assert_eq!(first.count, 1);
        let refused = within_patience(answers.message()).await.expect_err("bad");
        assert_eq!(refused.code(), code);
        assert!(within_patience(answers.message()).await.expect("the end").is_none());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn lookups_on_a_stream_answer_every_list_at_its_length() {
    let served = Served::start().await;
    let (sender, receiver) = mpsc::channel(10);
    let answers = served.client().await.query_region(ReceiverStream::new(receiver)).await;
    let mut answers = answers.expect("the stream opens").into_inner();
    let query = QueryRegionRequest {
        header: served.header(),
        ids: vec![4, 99],
        keys: vec!["a".into(), "x".into(), "h".into()],
        prev_keys: vec!["a".into(), "x".into()],
    };
    sender.send(query.clone()).await.expect("open");
    let early = within_patience(answers.message()).await.expect("good").expect("open");
    let error = early.header.expect("always").error.expect("a refusal");
    assert_eq!(error.r#type(), ErrorType::NotBootstrapped);

    served.bootstrap().await;
    let regions = vec![region(2, 2, "", "g"), region(4, 2, "g", "p")];
    let report = ReportBatchSplitRequest { header: served.header(), regions };
    served.client().await.report_batch_split(report).await.expect("report");
    sender.send(query).await.expect("open");
    let found = within_patience(answers.message()).await.expect("good").expect("open");
    assert_eq!(found.header.expect("always").cluster_id, served.cluster_id);
    // Nothing is known from p on.
    assert_eq!(found.key_id_map, [2, 0, 4]);
    assert_eq!(found.prev_key_id_map, [0, 0]);
    assert_eq!(found.regions_by_id.keys().copied().collect::<Vec<_>>(), [2, 4]);
    assert_eq!(found.regions_by_id[&4].region, Some(region(4, 2, "g", "p")));

    sender.send(QueryRegionRequest::default()).await.expect("open");
    let refused = within_patience(answers.message()).await.expect_err("no cluster id");
    assert_eq!(refused.code(), Code::FailedPrecondition);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_heartbeat_is_seen_at_once_and_a_stale_one_is_refused_on_the_stream() {
    let served = Served::start().await;
    served.bootstrap().await;
    let (beats, mut answers) = served.heartbeats().await;
    beats.send(served.report(region(2, 3, "", ""))).await.expect("open");
    let stale = served.report(region(2, 2, "", ""));
    let speaker = stale.leader;
    beats.send(stale).await.expect("open");
    // Skips messages that only keep the stream open.
    let refused = loop {
        let answer = within_patience(answers.message()).await.expect("good").expect("open");
        if answer.target_peer.is_some() {
            break answer;
        }
    };
    assert_eq!((refused.region_id, refused.target_peer), (0, speaker));
    let header = refused.header.expect("always");
    assert_eq!(header.cluster_id, served.cluster_id);
    assert!(header.error.expect("a refusal").message.contains("stale"));
    // The refusal came after the good heartbeat was recorded.
    let known = served.region("any").await;
    assert_eq!(known.leader, speaker);
    assert_eq!(known.region, Some(region(2, 3, "", "")));

    // A message without an error and for no region: the stream is alive.
    let alive = within_patience(answers.message()).await.expect("good").expect("open");
    assert_eq!((alive.region_id, alive.header.expect("always").error), (0, None));

    let mut foreign = served.report(region(2, 4, "", ""));
    foreign.header = None;
    beats.send(foreign).await.expect("open");
    let refused = loop {
        match within_patience(answers.message()).await {
            Ok(answer) => assert!(answer.is_some(), "the stream ends with an error"),
            Err(status) => break status,
        }
    };
    assert_eq!(refused.code(), Code::FailedPrecondition);
}

/// The next message that is more than a sign of life.
async fn told(answers: &mut tonic::Streaming<RegionHeartbeatResponse>) -> RegionHeartbeatResponse {
    loop {
        let answer = within_patience(answers.message()).await.expect("good").expect("open");
        if answer.target_peer.is_some() {
            return answer;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_is_told_when_a_store_comes_up_and_whenever_it_reports() {
    let served = Served::start().await;
    served.bootstrap().await;
    served.store_beat(1).await;
    let (beats, mut answers) = served.heartbeats().await;
    let (other_beats, mut other_answers) = served.heartbeats().await;
    let report = served.report(region(2, 3, "", ""));
    let leader = report.leader;
    beats.send(report.clone()).await.expect("open");
    while served.region("any").await.leader.is_none() {
        tokio::task::yield_now().await;
    }
    // Nothing was wanted of it until now.
    let join = PutStoreRequest { header: served.header(), store: Some(store(4)) };
    served.client().await.put_store(join).await.expect("PutStore");
    served.store_beat(4).await;
    let first = told(&mut answers).await;
    assert_eq!((first.region_id, first.target_peer), (2, leader));
    assert_eq!(first.region_epoch, Some(RegionEpoch { conf_ver: 1, version: 3 }));
    assert_eq!(first.change_peer_v2, None);
    let change = first.change_peer.expect("a change of one peer");
    let learner = change.peer.expect("named");
    assert_eq!(change.change_type(), ConfChangeType::AddLearnerNode);
    assert_eq!((learner.store_id, learner.role()), (4, PeerRole::Learner));
    beats.send(report).await.expect("open");
    assert_eq!(told(&mut answers).await.change_peer, Some(change), "the same again");

    // Between two configurations.
    let mut joint = region(2, 3, "", "");
    joint.region_epoch = Some(RegionEpoch { conf_ver: 3, version: 3 });
    joint.peers[0].set_role(PeerRole::DemotingVoter);
    joint.peers.push(Peer { role: PeerRole::IncomingVoter.into(), ..learner });
    beats.send(served.report(joint)).await.expect("open");
    let leave = told(&mut answers).await;
    assert_eq!((leave.change_peer, leave.change_peer_v2), (None, Some(ChangePeerV2::default())));

    // Nobody else was told anything, and the id is not given twice.
    other_beats.send(RegionHeartbeatRequest::default()).await.expect("open");
    while let Ok(answer) = within_patience(other_answers.message()).await {
        assert_eq!(answer.expect("it ends with an error").region_id, 0);
    }
    let served = served.lose_power().await;
    let request = AllocIdRequest { header: served.header(), count: 1 };
    let next = served.client().await.alloc_id(request).await.expect("ids").into_inner();
    assert!(next.id > learner.id, "{} after {}", next.id, learner.id);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_region_is_cut_on_request_and_its_operator_is_shown() {
    let served = Served::start().await;
    served.bootstrap().await;
    served.store_beat(1).await;
    let (beats, mut answers) = served.heartbeats().await;
    beats.send(served.report(region(2, 1, "", ""))).await.expect("open");
    while served.region("any").await.leader.is_none() {
        tokio::task::yield_now().await;
    }
    let request = GetOperatorRequest { header: served.header(), region_id: 2 };
    let none = served.client().await.get_operator(request.clone()).await.expect("ask").into_inner();
    let error = none.header.expect("always").error.expect("there is none");
    assert_eq!(error.r#type(), ErrorType::RegionNotFound);

    let split = SplitRegionsRequest {
        header: served.header(),
        split_keys: vec!["m".into()],
        retry_limit: 100,
    };
    let mut client = served.client().await;
    let asked = tokio::spawn(async move { client.split_regions(split).await });
    let order = told(&mut answers).await.split_region.expect("the leader is to cut its region");
    assert_eq!((order.policy(), order.keys), (CheckPolicy::Usekey, vec!["m".into()]));
    let running = served.client().await.get_operator(request.clone()).await.expect("ask");
    let running = running.into_inner();
    assert_eq!(
        (running.status(), &running.desc[..]),
        (OperatorStatus::Running, &b"split-at-keys"[..])
    );

    beats.send(served.report(region(2, 2, "", "m"))).await.expect("open");
    beats.send(served.report(region(8, 2, "m", ""))).await.expect("open");
    let answer =
        within_patience(asked).await.expect("no panic").expect("SplitRegions").into_inner();
    assert_eq!((answer.finished_percentage, answer.regions_id), (100, vec![8]));
    let done = served.client().await.get_operator(request).await.expect("ask").into_inner();
    assert_eq!(done.status(), OperatorStatus::Success);
}

#[tokio::test(flavor = "multi_thread")]
async fn heartbeats_reach_the_disk_and_a_clean_stop_writes_the_last_ones() {
    let served = Served::start().await;
    served.bootstrap().await;
    let (beats, answers) = served.heartbeats().await;
    beats.send(served.report(region(2, 3, "", "m"))).await.expect("open");
    while served.region("any").await.leader.is_none() {
        tokio::task::yield_now().await;
    }
    drop((beats, answers));
    let (engine, clock) = (std::sync::Arc::clone(&served.engine), served.clock.clone());
    served.stop().await.expect("a clean stop");
    let served = Served::open(std::sync::Arc::new(engine.reopen()), clock).await;
    let known = served.region("any").await;
    assert_eq!((known.region, known.leader), (Some(region(2, 3, "", "m")), None));
}

#[tokio::test(flavor = "multi_thread")]
async fn open_streams_end_as_unavailable_when_the_server_stops() {
    let served = Served::start().await;
    let (_requests, mut timestamps) = served.timestamps().await;
    let (_beats, mut heartbeats) = served.heartbeats().await;
    let stopped = tokio::spawn(served.stop());
    let ended = within_patience(timestamps.message()).await.expect_err("stopped");
    assert_eq!(ended.code(), Code::Unavailable);
    let ended = loop {
        match within_patience(heartbeats.message()).await {
            Ok(answer) => assert!(answer.is_some(), "the stream ends with an error"),
            Err(status) => break status,
        }
    };
    assert_eq!(ended.code(), Code::Unavailable);
    within_patience(stopped).await.expect("no panic").expect("a clean stop");
}
