//! The library with one server: what each call does, what two of them do to each other, and what is there after
//! the end. Several servers, and deaths of the process, have their stories in `tests/tests/embedded.rs`.

use std::thread;

use bytes::Bytes;
use skerry_proto::kvrpcpb::AssertionLevel;
use skerry_proto::types::Ts;
use tempfile::TempDir;

use super::client::region_key;
use super::*;
use crate::txn::WriteCommand;
use crate::txn::pessimistic_lock::{PessimisticLock, PessimisticLocked};
use crate::txn::prewrite::{Change, Mutation, Prewrite, Prewritten, Way};

mod garbage;

fn home() -> TempDir {
    tempfile::tempdir().expect("a temporary directory can be made")
}

fn open(home: &TempDir) -> Db {
    Db::open(home.path().join("db")).expect("a directory of our own opens")
}

fn pairs(pairs: &[(&str, &str)]) -> Vec<Pair> {
    pairs.iter().map(|(key, value)| (key.as_bytes().to_vec(), value.as_bytes().to_vec())).collect()
}

fn value(text: &str) -> Option<Vec<u8>> {
    Some(text.as_bytes().to_vec())
}

#[test]
fn a_pair_is_put_updated_and_removed_and_what_is_missing_stays_missing() {
    let home = home();
    let db = open(&home);
    assert_eq!(db.get("k"), Ok(None));
    assert_eq!(db.update("k", "never"), Ok(false), "there is nothing to update");
    assert_eq!(db.remove("k"), Ok(false), "there is nothing to remove");
    assert_eq!(db.get("k"), Ok(None));
    db.put("k", "one").expect("a put");
    assert_eq!(db.update("k", "two"), Ok(true));
    assert_eq!(db.get("k"), Ok(value("two")));
    db.put("k", "").expect("an empty value is a value");
    assert_eq!(db.get("k"), Ok(value("")));
    assert_eq!(db.remove("k"), Ok(true));
    assert_eq!(db.remove("k"), Ok(false));
    assert_eq!(db.get("k"), Ok(None));
    db.close().expect("it closes");
}

#[test]
fn a_scan_goes_over_all_regions_and_stops_at_its_limit() {
    let home = home();
    let db = open(&home);
    // The second region begins behind eight bytes of 0xFF.
    let high = [0xFF; 12];
    for key in [&b"a"[..], b"b", b"c", &high] {
        db.put(key, key).expect("a put");
    }
    let keys = |found: Result<Vec<Pair>>| -> Vec<Vec<u8>> {
        found.expect("a scan").into_iter().map(|(key, _)| key).collect()
    };
    assert_eq!(keys(db.scan("", "", 100)), [&b"a"[..], b"b", b"c", &high]);
    assert_eq!(keys(db.scan("a", "c", 100)), [b"a", b"b"]);
    assert_eq!(keys(db.scan("b", "", 2)), [b"b", b"c"]);
    assert_eq!(keys(db.scan("b", "", 3)), [&b"b"[..], b"c", &high]);
    assert!(keys(db.scan("c", "b", 9)).is_empty() && keys(db.scan("a", "", 0)).is_empty());
}

#[test]
fn what_was_written_is_there_after_the_end_however_it_ends() {
    let home = home();
    let db = open(&home);
    db.put("raw", "kept").expect("a put");
    db.transaction(|txn| txn.put("txn", "kept")).expect("nobody is in its way");
    db.close().expect("it closes");
    let db = open(&home);
    assert_eq!(db.get("raw"), Ok(value("kept")));
    assert_eq!(db.begin().get("txn"), Ok(value("kept")));
    db.put("raw", "again").expect("a put");
    drop(db);
    let db = open(&home);
    assert_eq!(db.get("raw"), Ok(value("again")));
    assert_eq!(db.get("txn"), Ok(None), "raw pairs and those of transactions are apart");
}

#[test]
fn a_directory_is_open_once() {
    let home = home();
    let db = open(&home);
    let second = Db::open(home.path().join("db")).map(|_| ()).expect_err("it is open");
    assert!(matches!(&second, Error::Open(text) if text.contains("open already")), "{second:?}");
    db.put("k", "v").expect("the first one is unharmed");
    db.close().expect("it closes");
    open(&home).close().expect("it opens and closes again");
}

#[test]
fn a_path_that_cannot_be_used_is_named() {
    let home = home();
    let file = home.path().join("file");
    std::fs::write(&file, "no directory").expect("a file is written");
    let error = Db::open(&file).map(|_| ()).expect_err("a file is no directory");
    assert!(matches!(&error, Error::Open(text) if text.contains("file")), "{error:?}");
    let error = Db::from_config(home.path().join("none.yaml")).map(|_| ()).expect_err("no file");
    assert!(error.to_string().contains("none.yaml"), "{error:?}");
}

#[test]
fn calls_that_can_never_succeed_are_refused_in_words() {
    let home = home();
    let db = open(&home);
    let long = vec![7; 100_000];
    assert!(matches!(db.put("", "v"), Err(Error::Invalid(text)) if text.contains("empty")));
    assert!(matches!(db.get(&long), Err(Error::Invalid(text)) if text.contains("over the limit")));
    assert!(matches!(db.put("k", vec![0; 9 << 20]), Err(Error::Invalid(_))));
    let mut txn = db.begin();
    assert!(matches!(txn.put("", "v"), Err(Error::Invalid(_))));
    assert!(matches!(txn.get(&long), Err(Error::Invalid(_))));
    txn.put("k", vec![0; 9 << 20]).expect("it is only kept");
    assert!(matches!(txn.commit(), Err(Error::Invalid(_))));
    assert_eq!(db.begin().get("k"), Ok(None), "nothing of it is left");
}

#[test]
fn a_transaction_sees_its_own_changes_and_nobody_else_does_before_it_commits() {
    let home = home();
    let db = open(&home);
    db.transaction(|txn| txn.put_many([("a", "1"), ("b", "2"), ("c", "3"), ("d", "4")]))
        .expect("nobody is in its way");
    let mut txn = db.begin();
    txn.put("b", "two").expect("kept");
    txn.put("bb", "new").expect("kept");
    txn.delete("c").expect("kept");
    assert_eq!(txn.get("b"), Ok(value("two")));
    assert_eq!(txn.get("c"), Ok(None));
    let mine = pairs(&[("a", "1"), ("b", "two"), ("bb", "new"), ("d", "4")]);
    assert_eq!(txn.scan("", "", 10), Ok(mine.clone()));
    assert_eq!(txn.scan("b", "d", 1), Ok(pairs(&[("b", "two")])));
    assert_eq!(txn.scan("bc", "", 1), Ok(pairs(&[("d", "4")])), "behind what it has deleted");
    let many = txn.get_many(["a", "b", "c", "x"]).expect("a batch");
    assert_eq!(many, pairs(&[("a", "1"), ("b", "two")]).into_iter().collect());
    let before = db.begin().scan("", "", 10);
    assert_eq!(before, Ok(pairs(&[("a", "1"), ("b", "2"), ("c", "3"), ("d", "4")])));
    let mut earlier = db.begin();
    txn.commit().expect("nobody is in its way");
    assert_eq!(earlier.get("b"), Ok(value("2")), "it reads as of its beginning");
    assert_eq!(db.begin().scan("", "", 10), Ok(mine));
}

#[test]
fn a_transaction_that_was_overtaken_is_run_again_and_one_that_fails_leaves_nothing() {
    let home = home();
    let db = open(&home);
    let mut runs = 0;
    let seen: Result<_> = db.transaction(|txn| {
        runs += 1;
        let seen = txn.get("k")?;
        if runs == 1 {
            db.transaction(|other| other.put("k", "faster"))?;
        }
        txn.put("k", "slower")?;
        Ok(seen)
    });
    assert_eq!((seen, runs), (Ok(value("faster")), 2));
    assert_eq!(db.begin().get("k"), Ok(value("slower")));

    #[derive(Debug)]
    struct Mine;
    impl From<Error> for Mine {
        fn from(error: Error) -> Mine {
            panic!("{error}")
        }
    }
    let failed: std::result::Result<(), Mine> = db.transaction(|txn| {
        txn.put("k", "never")?;
        Err(Mine)
    });
    failed.expect_err("the application has said so");
    let mut by_hand = db.begin();
    by_hand.put("k", "never").expect("kept");
    drop(by_hand);
    assert_eq!(db.begin().get("k"), Ok(value("slower")));

    let mut late = db.begin();
    late.put("k", "late").expect("kept");
    db.transaction(|txn| txn.put("k", "first")).expect("nobody is in its way");
    assert!(matches!(late.commit(), Err(Error::Conflict(_))));
}

#[test]
fn a_transaction_over_two_regions_is_one() {
    let home = home();
    let db = open(&home);
    let high = [0xFF; 12];
    db.transaction(|txn| {
        txn.put("low", "1")?;
        txn.put(high, "2")
    })
    .expect("nobody is in its way");
    let mut txn = db.begin();
    assert_eq!(txn.get_many([&b"low"[..], &high]).expect("a batch").len(), 2);
    assert_eq!(txn.scan("", "", 9).expect("a scan").len(), 2);
    let mut late = db.begin();
    late.put("low", "late").expect("kept");
    late.put(high, "late").expect("kept");
    db.transaction(|txn| txn.put(high, "3")).expect("nobody is in its way");
    assert!(matches!(late.commit(), Err(Error::Conflict(_))), "the second region has refused");
    assert_eq!(db.begin().get("low"), Ok(value("1")), "and the first is as it was");
}

#[test]
fn a_transaction_of_ten_thousand_keys_and_many_parts_is_one() {
    let home = home();
    let db = open(&home);
    let name = |number: u32| format!("{number:05}");
    db.transaction(|txn| txn.put_many((0..10_000).map(|number| (name(number), vec![7; 300]))))
        .expect("nobody is in its way");
    let mut txn = db.begin();
    assert_eq!(txn.get_many((0..10_000).map(name)).expect("a batch").len(), 10_000);
    assert_eq!(txn.scan(name(10), name(9_990), 20_000).expect("a scan").len(), 9_980);
}

/// Locks keys as a transaction that stops after its first phase.
fn prewrite(db: &Db, keys: &[&str], ttl_ms: u64) {
    prewrite_as(db, db.client().timestamp(), keys[0], keys, ttl_ms, Way::TwoPhases);
}

/// Locks keys for a transaction, as one request of it does.
fn prewrite_as(db: &Db, start_ts: Ts, primary: &str, keys: &[&str], ttl_ms: u64, way: Way) {
    let client = db.client();
    let put = |user: &&str| {
        let key = client.key(user.as_bytes()).expect("a key");
        Mutation::new(key, Change::Put(Bytes::from_static(b"lost")))
    };
    let command = Prewrite {
        mutations: keys.iter().map(put).collect(),
        primary: Bytes::copy_from_slice(primary.as_bytes()),
        start_ts,
        ttl_ms,
        txn_size: keys.len() as u64,
        for_update_ts: Ts::ZERO,
        min_commit_ts: start_ts.next(),
        max_commit_ts: Ts::ZERO,
        assertion_level: AssertionLevel::Off,
        way,
    };
    let locked = run(db, &command);
    assert!(matches!(locked, Prewritten::Done { .. }), "{locked:?}");
}

/// Runs a command as somebody else.
fn run<C: WriteCommand>(db: &Db, command: &C) -> C::Answer {
    let answer = db.client().at(region_key(&command.keys()[0]), |target| {
        let permit = target.wait(target.member.txn.permits().acquire(1));
        target.wait(target.member.txn.write(&target.context, command, permit))
    });
    answer.unwrap_or_else(|error| panic!("{}: {error}", command.name()))
}

#[test]
fn locks_of_a_process_that_died_hold_nobody_up() {
    let home = home();
    let db = open(&home);
    db.transaction(|txn| txn.put_many([("a", "old"), ("b", "old")])).expect("a commit");
    // A lock for an hour: nobody could wait for its end.
    prewrite(&db, &["a", "b"], 3_600_000);
    drop(db);
    let db = open(&home);
    assert_eq!(db.begin().scan("", "", 9), Ok(pairs(&[("a", "old"), ("b", "old")])));
    db.transaction(|txn| txn.put("b", "new")).expect("its owner is dead");
    assert_eq!(db.begin().get("b"), Ok(value("new")));
}

#[test]
fn a_transaction_that_fell_back_to_two_phases_at_one_key_is_not_committed_by_its_locks() {
    let home = home();
    let db = open(&home);
    db.transaction(|txn| txn.put_many([("a", "old"), ("b", "old")])).expect("a commit");
    let start_ts = db.client().timestamp();
    let secondaries = vec![Bytes::from_static(b"b")];
    prewrite_as(&db, start_ts, "a", &["a"], 3_600_000, Way::Async(secondaries));
    prewrite_as(&db, start_ts, "a", &["b"], 3_600_000, Way::TwoPhases);
    drop(db);
    let db = open(&home);
    assert_eq!(db.begin().scan("", "", 9), Ok(pairs(&[("a", "old"), ("b", "old")])));
}

#[test]
fn a_reader_passes_a_lock_that_can_only_commit_later_and_a_writer_waits_for_it() {
    let home = home();
    let db = open(&home);
    db.transaction(|txn| txn.put_many([("a", "old"), ("b", "old")])).expect("a commit");
    prewrite(&db, &["a", "b"], 1_500);
    let mut reader = db.begin();
    assert_eq!(reader.get("b"), Ok(value("old")), "it need not wait");
    assert_eq!(reader.get_many(["a", "b"]).expect("a batch").len(), 2);
    assert_eq!(reader.scan("", "", 9), Ok(pairs(&[("a", "old"), ("b", "old")])));
    db.transaction(|txn| txn.put("b", "new")).expect("in the end its time is over");
    assert_eq!(db.begin().scan("", "", 9), Ok(pairs(&[("a", "old"), ("b", "new")])));
}

/// A client of the fleet locked `c` in a statement that it gave up, and chose another primary key in the next one.
#[test]
fn a_lock_of_a_statement_that_was_given_up_goes_while_its_transaction_lives() {
    let home = home();
    let db = open(&home);
    let start_ts = db.client().timestamp();
    let left = PessimisticLock {
        keys: vec![(db.client().key(b"c").expect("a key"), false)],
        primary: Bytes::from_static(b"b"),
        start_ts,
        ttl_ms: 3_600_000,
        for_update_ts: start_ts,
        min_commit_ts: Ts::ZERO,
        return_values: false,
        check_existence: false,
        lock_only_if_exists: false,
        force: false,
        no_wait: false,
    };
    assert!(matches!(run(&db, &left), PessimisticLocked::Done(_)));
    prewrite_as(&db, start_ts, "a", &["a", "b"], 3_600_000, Way::TwoPhases);
    db.transaction(|txn| txn.put("c", "new")).expect("nobody holds it any more");
    assert_eq!(db.begin().get("c"), Ok(value("new")));
}

#[test]
fn a_counter_of_many_threads_counts_every_step() {
    let home = home();
    let db = open(&home);
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| (0..25).for_each(|_| count_up(&db)));
        }
    });
    assert_eq!(db.begin().get("count"), Ok(value("100")));
}

fn count_up(db: &Db) {
    let counted: Result<()> = db.transaction(|txn| {
        let text = txn.get("count")?.unwrap_or_default();
        let count: u32 = String::from_utf8_lossy(&text).parse().unwrap_or(0);
        txn.put("count", (count + 1).to_string())
    });
    counted.expect("it wins in the end");
}

#[test]
fn of_many_updates_and_removals_at_once_each_sees_what_is_there() {
    let home = home();
    let db = open(&home);
    for round in 0..20 {
        db.put("k", "v").expect("a put");
        let removed: usize = thread::scope(|scope| {
            let threads: Vec<_> = (0..4).map(|_| scope.spawn(|| db.remove("k"))).collect();
            let removed = threads.into_iter().map(|thread| thread.join().expect("no panic"));
            removed.filter(|removed| *removed == Ok(true)).count()
        });
        assert_eq!(removed, 1, "in round {round} one of them has removed it");
    }
}
