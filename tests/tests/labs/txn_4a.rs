//! Project 4A: locks, records and values of single keys, written by `Changes` and read by `Reader`.

use bytes::Bytes;
use skerry_kv::mvcc::{Changes, Key, Lock, Reader, TxnRecord, Version, Write, WriteKind};
use skerry_proto::types::Ts;
use skerry_raftstore::engine::{ColumnFamily, Operation};

use crate::txn::{TxnLab, lock, put};

const KEY: &[u8] = &[16, 240];

fn operations(changes: Changes) -> Vec<Operation> {
    changes.into_batch().into_operations()
}

/// The value that a read at `ts` sees.
fn value_at(lab: &TxnLab, user: &[u8], ts: u64) -> Option<Bytes> {
    let (view, key) = (lab.view(), Key::of(user));
    let mut reader = Reader::of_keys(&*view.view, [&key]);
    let found = reader.get(&key, Ts::from(ts)).expect("memory is read");
    found.map(|Version { value, .. }| value)
}

/// What the records say about the transaction of `start`.
fn record_of(lab: &TxnLab, start: u64) -> TxnRecord {
    let (view, key) = (lab.view(), Key::of(KEY));
    let mut reader = Reader::of_keys(&*view.view, [&key]);
    reader.txn_record(&key, Ts::from(start)).expect("memory is read")
}

fn newest(lab: &TxnLab, user: &[u8]) -> Option<(u64, Write)> {
    let (view, key) = (lab.view(), Key::of(user));
    let mut reader = Reader::of_keys(&*view.view, [&key]);
    let found = reader.seek_write(&key, Ts::MAX).expect("memory is read");
    found.map(|(ts, write)| (ts.get(), write))
}

fn read_lock(lab: &TxnLab, user: &[u8]) -> Option<Lock> {
    let (view, key) = (lab.view(), Key::of(user));
    Reader::of_keys(&*view.view, [&key]).load_lock(&key).expect("memory is read")
}

#[test]
fn test_put_lock_4a() {
    let (key, mut changes) = (Key::of(KEY), Changes::new());
    changes.put_lock(&key, &lock(42, b"v"));
    let expected = Operation::Put(ColumnFamily::Lock, key.to_bytes(), lock(42, b"v").encode());
    assert_eq!(operations(changes), [expected]);
}

#[test]
fn test_put_write_4a() {
    let (key, mut changes) = (Key::of(KEY), Changes::new());
    changes.put_write(&key, Ts::from(455), &put(454, b"v"));
    let at = key.at(Ts::from(455));
    assert_eq!(
        operations(changes),
        [Operation::Put(ColumnFamily::Write, at, put(454, b"v").encode())]
    );
}

/// A long value; a short one goes into lock and record.
#[test]
fn test_put_value_4a() {
    let (key, mut changes) = (Key::of(KEY), Changes::new());
    let long = Bytes::from(vec![1; 256]);
    assert_eq!(
        changes.place_value(&key, Ts::from(453), Bytes::from_static(b"v")),
        Some("v".into())
    );
    assert_eq!(changes.place_value(&key, Ts::from(453), long.clone()), None);
    let at = key.at(Ts::from(453));
    assert_eq!(operations(changes), [Operation::Put(ColumnFamily::Default, at, long)]);
}

#[test]
fn test_get_lock_4a() {
    let lab = TxnLab::new();
    lab.locked(&[1], b"v", 42);
    assert_eq!(read_lock(&lab, &[1]), Some(lock(42, b"v")));
    assert_eq!(read_lock(&lab, &[2]), None);
}

#[test]
fn test_delete_lock_4a() {
    let (key, mut changes) = (Key::of(KEY), Changes::new());
    changes.delete_lock(&key);
    assert_eq!(operations(changes), [Operation::Delete(ColumnFamily::Lock, key.to_bytes())]);
}

#[test]
fn test_delete_value_4a() {
    let (key, mut changes) = (Key::of(KEY), Changes::new());
    changes.delete_value(&key, Ts::from(63));
    let at = key.at(Ts::from(63));
    assert_eq!(operations(changes), [Operation::Delete(ColumnFamily::Default, at)]);
}

fn one_version() -> TxnLab {
    let lab = TxnLab::new();
    lab.committed(KEY, &[1, 1, 2, 3, 5, 8, 13], 40, 42);
    lab
}

fn two_versions() -> TxnLab {
    let lab = one_version();
    lab.committed(KEY, &[255, 0, 255], 50, 52);
    lab
}

#[test]
fn test_get_value_simple_4a() {
    assert_eq!(value_at(&one_version(), KEY, 43).as_deref(), Some(&[1, 1, 2, 3, 5, 8, 13][..]));
}

#[test]
fn test_get_value_missing_4a() {
    assert_eq!(value_at(&one_version(), &[16, 240, 0], 43), None);
    assert_eq!(value_at(&one_version(), &[16], 43), None);
}

#[test]
fn test_get_value_too_early_4a() {
    assert_eq!(value_at(&one_version(), KEY, 41), None);
}

#[test]
fn test_get_value_overwritten_4a() {
    assert_eq!(value_at(&two_versions(), KEY, 52).as_deref(), Some(&[255, 0, 255][..]));
}

/// The commit timestamp decides, not the start.
#[test]
fn test_get_value_not_overwritten_4a() {
    assert_eq!(value_at(&two_versions(), KEY, 50).as_deref(), Some(&[1, 1, 2, 3, 5, 8, 13][..]));
}

#[test]
fn test_get_value_deleted_4a() {
    let lab = one_version();
    lab.record(KEY, WriteKind::Delete, 50, 52);
    assert_eq!(value_at(&lab, KEY, 500), None);
}

#[test]
fn test_get_value_not_deleted_4a() {
    let lab = one_version();
    lab.record(KEY, WriteKind::Delete, 50, 52);
    assert_eq!(value_at(&lab, KEY, 45).as_deref(), Some(&[1, 1, 2, 3, 5, 8, 13][..]));
}

#[test]
fn test_current_write_4a() {
    let lab = two_versions();
    let committed = |ts| TxnRecord::Committed { commit_ts: Ts::from(ts), kind: WriteKind::Put };
    assert_eq!(record_of(&lab, 50), committed(52));
    assert_eq!(record_of(&lab, 40), committed(42));
    assert_eq!(record_of(&lab, 41), TxnRecord::None { overlapped: None });
}

#[test]
fn test_most_recent_write_4a() {
    let lab = TxnLab::new();
    assert_eq!(newest(&lab, KEY), None);
    let lab = two_versions();
    // A record of a transaction that began before all others may be the newest.
    lab.record(KEY, WriteKind::Delete, 1, 5_000);
    let delete = Write::new(WriteKind::Delete, Ts::from(1), None);
    assert_eq!(newest(&lab, KEY), Some((5_000, delete)));
    assert_eq!(newest(&lab, &[16]), None, "a key that another begins with");
    lab.committed(&[16], b"v", 7, 8);
    assert_eq!(newest(&lab, &[16]), Some((8, put(7, b"v"))));
}
