//! BatchCommands: every command answered once, whatever happens to its neighbours, its leader or other streams.

use std::collections::BTreeSet;

use bytes::Bytes;
use skerry_proto::kvrpcpb::*;
use skerry_proto::tikvpb::batch_commands_request::Request;
use skerry_proto::tikvpb::batch_commands_request::request::Cmd as Command;
use skerry_proto::tikvpb::batch_commands_response::response::Cmd as Answer;
use skerry_proto::tikvpb::{BatchCommandsEmptyRequest, BatchCommandsRequest};
use skerry_tests::client;
use skerry_tests::commands::CommandStream;
use skerry_tests::wait::Stopwatch;
use tonic::Code;

use super::*;

/// Streams that are open at the same time, on connections of so many each: fewer than a connection may have.
const STREAMS: usize = 10_000;
const STREAMS_PER_CONNECTION: usize = 1_000;
/// What a silent stream may cost the store.
const STREAM_BYTES_MAX: u64 = 48 << 10;

fn put(context: &Option<Context>, key: impl Into<Bytes>, value: impl Into<Bytes>) -> Command {
    let (context, key, value) = (context.clone(), key.into(), value.into());
    Command::RawPut(Box::new(RawPutRequest { context, key, value, ..Default::default() }))
}

fn get(context: &Option<Context>, key: impl Into<Bytes>) -> Command {
    let (context, key) = (context.clone(), key.into());
    Command::RawGet(Box::new(RawGetRequest { context, key, ..Default::default() }))
}

fn lock(context: &Option<Context>, start_version: u64) -> Command {
    let mutation =
        Mutation { op: Op::PessimisticLock.into(), key: "locked".into(), ..Default::default() };
    Command::PessimisticLock(Box::new(PessimisticLockRequest {
        context: context.clone(),
        mutations: vec![mutation],
        primary_lock: "locked".into(),
        start_version,
        for_update_ts: start_version,
        lock_ttl: 60_000,
        wait_timeout: 60_000,
        ..Default::default()
    }))
}

fn nothing(test_id: u64) -> Command {
    Command::Empty(Box::new(BatchCommandsEmptyRequest { test_id, delay_time: 0 }))
}

/// A command of one of many kinds.
fn any(context: &Option<Context>, number: u64) -> Command {
    let key = Bytes::from(format!("key {number:04}"));
    let version = number + 1;
    let context = context.clone();
    match number % 6 {
        0 => put(&context, key, "v"),
        1 => get(&context, key),
        2 => Command::Get(Box::new(GetRequest { context, key, version, ..Default::default() })),
        3 => Command::RawScan(Box::new(RawScanRequest {
            context,
            start_key: key,
            end_key: "z".into(),
            limit: 3,
            ..Default::default()
        })),
        4 => Command::Prewrite(Box::new(PrewriteRequest {
            context,
            mutations: vec![Mutation { key: key.clone(), value: "w".into(), ..Default::default() }],
            primary_lock: key,
            start_version: version,
            lock_ttl: 10,
            ..Default::default()
        })),
        _ => nothing(number),
    }
}

/// Whether it is an answer to [`any`] of this number, and a good one.
fn is_good(number: u64, answer: &Option<Answer>) -> bool {
    match (number % 6, answer) {
        (0, Some(Answer::RawPut(answer))) => *answer == RawPutResponse::default(),
        (1, Some(Answer::RawGet(answer))) => answer.region_error.is_none(),
        (2, Some(Answer::Get(answer))) => answer.not_found,
        (3, Some(Answer::RawScan(answer))) => answer.region_error.is_none(),
        (4, Some(Answer::Prewrite(answer))) => answer.errors.is_empty(),
        (5, Some(Answer::Empty(answer))) => answer.test_id == number,
        _ => false,
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_commands_on_one_stream_are_each_answered_once() {
    let cluster = Cluster::start().await;
    let context = cluster.client.context();
    let mut stream = CommandStream::open(cluster.client.store()).await.expect("a stream");
    for frame in 0..10 {
        let commands = (0..100).map(|step| any(&context, frame * 100 + step));
        stream.send(commands).await;
    }
    let mut answers = stream.take(1_000).await.expect("answers");
    answers.sort_by_key(|(id, _)| *id);
    let ids = answers.iter().map(|(id, _)| *id);
    assert!(ids.eq(1..=1_000), "each number once");
    for (id, answer) in &answers {
        // Numbers of commands begin with 1.
        assert!(is_good(id - 1, answer), "{id}: {answer:?}");
    }
    drop(stream);
    cluster.stop();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_command_that_waits_for_a_lock_holds_up_none_behind_it() {
    let cluster = Cluster::start().await;
    let context = cluster.client.context();
    let mut stream = CommandStream::open(cluster.client.store()).await.expect("a stream");
    let first = stream.send([lock(&context, 10)]).await;
    let answers = stream.take(1).await.expect("an answer");
    assert!(matches!(&answers[..], [(id, Some(Answer::PessimisticLock(_)))] if *id == first));

    let waits = stream.send([lock(&context, 11)]).await;
    let fast = stream.send((0..500).map(|number| any(&context, number))).await;
    let answers = stream.take(500).await.expect("answers");
    let ids: BTreeSet<u64> = answers.iter().map(|(id, _)| *id).collect();
    assert!(ids.into_iter().eq(fast..fast + 500), "all but the one that waits");

    let release = PessimisticRollbackRequest {
        context,
        start_version: 10,
        for_update_ts: 10,
        keys: vec!["locked".into()],
    };
    let release = stream.send([Command::PessimisticRollback(Box::new(release))]).await;
    let mut answers = stream.take(2).await.expect("answers");
    answers.sort_by_key(|(id, _)| *id);
    assert_eq!((answers[0].0, answers[1].0), (waits, release));
    let Some(Answer::PessimisticLock(locked)) = &answers[0].1 else { panic!("{answers:?}") };
    assert!(locked.errors.is_empty(), "{locked:?}");
    drop(stream);
    cluster.stop();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn when_the_leader_moves_each_command_is_told_and_the_stream_goes_on() {
    let cluster = Cluster::start().await;
    let context = cluster.client.context();
    let mut stream = CommandStream::open(cluster.client.store()).await.expect("a stream");
    let sent = stream.send((0..200).map(|number| put(&context, format!("{number}"), "v"))).await;
    cluster.move_leader().await;
    let after = stream.send((0..200).map(|number| put(&context, format!("{number}"), "w"))).await;
    stream.send([nothing(1)]).await;
    let answers = stream.take(401).await.expect("the stream goes on");
    let ids: BTreeSet<u64> = answers.iter().map(|(id, _)| *id).collect();
    assert!(ids.into_iter().eq(sent..sent + 401), "each is answered once");
    for (id, answer) in answers.iter().filter(|(id, _)| (after..after + 200).contains(id)) {
        let Some(Answer::RawPut(answer)) = answer else { panic!("{id}: {answer:?}") };
        let error = answer.region_error.as_ref().expect("another one leads");
        assert!(error.not_leader.is_some(), "{id}: {error:?}");
    }
    let now = connect(&cluster.process).await;
    let mut stream = CommandStream::open(now.store()).await.expect("a stream");
    stream.send([put(&now.context(), "0", "x")]).await;
    let answers = stream.take(1).await.expect("an answer");
    assert_eq!(answers[0].1, Some(Answer::RawPut(RawPutResponse::default())));
    drop(stream);
    cluster.stop();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_that_breaks_off_or_sends_nonsense_disturbs_no_other() {
    let cluster = Cluster::start().await;
    let context = cluster.client.context();
    let mut well = CommandStream::open(cluster.client.store()).await.expect("a stream");
    for round in 0..20_u64 {
        let mut gone = CommandStream::open(cluster.client.store()).await.expect("a stream");
        gone.send((0..200).map(|number| any(&context, number))).await;
        drop(gone);
        let mut broken = CommandStream::open(cluster.client.store()).await.expect("a stream");
        let request_ids = vec![round];
        broken.send_frame(BatchCommandsRequest { request_ids, ..Default::default() }).await;
        let end = broken.next().await.expect_err("an error ends it");
        assert_eq!(end.code(), Code::InvalidArgument);
        let first = well.send((0..50).map(|number| any(&context, 1_000 + number))).await;
        let answers = well.take(50).await.expect("answers");
        let ids: BTreeSet<u64> = answers.iter().map(|(id, _)| *id).collect();
        assert!(ids.into_iter().eq(first..first + 50));
    }
    drop(well);
    cluster.stop();
}

/// Sixteen megabytes in sixteen commands, and half a million commands in three: both fit, and neither is kept.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_huge_frame_is_served_like_small_ones() {
    let cluster = Cluster::start().await;
    let context = cluster.client.context();
    let mut stream = CommandStream::open(cluster.client.store()).await.expect("a stream");
    let value = Bytes::from(vec![7; 1 << 20]);
    stream.send((0..16).map(|number| put(&context, format!("{number}"), value.clone()))).await;
    let answers = stream.take(16).await.expect("answers");
    assert!(answers.iter().all(|(_, answer)| *answer == Some(Answer::RawPut(Default::default()))));
    stream.send((0..16).map(|number| get(&context, format!("{number}")))).await;
    let answers = stream.take(16).await.expect("answers");
    let is_whole =
        |answer: &Option<Answer>| matches!(answer, Some(Answer::RawGet(got)) if got.value == value);
    assert!(answers.iter().all(|(_, answer)| is_whole(answer)));

    let before = resident(&cluster);
    let count = 500_000;
    let requests = vec![Request { cmd: None }; count];
    let request_ids = (0..count as u64).collect();
    let frame = BatchCommandsRequest { requests, request_ids, ..Default::default() };
    stream.send_frame(frame).await;
    let answers = stream.take(count).await.expect("answers");
    assert!(answers.iter().all(|(_, answer)| answer.is_none()), "there is no such command");
    let grown = resident(&cluster).saturating_sub(before);
    println!("half a million commands in a frame: {} MiB more", grown >> 20);
    assert!(grown < 256 << 20, "{grown} bytes more");
    drop(stream);
    cluster.stop();
}

/// Bytes of the playground in memory, as its page says.
fn resident(cluster: &Cluster) -> u64 {
    let (_, page) = client::http(cluster.process.addresses().status, "GET", "/metrics");
    let line = page.lines().find_map(|line| line.strip_prefix("process_resident_memory_bytes "));
    line.and_then(|number| number.parse::<f64>().ok()).expect("the page has it") as u64
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_thousand_streams_cost_bounded_memory_and_are_all_served() {
    let cluster = Cluster::start().await;
    let address = cluster.process.addresses().store;
    let before = resident(&cluster);
    let watch = Stopwatch::start();
    let mut streams = Vec::new();
    while streams.len() < STREAMS {
        let connection = client::store(address);
        for _ in 0..STREAMS_PER_CONNECTION {
            let stream = CommandStream::open(connection.clone()).await;
            streams.push(stream.expect("a connection may have so many"));
        }
    }
    for round in 0..2 {
        for stream in &mut streams {
            stream.send([nothing(round)]).await;
        }
        for stream in &mut streams {
            assert_eq!(stream.take(1).await.expect("an answer").len(), 1);
        }
    }
    let each = resident(&cluster).saturating_sub(before) / STREAMS as u64;
    println!("{STREAMS} streams in {:?}: {each} bytes each", watch.elapsed());
    assert!(each < STREAM_BYTES_MAX, "{each} bytes for a silent stream");
    cluster.client.put("a friend", "is served").await.expect("a put");
    drop(streams);
    cluster.stop();
}
