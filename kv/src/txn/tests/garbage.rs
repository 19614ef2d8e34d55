//! Garbage collection beside the simplest thing that could have the same answers: random histories, a list of records
//! for each key, and the rules in one sentence each.

use proptest::collection::{btree_map, vec};
use proptest::prelude::*;
use skerry_raftstore::engine::ColumnFamily;

use std::collections::{BTreeMap, BTreeSet};

use super::super::garbage::CollectGarbage;
use super::*;
use crate::mvcc::tests::drawing::records;
use crate::mvcc::{Changes, Write, WriteKind};

const KEYS: [&str; 3] = ["a", "a1", "b"];
/// Above all timestamps of the histories.
const LAST: u64 = 100;

/// By commit timestamp: kind, and whether the value is long.
type History = BTreeMap<u64, (WriteKind, bool)>;

fn history() -> impl Strategy<Value = History> {
    let kind = prop_oneof![
        4 => Just(WriteKind::Put),
        2 => Just(WriteKind::Delete),
        1 => Just(WriteKind::Lock),
        1 => Just(WriteKind::Rollback),
    ];
    btree_map((1..LAST / 10).prop_map(|number| number * 10), (kind, any::<bool>()), 0..10)
}

/// A value that tells where it stands.
fn value(user: &str, commit_ts: u64, is_long: bool) -> Bytes {
    let text = format!("{user}@{commit_ts};");
    text.repeat(if is_long { 100 } else { 1 }).into()
}

fn world(histories: &[History]) -> World {
    let world = World::new();
    let mut changes = Changes::new();
    for (user, history) in KEYS.iter().zip(histories) {
        for (&commit_ts, &(kind, is_long)) in history {
            let start_ts =
                Ts::from(if kind == WriteKind::Rollback { commit_ts } else { commit_ts - 5 });
            let short = match kind {
                WriteKind::Put => {
                    changes.place_value(&key(user), start_ts, value(user, commit_ts, is_long))
                }
                _ => None,
            };
            let write = Write::new(kind, start_ts, short);
            changes.put_write(&key(user), Ts::from(commit_ts), &write);
        }
    }
    world.apply(changes.into_batch());
    world
}

/// What a read sees: the newest put or delete at or below its timestamp.
fn expected(user: &str, history: &History, ts: u64) -> Option<Bytes> {
    let data = |(_, (kind, _)): &(&u64, &(WriteKind, bool))| kind.is_data();
    let (commit_ts, (kind, is_long)) = history.range(..=ts).rev().find(data)?;
    (*kind == WriteKind::Put).then(|| value(user, *commit_ts, *is_long))
}

/// What is left: everything above the safe point, and of what is below, the put that a read at the safe point sees.
fn survivors(history: &History, safe_point: u64) -> BTreeSet<u64> {
    let above = history.range(safe_point + 1..).map(|(commit_ts, _)| *commit_ts);
    let data = |(_, (kind, _)): &(&u64, &(WriteKind, bool))| kind.is_data();
    let newest = history.range(..=safe_point).rev().find(data);
    let seen = newest.filter(|(_, (kind, _))| *kind == WriteKind::Put).map(|(ts, _)| *ts);
    above.chain(seen).collect()
}

fn check_reads(world: &World, histories: &[History], safe_point: u64) {
    for (user, history) in KEYS.iter().zip(histories) {
        for ts in safe_point..=LAST {
            let get = Get { key: key(user), rules: ReadRules::at(Ts::from(ts)) };
            let found = world.read(get).expect("nothing is locked").version;
            let found = found.map(|version| version.value);
            assert_eq!(found, expected(user, history, ts), "{user} at {ts}, gc at {safe_point}");
        }
    }
}

fn long_values(world: &World) -> usize {
    let view = world.engine.view();
    let mut cursor = view.cursor(ColumnFamily::Default, &KeyRange::default()).expect("memory");
    let (mut count, mut stands) = (0, cursor.seek_to_first().expect("memory"));
    while stands {
        count += 1;
        stands = cursor.next().expect("memory");
    }
    count
}

proptest! {
    #[test]
    fn reads_at_or_above_the_safe_point_see_the_same_and_nothing_else_is_left(
        histories in vec(history(), KEYS.len()),
        safe_point in 0..LAST,
        records_max in 1..5_usize,
    ) {
        let world = world(&histories);
        check_reads(&world, &histories, safe_point);
        let mut steps = CollectRegion::new(Ts::from(safe_point));
        while let Some(found) = steps.next(&world.view()).expect("memory") {
            let mut command = CollectGarbage { records_max, ..found };
            loop {
                let (collected, _) = world.write(&command).expect("memory");
                prop_assert!(collected.records <= records_max + 1);
                // It may be interrupted here for ever.
                check_reads(&world, &histories, safe_point);
                if collected.left.is_none() {
                    break;
                }
                command.from = collected.left;
                prop_assert!(collected.records > 0, "it goes on");
            }
        }
        let mut left: BTreeMap<String, BTreeSet<u64>> = BTreeMap::new();
        for (user, ts, _) in records(&world.engine) {
            left.entry(user).or_default().insert(ts.get());
        }
        let mut long = 0;
        for (user, history) in KEYS.iter().zip(&histories) {
            let expected = survivors(history, safe_point);
            let is_long = |ts: &&u64| history[ts] == (WriteKind::Put, true);
            long += expected.iter().filter(is_long).count();
            prop_assert_eq!(left.remove(*user).unwrap_or_default(), expected);
        }
        prop_assert_eq!(long_values(&world), long, "values go with their records");
        prop_assert_eq!(CollectRegion::new(Ts::from(safe_point)).next(&world.view()).unwrap().map(|it| it.keys), None);
    }
}

/// The rules are checked by their absence: what a reader would meet who is let in below.
#[test]
fn a_read_below_the_safe_point_would_see_something_else() {
    let history = History::from([(10, (WriteKind::Put, false)), (20, (WriteKind::Put, false))]);
    let histories = [history, History::new(), History::new()];
    let world = world(&histories);
    world.walk(CollectRegion::new(Ts::from(30))).expect("memory");
    let get = Get { key: key("a"), rules: ReadRules::at(Ts::from(15)) };
    assert_eq!(world.read(get).expect("nothing is locked").version, None, "it was there at 15");
}
