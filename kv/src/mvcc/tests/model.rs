//! Random histories, read by this module and by the simplest thing that could have the same answers: a list of
//! records for each key, searched from the beginning for each question.

use std::collections::BTreeMap;

use proptest::collection::{btree_map, vec};
use proptest::prelude::*;

use super::*;

/// Few keys, with one that is another's prefix, one that holds a zero and one of more than a group of the encoding.
const KEYS: [&str; 6] = ["a", "a\0", "ab", "b", "b1234567x", "c"];

/// Between the timestamps of two records.
const SPACING: u64 = 10;

/// A record: what was done, how long before its commit it began, its value, whether the value is long.
/// Records stand at multiples of [`SPACING`], so that transactions begin between them.
#[derive(Clone, Debug)]
struct Entry {
    kind: WriteKind,
    began_before: u64,
    value: u8,
    long: bool,
}

/// All that is known of one key: its records by their timestamps, and its lock.
#[derive(Clone, Debug)]
struct History {
    entries: BTreeMap<u64, Entry>,
    lock: Option<(LockKind, u64, u64, bool)>,
}

fn history() -> impl Strategy<Value = History> {
    let kind = prop_oneof![
        4 => Just(WriteKind::Put),
        1 => Just(WriteKind::Delete),
        2 => Just(WriteKind::Lock),
        2 => Just(WriteKind::Rollback),
    ];
    let entry = (kind, 1..4_u64, any::<u8>(), prop::bool::weighted(0.2))
        .prop_map(|(kind, began_before, value, long)| Entry { kind, began_before, value, long });
    let entries = btree_map((1..90_u64).prop_map(|number| number * SPACING), entry, 0..30);
    let kind = prop_oneof![
        3 => Just(LockKind::Put),
        1 => Just(LockKind::Delete),
        1 => Just(LockKind::Lock),
        1 => Just(LockKind::Pessimistic),
    ];
    let lock = prop::option::weighted(0.3, (kind, 0..900_u64, 0..900_u64, any::<bool>()));
    (entries, lock).prop_map(|(entries, lock)| History { entries, lock })
}

impl Entry {
    fn value(&self) -> Bytes {
        let length = if self.long { SHORT_VALUE_BYTES_MAX + 1 } else { 1 };
        vec![self.value; length].into()
    }

    fn start(&self, ts: u64) -> u64 {
        if self.kind == WriteKind::Rollback { ts } else { ts - self.began_before }
    }
}

fn store(histories: &[History]) -> MemoryEngine {
    let engine = MemoryEngine::new();
    let mut changes = Changes::new();
    for (user, history) in KEYS.iter().zip(histories) {
        let key = Key::of(user.as_bytes());
        for (ts, entry) in &history.entries {
            let start = Ts::from(entry.start(*ts));
            let short = match entry.kind {
                WriteKind::Put => changes.place_value(&key, start, entry.value()),
                _ => None,
            };
            changes.put_write(&key, Ts::from(*ts), &Write::new(entry.kind, start, short));
        }
        if let Some(lock) = lock_of(history) {
            changes.put_lock(&key, &lock);
        }
    }
    engine.write(changes.into_batch(), Durability::Buffered).expect("memory takes it");
    engine
}

fn lock_of(history: &History) -> Option<Lock> {
    let (kind, start, min_commit, use_async_commit) = history.lock?;
    let primary = Bytes::from_static(b"elsewhere");
    Some(Lock {
        short_value: (kind == LockKind::Put).then(|| Bytes::from_static(b"locked")),
        min_commit_ts: Ts::from(min_commit),
        use_async_commit,
        ..Lock::new(kind, primary, Ts::from(start), 0)
    })
}

/// What a read at `ts` must see of a key.
fn expected(user: &str, history: &History, rules: &ReadRules, key_only: bool) -> Option<Found> {
    let key = Key::of(user.as_bytes());
    let shown = |value: Bytes| if key_only { Bytes::new() } else { value };
    if let Some(lock) = lock_of(history) {
        let matters = matches!(lock.kind, LockKind::Put | LockKind::Delete)
            && lock.start_ts <= rules.ts
            && lock.min_commit_ts <= rules.ts
            && rules.isolation == Isolation::Snapshot;
        if matters && rules.committed.contains(&lock.start_ts) {
            let value = shown(lock.short_value?);
            return Some(Found::Value(key, Version { value, commit_ts: Ts::ZERO }));
        }
        if matters {
            return Some(Found::Locked(key, lock));
        }
    }
    let mut seen = history.entries.iter().filter(|(ts, _)| **ts <= rules.ts.get());
    let (ts, entry) = seen.rfind(|(_, entry)| entry.kind.is_data())?;
    (entry.kind == WriteKind::Put).then(|| {
        let version = Version { value: shown(entry.value()), commit_ts: Ts::from(*ts) };
        Found::Value(key, version)
    })
}

fn any_rules() -> impl Strategy<Value = ReadRules> {
    let ts = prop_oneof![9 => (0..900_u64).prop_map(Ts::from), 1 => Just(Ts::MAX)];
    let committed = vec((0..900_u64).prop_map(Ts::from), 0..200);
    (ts, committed, prop::bool::weighted(0.2)).prop_map(|(ts, committed, any)| ReadRules {
        isolation: if any { Isolation::ReadCommitted } else { Isolation::Snapshot },
        committed: committed.into_iter().collect(),
        ..ReadRules::at(ts)
    })
}

proptest! {
    #[test]
    fn reads_see_what_a_search_through_everything_sees(
        histories in vec(history(), KEYS.len()),
        rules in any_rules(),
        from in 0..KEYS.len(), to in 0..=KEYS.len(),
        key_only in any::<bool>(), limit in 0..8_usize,
    ) {
        let engine = store(&histories);
        let view = engine.view();
        let keys: Vec<Key> = KEYS.iter().map(|user| Key::of(user.as_bytes())).collect();

        // Point reads, in an order that goes back and forth.
        let mut reader = Reader::of_keys(&*view, &keys);
        for index in [3, 0, 5, 1, 4, 2, 2, 0] {
            let seen = match reader.read(&keys[index], &rules).unwrap() {
                Ok(Some(version)) => Some(Found::Value(keys[index].clone(), version)),
                Ok(None) => None,
                Err(lock) => Some(Found::Locked(keys[index].clone(), lock)),
            };
            prop_assert_eq!(seen, expected(KEYS[index], &histories[index], &rules, false));
        }

        // Walks in both directions.
        let end = KEYS.get(to).copied().unwrap_or_default();
        let mut all: Vec<Found> = (from..to.max(from))
            .filter_map(|index| expected(KEYS[index], &histories[index], &rules, key_only))
            .collect();
        let range = range_of(KEYS[from], end);
        let (forward, _) = scan(&*view, &range, rules.clone(), false, key_only, limit).unwrap();
        prop_assert_eq!(&forward[..], &all[..limit.min(all.len())]);
        all.reverse();
        let (reverse, _) = scan(&*view, &range, rules, true, key_only, limit).unwrap();
        prop_assert_eq!(&reverse[..], &all[..limit.min(all.len())]);
    }

    #[test]
    fn the_record_of_a_transaction_is_found_among_all_others(
        histories in vec(history(), 1), wanted in 0..900_u64,
    ) {
        let (engine, key) = (store(&histories), Key::of(KEYS[0].as_bytes()));
        let view = engine.view();
        let mut reader = Reader::of_key(&*view, &key);
        let entries = &histories[0].entries;
        for start in entries.iter().map(|(ts, entry)| entry.start(*ts)).chain([wanted]) {
            let own = entries.iter().find(|(ts, entry)| entry.start(**ts) == start);
            let expected = match own {
                Some((_, Entry { kind: WriteKind::Rollback, .. })) => TxnRecord::RolledBack,
                Some((ts, entry)) => {
                    TxnRecord::Committed { commit_ts: Ts::from(*ts), kind: entry.kind }
                }
                None => {
                    TxnRecord::None { overlapped: reader.record_at(&key, Ts::from(start)).unwrap() }
                }
            };
            prop_assert_eq!(reader.txn_record(&key, Ts::from(start)).unwrap(), expected);
        }
    }
}
