//! Stories about commands that meet: over local storage whose writer is turned by hand, so that a write is under way
//! for exactly as long as the story wants.

use std::future::Future;
use std::pin::Pin;
use std::sync::Mutex;
use std::task::{Context as TaskContext, Poll, Waker};
use std::time::Duration;

use bytes::Bytes;
use futures_channel::oneshot;
use skerry_proto::kvrpcpb::{
    self, CheckSecondaryLocksResponse, CheckTxnStatusRequest, CheckTxnStatusResponse,
};
use skerry_proto::types::StoreId;
use skerry_raftstore::engine::memory::MemoryEngine;

use super::super::check_secondary_locks::CheckSecondaryLocks;
use super::super::check_txn_status::CheckTxnStatus;
use super::super::commit::Commit;
use super::super::get::{BatchGet, Get, Gotten};
use super::super::heartbeat::HeartBeat;
use super::super::pessimistic_rollback::PessimisticRollback;
use super::super::prewrite::{Change, Mutation, Prewrite, Prewritten, Way};
use super::super::read_index::ReadIndex;
use super::super::resolve_lock::{ResolveLite, ResolveRegion};
use super::super::rollback::{Cleanup, Rollback};
use super::super::scan::Scan;
use super::super::scan_lock::ScanLock;
use super::*;
use crate::gc::resolve::{Asked, Elsewhere, free_region};
use crate::mvcc::ReadRules;
use crate::storage::local::Writer;
use crate::storage::regions::fixed_regions;
use crate::storage::{LocalLimits, LocalStorage};

type Going<T> = Pin<Box<dyn Future<Output = T>>>;

/// A scheduler that answers when the story says so.
#[derive(Default)]
struct Scheduler {
    asked: Mutex<Vec<oneshot::Sender<Ts>>>,
}

impl Scheduler {
    /// Answers all who have asked; says how many.
    fn answer(&self, ts: u64) -> usize {
        let asked = std::mem::take(&mut *self.asked.lock().unwrap());
        let count = asked.len();
        asked.into_iter().for_each(|sender| sender.send(Ts::from(ts)).unwrap());
        count
    }
}

impl Timestamps for Scheduler {
    fn newest(&self) -> Pin<Box<dyn Future<Output = Ts> + Send + '_>> {
        let (sender, receiver) = oneshot::channel();
        self.asked.lock().unwrap().push(sender);
        Box::pin(async { receiver.await.unwrap() })
    }

    fn passed(&self) -> Duration {
        Duration::ZERO
    }
}

struct World {
    store: Arc<TxnStore>,
    scheduler: Arc<Scheduler>,
    storage: Arc<LocalStorage>,
    writer: Writer,
}

impl World {
    fn new() -> World {
        let regions = fixed_regions(ApiVersion::V1, StoreId::new(1), &[2, 3, 4, 5]);
        let limits = LocalLimits { pending_commands_max: 4, ..LocalLimits::default() };
        let engine = Arc::new(MemoryEngine::new());
        let (storage, writer) = LocalStorage::by_hand(engine, StoreId::new(1), regions, limits);
        let scheduler = Arc::new(Scheduler::default());
        let limits = TxnLimits {
            key_bytes_max: 100,
            reply_bytes_max: 1_000,
            lock_wait: Duration::from_secs(60),
        };
        let reads = ReadPool::start(0, 1);
        let store =
            TxnStore::new(storage.clone(), ApiVersion::V1, limits, scheduler.clone(), reads);
        World { store: Arc::new(store), scheduler, storage, writer }
    }

    /// Begins a write, as far as it goes by itself.
    fn begin<C>(&self, command: C) -> Going<Result<C::Answer>>
    where
        C: WriteCommand + 'static,
    {
        let store = self.store.clone();
        begin(async move {
            let permit = store.permits().acquire(1).await;
            store.write(&context(), &command, permit).await
        })
    }

    fn begin_read<C>(&self, command: C) -> Going<Result<()>>
    where
        C: ReadCommand + 'static,
    {
        let store = self.store.clone();
        begin(async move { store.read(&context(), command).await.map(drop) })
    }

    fn begin_lock(&self, command: PessimisticLock, turn: Option<Turn>) -> Going<Result<Locking>> {
        let store = self.store.clone();
        begin(async move {
            let permit = store.permits().acquire(1).await;
            store.lock(&context(), &command, turn, permit).await
        })
    }

    /// Runs a write to its end.
    fn write<C: WriteCommand + 'static>(&mut self, command: C) -> Result<C::Answer> {
        let mut going = self.begin(command);
        self.writer.try_round().unwrap();
        poll(&mut going).expect("nothing is in its way")
    }

    fn lock(&mut self, command: PessimisticLock, turn: Option<Turn>) -> Result<Locking> {
        let mut going = self.begin_lock(command, turn);
        self.writer.try_round().unwrap();
        poll(&mut going).expect("nothing is in its way")
    }

    /// Begins to wait for another's lock.
    fn wait(&mut self, command: PessimisticLock) -> Going<Turn> {
        match self.lock(command, None) {
            Ok(Locking::Wait { wait, .. }) => begin(wait.turn()),
            Ok(Locking::Done(_)) => panic!("the key is free"),
            Err(error) => panic!("{error}"),
        }
    }

    fn get(&self, user: &str, ts: u64) -> Result<Option<Bytes>> {
        let (store, key) = (self.store.clone(), key(user));
        let get = Get { key, rules: ReadRules::at(Ts::from(ts)) };
        let mut going: Going<Result<Gotten>> =
            begin(async move { store.read(&context(), get).await });
        let gotten = poll(&mut going).expect("a read of local storage waits for nobody");
        gotten.map(|gotten| gotten.version.map(|version| version.value))
    }
}

/// A future that was polled once, so that it stands where it has to wait.
fn begin<T: 'static>(future: impl Future<Output = T> + 'static) -> Going<T> {
    let mut future = Box::pin(future) as Going<T>;
    match poll(&mut future) {
        Some(done) => Box::pin(async { done }),
        None => future,
    }
}

fn poll<T>(going: &mut Going<T>) -> Option<T> {
    match going.as_mut().poll(&mut TaskContext::from_waker(Waker::noop())) {
        Poll::Ready(done) => Some(done),
        Poll::Pending => None,
    }
}

fn context() -> RequestContext {
    let (id, store_id) = (3, 1);
    RequestContext::from(&kvrpcpb::Context {
        region_id: 2,
        region_epoch: Some(skerry_proto::metapb::RegionEpoch { conf_ver: 1, version: 1 }),
        peer: Some(skerry_proto::metapb::Peer { id, store_id, ..Default::default() }),
        ..Default::default()
    })
}

fn key(user: &str) -> Key {
    Key::of(user.as_bytes())
}

fn put(user: &'static str, start_ts: u64, way: Way) -> Prewrite {
    Prewrite {
        mutations: vec![Mutation::new(key(user), Change::Put(Bytes::from_static(b"v")))],
        primary: Bytes::from_static(user.as_bytes()),
        start_ts: Ts::from(start_ts),
        ttl_ms: 1_000,
        txn_size: 1,
        for_update_ts: Ts::ZERO,
        min_commit_ts: Ts::ZERO,
        max_commit_ts: Ts::ZERO,
        assertion_level: kvrpcpb::AssertionLevel::Off,
        way,
    }
}

fn status_of(user: &str, start_ts: u64) -> CheckTxnStatus {
    CheckTxnStatus {
        primary: key(user),
        start_ts: Ts::from(start_ts),
        caller_start_ts: Ts::ZERO,
        current_ts: Ts::ZERO,
        rollback_if_not_exist: false,
        force_sync_commit: false,
        resolving_pessimistic_lock: false,
        verify_is_primary: false,
    }
}

fn heart_beat(min_commit_ts: Ts) -> HeartBeat {
    HeartBeat { primary: key("k"), start_ts: Ts::from(10), ttl_ms: 1, min_commit_ts }
}

fn scan_at(ts: Ts) -> Scan {
    Scan::new(Bytes::new(), Bytes::new(), 1, ReadRules::at(ts))
}

/// Only whether it was done.
fn told<T: 'static>(going: Going<Result<T>>) -> Going<Result<()>> {
    Box::pin(async { going.await.map(drop) })
}

fn commit(user: &str, start_ts: u64, commit_ts: u64) -> Commit {
    Commit { keys: vec![key(user)], start_ts: Ts::from(start_ts), commit_ts: Ts::from(commit_ts) }
}

fn lock(user: &'static str, start_ts: u64, for_update_ts: u64) -> PessimisticLock {
    PessimisticLock {
        keys: vec![(key(user), false)],
        primary: Bytes::from_static(user.as_bytes()),
        start_ts: Ts::from(start_ts),
        ttl_ms: 1_000,
        for_update_ts: Ts::from(for_update_ts),
        min_commit_ts: Ts::ZERO,
        return_values: true,
        check_existence: false,
        lock_only_if_exists: false,
        force: false,
        no_wait: false,
    }
}

fn unlock(user: &str, start_ts: u64) -> PessimisticRollback {
    let (start_ts, for_update_ts) = (Ts::from(start_ts), Ts::MAX);
    PessimisticRollback { keys: vec![key(user)], start_ts, for_update_ts }
}

#[test]
fn of_two_that_race_for_a_key_the_second_finds_the_lock_of_the_first() {
    let mut world = World::new();
    let mut first = world.begin(put("k", 10, Way::TwoPhases));
    let mut second = world.begin(put("k", 11, Way::TwoPhases));
    let mut other = world.begin(put("other", 12, Way::TwoPhases));
    assert!(world.writer.try_round().unwrap(), "the first and the other are written");
    assert!(matches!(poll(&mut first), Some(Ok(Prewritten::Done { .. }))));
    assert!(matches!(poll(&mut other), Some(Ok(Prewritten::Done { .. }))));
    let Some(Ok(Prewritten::Locked(in_the_way))) = poll(&mut second) else {
        panic!("it had to wait for the latch, and then to find the lock");
    };
    assert!(
        matches!(&in_the_way[..], [Error::Locked { lock, .. }] if lock.start_ts == Ts::from(10))
    );
    world.write(commit("k", 10, 20)).unwrap();
    assert!(matches!(world.write(put("k", 11, Way::TwoPhases)), Err(Error::WriteConflict(_))));
    assert_eq!(world.get("k", 20).unwrap(), Some(Bytes::from_static(b"v")));
    assert_eq!(world.get("k", 19).unwrap(), None, "it was not committed then");
}

#[test]
fn a_client_that_hangs_up_gives_nothing_back_before_its_write_is_in() {
    let mut world = World::new();
    let gone = world.begin(put("k", 10, Way::TwoPhases));
    drop(gone);
    let mut next = world.begin(put("k", 11, Way::TwoPhases));
    assert!(poll(&mut next).is_none(), "the latch is held by the write");
    assert!(world.writer.try_round().unwrap());
    assert!(matches!(poll(&mut next), Some(Ok(Prewritten::Locked(_)))));
}

#[test]
fn a_commit_in_one_phase_first_learns_a_fresh_timestamp_and_shows_its_lock_while_it_is_written() {
    let mut world = World::new();
    let mut going = world.begin(put("k", 10, Way::OnePhase));
    assert!(!world.writer.try_round().unwrap(), "nothing is written before max_ts is fresh");
    let mut free = world.begin(put("k", 5, Way::TwoPhases));
    assert!(world.writer.try_round().unwrap(), "nobody waits at a latch for the scheduler");
    assert!(matches!(poll(&mut free), Some(Ok(_))));
    world.write(unlock("k", 5)).unwrap();
    world.write(Rollback { keys: vec![key("k")], start_ts: Ts::from(5) }).unwrap();

    assert_eq!(world.scheduler.answer(100), 1);
    assert!(poll(&mut going).is_none());
    assert!(matches!(world.get("k", 200), Err(Error::Locked { .. })), "it may commit below 200");
    assert_eq!(world.get("k", 100).unwrap(), None, "it commits above what others have read");
    assert!(world.writer.try_round().unwrap());
    let Some(Ok(Prewritten::Done { one_phase_commit_ts, .. })) = poll(&mut going) else {
        panic!("it is committed");
    };
    assert_eq!(one_phase_commit_ts, Ts::from(101));
    assert_eq!(world.get("k", 200).unwrap(), Some(Bytes::from_static(b"v")));

    let next = world.write(put("k", 201, Way::OnePhase));
    assert!(matches!(next, Ok(Prewritten::Done { .. })), "once learnt it is not asked again");
    assert_eq!(world.scheduler.answer(0), 0);
}

/// What reads of one client do to commits of another, if nobody knows the time.
#[test]
fn who_reads_at_a_timestamp_that_nobody_was_given_is_refused_and_lifts_no_commit() {
    let mut world = World::new();
    let far = Ts::compose(1_000_000_000, 0);
    let rules = || ReadRules::at(far);
    let scan = ScanLock::new(far, Bytes::new(), Bytes::new(), 0);
    let index = ReadIndex { rules: rules(), ranges: Vec::new() };
    let status = CheckTxnStatus { caller_start_ts: far, ..status_of("k", 10) };
    let secondaries = CheckSecondaryLocks { keys: vec![key("k")], start_ts: far };
    let check = Mutation::new(key("k"), Change::CheckNotExists);
    let check = Prewrite { mutations: vec![check], start_ts: far, ..put("k", 10, Way::TwoPhases) };
    let mut attempts = vec![
        world.begin_read(Get { key: key("k"), rules: rules() }),
        world.begin_read(BatchGet { keys: vec![key("k")], rules: rules(), reply_bytes_max: 9 }),
        world.begin_read(scan_at(far)),
        world.begin_read(scan),
        world.begin_read(index),
        told(world.begin(status)),
        told(world.begin(secondaries)),
        told(world.begin(check)),
        told(world.begin_lock(lock("k", 10, far.get()), None)),
        // What these would leave is in everybody's way.
        told(world.begin_lock(lock("k", 10, u64::MAX), None)),
        told(world.begin(put("k", far.get(), Way::TwoPhases))),
        told(world.begin(Prewrite { min_commit_ts: far, ..put("k", 10, Way::OnePhase) })),
        told(world.begin(Rollback { keys: vec![key("k")], start_ts: far })),
        told(world.begin(Cleanup { key: key("k"), start_ts: far, current_ts: Ts::ZERO })),
        told(world.begin(heart_beat(far))),
        told(world.begin(ResolveLite { keys: vec![key("k")], start_ts: far, commit_ts: Ts::ZERO })),
    ];
    let permits: Vec<_> = (0..4).map(|_| begin(acquire(world.storage.permits().clone()))).collect();
    assert!(
        permits.into_iter().all(|mut permit| poll(&mut permit).is_some()),
        "who waits has none"
    );
    assert_eq!(world.scheduler.answer(100), 1);
    let first = poll(&mut attempts[0]).map(|answer| answer.map_err(|error| error.to_string()));
    assert!(first.is_some_and(|answer| answer.is_err()));
    assert!(attempts[1..].iter_mut().all(|attempt| poll(attempt).is_none()));
    assert_eq!(world.scheduler.answer(100), 1, "the others share a question");
    for mut attempt in attempts.drain(1..) {
        let refused = poll(&mut attempt).expect("the scheduler has answered").unwrap_err();
        assert!(matches!(refused, Error::NotGiven { ts, .. } if ts >= far), "{refused}");
    }

    let mut going = world.begin(put("k", 110, Way::OnePhase));
    assert_eq!(world.scheduler.answer(120), 1);
    assert!(poll(&mut going).is_none() && world.writer.try_round().unwrap());
    let Some(Ok(Prewritten::Done { one_phase_commit_ts, .. })) = poll(&mut going) else {
        panic!("it is committed");
    };
    assert_eq!(one_phase_commit_ts, Ts::from(121), "where its readers are");
    assert_eq!(world.get("k", 130).unwrap(), Some(Bytes::from_static(b"v")));
    assert!(world.get("k", u64::MAX).unwrap().is_some(), "the newest may be read by everybody");
}

#[test]
fn who_waits_for_the_scheduler_lets_others_have_its_room() {
    let mut world = World::new();
    let mut going: Vec<_> = ["a", "b", "c", "d"]
        .into_iter()
        .map(|user| world.begin(put(user, 10, Way::OnePhase)))
        .collect();
    world.write(put("k", 11, Way::TwoPhases)).unwrap();
    assert_eq!(world.scheduler.answer(100), 1);
    assert!(going.iter_mut().all(|going| poll(going).is_none()));
    assert_eq!(world.scheduler.answer(100), 1, "the others share a question");
    assert!(going.iter_mut().all(|going| poll(going).is_none()));
    assert!(world.writer.try_round().unwrap());
    assert!(going.iter_mut().all(|going| matches!(poll(going), Some(Ok(_)))));
}

#[test]
fn a_lock_request_waits_without_room_and_goes_on_when_the_lock_is_gone() {
    let mut world = World::new();
    assert!(matches!(world.lock(lock("k", 10, 10), None), Ok(Locking::Done(_))));
    let mut waiting = world.wait(lock("k", 11, 11));
    assert!(poll(&mut waiting).is_none());
    assert_eq!(world.store.waiting(), 1);
    // All the room is free for those who could end the wait.
    let permits: Vec<_> = (0..4).map(|_| begin(acquire(world.storage.permits().clone()))).collect();
    assert!(permits.into_iter().all(|mut permit| poll(&mut permit).is_some()));
    world.write(unlock("k", 10)).unwrap();
    let turn = poll(&mut waiting).expect("the lock is gone");
    let Ok(Locking::Done(results)) = world.lock(lock("k", 11, 11), Some(turn)) else {
        panic!("the key is free");
    };
    assert_eq!(results[0].exists, Some(false));
    assert_eq!(world.store.waiting(), 0);
}

async fn acquire(permits: Arc<Permits>) -> Permit {
    permits.acquire(1).await
}

#[test]
fn who_is_woken_by_a_commit_meets_a_conflict_and_leaves_its_turn_to_the_next() {
    let mut world = World::new();
    assert!(matches!(world.lock(lock("k", 10, 10), None), Ok(Locking::Done(_))));
    let (mut young, mut old) = (world.wait(lock("k", 13, 13)), world.wait(lock("k", 12, 12)));
    let prewrite = Prewrite { for_update_ts: Ts::from(10), ..put("k", 10, Way::TwoPhases) };
    world.write(prewrite).unwrap();
    assert!(poll(&mut old).is_none(), "it is locked still");
    world.write(commit("k", 10, 20)).unwrap();
    assert!(poll(&mut young).is_none(), "the other transaction is older");
    let turn = poll(&mut old).expect("its turn");
    let conflict = world.lock(lock("k", 12, 12), Some(turn));
    assert!(matches!(conflict, Err(Error::WriteConflict(_))));
    assert!(poll(&mut young).is_some());
}

/// The first statement was refused its primary key and given up; what it had locked is locked again by the next one.
#[test]
fn a_lock_follows_its_transaction_to_another_primary_key_and_not_back() {
    let mut world = World::new();
    for (primary, for_update_ts, names) in [("n", 10, "n"), ("m", 11, "m"), ("n", 10, "m")] {
        let primary = Bytes::from_static(primary.as_bytes());
        let again = PessimisticLock { primary, ..lock("k", 10, for_update_ts) };
        assert!(matches!(world.lock(again, None), Ok(Locking::Done(_))));
        let other = PessimisticLock { no_wait: true, ..lock("k", 20, 20) };
        let Err(Error::Locked { lock, .. }) = world.lock(other, None) else {
            panic!("it is locked");
        };
        assert_eq!(lock.primary, names, "others ask there what became of the transaction");
    }
}

#[test]
fn two_that_want_what_the_other_has_are_told_of_the_deadlock() {
    let mut world = World::new();
    assert!(matches!(world.lock(lock("a", 10, 10), None), Ok(Locking::Done(_))));
    assert!(matches!(world.lock(lock("b", 11, 11), None), Ok(Locking::Done(_))));
    let _waiting = world.wait(lock("b", 10, 12));
    // Who does not wait closes no circle.
    let refused = world.lock(PessimisticLock { no_wait: true, ..lock("a", 11, 13) }, None);
    assert!(matches!(refused, Err(Error::Locked { .. })));
    let Err(error) = world.lock(lock("a", 11, 13), None) else { panic!("they wait in a circle") };
    let wire = error.to_wire().unwrap().deadlock.expect("a deadlock");
    assert_eq!(
        (wire.lock_ts, &wire.lock_key[..], &wire.deadlock_key[..]),
        (10, &b"a"[..], &b"b"[..])
    );
    let chain: Vec<_> = wire.wait_chain.iter().map(|edge| (edge.txn, edge.wait_for_txn)).collect();
    assert_eq!(chain, [(10, 11), (11, 10)]);
}

#[test]
fn a_walk_over_a_region_ends_what_the_dead_have_left() {
    let mut world = World::new();
    for (user, start_ts) in [("a", 10), ("b", 10), ("c", 11)] {
        world.write(put(user, start_ts, Way::TwoPhases)).unwrap();
    }
    let (store, ends) = (world.store.clone(), [(Ts::from(10), Ts::from(20))].into());
    let mut walk = begin(async move { store.walk(&context(), ResolveRegion::new(ends)).await });
    assert!(world.writer.try_round().unwrap());
    assert!(matches!(poll(&mut walk), Some(Ok(()))));
    for user in ["a", "b"] {
        assert_eq!(world.get(user, 30).unwrap(), Some(Bytes::from_static(b"v")));
    }
    assert!(matches!(world.get("c", 30), Err(Error::Locked { .. })), "another transaction's");
}

#[test]
fn a_client_of_the_other_version_is_refused() {
    let world = World::new();
    let store = world.store.clone();
    let get = Get { key: key("k"), rules: ReadRules::at(Ts::from(9)) };
    let of_two = RequestContext { api_version: kvrpcpb::ApiVersion::V2.into(), ..context() };
    let mut going = begin(async move { store.read(&of_two, get).await });
    let Some(Err(Error::Other(error))) = poll(&mut going) else { panic!("it is refused") };
    assert!(error.to_string().contains("API V1"), "{error}");
}

/// Knows that every transaction was rolled back, but for one.
struct AllButOne(u64);

impl Elsewhere for AllButOne {
    fn check_txn_status(
        &self,
        request: CheckTxnStatusRequest,
    ) -> Asked<'_, CheckTxnStatusResponse> {
        let is_away = request.lock_ts == self.0;
        let away = crate::Error::NotNow("its primary key has no leader");
        let answer = if is_away { Err(away) } else { Ok(Default::default()) };
        Box::pin(async { answer })
    }

    fn check_secondary_locks(
        &self,
        _: Ts,
        _: Vec<Bytes>,
    ) -> Asked<'_, (usize, CheckSecondaryLocksResponse)> {
        panic!("none of them commits asynchronously")
    }
}

#[test]
fn locks_that_nobody_can_tell_about_keep_no_others_from_being_ended() {
    let mut world = World::new();
    for (user, start_ts) in [("a", 10), ("b", 11), ("c", 10), ("d", 12)] {
        world.write(put(user, start_ts, Way::TwoPhases)).unwrap();
    }
    let store = world.store.clone();
    store.safe_points().hear(Ts::from(20), Duration::ZERO, None);
    let mut freeing =
        begin(async move { free_region(&store, &context(), Ts::from(20), &AllButOne(10)).await });
    let failure = loop {
        world.writer.try_round().unwrap();
        if let Some(done) = poll(&mut freeing) {
            break done.expect_err("two locks are left");
        }
    };
    assert!(failure.to_string().contains("no leader"), "{failure}");
    for (user, is_locked) in [("a", true), ("b", false), ("c", true), ("d", false)] {
        let met = matches!(world.get(user, 30), Err(Error::Locked { .. }));
        assert_eq!(met, is_locked, "{user}");
    }
}
