//! Old versions go from a database of one server, when nobody can read them any more and not before. Time is moved by
//! hand; the collector's thread is waited for.

use skerry_proto::kvrpcpb::MvccInfo;
use skerry_raftstore::config::ByteSize;
use skerry_raftstore::time::{Clock, ManualClock};
use skerry_scheduler::config::SchedulerConfig;

use super::*;
use crate::gc::GcConfig;

const MINUTE_MS: u64 = 60_000;
/// How long versions live here.
const LIFE_MS: u64 = 10 * MINUTE_MS;

/// A database by this clock, whose collector reads and writes so many bytes a second; 0 is no limit.
fn open_by(home: &TempDir, clock: &ManualClock, io_rate: u64) -> Db {
    let config = Config {
        scheduler: SchedulerConfig {
            gc_life_time_ms: LIFE_MS,
            gc_interval_ms: MINUTE_MS,
            ..SchedulerConfig::default()
        },
        gc: GcConfig { poll_interval_ms: 2, io_rate: ByteSize(io_rate) },
        ..Config::default()
    };
    let clock: Arc<dyn Clock> = Arc::new(clock.clone());
    let logger = Logger::root(Discard, o!());
    let (alone, client) = Alone::open(&home.path().join("db"), &config, clock, &logger)
        .expect("a directory of our own opens");
    let servers = Servers::Alone(Box::new(alone));
    Db { open: Some(Open { client, servers, _logging: None }) }
}

fn clock() -> ManualClock {
    ManualClock::at(1_700_000_000_000)
}

/// Waits for the collector.
fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let mut patience = Patience::of(PATIENCE, 1);
    while !is_so() {
        assert!(patience.pause(), "in vain: {what}");
    }
}

/// Everything that the engine has of a key.
fn history(db: &Db, user: &str) -> MvccInfo {
    let key = db.client().key(user.as_bytes()).expect("a key");
    let found = db.client().at(region_key(&key), |target| {
        target.wait(target.member.txn.history(&target.context, &key))
    });
    found.expect("the engine can be read")
}

fn records(db: &Db, user: &str) -> usize {
    history(db, user).writes.len()
}

fn put(db: &Db, key: &str, text: &str) {
    db.transaction(|txn| txn.put(key, text)).expect("nobody is in its way");
}

/// The safe point that the store keeps.
fn safe_point(db: &Db) -> Ts {
    db.client()
        .at(b"", |target| Ok(target.member.txn.safe_points().kept()))
        .expect("the first region is there")
}

#[test]
fn old_versions_go_from_the_engine_and_the_newest_stay() {
    let (home, clock) = (home(), clock());
    let db = open_by(&home, &clock, 0);
    // Long values lie apart from their records, in a family of their own.
    let long = |round: u32| format!("{round:0>1000}");
    for round in 0..20 {
        put(&db, "short", &round.to_string());
        put(&db, "long", &long(round));
        put(&db, "gone", "soon");
    }
    db.transaction(|txn| txn.delete("gone")).expect("nobody is in its way");
    // High keys are in the other region.
    let high = "\u{10FFFF}".repeat(3);
    put(&db, &high, "old");
    put(&db, &high, "new");
    clock.advance_ms(LIFE_MS / 2);
    put(&db, "short", "young");
    assert_eq!((records(&db, "short"), records(&db, "gone")), (21, 21), "all are young");
    assert_eq!(history(&db, "long").values.len(), 20);

    clock.advance_ms(LIFE_MS / 2 + MINUTE_MS);
    until("the old versions go", || records(&db, "short") == 2 && records(&db, &high) == 1);
    until("what was deleted goes", || history(&db, "gone") == MvccInfo::default());
    until("long values go with their records", || history(&db, "long").values.len() == 1);
    let mut txn = db.begin();
    assert_eq!(txn.get("short"), Ok(value("young")));
    assert_eq!(txn.get("long"), Ok(value(&long(19))));
    assert_eq!(txn.get("gone"), Ok(None));
    assert_eq!(txn.get(&high), Ok(value("new")));
}

#[test]
fn a_transaction_sees_its_moment_for_as_long_as_versions_live_and_is_refused_then() {
    let (home, clock) = (home(), clock());
    let db = open_by(&home, &clock, 0);
    (1..=3).for_each(|round| put(&db, "k", &round.to_string()));
    clock.advance_ms(LIFE_MS / 2);
    let mut reader = db.begin();
    (4..=6).for_each(|round| put(&db, "k", &round.to_string()));
    // Now the first writes are too old to be seen, and the reader is not.
    clock.advance_ms(LIFE_MS / 2 + MINUTE_MS);
    until("what is older than the reader's goes", || records(&db, "k") == 4);
    assert_eq!(reader.get("k"), Ok(value("3")));
    assert_eq!(reader.scan("", "", 9), Ok(pairs(&[("k", "3")])));

    clock.advance_ms(LIFE_MS / 2);
    until("all but the newest goes", || records(&db, "k") == 1);
    let too_old = |answer: Result<()>| match answer {
        Err(Error::TooOld(text)) => assert!(text.contains("GC life time is shorter"), "{text}"),
        other => panic!("it lived too long, and was answered {other:?}"),
    };
    too_old(reader.get("k").map(|_| ()));
    too_old(reader.get_many(["k", "other"]).map(|_| ()));
    too_old(reader.scan("", "", 9).map(|_| ()));
    reader.put("other", "never").expect("it is only kept");
    too_old(reader.commit());
    assert_eq!(db.begin().scan("", "", 9), Ok(pairs(&[("k", "6")])), "nothing of it is left");
}

#[test]
fn a_closure_that_takes_longer_than_versions_live_is_not_run_again() {
    let (home, clock) = (home(), clock());
    let db = open_by(&home, &clock, 0);
    let mut runs = 0;
    let answer = db.transaction(|txn| {
        runs += 1;
        txn.put("k", "never")?;
        clock.advance_ms(LIFE_MS + MINUTE_MS);
        until("the safe point rises above it", || safe_point(&db).get() > txn.start_ts());
        Ok::<(), Error>(())
    });
    assert!(matches!(answer, Err(Error::TooOld(_))), "{answer:?}");
    assert_eq!(runs, 1, "it would take as long again");
    assert_eq!(db.begin().get("k"), Ok(None));
}

#[test]
fn locks_that_were_left_are_ended_before_versions_go() {
    let (home, clock) = (home(), clock());
    let db = open_by(&home, &clock, 0);
    put(&db, "a", "old");
    // One that stopped after its first phase, one whose locks say that it is committed, each with a lock for ever.
    prewrite(&db, &["a", "b"], u64::MAX >> 20);
    let start_ts = db.client().timestamp();
    let (secondaries, ttl_ms) = (vec![Bytes::from_static(b"d")], u64::MAX >> 20);
    prewrite_as(&db, start_ts, "c", &["c", "d"], ttl_ms, Way::Async(secondaries));
    let is_locked = |user: &str| history(&db, user).lock.is_some();
    assert!(["a", "b", "c", "d"].into_iter().all(is_locked));

    clock.advance_ms(LIFE_MS + MINUTE_MS);
    until("their owners are asked for", || !["a", "b", "c", "d"].into_iter().any(is_locked));
    let expected = pairs(&[("a", "old"), ("c", "lost"), ("d", "lost")]);
    assert_eq!(db.begin().scan("", "", 9), Ok(expected), "the second one is committed");
}

#[test]
fn it_stops_in_the_middle_and_goes_on_in_the_next_life() {
    let (home, clock) = (home(), clock());
    // At this rate its first look takes hours.
    let db = open_by(&home, &clock, 1);
    (0..2_000).for_each(|round| put(&db, "k", &round.to_string()));
    clock.advance_ms(LIFE_MS + MINUTE_MS);
    until("it has begun", || safe_point(&db) > Ts::ZERO);
    let kept = safe_point(&db);
    db.close().expect("it closes, and does not wait for hours");

    let db = open_by(&home, &clock, 0);
    assert!(safe_point(&db) >= kept, "what may be gone stays refused");
    assert!(records(&db, "k") > 1, "it was stopped in the middle");
    assert_eq!(db.begin().get("k"), Ok(value("1999")));
    clock.advance_ms(MINUTE_MS);
    until("the next round goes on", || records(&db, "k") == 1);
    assert_eq!(db.begin().get("k"), Ok(value("1999")));
    db.close().expect("it closes");
}
