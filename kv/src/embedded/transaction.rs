//! A transaction of the library: it reads at its beginning, keeps what it writes to itself, and commits all of it or
//! nothing. Optimistic: it locks nothing before it commits, and fails if another one was faster.
//!
//! A read that meets a lock finds out what became of its owner ([`super::resolve`]) and comes again.
//!
//! **Invariant.** Everything that is read is of one moment, but for what the transaction has written itself.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;

use bytes::Bytes;

use super::client::{Client, Locks, PATIENCE, region_key};
use super::commit;
use super::error::{Error, Result};
use super::wait::Patience;
use super::{Pair, reaches};
use crate::mvcc::{Key, ReadRules, Version};
use crate::raw::INLINE_KEYS_MAX;
use crate::txn;
use crate::txn::get::{BatchGet, Get};
use crate::txn::scan::Scan;

/// What is still to be done about the answer to a read.
type Met<T> = std::result::Result<T, Locks>;

/// See the head of this file. Dropping it without [`Transaction::commit`] leaves no trace.
pub struct Transaction<'db> {
    client: &'db Client,
    rules: ReadRules,
    /// What it will write; nothing for keys that go.
    changes: BTreeMap<Vec<u8>, Option<Vec<u8>>>,
}

impl<'db> Transaction<'db> {
    /// Begins now.
    pub(super) fn begin(client: &'db Client) -> Transaction<'db> {
        let rules = ReadRules::at(client.timestamp());
        Transaction { client, rules, changes: BTreeMap::new() }
    }

    /// When it began.
    pub(super) fn start_ts(&self) -> u64 {
        self.rules.ts.get()
    }

    /// The value of a key.
    pub fn get(&mut self, key: impl AsRef<[u8]>) -> Result<Option<Vec<u8>>> {
        let user = key.as_ref();
        if let Some(change) = self.changes.get(user) {
            return Ok(change.clone());
        }
        let key = self.client.key(user)?;
        let found = self.read(|client, rules| {
            let command = Get { key: key.clone(), rules: rules.clone() };
            client.at(region_key(&key), |target| {
                let store = &target.member.txn;
                met(target.wait(store.read(&target.context, command.clone())))
            })
        })?;
        Ok(found.version.map(|version| version.value.into()))
    }

    /// The values of those keys that have one, by key.
    pub fn get_many<K: AsRef<[u8]>>(
        &mut self,
        keys: impl IntoIterator<Item = K>,
    ) -> Result<BTreeMap<Vec<u8>, Vec<u8>>> {
        let (mut found, mut asked) = (BTreeMap::new(), BTreeSet::new());
        for key in keys {
            let user = key.as_ref();
            match self.changes.get(user) {
                Some(Some(value)) => drop(found.insert(user.to_vec(), value.clone())),
                Some(None) => {}
                None => drop(asked.insert(self.client.key(user)?)),
            }
        }
        let asked: Vec<Key> = asked.into_iter().collect();
        let mut rest = &asked[..];
        while let Some(first) = rest.first() {
            let (taken, versions) = self.read(|client, rules| {
                client.at(region_key(first), |target| {
                    let part = target.part_of(rest, |key| (key, key.as_bytes().len()));
                    let command = BatchGet {
                        keys: part.to_vec(),
                        rules: rules.clone(),
                        reply_bytes_max: target.member.txn.reply_bytes_max(),
                    };
                    let (store, context) = (&target.member.txn, &target.context);
                    let answer = match part.len() <= INLINE_KEYS_MAX {
                        true => target.wait(store.read(context, command)),
                        false => target.wait(store.read_at_length(context, command)),
                    };
                    let pairs = met_in_pairs(answer.map(|gotten| gotten.found))?;
                    Ok(pairs.map(|pairs| (part.len(), pairs)))
                })
            })?;
            found.extend(versions);
            rest = &rest[taken..];
        }
        Ok(found)
    }

    /// At most `limit` pairs with keys from `start` up to and without `end`, by key. An empty `end` is no bound.
    pub fn scan(
        &mut self,
        start: impl AsRef<[u8]>,
        end: impl AsRef<[u8]>,
        limit: usize,
    ) -> Result<Vec<Pair>> {
        let (start, end) = (start.as_ref(), end.as_ref());
        if limit == 0 || !reaches(start, end) {
            return Ok(Vec::new());
        }
        let upper = if end.is_empty() { Bound::Unbounded } else { Bound::Excluded(end) };
        let own = |changes: &BTreeMap<Vec<u8>, Option<Vec<u8>>>| {
            let inside = changes.range::<[u8], _>((Bound::Included(start), upper));
            inside.map(|(key, change)| (key.clone(), change.clone())).collect::<Vec<_>>()
        };
        let own = own(&self.changes);
        // Each own deletion may hide a pair that is there.
        let hidden = own.iter().filter(|(_, change)| change.is_none()).count();
        let mut merged = self.scan_committed(start, end, limit.saturating_add(hidden))?;
        for (key, change) in own {
            match change {
                Some(value) => drop(merged.insert(key, value)),
                None => drop(merged.remove(&key)),
            }
        }
        Ok(merged.into_iter().take(limit).collect())
    }

    /// Sets the value of a key.
    pub fn put(&mut self, key: impl AsRef<[u8]>, value: impl Into<Vec<u8>>) -> Result<()> {
        self.client.key(key.as_ref())?;
        self.changes.insert(key.as_ref().to_vec(), Some(value.into()));
        Ok(())
    }

    /// Sets the values of many keys.
    pub fn put_many<K: AsRef<[u8]>, V: Into<Vec<u8>>>(
        &mut self,
        pairs: impl IntoIterator<Item = (K, V)>,
    ) -> Result<()> {
        pairs.into_iter().try_for_each(|(key, value)| self.put(key, value))
    }

    /// Removes a key; it need not be there.
    pub fn delete(&mut self, key: impl AsRef<[u8]>) -> Result<()> {
        self.client.key(key.as_ref())?;
        self.changes.insert(key.as_ref().to_vec(), None);
        Ok(())
    }

    /// Makes everything that was written true at once, or nothing of it. When this has answered, it is durable.
    pub fn commit(self) -> Result<()> {
        commit::commit(self.client, self.rules.ts, self.changes)
    }

    /// What is committed in a range, region by region.
    fn scan_committed(
        &mut self,
        start: &[u8],
        end: &[u8],
        limit: usize,
    ) -> Result<BTreeMap<Vec<u8>, Vec<u8>>> {
        let mut found = BTreeMap::new();
        // An empty start is in the form of boundaries what it is for users: before everything.
        let mut from = Bytes::copy_from_slice(start);
        while found.len() < limit && reaches(&from, end) {
            let wanted = limit - found.len();
            let (pairs, behind) = self.read(|client, rules| {
                let at = match from.is_empty() {
                    true => Bytes::new(),
                    false => skerry_proto::codec::encode_bytes(&from).into(),
                };
                client.at(&at, |target| {
                    let store = &target.member.txn;
                    let end = Bytes::copy_from_slice(end);
                    let mut command = Scan::new(from.clone(), end, wanted, rules.clone());
                    command.reply_bytes_max = store.reply_bytes_max();
                    let answer = target.wait(store.read_at_length(&target.context, command));
                    let pairs = met_in_pairs(answer.map(|scanned| scanned.found))?;
                    Ok(pairs.map(|pairs| (pairs, target.region.end_key.clone())))
                })
            })?;
            found.extend(pairs);
            if behind.is_empty() {
                break;
            }
            from = key_at(&behind)?;
        }
        Ok(found)
    }

    /// Asks until no lock is in the way.
    fn read<T>(&mut self, ask: impl Fn(&Client, &ReadRules) -> Result<Met<T>>) -> Result<T> {
        let mut patience = None;
        loop {
            let locks = match ask(self.client, &self.rules)? {
                Ok(answer) => return Ok(answer),
                Err(locks) => locks,
            };
            let passable = self.client.make_way(&locks, self.rules.ts)?;
            let must_wait = passable.len() < locks.len();
            self.rules.resolved.extend(passable);
            let seed = self.rules.ts.get();
            if must_wait && !patience.get_or_insert_with(|| Patience::of(PATIENCE, seed)).pause() {
                let key = locks[0].0.escape_ascii();
                return Err(Error::Busy(format!("key \"{key}\" stays locked")));
            }
        }
    }
}

/// A lock that a read has met is something to do, not its failure.
fn met<T>(answer: txn::Result<T>) -> txn::Result<Met<T>> {
    match answer {
        Err(txn::Error::Locked { key, lock }) => Ok(Err(vec![(key, *lock)])),
        answered => answered.map(Ok),
    }
}

/// The same for an answer in which each pair may be locked.
#[allow(clippy::type_complexity)] // One answer that has its own shape and is taken apart here.
fn met_in_pairs(
    answer: txn::Result<Vec<(Key, txn::Result<Version>)>>,
) -> txn::Result<Met<Vec<Pair>>> {
    let found = match met(answer)? {
        Ok(found) => found,
        Err(locks) => return Ok(Err(locks)),
    };
    let (mut pairs, mut locks) = (Vec::with_capacity(found.len()), Locks::new());
    for (key, version) in found {
        match met(version)? {
            Ok(version) => pairs.push((key.user_key()?.into(), version.value.into())),
            Err(met) => locks.extend(met),
        }
    }
    Ok(if locks.is_empty() { Ok(pairs) } else { Err(locks) })
}

/// The key that a boundary between regions stands for. Stores cut at whole keys; others may have asked for something
/// else.
fn key_at(boundary: &[u8]) -> Result<Bytes> {
    match skerry_proto::codec::decode_bytes(boundary) {
        Ok((key, [])) => Ok(key.into()),
        _ => Err(Error::Invalid(format!(
            "a region ends at \"{}\", which is no whole key of transactions: scans cannot go on behind it",
            boundary.escape_ascii()
        ))),
    }
}

#[cfg(test)]
mod tests {
    use skerry_proto::codec::encode_bytes;

    use super::*;

    #[test]
    fn a_scan_goes_on_at_whole_keys_and_ends_with_an_error_at_others() {
        let boundary = encode_bytes(b"abc");
        assert_eq!(key_at(&boundary), Ok("abc".into()));
        for cut in [b"m".to_vec(), [&boundary[..], b"x"].concat()] {
            assert!(matches!(key_at(&cut), Err(Error::Invalid(_))), "{cut:?}");
        }
    }
}
