//! Transactions that write two keys, as client libraries run them: in one phase if both lie in one region, in two
//! phases otherwise.
//!
//! 1. A timestamp is taken; the keys are locked, those of several regions at the same time.
//! 2. In one region that was all. Otherwise a second timestamp is taken, and the locks are turned into versions, the
//!    primary one first. The transaction's time ends with the last: nothing is left for the background, where it would
//!    not be counted.
//! 3. Who meets another transaction takes the locks away and begins anew, with a new timestamp.

use std::time::Duration;

use bytes::Bytes;
use skerry_proto::codec::encode_bytes;
use skerry_proto::kvrpcpb::{
    BatchRollbackRequest, CommitRequest, Mutation, Op, PrewriteRequest, PrewriteResponse,
};
use skerry_proto::types::Ts;

use super::cluster::{Cluster, checked, lost};
use crate::error::{Error, Result};

/// Milliseconds that a lock lives. Nobody else resolves locks here.
const LOCK_TTL_MS: u64 = 20_000;
/// Before a transaction that met another begins anew.
const PAUSE: Duration = Duration::from_millis(1);
/// Transactions that begin anew so often meet somebody who is not one of us.
const ATTEMPTS_MAX: u32 = 1_000;

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
        let (primary, secondary) = (pairs[..1].to_vec(), pairs[1..].to_vec());
        for _ in 0..ATTEMPTS_MAX {
            let start = self.timestamp().await?;
            let (first, second) = tokio::join!(
                self.prewrite(&primary, pairs, start, false),
                self.prewrite(&secondary, pairs, start, false)
            );
            if first?.errors.is_empty() && second?.errors.is_empty() {
                let commit = self.timestamp().await?;
                self.commit(&primary, start, commit).await?;
                return self.commit(&secondary, start, commit).await;
            }
            self.give_up(&primary, start).await?;
            self.give_up(&secondary, start).await?;
        }
        Err(met_too_often())
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

fn met_too_often() -> Error {
    let reason = format!("a transaction met others {ATTEMPTS_MAX} times");
    Error::Startup(reason)
}
