//! Streams of commands: what is answered when, what ends a stream, and that nobody holds up others.
//!
//! The runtime has one thread and time is not waited for: [`settle`] lets every task go as far as it can.

use skerry_proto::tikvpb::batch_commands_request::Request as Sent;
use skerry_proto::tikvpb::batch_commands_request::request::Cmd as Command;
use skerry_proto::tikvpb::batch_commands_response::response::Cmd as Answer;
use skerry_proto::tikvpb::{BatchCommandsEmptyRequest, BatchCommandsEmptyResponse};
use tokio::sync::mpsc;
use tokio_stream::StreamExt;
use tokio_stream::wrappers::ReceiverStream;

use super::*;
use crate::server::admission::Room;
use crate::storage::Storage;

type Frames = mpsc::Sender<Result<BatchCommandsRequest, Status>>;

/// Both ends of a stream, as its client has them.
struct Line {
    frames: Frames,
    answers: ReceiverStream<Result<BatchCommandsResponse, Status>>,
}

impl Line {
    fn open(service: &KvService) -> Line {
        let (frames, inbound) = mpsc::channel(100);
        let inbound = ReceiverStream::new(inbound);
        let answers =
            crate::server::kv_service::batch::serve(service.clone(), inbound, Room::default());
        Line { frames, answers }
    }

    async fn send(&self, commands: impl IntoIterator<Item = (u64, Option<Command>)>) {
        let (request_ids, requests) =
            commands.into_iter().map(|(id, cmd)| (id, Sent { cmd })).unzip();
        let frame = BatchCommandsRequest { requests, request_ids, ..Default::default() };
        self.frames.send(Ok(frame)).await.expect("the stream is open");
    }

    /// Numbers and answers of the next frame.
    async fn next(&mut self) -> Vec<(u64, Option<Answer>)> {
        let frame = self.answers.next().await.expect("a frame").expect("answers");
        assert_eq!(frame.request_ids.len(), frame.responses.len());
        let answers = frame.responses.into_iter().map(|response| response.cmd);
        frame.request_ids.into_iter().zip(answers).collect()
    }

    async fn end(&mut self) -> Option<Status> {
        self.answers.next().await.map(|frame| frame.expect_err("the end"))
    }
}

/// Lets all tasks go as far as they can.
async fn settle() {
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
}

fn raw_put(key: &'static str, value: &'static str) -> Option<Command> {
    Some(Command::RawPut(Box::new(put(key, value).into_inner())))
}

fn raw_get(key: &'static str) -> Option<Command> {
    Some(Command::RawGet(Box::new(get(key).into_inner())))
}

fn nothing(test_id: u64) -> Option<Command> {
    Some(Command::Empty(Box::new(BatchCommandsEmptyRequest { test_id, delay_time: 0 })))
}

fn lock(start_version: u64) -> Option<Command> {
    let mutation =
        Mutation { op: Op::PessimisticLock.into(), key: "k".into(), ..Default::default() };
    Some(Command::PessimisticLock(Box::new(PessimisticLockRequest {
        context: context(),
        mutations: vec![mutation],
        primary_lock: "k".into(),
        start_version,
        for_update_ts: start_version,
        wait_timeout: 60_000,
        ..Default::default()
    })))
}

#[tokio::test]
async fn what_is_ready_leaves_together_and_waits_for_nothing_else() {
    let mut world = World::new();
    world.put("k", "v").await;
    let mut line = Line::open(&world.service);
    // Nobody turns the writer: the put waits.
    line.send([(7, raw_put("slow", "w")), (8, raw_get("k")), (9, nothing(5)), (10, None)]).await;
    let mut answers = line.next().await;
    answers.sort_by_key(|(id, _)| *id);
    let [(8, Some(Answer::RawGet(got))), (9, Some(empty)), (10, None)] = &answers[..] else {
        panic!("{answers:?}")
    };
    assert_eq!(got.value, "v");
    assert_eq!(*empty, Answer::Empty(BatchCommandsEmptyResponse { test_id: 5 }));
    assert!(world.writer.try_round().expect("written"));
    let answers = line.next().await;
    assert_eq!(answers, [(7, Some(Answer::RawPut(RawPutResponse::default())))]);
    drop(line.frames);
    assert!(line.answers.next().await.is_none(), "all is answered, and no more will be sent");
}

#[tokio::test]
async fn a_client_that_has_said_all_is_still_answered() {
    let mut world = World::new();
    let mut line = Line::open(&world.service);
    line.send([(1, raw_put("k", "v"))]).await;
    line.frames = mpsc::channel(1).0;
    settle().await;
    assert!(world.writer.try_round().expect("written"));
    assert_eq!(line.next().await.len(), 1);
    assert!(line.answers.next().await.is_none());
}

#[tokio::test]
async fn a_region_error_stands_in_its_own_answer() {
    let world = World::new();
    let mut line = Line::open(&world.service);
    let lost = RawGetRequest { context: stranger(), key: "k".into(), ..Default::default() };
    line.send([(1, Some(Command::RawGet(Box::new(lost)))), (2, raw_get("k"))]).await;
    let mut answers = line.next().await;
    answers.sort_by_key(|(id, _)| *id);
    let [(1, Some(Answer::RawGet(lost))), (2, Some(Answer::RawGet(got)))] = &answers[..] else {
        panic!("{answers:?}")
    };
    assert!(lost.region_error.as_ref().is_some_and(|error| error.store_not_match.is_some()));
    assert!(got.not_found && got.region_error.is_none());
}

#[tokio::test]
async fn a_frame_that_is_none_ends_its_stream_and_no_other() {
    let world = World::new();
    let (mut broken, mut other) = (Line::open(&world.service), Line::open(&world.service));
    let frame = BatchCommandsRequest { request_ids: vec![1], ..Default::default() };
    broken.frames.send(Ok(frame)).await.expect("open");
    let end = broken.end().await.expect("an error");
    assert_eq!(end.code(), Code::InvalidArgument);
    assert!(end.message().contains("0 commands names 1"), "{end}");
    assert!(broken.answers.next().await.is_none());

    let mut unreadable = Line::open(&world.service);
    unreadable.frames.send(Err(Status::internal("no protobuf"))).await.expect("open");
    assert_eq!(unreadable.end().await.expect("an error").code(), Code::Internal);
    other.send([(3, nothing(1))]).await;
    assert_eq!(other.next().await.len(), 1);
}

/// Each of a thousand commands waits for the only permit. Whoever does not take its answers gets no more of them, and
/// keeps the permit no longer for that.
#[tokio::test]
async fn a_client_that_does_not_read_holds_up_nobody() {
    let mut world = World::new();
    let mut silent = Line::open(&world.service);
    silent.send((0..1_000).map(|id| (id, raw_put("k", "v")))).await;
    settle().await;
    let service = world.service.clone();
    let mut friend = std::pin::pin!(service.raw_put(put("other", "w")));
    let reply = loop {
        tokio::select! {
            biased;
            reply = &mut friend => break reply,
            () = settle() => assert!(world.writer.try_round().expect("written")),
        }
    };
    assert_eq!(reply.expect("a reply").into_inner(), RawPutResponse::default());
    let mut ids = Vec::new();
    while ids.len() < 1_000 {
        ids.extend(silent.next().await.into_iter().map(|(id, _)| id));
    }
    ids.sort_unstable();
    assert_eq!(ids, Vec::from_iter(0..1_000), "each is answered once");
}

#[tokio::test]
async fn a_client_that_goes_away_waits_no_longer() {
    let mut world = World::new();
    let mut line = Line::open(&world.service);
    line.send([(1, lock(10))]).await;
    settle().await;
    assert!(world.writer.try_round().expect("written"));
    assert!(matches!(&line.next().await[..], [(1, Some(Answer::PessimisticLock(_)))]));
    line.send([(2, lock(11)), (3, lock(12))]).await;
    settle().await;
    assert_eq!(world.service.home.get_lock_wait_info().expect("edges").get_ref().entries.len(), 2);
    let waiting = world.service.home.get_lock_wait_info().expect("edges").into_inner().entries;
    assert_eq!((waiting[0].txn, waiting[0].wait_for_txn, &waiting[0].key[..]), (11, 10, &b"k"[..]));
    let history = |service: &KvService| {
        let waits = service.txn.get_lock_wait_history().expect("a list").into_inner().entries;
        waits.iter().map(|wait| (wait.txn, wait.wait_for_txn)).collect::<Vec<_>>()
    };
    assert!(history(&world.service).is_empty(), "they still wait");
    drop(line.answers);
    settle().await;
    assert!(world.service.home.get_lock_wait_info().expect("edges").get_ref().entries.is_empty());
    let mut ended = history(&world.service);
    ended.sort_unstable();
    assert_eq!(ended, [(11, 10), (12, 10)]);
}

#[tokio::test]
async fn frames_wait_for_the_room_of_others_and_for_no_more_than_that() {
    let mut world = World::new();
    world.service = world.service_in(|store| store.command_bytes_max = 100 << 10);
    let (first, mut second) = (Line::open(&world.service), Line::open(&world.service));
    first.send((0..99).map(|id| (id, raw_put("k", "v")))).await;
    settle().await;
    second.send([(1, nothing(1)), (2, nothing(2))]).await;
    settle().await;
    let soon = tokio::time::timeout(Default::default(), second.next()).await;
    assert!(soon.is_err(), "there is no room for two");
    drop(first);
    assert_eq!(second.next().await.len(), 2);
    assert_eq!(world.storage.permits().waiting(), 0);
}

#[tokio::test]
async fn the_health_of_the_store_is_told_when_it_changes() {
    let world = World::new();
    let mut line = Line::open(&world.service);
    let told = async |line: &mut Line, id| {
        line.send([(id, nothing(id))]).await;
        line.answers.next().await.expect("a frame").expect("answers").health_feedback
    };
    let first = told(&mut line, 1).await.expect("nothing was told before");
    assert_eq!((first.store_id, first.slow_score), (1, 1));
    assert!(told(&mut line, 2).await.is_none(), "nothing has changed");
    // One has the only permit, another waits.
    line.send([(3, raw_put("a", "v")), (4, raw_put("b", "v"))]).await;
    settle().await;
    let slow = told(&mut line, 5).await.expect("it has become slow");
    assert!(slow.slow_score == 100 && slow.feedback_seq_no > first.feedback_seq_no, "{slow:?}");
}

#[tokio::test]
async fn a_store_that_stops_answers_what_is_under_way_and_says_so() {
    let mut world = World::new();
    let (stop, stopping) = tokio::sync::watch::channel(false);
    world.service = world.service_in(|store| store.stopping = stopping);
    let mut line = Line::open(&world.service);
    line.send([(1, raw_put("k", "v"))]).await;
    settle().await;
    stop.send_replace(true);
    settle().await;
    assert!(line.frames.is_closed(), "nothing more is read");
    assert!(world.writer.try_round().expect("written"));
    assert!(matches!(&line.next().await[..], [(1, Some(Answer::RawPut(_)))]));
    assert_eq!(line.end().await.expect("an error").code(), Code::Unavailable);
}
