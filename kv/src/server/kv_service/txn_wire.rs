//! From requests to commands: what each field of a transactional request means here.
//!
//! Keys are checked and formed by [`TxnKeys`]; fields that this store does not need are left out. What cannot be right
//! is refused in words ([`Error::Invalid`]).

use std::collections::BTreeMap;

use bytes::Bytes;
use skerry_proto::kvrpcpb::prewrite_request::PessimisticAction;
use skerry_proto::kvrpcpb::{self, Assertion, AssertionLevel, IsolationLevel, Op};
use skerry_proto::types::Ts;

use crate::mvcc::{Isolation, ReadRules};
use crate::txn::error::{Error, Result};
use crate::txn::form::TxnKeys;
use crate::txn::pessimistic_lock::PessimisticLock;
use crate::txn::prewrite::{Change, Mutation, Prewrite, Way};
use crate::txn::scan::Scan;

/// How a read at `version` wants to be answered. The level *RCCheckTS* reads at an old timestamp and wants to hear of
/// all that is newer; it is refused, as nobody here would tell.
pub(super) fn rules(context: &Option<kvrpcpb::Context>, version: u64) -> Result<ReadRules> {
    let none = kvrpcpb::Context::default();
    let context = context.as_ref().unwrap_or(&none);
    let level = context.isolation_level;
    let isolation = match IsolationLevel::try_from(level) {
        Ok(IsolationLevel::Si) => Isolation::Snapshot,
        Ok(IsolationLevel::Rc) => Isolation::ReadCommitted,
        Ok(IsolationLevel::RcCheckTs) | Err(_) => {
            let text = format!("isolation level {level} is not served: 0 is SI, 1 is RC");
            return Err(Error::Invalid(text));
        }
    };
    Ok(ReadRules {
        ts: Ts::from(version),
        isolation,
        resolved: context.resolved_locks.iter().map(|ts| Ts::from(*ts)).collect(),
        committed: context.committed_locks.iter().map(|ts| Ts::from(*ts)).collect(),
    })
}

/// The same for a read that wants to hear when each version was committed: a lock does not say.
pub(super) fn rules_telling_commits(
    context: &Option<kvrpcpb::Context>,
    version: u64,
    need_commit_ts: bool,
) -> Result<ReadRules> {
    let mut rules = rules(context, version)?;
    if need_commit_ts {
        rules.committed.clear();
    }
    Ok(rules)
}

/// A reverse scan has its upper bound in `start_key`.
pub(super) fn scan(request: kvrpcpb::ScanRequest, reply_bytes_max: usize) -> Result<Scan> {
    let rules = rules(&request.context, request.version)?;
    let kvrpcpb::ScanRequest { start_key, end_key, limit, reverse, key_only, sample_step, .. } =
        request;
    let (start, end) = if reverse { (end_key, start_key) } else { (start_key, end_key) };
    let mut scan = Scan::new(start, end, limit as usize, rules);
    scan.reply_bytes_max = reply_bytes_max;
    scan.reverse = reverse;
    scan.key_only = key_only;
    scan.sample_step = sample_step as usize;
    Ok(scan)
}

pub(super) fn prewrite(keys: TxnKeys, request: kvrpcpb::PrewriteRequest) -> Result<Prewrite> {
    let constraints = &request.for_update_ts_constraints;
    let expected: BTreeMap<usize, Ts> = constraints
        .iter()
        .map(|constraint| (constraint.index as usize, Ts::from(constraint.expected_for_update_ts)))
        .collect();
    let mut mutations = Vec::with_capacity(request.mutations.len());
    for (index, wire) in request.mutations.into_iter().enumerate() {
        let action = request.pessimistic_actions.get(index).copied().unwrap_or_default();
        let pessimistic = PessimisticAction::try_from(action)
            .map_err(|_| Error::Invalid(format!("pessimistic action {action} is not known")))?;
        let key = keys.key(&wire.key)?;
        mutations.push(Mutation {
            assertion: assertion(wire.assertion)?,
            pessimistic,
            expected_for_update_ts: expected.get(&index).copied(),
            ..Mutation::new(key, change(wire.op, wire.value)?)
        });
    }
    let level = request.assertion_level;
    let assertion_level = AssertionLevel::try_from(level)
        .map_err(|_| Error::Invalid(format!("assertion level {level} is not known")))?;
    // The list of other keys is there also if the shortcut is not asked for.
    let way = match (request.try_one_pc, request.use_async_commit) {
        (true, _) => Way::OnePhase,
        (false, true) => Way::Async(secondaries(keys, request.secondaries)?),
        (false, false) => Way::TwoPhases,
    };
    Ok(Prewrite {
        mutations,
        primary: primary(keys, request.primary_lock)?,
        start_ts: Ts::from(request.start_version),
        ttl_ms: request.lock_ttl,
        txn_size: request.txn_size,
        for_update_ts: Ts::from(request.for_update_ts),
        min_commit_ts: Ts::from(request.min_commit_ts),
        max_commit_ts: Ts::from(request.max_commit_ts),
        assertion_level,
        way,
    })
}

pub(super) fn pessimistic_lock(
    keys: TxnKeys,
    request: kvrpcpb::PessimisticLockRequest,
) -> Result<PessimisticLock> {
    let mut locked = Vec::with_capacity(request.mutations.len());
    for wire in &request.mutations {
        if wire.op != Op::PessimisticLock as i32 {
            return Err(Error::Invalid(format!(
                "a lock request with a mutation of kind {}",
                wire.op
            )));
        }
        locked.push((keys.key(&wire.key)?, assertion(wire.assertion)? == Assertion::NotExist));
    }
    Ok(PessimisticLock {
        keys: locked,
        primary: primary(keys, request.primary_lock)?,
        start_ts: Ts::from(request.start_version),
        ttl_ms: request.lock_ttl,
        for_update_ts: Ts::from(request.for_update_ts),
        min_commit_ts: Ts::from(request.min_commit_ts),
        return_values: request.return_values,
        check_existence: request.check_existence,
        lock_only_if_exists: request.lock_only_if_exists,
        force: request.wake_up_mode
            == kvrpcpb::PessimisticLockWakeUpMode::WakeUpModeForceLock as i32,
        no_wait: request.wait_timeout < 0,
    })
}

/// Everybody who meets a lock of the transaction will ask at this key, so it must be one.
fn primary(keys: TxnKeys, primary: Bytes) -> Result<Bytes> {
    keys.key(&primary)?;
    Ok(primary)
}

/// The same of its other keys, if it commits asynchronously.
fn secondaries(keys: TxnKeys, secondaries: Vec<Bytes>) -> Result<Vec<Bytes>> {
    secondaries.into_iter().map(|key| primary(keys, key)).collect()
}

fn change(op: i32, value: Bytes) -> Result<Change> {
    match Op::try_from(op) {
        Ok(Op::Put) => Ok(Change::Put(value)),
        Ok(Op::Insert) => Ok(Change::Insert(value)),
        Ok(Op::Del) => Ok(Change::Delete),
        Ok(Op::Lock) => Ok(Change::Lock),
        Ok(Op::CheckNotExists) => Ok(Change::CheckNotExists),
        _ => Err(Error::Invalid(format!("a prewrite with a mutation of kind {op}"))),
    }
}

fn assertion(wire: i32) -> Result<Assertion> {
    Assertion::try_from(wire).map_err(|_| Error::Invalid(format!("assertion {wire} is not known")))
}
