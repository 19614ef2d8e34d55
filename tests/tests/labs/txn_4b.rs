//! Project 4B: reading, prewriting and committing.

use bytes::Bytes;
use skerry_kv::mvcc::{Key, ReadRules, WriteKind};
use skerry_kv::txn::Error;
use skerry_kv::txn::commit::Commit;
use skerry_kv::txn::get::Get;
use skerry_kv::txn::prewrite::{Change, Mutation, Prewrite, Prewritten, Way};
use skerry_proto::kvrpcpb::AssertionLevel;
use skerry_proto::types::Ts;

use crate::txn::{Contents, TxnLab, lock, put};

fn get(lab: &TxnLab, user: &[u8], ts: u64) -> Result<Option<Bytes>, Error> {
    let rules = ReadRules::at(Ts::from(ts));
    let gotten = lab.read(Get { key: Key::of(user), rules })?;
    Ok(gotten.version.map(|version| version.value))
}

fn value(lab: &TxnLab, user: &[u8], ts: u64) -> Option<Bytes> {
    get(lab, user, ts).expect("no lock is in the way")
}

fn prewrite(start: u64, changes: &[(&[u8], Change)]) -> Prewrite {
    let mutation = |(user, change): &(&[u8], Change)| Mutation::new(Key::of(user), change.clone());
    Prewrite {
        mutations: changes.iter().map(mutation).collect(),
        primary: Bytes::from_static(&[1]),
        start_ts: Ts::from(start),
        ttl_ms: 1_000,
        txn_size: 0,
        for_update_ts: Ts::ZERO,
        min_commit_ts: Ts::ZERO,
        max_commit_ts: Ts::ZERO,
        assertion_level: AssertionLevel::Off,
        way: Way::TwoPhases,
    }
}

fn put_of(value: &'static [u8]) -> Change {
    Change::Put(Bytes::from_static(value))
}

fn commit(lab: &TxnLab, start: u64, commit: u64, users: &[&[u8]]) -> Result<Ts, Error> {
    let keys = users.iter().map(|user| Key::of(user)).collect();
    lab.write(&Commit { keys, start_ts: Ts::from(start), commit_ts: Ts::from(commit) })
}

fn is_done(answer: Result<Prewritten, Error>) -> bool {
    matches!(answer, Ok(Prewritten::Done { .. }))
}

fn one_lock() -> Contents {
    Contents { locks: vec![(vec![3], lock(100, &[42]))], ..Contents::default() }
}

#[test]
fn test_get_value_4b() {
    let lab = TxnLab::new();
    lab.committed(&[99], &[42], 50, 54);
    assert_eq!(value(&lab, &[99], u64::MAX).as_deref(), Some(&[42][..]));
}

#[test]
fn test_get_value_ts_4b() {
    let lab = TxnLab::new();
    lab.committed(&[99], &[42], 50, 54);
    for ts in [100, 100, 100, 54, u64::MAX] {
        assert_eq!(value(&lab, &[99], ts).as_deref(), Some(&[42][..]));
    }
    assert_eq!(value(&lab, &[99], 53), None);
}

#[test]
fn test_get_empty_4b() {
    assert_eq!(value(&TxnLab::new(), &[100], u64::MAX), None);
}

#[test]
fn test_get_none_4b() {
    let lab = TxnLab::new();
    lab.committed(&[99], &[42], 50, 54);
    lab.committed(&[101], &[42], 50, 54);
    assert_eq!(value(&lab, &[100], u64::MAX), None);
}

#[test]
fn test_get_versions_4b() {
    let lab = TxnLab::new();
    lab.committed(&[99], &[42], 50, 54);
    lab.committed(&[99], &[43], 60, 66);
    lab.committed(&[99], &[44], 120, 122);
    let expected: [(u64, Option<u8>); 7] = [
        (40, None),
        (56, Some(42)),
        (60, Some(42)),
        (65, Some(42)),
        (66, Some(43)),
        (100, Some(43)),
        (122, Some(44)),
    ];
    for (ts, byte) in expected {
        assert_eq!(value(&lab, &[99], ts), byte.map(|byte| vec![byte].into()), "at {ts}");
    }
}

#[test]
fn test_get_deleted_4b() {
    let lab = TxnLab::new();
    lab.committed(&[99], &[42], 50, 54);
    lab.record(&[99], WriteKind::Delete, 60, 66);
    lab.committed(&[99], &[44], 120, 122);
    for (ts, byte) in
        [(54, Some(42)), (60, Some(42)), (65, Some(42)), (66, None), (67, None), (122, Some(44))]
    {
        assert_eq!(value(&lab, &[99], ts), byte.map(|byte| vec![byte].into()), "at {ts}");
    }
}

#[test]
fn test_get_locked_4b() {
    let lab = TxnLab::new();
    lab.committed(&[99], &[42], 50, 54);
    lab.locked(&[99], &[43], 200);
    assert_eq!(value(&lab, &[99], 55).as_deref(), Some(&[42][..]));
    let error = get(&lab, &[99], 300).expect_err("a lock is in the way");
    let wire = error.to_wire().expect("it is about a key").locked.expect("it is a lock");
    assert_eq!((&wire.key[..], &wire.primary_lock[..]), (&[99][..], &[1][..]));
    assert_eq!(wire.lock_version, 200);
}

#[test]
fn test_empty_prewrite_4b() {
    let lab = TxnLab::new();
    assert!(is_done(lab.write(&prewrite(100, &[]))));
    assert_eq!(lab.contents(), Contents::default());
}

#[test]
fn test_single_prewrite_4b() {
    let lab = TxnLab::new();
    assert!(is_done(lab.write(&prewrite(100, &[(&[3], put_of(&[42]))]))));
    assert_eq!(lab.contents(), one_lock());
}

#[test]
fn test_prewrite_locked_4b() {
    let lab = TxnLab::new();
    assert!(is_done(lab.write(&prewrite(100, &[(&[3], put_of(&[42]))]))));
    match lab.write(&prewrite(101, &[(&[3], put_of(&[53]))])) {
        Ok(Prewritten::Locked(errors)) => assert_eq!(errors.len(), 1),
        other => panic!("the key is locked: {other:?}"),
    }
    assert_eq!(lab.contents(), one_lock());
}

#[test]
fn test_prewrite_written_4b() {
    let lab = TxnLab::new();
    lab.committed(&[3], &[5], 80, 101);
    let before = lab.contents();
    let error = lab.write(&prewrite(100, &[(&[3], put_of(&[42]))])).expect_err("it is too late");
    let wire = error.to_wire().expect("it is about a key").conflict.expect("it is a conflict");
    assert_eq!((wire.start_ts, wire.conflict_ts, wire.conflict_commit_ts), (100, 80, 101));
    assert_eq!((&wire.key[..], &wire.primary[..]), (&[3][..], &[1][..]));
    assert_eq!(lab.contents(), before);
}

#[test]
fn test_prewrite_written_no_conflict_4b() {
    let lab = TxnLab::new();
    lab.committed(&[3], &[5], 80, 90);
    assert!(is_done(lab.write(&prewrite(100, &[(&[3], put_of(&[42]))]))));
    let writes = vec![(vec![3], 90, put(80, &[5]))];
    assert_eq!(lab.contents(), Contents { writes, ..one_lock() });
}

#[test]
fn test_multiple_prewrites_4b() {
    let lab = TxnLab::new();
    assert!(is_done(lab.write(&prewrite(100, &[(&[3], put_of(&[42]))]))));
    assert!(is_done(lab.write(&prewrite(101, &[(&[4], put_of(&[53]))]))));
    let locks = vec![(vec![3], lock(100, &[42])), (vec![4], lock(101, &[53]))];
    assert_eq!(lab.contents(), Contents { locks, ..Contents::default() });
}

#[test]
fn test_prewrite_overwrite_4b() {
    let lab = TxnLab::new();
    let changes: [(&[u8], _); 2] = [(&[3], put_of(&[41])), (&[3], put_of(&[42]))];
    assert!(is_done(lab.write(&prewrite(100, &changes))));
    assert_eq!(lab.contents(), one_lock());
}

#[test]
fn test_prewrite_multiple_4b() {
    let lab = TxnLab::new();
    let changes: [(&[u8], _); 6] = [
        (&[3], put_of(&[42])),
        (&[4], put_of(&[43])),
        (&[5], put_of(&[44])),
        (&[4], Change::Delete),
        (&[4], put_of(&[1, 3, 5])),
        (&[255], put_of(&[45])),
    ];
    assert!(is_done(lab.write(&prewrite(100, &changes))));
    let locks = vec![
        (vec![3], lock(100, &[42])),
        (vec![4], lock(100, &[1, 3, 5])),
        (vec![5], lock(100, &[44])),
        (vec![255], lock(100, &[45])),
    ];
    assert_eq!(lab.contents(), Contents { locks, ..Contents::default() });
}

#[test]
fn test_empty_commit_4b() {
    let lab = TxnLab::new();
    assert!(commit(&lab, 100, 110, &[]).is_ok());
    assert_eq!(lab.contents(), Contents::default());
}

#[test]
fn test_single_commit_4b() {
    let lab = TxnLab::new();
    lab.locked(&[3], &[42], 100);
    assert!(commit(&lab, 100, 110, &[&[3]]).is_ok());
    let writes = vec![(vec![3], 110, put(100, &[42]))];
    assert_eq!(lab.contents(), Contents { writes, ..Contents::default() });
}

#[test]
fn test_commit_overwrite_4b() {
    let lab = TxnLab::new();
    lab.committed(&[3], &[15], 80, 84);
    lab.locked(&[3], &[42], 100);
    assert!(commit(&lab, 100, 110, &[&[3]]).is_ok());
    let writes = vec![(vec![3], 110, put(100, &[42])), (vec![3], 84, put(80, &[15]))];
    assert_eq!(lab.contents(), Contents { writes, ..Contents::default() });
}

#[test]
fn test_commit_multiple_keys_4b() {
    let lab = TxnLab::new();
    for (user, value) in [(&[3][..], &[42][..]), (&[12, 4, 0], b"x"), (b"abc", b"y")] {
        lab.locked(user, value, 100);
    }
    lab.locked(&[4], b"other", 110);
    lab.committed(b"abcd", b"before", 80, 81);
    assert!(commit(&lab, 100, 120, &[&[3], &[12, 4, 0], b"abc"]).is_ok());
    let writes = vec![
        (vec![3], 120, put(100, &[42])),
        (vec![12, 4, 0], 120, put(100, b"x")),
        (b"abc".to_vec(), 120, put(100, b"y")),
        (b"abcd".to_vec(), 81, put(80, b"before")),
    ];
    let locks = vec![(vec![4], lock(110, b"other"))];
    assert_eq!(lab.contents(), Contents { locks, writes, ..Contents::default() });
}

#[test]
fn test_recommit_key_4b() {
    let lab = TxnLab::new();
    lab.locked(&[3], &[42], 100);
    assert!(commit(&lab, 100, 110, &[&[3], &[3]]).is_ok());
    let writes = vec![(vec![3], 110, put(100, &[42]))];
    assert_eq!(lab.contents(), Contents { writes, ..Contents::default() });
}

#[test]
fn test_commit_conflict_rollback_4b() {
    let lab = TxnLab::new();
    lab.record(&[3], WriteKind::Rollback, 100, 100);
    let before = lab.contents();
    let error = commit(&lab, 100, 110, &[&[3]]).expect_err("it was rolled back");
    assert!(error.to_wire().is_ok(), "clients hear of it");
    assert_eq!(lab.contents(), before);
}

#[test]
fn test_commit_conflict_race_4b() {
    let lab = TxnLab::new();
    lab.locked(&[3], &[42], 90);
    let before = lab.contents();
    let error = commit(&lab, 100, 110, &[&[3]]).expect_err("the lock is another's");
    assert!(!error.to_wire().expect("it is about a key").retryable.is_empty());
    assert_eq!(lab.contents(), before);
}

#[test]
fn test_commit_conflict_repeat_4b() {
    let lab = TxnLab::new();
    lab.committed(&[3], &[42], 100, 110);
    let before = lab.contents();
    assert!(commit(&lab, 100, 110, &[&[3]]).is_ok());
    assert_eq!(lab.contents(), before);
}

/// The course lets this commit succeed. Here it is refused: a client that is told so believes that its values are
/// there, and real clients rely on the error. As in the course, nothing changes.
#[test]
fn test_commit_missing_prewrite_4b() {
    let lab = TxnLab::new();
    lab.committed(&[4], &[1], 80, 84);
    let before = lab.contents();
    let error = commit(&lab, 100, 110, &[&[3]]).expect_err("it was never prewritten");
    let wire = error.to_wire().expect("it is about a key");
    assert_eq!(wire.txn_lock_not_found.map(|missing| missing.key), Some(Bytes::from_static(&[3])));
    assert!(!wire.retryable.is_empty());
    assert_eq!(lab.contents(), before);
}
