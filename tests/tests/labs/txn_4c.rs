//! Project 4C: giving up, asking what became of a transaction, resolving, scanning.

use bytes::Bytes;
use skerry_kv::mvcc::{Key, ReadRules, Write, WriteKind};
use skerry_kv::txn::check_txn_status::{CheckTxnStatus, TxnStatus};
use skerry_kv::txn::resolve_lock::ResolveRegion;
use skerry_kv::txn::rollback::Rollback;
use skerry_kv::txn::scan::Scan;
use skerry_kv::txn::{Error, Steps};
use skerry_proto::kvrpcpb::Action;
use skerry_proto::types::Ts;

use crate::txn::{Contents, TxnLab, lock, put};

fn roll_back(lab: &TxnLab, start: u64, users: &[u8]) -> Result<(), Error> {
    let keys = users.iter().map(|user| Key::of(&[*user])).collect();
    lab.write(&Rollback { keys, start_ts: Ts::from(start) })
}

/// The record of a rollback. That of the primary key, 1, is protected.
fn rolled_back(user: u8, start: u64) -> (Vec<u8>, u64, Write) {
    (vec![user], start, Write::rollback(Ts::from(start), user == 1))
}

#[test]
fn test_empty_rollback_4c() {
    let lab = TxnLab::new();
    assert!(roll_back(&lab, 100, &[]).is_ok());
    assert_eq!(lab.contents(), Contents::default());
}

#[test]
fn test_rollback_4c() {
    let lab = TxnLab::new();
    lab.locked(&[3], &[42], 100);
    assert!(roll_back(&lab, 100, &[3]).is_ok());
    let writes = vec![rolled_back(3, 100)];
    assert_eq!(lab.contents(), Contents { writes, ..Contents::default() });
}

#[test]
fn test_rollback_duplicate_keys_4c() {
    let lab = TxnLab::new();
    lab.locked(&[3], &[42], 100);
    lab.locked(&[15], &[0], 100);
    assert!(roll_back(&lab, 100, &[3, 15, 3]).is_ok());
    let writes = vec![rolled_back(3, 100), rolled_back(15, 100)];
    assert_eq!(lab.contents(), Contents { writes, ..Contents::default() });
}

#[test]
fn test_rollback_missing_prewrite_4c() {
    let lab = TxnLab::new();
    assert!(roll_back(&lab, 100, &[3]).is_ok());
    let writes = vec![rolled_back(3, 100)];
    assert_eq!(lab.contents(), Contents { writes, ..Contents::default() });
}

#[test]
fn test_rollback_committed_4c() {
    let lab = TxnLab::new();
    lab.committed(&[3], &[42], 100, 110);
    let before = lab.contents();
    let error = roll_back(&lab, 100, &[3]).expect_err("it is committed");
    assert!(!error.to_wire().expect("it is about a key").abort.is_empty());
    assert_eq!(lab.contents(), before);
}

#[test]
fn test_rollback_duplicate_4c() {
    let lab = TxnLab::new();
    lab.record(&[3], WriteKind::Rollback, 100, 100);
    let before = lab.contents();
    assert!(roll_back(&lab, 100, &[3]).is_ok());
    assert_eq!(lab.contents(), before);
}

#[test]
fn test_rollback_other_txn_4c() {
    let lab = TxnLab::new();
    lab.locked(&[3], &[42], 80);
    assert!(roll_back(&lab, 100, &[3]).is_ok());
    let (locks, writes) = (vec![(vec![3], lock(80, &[42]))], vec![rolled_back(3, 100)]);
    assert_eq!(lab.contents(), Contents { locks, writes, ..Contents::default() });
}

const START: u64 = 5 << 40;

fn status(lab: &TxnLab, start: u64, current: u64) -> TxnStatus {
    let command = CheckTxnStatus {
        primary: Key::of(&[3]),
        start_ts: Ts::from(start),
        caller_start_ts: Ts::ZERO,
        current_ts: Ts::from(current),
        rollback_if_not_exist: true,
        force_sync_commit: false,
        resolving_pessimistic_lock: false,
        verify_is_primary: false,
    };
    lab.write(&command).expect("the primary key tells")
}

/// Locks key 3 for the transaction of [`START`], for so many milliseconds.
fn lock_for(lab: &TxnLab, ttl_ms: u64) {
    let mut changes = skerry_kv::mvcc::Changes::new();
    let lock = skerry_kv::mvcc::Lock { ttl_ms, ..lock(START, &[42]) };
    changes.put_lock(&Key::of(&[3]), &lock);
    lab.set(changes);
}

#[test]
fn test_check_txn_status_ttl_expired_4c() {
    let lab = TxnLab::new();
    lock_for(&lab, 8);
    let answer = status(&lab, START, 6 << 40);
    assert_eq!(answer, TxnStatus::RolledBack(Action::TtlExpireRollback));
    let writes = vec![(vec![3], START, Write::rollback(Ts::from(START), true))];
    assert_eq!(lab.contents(), Contents { writes, ..Contents::default() });
}

#[test]
fn test_check_txn_status_ttl_not_expired_4c() {
    let lab = TxnLab::new();
    lock_for(&lab, 8 + (1 << 32));
    let before = lab.contents();
    match status(&lab, START, 6 << 40) {
        TxnStatus::Alive { lock, is_pushed: false } => assert_eq!(lock.ttl_ms, 8 + (1 << 32)),
        other => panic!("its owner is alive: {other:?}"),
    }
    assert_eq!(lab.contents(), before);
}

#[test]
fn test_check_txn_status_rolled_back_4c() {
    let lab = TxnLab::new();
    lab.record(&[3], WriteKind::Rollback, START, START);
    lab.locked(&[3], &[1], START + 100);
    let before = lab.contents();
    assert_eq!(status(&lab, START, 6 << 40), TxnStatus::RolledBack(Action::NoAction));
    assert_eq!(lab.contents(), before);
}

#[test]
fn test_check_txn_status_committed_4c() {
    let lab = TxnLab::new();
    lab.committed(&[3], &[42], START, START + 10);
    let before = lab.contents();
    assert_eq!(status(&lab, START, 6 << 40), TxnStatus::Committed(Ts::from(START + 10)));
    assert_eq!(lab.contents(), before);
}

#[test]
fn test_check_txn_status_no_lock_no_write_4c() {
    let lab = TxnLab::new();
    let answer = status(&lab, START, 6 << 40);
    assert_eq!(answer, TxnStatus::RolledBack(Action::LockNotExistRollback));
    let writes = vec![(vec![3], START, Write::rollback(Ts::from(START), true))];
    assert_eq!(lab.contents(), Contents { writes, ..Contents::default() });
}

/// Ends the transaction of `start` in the whole region.
fn resolve(lab: &TxnLab, start: u64, commit: u64) {
    let mut steps = ResolveRegion::new([(Ts::from(start), Ts::from(commit))].into());
    while let Some(command) = steps.next(&lab.view()).expect("memory is read") {
        lab.write(&command).expect("what is left can be resolved");
    }
}

fn two_transactions() -> TxnLab {
    let lab = TxnLab::new();
    lab.locked(&[3], &[42], 100);
    lab.locked(&[7], &[43], 100);
    lab.locked(&[200], b"other", 110);
    lab
}

#[test]
fn test_empty_resolve_4c() {
    let lab = TxnLab::new();
    resolve(&lab, 100, 0);
    resolve(&lab, 100, 120);
    assert_eq!(lab.contents(), Contents::default());
}

#[test]
fn test_resolve_commit_4c() {
    let lab = two_transactions();
    resolve(&lab, 100, 120);
    let locks = vec![(vec![200], lock(110, b"other"))];
    let writes = vec![(vec![3], 120, put(100, &[42])), (vec![7], 120, put(100, &[43]))];
    assert_eq!(lab.contents(), Contents { locks, writes, ..Contents::default() });
}

#[test]
fn test_resolve_rollback_4c() {
    let lab = two_transactions();
    resolve(&lab, 100, 0);
    let locks = vec![(vec![200], lock(110, b"other"))];
    let writes = vec![rolled_back(3, 100), rolled_back(7, 100)];
    assert_eq!(lab.contents(), Contents { locks, writes, ..Contents::default() });
}

#[test]
fn test_resolve_commit_written_4c() {
    let lab = TxnLab::new();
    lab.committed(&[3], &[42], 100, 120);
    lab.committed(&[7], &[43], 100, 120);
    lab.locked(&[200], b"other", 110);
    let before = lab.contents();
    resolve(&lab, 100, 120);
    assert_eq!(lab.contents(), before);
}

#[test]
fn test_resolve_rollback_written_4c() {
    let lab = TxnLab::new();
    lab.record(&[3], WriteKind::Rollback, 100, 100);
    lab.record(&[7], WriteKind::Rollback, 100, 100);
    lab.locked(&[200], b"other", 110);
    let before = lab.contents();
    resolve(&lab, 100, 0);
    assert_eq!(lab.contents(), before);
}

/// Pairs from `start`, as keys and values.
fn scan(lab: &TxnLab, start: &[u8], limit: usize, ts: u64) -> Vec<(Bytes, Bytes)> {
    let start = Bytes::copy_from_slice(start);
    let command = Scan::new(start, Bytes::new(), limit, ReadRules::at(Ts::from(ts)));
    let found = lab.read(command).expect("no lock is in the way").found;
    let pair = |(key, version): (Key, Result<skerry_kv::mvcc::Version, Error>)| {
        let value = version.expect("no lock is in the way").value;
        (key.user_key().expect("a key has its form"), value)
    };
    found.into_iter().map(pair).collect()
}

/// Eleven keys with a value at 100, among others that have none then.
fn mixed() -> (TxnLab, Vec<(Bytes, Bytes)>) {
    let lab = TxnLab::new();
    let users: [&'static [u8]; 11] =
        [&[1], &[1, 23], &[2], &[3], &[3, 45], &[3, 46], &[3, 46, 1], &[4], &[150], &[199], &[200]];
    for user in users {
        lab.committed(user, user, 80, 99);
    }
    lab.committed(&[3, 45], b"newer", 101, 110);
    lab.committed(&[3, 0], b"newer", 101, 110);
    lab.committed(&[120], b"deleted", 50, 55);
    lab.record(&[120], WriteKind::Delete, 60, 62);
    lab.record(&[150], WriteKind::Rollback, 100, 100);
    lab.record(&[199], WriteKind::Lock, 99, 100);
    let pairs = users.map(|user| (Bytes::from_static(user), Bytes::from_static(user)));
    (lab, pairs.to_vec())
}

#[test]
fn test_scan_empty_4c() {
    let (lab, _) = mixed();
    assert_eq!(scan(&lab, &[200, 1], 10_000, 100), []);
}

#[test]
fn test_scan_limit_zero_4c() {
    let (lab, _) = mixed();
    assert_eq!(scan(&lab, &[3], 0, 100), []);
}

#[test]
fn test_scan_all_4c() {
    let (lab, pairs) = mixed();
    assert_eq!(scan(&lab, &[0], 10_000, 100), pairs);
}

#[test]
fn test_scan_limit_4c() {
    let (lab, pairs) = mixed();
    let found = scan(&lab, &[2, 1], 5, 100);
    assert_eq!(found, pairs[3..8]);
    assert_eq!((&found[0].0[..], &found[4].0[..]), (&[3][..], &[4][..]));
    assert_eq!(scan(&lab, &[2], 6, 100), pairs[2..8]);
}

#[test]
fn test_scan_deleted_4c() {
    let (lab, pairs) = mixed();
    lab.record(&[150], WriteKind::Delete, 101, 102);
    lab.committed(&[150], b"again", 115, 116);
    let seen = |ts| scan(&lab, &[150], 1, ts).remove(0);
    assert_eq!(seen(100), pairs[8]);
    assert_eq!(seen(105).0, pairs[9].0);
    assert_eq!(seen(120), (Bytes::from_static(&[150]), Bytes::from_static(b"again")));
}
