//! The transactional calls: each makes a command of its request ([`super::txn_wire`]), has it run by [`TxnStore`], and
//! forms the answer.
//!
//! What is about a key stands in the answer's `error` or `errors`, all else leaves as for raw calls. Answers of pairs
//! carry an error of the whole request in their first pair too, where older clients look for it.
//!
//! A lock request that has to wait is asked again with each turn, with a permit of its own, until it is done or has
//! waited for as long as its client wants or can ([`crate::txn::patience`]).

use std::sync::Arc;
use std::time::Duration;

use skerry_proto::kvrpcpb::*;
use skerry_proto::types::Ts;
use skerry_raftstore::time::{Clock, SystemClock};
use tonic::{Request, Response};

use super::Reply;
use super::call::{Call, Refused, finish, finish_about_keys};
use super::past_waits::PastWaits;
use super::txn_wire as wire;
use crate::mvcc::{Key, Version};
use crate::raw::INLINE_KEYS_MAX;
use crate::txn::check_secondary_locks::CheckSecondaryLocks;
use crate::txn::check_txn_status::CheckTxnStatus;
use crate::txn::commit::Commit;
use crate::txn::delete_range::DeleteRange;
use crate::txn::error::{Error, Result, lock_infos};
use crate::txn::get::{BatchGet, Get};
use crate::txn::heartbeat::HeartBeat;
use crate::txn::lock_waits::Turn;
use crate::txn::patience::until_locked;
use crate::txn::pessimistic_lock::{KeyLocked, PessimisticLock};
use crate::txn::pessimistic_rollback::{PessimisticRollback, PessimisticRollbackRegion};
use crate::txn::prewrite::Prewritten;
use crate::txn::resolve_lock::{Ends, ResolveLite, ResolveRegion};
use crate::txn::rollback::{Cleanup, Rollback};
use crate::txn::scan_lock::ScanLock;
use crate::txn::{TxnStore, WriteCommand};

/// The calls of transactions.
#[derive(Clone)]
pub(super) struct TxnCalls {
    store: Arc<TxnStore>,
    /// The cluster that requests may name.
    cluster_id: u64,
    past_waits: Arc<PastWaits>,
}

/// What became of a call.
type Outcome<T> = std::result::Result<T, Refused<Error>>;

impl TxnCalls {
    pub(super) fn new(store: Arc<TxnStore>, cluster_id: u64) -> TxnCalls {
        TxnCalls { store, cluster_id, past_waits: Arc::default() }
    }

    /// Runs a write whose command can be made; `bytes` is what it takes.
    async fn write<C: WriteCommand>(
        &self,
        call: &Call,
        bytes: usize,
        command: Result<C>,
    ) -> Outcome<C::Answer> {
        let command = command.map_err(Refused::Error)?;
        let write = |permit| self.store.write(&call.context, &command, permit);
        call.write(self.store.permits(), bytes, write).await
    }

    pub(super) async fn get(&self, request: Request<GetRequest>) -> Reply<GetResponse> {
        let (call, request) = Call::open(self.cluster_id, request, |request| &request.context)?;
        let (version, need_commit_ts) = (request.version, request.need_commit_ts);
        let read = async {
            let rules = wire::rules_telling_commits(&request.context, version, need_commit_ts)?;
            let key = self.store.keys().key(&request.key)?;
            self.store.read(&call.context, Get { key, rules }).await
        };
        finish_about_keys(
            call.read(read).await,
            |gotten| {
                let not_found = gotten.version.is_none();
                let Version { value, commit_ts } = gotten.version.unwrap_or_default();
                let commit_ts = if need_commit_ts { commit_ts.get() } else { 0 };
                GetResponse { value, not_found, commit_ts, ..Default::default() }
            },
            |region_error, error| GetResponse { region_error, error, ..Default::default() },
        )
    }

    pub(super) async fn batch_get(
        &self,
        request: Request<BatchGetRequest>,
    ) -> Reply<BatchGetResponse> {
        let (call, request) = Call::open(self.cluster_id, request, |request| &request.context)?;
        let (version, need_commit_ts) = (request.version, request.need_commit_ts);
        let read = async {
            let rules = wire::rules_telling_commits(&request.context, version, need_commit_ts)?;
            let keys = self.store.keys().keys(&request.keys)?;
            let is_short = keys.len() <= INLINE_KEYS_MAX;
            let command = BatchGet { keys, rules, reply_bytes_max: self.store.reply_bytes_max() };
            match is_short {
                true => self.store.read(&call.context, command).await,
                false => self.store.read_at_length(&call.context, command).await,
            }
        };
        let read = async { pairs(read.await?.found, need_commit_ts) };
        finish_about_keys(
            call.read(read).await,
            |pairs| BatchGetResponse { pairs, ..Default::default() },
            |region_error, error| {
                let pairs = error_pair(&error);
                BatchGetResponse { region_error, pairs, error, ..Default::default() }
            },
        )
    }

    pub(super) async fn scan(&self, request: Request<ScanRequest>) -> Reply<ScanResponse> {
        let (call, request) = Call::open(self.cluster_id, request, |request| &request.context)?;
        let read = async {
            let command = wire::scan(request, self.store.reply_bytes_max())?;
            pairs(self.store.read_at_length(&call.context, command).await?.found, false)
        };
        finish_about_keys(
            call.read(read).await,
            |pairs| ScanResponse { pairs, ..Default::default() },
            |region_error, error| {
                let pairs = error_pair(&error);
                ScanResponse { region_error, pairs, error }
            },
        )
    }

    pub(super) async fn prewrite(
        &self,
        request: Request<PrewriteRequest>,
    ) -> Reply<PrewriteResponse> {
        let (call, request) = Call::open(self.cluster_id, request, |request| &request.context)?;
        let bytes = request.mutations.iter().map(|one| one.key.len() + one.value.len()).sum();
        let command = wire::prewrite(self.store.keys(), request);
        let written = self.write(&call, bytes, command).await;
        finish_about_keys(
            written.and_then(|prewritten| prewritten_to_wire(prewritten).map_err(Refused::Error)),
            |response| response,
            |region_error, error| {
                let errors = error.into_iter().collect();
                PrewriteResponse { region_error, errors, ..Default::default() }
            },
        )
    }

    pub(super) async fn pessimistic_lock(
        &self,
        request: Request<PessimisticLockRequest>,
    ) -> Reply<PessimisticLockResponse> {
        let (call, request) = Call::open(self.cluster_id, request, |request| &request.context)?;
        let longest = self.store.lock_wait();
        let patience = match request.wait_timeout {
            0 => longest,
            wait => Duration::from_millis(wait.max(0).unsigned_abs()).min(longest),
        };
        let tag = request.context.as_ref().map(|context| context.resource_group_tag.clone());
        let failed = failed_results(&request);
        let mut holding = Holding::default();
        let locked = match wire::pessimistic_lock(self.store.keys(), request) {
            Ok(command) => {
                let tag = tag.unwrap_or_default();
                let results = self.lock(&call, &command, &tag, patience, &mut holding).await;
                results.map(|results| locked_to_wire(&command, results))
            }
            Err(error) => Err(Refused::Error(error)),
        };
        finish_about_keys(
            locked,
            |response| response,
            |region_error, error| {
                let results = if error.is_some() { failed } else { Vec::new() };
                let errors = error.into_iter().map(|error| holding.told(error)).collect();
                PessimisticLockResponse { region_error, errors, results, ..Default::default() }
            },
        )
    }

    /// Asks for locks until it has them or the time for waiting is over.
    async fn lock(
        &self,
        call: &Call,
        command: &PessimisticLock,
        tag: &bytes::Bytes,
        patience: Duration,
        holding: &mut Holding,
    ) -> Outcome<Vec<KeyLocked>> {
        let bytes = command.keys.iter().map(|(key, _)| key.as_bytes().len()).sum();
        let ask = |turn: Option<Turn>| async move {
            let lock = |permit| self.store.lock_tagged(&call.context, command, tag, turn, permit);
            call.write(self.store.permits(), bytes, lock).await
        };
        let patience = tokio::time::sleep(call.at_most(patience));
        let waits = |locked: &Error| {
            holding.note(locked);
            self.past_waits.begin(command.start_ts, locked, tag)
        };
        until_locked(ask, patience, waits).await
    }

    pub(super) fn get_lock_wait_history(&self) -> Reply<GetLockWaitHistoryResponse> {
        let entries = self.past_waits.list();
        Ok(Response::new(GetLockWaitHistoryResponse { entries, ..Default::default() }))
    }

    pub(super) async fn pessimistic_rollback(
        &self,
        request: Request<PessimisticRollbackRequest>,
    ) -> Reply<PessimisticRollbackResponse> {
        let (call, request) = Call::open(self.cluster_id, request, |request| &request.context)?;
        let (start_ts, for_update_ts) =
            (Ts::from(request.start_version), Ts::from(request.for_update_ts));
        let done = if request.keys.is_empty() {
            let steps = PessimisticRollbackRegion::new(start_ts, for_update_ts);
            call.read(self.store.walk(&call.context, steps)).await
        } else {
            let keys = self.store.keys().keys(&request.keys);
            let command = keys.map(|keys| PessimisticRollback { keys, start_ts, for_update_ts });
            self.write(&call, sizes(&request.keys), command).await
        };
        finish_about_keys(
            done,
            |()| PessimisticRollbackResponse::default(),
            |region_error, error| {
                let errors = error.into_iter().collect();
                PessimisticRollbackResponse { region_error, errors, ..Default::default() }
            },
        )
    }

    pub(super) async fn commit(&self, request: Request<CommitRequest>) -> Reply<CommitResponse> {
        let (call, request) = Call::open(self.cluster_id, request, |request| &request.context)?;
        let (start_ts, commit_ts) =
            (Ts::from(request.start_version), Ts::from(request.commit_version));
        let keys = self.store.keys().keys(&request.keys);
        let command = keys.map(|keys| Commit { keys, start_ts, commit_ts });
        finish_about_keys(
            self.write(&call, sizes(&request.keys), command).await,
            |at| CommitResponse { commit_version: at.get(), ..Default::default() },
            |region_error, error| CommitResponse { region_error, error, ..Default::default() },
        )
    }

    pub(super) async fn batch_rollback(
        &self,
        request: Request<BatchRollbackRequest>,
    ) -> Reply<BatchRollbackResponse> {
        let (call, request) = Call::open(self.cluster_id, request, |request| &request.context)?;
        let start_ts = Ts::from(request.start_version);
        let keys = self.store.keys().keys(&request.keys);
        let command = keys.map(|keys| Rollback { keys, start_ts });
        finish_about_keys(
            self.write(&call, sizes(&request.keys), command).await,
            |()| BatchRollbackResponse::default(),
            |region_error, error| BatchRollbackResponse {
                region_error,
                error,
                ..Default::default()
            },
        )
    }

    pub(super) async fn cleanup(&self, request: Request<CleanupRequest>) -> Reply<CleanupResponse> {
        let (call, request) = Call::open(self.cluster_id, request, |request| &request.context)?;
        let (start_ts, current_ts) =
            (Ts::from(request.start_version), Ts::from(request.current_ts));
        let key = self.store.keys().key(&request.key);
        let command = key.map(|key| Cleanup { key, start_ts, current_ts });
        let cleaned = match self.write(&call, request.key.len(), command).await {
            Ok(()) => Ok(Ts::ZERO),
            // Here it is an answer.
            Err(Refused::Error(Error::Committed { commit_ts, .. })) => Ok(commit_ts),
            Err(other) => Err(other),
        };
        finish_about_keys(
            cleaned,
            |at| CleanupResponse { commit_version: at.get(), ..Default::default() },
            |region_error, error| CleanupResponse { region_error, error, ..Default::default() },
        )
    }

    pub(super) async fn txn_heart_beat(
        &self,
        request: Request<TxnHeartBeatRequest>,
    ) -> Reply<TxnHeartBeatResponse> {
        let (call, request) = Call::open(self.cluster_id, request, |request| &request.context)?;
        let command = self.store.keys().key(&request.primary_lock).map(|primary| HeartBeat {
            primary,
            start_ts: Ts::from(request.start_version),
            ttl_ms: request.advise_lock_ttl,
            min_commit_ts: Ts::from(request.min_commit_ts),
        });
        finish_about_keys(
            self.write(&call, request.primary_lock.len(), command).await,
            |lock_ttl| TxnHeartBeatResponse { lock_ttl, ..Default::default() },
            |region_error, error| TxnHeartBeatResponse {
                region_error,
                error,
                ..Default::default()
            },
        )
    }

    pub(super) async fn check_txn_status(
        &self,
        request: Request<CheckTxnStatusRequest>,
    ) -> Reply<CheckTxnStatusResponse> {
        let (call, request) = Call::open(self.cluster_id, request, |request| &request.context)?;
        let primary = self.store.keys().key(&request.primary_key);
        let command = primary.map(|primary| CheckTxnStatus::asked(primary, &request));
        finish_about_keys(
            self.write(&call, request.primary_key.len(), command).await,
            |status| status.to_wire(&request.primary_key),
            |region_error, error| CheckTxnStatusResponse {
                region_error,
                error,
                ..Default::default()
            },
        )
    }

    pub(super) async fn check_secondary_locks(
        &self,
        request: Request<CheckSecondaryLocksRequest>,
    ) -> Reply<CheckSecondaryLocksResponse> {
        let (call, request) = Call::open(self.cluster_id, request, |request| &request.context)?;
        let start_ts = Ts::from(request.start_version);
        let keys = self.store.keys().keys(&request.keys);
        let command = keys.map(|keys| CheckSecondaryLocks { keys, start_ts });
        let checked = self.write(&call, sizes(&request.keys), command).await;
        finish_about_keys(
            checked.and_then(|checked| checked.to_wire().map_err(Refused::Error)),
            |response| response,
            |region_error, error| CheckSecondaryLocksResponse {
                region_error,
                error,
                ..Default::default()
            },
        )
    }

    pub(super) async fn resolve_lock(
        &self,
        request: Request<ResolveLockRequest>,
    ) -> Reply<ResolveLockResponse> {
        let (call, request) = Call::open(self.cluster_id, request, |request| &request.context)?;
        let (start_ts, commit_ts) =
            (Ts::from(request.start_version), Ts::from(request.commit_version));
        let done = if request.keys.is_empty() {
            let many = request.txn_infos.iter();
            let mut ends: Ends =
                many.map(|info| (Ts::from(info.txn), Ts::from(info.status))).collect();
            if ends.is_empty() {
                ends.insert(start_ts, commit_ts);
            }
            call.read(self.store.walk(&call.context, ResolveRegion::new(ends))).await
        } else {
            let keys = self.store.keys().keys(&request.keys);
            let command = keys.map(|keys| ResolveLite { keys, start_ts, commit_ts });
            self.write(&call, sizes(&request.keys), command).await
        };
        finish_about_keys(
            done,
            |()| ResolveLockResponse::default(),
            |region_error, error| ResolveLockResponse { region_error, error, ..Default::default() },
        )
    }

    pub(super) async fn scan_lock(
        &self,
        request: Request<ScanLockRequest>,
    ) -> Reply<ScanLockResponse> {
        let (call, request) = Call::open(self.cluster_id, request, |request| &request.context)?;
        let ScanLockRequest { max_version, start_key, end_key, limit, .. } = request;
        let command = ScanLock::new(Ts::from(max_version), start_key, end_key, limit as usize);
        let read = async {
            let found = self.store.read_at_length(&call.context, command).await?;
            lock_infos(&found)
        };
        finish_about_keys(
            call.read(read).await,
            |locks| ScanLockResponse { locks, ..Default::default() },
            |region_error, error| ScanLockResponse { region_error, error, ..Default::default() },
        )
    }

    pub(super) async fn delete_range(
        &self,
        request: Request<DeleteRangeRequest>,
    ) -> Reply<DeleteRangeResponse> {
        let (call, request) = Call::open(self.cluster_id, request, |request| &request.context)?;
        let (start, end) = (request.start_key, request.end_key);
        let (bytes, command) = (start.len() + end.len(), DeleteRange { start, end });
        let done = if request.notify_only {
            Ok(())
        } else {
            let write = |permit| self.store.delete_range(&call.context, &command, permit);
            call.write(self.store.permits(), bytes, write).await
        };
        finish(
            done.map_err(in_words),
            |()| DeleteRangeResponse::default(),
            |region_error, error| DeleteRangeResponse { region_error, error },
        )
    }

    pub(super) async fn mvcc_get_by_key(
        &self,
        request: Request<MvccGetByKeyRequest>,
    ) -> Reply<MvccGetByKeyResponse> {
        let (call, request) = Call::open(self.cluster_id, request, |request| &request.context)?;
        let read = async {
            let key = self.store.keys().key(&request.key)?;
            self.store.history(&call.context, &key).await
        };
        finish(
            call.read(read).await.map_err(in_words),
            |info| MvccGetByKeyResponse { info: Some(info), ..Default::default() },
            |region_error, error| MvccGetByKeyResponse {
                region_error,
                error,
                ..Default::default()
            },
        )
    }

    pub(super) async fn mvcc_get_by_start_ts(
        &self,
        request: Request<MvccGetByStartTsRequest>,
    ) -> Reply<MvccGetByStartTsResponse> {
        let (call, request) = Call::open(self.cluster_id, request, |request| &request.context)?;
        let read = async {
            let found = self.store.history_of(&call.context, Ts::from(request.start_ts)).await?;
            let named = found.map(|(key, info)| Ok::<_, Error>((key.user_key()?, info)));
            named.transpose()
        };
        finish(
            call.read(read).await.map_err(in_words),
            |found| {
                let (key, info) =
                    found.map_or_else(Default::default, |(key, info)| (key, Some(info)));
                MvccGetByStartTsResponse { key, info, ..Default::default() }
            },
            |region_error, error| MvccGetByStartTsResponse {
                region_error,
                error,
                ..Default::default()
            },
        )
    }
}

/// Since when a lock has been seen in the way of a request that waits. Clients leave a lock alone for a moment that was
/// taken or renewed just now.
#[derive(Default)]
struct Holding {
    seen: Option<(Ts, Duration)>,
}

impl Holding {
    /// The lock of this error is in the way.
    fn note(&mut self, locked: &Error) {
        if let Error::Locked { lock, .. } = locked
            && self.seen.is_none_or(|(holder, _)| holder != lock.start_ts)
        {
            self.seen = Some((lock.start_ts, SystemClock.monotonic()));
        }
    }

    /// Says so in the answer, if that is about the same lock.
    fn told(&self, mut error: KeyError) -> KeyError {
        if let (Some(locked), Some((holder, since))) = (&mut error.locked, self.seen)
            && locked.lock_version == holder.get()
        {
            let lasting = SystemClock.monotonic().saturating_sub(since).as_millis();
            locked.duration_to_last_update_ms = u64::try_from(lasting).unwrap_or(u64::MAX);
        }
        error
    }
}

/// For answers that have only a text for what is about keys.
pub(super) fn in_words(refused: Refused<Error>) -> Refused {
    match refused {
        Refused::Late(reason) => Refused::Late(reason),
        Refused::Error(Error::Other(error)) => Refused::Error(*error),
        Refused::Error(about_key) => Refused::Error(crate::Error::Admin(about_key.to_string())),
    }
}

fn sizes(keys: &[bytes::Bytes]) -> usize {
    keys.iter().map(bytes::Bytes::len).sum()
}

/// What was found at keys: values, and locks in the way.
fn pairs(found: Vec<(Key, Result<Version>)>, need_commit_ts: bool) -> Result<Vec<KvPair>> {
    let pair = |(key, answer): (Key, Result<Version>)| {
        let key = key.user_key()?;
        match answer {
            Ok(Version { value, commit_ts }) => {
                let commit_ts = if need_commit_ts { commit_ts.get() } else { 0 };
                Ok(KvPair { key, value, commit_ts, ..Default::default() })
            }
            Err(error) => {
                let error = Some(Box::new(about_key(error)?));
                Ok(KvPair { error, key, ..Default::default() })
            }
        }
    };
    found.into_iter().map(pair).collect()
}

/// The wire form of an error about a key; any other comes back.
fn about_key(error: Error) -> Result<KeyError> {
    match error {
        Error::Other(error) => Err(Error::Other(error)),
        about_key => Ok(about_key.to_wire().expect("only the variant above has no such form")),
    }
}

fn error_pair(error: &Option<KeyError>) -> Vec<KvPair> {
    let pair =
        |error: &KeyError| KvPair { error: Some(Box::new(error.clone())), ..Default::default() };
    error.iter().map(pair).collect()
}

fn prewritten_to_wire(prewritten: Prewritten) -> Result<PrewriteResponse> {
    match prewritten {
        Prewritten::Done { min_commit_ts, one_phase_commit_ts } => Ok(PrewriteResponse {
            min_commit_ts: min_commit_ts.get(),
            one_pc_commit_ts: one_phase_commit_ts.get(),
            ..Default::default()
        }),
        Prewritten::Locked(in_the_way) => {
            let errors = in_the_way.into_iter().map(about_key).collect::<Result<_>>()?;
            Ok(PrewriteResponse { errors, ..Default::default() })
        }
    }
}

/// What stands beside the error of a request that takes locks over newer versions: clients want to hear of each key.
fn failed_results(request: &PessimisticLockRequest) -> Vec<PessimisticLockKeyResult> {
    let force = PessimisticLockWakeUpMode::WakeUpModeForceLock as i32;
    let keys = if request.wake_up_mode == force { request.mutations.len() } else { 0 };
    let kind = PessimisticLockKeyResultType::LockResultFailed.into();
    vec![PessimisticLockKeyResult { r#type: kind, ..Default::default() }; keys]
}

/// Lists are empty or have an entry for each key. `results` is for requests that take locks over newer versions, and
/// only for them.
fn locked_to_wire(command: &PessimisticLock, locked: Vec<KeyLocked>) -> PessimisticLockResponse {
    let mut response = PessimisticLockResponse::default();
    for KeyLocked { value, exists, locked_with_conflict_ts } in locked {
        let (exists, value) = (exists.unwrap_or_default(), value.unwrap_or_default());
        if command.force {
            let kind = match locked_with_conflict_ts {
                Ts::ZERO => PessimisticLockKeyResultType::LockResultNormal,
                _ => PessimisticLockKeyResultType::LockResultLockedWithConflict,
            };
            response.results.push(PessimisticLockKeyResult {
                r#type: kind.into(),
                value,
                existence: exists,
                locked_with_conflict_ts: locked_with_conflict_ts.get(),
                ..Default::default()
            });
            continue;
        }
        if command.return_values {
            response.values.push(value);
        }
        if command.return_values || command.check_existence {
            response.not_founds.push(!exists);
        }
    }
    response
}
