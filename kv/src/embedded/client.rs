//! Reaches regions from inside the process: what a client of the wire does with a scheduler and connections, done with
//! the stores themselves.
//!
//! 1. A table of regions, sorted by key, says which store probably leads each. It is made of what the stores have.
//! 2. A call goes to that store, with the region as the table shows it ([`Client::at`]). A store that cannot serve it
//!    says why, precisely; then the table is made anew and the call is made again, until it is answered or its
//!    patience ends.
//! 3. What concerns many keys goes region by region, in parts of bounded size ([`Client::in_parts`]).
//!
//! **Invariant.** A call is repeated only if it was certainly not done.

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use bytes::Bytes;
use skerry_proto::metapb;
use skerry_proto::types::{StoreId, Ts};
use skerry_raftstore::keys;

use super::error::{Error, Result, is_redirect};
use super::wait::{Patience, Waiter};
use crate::mvcc::{Key, Lock};
use crate::raw::RawStore;
use crate::storage::{RequestContext, Storage};
use crate::txn::{self, Timestamps, TxnStore};

/// How long a call is tried. A new leader takes a second or two; what takes longer is no passing trouble.
pub(super) const PATIENCE: Duration = Duration::from_secs(20);

/// Bytes of keys and values that one request writes. A larger one would hold up others of its region.
pub(super) const PART_BYTES_MAX: usize = 1 << 20;

/// A store of the database.
pub(crate) struct Member {
    /// Its id.
    pub(crate) store_id: StoreId,
    /// Knows its regions.
    pub(crate) storage: Arc<dyn Storage>,
    /// Serves raw pairs.
    pub(crate) raw: Arc<RawStore>,
    /// Serves transactions.
    pub(crate) txn: Arc<TxnStore>,
}

/// A region and who probably leads it.
#[derive(Clone)]
struct Route {
    region: Arc<metapb::Region>,
    /// Index of the member.
    leader: usize,
}

/// Whom a call goes to.
pub(super) struct Target<'a> {
    pub(super) member: &'a Member,
    pub(super) context: RequestContext,
    pub(super) region: Arc<metapb::Region>,
    waiter: &'a Waiter,
}

/// Locks of others that a request has met, with the keys they lock.
pub(super) type Locks = Vec<(Bytes, Lock)>;

/// See the head of this file.
pub(super) struct Client {
    members: Vec<Member>,
    timestamps: Arc<dyn Timestamps>,
    waiter: Waiter,
    /// Transactions that began before are over, because they ended with the process.
    dead_before: Ts,
    /// By start key, without overlaps.
    routes: RwLock<Arc<Vec<Route>>>,
}

impl Target<'_> {
    /// Blocks until `future` is done.
    pub(super) fn wait<F: Future>(&self, future: F) -> F::Output {
        self.waiter.wait_for(future)
    }

    /// The first of `items` that lie in this region and are not too many for one request; at least one.
    pub(super) fn part_of<'i, I>(
        &self,
        items: &'i [I],
        measure: impl Fn(&I) -> (&Key, usize),
    ) -> &'i [I] {
        let mut bytes = 0;
        let is_in = |item: &I| {
            let (key, size) = measure(item);
            bytes += size;
            bytes <= PART_BYTES_MAX && self.region.contains_key(region_key(key))
        };
        let count = items.iter().map(is_in).take_while(|is_in| *is_in).count();
        &items[..count.max(1)]
    }
}

impl Client {
    /// A client of these stores.
    pub(super) fn new(
        members: Vec<Member>,
        timestamps: Arc<dyn Timestamps>,
        waiter: Waiter,
        dead_before: Ts,
    ) -> Client {
        let routes = RwLock::default();
        let client = Client { members, timestamps, waiter, dead_before, routes };
        client.look_around(None);
        client
    }

    /// A timestamp above all before it.
    pub(super) fn timestamp(&self) -> Ts {
        self.waiter.wait_for(self.timestamps.newest())
    }

    /// Transactions that began before this are over, whatever their locks say.
    pub(super) fn dead_before(&self) -> Ts {
        self.dead_before
    }

    /// The bounds and the form of transactional keys.
    pub(super) fn key(&self, user: &[u8]) -> Result<Key> {
        Ok(self.members[0].txn.keys().key(user)?)
    }

    /// Calls the leader of the region that holds `key`, which is in the form of boundaries, until it answers.
    pub(super) fn at<T>(
        &self,
        key: &[u8],
        mut call: impl FnMut(&Target<'_>) -> txn::Result<T>,
    ) -> Result<T> {
        let mut patience = None;
        loop {
            let refused = match self.target(key) {
                Some(target) => match call(&target) {
                    Err(txn::Error::Other(error)) if is_redirect(&error) => {
                        self.look_around(Some((target.region.id, &error)));
                        Error::from(*error)
                    }
                    answered => return answered.map_err(Error::from),
                },
                None => {
                    self.look_around(None);
                    Error::Busy("no store has the region of this key".to_string())
                }
            };
            let seed = self.dead_before.get() ^ key.len() as u64;
            if !patience.get_or_insert_with(|| Patience::of(PATIENCE, seed)).pause() {
                return Err(refused);
            }
        }
    }

    /// Calls for all `items`, which are sorted by `key`: region by region, in parts of bounded size. A call answers the
    /// locks that were in its way; then way is made for the transaction that began at `start_ts`, and it is repeated.
    pub(super) fn in_parts<I>(
        &self,
        items: &[I],
        measure: impl Fn(&I) -> (&Key, usize),
        start_ts: Ts,
        mut call: impl FnMut(&Target<'_>, &[I]) -> txn::Result<Locks>,
    ) -> Result<()> {
        let mut rest = items;
        let mut patience = None;
        while let Some(first) = rest.first() {
            let (taken, locks) = self.at(region_key(measure(first).0), |target| {
                let part = target.part_of(rest, &measure);
                Ok((part.len(), call(target, part)?))
            })?;
            if locks.is_empty() {
                rest = &rest[taken..];
                patience = None;
                continue;
            }
            let patience = patience.get_or_insert_with(|| Patience::of(PATIENCE, start_ts.get()));
            self.make_way(&locks, Ts::ZERO)?;
            if !patience.pause() {
                let (key, lock) = &locks[0];
                return Err(Error::Conflict(format!(
                    "key \"{}\" is still locked by the transaction that began at {}",
                    key.escape_ascii(),
                    lock.start_ts
                )));
            }
        }
        Ok(())
    }

    fn target(&self, key: &[u8]) -> Option<Target<'_>> {
        let routes = self.routes();
        let behind = routes.partition_point(|route| &route.region.start_key[..] <= key);
        let route = routes.get(behind.checked_sub(1)?)?;
        if !route.region.contains_key(key) {
            return None;
        }
        let (member, region) = (&self.members[route.leader], Arc::clone(&route.region));
        let context = RequestContext::inside(&region, member.store_id, member.txn.keys().version);
        Some(Target { member, context, region, waiter: &self.waiter })
    }

    fn routes(&self) -> Arc<Vec<Route>> {
        Arc::clone(&self.routes.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Makes the table anew. `refused` is the region that a store has refused to serve, and why.
    fn look_around(&self, refused: Option<(u64, &crate::Error)>) {
        let mut newest: BTreeMap<u64, Arc<metapb::Region>> = BTreeMap::new();
        for region in self.members.iter().flat_map(|member| member.storage.regions()) {
            let known = newest.entry(region.id).or_insert_with(|| Arc::clone(&region));
            if known.epoch().is_stale(&region.epoch()) {
                *known = region;
            }
        }
        let mut regions: Vec<Arc<metapb::Region>> = newest.into_values().collect();
        regions.sort_by(|one, other| one.start_key.cmp(&other.start_key));
        let before = self.routes();
        let leaders: BTreeMap<u64, usize> =
            before.iter().map(|route| (route.region.id, route.leader)).collect();
        let mut routes: Vec<Route> = Vec::with_capacity(regions.len());
        for region in regions {
            // A replica that is behind shows a region as it was before a split: the newer one counts.
            if let Some(last) = routes.last()
                && overlap(&last.region, &region)
            {
                match last.region.epoch().version < region.epoch().version {
                    true => drop(routes.pop()),
                    false => continue,
                }
            }
            let known = leaders.get(&region.id).copied();
            if let Some(leader) = self.leader_of(&region, known, refused) {
                routes.push(Route { region, leader });
            }
        }
        *self.routes.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(routes);
    }

    /// Who probably leads a region: whom the one that was asked has named, or else the next one that has a replica.
    fn leader_of(
        &self,
        region: &metapb::Region,
        known: Option<usize>,
        refused: Option<(u64, &crate::Error)>,
    ) -> Option<usize> {
        let count = self.members.len();
        let first = match (known, refused) {
            (Some(known), Some((region_id, reason))) if region_id == region.id => match reason {
                crate::Error::NotLeader { leader: Some(leader), .. } => {
                    let named = |member: &Member| member.store_id == leader.store();
                    self.members.iter().position(named).unwrap_or(known)
                }
                crate::Error::EpochNotMatch { .. } | crate::Error::KeyNotInRegion { .. } => known,
                _ => known + 1,
            },
            (known, _) => known.unwrap_or(0),
        };
        let has_replica =
            |member: &usize| region.peer_on_store(self.members[*member].store_id).is_some();
        (first..first + count).map(|member| member % count).find(has_replica)
    }
}

/// A key in the form of boundaries.
pub(super) fn region_key(key: &Key) -> &[u8] {
    keys::region_key(key.as_bytes()).expect("transactional keys have the data prefix")
}

fn overlap(left: &metapb::Region, right: &metapb::Region) -> bool {
    left.end_key.is_empty() || left.end_key > right.start_key
}
