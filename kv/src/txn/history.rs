//! MvccGetByKey and MvccGetByStartTs: everything that is stored about a key, for people who look for a mistake.

use std::collections::BTreeSet;

use skerry_proto::kvrpcpb::{MvccInfo, MvccLock, MvccValue, MvccWrite, Op};
use skerry_proto::types::Ts;
use skerry_raftstore::engine::{ColumnFamily, Cursor};

use super::error::{Result, lock_op};
use super::range_in;
use crate::mvcc::key::split_version;
use crate::mvcc::{Key, Lock, WriteKind, WriteRef};
use crate::storage::RegionView;

/// Everything stored about `key`, newest first. It reads what lies there at the view's moment, and raises nothing.
pub fn of_key(view: &RegionView, key: &Key) -> Result<MvccInfo> {
    view.check_key(key.as_bytes())?;
    let mut info = MvccInfo::default();
    if let Some(bytes) = view.view.get(ColumnFamily::Lock, key.as_bytes())? {
        info.lock = Some(wire_lock(Lock::decode(&bytes)?));
    }
    each_version(view, key, ColumnFamily::Write, |commit_ts, value| {
        info.writes.push(wire_write(commit_ts, WriteRef::decode(value)?));
        Ok(())
    })?;
    each_version(view, key, ColumnFamily::Default, |start_ts, value| {
        let value = value.to_vec().into();
        info.values.push(MvccValue { start_ts: start_ts.get(), value });
        Ok(())
    })?;
    Ok(info)
}

/// Everything stored about the first key in the region that the transaction touched which began at `start_ts`;
/// nothing if it touched none. Reads the whole region.
pub fn of_transaction(view: &RegionView, start_ts: Ts) -> Result<Option<(Key, MvccInfo)>> {
    let Some(range) = range_in(view, b"", b"") else { return Ok(None) };
    let mut touched = BTreeSet::new();
    let mut locks = view.view.cursor(ColumnFamily::Lock, &range)?;
    find(&mut *locks, |key, value| {
        let found = Lock::decode(value)?.start_ts == start_ts;
        touched.extend(found.then(|| Key::from_engine(key)));
        Ok(found)
    })?;
    let mut writes = view.view.cursor(ColumnFamily::Write, &range)?;
    find(&mut *writes, |version, value| {
        let found = WriteRef::decode(value)?.start_ts == start_ts;
        touched.extend(
            found
                .then(|| split_version(version).map(|(key, _)| Key::from_engine(key)))
                .transpose()?,
        );
        Ok(found)
    })?;
    let Some(first) = touched.pop_first() else { return Ok(None) };
    let info = of_key(view, &first)?;
    Ok(Some((first, info)))
}

/// Walks from the beginning until `visit` says that it has found what it wanted.
fn find(
    cursor: &mut dyn Cursor,
    mut visit: impl FnMut(&[u8], &[u8]) -> Result<bool>,
) -> Result<()> {
    let mut stands = cursor.seek_to_first()?;
    while stands && !visit(cursor.key(), cursor.value())? {
        stands = cursor.next()?;
    }
    Ok(())
}

fn each_version(
    view: &RegionView,
    key: &Key,
    family: ColumnFamily,
    mut visit: impl FnMut(Ts, &[u8]) -> Result<()>,
) -> Result<()> {
    let mut cursor = view.view.cursor(family, &key.versions())?;
    find(&mut *cursor, |version, value| {
        visit(split_version(version)?.1, value)?;
        Ok(false)
    })
}

fn wire_lock(lock: Lock) -> MvccLock {
    MvccLock {
        r#type: lock_op(lock.kind).into(),
        start_ts: lock.start_ts.get(),
        primary: lock.primary,
        short_value: lock.short_value.unwrap_or_default(),
        ttl: lock.ttl_ms,
        for_update_ts: lock.for_update_ts.get(),
        txn_size: lock.txn_size,
        use_async_commit: lock.use_async_commit,
        secondaries: lock.secondaries,
        ..MvccLock::default()
    }
}

fn wire_write(commit_ts: Ts, write: WriteRef<'_>) -> MvccWrite {
    let op = match write.kind {
        WriteKind::Put => Op::Put,
        WriteKind::Delete => Op::Del,
        WriteKind::Lock => Op::Lock,
        WriteKind::Rollback => Op::Rollback,
    };
    // Whether a rollback is protected is shown as TiKV's tools expect it: by its value.
    let protected = if write.protected { &b"p"[..] } else { &b""[..] };
    MvccWrite {
        r#type: op.into(),
        start_ts: write.start_ts.get(),
        commit_ts: commit_ts.get(),
        short_value: write.short_value.unwrap_or(protected).to_vec().into(),
        has_overlapped_rollback: write.overlapped_rollback,
        ..MvccWrite::default()
    }
}
