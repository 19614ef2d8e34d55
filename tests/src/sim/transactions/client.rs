//! A client of transactions: how it finds regions, sends requests in groups, and hears answers.
//!
//! It speaks to stores as the client libraries do: one request for all keys of a region, side by side for several
//! regions; what a region refuses, or nobody answers, is sent again by a newer picture of the regions. Every command
//! may arrive twice, so nothing is lost by that.
//!
//! The transaction itself stands in [`super::percolator`], what is done about locks of others in [`super::resolve`],
//! and what for in [`super::errands`].

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use skerry_kv::mvcc::Key;
use skerry_kv::txn::Error;
use skerry_proto::types::Ts;
use skerry_raftstore::keys::region_key;

use super::post::{Address, Heard, Outbox, Route, Slot, Wish};
use crate::checker::isolation::Transaction;
use crate::sim::chance::Chance;
use crate::sim::trace::MILLISECOND;

/// What all clients of a run share.
#[derive(Default)]
pub(super) struct Shared {
    /// Everything they did.
    pub(super) history: RefCell<Vec<Transaction>>,
    /// Transactions whose clients died over them.
    pub(super) dead: RefCell<BTreeSet<Ts>>,
    /// The time of the history.
    pub(super) now: Cell<u64>,
    /// Whether new transactions begin.
    pub(super) is_busy: Cell<bool>,
    /// Versions below it may be gone.
    pub(super) safe_point: Cell<Ts>,
    /// What a client saw that must not be.
    pub(super) wrong: RefCell<Option<String>>,
}

/// See the module.
pub(super) struct Client {
    pub(super) number: usize,
    pub(super) chance: Chance,
    pub(super) outbox: Outbox,
    pub(super) shared: Rc<Shared>,
    /// The transaction that it is at, for those who hear of its death.
    pub(super) current: Rc<Cell<Ts>>,
    /// Transactions that ended with an answer, in all its lives.
    pub(super) ended: Rc<Cell<u64>>,
    /// Whether a transaction is between its first prewrite and its last commit.
    pub(super) is_committing: bool,
    /// Numbers its values; never used twice, also not in a later life.
    pub(super) values: Rc<Cell<u64>>,
    routes: BTreeMap<u64, Route>,
}

/// What came of a request for some keys.
pub(super) enum Came<T> {
    /// The answer.
    Answer(T),
    /// An error about keys.
    Error(Error),
    /// Nothing of use: ask again.
    Nothing,
}

impl Client {
    pub(super) fn new(
        number: usize,
        chance: Chance,
        outbox: Outbox,
        shared: Rc<Shared>,
        current: Rc<Cell<Ts>>,
        [ended, values]: [Rc<Cell<u64>>; 2],
    ) -> Client {
        let (is_committing, routes) = (false, BTreeMap::new());
        Client { number, chance, outbox, shared, current, ended, is_committing, values, routes }
    }

    pub(super) fn count(&self, what: &'static str) {
        self.outbox.wish(Wish::Count(what));
    }

    pub(super) fn tell(&self, what: String) {
        self.outbox.wish(Wish::Tell(what));
    }

    /// Something is as it must not be; the first of that is kept.
    pub(super) fn is_wrong(&self, what: String) {
        self.shared.wrong.borrow_mut().get_or_insert(what);
    }

    /// Whether what tells of the end of a transaction may be gone: nobody can judge then what is said of it.
    pub(super) fn may_be_forgotten(&self, start_ts: Ts) -> bool {
        start_ts <= self.shared.safe_point.get()
    }

    /// A short pause before something is tried again.
    pub(super) async fn breathe(&mut self) {
        let span = self.chance.between(3 * MILLISECOND, 60 * MILLISECOND);
        self.outbox.pause(span).await;
    }

    /// Sends one request for each region of the keys, and waits for all answers.
    pub(super) async fn round<T: 'static>(
        &mut self,
        keys: &[Key],
        send: impl Fn(&Outbox, &Address, Vec<Key>) -> Slot<Heard<T>>,
    ) -> Vec<(Vec<Key>, Came<T>)> {
        let (groups, mut came) = self.groups(keys).await;
        let mut sent = Vec::new();
        for (to, keys) in groups {
            sent.push((to.region, keys.clone(), send(&self.outbox, &to, keys)));
        }
        for (region, keys, slot) in sent {
            let heard = match slot.take().await {
                Heard::Answer(Ok(answer)) => Came::Answer(answer),
                Heard::Answer(Err(Error::Other(error))) => {
                    self.learn(region, &error);
                    Came::Nothing
                }
                Heard::Answer(Err(error)) => Came::Error(error),
                Heard::Silence => {
                    self.routes.clear();
                    self.count("txn: no answer in time");
                    Came::Nothing
                }
            };
            came.push((keys, heard));
        }
        came
    }

    /// Sends one request for one key, and waits for its answer.
    pub(super) async fn one<T: 'static>(
        &mut self,
        key: &Key,
        send: impl Fn(&Outbox, &Address) -> Slot<Heard<T>>,
    ) -> Came<T> {
        let came = self.round(std::slice::from_ref(key), |outbox, to, _| send(outbox, to)).await;
        came.into_iter().next().expect("there is an outcome for each key").1
    }

    /// Keys by region, and those whose region nobody knows.
    pub(super) async fn groups<T>(
        &mut self,
        keys: &[Key],
    ) -> (Vec<(Address, Vec<Key>)>, Vec<(Vec<Key>, Came<T>)>) {
        let mut groups: BTreeMap<u64, (Address, Vec<Key>)> = BTreeMap::new();
        let mut lost = Vec::new();
        for key in keys {
            match self.address(key).await {
                Some(to) => {
                    groups.entry(to.region).or_insert((to, Vec::new())).1.push(key.clone());
                }
                None => lost.push(key.clone()),
            }
        }
        let unknown = if lost.is_empty() { Vec::new() } else { vec![(lost, Came::Nothing)] };
        let mut groups: Vec<_> = groups.into_values().collect();
        self.chance.shuffle(&mut groups);
        (groups, unknown)
    }

    /// The region of a key, by what stores have told, or else the scheduler; and one of its replicas.
    async fn address(&mut self, key: &Key) -> Option<Address> {
        let boundary = region_key(key.as_bytes()).expect("keys of users have the data prefix");
        let known = self.routes.values().filter(|route| route.region.contains_key(boundary));
        let newest = known.max_by_key(|route| route.region.epoch().version).cloned();
        let route = match newest {
            Some(route) => route,
            None => {
                let slot = Slot::new();
                self.outbox.wish(Wish::LookUp(boundary.to_vec(), slot.clone()));
                let route = slot.take().await?;
                self.routes.insert(route.region.id, route.clone());
                route
            }
        };
        let peer = match route.leader {
            Some(leader) => leader,
            None => self.chance.pick(&route.region.peers)?,
        };
        Some(Address::of(&route.region, peer))
    }

    /// Takes from an error where to ask next.
    fn learn(&mut self, region: u64, error: &skerry_kv::Error) {
        use skerry_kv::Error as Refused;
        self.count("txn: region error, asked again");
        match error {
            Refused::NotLeader { region_id, leader } => {
                if self.is_committing {
                    self.count("txn: leader changed in mid-commit");
                }
                if let Some(route) = self.routes.get_mut(region_id) {
                    route.leader = *leader;
                }
            }
            Refused::EpochNotMatch { current } => {
                if self.current.get() != Ts::ZERO {
                    self.count("txn: region split in mid-transaction");
                }
                self.routes.remove(&region);
                for region in current {
                    let route = Route { region: (**region).clone(), leader: None };
                    self.routes.insert(region.id, route);
                }
            }
            Refused::StaleCommand => self.count("txn: leader changed before a write"),
            Refused::NotNow(_) => {}
            _ => drop(self.routes.remove(&region)),
        }
        // What was told may be out of date itself; now and then the scheduler is asked again.
        if self.chance.percent(10) {
            self.routes.clear();
        }
    }
}
