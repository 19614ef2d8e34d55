//! The lock of a key: a transaction that has not ended yet, and what it is about to do.
//!
//! A lock's bytes, after format and kind (see [`super::record`] for the form):
//!
//! | part | bytes | when |
//! | --- | --- | --- |
//! | start timestamp, time to live, size of the transaction | 8 each | always |
//! | primary key | string | always |
//! | `a` use async commit: number of secondaries (8), each a string | | asked for |
//! | `c` lower bound of the commit timestamp | 8 | not 0 |
//! | `f` for-update timestamp | 8 | pessimistic transaction |
//! | `v` short value | string | a put with a short value |

use bytes::Bytes;
use skerry_proto::types::Ts;

use super::record::{self, Fields};
use crate::error::Result;

/// What the owner of a lock is about to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LockKind {
    /// Write a value.
    Put,
    /// Remove the key.
    Delete,
    /// Nothing: keep others from writing.
    Lock,
    /// Not decided: a pessimistic transaction has reserved the key.
    Pessimistic,
}

impl LockKind {
    const fn letter(self) -> u8 {
        match self {
            LockKind::Put => b'P',
            LockKind::Delete => b'D',
            LockKind::Lock => b'L',
            LockKind::Pessimistic => b'S',
        }
    }

    fn of_letter(letter: u8) -> Option<LockKind> {
        let all = [LockKind::Put, LockKind::Delete, LockKind::Lock, LockKind::Pessimistic];
        all.into_iter().find(|kind| kind.letter() == letter)
    }
}

/// A lock.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lock {
    /// What its owner is about to do.
    pub kind: LockKind,
    /// The user key whose lock decides for the whole transaction.
    pub primary: Bytes,
    /// Which transaction.
    pub start_ts: Ts,
    /// Milliseconds after the physical part of `start_ts` for which the owner counts as alive.
    pub ttl_ms: u64,
    /// Number of keys of the transaction, as its client said: it comes back to clients as they sent it.
    pub txn_size: u64,
    /// Version up to which a pessimistic transaction has seen this key; 0 for an optimistic one.
    pub for_update_ts: Ts,
    /// The transaction will not commit before this; 0 if nothing is known.
    pub min_commit_ts: Ts,
    /// The value of a put, if it is short. A longer one stands in family `default` at `start_ts`.
    pub short_value: Option<Bytes>,
    /// The transaction is committed as soon as all its locks stand.
    pub use_async_commit: bool,
    /// With async commit, in the lock of the primary key: the user keys of all others.
    pub secondaries: Vec<Bytes>,
    /// Commits without ever being written: such a lock exists in memory only ([`crate::txn::concurrency`]).
    pub one_phase: bool,
}

impl Lock {
    /// A lock that only says whose it is. Callers fill in what else there is to say.
    pub fn new(kind: LockKind, primary: Bytes, start_ts: Ts, ttl_ms: u64) -> Lock {
        Lock {
            kind,
            primary,
            start_ts,
            ttl_ms,
            txn_size: 0,
            for_update_ts: Ts::ZERO,
            min_commit_ts: Ts::ZERO,
            short_value: None,
            use_async_commit: false,
            secondaries: Vec::new(),
            one_phase: false,
        }
    }

    /// Whether nothing was decided about the key yet.
    pub fn is_pessimistic(&self) -> bool {
        self.kind == LockKind::Pessimistic
    }

    /// Whether its owner locks keys before it writes them.
    pub fn is_of_pessimistic_txn(&self) -> bool {
        self.for_update_ts != Ts::ZERO
    }

    /// Whether its owner counts as dead at `now`. [`Ts::MAX`] asks for it to be.
    pub fn is_expired(&self, now: Ts) -> bool {
        now == Ts::MAX
            || self.start_ts.physical_ms().saturating_add(self.ttl_ms) < now.physical_ms()
    }

    /// As it is kept on disk.
    pub fn encode(&self) -> Bytes {
        assert!(!self.one_phase, "a lock of a one-phase commit is never written");
        let mut bytes = Vec::with_capacity(64 + self.primary.len());
        bytes.extend_from_slice(&[record::FORMAT, self.kind.letter()]);
        record::put_ts(&mut bytes, self.start_ts);
        record::put_number(&mut bytes, self.ttl_ms);
        record::put_number(&mut bytes, self.txn_size);
        record::put_bytes(&mut bytes, &self.primary);
        if self.use_async_commit {
            bytes.push(b'a');
            record::put_number(&mut bytes, self.secondaries.len() as u64);
            for key in &self.secondaries {
                record::put_bytes(&mut bytes, key);
            }
        }
        if self.min_commit_ts != Ts::ZERO {
            bytes.push(b'c');
            record::put_ts(&mut bytes, self.min_commit_ts);
        }
        if self.for_update_ts != Ts::ZERO {
            bytes.push(b'f');
            record::put_ts(&mut bytes, self.for_update_ts);
        }
        if let Some(value) = &self.short_value {
            bytes.push(b'v');
            record::put_bytes(&mut bytes, value);
        }
        bytes.into()
    }

    /// From what is kept on disk.
    pub fn decode(bytes: &[u8]) -> Result<Lock> {
        let mut fields = Fields::of("a lock", bytes)?;
        let letter = fields.byte()?;
        let kind = LockKind::of_letter(letter).ok_or_else(|| fields.unknown("kind", letter))?;
        let (start_ts, ttl_ms, txn_size) = (fields.ts()?, fields.number()?, fields.number()?);
        let mut lock = Lock::new(kind, fields.owned()?, start_ts, ttl_ms);
        lock.txn_size = txn_size;
        while !fields.is_empty() {
            match fields.byte()? {
                b'a' => {
                    lock.use_async_commit = true;
                    for _ in 0..fields.number()? {
                        lock.secondaries.push(fields.owned()?);
                    }
                }
                b'c' => lock.min_commit_ts = fields.ts()?,
                b'f' => lock.for_update_ts = fields.ts()?,
                b'v' => lock.short_value = Some(fields.owned()?),
                other => return Err(fields.unknown("field", other)),
            }
        }
        Ok(lock)
    }
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    fn any_bytes() -> impl Strategy<Value = Bytes> {
        vec(any::<u8>(), 0..20).prop_map(Bytes::from)
    }

    fn any_lock() -> impl Strategy<Value = Lock> {
        let kind = prop_oneof![
            Just(LockKind::Put),
            Just(LockKind::Delete),
            Just(LockKind::Lock),
            Just(LockKind::Pessimistic)
        ];
        let numbers = prop::array::uniform5(prop_oneof![Just(0), any::<u64>()]);
        let strings =
            (any_bytes(), prop::option::of(any_bytes()), prop::option::of(vec(any_bytes(), 0..4)));
        (kind, numbers, strings).prop_map(|(kind, numbers, (primary, short_value, secondaries))| {
            let [start_ts, ttl_ms, txn_size, for_update_ts, min_commit_ts] = numbers;
            Lock {
                txn_size,
                for_update_ts: Ts::from(for_update_ts),
                min_commit_ts: Ts::from(min_commit_ts),
                short_value,
                use_async_commit: secondaries.is_some(),
                secondaries: secondaries.unwrap_or_default(),
                ..Lock::new(kind, primary, Ts::from(start_ts), ttl_ms)
            }
        })
    }

    proptest! {
        #[test]
        fn a_lock_comes_back(lock in any_lock()) {
            prop_assert_eq!(Lock::decode(&lock.encode()).unwrap(), lock);
        }

        #[test]
        fn a_lock_that_is_cut_off_is_refused_or_shorter(lock in any_lock(), cut in 1..60_usize) {
            let bytes = lock.encode();
            let shorter = bytes.len().saturating_sub(cut);
            if let Ok(decoded) = Lock::decode(&bytes[..shorter]) {
                prop_assert_ne!(decoded, lock);
            }
        }

        #[test]
        fn garbage_is_refused_and_never_panics(garbage in vec(any::<u8>(), 0..80)) {
            let _ = Lock::decode(&garbage);
        }
    }

    #[test]
    fn what_a_newer_version_wrote_is_refused_by_name() {
        let lock = Lock::new(LockKind::Put, Bytes::from_static(b"k"), Ts::from(5), 3);
        let mut bytes = lock.encode().to_vec();
        bytes.push(b'z');
        assert!(Lock::decode(&bytes).unwrap_err().to_string().contains("field 'z' is not known"));
        bytes[1] = b'H';
        assert!(Lock::decode(&bytes).unwrap_err().to_string().contains("kind 'H' is not known"));
        bytes[0] = 2;
        assert!(Lock::decode(&bytes).unwrap_err().to_string().contains("format 2 is not known"));
    }

    #[test]
    fn an_owner_lives_until_its_time_is_over() {
        let lock = Lock::new(LockKind::Put, Bytes::new(), Ts::compose(1_000, 7), 500);
        assert!(!lock.is_expired(Ts::compose(1_500, 0)));
        assert!(lock.is_expired(Ts::compose(1_501, 0)));
        let forever = Lock { ttl_ms: u64::MAX, ..lock };
        assert!(!forever.is_expired(Ts::MAX.previous()));
        assert!(forever.is_expired(Ts::MAX), "who says so will not wait");
    }
}
