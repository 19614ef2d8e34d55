//! One transaction, from its timestamp to its end: Percolator's client half, with async commit, commits in one phase,
//! and locks in advance.
//!
//! 1. [`Txn::begin`]. Optimistic transactions [`read`](Client::read) at their start and write at the end; pessimistic
//!    ones [`lock`](Client::lock) first, and read what they have locked at its newest.
//! 2. [`Client::commit`]: prewrite of all keys, then, unless one of the shortcuts was taken, commit of the primary key;
//!    then all others. From the moment at which it is sure, the end stands in the history.
//! 3. What cannot be committed is rolled back.
//!
//! Its client may die between any two steps: the future is dropped at an `await`, and what it has sent arrives all the
//! same.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use skerry_kv::mvcc::{Key, ReadRules};
use skerry_kv::txn::Error;
use skerry_kv::txn::commit::Commit;
use skerry_kv::txn::error::WaitsFor;
use skerry_kv::txn::get::Get;
use skerry_kv::txn::heartbeat::HeartBeat;
use skerry_kv::txn::pessimistic_lock::PessimisticLock;
use skerry_kv::txn::pessimistic_rollback::PessimisticRollback;
use skerry_kv::txn::prewrite::{Change, Mutation, Prewrite, Prewritten, Way};
use skerry_kv::txn::rollback::Rollback;
use skerry_proto::kvrpcpb::AssertionLevel;
use skerry_proto::kvrpcpb::prewrite_request::PessimisticAction;
use skerry_proto::types::Ts;

use super::client::{Came, Client};
use super::server::Told;
use crate::checker::isolation::{Read, Transaction, Write};
use crate::sim::trace::{MILLISECOND, Moment};

/// How long it waits for a lock, at least and at most, unless it is told otherwise.
const PATIENCE: (Moment, Moment) = (100 * MILLISECOND, 900 * MILLISECOND);

/// How often a step is tried before its client gives it up.
const TRIES: usize = 25;

/// How a client means to commit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Style {
    /// In two phases.
    TwoPhases,
    /// As soon as all locks stand.
    Async,
    /// With one request, if all keys are in one region; else as soon as all locks stand.
    OnePhase,
}

/// Why a transaction does not go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stop {
    /// It has nothing to do.
    Idle,
    /// It cannot be committed.
    Refused,
    /// A step was tried too often. Nobody knows what has happened.
    Unknown,
}

/// A transaction that is under way.
pub(super) struct Txn {
    /// Its place in the history.
    place: usize,
    pub(super) start_ts: Ts,
    pub(super) is_pessimistic: bool,
    style: Style,
    ttl_ms: u64,
    /// How long a request waits for a lock, at least and at most.
    pub(super) patience: (Moment, Moment),
    /// The newest version that it has seen of what it has locked.
    for_update_ts: Ts,
    /// Keys that were locked in advance, and by which timestamp.
    locked: BTreeMap<Key, Ts>,
    /// Whether a lock must be found just as it was taken. A request that locks over newer versions may arrive once more
    /// when its lock is lost, and lock the key over versions that nobody has seen.
    is_exact: bool,
    /// The first key that was locked or written.
    primary: Option<Key>,
    changes: BTreeMap<Key, Change>,
    /// Transactions that are known to be rolled back, or committed above the start.
    resolved: BTreeSet<Ts>,
    /// Those that are known to be committed at or below the start.
    committed: BTreeSet<Ts>,
    min_commit_ts: Ts,
    /// Above this it is committed in two phases only; 0 for no bound.
    max_commit_ts: Ts,
}

impl Txn {
    pub(super) async fn begin(client: &mut Client, is_pessimistic: bool, style: Style) -> Txn {
        let began = client.shared.now.get();
        let start_ts = client.outbox.stamp().await;
        client.current.set(start_ts);
        let max_commit_ts = match client.chance.percent(20) {
            true => Ts::compose(start_ts.physical_ms() + client.chance.below(80), 0),
            false => Ts::ZERO,
        };
        let mut history = client.shared.history.borrow_mut();
        history.push(Transaction {
            client: client.number,
            began,
            ended: u64::MAX,
            start_ts,
            reads: Vec::new(),
            writes: Vec::new(),
            commit_ts: None,
        });
        Txn {
            place: history.len() - 1,
            start_ts,
            is_pessimistic,
            style,
            ttl_ms: client.chance.pick(&[30, 200, 1_000, 2_500]).expect("there are several"),
            patience: PATIENCE,
            for_update_ts: start_ts,
            locked: BTreeMap::new(),
            is_exact: style != Style::TwoPhases,
            primary: None,
            changes: BTreeMap::new(),
            resolved: BTreeSet::new(),
            committed: BTreeSet::new(),
            min_commit_ts: Ts::ZERO,
            max_commit_ts,
        }
    }

    /// What shall be done to a key in the end.
    pub(super) fn change(&mut self, key: Key, change: Change) {
        self.primary.get_or_insert_with(|| key.clone());
        self.changes.insert(key, change);
    }

    pub(super) fn resolve(&mut self, start_ts: Ts, commit_ts: Ts) {
        let is_seen = commit_ts != Ts::ZERO && commit_ts <= self.start_ts;
        let known = if is_seen { &mut self.committed } else { &mut self.resolved };
        known.insert(start_ts);
    }

    fn primary(&self) -> &Key {
        self.primary.as_ref().expect("something is locked or written")
    }

    fn primary_user(&self) -> Bytes {
        user(self.primary())
    }

    /// The prewrite of some of its keys.
    fn prewrite(&self, keys: &[Key], way: Way) -> Prewrite {
        let mutation = |key: &Key| {
            let locked_at = self.locked.get(key).copied();
            let pessimistic = match locked_at {
                Some(_) => PessimisticAction::DoPessimisticCheck,
                None => PessimisticAction::SkipPessimisticCheck,
            };
            let expected_for_update_ts = locked_at.filter(|_| self.is_exact);
            let change = self.changes[key].clone();
            Mutation { pessimistic, expected_for_update_ts, ..Mutation::new(key.clone(), change) }
        };
        let for_update_ts = if self.is_pessimistic { self.for_update_ts } else { Ts::ZERO };
        Prewrite {
            mutations: keys.iter().map(mutation).collect(),
            primary: self.primary_user(),
            start_ts: self.start_ts,
            ttl_ms: self.ttl_ms,
            txn_size: self.changes.len() as u64,
            for_update_ts,
            // Locks of clients that let themselves be pushed have one.
            min_commit_ts: self.start_ts.max(self.for_update_ts).next(),
            max_commit_ts: self.max_commit_ts,
            assertion_level: AssertionLevel::Off,
            way,
        }
    }

    fn secondaries(&self) -> Vec<Bytes> {
        self.changes.keys().filter(|key| *key != self.primary()).map(user).collect()
    }
}

/// What clients call a key.
pub(super) fn user(key: &Key) -> Bytes {
    key.user_key().expect("clients form their keys themselves")
}

impl Client {
    fn note(&self, txn: &Txn, note: impl FnOnce(&mut Transaction, u64)) {
        note(&mut self.shared.history.borrow_mut()[txn.place], self.shared.now.get());
    }

    /// Reads a key at the start of the transaction.
    pub(super) async fn read(&mut self, txn: &mut Txn, key: &Key) -> Result<Option<Bytes>, Stop> {
        for _ in 0..TRIES {
            let rules = ReadRules {
                resolved: txn.resolved.clone(),
                committed: txn.committed.clone(),
                ..ReadRules::at(txn.start_ts)
            };
            let came = self
                .one(key, |outbox, to| {
                    let (context, get) =
                        (to.context(), Get { key: key.clone(), rules: rules.clone() });
                    outbox.send("get", to, move |server| {
                        let (store, side, get) = (server.store(), server.side(), get.clone());
                        Box::pin(async move {
                            let gotten = store.read(&context, get.clone()).await?;
                            if get.rules.committed.is_empty() {
                                let at = gotten.version.as_ref().map(|version| version.commit_ts);
                                let told = Told::Read(get.key.clone(), get.rules.ts, at);
                                side.borrow_mut().told.push(told);
                            }
                            Ok(gotten)
                        })
                    })
                })
                .await;
            match came {
                Came::Answer(gotten) => {
                    let found = gotten.version.map(|version| version.value);
                    let read = Read { key: user(key), at: txn.start_ts, found: found.clone() };
                    self.note(txn, |noted, _| noted.reads.push(read));
                    return Ok(found);
                }
                Came::Error(Error::Locked { lock, .. }) => {
                    self.meet(txn, key, &lock, txn.start_ts).await;
                }
                Came::Error(Error::TooOld { .. }) => {
                    self.count("txn: too old to read");
                    return Err(Stop::Refused);
                }
                Came::Error(error) => {
                    self.is_wrong(format!("a read of {key:?} fails: {error}"));
                    return Err(Stop::Unknown);
                }
                Came::Nothing => self.breathe().await,
            }
        }
        Err(Stop::Unknown)
    }

    /// Locks keys in advance; their newest values, in the order of the keys.
    pub(super) async fn lock(
        &mut self,
        txn: &mut Txn,
        keys: &[Key],
    ) -> Result<Vec<Option<Bytes>>, Stop> {
        txn.primary.get_or_insert_with(|| keys[0].clone());
        let force = keys.len() == 1 && self.chance.percent(30);
        txn.is_exact |= force;
        let mut found: BTreeMap<Key, Option<Bytes>> = BTreeMap::new();
        for _ in 0..TRIES {
            let left: Vec<Key> =
                keys.iter().filter(|key| !found.contains_key(*key)).cloned().collect();
            if left.is_empty() {
                return Ok(keys.iter().map(|key| found[key].clone()).collect());
            }
            let at = txn.for_update_ts;
            let patience = self.chance.between(txn.patience.0, txn.patience.1);
            let command = |keys: Vec<Key>| PessimisticLock {
                keys: keys.into_iter().map(|key| (key, false)).collect(),
                primary: txn.primary_user(),
                start_ts: txn.start_ts,
                ttl_ms: txn.ttl_ms,
                for_update_ts: at,
                min_commit_ts: at.next(),
                return_values: true,
                check_existence: false,
                lock_only_if_exists: false,
                force,
                no_wait: false,
            };
            let came =
                self.round(&left, |outbox, to, keys| outbox.lock(to, command(keys), patience));
            for (keys, came) in came.await {
                match came {
                    Came::Answer(results) => {
                        for (key, result) in keys.into_iter().zip(results) {
                            let at = at.max(result.locked_with_conflict_ts);
                            let value = result.value.filter(|_| result.exists == Some(true));
                            let read = Read { key: user(&key), at, found: value.clone() };
                            self.note(txn, |noted, _| noted.reads.push(read));
                            txn.locked.insert(key.clone(), at);
                            txn.for_update_ts = txn.for_update_ts.max(at);
                            found.insert(key, value);
                        }
                    }
                    Came::Error(Error::Locked { key, lock }) => {
                        self.meet(txn, &Key::of(&key), &lock, Ts::ZERO).await;
                    }
                    Came::Error(Error::WriteConflict(_)) => {
                        txn.for_update_ts = self.outbox.stamp().await;
                    }
                    Came::Error(Error::Deadlock(circle)) => {
                        self.count("txn: deadlock");
                        self.check_circle(txn, &keys, &circle);
                        return Err(Stop::Refused);
                    }
                    Came::Error(_) => return Err(Stop::Refused),
                    Came::Nothing => self.breathe().await,
                }
            }
        }
        Err(Stop::Unknown)
    }

    /// A request for these locks was refused with a circle: it must be one, and lead through the request.
    fn check_circle(&self, txn: &Txn, keys: &[Key], circle: &[WaitsFor]) {
        let next = circle.iter().cycle().skip(1);
        let is_closed = circle.iter().zip(next).all(|(edge, next)| edge.holder == next.waiter);
        let waiters: BTreeSet<Ts> = circle.iter().map(|edge| edge.waiter).collect();
        let is_own = circle
            .first()
            .is_some_and(|edge| edge.waiter == txn.start_ts && keys.contains(&Key::of(&edge.key)));
        if circle.len() < 2 || waiters.len() != circle.len() || !is_closed || !is_own {
            self.is_wrong(format!("{} at {keys:?} is told of {circle:?}", txn.start_ts));
        }
    }

    /// A new statement begins, and sees what was committed until now.
    pub(super) async fn begin_statement(&mut self, txn: &mut Txn) {
        txn.for_update_ts = self.outbox.stamp().await;
    }

    /// Tells that the transaction is alive.
    pub(super) async fn heart_beat(&mut self, txn: &mut Txn) {
        let (primary, start_ts) = (txn.primary().clone(), txn.start_ts);
        txn.ttl_ms += 500;
        let ttl_ms = txn.ttl_ms;
        let beat =
            HeartBeat { primary: primary.clone(), start_ts, ttl_ms, min_commit_ts: Ts::ZERO };
        if let Came::Answer(_) =
            self.one(&primary, |outbox, to| outbox.write(to, beat.clone())).await
        {
            self.count("txn: heart beat");
        }
    }

    /// Writes all changes: the transaction is committed when this answers `Ok`.
    pub(super) async fn commit(&mut self, txn: &mut Txn) -> Result<(), Stop> {
        let writes = txn.changes.iter().filter_map(|(key, change)| {
            let value = match change {
                Change::Put(value) | Change::Insert(value) => Some(value.clone()),
                Change::Delete => None,
                Change::Lock | Change::CheckNotExists => return None,
            };
            let unlocked = if txn.is_pessimistic { txn.for_update_ts } else { txn.start_ts };
            let since = txn.locked.get(key).copied().unwrap_or(unlocked);
            Some(Write { key: user(key), value, since })
        });
        let writes: Vec<Write> = writes.collect();
        self.note(txn, |noted, _| noted.writes = writes);
        self.is_committing = true;
        let outcome = self.commit_in_phases(txn).await;
        self.is_committing = false;
        outcome
    }

    async fn commit_in_phases(&mut self, txn: &mut Txn) -> Result<(), Stop> {
        let keys: Vec<Key> = txn.changes.keys().cloned().collect();
        if let Some(commit_ts) = self.prewrite_all(txn, &keys).await? {
            self.count("txn: committed in one phase");
            self.is_committed(txn, commit_ts);
            return Ok(());
        }
        if txn.min_commit_ts != Ts::ZERO {
            self.count("txn: committed asynchronously");
            self.is_committed(txn, txn.min_commit_ts);
            self.commit_rest(txn, &keys, txn.min_commit_ts).await;
            return Ok(());
        }
        let commit_ts = self.commit_primary(txn).await?;
        self.count("txn: committed in two phases");
        self.is_committed(txn, commit_ts);
        let rest: Vec<Key> = keys.into_iter().filter(|key| key != txn.primary()).collect();
        self.commit_rest(txn, &rest, commit_ts).await;
        Ok(())
    }

    fn is_committed(&self, txn: &Txn, commit_ts: Ts) {
        self.tell(format!("{} is committed at {commit_ts}", txn.start_ts));
        self.note(txn, |noted, now| {
            noted.commit_ts = Some(commit_ts);
            noted.ended = now;
        });
    }

    /// Locks all keys. Answers the timestamp of a commit in one phase; otherwise `min_commit_ts` of the transaction is
    /// that of its async commit, or 0 if there must be two phases.
    async fn prewrite_all(&mut self, txn: &mut Txn, keys: &[Key]) -> Result<Option<Ts>, Stop> {
        let mut left = keys.to_vec();
        let mut is_async = txn.style != Style::TwoPhases;
        let (mut may_be_one, mut was_one) = (txn.style == Style::OnePhase, false);
        for _ in 0..TRIES {
            // The picture of regions may change between this and the sending, so the request counts its keys too.
            may_be_one &= self.groups::<()>(&left).await.0.len() == 1;
            if was_one && !may_be_one {
                // The request that may have committed it cannot be repeated.
                return Err(Stop::Unknown);
            }
            let way = |sent: &[Key]| match (may_be_one && sent.len() == keys.len(), is_async) {
                (true, _) => Way::OnePhase,
                (false, true) => Way::Async(txn.secondaries()),
                (false, false) => Way::TwoPhases,
            };
            was_one |= may_be_one;
            let came = self
                .round(&left, |outbox, to, keys| outbox.write(to, txn.prewrite(&keys, way(&keys))));
            let came = came.await;
            for (sent, came) in came {
                match came {
                    Came::Answer(Prewritten::Done { one_phase_commit_ts, .. })
                        if one_phase_commit_ts != Ts::ZERO =>
                    {
                        return Ok(Some(one_phase_commit_ts));
                    }
                    Came::Answer(Prewritten::Done { min_commit_ts, .. }) => {
                        if is_async && min_commit_ts == Ts::ZERO {
                            self.count("txn: async commit given up");
                            is_async = false;
                        }
                        txn.min_commit_ts = txn.min_commit_ts.max(min_commit_ts);
                        left.retain(|key| !sent.contains(key));
                    }
                    Came::Answer(Prewritten::Locked(errors)) => {
                        for error in errors {
                            let Error::Locked { key, lock } = error else {
                                panic!("a lock in the way is none: {error}")
                            };
                            self.meet(txn, &Key::of(&key), &lock, txn.start_ts).await;
                        }
                    }
                    // An earlier attempt may have locked or committed, long ago.
                    Came::Error(Error::TooOld { .. }) => {
                        self.count("txn: too old to lock");
                        return Err(Stop::Unknown);
                    }
                    Came::Error(_) => return Err(Stop::Refused),
                    Came::Nothing => self.breathe().await,
                }
            }
            if left.is_empty() {
                if !is_async {
                    txn.min_commit_ts = Ts::ZERO;
                }
                return Ok(None);
            }
        }
        Err(Stop::Unknown)
    }

    /// Commits the primary key, and with it the transaction.
    async fn commit_primary(&mut self, txn: &Txn) -> Result<Ts, Stop> {
        let primary = txn.primary().clone();
        let mut commit_ts = self.outbox.stamp().await;
        for _ in 0..TRIES {
            let (keys, start_ts) = (vec![primary.clone()], txn.start_ts);
            let command = Commit { keys, start_ts, commit_ts };
            match self.one(&primary, |outbox, to| outbox.write(to, command.clone())).await {
                Came::Answer(_) => return Ok(commit_ts),
                Came::Error(Error::CommitTsExpired { .. }) => {
                    self.count("txn: commit below what was promised");
                    commit_ts = self.outbox.stamp().await;
                }
                Came::Error(_) if self.may_be_forgotten(txn.start_ts) => return Err(Stop::Unknown),
                Came::Error(Error::TxnLockNotFound { .. }) => {
                    self.count("txn: commit refused, rolled back");
                    return Err(Stop::Refused);
                }
                Came::Error(error) => {
                    self.is_wrong(format!(
                        "the commit of {} at {commit_ts} fails: {error}",
                        txn.start_ts
                    ));
                    return Err(Stop::Unknown);
                }
                Came::Nothing => self.breathe().await,
            }
        }
        Err(Stop::Unknown)
    }

    /// Commits keys of a transaction that is committed. Whoever finds their locks does it too, so it is not tried
    /// often.
    async fn commit_rest(&mut self, txn: &Txn, keys: &[Key], commit_ts: Ts) {
        let start_ts = txn.start_ts;
        let came = self
            .round(keys, |outbox, to, keys| outbox.write(to, Commit { keys, start_ts, commit_ts }));
        for (keys, came) in came.await {
            if let Came::Error(error) = came
                && !self.may_be_forgotten(start_ts)
            {
                self.is_wrong(format!("{start_ts} is committed at {commit_ts}, {keys:?}: {error}"));
            }
        }
    }

    /// Gives the transaction up.
    pub(super) async fn roll_back(&mut self, txn: &Txn) {
        let start_ts = txn.start_ts;
        let mut keys: BTreeSet<Key> = txn.locked.keys().chain(&txn.primary).cloned().collect();
        if txn.changes.is_empty() {
            let for_update_ts = txn.locked.values().copied().fold(txn.for_update_ts, Ts::max);
            let keys: Vec<Key> = keys.into_iter().collect();
            self.round(&keys, |outbox, to, keys| {
                outbox.write(to, PessimisticRollback { keys, start_ts, for_update_ts })
            })
            .await;
            return;
        }
        keys.extend(txn.changes.keys().cloned());
        let mut left: Vec<Key> = keys.into_iter().collect();
        for _ in 0..3 {
            let came =
                self.round(&left, |outbox, to, keys| outbox.write(to, Rollback { keys, start_ts }));
            left = came.await.into_iter().filter(is_open).flat_map(|(keys, _)| keys).collect();
            if left.is_empty() {
                self.count("txn: rolled back by its client");
                return;
            }
        }
    }
}

fn is_open<T>((_, came): &(Vec<Key>, Came<T>)) -> bool {
    matches!(came, Came::Nothing)
}
