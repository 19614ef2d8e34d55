//! Transactions that write two keys, as client libraries run them: in one phase if both lie in one region, in two
//! phases otherwise.
//!
//! 1. A timestamp is taken; the keys are locked, those of several regions at the same time.
//! 2. In one region that was all. Otherwise a second timestamp is taken, and the locks are turned into versions, the
//!    primary one first. The transaction's time ends with the last: nothing is left for the background, where it would
//!    not be counted.
//! 3. Who meets another transaction takes the locks away and begins anew, with a new timestamp.
//! 4. Who reads at a timestamp and meets a lock from before it waits for its owner. An owner that does not live any
//!    more is asked after at its primary key, and the lock ended as the transaction ended there.

use std::time::Duration;

use bytes::Bytes;
use skerry_proto::codec::encode_bytes;
use skerry_proto::kvrpcpb::{
    BatchRollbackRequest, CheckTxnStatusRequest, CommitRequest, GetRequest, LockInfo, Mutation, Op,
    PrewriteRequest, PrewriteResponse, ResolveLockRequest,
};
use skerry_proto::types::Ts;
use skerry_raftstore::time::{Clock, SystemClock};

use super::cluster::{Cluster, Miss, checked, lost};
use crate::error::{Error, Result};

/// Milliseconds that a lock lives; then others may take it away.
const LOCK_TTL_MS: u64 = 3_000;
/// Before a transaction that met another begins anew.
const PAUSE: Duration = Duration::from_millis(1);
/// Transactions that begin anew so often meet somebody who is not one of us.
pub(super) const ATTEMPTS_MAX: u32 = 1_000;

/// Keys with their new values.
pub(super) type Pairs = Vec<(Bytes, Bytes)>;

impl Cluster {
    /// Writes pairs of one region together.
    pub(super) async fn write_in_one_phase(&self, pairs: &Pairs) -> Result<()> {
        for _ in 0..ATTEMPTS_MAX {
            let start = self.timestamp().await?;
            let answer = self.prewrite(pairs, pairs, start, true).await?;
            if answer.errors.is_empty() {
                return match answer.one_pc_commit_ts {
                    0 => Err(Error::Startup("the store did not commit in one phase".to_string())),
                    _ => Ok(()),
                };
            }
            self.give_up(pairs, start).await?;
        }
        Err(met_too_often())
    }

    /// Writes two pairs of two regions together.
    pub(super) async fn write_in_two_phases(&self, pairs: &Pairs) -> Result<()> {
        for _ in 0..ATTEMPTS_MAX {
            let start = self.timestamp().await?;
            if self.try_in_two_phases(pairs, start).await? {
                return Ok(());
            }
        }
        Err(met_too_often())
    }

    /// The same for what was computed of a read at `start`. Answers false if another transaction was met: nothing was
    /// written then, and it has to be computed anew.
    pub(super) async fn try_in_two_phases(&self, pairs: &Pairs, start: Ts) -> Result<bool> {
        let (primary, secondary) = (pairs[..1].to_vec(), pairs[1..].to_vec());
        let (first, second) = tokio::join!(
            self.prewrite(&primary, pairs, start, false),
            self.prewrite(&secondary, pairs, start, false)
        );
        if first?.errors.is_empty() && second?.errors.is_empty() {
            let commit = self.timestamp().await?;
            self.commit(&primary, start, commit).await?;
            self.commit(&secondary, start, commit).await?;
            return Ok(true);
        }
        self.give_up(&primary, start).await?;
        self.give_up(&secondary, start).await?;
        Ok(false)
    }

    /// The value of a key at a timestamp; nothing if it has none then.
    pub(super) async fn read_at(&self, key: &Bytes, at: Ts) -> Result<Option<Bytes>> {
        let (clock, place) = (SystemClock, encode_bytes(key));
        let began = clock.monotonic();
        while clock.monotonic() - began < self.patience() {
            let asked = self.attempt(&place, |mut line, context| {
                let (key, version) = (key.clone(), at.get());
                let request = GetRequest { context, key, version, ..GetRequest::default() };
                async move {
                    let answer = line.read(request).await.map_err(lost)?;
                    checked(answer.region_error, "")?;
                    match answer.error {
                        None => Ok(Ok((!answer.not_found).then_some(answer.value))),
                        Some(error) => match error.locked {
                            Some(lock) => Ok(Err(lock)),
                            None => Err(Miss::Never(format!("{error:?}"))),
                        },
                    }
                }
            });
            match asked.await? {
                Ok(value) => return Ok(value),
                Err(lock) => self.pass(&lock).await?,
            }
            tokio::time::sleep(PAUSE).await;
        }
        Err(Error::Startup("another transaction's lock stays in the way".to_string()))
    }

    /// Ends a lock whose owner's time is over, as the primary lock ended; leaves a living one alone.
    async fn pass(&self, lock: &LockInfo) -> Result<()> {
        let (start, now) = (Ts::from(lock.lock_version), self.timestamp().await?);
        if start.physical_ms() + lock.lock_ttl >= now.physical_ms() {
            return Ok(());
        }
        let place = encode_bytes(&lock.primary_lock);
        let request = CheckTxnStatusRequest {
            primary_key: lock.primary_lock.clone(),
            lock_ts: start.get(),
            current_ts: now.get(),
            // Its time is over: what is not there by now never will be.
            rollback_if_not_exist: true,
            ..CheckTxnStatusRequest::default()
        };
        let status = self.attempt(&place, |mut line, context| {
            let request = CheckTxnStatusRequest { context, ..request.clone() };
            async move {
                let mut answer = line.status(request).await.map_err(lost)?;
                let error = answer.error.take().map_or_else(String::new, |it| format!("{it:?}"));
                checked(answer.region_error.take(), &error)?;
                Ok(answer)
            }
        });
        let status = status.await?;
        if status.lock_ttl > 0 {
            return Ok(());
        }
        let request = ResolveLockRequest {
            start_version: start.get(),
            commit_version: status.commit_version,
            keys: vec![lock.key.clone()],
            ..ResolveLockRequest::default()
        };
        self.attempt(&encode_bytes(&lock.key), |mut line, context| {
            let request = ResolveLockRequest { context, ..request.clone() };
            async move {
                let answer = line.resolve(request).await.map_err(lost)?;
                let error = answer.error.map_or_else(String::new, |error| format!("{error:?}"));
                checked(answer.region_error, &error)
            }
        })
        .await
    }

    /// Locks pairs of one region, of a transaction of `all`.
    async fn prewrite(
        &self,
        pairs: &Pairs,
        all: &Pairs,
        start: Ts,
        in_one_phase: bool,
    ) -> Result<PrewriteResponse> {
        let mutation = |(key, value): &(Bytes, Bytes)| Mutation {
            op: Op::Put.into(),
            key: key.clone(),
            value: value.clone(),
            ..Mutation::default()
        };
        let request = PrewriteRequest {
            mutations: pairs.iter().map(mutation).collect(),
            primary_lock: all[0].0.clone(),
            start_version: start.get(),
            lock_ttl: LOCK_TTL_MS,
            txn_size: all.len() as u64,
            try_one_pc: in_one_phase,
            ..PrewriteRequest::default()
        };
        self.attempt(&encode_bytes(&pairs[0].0), |mut line, context| {
            let request = PrewriteRequest { context, ..request.clone() };
            async move {
                let mut answer = line.prewrite(request).await.map_err(lost)?;
                checked(answer.region_error.take(), "")?;
                Ok(answer)
            }
        })
        .await
    }

    async fn commit(&self, pairs: &Pairs, start: Ts, commit: Ts) -> Result<()> {
        let request = CommitRequest {
            start_version: start.get(),
            keys: pairs.iter().map(|(key, _)| key.clone()).collect(),
            commit_version: commit.get(),
            ..CommitRequest::default()
        };
        self.attempt(&encode_bytes(&pairs[0].0), |mut line, context| {
            let request = CommitRequest { context, ..request.clone() };
            async move {
                let answer = line.commit(request).await.map_err(lost)?;
                let error = answer.error.map_or_else(String::new, |error| format!("{error:?}"));
                checked(answer.region_error, &error)
            }
        })
        .await
    }

    /// Takes the locks of a transaction away that met another one.
    async fn give_up(&self, pairs: &Pairs, start: Ts) -> Result<()> {
        self.begin_anew();
        let keys = pairs.iter().map(|(key, _)| key.clone()).collect();
        let start_version = start.get();
        let request = BatchRollbackRequest { keys, start_version, ..Default::default() };
        let place = encode_bytes(&pairs[0].0);
        let done = self.attempt(&place, |mut line, context| {
            let request = BatchRollbackRequest { context, ..request.clone() };
            async move { line.rollback(request).await.map_err(lost) }
        });
        done.await?;
        tokio::time::sleep(PAUSE).await;
        Ok(())
    }
}

pub(super) fn met_too_often() -> Error {
    let reason = format!("a transaction met others {ATTEMPTS_MAX} times");
    Error::Startup(reason)
}
