//! What must be true of transactions, seen from what stores write to their data engines and what they answer.
//!
//! 1. Every write to the families of locks and records is looked at once it is applied somewhere
//!    ([`Records::written`]). What is applied was decided for ever, so from such facts grows a picture of every
//!    transaction: which keys it has committed and when, and where it was rolled back.
//! 2. Reads that were answered are remembered ([`Records::read`]): a commit that turns up later must not lie below
//!    them.
//! 3. What somebody was told of a transaction's end is remembered too ([`Records::told`]).
//! 4. What is dropped must not be seen by any read at or above the safe point ([`Records::collected_to`]).
//! 5. A wait that begins must not close a circle ([`Records::waits`]), and `max_ts` never falls in a life of a store.
//!
//! What it does not do: it knows nothing of what lies in memory, and does not judge what clients make of it all
//! ([`crate::checker::isolation`] does).

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use skerry_kv::mvcc::key::split_version;
use skerry_kv::mvcc::{Key, Lock, LockKind, Reader, TxnRecord, WriteKind, WriteRef};
use skerry_proto::codec::decode_bytes;
use skerry_proto::types::Ts;
use skerry_raftstore::engine::{ColumnFamily, Operation, View};
use skerry_raftstore::keys::region_key;

use super::{
    ALL_OR_NOTHING, Broken, COMMIT_AFTER_START, LOCK_IS_OPEN, MAX_TS_GROWS, NO_CIRCLE, ONE_COMMIT,
    ONE_END, ONE_MOMENT, PRIMARY_FIRST, PROMISE_KEPT, READ_IS_WHOLE, READ_STAYS, SEEN_STAYS,
    TOLD_STAYS, VALUE_IS_THERE, hold,
};
use crate::sim::transactions::server::Wait;

/// See the module.
pub struct Records {
    keys: BTreeMap<Key, OfKey>,
    transactions: BTreeMap<Ts, OfTransaction>,
    /// Versions that no read at or above it needs may be gone, and with them what tells how older transactions ended.
    safe_point: Ts,
    /// The life of each store, and what its `max_ts` was.
    max_ts: Vec<(u64, Ts)>,
}

/// What is known of a key.
#[derive(Default)]
struct OfKey {
    /// Who committed it, when, and how.
    commits: BTreeMap<Ts, (Ts, WriteKind)>,
    /// At which timestamps it was read.
    reads: BTreeSet<Ts>,
}

/// What is known of a transaction.
#[derive(Default)]
struct OfTransaction {
    /// As its locks say.
    primary: Option<Key>,
    /// Whether it may be committed without its primary key being the first.
    has_shortcut: bool,
    commit_ts: Option<Ts>,
    committed: BTreeSet<Key>,
    rolled_back: BTreeSet<Key>,
    /// What its locks have promised not to commit below.
    promised: BTreeMap<Key, Ts>,
    /// What somebody was told: when it was committed, or 0 that it never will be.
    told: Option<Ts>,
}

impl Records {
    /// Of so many stores that have written nothing.
    pub fn new(stores: usize) -> Records {
        let max_ts = vec![(0, Ts::ZERO); stores];
        let (keys, transactions) = (BTreeMap::new(), BTreeMap::new());
        Records { keys, transactions, safe_point: Ts::ZERO, max_ts }
    }

    /// When a transaction was committed, if it was.
    pub fn commit_of(&self, start_ts: Ts) -> Option<Ts> {
        self.transactions.get(&start_ts)?.commit_ts
    }

    /// The safe point is there now.
    pub fn collected_to(&mut self, safe_point: Ts) {
        self.safe_point = safe_point;
    }

    /// A store has applied these operations, in this order; `view` shows it after them.
    pub fn written(&mut self, view: &dyn View, operations: &[Operation]) -> Result<(), Broken> {
        for operation in operations {
            match operation {
                Operation::Put(ColumnFamily::Lock, key, value) => {
                    let lock = Lock::decode(value).expect("a store encoded it");
                    self.locked(view, key_of(key), &lock)?;
                }
                Operation::Put(ColumnFamily::Write, version, value) => {
                    let (key, ts) = split_version(version).expect("a store formed it");
                    let record = WriteRef::decode(value).expect("a store encoded it");
                    self.recorded(view, key_of(key), ts, record)?;
                }
                Operation::Delete(ColumnFamily::Write, version) => {
                    let (key, ts) = split_version(version).expect("a store formed it");
                    self.dropped(&key_of(key), ts)?;
                }
                _ => {}
            }
        }
        Ok(())
    }

    fn locked(&mut self, view: &dyn View, key: Key, lock: &Lock) -> Result<(), Broken> {
        let mut reader = Reader::of_keys(view, [&key]);
        let stands = reader.load_lock(&key).expect("memory is read");
        if stands.is_some_and(|stands| stands.start_ts == lock.start_ts) {
            let record = reader.txn_record(&key, lock.start_ts).expect("memory is read");
            hold(matches!(record, TxnRecord::None { .. }), LOCK_IS_OPEN, || {
                format!("{key:?} is locked by {}, which is {record:?} there", lock.start_ts)
            })?;
        }
        if lock.kind != LockKind::Pessimistic {
            let known = self.transactions.entry(lock.start_ts).or_default();
            known.primary = Some(Key::of(&lock.primary));
            known.has_shortcut |= lock.use_async_commit;
            let promised = known.promised.entry(key).or_default();
            *promised = lock.min_commit_ts.max(*promised);
        }
        Ok(())
    }

    fn recorded(
        &mut self,
        view: &dyn View,
        key: Key,
        ts: Ts,
        record: WriteRef<'_>,
    ) -> Result<(), Broken> {
        if record.kind == WriteKind::Rollback {
            return self.rolled_back(key, record.start_ts);
        }
        if record.overlapped_rollback {
            self.rolled_back(key.clone(), ts)?;
        }
        let start_ts = record.start_ts;
        hold(ts > start_ts, COMMIT_AFTER_START, || format!("{start_ts} at {ts} on {key:?}"))?;
        let of_key = self.keys.entry(key.clone()).or_default();
        if let Some((other, _)) = of_key.commits.get(&ts) {
            return hold(*other == start_ts, ONE_COMMIT, || {
                format!("{key:?} at {ts}: {other} and {start_ts}")
            });
        }
        of_key.commits.insert(ts, (start_ts, record.kind));
        if record.kind.is_data() {
            let read = of_key.reads.range(ts..).next();
            hold(read.is_none(), READ_STAYS, || {
                format!("{start_ts} commits {key:?} at {ts}, which was read at {read:?}")
            })?;
        }
        // It may have been dropped since.
        let stands = view.get(ColumnFamily::Write, &key.at(ts)).expect("memory is read").is_some();
        if stands && record.kind == WriteKind::Put && record.short_value.is_none() {
            let value = view.get(ColumnFamily::Default, &key.at(start_ts)).expect("memory is read");
            hold(value.is_some(), VALUE_IS_THERE, || format!("{key:?} of {start_ts}"))?;
        }
        self.committed(key, start_ts, ts)
    }

    /// A record was dropped. Of commits only those may go that no read at or above the safe point sees.
    fn dropped(&self, key: &Key, ts: Ts) -> Result<(), Broken> {
        let Some(of_key) = self.keys.get(key) else { return Ok(()) };
        let Some((_, kind)) = of_key.commits.get(&ts) else { return Ok(()) };
        let mut visible = of_key.commits.range(..=self.safe_point).rev();
        let seen = visible.find(|(_, (_, kind))| kind.is_data()).map(|(seen, _)| *seen);
        let may_go = match kind {
            WriteKind::Put => seen.is_some_and(|seen| ts < seen),
            _ => ts <= self.safe_point,
        };
        hold(may_go, SEEN_STAYS, || {
            format!("{key:?} at {ts}, a {kind:?}; the safe point is {}", self.safe_point)
        })
    }

    fn committed(&mut self, key: Key, start_ts: Ts, ts: Ts) -> Result<(), Broken> {
        let known = self.transactions.entry(start_ts).or_default();
        let commit_ts = *known.commit_ts.get_or_insert(ts);
        hold(commit_ts == ts, ONE_MOMENT, || {
            format!("{start_ts} at {commit_ts}, and {key:?} at {ts}")
        })?;
        hold(!known.rolled_back.contains(&key), ONE_END, || format!("{start_ts} at {key:?}"))?;
        hold(known.rolled_back.is_empty(), ALL_OR_NOTHING, || {
            format!("{start_ts} commits {key:?}, and is rolled back at {:?}", known.rolled_back)
        })?;
        let is_as_told = known.told.is_none_or(|told| told == ts);
        hold(is_as_told, TOLD_STAYS, || {
            format!("{start_ts} commits {key:?} at {ts}; told was {:?}", known.told)
        })?;
        let promised = known.promised.get(&key).copied().unwrap_or_default();
        hold(ts >= promised, PROMISE_KEPT, || {
            format!("{start_ts} commits {key:?} at {ts}, not before {promised} was promised")
        })?;
        let primary = known.primary.clone().filter(|_| !known.has_shortcut);
        let is_in_order =
            primary.is_none_or(|primary| primary == key || known.committed.contains(&primary));
        hold(is_in_order, PRIMARY_FIRST, || format!("{start_ts} commits {key:?}"))?;
        known.committed.insert(key);
        Ok(())
    }

    fn rolled_back(&mut self, key: Key, start_ts: Ts) -> Result<(), Broken> {
        if start_ts <= self.safe_point {
            // Of a transaction whose records are gone somebody still asks.
            return Ok(());
        }
        let known = self.transactions.entry(start_ts).or_default();
        hold(!known.committed.contains(&key), ONE_END, || format!("{start_ts} at {key:?}"))?;
        hold(known.committed.is_empty(), ALL_OR_NOTHING, || {
            format!("{start_ts} is rolled back at {key:?}, and commits {:?}", known.committed)
        })?;
        known.rolled_back.insert(key);
        Ok(())
    }

    /// A read was answered: whether and when what it found was committed.
    pub fn read(&mut self, key: &Key, at: Ts, found: Option<Ts>) -> Result<(), Broken> {
        if at == Ts::MAX || found == Some(Ts::ZERO) {
            return Ok(());
        }
        let of_key = self.keys.entry(key.clone()).or_default();
        let below = of_key.commits.range(..=at).rev();
        let newest = below.into_iter().find(|(_, (_, kind))| kind.is_data());
        let expected = newest
            .filter(|(_, (_, kind))| *kind == WriteKind::Put)
            .map(|(commit_ts, _)| *commit_ts);
        hold(found == expected, READ_IS_WHOLE, || {
            format!("{key:?} at {at} shows {found:?} and not {expected:?}")
        })?;
        of_key.reads.insert(at);
        Ok(())
    }

    /// Somebody was told how a transaction ended: when it was committed, or (0) that it never will be.
    pub fn told(&mut self, start_ts: Ts, commit_ts: Ts) -> Result<(), Broken> {
        if start_ts <= self.safe_point {
            return Ok(());
        }
        let known = self.transactions.entry(start_ts).or_default();
        let before = *known.told.get_or_insert(commit_ts);
        let is_true = before == commit_ts && known.commit_ts.is_none_or(|it| it == commit_ts);
        hold(is_true, TOLD_STAYS, || {
            let recorded = known.commit_ts;
            format!("of {start_ts} {commit_ts} is told; before {before}, recorded {recorded:?}")
        })
    }

    /// What a store shows of itself.
    pub fn showed(&mut self, store: usize, life: u64, max_ts: Ts) -> Result<(), Broken> {
        let (known, before) = std::mem::replace(&mut self.max_ts[store], (life, max_ts));
        let has_grown = known != life || before <= max_ts;
        hold(has_grown, MAX_TS_GROWS, || format!("from {before} to {max_ts}"))
    }

    /// A lock request begins to wait on a store, among these `waits`. Those count whose locks still stand.
    pub fn waits(view: &dyn View, new: &Wait, waits: &[Wait]) -> Result<(), Broken> {
        let stands = |wait: &&Wait| {
            let bytes = view.get(ColumnFamily::Lock, wait.key.as_bytes()).expect("memory is read");
            let lock = bytes.map(|bytes| Lock::decode(&bytes).expect("a store encoded it"));
            lock.is_some_and(|lock| lock.start_ts == wait.holder)
        };
        let waits: Vec<&Wait> = waits.iter().filter(stands).collect();
        let mut reached = BTreeSet::from([new.holder]);
        let mut next = vec![new.holder];
        while let Some(waiter) = next.pop() {
            for wait in waits.iter().filter(|wait| wait.waiter == waiter) {
                if reached.insert(wait.holder) {
                    next.push(wait.holder);
                }
            }
        }
        let is_circle = waits.contains(&new) && reached.contains(&new.waiter);
        hold(!is_circle, NO_CIRCLE, || format!("{new:?} among {waits:?}"))
    }
}

/// The key that these bytes of the engine are, without a timestamp.
fn key_of(bytes: &[u8]) -> Key {
    let encoded = region_key(bytes).expect("these families hold data");
    let (user, _) = decode_bytes(encoded).expect("a store encoded it");
    Key::of(&Bytes::from(user))
}
