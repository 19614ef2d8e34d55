//! The shapes of replies: where a value, a region error, a text and a status stand in each of them.
//! What the calls mean is told in `raw/scripts`.

use std::pin::Pin;
use std::time::Duration;

use skerry_proto::kvrpcpb::Context;
use skerry_proto::metapb::{Peer, RegionEpoch};
use skerry_proto::types::{StoreId, Ts};
use skerry_raftstore::engine::memory::MemoryEngine;
use skerry_raftstore::time::ManualClock;
use tonic::Code;

use super::*;
use crate::raw::RawLimits;
use crate::storage::local::Writer;
use crate::storage::regions::fixed_regions;
use crate::storage::{ApiVersion, LocalLimits, LocalStorage};
use crate::txn::{Timestamps, TxnLimits};

mod batch;

/// These stories choose no timestamps.
struct NoScheduler;

impl Timestamps for NoScheduler {
    fn newest(&self) -> Pin<Box<dyn Future<Output = Ts> + Send + '_>> {
        Box::pin(std::future::pending())
    }

    fn passed(&self) -> Duration {
        Duration::ZERO
    }
}

/// A service of API V1 over a storage with room for one write, whose writer is turned by hand.
struct World {
    service: KvService,
    storage: Arc<LocalStorage>,
    writer: Writer,
    raw: Arc<RawStore>,
    txn: Arc<TxnStore>,
    engine: Arc<MemoryEngine>,
}

impl World {
    fn new() -> World {
        World::where_locks_are_waited_for(Duration::from_secs(60))
    }

    fn where_locks_are_waited_for(lock_wait: Duration) -> World {
        let regions = fixed_regions(ApiVersion::V1, StoreId::new(1), &[2, 3, 4, 5]);
        let limits = LocalLimits { pending_commands_max: 1, ..LocalLimits::default() };
        let engine = Arc::new(MemoryEngine::new());
        let (storage, writer) =
            LocalStorage::by_hand(engine.clone(), StoreId::new(1), regions, limits);
        let clock = Arc::new(ManualClock::at(1_000_000));
        let limits = RawLimits { reply_bytes_max: 10_000, ..RawLimits::default() };
        let raw = RawStore::new(storage.clone(), ApiVersion::V1, clock, limits);
        let limits = TxnLimits { key_bytes_max: 100, reply_bytes_max: 10_000, lock_wait };
        let (version, reads) = (ApiVersion::V1, raw.read_pool().clone());
        let txn = TxnStore::new(storage.clone(), version, limits, Arc::new(NoScheduler), reads);
        let (raw, txn) = (Arc::new(raw), Arc::new(txn));
        let bare = Surroundings::bare(StoreId::new(1), engine.clone(), storage.clone());
        let service = KvService::new(raw.clone(), txn.clone(), bare);
        World { service, storage, writer, raw, txn, engine }
    }

    /// Another service over the same data, in other surroundings.
    fn service_in(&self, change: impl FnOnce(&mut Surroundings)) -> KvService {
        let (engine, storage) = (self.engine.clone(), self.storage.clone());
        let mut surroundings = Surroundings::bare(StoreId::new(1), engine, storage);
        change(&mut surroundings);
        KvService::new(self.raw.clone(), self.txn.clone(), surroundings)
    }

    /// Runs a write, turning the writer once it has been accepted.
    async fn write<T>(&mut self, call: impl Future<Output = Reply<T>>) -> T {
        let mut call = std::pin::pin!(call);
        tokio::select! {
            biased;
            reply = &mut call => return reply.expect("a reply").into_inner(),
            () = async {} => {}
        }
        assert!(self.writer.try_round().expect("written"));
        call.await.expect("a reply").into_inner()
    }

    async fn put(&mut self, key: &'static str, value: &'static str) {
        let service = self.service.clone();
        let reply = self.write(service.raw_put(put(key, value))).await;
        assert_eq!(reply, RawPutResponse::default());
    }
}

fn context() -> Option<Context> {
    Some(Context {
        region_id: 2,
        region_epoch: Some(RegionEpoch { conf_ver: 1, version: 1 }),
        peer: Some(Peer { id: 3, store_id: 1, ..Default::default() }),
        ..Default::default()
    })
}

/// A context that knows nothing of this store.
fn stranger() -> Option<Context> {
    Some(Context::default())
}

fn put(key: &'static str, value: &'static str) -> Request<RawPutRequest> {
    let (key, value) = (key.into(), value.into());
    Request::new(RawPutRequest { context: context(), key, value, ..Default::default() })
}

fn get(key: &'static str) -> Request<RawGetRequest> {
    Request::new(RawGetRequest { context: context(), key: key.into(), ..Default::default() })
}

#[tokio::test]
async fn a_value_an_empty_value_and_none_are_three_things() {
    let mut world = World::new();
    world.put("k", "v").await;
    world.put("empty", "").await;
    let service = &world.service;
    let reply = service.raw_get(get("k")).await.expect("a reply").into_inner();
    assert_eq!((reply.not_found, &reply.value[..]), (false, &b"v"[..]));
    let reply = service.raw_get(get("empty")).await.expect("a reply").into_inner();
    assert_eq!((reply.not_found, &reply.value[..]), (false, &b""[..]));
    let reply = service.raw_get(get("nothing")).await.expect("a reply").into_inner();
    assert_eq!((reply.not_found, &reply.value[..]), (true, &b""[..]));
    assert!(reply.error.is_empty() && reply.region_error.is_none());
}

#[tokio::test]
async fn a_request_for_nobody_is_redirected_in_every_reply() {
    let world = World::new();
    let service = &world.service;
    let redirected = |error: Option<skerry_proto::errorpb::Error>| {
        assert!(error.expect("a region error").store_not_match.is_some());
    };
    let request = RawGetRequest { context: stranger(), key: "k".into(), ..Default::default() };
    let reply = service.raw_get(Request::new(request)).await.expect("a reply").into_inner();
    assert!(!reply.not_found && reply.error.is_empty());
    redirected(reply.region_error);

    let (keys, ranges) = (vec!["k".into()], vec![KeyRange::default()]);
    let request = RawBatchGetRequest { context: None, keys: keys.clone(), ..Default::default() };
    let reply = service.raw_batch_get(Request::new(request)).await.expect("a reply").into_inner();
    assert!(reply.pairs.is_empty());
    redirected(reply.region_error);

    let request = RawScanRequest { context: stranger(), limit: 1, ..Default::default() };
    let reply = service.raw_scan(Request::new(request)).await.expect("a reply").into_inner();
    assert!(reply.kvs.is_empty());
    redirected(reply.region_error);

    let request = RawBatchDeleteRequest { context: None, keys, ..Default::default() };
    let reply =
        service.raw_batch_delete(Request::new(request)).await.expect("a reply").into_inner();
    redirected(reply.region_error);

    let request = RawChecksumRequest { context: None, ranges, ..Default::default() };
    let reply = service.raw_checksum(Request::new(request)).await.expect("a reply").into_inner();
    redirected(reply.region_error);
}

#[tokio::test]
async fn what_can_never_succeed_is_a_text_or_the_error_of_the_first_pair() {
    let world = World::new();
    let service = &world.service;
    let reply = service.raw_get(get("")).await.expect("a reply").into_inner();
    assert!(reply.error.contains("0-byte keys") && reply.region_error.is_none());
    let reply = service.raw_put(put("", "v")).await.expect("a reply").into_inner();
    assert!(reply.error.contains("0-byte keys"));

    let keys = vec!["k".into(), "".into()];
    let request = RawBatchGetRequest { context: context(), keys, ..Default::default() };
    let reply = service.raw_batch_get(Request::new(request)).await.expect("a reply").into_inner();
    let [KvPair { error: Some(error), .. }] = &reply.pairs[..] else { panic!("{reply:?}") };
    assert!(error.abort.contains("0-byte keys"));

    let request = RawScanRequest { context: context(), cf: "other".into(), ..Default::default() };
    let reply = service.raw_scan(Request::new(request)).await.expect("a reply").into_inner();
    let [KvPair { error: Some(error), .. }] = &reply.kvs[..] else { panic!("{reply:?}") };
    assert!(error.abort.contains("\"other\" is not served"));

    let pair = |key: &'static str| KvPair { key: key.into(), ..Default::default() };
    let request = RawBatchPutRequest {
        context: context(),
        pairs: vec![pair("a"), pair("b"), pair("c")],
        ttls: vec![1, 2],
        ..Default::default()
    };
    let reply = service.raw_batch_put(Request::new(request)).await.expect("a reply").into_inner();
    assert!(reply.error.starts_with("2 TTLs for 3 pairs"), "{}", reply.error);
}

#[tokio::test]
async fn fields_with_two_meanings_are_read_as_clients_mean_them() {
    let mut world = World::new();
    let service = world.service.clone();
    let pair =
        |key: &'static str| KvPair { key: key.into(), value: "v".into(), ..Default::default() };
    // One TTL for all, besides the old field that some clients still fill.
    let request = RawBatchPutRequest {
        context: context(),
        pairs: vec![pair("a"), pair("b"), pair("c")],
        ttl: 9,
        ttls: vec![5],
        ..Default::default()
    };
    world.write(service.raw_batch_put(Request::new(request))).await;
    let request = RawGetKeyTtlRequest { context: context(), key: "b".into(), ..Default::default() };
    let reply = service.raw_get_key_ttl(Request::new(request)).await.expect("a reply").into_inner();
    assert_eq!((reply.ttl, reply.not_found), (5, false));

    // A reverse scan begins at its upper bound.
    let request = RawScanRequest {
        context: context(),
        start_key: "c".into(),
        end_key: "a".into(),
        limit: 10,
        reverse: true,
        ..Default::default()
    };
    let reply = service.raw_scan(Request::new(request)).await.expect("a reply").into_inner();
    let keys: Vec<_> = reply.kvs.iter().map(|pair| pair.key.clone()).collect();
    assert_eq!(keys, ["b", "a"]);

    // An expected value counts only if one is expected.
    let mut request = RawCasRequest {
        context: context(),
        key: "a".into(),
        value: "w".into(),
        previous_not_exist: true,
        previous_value: "v".into(),
        ..Default::default()
    };
    let reply = service.raw_compare_and_swap(Request::new(request.clone())).await;
    let reply = reply.expect("a reply").into_inner();
    assert!(!reply.succeed && !reply.previous_not_exist);
    assert_eq!(reply.previous_value, "v");
    request.previous_not_exist = false;
    request.delete = true;
    let reply = world.write(service.raw_compare_and_swap(Request::new(request))).await;
    assert!(reply.succeed && !reply.previous_not_exist);
    let reply = service.raw_get(get("a")).await.expect("a reply").into_inner();
    assert!(reply.not_found);
}

/// Their clients look at region errors alone, and take what else comes for all that there is.
#[tokio::test]
async fn an_answer_of_pairs_that_is_too_large_is_an_error_that_clients_see() {
    let mut world = World::new();
    for key in ["a", "b"] {
        let value = vec![b'v'; 6_000].into();
        let put =
            RawPutRequest { context: context(), key: key.into(), value, ..Default::default() };
        let service = world.service.clone();
        assert_eq!(
            world.write(service.raw_put(Request::new(put))).await,
            RawPutResponse::default()
        );
    }
    let service = &world.service;
    let seen = |error: Option<skerry_proto::errorpb::Error>, pairs: Vec<KvPair>| {
        let error = error.expect("it is too large");
        assert!(error.raft_entry_too_large.is_some() && pairs.is_empty(), "{error:?}");
        assert!(error.message.contains("ask for fewer pairs"), "{error:?}");
    };
    let scan = RawScanRequest { context: context(), limit: 9, ..Default::default() };
    let reply = service.raw_scan(Request::new(scan)).await.expect("a reply").into_inner();
    seen(reply.region_error, reply.kvs);
    let keys = vec!["a".into(), "b".into()];
    let get = RawBatchGetRequest { context: context(), keys, ..Default::default() };
    let reply = service.raw_batch_get(Request::new(get)).await.expect("a reply").into_inner();
    seen(reply.region_error, reply.pairs);
    let (ranges, each_limit) = (vec![KeyRange::default()], 9);
    let scan = RawBatchScanRequest { context: context(), ranges, each_limit, ..Default::default() };
    let reply = service.raw_batch_scan(Request::new(scan)).await.expect("a reply").into_inner();
    seen(reply.region_error, reply.kvs);
}

/// The deadlines are real and short; what comes out does not depend on which of them is met first.
#[tokio::test]
async fn a_write_that_found_no_room_is_busy_and_one_that_did_is_unknown() {
    let mut world = World::new();
    let service = world.service.clone();
    let mut by_header = put("k", "v");
    by_header.metadata_mut().insert("grpc-timeout", "2m".parse().expect("a header"));
    let mut by_context = put("k", "v");
    by_context.get_mut().context.get_or_insert_default().max_execution_duration_ms = 1;
    // Nobody turns the writer: the first takes the only place, and its time runs out there.
    let (accepted, waiting) = tokio::join!(service.raw_put(by_header), service.raw_put(by_context));
    let status = accepted.expect_err("its outcome is unknown");
    assert_eq!(status.code(), Code::DeadlineExceeded);
    assert!(status.message().contains("outcome is unknown"), "{status}");
    let error = waiting.expect("a reply").into_inner().region_error.expect("certainly not done");
    assert!(error.server_is_busy.is_some());
    // And indeed: the one is done later, the other never.
    assert!(world.writer.try_round().expect("written"));
    assert!(!world.writer.try_round().expect("nothing is left"));
    assert_eq!(world.storage.counts().commands, 1);
}

/// It chooses its commit timestamp itself, for which it must hear of the scheduler, and there is none.
#[tokio::test]
async fn a_write_whose_time_ends_before_it_began_is_busy_and_has_kept_no_room() {
    let mut world = World::new();
    let service = world.service.clone();
    let mut waiting = prewrite("k", "v", 10);
    waiting.get_mut().try_one_pc = true;
    waiting.get_mut().context.get_or_insert_default().max_execution_duration_ms = 50;
    let mut waiting = std::pin::pin!(service.kv_prewrite(waiting));
    tokio::select! {
        biased;
        reply = &mut waiting => panic!("there is no scheduler: {reply:?}"),
        () = async {} => {}
    }
    world.put("other", "v").await;
    let error = waiting.await.expect("a reply").into_inner().region_error;
    let busy = error.and_then(|error| error.server_is_busy).expect("certainly not done");
    assert!(busy.reason.contains("before the write began"), "{busy:?}");
    assert_eq!(world.storage.counts().commands, 1, "only the other was written");
}

#[tokio::test]
async fn a_lost_request_is_unknown_and_a_stopped_store_is_unavailable() {
    let World { service, storage, writer, .. } = World::new();
    // The queue is closed and thrown away with what was accepted: nothing else can lose a request.
    let lose = async {
        storage.stop();
        drop(writer);
    };
    let (lost, ()) = tokio::join!(service.raw_put(put("k", "v")), lose);
    assert_eq!(lost.expect_err("nobody knows").code(), Code::Unknown);
    assert_eq!(storage.unanswered(), 1);
    let refused = service.raw_put(put("k", "v")).await.expect_err("not done");
    assert_eq!(refused.code(), Code::Unavailable);
}

#[tokio::test]
async fn what_is_not_served_says_so() {
    let world = World::new();
    let status = world.service.kv_gc(Request::new(GcRequest::default())).await;
    assert_eq!(status.expect_err("not yet").code(), Code::Unimplemented);
}

/// A prewrite of one pair, optimistic and in two phases.
fn prewrite(
    key: &'static str,
    value: &'static str,
    start_version: u64,
) -> Request<PrewriteRequest> {
    let mutation = Mutation { key: key.into(), value: value.into(), ..Default::default() };
    Request::new(PrewriteRequest {
        context: context(),
        mutations: vec![mutation],
        primary_lock: key.into(),
        start_version,
        lock_ttl: 1_000,
        ..Default::default()
    })
}

fn get_at(key: &'static str, version: u64) -> Request<GetRequest> {
    let key = key.into();
    Request::new(GetRequest { context: context(), key, version, ..Default::default() })
}

#[tokio::test]
async fn a_transaction_is_read_when_it_has_committed_and_its_lock_is_shown_before() {
    let mut world = World::new();
    let service = world.service.clone();
    let reply = world.write(service.kv_prewrite(prewrite("k", "v", 10))).await;
    assert_eq!(reply, PrewriteResponse::default());
    let reply = service.kv_get(get_at("k", 11)).await.expect("a reply").into_inner();
    let locked = reply.error.expect("it is locked").locked.expect("by a lock");
    assert_eq!((locked.lock_version, locked.lock_ttl, &locked.key[..]), (10, 1_000, &b"k"[..]));
    let keys = vec!["k".into(), "other".into()];
    let many = BatchGetRequest { context: context(), keys, version: 11, ..Default::default() };
    let reply = service.kv_batch_get(Request::new(many)).await.expect("a reply").into_inner();
    assert!(reply.pairs.len() == 1 && reply.pairs[0].error.is_some(), "{reply:?}");

    let commit = CommitRequest {
        context: context(),
        start_version: 10,
        keys: vec!["k".into()],
        commit_version: 20,
        ..Default::default()
    };
    let reply = world.write(service.kv_commit(Request::new(commit))).await;
    assert_eq!(reply, CommitResponse { commit_version: 20, ..Default::default() });
    let reply = service.kv_get(get_at("k", 20)).await.expect("a reply").into_inner();
    assert_eq!((reply.not_found, &reply.value[..], reply.commit_ts), (false, &b"v"[..], 0));
    let reply = service.kv_get(get_at("k", 19)).await.expect("a reply").into_inner();
    assert!(reply.not_found && reply.error.is_none());

    // A level that wants to hear of everything newer is refused: nobody here would tell.
    let mut checked = get_at("k", 15);
    checked.get_mut().context.get_or_insert_default().isolation_level =
        IsolationLevel::RcCheckTs.into();
    let reply = service.kv_get(checked).await.expect("a reply").into_inner();
    let words = reply.error.expect("it is refused").abort;
    assert!(words.contains("isolation level 2"), "{words:?}");

    let late = service.kv_prewrite(prewrite("k", "late", 15)).await.expect("a reply").into_inner();
    assert_eq!(late.errors[0].conflict.as_ref().map(|found| found.conflict_commit_ts), Some(20));
}

/// Whoever meets its locks asks at these keys: one that nobody can ask at would keep the lock, and what is collected,
/// for ever.
#[tokio::test]
async fn keys_at_which_others_will_ask_must_be_keys() {
    let world = World::new();
    for (primary, secondary) in [("", "s"), ("k", ""), ("k", &"s".repeat(101))] {
        let mut request = prewrite("k", "v", 10);
        let wire = request.get_mut();
        wire.primary_lock = primary.to_string().into();
        wire.use_async_commit = true;
        wire.secondaries = vec![secondary.to_string().into()];
        let reply = world.service.kv_prewrite(request).await.expect("a reply").into_inner();
        assert!(!reply.errors[0].abort.is_empty(), "{primary:?} {secondary:?}: {reply:?}");
    }
}

/// Asks for the lock of one key, the same in all.
fn lock(start_version: u64, wait_timeout: i64) -> Request<PessimisticLockRequest> {
    let mutation =
        Mutation { op: Op::PessimisticLock.into(), key: "k".into(), ..Default::default() };
    Request::new(PessimisticLockRequest {
        context: context(),
        mutations: vec![mutation],
        primary_lock: "k".into(),
        start_version,
        for_update_ts: start_version,
        wait_timeout,
        return_values: true,
        ..Default::default()
    })
}

/// The owner may have died, or the region may be led elsewhere by now, where its locks are taken away: the client
/// alone can find out, and only when it is answered.
#[tokio::test]
async fn a_lock_request_waits_no_longer_than_the_store_lets_it_whatever_its_client_says() {
    let mut world = World::where_locks_are_waited_for(Duration::from_millis(1));
    let service = world.service.clone();
    let reply = world.write(service.kv_pessimistic_lock(lock(10, 0))).await;
    assert!(reply.errors.is_empty(), "{reply:?}");
    for wait_timeout in [0, 3_600_000, i64::MAX] {
        let reply = service.kv_pessimistic_lock(lock(11, wait_timeout)).await.expect("a reply");
        let locked = reply.into_inner().errors.remove(0).locked.expect("it is told of the lock");
        assert_eq!(locked.lock_version, 10);
    }
}

/// A reader that knows the end of a transaction reads through its lock, which does not say when it was committed.
#[tokio::test]
async fn who_wants_to_know_when_a_value_was_committed_is_told_of_the_lock() {
    let mut world = World::new();
    let service = world.service.clone();
    let reply = world.write(service.kv_prewrite(prewrite("k", "v", 10))).await;
    assert_eq!(reply, PrewriteResponse::default());
    let knowing = |need_commit_ts| {
        let mut get = get_at("k", 30);
        get.get_mut().context.get_or_insert_default().committed_locks = vec![10];
        get.get_mut().need_commit_ts = need_commit_ts;
        get
    };
    let reply = service.kv_get(knowing(false)).await.expect("a reply").into_inner();
    assert_eq!((&reply.value[..], reply.error), (&b"v"[..], None));
    let reply = service.kv_get(knowing(true)).await.expect("a reply").into_inner();
    assert!(reply.error.expect("it is told").locked.is_some());
}

#[tokio::test]
async fn a_lock_request_that_does_not_wait_is_answered_with_the_lock() {
    let mut world = World::new();
    let service = world.service.clone();
    let reply = world.write(service.kv_pessimistic_lock(lock(10, 0))).await;
    assert_eq!((reply.values.len(), reply.not_founds, reply.results.len()), (1, vec![true], 0));
    let reply = service.kv_pessimistic_lock(lock(11, -1)).await.expect("a reply").into_inner();
    assert_eq!(reply.errors[0].locked.as_ref().map(|lock| lock.lock_version), Some(10));
    // Clients that lock over newer versions want to hear of each key, also that it failed.
    let mut force = lock(11, -1);
    force.get_mut().wake_up_mode = PessimisticLockWakeUpMode::WakeUpModeForceLock.into();
    let reply = service.kv_pessimistic_lock(force).await.expect("a reply").into_inner();
    assert!(reply.errors.len() == 1 && reply.errors[0].locked.is_some(), "{reply:?}");
    let kinds: Vec<_> = reply.results.iter().map(PessimisticLockKeyResult::r#type).collect();
    assert_eq!(kinds, [PessimisticLockKeyResultType::LockResultFailed]);
    let mut waiting = Box::pin(service.kv_pessimistic_lock(lock(12, 60_000)));
    tokio::select! {
        biased;
        reply = &mut waiting => panic!("{reply:?}"),
        () = async {} => {}
    }
    let release = PessimisticRollbackRequest {
        context: context(),
        start_version: 10,
        for_update_ts: 10,
        keys: vec!["k".into()],
    };
    let reply = world.write(service.kv_pessimistic_rollback(Request::new(release))).await;
    assert!(reply.errors.is_empty() && reply.region_error.is_none());
    let reply = world.write(waiting).await;
    assert!(reply.errors.is_empty(), "{reply:?}");
}

#[tokio::test]
async fn a_transaction_for_nobody_is_redirected_and_a_bad_one_refused_in_words() {
    let world = World::new();
    let service = &world.service;
    let request =
        GetRequest { context: stranger(), key: "k".into(), version: 9, ..Default::default() };
    let reply = service.kv_get(Request::new(request)).await.expect("a reply").into_inner();
    assert!(reply.region_error.expect("a region error").store_not_match.is_some());
    let reply = service.kv_get(get_at("", 9)).await.expect("a reply").into_inner();
    assert!(reply.error.expect("it is refused").abort.contains("empty"));
    let mut request = prewrite("k", "v", 9);
    request.get_mut().mutations[0].op = 77;
    let reply = service.kv_prewrite(request).await.expect("a reply").into_inner();
    assert!(reply.errors[0].abort.contains("77"), "{reply:?}");
}
