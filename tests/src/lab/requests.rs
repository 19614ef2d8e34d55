//! What clients ask: they look up the region of a key, ask its leader, and ask again until it is done.
//!
//! Whoever writes a key here writes it alone, so that a write of unknown outcome may be repeated. Keys with several
//! writers belong to the simulator's own clients, whose history is checked.

use bytes::Bytes;
use skerry_proto::metapb::{Peer, Region};
use skerry_proto::region::is_before_end;
use skerry_raftstore::engine::{ColumnFamily, KeyRange, WriteBatch};
use skerry_raftstore::keys::{data_key, region_key};
use skerry_raftstore::message::{CommandContext, Consistency, RegionView};
use skerry_raftstore::reply::Refusal;

use super::Lab;
use crate::sim::script::{Errand, Told, Wish};
use crate::sim::trace::{MILLISECOND, Moment, SECOND};

/// How long a client waits for one answer.
const PATIENCE: Moment = SECOND;

/// How long a client asks before the test fails. Partitions and crashes lie in it.
const PERSISTENCE: Moment = 60 * SECOND;

/// The family that [`Lab::put`] and its like use.
const FAMILY: ColumnFamily = ColumnFamily::Raw;

/// A pair as a scan finds it.
pub type Pair = (Bytes, Bytes);

impl Lab {
    /// Sets a key.
    pub async fn put(&self, key: impl Into<Bytes>, value: impl Into<Bytes>) {
        self.put_in(FAMILY, key, value).await;
    }

    /// Sets a key of a family.
    pub async fn put_in(
        &self,
        family: ColumnFamily,
        key: impl Into<Bytes>,
        value: impl Into<Bytes>,
    ) {
        let key = key.into();
        let mut batch = WriteBatch::new();
        batch.put(family, data_key(&key), value);
        self.insist(&key, Wish::Write(batch)).await;
    }

    /// Removes a key.
    pub async fn delete(&self, key: impl Into<Bytes>) {
        self.delete_in(FAMILY, key).await;
    }

    /// Removes a key of a family.
    pub async fn delete_in(&self, family: ColumnFamily, key: impl Into<Bytes>) {
        let key = key.into();
        let mut batch = WriteBatch::new();
        batch.delete(family, data_key(&key));
        self.insist(&key, Wish::Write(batch)).await;
    }

    /// Reads a key, through the leader of its region.
    pub async fn get(&self, key: &[u8]) -> Option<Bytes> {
        self.get_in(FAMILY, key).await
    }

    /// Reads a key of a family.
    pub async fn get_in(&self, family: ColumnFamily, key: &[u8]) -> Option<Bytes> {
        let view = self.view(key, Consistency::Leader).await;
        view.view.get(family, &data_key(key)).expect("memory is read")
    }

    /// The pairs from `start` up to `end`, region after region.
    pub async fn scan(&self, start: &[u8], end: &[u8]) -> Vec<Pair> {
        let mut pairs = Vec::new();
        let mut next = Bytes::copy_from_slice(start);
        loop {
            // Every replica must give the same answer.
            let from = if self.coin() { Consistency::Leader } else { Consistency::Replica };
            let view = self.view(&next, from).await;
            let region_end = &view.region.end_key;
            if region_end == end || is_before_end(end, region_end) {
                pairs.extend(pairs_of(&view, &next, end));
                return pairs;
            }
            pairs.extend(pairs_of(&view, &next, region_end));
            next = region_end.clone();
        }
    }

    /// A view of the region of a key.
    pub async fn view(&self, key: &[u8], consistency: Consistency) -> RegionView {
        match self.insist(key, Wish::Read(consistency)).await {
            Told::View(view) => view,
            other => panic!("a read was answered by {other:?}"),
        }
    }

    /// Asks the region of a key until what is wished is done.
    pub async fn insist(&self, key: &[u8], wish: Wish) -> Told {
        let end = self.now() + PERSISTENCE;
        let mut route = None;
        let mut last = String::from("nobody was asked");
        while self.now() < end {
            let known: Option<Route> = route.take().or_else(|| self.world().look_up(key));
            let answer = match known {
                Some(known) => self.ask_route(&known, wish.clone()).await.map(|told| (known, told)),
                None => None,
            };
            match answer {
                Some((known, Told::Refused(refusal))) => {
                    last = refusal.to_string();
                    route = after(known, refusal, key);
                }
                Some((_, Told::Unknown)) => last = "nobody can say".to_string(),
                Some((_, Told::View(view))) if !view.region.contains_key(key) => {
                    last = "a view of another region".to_string();
                }
                Some((_, told)) => return told,
                None => last = "no answer".to_string(),
            }
            self.pause(self.between(5, 50) * MILLISECOND).await;
        }
        let key = key.escape_ascii();
        panic!(
            "not done in {} s: {wish:?} of {key}: {last}\n{}",
            PERSISTENCE / SECOND,
            self.picture()
        );
    }

    /// Asks whom the route names, or anybody of the region.
    async fn ask_route(&self, (region, leader): &Route, wish: Wish) -> Option<Told> {
        let is_for_anybody = matches!(wish, Wish::Read(Consistency::Replica));
        let leader = leader.filter(|_| !is_for_anybody);
        let peer = leader.or_else(|| self.pick(&region.peers))?;
        let context = CommandContext {
            region_id: region.region_id(),
            epoch: region.epoch(),
            ..CommandContext::default()
        };
        self.ask(Errand { store: peer.store(), context, wish }).await
    }

    /// Asks a store once; nothing if no answer comes in time.
    pub async fn ask(&self, errand: Errand) -> Option<Told> {
        let ticket = self.world.borrow_mut().ask_store(errand);
        let end = self.now() + PATIENCE;
        loop {
            let told = self.world.borrow_mut().take_answer(ticket);
            if told.is_some() || self.now() >= end {
                return told;
            }
            self.pause(MILLISECOND).await;
        }
    }
}

/// A region as a client knows it, and who leads it.
type Route = (Region, Option<Peer>);

/// Whom to ask next; the scheduler if nothing can be learned from a refusal.
fn after((region, _): Route, refusal: Refusal, key: &[u8]) -> Option<Route> {
    match refusal {
        Refusal::NotLeader { leader: Some(leader), .. } => Some((region, Some(leader))),
        Refusal::EpochNotMatch(regions) => {
            let newer = regions.into_iter().find(|newer| newer.contains_key(key))?;
            Some((Region::clone(&newer), None))
        }
        _ => None,
    }
}

/// What a view shows of the family from `start` up to `end`.
fn pairs_of(view: &RegionView, start: &[u8], end: &[u8]) -> Vec<Pair> {
    let range = KeyRange::new(data_key(start), data_key(end));
    let mut cursor = view.view.cursor(FAMILY, &range).expect("memory is read");
    let mut stands = cursor.seek_to_first().expect("memory is read");
    let mut pairs = Vec::new();
    while stands {
        let key = region_key(cursor.key()).expect("data has the data prefix");
        pairs.push((Bytes::copy_from_slice(key), Bytes::copy_from_slice(cursor.value())));
        stands = cursor.next().expect("memory is read");
    }
    pairs
}
